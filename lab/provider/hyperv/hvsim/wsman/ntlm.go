package wsman

import (
	"context"
	"crypto/hmac"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
	"unicode/utf16"

	"github.com/oiweiwei/go-msrpc/ssp/crypto"
	"github.com/oiweiwei/go-msrpc/ssp/ntlm"

	"l4lab/lab/powershell"
)

// The server's side of NTLM version 2 (MS-NLMP). No kept Go library has it:
// go-ntlm (ThomsonReutersEikon, vadimi) has, was last released in 2021, logs
// user names to standard error and panics on malformed messages. So the
// computations are those of go-msrpc (NTOWFv2, HMAC-MD5, RC4, the sealing
// cipher and the challenge), and what is here compares and orders them.

var errLogon = errors.New("logon failure")

const (
	ntlmSignature = "NTLMSSP\x00"
	// micOffset is where AUTHENTICATE_MESSAGE has its integrity code when its
	// header has room for it (MS-NLMP 2.2.1.3).
	micOffset, micLength = 72, 16
)

// offered is what this side can do; of optional, what the client can, too (MS-NLMP 2.2.2.5).
const optional = ntlm.NegotiateSign | ntlm.NegotiateSeal | ntlm.Negotiate128 | ntlm.NegotiateKeyExchange | ntlm.Negotiate56
const offered = ntlm.NegotiateUnicode | ntlm.RequestTarget | ntlm.NegotiateSign | ntlm.NegotiateSeal |
	ntlm.NegotiateNTLM | ntlm.NegotiateAlwaysSign | ntlm.TargetTypeServer | ntlm.NegotiateExtendedSessionSecurity |
	ntlm.NegotiateTargetInfo | ntlm.NegotiateVersion | ntlm.Negotiate128 | ntlm.NegotiateKeyExchange | ntlm.Negotiate56

// handshake is one logon under way on a connection.
type handshake struct {
	negotiate, challenge []byte
	nonce                []byte
}

// challengeTo answers a NEGOTIATE_MESSAGE.
func challengeTo(ctx context.Context, negotiate []byte) (*handshake, error) {
	if len(negotiate) < 16 || string(negotiate[:8]) != ntlmSignature || messageType(negotiate) != 1 {
		return nil, fmt.Errorf("not an NTLM negotiate message (%d bytes)", len(negotiate))
	}
	nonce, err := crypto.Nonce(8)
	if err != nil {
		return nil, err
	}
	const name = "HVSIM"
	m := ntlm.ChallengeMessage{
		Negotiate:       offered &^ (optional &^ ntlm.Flag(binary.LittleEndian.Uint32(negotiate[12:]))),
		ServerChallenge: nonce,
		TargetName:      name,
		TargetInfo: ntlm.AttrValues{
			ntlm.AttrNetBIOSDomainName:   {NetBIOSDomainName: name},
			ntlm.AttrNetBIOSComputerName: {NetBIOSComputerName: name},
			ntlm.AttrDNSComputerName:     {DNSComputerName: name},
			// With a timestamp clients add an integrity code of all three messages.
			ntlm.AttrTimestamp: {Timestamp: ntlm.TimeToFiletime(time.Now())},
		},
	}
	challenge, err := m.Marshal(ctx)
	if err != nil {
		return nil, fmt.Errorf("make the challenge: %w", err)
	}
	return &handshake{negotiate: negotiate, challenge: challenge, nonce: nonce}, nil
}

func messageType(m []byte) uint32 { return binary.LittleEndian.Uint32(m[8:]) }

// authenticateMessage is what a client proves itself with (MS-NLMP 2.2.1.3).
type authenticateMessage struct {
	response, sessionKey []byte
	user, domain         string
	flags                ntlm.Flag
	hasMIC               bool
}

