package bpf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// forwardable is the tests' own reading of an IPv4 frame: what speaks against
// sending it on to a backend or a client. RFC numbers are those of the rules.
func forwardable(frame []byte) error {
	header, length, err := ip4Header(frame)
	if err != nil {
		return err
	}
	if frame[22] <= 1 {
		return fmt.Errorf("a TTL of %d (1812)", frame[22])
	}
	fragment := binary.BigEndian.Uint16(frame[20:])
	more, offset := fragment&0x2000 != 0, int(fragment&0x1fff)*8
	l4 := frame[14+header : 14+length]
	switch {
	case more && (len(l4)%8 != 0 || len(l4) == 0):
		return fmt.Errorf("a fragment of %d bytes that more follow (791)", len(l4))
	case offset+length > 65535:
		return errors.New("a fragment beyond the longest packet (791)")
	}
	switch frame[23] {
	case 1:
		if more || offset > 0 {
			return errors.New("a fragment of ICMP")
		}
		return quoting(l4)
	case 6:
		if offset > 0 {
			if offset < 20 {
				return errors.New("a fragment inside the TCP header (1858)")
			}
			return nil
		}
		if len(l4) < 20 || int(l4[12]>>4)*4 < 20 || int(l4[12]>>4)*4 > len(l4) {
			return errors.New("a TCP header that is not whole (9293)")
		}
		return nil
	case 17:
		if offset > 0 {
			return nil
		}
		if len(l4) < 8 {
			return errors.New("a UDP header that is not whole (768)")
		}
		if n := int(binary.BigEndian.Uint16(l4[4:])); n < 8 || n > len(l4) && !more {
			return fmt.Errorf("a UDP length of %d (768)", n)
		}
		return nil
	}
	return fmt.Errorf("protocol %d", frame[23])
}

// quoting wants an ICMP error that quotes TCP or UDP as far as its ports.
func quoting(message []byte) error {
	if len(message) < 8+20+8 || message[0] != 3 && message[0] != 11 && message[0] != 12 {
		return errors.New("ICMP that is no error (792)")
	}
	quote := message[8:]
	header := int(quote[0]&15) * 4
	if quote[0]>>4 != 4 || header < 20 || len(quote) < header+8 || binary.BigEndian.Uint16(quote[6:])&0x1fff != 0 {
		return errors.New("an ICMP error that quotes no first bytes of a packet (792)")
	}
	if quote[9] != 6 && quote[9] != 17 {
		return fmt.Errorf("an ICMP error about protocol %d", quote[9])
	}
	return nil
}

func ip4Header(frame []byte) (header, length int, err error) {
	if len(frame) < 34 || binary.BigEndian.Uint16(frame[12:]) != 0x0800 || frame[14]>>4 != 4 {
		return 0, 0, errors.New("no IPv4")
	}
	header, length = int(frame[14]&15)*4, int(binary.BigEndian.Uint16(frame[16:]))
	if header < 20 || length < header || 14+length > len(frame) {
		return 0, 0, errors.New("an IHL or a total length that lies (791)")
	}
	return header, length, nil
}

// summed says whether a frame's IPv4 header and what is behind it are summed right;
// one bit of a packet changed in between changes that.
func summed(frame []byte) (ip, l4 bool) {
	header, length, err := ip4Header(frame)
	if err != nil {
		return false, false
	}
	payload := frame[14+header : 14+length]
	pseudo := uint32(0)
	if frame[23] != 1 {
		pseudo = sumWords(frame[26:34], uint32(frame[23])+uint32(len(payload)))
	}
	return sumWords(frame[14:14+header], 0) == 0xffff, sumWords(payload, pseudo) == 0xffff
}

// encapsulation says what is wrong with a frame that DSR made of another one.
func encapsulation(in, out []byte) error {
	ip, _ := summed(out)
	switch {
	case !bytes.Equal(out[34:], in[14:]):
		return errors.New("encapsulation changed the packet")
	case !ip || out[14] != 0x45 || out[23] != 4 || out[15] != in[15]:
		return errors.New("the outer header is wrong")
	case int(binary.BigEndian.Uint16(out[16:])) != int(binary.BigEndian.Uint16(in[16:]))+20:
		return errors.New("the outer length is wrong")
	}
	return nil
}

// translation says what is wrong with a frame that SNAT made of another one: what
// it must not change, and checksums that are right where they had been wrong or wrong
// where they had been right.
func translation(in, out []byte) error {
	header, length, err := ip4Header(in)
	if err != nil {
		return err
	}
	ip, l4 := summed(in)
	ipNow, l4Now := summed(out)
	fragment := binary.BigEndian.Uint16(in[20:])
	first, last := fragment&0x1fff == 0, fragment&0x2000 == 0
	unsummed := in[23] == 17 && first && binary.BigEndian.Uint16(in[14+header+6:]) == 0
	switch {
	case out[22] != in[22]-1:
		return fmt.Errorf("a TTL of %d became %d", in[22], out[22])
	case ip != ipNow:
		return fmt.Errorf("the IP checksum was right: %v, is right: %v", ip, ipNow)
	case first && last && !unsummed && l4 != l4Now:
		return fmt.Errorf("the transport's checksum was right: %v, is right: %v", l4, l4Now)
	}
	// From here on the bytes that may change are made equal.
	was, is := bytes.Clone(in), bytes.Clone(out)
	free := func(from, to int) { copy(is[from:to], was[from:to]) }
	free(0, 12)
	free(22, 23)
	free(24, 34)
	at := 14 + header
	switch {
	case in[23] == 1: // the quote's addresses, ports and checksums
		free(at+2, at+4)
		quote := at + 8
		ports := quote + int(in[quote]&15)*4
		free(quote+10, quote+20)
		free(ports, ports+4)
		if sum := map[byte]int{6: 16, 17: 6}[in[quote+9]]; ports+sum+2 <= 14+length {
			free(ports+sum, ports+sum+2)
		}
	case first:
		free(at, at+4)
		sum := map[byte]int{6: 16, 17: 6}[in[23]]
		free(at+sum, at+sum+2)
		if in[23] == 6 && in[at+13]&2 != 0 { // a SYN's MSS
			free(at+20, at+int(in[at+12]>>4)*4)
		}
	}
	if unsummed && binary.BigEndian.Uint16(out[at+6:]) != 0 {
		return errors.New("a datagram without a checksum got one")
	}
	if !bytes.Equal(was, is) {
		return errors.New("translation changed what it is not to change")
	}
	return nil
}

// echo says what is wrong with the answer to an echo request.
func echo(in, out []byte) error {
	want := bytes.Clone(in)
	copy(want[0:6], in[6:12])
	copy(want[6:12], in[0:6])
	copy(want[26:30], in[30:34])
	copy(want[30:34], in[26:30])
	at := 14 + int(in[14]&15)*4
	want[22], want[at] = 64, 0
	copy(want[24:26], out[24:26])
	copy(want[at+2:at+4], out[at+2:at+4])
	ip, l4 := summed(in)
	ipNow, l4Now := summed(out)
	switch {
	case !bytes.Equal(want, out):
		return errors.New("the answer is not the request with its ends exchanged")
	case ip != ipNow || l4 != l4Now:
		return errors.New("the answer's checksums are not as right as the request's")
	}
	return nil
}
