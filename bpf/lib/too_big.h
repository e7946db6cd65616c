/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * too_big.h - tells a client that its packet would not fit once it is
 * encapsulated: ICMP "fragmentation needed" (RFC 1191) or ICMPv6 "packet too
 * big" (RFC 4443), from the VIP, with the size that fits. The packet itself is
 * dropped and counted. Linux does not limit the rate of these errors either: each
 * answers one large packet with a small one.
 */
#pragma once

#include "checksum.h"
#include "encap.h"
#include "family.h"
#include "stages.h"

#define ICMP_FRAGMENTATION_NEEDED 4 /* a code of ICMP_UNREACHABLE */
#define ICMPV6_TOO_BIG 2

/* Words that are quoted: the longest IPv4 header, or an IPv6 header and more, and 8 bytes. */
#define QUOTE_WORDS 17

static __always_inline int too_big(struct xdp_context *ctx, const enum family family)
{
	void *end = packet_end(ctx);
	struct eth_header *eth = packet_start(ctx);
	void *ip = eth + 1;
	__u64 headers = ip_header_size(family) + sizeof(struct icmp_header);
	__u32 length = headers + QUOTE_WORDS * 4;
	__u32 quoted[QUOTE_WORDS];
	struct icmp_header *icmp;
	struct lb_config *cfg;
	struct address client, vip;
	__u32 sum = 0, zero = 0;
	__u32 *quote;
	__u16 mac[3], mtu;

	cfg = map_lookup(&config, &zero);
	if (!cfg)
		return drop(DROP_MTU_EXCEEDED);
	if (ip + headers + QUOTE_WORDS * 4 > end)
		return drop(DROP_MTU_EXCEEDED);
	mtu = cfg->mtu - ip_header_size(family);

	quote = ip;
#pragma unroll
	for (int i = 0; i < QUOTE_WORDS; i++) {
		quoted[i] = quote[i];
		sum += (quoted[i] & 0xffff) + (quoted[i] >> 16);
	}
	__builtin_memset(&client, 0, sizeof(client));
	__builtin_memset(&vip, 0, sizeof(vip));
	if (family == FAMILY_IPV4) {
		client.word[0] = quoted[3];
		vip.word[0] = quoted[4];
	} else {
		__builtin_memcpy(&client, &quoted[2], sizeof(client));
		__builtin_memcpy(&vip, &quoted[6], sizeof(vip));
	}

	mac_copy(mac, eth->dest);
	mac_copy(eth->dest, eth->source);
	mac_copy(eth->source, mac);
	icmp = ip + ip_header_size(family);
	icmp->checksum = 0;
	icmp->unused = 0;
	icmp->mtu = to_be16(mtu);
	if (family == FAMILY_IPV4) {
		write_ipv4(ip, 0, length, IPPROTO_ICMP, vip.word[0], client.word[0]);
		icmp->type = ICMP_UNREACHABLE;
		icmp->code = ICMP_FRAGMENTATION_NEEDED;
	} else {
		write_ipv6(ip, 0, length, IPPROTO_ICMPV6, &vip, &client);
		icmp->type = ICMPV6_TOO_BIG;
		icmp->code = 0;
		sum += checksum_address(&vip) + checksum_address(&client);
		sum += to_be16((__u16)(length - ip_header_size(family)));
		sum += to_be16(IPPROTO_ICMPV6);
	}
	sum += (icmp->type | (__u16)icmp->code << 8) + icmp->mtu;
	icmp->checksum = checksum_fold(sum);
	quote = (void *)(icmp + 1);
#pragma unroll
	for (int i = 0; i < QUOTE_WORDS; i++)
		quote[i] = quoted[i];
	if (!frame_trim(ctx, sizeof(*eth) + length))
		return drop(DROP_MTU_EXCEEDED);
	count_icmp(ICMP_TOO_BIG_SENT);
	drop(DROP_MTU_EXCEEDED);
	return XDP_TX;
}
