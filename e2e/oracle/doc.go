// Package oracle is the end-to-end suite's own judge. It says, from the field's
// specifications alone, which backend a flow belongs to and what a client's packet
// must look like, byte for byte, at each place of each path; and it says in words
// how a captured packet differs from that.
//
// It shares no code with what it judges: neither the agent's Maglev tables nor
// the expectations of `labctl test` (lab/probe/oracle) were looked at, and the
// small duplication is meant. Where both are wrong in the same way, the
// specification was misread twice.
//
// An expectation is a function from one frame to another: Tunnelled(request, …) is
// the frame that must leave the balancer for that request. Match compares what was
// expected with what a capture saw, and Differences two frames field by field:
//
//	for _, fault := range oracle.Match(expected, captured) {
//		t.Error(fault) // "outer IPv4 header: TTL is 0, want 64"
//	}
//
// Frames are Ethernet frames as a capture has them, their checksums filled in.
package oracle
