package bpf

import (
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

// taggedFrames are frames with VLAN tags around a packet to the VIP.
func taggedFrames(t testing.TB) map[string][]byte {
	four, six := request(40000, "S"), overIPv6(request(40000, "S"))
	tag := func(id uint16, kind layers.EthernetType) *layers.Dot1Q {
		return &layers.Dot1Q{VLANIdentifier: id, Type: kind}
	}
	inside := gopacket.Payload(four.frame(t)[14:])
	toAll := raw(t, layers.EthernetTypeDot1Q, tag(7, layers.EthernetTypeIPv4), inside)
	copy(toAll, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	return map[string][]byte{
		"802.1Q":                       raw(t, layers.EthernetTypeDot1Q, tag(7, layers.EthernetTypeIPv4), inside),
		"802.1Q of IPv6":               raw(t, layers.EthernetTypeDot1Q, tag(4094, layers.EthernetTypeIPv6), gopacket.Payload(six.frame(t)[14:])),
		"a priority alone":             raw(t, layers.EthernetTypeDot1Q, tag(0, layers.EthernetTypeIPv4), inside),
		"802.1ad":                      raw(t, layers.EthernetTypeQinQ, tag(7, layers.EthernetTypeIPv4), inside),
		"802.1Q in 802.1ad":            raw(t, layers.EthernetTypeQinQ, tag(7, layers.EthernetTypeDot1Q), tag(8, layers.EthernetTypeIPv4), inside),
		"802.1Q, to everybody":         toAll,
		"802.1Q and nothing behind":    raw(t, layers.EthernetTypeDot1Q, tag(7, layers.EthernetTypeIPv4)),
		"an EtherType without a tag":   raw(t, layers.EthernetTypeDot1Q)[:14],
		"802.1Q of what is not for us": raw(t, layers.EthernetTypeDot1Q, tag(7, layers.EthernetTypeARP)),
	}
}

func TestFramesWithAVLANTagPassUnlessTheyAreToBeDropped(t *testing.T) {
	for mode, make := range modes {
		for name, frame := range taggedFrames(t) {
			t.Run(mode+", "+name, func(t *testing.T) {
				b := make(t)
				b.pass(frame)
				b.configure(func(c *LBLbConfig) { c.Vlan = LBVlanPolicyVLAN_DROP })
				b.drop(frame, "vlan")
				b.wantFlows(0, 0)
			})
		}
		t.Run(mode+", without a tag nothing changes", func(t *testing.T) {
			b := make(t)
			b.configure(func(c *LBLbConfig) { c.Vlan = LBVlanPolicyVLAN_DROP })
			b.forwardQuietly(request(40000, "S").frame(t))
			b.pass(raw(t, layers.EthernetTypeARP))
		})
	}
}
