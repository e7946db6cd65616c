/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * packet.h - header layouts.
 */
#pragma once

#include "types.h"

#define from_be16(x) __builtin_bswap16(x)
#define to_be16(x) __builtin_bswap16(x)
#define from_be32(x) __builtin_bswap32(x)
#define to_be32(x) __builtin_bswap32(x)

#define ETHERTYPE_IPV4 to_be16(0x0800)
#define ETHERTYPE_IPV6 to_be16(0x86dd)

#define IPPROTO_HOPOPTS 0 /* RFC 8200, as the next three */
#define IPPROTO_ROUTING 43
#define IPPROTO_FRAGMENT 44
#define IPPROTO_DSTOPTS 60
#define IPPROTO_ICMP 1
#define IPPROTO_IPIP 4 /* RFC 2003 */
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define IPPROTO_IPV6 41 /* RFC 2473 */
#define IPPROTO_ICMPV6 58

#define IP_DONT_FRAGMENT to_be16(0x4000)
#define IP_MORE_FRAGMENTS to_be16(0x2000)
#define IP_FRAGMENT_OFFSET to_be16(0x1fff)
#define IPV6_MORE_FRAGMENTS to_be16(0x0001)
#define IPV6_FRAGMENT_OFFSET to_be16(0xfff8)

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

/* What a router puts into the packets that it makes itself. */
#define INITIAL_TTL 64

/* MACs are three words, so that no access is wider than the frame's alignment. */
struct eth_header {
	__u16 dest[3];
	__u16 source[3];
	__be16 proto;
};

struct ipv4_header {
	__u8 version_ihl;
	__u8 tos;
	__be16 total_length;
	__be16 id;
	__be16 fragment;
	__u8 ttl;
	__u8 proto;
	__u16 checksum;
	__be32 saddr;
	__be32 daddr;
};

struct ipv6_header {
	__u8 version_class; /* version, and the class's upper half */
	__u8 class_label;   /* the class's lower half, and the flow label's first bits */
	__be16 label;
	__be16 payload_length;
	__u8 next_header;
	__u8 hop_limit;
	struct address saddr;
	struct address daddr;
};

struct ipv6_extension {
	__u8 next_header;
	__u8 length; /* in 8 bytes, the first 8 not counted */
	__be16 fragment; /* offset and flags, in a fragment header */
	__be32 id;
};

struct tcp_header {
	__be16 sport;
	__be16 dport;
	__be32 seq;
	__be32 ack;
	__u8 data_offset; /* high nibble, in words */
	__u8 flags;
	__be16 window;
	__u16 checksum;
	__be16 urgent;
};

struct udp_header {
	__be16 sport;
	__be16 dport;
	__be16 length;
	__u16 checksum;
};

struct icmp_header {
	__u8 type;
	__u8 code;
	__u16 checksum;
	__be16 unused; /* an echo's id */
	__be16 mtu;    /* of type 3 code 4 (RFC 1191); an echo's sequence number */
};

static __always_inline bool mac_equal(const __u16 *a, const __u16 *b)
{
	return a[0] == b[0] && a[1] == b[1] && a[2] == b[2];
}

static __always_inline void mac_copy(__u16 *to, const __u16 *from)
{
	to[0] = from[0];
	to[1] = from[1];
	to[2] = from[2];
}

/*
 * Where the transport header is, from the IP header on. What was read from a map is
 * any number to a verifier, so it gets its bound here, beyond all that parse.h gives.
 */
static __always_inline __u64 l4_offset(const struct packet *packet)
{
	return packet->l4_offset & 511;
}

static __always_inline __u64 ip_header_size(const enum family family)
{
	return family == FAMILY_IPV4 ? sizeof(struct ipv4_header) : sizeof(struct ipv6_header);
}
