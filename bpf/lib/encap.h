/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * encap.h - DSR: the packet goes to the backend inside another IPv4 header
 * (RFC 2003), its own bytes as the client sent them. The TTL is not counted down
 * either: the backend shall see the packet as if it had come straight to it.
 */
#pragma once

#include "checksum.h"
#include "maps.h"

#define ENCAP_TTL 64

static __always_inline bool encap_fits(const struct packet *packet, const struct lb_config *cfg)
{
	__u32 length = packet->length + sizeof(struct ipv4_header);

	/* Some interfaces' MTU is beyond what the 16-bit length can say. */
	return length <= cfg->mtu && length <= 0xffff;
}

static __always_inline void encap_write(struct ipv4_header *outer, const struct packet *packet,
					__be32 saddr, __be32 daddr)
{
	__u32 sum;

	outer->version_ihl = 0x45;
	outer->tos = packet->tos;
	outer->total_length = to_be16((__u16)(packet->length + sizeof(*outer)));
	outer->id = 0; /* RFC 6864: means nothing where DF is set */
	outer->fragment = IP_DONT_FRAGMENT;
	outer->ttl = ENCAP_TTL;
	outer->proto = IPPROTO_IPIP;
	outer->saddr = saddr;
	outer->daddr = daddr;

	sum = 0x45 + ((__u32)packet->tos << 8);
	sum += outer->total_length;
	sum += IP_DONT_FRAGMENT;
	sum += ENCAP_TTL + (IPPROTO_IPIP << 8);
	sum += (saddr & 0xffff) + (saddr >> 16);
	sum += (daddr & 0xffff) + (daddr >> 16);
	outer->checksum = checksum_fold(sum);
}

/* False when the driver left no room in front of the packet. */
static __always_inline bool encap(struct xdp_context *ctx, const struct lb_config *cfg,
				  const struct packet *packet, __be32 backend,
				  const __u16 *next_hop)
{
	struct eth_header *eth;
	struct ipv4_header *outer;

	if (adjust_head(ctx, -(int)sizeof(*outer)))
		return false;
	eth = packet_start(ctx);
	outer = (void *)(eth + 1);
	if ((void *)(outer + 1) > packet_end(ctx))
		return false;
	mac_copy(eth->dest, next_hop);
	mac_copy(eth->source, (const __u16 *)cfg->mac);
	eth->proto = ETHERTYPE_IPV4;
	encap_write(outer, packet, cfg->address, backend);
	return true;
}
