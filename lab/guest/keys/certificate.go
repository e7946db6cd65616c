package keys

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"time"
)

// Certificate is a server's certificate with its key, which no authority signed:
// who connects knows it by its Fingerprint. Printed or logged it shows that alone.
type Certificate struct {
	key  *rsa.PrivateKey
	leaf *x509.Certificate
}

// rsaBits is the size of a certificate's key. RSA, since every release of Windows
// that serves WinRM takes it.
const rsaBits = 2048

// Server returns the certificate of a node's HTTPS server, whose common name is the
// node's, made when it is missing.
func Server(labDir, node string) (Certificate, error) {
	if !nodeName.MatchString(node) {
		return Certificate{}, fmt.Errorf("certificate of %q: this is no node's name", node)
	}
	path := filepath.Join(labDir, Folder, "tls-"+node)
	c, err := readCertificate(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return c, err
	}
	text, err := issue(node, time.Now())
	if err == nil {
		err = place(path, text)
	}
	if err != nil {
		return Certificate{}, fmt.Errorf("make the certificate %s: %w", path, err)
	}
	return readCertificate(path)
}

// issue makes a key and its certificate, as PEM.
func issue(node string, now time.Time) ([]byte, error) {
	key, err := rsa.GenerateKey(rand.Reader, rsaBits)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	template := x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: node}, DNSNames: []string{node},
		// A guest's clock may be off by a time zone at its first start.
		NotBefore: now.Add(-48 * time.Hour), NotAfter: now.AddDate(10, 0, 0),
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})
	return append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...), nil
}

func readCertificate(path string) (Certificate, error) {
	data, err := readPrivate(path)
	if err != nil {
		return Certificate{}, err
	}
	pair, err := tls.X509KeyPair(data, data)
	if err != nil {
		return Certificate{}, fmt.Errorf("the certificate %s cannot be used: %w; remove it, then `labctl up --fresh` makes another", path, err)
	}
	key, ok := pair.PrivateKey.(*rsa.PrivateKey)
	if !ok {
		return Certificate{}, fmt.Errorf("the certificate %s has a key of type %T", path, pair.PrivateKey)
	}
	return Certificate{key: key, leaf: pair.Leaf}, nil
}

// readPrivate reads a file of keys, unless others can.
func readPrivate(path string) ([]byte, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read the key %s: %w", path, err)
	}
	if !private(st.Mode()) {
		return nil, fmt.Errorf("the key %s can be read by others (mode %04o): it is not safe to use any more; remove it, then `labctl up --fresh` makes another", path, st.Mode().Perm())
	}
	return os.ReadFile(path)
}

// Fingerprint is the SHA-256 of the certificate, in hex.
func (c Certificate) Fingerprint() string {
	sum := sha256.Sum256(c.leaf.Raw)
	return hex.EncodeToString(sum[:])
}

// Leaf is the certificate itself, which is no secret.
func (c Certificate) Leaf() *x509.Certificate { return c.leaf }

// Key is its private key: a secret.
func (c Certificate) Key() *rsa.PrivateKey { return c.key }

// Pair is the certificate as a server of Go's takes it: a secret.
func (c Certificate) Pair() tls.Certificate {
	return tls.Certificate{Certificate: [][]byte{c.leaf.Raw}, PrivateKey: c.key, Leaf: c.leaf}
}

// String is the fingerprint.
func (c Certificate) String() string { return "certificate " + c.Fingerprint() }

// GoString is the fingerprint, so that %#v shows no secret either.
func (c Certificate) GoString() string { return fmt.Sprintf("keys.Certificate(%q)", c.Fingerprint()) }

// LogValue is the fingerprint.
func (c Certificate) LogValue() slog.Value { return slog.StringValue(c.String()) }
