//go:build ignore
/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * decap_xdp.c - strips DSR's outer header at XDP: the program of Windows
 * backends, and of Linux ones that want it before the stack allocates anything.
 */
#include "platform/platform.h"

#include "lib/decap.h"

/* Moves the Ethernet header over the outer IP header and cuts what was before it. */
static __always_inline bool strip(struct xdp_context *ctx, const enum family family)
{
	struct eth_header *eth = packet_start(ctx);
	__u16 dest[3], source[3];

	if ((void *)(eth + 1) > packet_end(ctx))
		return false;
	mac_copy(dest, eth->dest);
	mac_copy(source, eth->source);
	if (adjust_head(ctx, (int)ip_header_size(family)))
		return false;
	eth = packet_start(ctx);
	if ((void *)(eth + 1) > packet_end(ctx))
		return false;
	mac_copy(eth->dest, dest);
	mac_copy(eth->source, source);
	eth->proto = family == FAMILY_IPV4 ? ETHERTYPE_IPV4 : ETHERTYPE_IPV6;
	return true;
}

static __always_inline int decap(struct xdp_context *ctx, struct decap_traffic *traffic,
				 const enum family family)
{
	void *data = packet_start(ctx), *end = packet_end(ctx);
	enum decap_verdict verdict;
	__u32 inner_length = 0;

	verdict = decap_judge(data, end, end - data, family, &inner_length);
	if (verdict == DECAP_VERDICT_PASS) {
		traffic->passed_packets++;
		return XDP_PASS;
	}
	if (verdict == DECAP_VERDICT_MALFORMED || !strip(ctx, family)) {
		traffic->malformed_packets++;
		return XDP_DROP;
	}
	traffic->decapsulated_packets++;
	traffic->decapsulated_bytes += inner_length;
	return XDP_PASS;
}

SEC(DECAP_XDP_SECTION)
int decap_xdp(struct xdp_context *ctx)
{
	struct decap_traffic *traffic = decap_traffic();

	if (!traffic)
		return XDP_PASS;
	switch (frame_family(packet_start(ctx), packet_end(ctx))) {
	case FAMILY_IPV4:
		return decap(ctx, traffic, FAMILY_IPV4);
	case FAMILY_IPV6:
		return decap(ctx, traffic, FAMILY_IPV6);
	}
	traffic->passed_packets++;
	return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
