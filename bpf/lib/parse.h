/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * parse.h - what a frame is, said in scalars and never in pointers into the
 * packet: whoever writes to the packet derives its pointers anew and checks
 * them next to the access, which is what both verifiers can follow.
 *
 * There are two parsers. parse_simple takes the packets that most are, whose
 * headers stand at constant offsets, and leaves every doubt to parse, which
 * knows options, extension headers, fragments and lies.
 */
#pragma once

#include "checksum.h"
#include "family.h"
#include "fragment.h"

enum parsed {
	PARSED_NOT_OURS,  /* it passes */
	PARSED_NOT_SIMPLE,
	PARSED_NO_PORTS,  /* packet->fault says why */
	PARSED_ICMP,
	PARSED_PORTS,
};

/*
 * What is wrong with the transport header at l4, of which length bytes are
 * left. A first fragment holds the header whole (RFC 1858), not the datagram.
 */
static __always_inline enum drop_reason check_l4(void *l4, void *end, __u8 proto, __u32 length,
						 bool first_fragment, struct packet *packet)
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
		if (datagram < sizeof(*udp) || (datagram > length && !first_fragment))
			return DROP_MALFORMED_L4;
	}
	return DROP_NONE;
}

static __always_inline void packet_init(struct packet *packet, const struct eth_header *eth,
					const enum family family)
{
	mac_copy(packet->source_mac, eth->source);
	packet->l4_offset = ip_header_size(family);
	packet->tcp_flags = 0;
	packet->fragment_id = 0;
	packet->dont_fragment = family == FAMILY_IPV6;
	packet->first_fragment = false;
	packet->later_fragment = false;
	packet->fault = DROP_NONE;
}

static __always_inline void flow_init(struct flow *flow, const struct ipv4_header *ip4,
				      const struct ipv6_header *ip6, const enum family family)
{
	__builtin_memset(flow, 0, sizeof(*flow));
	if (family == FAMILY_IPV4) {
		flow->saddr.word[0] = ip4->saddr;
		flow->daddr.word[0] = ip4->daddr;
	} else {
		__builtin_memcpy(&flow->saddr, &ip6->saddr, sizeof(flow->saddr));
		__builtin_memcpy(&flow->daddr, &ip6->daddr, sizeof(flow->daddr));
	}
}

/*
 * Reads a TCP segment or UDP datagram without options, extension headers or
 * fragments that was sent to this interface's MAC and may be ours, and has
 * nothing wrong with it.
 */
static __always_inline enum parsed parse_simple(void *data, void *end, const struct lb_config *cfg,
						const enum family family, struct packet *packet,
						struct flow *flow)
{
	struct eth_header *eth = data;
	struct ipv4_header *ip4 = (void *)(eth + 1);
	struct ipv6_header *ip6 = (void *)(eth + 1);
	__u64 frame = end - (void *)ip4;
	__be16 *ports = (void *)ip4 + ip_header_size(family);

	/* The smallest of all that are wanted: a UDP header behind the IP header. */
	if ((void *)(ports + 4) > end)
		return PARSED_NOT_SIMPLE;
	if (!mac_equal(eth->dest, (const __u16 *)cfg->mac))
		return PARSED_NOT_OURS;
	flow_init(flow, ip4, ip6, family);
	if (!may_be_ours(&flow->daddr, family))
		return PARSED_NOT_OURS;

	packet_init(packet, eth, family);
	if (family == FAMILY_IPV4) {
		if (ip4->version_ihl != 0x45 ||
		    ip4->fragment & (IP_MORE_FRAGMENTS | IP_FRAGMENT_OFFSET) || ip4->ttl <= 1)
			return PARSED_NOT_SIMPLE;
		packet->length = from_be16(ip4->total_length);
		packet->tos = ip4->tos;
		flow->proto = ip4->proto;
	} else {
		if (ip6->version_class >> 4 != 6 || ip6->hop_limit <= 1)
			return PARSED_NOT_SIMPLE;
		packet->length = from_be16(ip6->payload_length) + sizeof(*ip6);
		packet->tos = ip6->version_class << 4 | ip6->class_label >> 4;
		flow->proto = ip6->next_header;
	}
	if (flow->proto != IPPROTO_TCP && flow->proto != IPPROTO_UDP)
		return PARSED_NOT_SIMPLE;
	if (packet->length > frame || packet->length < ip_header_size(family))
		return PARSED_NOT_SIMPLE;
	flow->sport = ports[0];
	flow->dport = ports[1];
	if (check_l4(ports, end, flow->proto, packet->length - (__u32)ip_header_size(family),
		     false, packet))
		return PARSED_NOT_SIMPLE;
	return PARSED_PORTS;
}

