/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * types.h - the layouts that the programs share with the agent.
 *
 * Go reads these structs from the objects' BTF (bpf2go), so they are said here
 * and nowhere else. Addresses and ports stand in network order, as they lie in
 * the packet. Every padding byte is a named member: PREVAIL refuses a key
 * whose padding was not written, and a hash map compares padding too.
 *
 */
#pragma once

/* Stands in `config`; another one for whatever an older agent or program would misread. */
enum layout {
	LAYOUT_VERSION = 3,
};

/*
 * The one-byte enums say their type (a clang extension in C17), so that structs
 * can hold them as they are and Go gets their constants from BTF.
 */

enum family : __u8 {
	FAMILY_IPV4 = 4,
	FAMILY_IPV6 = 6,
};

/* An IPv4 address is word[0], the other words are 0. */
struct address {
	__be32 word[4];
};

/* How a service's packets reach a backend; a flow keeps the mode it began in. */
enum lb_mode : __u8 {
	LB_MODE_DSR = 1,
	LB_MODE_SNAT = 2,
};

/* How DSR reaches the backend. */
enum lb_encap : __u8 {
	LB_ENCAP_IPIP = 0, /* inside another IP header, 4in4 or 6in6 */
	LB_ENCAP_L2 = 1,   /* by destination MAC alone: the backend is on the same link */
};

/* What becomes of frames with a VLAN tag, whoever they are for. */
enum vlan_policy : __u8 {
	VLAN_PASS = 0,
	VLAN_DROP = 1,
};

/* Bits of service.flags. */
enum service_flag : __u8 {
	SERVICE_RANDOM = 1 << 0,   /* any table slot for each new flow, instead of the flow's hash */
	SERVICE_AFFINITY = 1 << 1, /* a client's flows go to one backend */
	SERVICE_RANGES = 1 << 2,   /* only the sources that `sources` allows */
};

/*
 * What a backend is there for. Its flows live in every state but GONE; new ones
 * come to an active one only.
 */
enum backend_state : __u8 {
	BACKEND_GONE = 0,
	BACKEND_ACTIVE = 1,
	BACKEND_DRAINING = 2,
	BACKEND_QUARANTINED = 3,
	BACKEND_MAINTENANCE = 4,
};

/* Bits of ct_entry.flags: what has been seen of a flow. */
enum ct_flag : __u8 {
	CT_SEEN_NON_SYN = 1 << 0, /* the client spoke after its first packet: established */
	CT_RX_CLOSING = 1 << 1,	  /* FIN from the client */
	CT_TX_CLOSING = 1 << 2,	  /* FIN from the backend (SNAT only) */
	CT_RESET = 1 << 3,	  /* RST from either side: both closed */
};

/* Why a packet was dropped; an index into the `drops` map. */
enum drop_reason {
	DROP_NONE = 0, /* unused, so that a forgotten reason shows */
	DROP_MALFORMED_IP,     /* IHL below 5, or a length that lies */
	DROP_MALFORMED_L4,     /* TCP, UDP or ICMP header cut short, or its length lies */
	DROP_FRAGMENT,	       /* a fragment whose first one was not seen, tiny or overlapping */
	DROP_TTL_EXPIRED,      /* TTL or hop limit 0 or 1: a router must not forward it */
	DROP_NO_BACKEND,       /* no table, or an empty slot of it */
	DROP_NO_NEIGHBOUR,     /* the next hop's MAC is not known */
	DROP_NAT_EXHAUSTED,    /* no free source port found towards this backend */
	DROP_MTU_EXCEEDED,     /* does not fit once encapsulated; the client is told where it can be */
	DROP_ADJUST_HEAD,      /* no headroom for the outer header */
	DROP_CONNTRACK_FAILED, /* the flow could not be remembered, or lost its port */
	DROP_NO_FLOW,	       /* a reset, or an ICMP error, that belongs to no flow */
	DROP_SOURCE_DENIED,    /* the service does not allow the client's address */
	DROP_EXTENSION_HEADER, /* more IPv6 extension headers than are followed */
	DROP_NO_STAGE,	       /* a program that should follow is not there */
	DROP_VLAN,	       /* a VLAN tag, which the agent wants dropped */
	DROP_REASON_MAX,       /* number of reasons: keep last */
};

/* What was done about ICMP; an index into the `icmp_packets` map. */
enum icmp_deed {
	ICMP_ECHO_ANSWERED,
	ICMP_ERROR_TO_BACKEND,
	ICMP_ERROR_TO_CLIENT,
	ICMP_TOO_BIG_SENT, /* counts as a drop of the packet that was too big, too */
	ICMP_DEED_MAX,	   /* number of deeds: keep last */
};

