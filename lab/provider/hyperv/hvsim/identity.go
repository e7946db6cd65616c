package hvsim

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/ssh"

	"l4lab/lab/provider/hyperv/hvsim/wsman"
	"l4lab/lab/state"
)

// identity is what a host is known by, kept in its folder so that a restarted
// host is known again.
type identity struct {
	certificate tls.Certificate
	fingerprint string
	host        ssh.Signer
	// client is the public half of the key that the endpoint hands out.
	client                    ssh.PublicKey
	passwordFile, clientFile  string
	certificateFile, hostFile string
}

func openIdentity(dir string) (identity, error) {
	id := identity{
		passwordFile: filepath.Join(dir, "password"), certificateFile: filepath.Join(dir, "winrm.pem"),
		hostFile: filepath.Join(dir, "ssh_host_ed25519_key"), clientFile: filepath.Join(dir, "ssh_client_ed25519_key"),
	}
	if err := id.openCertificate(); err != nil {
		return id, fmt.Errorf("certificate of the simulated host: %w", err)
	}
	var err error
	if id.host, err = openKey(id.hostFile, "simulated host"); err != nil {
		return id, fmt.Errorf("SSH key of the simulated host: %w", err)
	}
	client, err := openKey(id.clientFile, "client of a simulated host")
	if err != nil {
		return id, fmt.Errorf("SSH key for clients of the simulated host: %w", err)
	}
	id.client = client.PublicKey()
	return id, nil
}

func (id *identity) openCertificate() error {
	text, err := os.ReadFile(id.certificateFile)
	if errors.Is(err, fs.ErrNotExist) {
		text, err = newCertificate()
		if err == nil {
			err = state.WriteFile(id.certificateFile, text, 0o600)
		}
	}
	if err != nil {
		return err
	}
	if id.certificate, err = tls.X509KeyPair(text, text); err != nil {
		return err
	}
	sum := sha256.Sum256(id.certificate.Certificate[0])
	id.fingerprint = hex.EncodeToString(sum[:])
	return nil
}

func newCertificate() ([]byte, error) {
	cert, _, err := wsman.SelfSigned("127.0.0.1", "::1", "localhost", strings.ToLower(computerName))
	if err != nil {
		return nil, err
	}
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		return nil, err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]})
	return append(text, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})...), nil
}

// openKey reads an SSH key, or makes one.
func openKey(path, comment string) (ssh.Signer, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		text, err = newKey(comment)
		if err == nil {
			err = state.WriteFile(path, text, 0o600)
		}
	}
	if err != nil {
		return nil, err
	}
	return ssh.ParsePrivateKey(text)
}

func newKey(comment string) ([]byte, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	block, err := ssh.MarshalPrivateKey(key, comment)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(block), nil
}

// password returns the first user's, and has it in the file that the endpoint names.
func (id *identity) password(users []Login) (Login, error) {
	if len(users) > 0 {
		return users[0], state.WriteFile(id.passwordFile, []byte(users[0].Password+"\n"), 0o600)
	}
	text, err := os.ReadFile(id.passwordFile)
	if errors.Is(err, fs.ErrNotExist) {
		text = []byte(rand.Text() + "\n")
		err = state.WriteFile(id.passwordFile, text, 0o600)
	}
	return Login{DefaultUser, strings.TrimSuffix(string(text), "\n")}, err
}
