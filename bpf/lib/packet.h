/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * packet.h - header layouts, and what the balancer wants to know of a frame.
 *
 * The parser yields scalars, never pointers into the packet: whoever writes to
 * the packet derives its pointers anew and checks them next to the access,
 * which is what both verifiers can follow.
 */
#pragma once

#include "types.h"

#define from_be16(x) __builtin_bswap16(x)
#define to_be16(x) __builtin_bswap16(x)

#define ETHERTYPE_IPV4 to_be16(0x0800)

#define IPPROTO_IPIP 4 /* RFC 2003 */
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17

#define IP_DONT_FRAGMENT to_be16(0x4000)
#define IP_MORE_FRAGMENTS to_be16(0x2000)
#define IP_FRAGMENT_OFFSET to_be16(0x1fff)

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

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

struct packet {
	__u64 header_length; /* of IPv4, options included: 20 to 60 */
	__u32 length;	     /* IP total length */
	__u16 source_mac[3];
	__u8 tos;
	__u8 tcp_flags; /* 0 for UDP */
	/* Why it must not be forwarded, if it turns out to be the balancer's. */
	enum drop_reason fault;
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

/* What is wrong with the transport header at l4, of which length bytes are left. */
static __always_inline enum drop_reason check_l4(void *l4, void *end, __u8 proto, __u32 length,
						 struct packet *packet)
{
	if (proto == IPPROTO_TCP) {
		struct tcp_header *tcp = l4;
		__u32 header;

		if ((void *)(tcp + 1) > end || length < sizeof(*tcp))
			return DROP_MALFORMED_L4;
		header = (tcp->data_offset >> 4) * 4;
		if (header < sizeof(*tcp) || header > length)
			return DROP_MALFORMED_L4;
		packet->tcp_flags = tcp->flags;
	} else {
		struct udp_header *udp = l4;
		__u32 datagram;

		if ((void *)(udp + 1) > end || length < sizeof(*udp))
			return DROP_MALFORMED_L4;
		datagram = from_be16(udp->length);
		if (datagram < sizeof(*udp) || datagram > length)
			return DROP_MALFORMED_L4;
	}
	return DROP_NONE;
}

/*
 * Reads an IPv4 packet of TCP or UDP that was sent to this interface's MAC.
 * Returns false when it is something else, or has no ports to tell whose it is
 * (a later fragment, a frame that ends too early): such a frame passes.
 *
 * Faults are only noted here, since the ports that tell whether the packet is
 * the balancer's stand behind them; an IHL that lies is read as 5 for that.
 */
static __always_inline bool parse(void *data, void *end, const __u8 *mac, struct packet *packet,
				  struct flow_key *flow)
{
	struct eth_header *eth = data;
	struct ipv4_header *ip = (void *)(eth + 1);
	__u64 frame = end - (void *)ip;
	__be16 *ports;

	if ((void *)(ip + 1) > end)
		return false;
	if (eth->proto != ETHERTYPE_IPV4 || !mac_equal(eth->dest, (const __u16 *)mac))
		return false;
	if (ip->version_ihl >> 4 != 4)
		return false;
	if (ip->proto != IPPROTO_TCP && ip->proto != IPPROTO_UDP)
		return false;
	if (ip->fragment & IP_FRAGMENT_OFFSET)
		return false;

	mac_copy(packet->source_mac, eth->source);
	packet->tos = ip->tos;
	packet->length = from_be16(ip->total_length);
	packet->tcp_flags = 0;
	packet->fault = DROP_NONE;
	packet->header_length = (ip->version_ihl & 0x0f) * 4;
	if (packet->header_length < sizeof(*ip)) {
		packet->fault = DROP_MALFORMED_IP;
		packet->header_length = sizeof(*ip);
	}
	if (packet->length < packet->header_length || packet->length > frame)
		packet->fault = DROP_MALFORMED_IP;

	ports = (void *)ip + packet->header_length;
	if ((void *)(ports + 2) > end)
		return false;
	__builtin_memset(flow, 0, sizeof(*flow));
	flow->saddr = ip->saddr;
	flow->daddr = ip->daddr;
	flow->sport = ports[0];
	flow->dport = ports[1];
	flow->proto = ip->proto;

	if (!packet->fault && (ip->fragment & IP_MORE_FRAGMENTS))
		packet->fault = DROP_FRAGMENT;
	if (!packet->fault)
		packet->fault = check_l4(ports, end, ip->proto,
					 packet->length - packet->header_length, packet);
	if (!packet->fault && ip->ttl <= 1)
		packet->fault = DROP_TTL_EXPIRED;
	return true;
}
