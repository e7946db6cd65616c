package probe

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"time"
)

const (
	// transferTimeout bounds a large transfer.
	transferTimeout = 60 * time.Second
	// socketBuffer bounds what is under way of a transfer: a veth's queue
	// holds 256 frames, and a frame lost there would not be the balancer's fault.
	socketBuffer = 64 << 10
	patternSeed  = 7
)

// pattern is what a backend's web server sends for /bytes: the first n bytes of
// the ChaCha8 stream of math/rand/v2 (C2SP chacha8rand), keyed with the seed as 8
// little-endian bytes and 24 zero bytes.
func pattern(n int64, seed uint64) io.Reader {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	return io.LimitReader(rand.NewChaCha8(key), n)
}

func hashOf(r io.Reader) (sum string, n int64, err error) {
	hash := sha256.New()
	n, err = io.Copy(hash, r)
	return hex.EncodeToString(hash.Sum(nil)), n, err
}

// transfer makes one large download and one large upload.
func (p *pass) transfer(ctx context.Context, plan plan, r *recorder) []Transfer {
	return []Transfer{
		p.download(ctx, plan, plan.download, p.pace(ctx, plan, r, plan.download, false)),
		p.upload(ctx, plan, plan.upload, p.pace(ctx, plan, r, plan.upload, true)),
	}
}

func (p *pass) download(ctx context.Context, plan plan, client netip.AddrPort, pace *pacer) Transfer {
	x := Transfer{Client: client, Bytes: p.options.TransferBytes}
	var err error
	if x.SentSum, _, err = hashOf(pattern(x.Bytes, patternSeed)); err != nil {
		x.Err = fmt.Errorf("compute what must arrive: %w", err)
		return x
	}
	begun := time.Now()
	x.Client, x.Err = p.large(ctx, plan, client, func(conn net.Conn) error {
		return p.roundTrip(conn, http.MethodGet, fmt.Sprintf("/bytes?n=%d&seed=%d", x.Bytes, patternSeed), nil, 0,
			func(r *http.Response) (err error) {
				x.ReceivedSum, x.ReceivedBytes, err = hashOf(pace.reader(r.Body))
				return err
			})
	})
	x.Took = time.Since(begun)
	return x
}

func (p *pass) upload(ctx context.Context, plan plan, client netip.AddrPort, pace *pacer) Transfer {
	x := Transfer{Upload: true, Client: client, Bytes: p.options.TransferBytes}
	sent := sha256.New()
	var got struct {
		Bytes  int64  `json:"bytes"`
		SHA256 string `json:"sha256"`
	}
	begun := time.Now()
	x.Client, x.Err = p.large(ctx, plan, client, func(conn net.Conn) error {
		body := io.TeeReader(pace.reader(pattern(x.Bytes, patternSeed+1)), sent)
		return p.roundTrip(conn, http.MethodPost, "/sink", body, x.Bytes, func(r *http.Response) error {
			return json.NewDecoder(io.LimitReader(r.Body, 1<<16)).Decode(&got)
		})
	})
	x.Took = time.Since(begun)
	x.SentSum = hex.EncodeToString(sent.Sum(nil))
	x.ReceivedBytes, x.ReceivedSum = got.Bytes, got.SHA256
	return x
}

// large runs a transfer on a connection that keeps little under way. It returns the
// client whose connection that was, which goes to the same backend as the one asked for.
func (p *pass) large(ctx context.Context, plan plan, client netip.AddrPort, run func(net.Conn) error) (netip.AddrPort, error) {
	ctx, cancel := context.WithTimeout(ctx, transferTimeout)
	defer cancel()
	var conn net.Conn
	var err error
	p.fromFree(ctx, plan, client, func(from netip.AddrPort) error {
		connecting, connected := context.WithTimeout(ctx, p.options.Timeout)
		defer connected()
		client = from
		conn, err = p.dial(connecting, from)
		return err
	})
	if err != nil {
		return client, err
	}
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return client, errors.Join(err, conn.Close())
	}
	if tcp, ok := conn.(interface {
		SetReadBuffer(bytes int) error
		SetWriteBuffer(bytes int) error
	}); ok {
		if err := errors.Join(tcp.SetReadBuffer(socketBuffer), tcp.SetWriteBuffer(socketBuffer)); err != nil {
			return client, errors.Join(fmt.Errorf("bound the socket's buffers: %w", err), conn.Close())
		}
	}
	return client, run(conn)
}
