/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * encap.h - DSR: the packet goes to the backend as the client sent it, inside
 * another IP header (RFC 2003, RFC 2473) or, on the balancer's own link, with
 * nothing but other MACs. The TTL is not counted down either: the backend shall
 * see the packet as if it had come straight to it.
 */
#pragma once

#include "checksum.h"
#include "family.h"
#include "select.h"

static __always_inline bool encap_fits(const struct packet *packet, const struct backend *backend,
				       const struct lb_config *cfg, const enum family family)
{
	__u32 length = packet->length;

	if (backend->encap == LB_ENCAP_IPIP)
		length += ip_header_size(family);
	/* Some interfaces' MTU is beyond what the 16-bit length can say. */
	return length <= cfg->mtu && length <= 0xffff;
}

static __always_inline void write_ipv4(struct ipv4_header *ip, __u8 tos, __u32 length, __u8 proto,
				       __be32 saddr, __be32 daddr)
{
	__u32 sum;

	ip->version_ihl = 0x45;
	ip->tos = tos;
	ip->total_length = to_be16((__u16)length);
	ip->id = 0; /* RFC 6864: means nothing where DF is set */
	ip->fragment = IP_DONT_FRAGMENT;
	ip->ttl = INITIAL_TTL;
	ip->proto = proto;
	ip->saddr = saddr;
	ip->daddr = daddr;

	sum = 0x45 + ((__u32)tos << 8);
	sum += ip->total_length;
	sum += IP_DONT_FRAGMENT;
	sum += INITIAL_TTL + ((__u32)proto << 8);
	sum += (saddr & 0xffff) + (saddr >> 16);
	sum += (daddr & 0xffff) + (daddr >> 16);
	ip->checksum = checksum_fold(sum);
}

static __always_inline void write_ipv6(struct ipv6_header *ip, __u8 traffic_class, __u32 length,
				       __u8 next_header, const struct address *saddr,
				       const struct address *daddr)
{
	ip->version_class = 0x60 | traffic_class >> 4;
	ip->class_label = traffic_class << 4;
	ip->label = 0;
	ip->payload_length = to_be16((__u16)(length - sizeof(*ip)));
	ip->next_header = next_header;
	ip->hop_limit = INITIAL_TTL;
	__builtin_memcpy(&ip->saddr, saddr, sizeof(*saddr));
	__builtin_memcpy(&ip->daddr, daddr, sizeof(*daddr));
}

/*
 * Sends the packet to the backend. False when the driver left no room in front
 * of it. What is read of the backend is read before the packet moves, which
 * the Windows helper may answer by moving what ctx points to.
 */
static __always_inline bool encap(struct xdp_context *ctx, const struct lb_config *cfg,
				  const struct packet *packet, const struct flow *flow,
				  const struct backend *backend, const enum family family)
{
	const __u16 *next_hop = next_hop_of(backend);
	struct eth_header *eth;
	struct address outer;
	void *ip;

	if (backend->encap == LB_ENCAP_L2) {
		eth = packet_start(ctx);
		if ((void *)(eth + 1) > packet_end(ctx))
			return false;
		mac_copy(eth->dest, next_hop);
		mac_copy(eth->source, (const __u16 *)cfg->mac);
		return true;
	}
	if (adjust_head(ctx, -(int)ip_header_size(family)))
		return false;
	eth = packet_start(ctx);
	ip = eth + 1;
	if (ip + ip_header_size(family) > packet_end(ctx))
		return false;
	mac_copy(eth->dest, next_hop);
	mac_copy(eth->source, (const __u16 *)cfg->mac);
	if (family == FAMILY_IPV4) {
		eth->proto = ETHERTYPE_IPV4;
		outer.word[0] = backend->outer.word[0];
		if (backend->outer_spread)
			outer.word[0] |= flow_hash(flow, false, family) & backend->outer_spread;
		write_ipv4(ip, packet->tos, packet->length + sizeof(struct ipv4_header),
			   IPPROTO_IPIP, outer.word[0], backend->address.word[0]);
	} else {
		eth->proto = ETHERTYPE_IPV6;
		outer = backend->outer;
		if (backend->outer_spread)
			outer.word[3] |= flow_hash(flow, false, family) & backend->outer_spread;
		write_ipv6(ip, packet->tos, packet->length + sizeof(struct ipv6_header),
			   IPPROTO_IPV6, &outer, &backend->address);
	}
	return true;
}
