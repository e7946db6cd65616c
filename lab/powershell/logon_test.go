package powershell_test

import (
	"bytes"
	"context"
	"net"
	"sync/atomic"
	"testing"

	"l4lab/lab/powershell"
)

// closing has the answer with NTLM's challenge end its connection, some times.
type closing struct {
	net.Conn
	times *atomic.Int32
	held  bytes.Buffer
}

func (c *closing) Read(p []byte) (int, error) {
	if c.held.Len() == 0 {
		b := make([]byte, 64<<10)
		n, err := c.Conn.Read(b)
		if err != nil {
			return 0, err
		}
		if b = b[:n]; bytes.Contains(b, []byte("Negotiate TlRMTVNT")) && c.times.Add(-1) >= 0 {
			b = bytes.Replace(b, []byte("\r\n\r\n"), []byte("\r\nConnection: close\r\n\r\n"), 1)
		}
		c.held.Write(b)
	}
	return c.held.Read(p)
}

func TestALogonThatLosesItsConnectionIsBegunAgain(t *testing.T) {
	for name, c := range map[string]struct {
		times int32
		want  bool
	}{"once": {1, true}, "each time": {100, false}} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, true, nil)
			var times atomic.Int32
			times.Store(c.times)
			h.endpoint.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
				conn, err := new(net.Dialer).DialContext(ctx, network, address)
				return &closing{Conn: conn, times: &times}, err
			}
			r, err := powershell.Connect(t.Context(), h.endpoint)
			if (err == nil) != c.want {
				t.Fatalf("Connect: %v", err)
			}
			if err == nil {
				if err := r.Close(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
}