/* The programs that tail calls reach; an index into `stages`. */
enum stage {
	STAGE_FAST4,
	STAGE_SLOW4,
	STAGE_REPLY4,
	STAGE_ICMP4,
	STAGE_TOO_BIG4,
	STAGE_FAST6,
	STAGE_SLOW6,
	STAGE_REPLY6,
	STAGE_ICMP6,
	STAGE_TOO_BIG6,
	STAGE_MAX, /* number of stages: keep last */
};

/*
 * The one entry of the `config` map: what the agent knows of the interface and
 * wants of the tables. Times are nanoseconds of the platform's coarse clock. A
 * balancer without a MAC takes no packet.
 */
struct lb_config {
	enum layout layout; /* of who wrote it */
	__u32 mtu;	 /* of the interface, bytes of IP */
	__be32 address4; /* the balancer's own: outer source in DSR, source in SNAT; 0: none */
	__u8 mac[6];	 /* of the interface */
	__u16 nat_min;	 /* SNAT source ports, host order, both inclusive */
	__u16 nat_max;
	enum vlan_policy vlan;
	__u8 pad;
	struct address address6;
	__u32 event_rate; /* flow events a second and CPU, 0: none are sent */
	__u32 pad2;
	__u64 tcp_established_ns;
	__u64 tcp_syn_ns;
	__u64 tcp_closing_ns;
	__u64 non_tcp_ns;
	__u64 fragment_ns;
};

/*
 * How a service is found. Port 0 is the service of all ports that have none of
 * their own. A key of protocol ICMP (IPv6: ICMPv6) and port 0 says that the
 * address is a VIP at all.
 */
struct service_key {
	struct address vip;
	__be16 port;
	__u8 proto; /* IPPROTO_TCP or IPPROTO_UDP */
	enum family family;
};

struct service {
	__u32 id;	   /* the user's number */
	__u32 slot;	   /* index into `maglev` and `service_stats` */
	__u32 table_size;  /* Maglev slots, 0: no backends */
	__u16 mss;	   /* TCP MSS option is made no larger than this, 0: left alone */
	enum lb_mode mode; /* for new flows */
	enum service_flag flags; /* any number of bits */
	__u64 affinity_ns;
};

/*
 * A backend of one service; its index in `backends` stands in the Maglev table
 * and in the flows. It stays while flows go there, so all that a known flow's
 * packet needs to be sent is here.
 *
 * Of the two MACs of the next hop mac_slot says which one counts. The agent
 * writes the other one first and then that byte: an array's entry is written
 * in place, and a byte cannot be half written.
 */
struct backend {
	struct address address;
	struct address outer; /* IP-in-IP: the outer source */
	__u8 mac[2][6];
	__be32 outer_spread; /* bits of outer's last word that take the flow's hash */
	__be16 port;	     /* 0: the one that the client asked for */
	__u8 mac_slot;	     /* 0 or 1; MAC_UNKNOWN: the next hop does not answer */
	enum backend_state state;
	enum lb_encap encap;
	enum family family; /* these two are for the agent alone */
	__u8 outer_bits;
	__u8 pad;
	__u32 service_id; /* of the service that has, or had, it */
	__u32 service_slot;
};

#define MAC_UNKNOWN 2

/* A flow as its first host sent it: client to VIP, or backend to balancer. */
struct flow {
	struct address saddr;
	struct address daddr;
	__be16 sport;
	__be16 dport;
	__u8 proto;
	__u8 pad[3];
};

/* The same as a key of IPv4's tables: less to hash. IPv6's take struct flow. */
struct flow4 {
	__be32 saddr;
	__be32 daddr;
	__be16 sport;
	__be16 dport;
	__u8 proto;
	__u8 pad[3];
} __attribute__((aligned(8))); /* so that it can be written in two pieces */

/* What the balancer remembers of a client's flow. tx_* stay 0 in DSR: replies never pass. */
struct ct_entry {
	__u64 last_seen_ns;
	__u64 rx_packets;
	__u64 rx_bytes; /* IP total lengths, client to backend */
	__u64 tx_packets;
	__u64 tx_bytes;
	__u64 way_back_ns; /* SNAT: when the way back was last seen to be there */
	__u32 backend_id;
	__be16 nat_port;    /* SNAT: the balancer's source port towards the backend */
	enum lb_mode mode;  /* of the service when the flow began */
	enum ct_flag flags; /* any number of bits */
	__u8 client_mac[6]; /* SNAT: what the way back has, to see when it changes */
	__u8 pad[2];
};

/*
 * SNAT's way back, found under the reply's own addresses
 * (saddr = backend, daddr = balancer).
 */
struct nat_entry {
	struct address client;
	struct address vip;
	__be16 client_port;
	__be16 vip_port;
	__u32 backend_id;    /* so that a reply can restore a lost conntrack entry */
	__u8 client_mac[6];  /* next hop towards the client: where its packets came from */
	__u8 pad[2];
};