/* What the headers in front of the transport header say. */
struct headers {
	__be32 fragment_id;
	__u32 fragment_offset; /* bytes */
	bool more_fragments;
	__u8 ttl;
};

static __always_inline void parse_ipv4(const struct ipv4_header *ip, __u64 frame,
				       struct packet *packet, struct flow *flow,
				       struct headers *headers)
{
	packet->tos = ip->tos;
	packet->length = from_be16(ip->total_length);
	packet->l4_offset = (ip->version_ihl & 0x0f) * 4;
	packet->dont_fragment = ip->fragment & IP_DONT_FRAGMENT;
	flow->proto = ip->proto;
	headers->ttl = ip->ttl;
	headers->fragment_id = ip->id;
	headers->fragment_offset = from_be16(ip->fragment & IP_FRAGMENT_OFFSET) * 8;
	headers->more_fragments = ip->fragment & IP_MORE_FRAGMENTS;
	if (ip->version_ihl >> 4 != 4 || packet->l4_offset < sizeof(*ip) ||
	    packet->length < packet->l4_offset || packet->length > frame)
		packet->fault = DROP_MALFORMED_IP;
}

/* As many extension headers are followed as a loop without end for a verifier allows. */
#define EXTENSION_HEADERS 4
/* And no further than this: hop-by-hop options of real packets take 8 bytes. */
#define EXTENSION_BYTES 256

/*
 * Walks over the extension headers. What it finds goes to the map `scratch` and
 * is read back from there: the Linux verifier forgets which of the ways through the
 * walk led to it, and goes through all that follows once instead of once for each.
 */
static __always_inline void walk_extensions(const struct ipv6_header *ip, void *end,
					    const struct packet *packet, volatile struct walk *walk)
{
	__u64 offset = sizeof(*ip);
	__u8 next = ip->next_header;
	__be32 fragment_id = 0;
	__u32 fragment_offset = 0;
	__u32 more_fragments = 0;
	__u32 fault = DROP_NONE;
	bool is_fragment = false;

#pragma unroll
	for (int i = 0; i < EXTENSION_HEADERS; i++) {
		const struct ipv6_extension *extension;

		if (fragment_offset)
			break;
		if (next != IPPROTO_HOPOPTS && next != IPPROTO_DSTOPTS && next != IPPROTO_FRAGMENT)
			break;
		/* Not beyond this, so that the verifiers see a small offset. */
		if (offset > sizeof(*ip) + EXTENSION_BYTES) {
			fault = DROP_EXTENSION_HEADER;
			break;
		}
		extension = (const void *)ip + offset;
		if ((const void *)(extension + 1) > (const void *)end ||
		    offset + sizeof(*extension) > packet->length) {
			fault = DROP_MALFORMED_IP;
			break;
		}
		if (next == IPPROTO_FRAGMENT) {
			/* What one says, another one must not unsay: fragments of fragments are a trick. */
			if (is_fragment) {
				fault = DROP_FRAGMENT;
				break;
			}
			is_fragment = true;
			fragment_id = extension->id;
			fragment_offset = from_be16(extension->fragment & IPV6_FRAGMENT_OFFSET);
			more_fragments = extension->fragment & IPV6_MORE_FRAGMENTS;
			offset += sizeof(*extension);
		} else {
			offset += (__u64)(extension->length + 1) * 8;
		}
		next = extension->next_header;
	}
	if (!fault && (next == IPPROTO_HOPOPTS || next == IPPROTO_DSTOPTS ||
		       next == IPPROTO_FRAGMENT || next == IPPROTO_ROUTING))
		fault = DROP_EXTENSION_HEADER;
	if (!fault && offset > sizeof(*ip) + EXTENSION_BYTES)
		fault = DROP_EXTENSION_HEADER;
	if (!fault && packet->length < offset)
		fault = DROP_MALFORMED_IP;
	walk->offset = offset;
	walk->fragment_id = fragment_id;
	walk->fragment_offset = fragment_offset;
	walk->more_fragments = more_fragments;
	walk->fault = fault;
	walk->proto = next;
}

static __always_inline void parse_ipv6(const struct ipv6_header *ip, void *end, __u64 frame,
				       struct packet *packet, struct flow *flow,
				       struct headers *headers)
{
	struct request *r = request_of_this_cpu();
	volatile struct walk *walk;

