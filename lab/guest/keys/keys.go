// Package keys makes and keeps the secrets of a lab: the ed25519 key that labctl
// logs in with, one for each node's SSH server, which is given to the node and
// pinned, so that nobody is trusted on first use, and for nodes that run Windows a
// certificate of the WinRM server, pinned likewise, and the administrator's password.
//
//	client, err := keys.Client(lab.Dir)
//	host, err := keys.Host(lab.Dir, "be3")
//	server, err := keys.Server(lab.Dir, "be1")
//	password, err := keys.Password(lab.Dir, "windows-password")
//
// A key that is there is never made anew: its file (OpenSSH's format, mode
// 0600) appears whole, and of two processes that make it at once one wins.
package keys

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"

	"golang.org/x/crypto/ssh"
)

// Folder is where a lab's folder keeps its keys.
const Folder = "keys"

// Key is a key pair. Printed or logged it shows its public half alone.
type Key struct {
	private []byte
	signer  ssh.Signer
	public  string
}

// Client returns the key that labctl logs in with, made when it is missing.
func Client(labDir string) (Key, error) { return ensure(labDir, "client") }

var nodeName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

// Host returns the host key of a node's SSH server, made when it is missing.
func Host(labDir, node string) (Key, error) {
	if !nodeName.MatchString(node) {
		return Key{}, fmt.Errorf("host key of %q: this is no node's name", node)
	}
	return ensure(labDir, "host-"+node)
}

// Parse reads a private key in OpenSSH's format.
func Parse(private []byte, comment string) (Key, error) {
	signer, err := ssh.ParsePrivateKey(private)
	if err != nil {
		return Key{}, err
	}
	line := bytes.TrimSpace(ssh.MarshalAuthorizedKey(signer.PublicKey()))
	return Key{private: private, signer: signer, public: string(line) + " " + comment}, nil
}

// Private is the private key in OpenSSH's format: a secret.
func (k Key) Private() []byte { return bytes.Clone(k.private) }

// Public is the line of an authorized_keys or known_hosts file, without names of hosts.
func (k Key) Public() string { return k.public }

// Signer signs with the key.
func (k Key) Signer() ssh.Signer { return k.signer }

// Fingerprint is what ssh-keygen -l prints: "SHA256:…".
func (k Key) Fingerprint() string { return ssh.FingerprintSHA256(k.signer.PublicKey()) }

// String is the public half.
func (k Key) String() string { return k.public }

// GoString is the public half, so that %#v shows no secret either.
func (k Key) GoString() string { return fmt.Sprintf("keys.Key(%q)", k.public) }

// LogValue is the public half.
func (k Key) LogValue() slog.Value { return slog.StringValue(k.public) }

func ensure(labDir, name string) (Key, error) {
	path := filepath.Join(labDir, Folder, name)
	key, err := read(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	if err := generate(path); err != nil {
		return Key{}, fmt.Errorf("make the key %s: %w", path, err)
	}
	return read(path)
}

func read(path string) (Key, error) {
	data, err := readPrivate(path)
	if err != nil {
		return Key{}, err
	}
	key, err := Parse(data, "l4lab-"+filepath.Base(path))
	if err != nil {
		return Key{}, fmt.Errorf("the key %s cannot be used: %w; remove it, then `labctl up --fresh` makes another", path, err)
	}
	return key, nil
}

// generate makes a key and keeps it.
func generate(path string) error {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	block, err := ssh.MarshalPrivateKey(private, "l4lab-"+filepath.Base(path))
	if err != nil {
		return err
	}
	return place(path, pem.EncodeToMemory(block))
}

// place writes a new file beside its place and links it there, which fails when
// another process was first: then its file is the one.
func place(path string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	draft, err := os.CreateTemp(filepath.Dir(path), ".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(draft.Name())
	_, err = draft.Write(content)
	if err == nil {
		err = draft.Sync()
	}
	if closeErr := draft.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	if err := os.Link(draft.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}