/* Where a client's flows go, under session affinity. */
struct affinity_key {
	struct address client;
	__u32 service_slot;
};

struct affinity {
	__u64 last_seen_ns;
	__u32 backend_id;
	__u32 pad;
};

/* A key of `sources`: 32 bits of slot, then the address, as far as prefix_length says. */
struct source_key {
	__u32 prefix_length;
	__be32 service_slot;
	struct address source;
};

/* A packet's fragments, and the ports that only the first one carries. */
struct fragment_key {
	struct address saddr;
	struct address daddr;
	__be32 id; /* IPv4: of its 16 bits */
	__u8 proto;
	enum family family;
	__u8 pad[2];
};

struct fragment {
	__u64 last_seen_ns;
	__be16 sport;
	__be16 dport;
	__u32 pad;
};

/* Counters, per CPU. Bytes are IP total lengths as the client or backend sent them. */
struct traffic {
	__u64 rx_packets; /* client to backend */
	__u64 rx_bytes;
	__u64 tx_packets; /* backend to client, SNAT only */
	__u64 tx_bytes;
	__u64 connections; /* new flows */
};

enum event_kind : __u8 {
	EVENT_NEW = 1,
	EVENT_CLOSED = 2, /* FIN of each side that passes, or a reset */
	EVENT_DROPPED = 3,
};

/* One message of the ring buffer `events`. */
struct flow_event {
	__u64 time_ns; /* the platform's coarse clock */
	struct flow flow; /* client to VIP; of a dropped reply: backend to balancer */
	__u32 reason; /* enum drop_reason */
	__u32 backend_id;
	__u32 service_id;
	enum event_kind kind;
	enum family family;
	enum lb_mode mode;
	__u8 pad;
};

/* How many events this CPU has sent in this second. */
struct event_budget {
	__u64 second_began_ns;
	__u64 sent;
	__u64 suppressed; /* since the beginning */
	__u64 lost;	  /* the ring was full */
};

/* SNAT's reverse entry and its key, of a flow between client and backend. */
struct way_back {
	struct flow reply;
	struct nat_entry entry;
};

/* What a walk over IPv6's extension headers found (parse.h). */
struct walk {
	__u32 offset; /* of what is behind them, from the IP header on */
	__be32 fragment_id;
	__u32 fragment_offset;
	__u32 more_fragments;
	__u32 fault;
	__u32 proto;
};

/* A frame, as parse.h reads it. */
struct packet {
	__u64 l4_offset;    /* of the transport header, from the IP header on */
	__u32 length;	    /* of IP, its header included */
	__be32 fragment_id; /* of a first fragment */
	/* Why it must not be forwarded, if it turns out to be the balancer's. */
	enum drop_reason fault;
	__u16 source_mac[3];
	__u8 tos;	    /* IPv6: traffic class */
	__u8 tcp_flags;	    /* 0 for all but TCP */
	bool dont_fragment;
	bool first_fragment;
	bool later_fragment; /* there is no transport header in it */
	__u8 pad;
};

/*
 * The one per-CPU entry of `scratch`: a packet on its way, what is found out about it,
 * and what has no room on the stack. It is a map's for the Linux verifier's sake, too:
 * that one forgets which of many ways led to what stands here, and goes through all
 * that follows once instead of once for each.
 */
struct request {
	struct packet packet;
	__u64 now;
	struct flow flow;
	__u32 backend_id;
	__u32 service_id;
	__u32 service_slot;
	enum lb_mode mode;
	bool opened; /* it began the flow */
	bool stray;  /* a reset that is of none */
	__u8 pad;
	struct way_back way_back;
	struct ct_entry entry;
	struct fragment_key fragment_key;
	struct fragment fragment;
	struct affinity_key affinity_key;
	struct source_key source_key;
	__u32 pad2;
	struct affinity affinity;
	struct walk walk;
	struct flow_event event;
	struct event_budget budget; /* this alone outlives the packet */
};

/* The one entry of a decapsulation program's `decap_config`. */
struct decap_config {
	__be32 address4;  /* this backend: the outer destination that is stripped; 0: none */
	__be32 source4;	  /* the outer source that is accepted, under this mask: */
	__be32 mask4;	  /* 0: any */
	__u32 pad;
	struct address address6;
	struct address source6;
	struct address mask6;
};

/* The one per-CPU entry of `decap_stats`. */
struct decap_traffic {
	__u64 decapsulated_packets;
	__u64 decapsulated_bytes; /* IP lengths of the inner packets */
	__u64 passed_packets;	  /* all else, untouched */
	__u64 malformed_packets;  /* outer header was for us, what it held was not IP: dropped */
};