func parseAuthenticate(b []byte) (authenticateMessage, error) {
	var m authenticateMessage
	if len(b) < 64 || string(b[:8]) != ntlmSignature || messageType(b) != 3 {
		return m, fmt.Errorf("not an NTLM authenticate message (%d bytes)", len(b))
	}
	first := len(b)
	field := func(at int) ([]byte, error) {
		length, offset := int(binary.LittleEndian.Uint16(b[at:])), uint64(binary.LittleEndian.Uint32(b[at+4:]))
		if length == 0 {
			return nil, nil
		}
		if offset+uint64(length) > uint64(len(b)) {
			return nil, fmt.Errorf("NTLM message of %d bytes has a field at %d of %d", len(b), offset, length)
		}
		first = min(first, int(offset))
		return b[offset : int(offset)+length], nil
	}
	var fields [6][]byte // LM, NT, domain, user, workstation, session key
	for i := range fields {
		var err error
		if fields[i], err = field(12 + 8*i); err != nil {
			return m, err
		}
	}
	m.response, m.sessionKey = fields[1], fields[5]
	m.domain, m.user = fromUTF16(fields[2]), fromUTF16(fields[3])
	m.flags = ntlm.Flag(binary.LittleEndian.Uint32(b[60:]))
	m.hasMIC = first >= micOffset+micLength
	return m, nil
}

func fromUTF16(b []byte) string {
	units := make([]uint16, len(b)/2)
	for i := range units {
		units[i] = binary.LittleEndian.Uint16(b[2*i:])
	}
	return string(utf16.Decode(units))
}

// account is a user as go-msrpc wants it; Domain is what the client said.
type account struct {
	user, domain string
	password     powershell.Password
}

func (a account) UserName() string    { return a.user }
func (a account) DomainName() string  { return a.domain }
func (a account) Workstation() string { return "" }
func (a account) Password() string    { return string(a.password) }

// authenticate checks an AUTHENTICATE_MESSAGE against the user's password and
// returns the user and what seals the connection's messages from now on.
func (h *handshake) authenticate(ctx context.Context, message []byte, password func(user string) (powershell.Password, bool)) (string, *sealer, error) {
	m, err := parseAuthenticate(message)
	if err != nil {
		return "", nil, err
	}
	secret, known := password(m.user)
	key, err := (&ntlm.V2{}).NTOWF(ctx, account{user: m.user, domain: m.domain, password: secret})
	if err != nil {
		return "", nil, fmt.Errorf("key of the user: %w", err)
	}
	if len(m.response) <= 24 { // NTLM version 1, which is not accepted
		return "", nil, errLogon
	}
	proof, blob := m.response[:16], m.response[16:]
	want, err := crypto.HMACMD5(key, h.nonce, blob)
	if err != nil {
		return "", nil, err
	}
	if !hmac.Equal(proof, want) || !known {
		return "", nil, errLogon
	}
	session, err := h.sessionKey(ctx, m, key, proof)
	if err != nil {
		return "", nil, err
	}
	if m.hasMIC {
		if err := h.checkIntegrity(message, session); err != nil {
			return "", nil, err
		}
	}
	s, err := newSealer(ctx, session, m.flags)
	return m.user, s, err
}

// sessionKey is ExportedSessionKey of MS-NLMP 3.2.5.1.2.
func (h *handshake) sessionKey(ctx context.Context, m authenticateMessage, key, proof []byte) ([]byte, error) {
	base, err := crypto.HMACMD5(key, proof)
	if err != nil || !m.flags.IsSet(ntlm.NegotiateKeyExchange) {
		return base, err
	}
	if len(m.sessionKey) != 16 {
		return nil, fmt.Errorf("session key of %d bytes", len(m.sessionKey))
	}
	return ntlm.RC4K(ctx, base, m.sessionKey)
}

func (h *handshake) checkIntegrity(message, session []byte) error {
	plain := append([]byte(nil), message...)
	code := append([]byte(nil), plain[micOffset:micOffset+micLength]...)
	clear(plain[micOffset : micOffset+micLength])
	want, err := crypto.HMACMD5(session, h.negotiate, h.challenge, plain)
	if err != nil {
		return err
	}
	if !hmac.Equal(code, want) {
		return fmt.Errorf("integrity code of the handshake: %w", errLogon)
	}
	return nil
}
