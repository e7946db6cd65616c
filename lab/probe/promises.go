package probe

// The promises, as the report names them.
const (
	// Of both modes.
	capturesComplete    = "captures recorded every frame"
	everyAnswer         = "every connection is answered"
	everyBackendReached = "all backends are reached"
	maglevBackend       = "the Maglev table names the backend of each flow"
	answerAgrees        = "each answer comes from the backend that its packets went to"
	sameTuple           = "the same 5-tuple returns to the same backend"
	hopsComplete        = "what one machine sends arrives at the next"
	modeIsInForce       = "the service forwards in the mode that was asked for"
	leavesOnce          = "every frame for the VIP leaves the balancer exactly once"
	checksumsRight      = "every checksum that the balancer sent is right"
	macsRight           = "every frame that the balancer sent bears the right MAC addresses"
	serviceCounted      = "the service's counters equal the packets seen"
	backendsCounted     = "the backends' counters equal the packets seen"
	nothingDropped      = "the balancer dropped nothing"

	// Of direct server return.
	outerHeaderRight = "the request leaves in an outer header from the balancer to a backend"
	innerBytesSame   = "the inner packet is byte for byte what the client sent"
	replyIsStraight  = "the reply goes from the backend straight to the client"
	noReplyCrosses   = "no reply crosses the balancer's port"
	ownKindOfDecap   = "every backend decapsulates with its own kind of program"
	decapCounted     = "the decapsulation counters equal the packets seen"

	// Of source NAT.
	backendSees    = "the backend sees the balancer's address"
	clientSees     = "the client sees the VIP's address"
	bothCross      = "both directions cross the balancer"
	onlyTranslated = "addresses, ports and checksums are translated and nothing else"
	portOfItsOwn   = "each connection has an address and port of its own towards its backend"
	portIsKept     = "the client's port is kept when it is free and in the pool"
	poolApart      = "the balancer's own ports lie outside the pool"

	// Of both modes, last.
	foreignPasses = "a packet for another address passes the balancer untouched"
	downloadWhole = "a download arrives whole"
	uploadWhole   = "an upload arrives whole"
)
