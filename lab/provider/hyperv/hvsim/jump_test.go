package hvsim

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

func clientKey(t *testing.T, h *Host) ssh.Signer {
	t.Helper()
	text, err := os.ReadFile(h.Endpoint().SSH.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.ParsePrivateKey(text)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newSigner(t *testing.T) ssh.Signer {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// jumpOver logs on to the host's SSH server, whose key is pinned.
func jumpOver(t *testing.T, h *Host, user string, auth ...ssh.AuthMethod) (*ssh.Client, error) {
	t.Helper()
	e := h.Endpoint().SSH
	pinned, _, _, _, err := ssh.ParseAuthorizedKey([]byte(e.HostKey))
	if err != nil {
		t.Fatal(err)
	}
	return ssh.Dial("tcp", net.JoinHostPort(e.Host, strconv.Itoa(e.Port)), &ssh.ClientConfig{User: user, Auth: auth, HostKeyCallback: ssh.FixedHostKey(pinned)})
}

func TestTheJumpForwardsConnectionsAndPassesOnTheirEnds(t *testing.T) {
	h := startHost(t, Options{})
	c, err := jumpOver(t, h, DefaultUser, ssh.PublicKeys(clientKey(t, h)))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	conn, err := c.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(echoServer(t))))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	want := noise(1 << 20)
	go func() {
		_, _ = conn.Write(want)
		_ = conn.(interface{ CloseWrite() error }).CloseWrite()
	}()
	var got bytes.Buffer
	if _, err := got.ReadFrom(conn); err != nil || !bytes.Equal(got.Bytes(), want) {
		t.Errorf("got %d bytes of %d, %v", got.Len(), len(want), err)
	}
	if _, err := c.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(freePort(t)))); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("a port that nobody listens at: %v", err)
	}
	if _, err := c.Dial("tcp", "192.0.2.1:22"); err == nil {
		t.Error("it reached what lies beyond the host")
	}
}

func TestTheJumpDoesNothingElse(t *testing.T) {
	h := startHost(t, Options{})
	c, err := jumpOver(t, h, DefaultUser, ssh.PublicKeys(clientKey(t, h)))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.NewSession(); err == nil || !strings.Contains(err.Error(), "does nothing else") {
		t.Errorf("a session: %v", err)
	}
	if _, err := c.Listen("tcp", "127.0.0.1:0"); err == nil {
		t.Error("it forwards ports of its own")
	}
}

func TestTheJumpLetsInWhoHasAKeyAlone(t *testing.T) {
	mine := newSigner(t)
	h := startHost(t, Options{AuthorizedKeys: []string{string(ssh.MarshalAuthorizedKey(mine.PublicKey()))}})
	for name, c := range map[string]struct {
		user string
		auth ssh.AuthMethod
		in   bool
	}{
		"a key that was named": {DefaultUser, ssh.PublicKeys(mine), true},
		"another key":          {DefaultUser, ssh.PublicKeys(newSigner(t)), false},
		"another user":         {"root", ssh.PublicKeys(mine), false},
		"WinRM's password":     {DefaultUser, ssh.Password(h.Endpoint().Password), false},
	} {
		t.Run(name, func(t *testing.T) {
			client, err := jumpOver(t, h, c.user, c.auth)
			if (err == nil) != c.in {
				t.Errorf("got %v", err)
			}
			if err == nil {
				client.Close()
			}
		})
	}
}

func TestAHostThatClosesCutsItsJump(t *testing.T) {
	h := startHost(t, Options{})
	c, err := jumpOver(t, h, DefaultUser, ssh.PublicKeys(clientKey(t, h)))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := c.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(echoServer(t))))
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("the connection goes on")
	}
	if err := c.Wait(); err == nil {
		t.Error("the client was not cut")
	}
}