	packet->tos = ip->version_class << 4 | ip->class_label >> 4;
	packet->length = from_be16(ip->payload_length) + sizeof(*ip);
	headers->ttl = ip->hop_limit;
	if (!r || ip->version_class >> 4 != 6 || packet->length > frame) {
		packet->fault = DROP_MALFORMED_IP;
		return;
	}
	walk = &r->walk;
	walk_extensions(ip, end, packet, walk);
	headers->fragment_id = walk->fragment_id;
	headers->fragment_offset = walk->fragment_offset;
	headers->more_fragments = walk->more_fragments;
	flow->proto = walk->proto;
	packet->fault = walk->fault;
	packet->l4_offset = walk->offset;
}

/*
 * A fragment behind the first one: its ports are those that the first one left.
 * One that would begin inside the transport header is made to deceive (RFC 1858).
 */
static __always_inline enum parsed parse_later_fragment(const struct lb_config *cfg,
							const struct headers *headers,
							const enum family family,
							struct packet *packet, struct flow *flow)
{
	__u32 payload = packet->length - (__u32)l4_offset(packet);
	/* Headers that the whole packet's length, as its header will say it, leaves out. */
	__u32 uncounted = family == FAMILY_IPV4 ? 0
						: sizeof(struct ipv6_header) +
							  sizeof(struct ipv6_extension);

	packet->fault = DROP_FRAGMENT;
	if (headers->fragment_offset < sizeof(struct tcp_header) && flow->proto == IPPROTO_TCP)
		return PARSED_NO_PORTS;
	if (headers->fragment_offset + packet->length > 0xffff + uncounted)
		return PARSED_NO_PORTS;
	if (headers->more_fragments && (payload & 7 || !payload))
		return PARSED_NO_PORTS;
	if (!fragment_follow(cfg, flow, headers->fragment_id, family))
		return PARSED_NO_PORTS;
	packet->later_fragment = true;
	packet->fault = headers->ttl <= 1 ? DROP_TTL_EXPIRED : DROP_NONE;
	return PARSED_PORTS;
}

/*
 * Reads any packet that was sent to this interface's MAC and may be ours. A
 * fault that leaves the ports unread gives PARSED_NO_PORTS; with PARSED_PORTS
 * there can still be one, of a packet that is right but may not be forwarded.
 */
static __always_inline enum parsed parse(void *data, void *end, const struct lb_config *cfg,
					 const enum family family, struct packet *packet,
					 struct flow *flow)
{
	struct eth_header *eth = data;
	struct ipv4_header *ip4 = (void *)(eth + 1);
	struct ipv6_header *ip6 = (void *)(eth + 1);
	__u64 frame = end - (void *)ip4;
	struct headers headers;
	__be16 *ports;

	if ((void *)ip4 + ip_header_size(family) > end)
		return PARSED_NOT_OURS;
	if (!mac_equal(eth->dest, (const __u16 *)cfg->mac))
		return PARSED_NOT_OURS;
	flow_init(flow, ip4, ip6, family);
	if (!may_be_ours(&flow->daddr, family))
		return PARSED_NOT_OURS;
	packet_init(packet, eth, family);
	if (family == FAMILY_IPV4)
		parse_ipv4(ip4, frame, packet, flow, &headers);
	else
		parse_ipv6(ip6, end, frame, packet, flow, &headers);
	if (packet->fault)
		return PARSED_NO_PORTS;

	if (flow->proto == (family == FAMILY_IPV4 ? IPPROTO_ICMP : IPPROTO_ICMPV6)) {
		if (!headers.more_fragments && !headers.fragment_offset)
			return PARSED_ICMP;
		packet->fault = DROP_FRAGMENT;
		return PARSED_NO_PORTS;
	}
	if (flow->proto != IPPROTO_TCP && flow->proto != IPPROTO_UDP)
		return PARSED_NOT_OURS;
	if (headers.fragment_offset)
		return parse_later_fragment(cfg, &headers, family, packet, flow);
	packet->first_fragment = headers.more_fragments;
	packet->fragment_id = headers.fragment_id;
	if (headers.more_fragments && (packet->length - l4_offset(packet)) & 7) {
		packet->fault = DROP_FRAGMENT;
		return PARSED_NO_PORTS;
	}

	ports = (void *)ip4 + l4_offset(packet);
	if ((void *)(ports + 4) > end) {
		packet->fault = DROP_MALFORMED_L4;
		return PARSED_NO_PORTS;
	}
	flow->sport = ports[0];
	flow->dport = ports[1];
	packet->fault = check_l4(ports, end, flow->proto,
				 packet->length - (__u32)l4_offset(packet),
				 headers.more_fragments, packet);
	if (packet->fault) {
		if (headers.more_fragments)
			packet->fault = DROP_FRAGMENT;
		return PARSED_NO_PORTS;
	}
	if (headers.ttl <= 1)
		packet->fault = DROP_TTL_EXPIRED;
	return PARSED_PORTS;
}
