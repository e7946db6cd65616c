package powershell

import (
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"os"
	"strings"

	"github.com/bodgit/ntlmssp"
)

// parseFingerprint reads a certificate's SHA-256 in hex; colons and case do not matter.
func parseFingerprint(s string) ([]byte, error) {
	sum, err := hex.DecodeString(strings.ReplaceAll(s, ":", ""))
	if err != nil || len(sum) != sha256.Size {
		return nil, fmt.Errorf("certificate fingerprint %q is not a SHA-256 in hex (64 digits)", s)
	}
	return sum, nil
}

// tlsConfig trusts the pinned certificate alone, or what an authority signed
// for the host: those of CAFile, else the system's.
func (e Endpoint) tlsConfig() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: e.Host}
	if e.Fingerprint != "" {
		want, err := parseFingerprint(e.Fingerprint)
		if err != nil {
			return nil, err
		}
		// The usual verification is off because the check of the pin, which is
		// stricter, takes its place; it runs on resumed connections, too.
		c.InsecureSkipVerify = true
		c.VerifyConnection = func(s tls.ConnectionState) error { return checkPin(s, want) }
		return c, nil
	}
	if e.CAFile == "" {
		return c, nil
	}
	pem, err := os.ReadFile(e.CAFile)
	if err != nil {
		return nil, fmt.Errorf("certificate authorities: %w", err)
	}
	c.RootCAs = x509.NewCertPool()
	if !c.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("certificate authorities: no PEM certificate in %s", e.CAFile)
	}
	return c, nil
}

// ErrCertificate: the machine's certificate is another than the pinned one. It matches
// ErrUnreachable where it comes out of this package.
var ErrCertificate = errors.New("certificate is not the pinned one")

func checkPin(s tls.ConnectionState, want []byte) error {
	if len(s.PeerCertificates) == 0 {
		return ErrCertificate
	}
	got := sha256.Sum256(s.PeerCertificates[0].Raw)
	if string(got[:]) != string(want) {
		return fmt.Errorf("%w: its SHA-256 is %s", ErrCertificate, hex.EncodeToString(got[:]))
	}
	return nil
}

// bindings tie a logon to the TLS connection (RFC 5929 section 4.1), so that it
// is worth nothing elsewhere; services with CbtHardeningLevel Strict insist.
func bindings(s *tls.ConnectionState) *ntlmssp.ChannelBindings {
	if s == nil || len(s.PeerCertificates) == 0 {
		return nil
	}
	cert := s.PeerCertificates[0]
	var h hash.Hash
	switch cert.SignatureAlgorithm {
	case x509.SHA384WithRSA, x509.ECDSAWithSHA384, x509.SHA384WithRSAPSS:
		h = sha512.New384()
	case x509.SHA512WithRSA, x509.ECDSAWithSHA512, x509.SHA512WithRSAPSS:
		h = sha512.New()
	default: // SHA-256, and what RFC 5929 raises to it
		h = sha256.New()
	}
	h.Write(cert.Raw)
	return &ntlmssp.ChannelBindings{ApplicationData: append([]byte(ntlmssp.TLSServerEndPoint+":"), h.Sum(nil)...)}
}
