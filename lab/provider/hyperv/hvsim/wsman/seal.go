package wsman

import (
	"bytes"
	"context"
	"crypto/hmac"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"

	"github.com/oiweiwei/go-msrpc/ssp/crypto"
	"github.com/oiweiwei/go-msrpc/ssp/ntlm"
)

// Messages over HTTP are sealed with the connection's NTLM session and put into
// a MIME envelope of their own kind (MS-WSMV 2.2.9.1.1).

const (
	sealedProtocol = "application/HTTP-SPNEGO-session-encrypted"
	sealedType     = `multipart/encrypted;protocol="` + sealedProtocol + `";boundary="Encrypted Boundary"`
	sealedBoundary = "--Encrypted Boundary\r\n"
	sealedEnd      = "--Encrypted Boundary--\r\n"
	sealedData     = "\tContent-Type: application/octet-stream\r\n"
)

// sealer seals what the server says and opens what the client says.
type sealer struct {
	in, out       *ntlm.Cipher
	inSeq, outSeq uint32
	keyExchange   bool
}

// newSealer derives the keys of a session (MS-NLMP 3.4.5.2, 3.4.5.3). Extended
// session security with 128-bit keys is asked of the client.
func newSealer(ctx context.Context, session []byte, flags ntlm.Flag) (*sealer, error) {
	const wanted = ntlm.NegotiateExtendedSessionSecurity | ntlm.Negotiate128 | ntlm.NegotiateSeal
	if flags&wanted != wanted {
		return nil, nil // logged on, but sealing is not possible
	}
	direction := func(name string) (*ntlm.Cipher, error) {
		sign, err := crypto.MD5(session, []byte("session key to "+name+" signing key magic constant\x00"))
		if err != nil {
			return nil, err
		}
		seal, err := crypto.MD5(session, []byte("session key to "+name+" sealing key magic constant\x00"))
		if err != nil {
			return nil, err
		}
		return ntlm.NewCipher(ctx, seal, ntlm.HMACMD5(sign))
	}
	s := &sealer{keyExchange: flags.IsSet(ntlm.NegotiateKeyExchange)}
	var err error
	if s.in, err = direction("client-to-server"); err != nil {
		return nil, err
	}
	s.out, err = direction("server-to-client")
	return s, err
}

// signature is that of MS-NLMP 3.4.4.2 over plain; the cipher goes on.
func (s *sealer) signature(ctx context.Context, c *ntlm.Cipher, seq uint32, plain []byte) ([]byte, error) {
	sum, err := c.Checksum(seq, plain)
	if err != nil {
		return nil, err
	}
	if s.keyExchange {
		if err := c.XORKeyStream(sum); err != nil {
			return nil, err
		}
	}
	return (&ntlm.Signature{Version: ntlm.SignatureVersion, Checksum: sum, SeqNum: seq}).Marshal(ctx)
}

// seal returns the HTTP body for plain.
func (s *sealer) seal(ctx context.Context, plain []byte) ([]byte, error) {
	sealed := append([]byte(nil), plain...)
	if err := s.out.XORKeyStream(sealed); err != nil {
		return nil, err
	}
	signature, err := s.signature(ctx, s.out, s.outSeq, plain)
	if err != nil {
		return nil, err
	}
	s.outSeq++
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s\tContent-Type: %s\r\n\tOriginalContent: type=%s;Length=%d\r\n%s%s",
		sealedBoundary, sealedProtocol, soapType, len(plain), sealedBoundary, sealedData)
	_ = binary.Write(&b, binary.LittleEndian, uint32(len(signature)))
	b.Write(signature)
	b.Write(sealed)
	b.WriteString(sealedEnd)
	return b.Bytes(), nil
}

var errSealed = errors.New("sealed message cannot be opened")

// open returns what the client sealed.
func (s *sealer) open(ctx context.Context, body []byte) ([]byte, error) {
	head, rest, ok := bytes.Cut(bytes.TrimPrefix(body, []byte(sealedBoundary)), []byte(sealedBoundary))
	if !ok {
		return nil, fmt.Errorf("%w: no second part", errSealed)
	}
	_, length, ok := bytes.Cut(head, []byte("Length="))
	if !ok {
		return nil, fmt.Errorf("%w: no length", errSealed)
	}
	want, err := strconv.Atoi(string(bytes.TrimSpace(length)))
	if err != nil {
		return nil, fmt.Errorf("%w: length: %v", errSealed, err)
	}
	data, ok := bytes.CutPrefix(rest, []byte(sealedData))
	if !ok || len(data) < 20 {
		return nil, fmt.Errorf("%w: no data", errSealed)
	}
	data = bytes.TrimSuffix(data, []byte(sealedEnd))
	if len(data) < 20 || binary.LittleEndian.Uint32(data) != 16 {
		return nil, fmt.Errorf("%w: no signature", errSealed)
	}
	signature, plain := data[4:20], append([]byte(nil), data[20:]...)
	if len(plain) != want {
		return nil, fmt.Errorf("%w: %d bytes where %d were said", errSealed, len(plain), want)
	}
	if err := s.in.XORKeyStream(plain); err != nil {
		return nil, err
	}
	expected, err := s.signature(ctx, s.in, s.inSeq, plain)
	if err != nil {
		return nil, err
	}
	if !hmac.Equal(signature, expected) {
		return nil, fmt.Errorf("%w: signature differs", errSealed)
	}
	s.inSeq++
	return plain, nil
}
