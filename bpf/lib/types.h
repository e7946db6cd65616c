/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * types.h - the layouts that the programs share with the agent.
 *
 * Go reads these structs from the objects' BTF (bpf2go), so they are said here
 * and nowhere else. Addresses and ports stand in network order, as they lie in
 * the packet. Every padding byte is a named member: PREVAIL refuses a key
 * whose padding was not written, and a hash map compares padding too.
 */
#pragma once

/*
 * The one-byte enums say their type (a clang extension in C17), so that structs
 * can hold them as they are and Go gets their constants from BTF.
 */

/* How a service's packets reach a backend; a flow keeps the mode it began in. */
enum lb_mode : __u8 {
	LB_MODE_DSR = 1,
	LB_MODE_SNAT = 2,
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
	DROP_MALFORMED_IP,     /* IHL below 5, or a total length that lies */
	DROP_MALFORMED_L4,     /* TCP or UDP header cut short, or its length lies */
	DROP_FRAGMENT,	       /* first fragment of a service's packet */
	DROP_TTL_EXPIRED,      /* TTL 0 or 1: a router must not forward it */
	DROP_NO_BACKEND,       /* no table, or an empty slot of it */
	DROP_NO_NEIGHBOUR,     /* the backend's MAC is not known */
	DROP_NAT_EXHAUSTED,    /* no free source port found towards this backend */
	DROP_MTU_EXCEEDED,     /* does not fit once encapsulated */
	DROP_ADJUST_HEAD,      /* no headroom for the outer header */
	DROP_CONNTRACK_FAILED, /* the flow could not be remembered, or lost its port */
	DROP_NO_FLOW,	       /* a reset that belongs to no flow, in SNAT */
	DROP_REASON_MAX,       /* number of reasons: keep last */
};

/*
 * The one entry of the `config` map: what the agent knows of the interface and
 * wants of the tables. Times are nanoseconds of the platform's coarse clock.
 */
struct lb_config {
	__be32 address;	 /* the balancer's own: outer source in DSR, source in SNAT */
	__u32 mtu;	 /* of the interface, bytes of IP */
	__u8 mac[6];	 /* of the interface */
	__u16 nat_min;	 /* SNAT source ports, host order, both inclusive */
	__u16 nat_max;
	__u8 pad[6];
	__u64 tcp_established_ns;
	__u64 tcp_syn_ns;
	__u64 tcp_closing_ns;
	__u64 non_tcp_ns;
};

struct service_key {
	__be32 vip;
	__be16 port;
	__u8 proto; /* IPPROTO_TCP or IPPROTO_UDP */
	__u8 pad;
};

struct service {
	__u32 id;	  /* the user's number */
	__u32 slot;	  /* index into `maglev` and `service_stats` */
	__u32 table_size; /* Maglev slots, 0: no backends */
	enum lb_mode mode; /* for new flows */
	__u8 pad[3];
};

/* A backend of one service; its index in `backends` stands in the Maglev table. */
struct backend {
	__be32 address;
	__be16 port;
	__u8 proto;
	__u8 pad;
};

/* The MAC of the next hop towards a backend, kept right by the agent. */
struct neighbour {
	__u8 mac[6];
	__u8 pad[2];
};

/* A flow as its first host sent it: client to VIP, or backend to balancer. */
struct flow_key {
	__be32 saddr;
	__be32 daddr;
	__be16 sport;
	__be16 dport;
	__u8 proto;
	__u8 pad[3];
};

/*
 * What the balancer remembers of a client's flow. The backend's address is
 * here, not only its id, so that a flow lives on when its backend leaves the
 * service. tx_* stay 0 in DSR: replies never pass.
 */
struct ct_entry {
	__u64 last_seen_ns;
	__u64 rx_packets;
	__u64 rx_bytes; /* IP total lengths, client to backend */
	__u64 tx_packets;
	__u64 tx_bytes;
	__u32 backend_id;
	__u32 service_id;
	__u32 service_slot;
	__be32 backend_address;
	__be16 backend_port;
	__be16 nat_port; /* SNAT: the balancer's source port towards the backend */
	enum lb_mode mode;  /* of the service when the flow began */
	enum ct_flag flags; /* any number of bits */
	__u8 pad[2];
};

/*
 * SNAT's way back, found under the reply's own addresses
 * (saddr = backend, daddr = balancer).
 */
struct nat_entry {
	__be32 client_address;
	__be32 vip;
	__be16 client_port;
	__be16 vip_port;
	__u8 client_mac[6]; /* next hop towards the client: where its packets came from */
	__u8 pad[2];
	__u32 backend_id; /* so that a reply can restore a lost conntrack entry */
};

/* Counters, per CPU. Bytes are IP total lengths as the client or backend sent them. */
struct traffic {
	__u64 rx_packets; /* client to backend */
	__u64 rx_bytes;
	__u64 tx_packets; /* backend to client, SNAT only */
	__u64 tx_bytes;
	__u64 connections; /* new flows */
};

/* The one entry of a decapsulation program's `decap_config`. */
struct decap_config {
	__be32 address;	 /* this backend: the outer destination that is stripped */
	__be32 balancer; /* the outer source that is accepted; 0: any */
};

/* The one per-CPU entry of `decap_stats`. */
struct decap_traffic {
	__u64 decapsulated_packets;
	__u64 decapsulated_bytes; /* IP total lengths of the inner packets */
	__u64 passed_packets;	  /* all else, untouched */
	__u64 malformed_packets;  /* outer header was for us, what it held was not IPv4: dropped */
};
