package powershell

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"regexp"
	"strconv"

	"github.com/bodgit/ntlmssp"
)

// Over HTTP every message is sealed by the connection's NTLM session and put
// into a MIME envelope (MS-WSMV 2.2.9.1.1). The session is bodgit/ntlmssp's,
// which winrm.NewEncryption("ntlm") stands on, too; that one is not used,
// because where its logon fails it sends the message in the clear, and it logs
// on anew for each message over connections that others may take. ntlmssp's own
// envelope is not used either: it reads sealed bytes as lines of text, and
// loses those that look like an empty line or a header.

const (
	sealedProtocol = "application/HTTP-SPNEGO-session-encrypted"
	sealedType     = `multipart/encrypted;protocol="` + sealedProtocol + `";boundary="Encrypted Boundary"`
	sealedData     = "\tContent-Type: application/octet-stream\r\n"
	signatureSize  = 16
)

var (
	// Some services write a space behind the dashes.
	sealedBoundary = regexp.MustCompile(`--\s?Encrypted Boundary\r\n`)
	sealedEnd      = regexp.MustCompile(`--\s?Encrypted Boundary--\r\n$`)
	sealedLength   = regexp.MustCompile(`Length=(\d+)`)

	errSealed = errors.New("sealed answer cannot be opened")
)

func seal(s *ntlmssp.SecuritySession, plain []byte) ([]byte, error) {
	sealed, signature, err := s.Wrap(plain)
	if err != nil {
		return nil, err
	}
	if len(signature) != signatureSize || bytes.Equal(sealed, plain) {
		return nil, errors.New("the machine did not agree to seal messages")
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "--Encrypted Boundary\r\n\tContent-Type: %s\r\n\tOriginalContent: type=%s;Length=%d\r\n--Encrypted Boundary\r\n%s",
		sealedProtocol, soapType, len(plain), sealedData)
	_ = binary.Write(&b, binary.LittleEndian, uint32(len(signature)))
	b.Write(signature)
	b.Write(sealed)
	b.WriteString("--Encrypted Boundary--\r\n")
	return b.Bytes(), nil
}

// open returns what the machine sealed; a large answer may come in several parts.
func open(s *ntlmssp.SecuritySession, body []byte) ([]byte, error) {
	body = body[:len(body)-len(sealedEnd.Find(body))]
	var plain []byte
	for len(body) > 0 {
		at := sealedBoundary.FindIndex(body)
		if at == nil || at[0] != 0 {
			return nil, fmt.Errorf("%w: no boundary", errSealed)
		}
		body = body[at[1]:]
		length := sealedLength.FindSubmatch(body[:min(len(body), 512)])
		if length == nil {
			return nil, fmt.Errorf("%w: no length", errSealed)
		}
		n, err := strconv.Atoi(string(length[1]))
		data := bytes.Index(body, []byte(sealedData))
		if err != nil || data < 0 {
			return nil, fmt.Errorf("%w: no data", errSealed)
		}
		body = body[data+len(sealedData):]
		if len(body) < 4+signatureSize || binary.LittleEndian.Uint32(body) != signatureSize || n > len(body)-4-signatureSize {
			return nil, fmt.Errorf("%w: %d bytes where %d were said", errSealed, len(body), n)
		}
		part, err := s.Unwrap(body[4+signatureSize:4+signatureSize+n], body[4:4+signatureSize])
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errSealed, err)
		}
		plain = append(plain, part...)
		body = body[4+signatureSize+n:]
	}
	return plain, nil
}
