//go:build ignore
/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * decap_tc.c - strips DSR's outer header at TC ingress: the program of Linux
 * backends. It leaves every packet to the next filter, the stripped one too.
 *
 * bpf_skb_adjust_room gets no DECAP flag: those only say that the IP version
 * changes, and 6.1 refuses them. The stack's GRO may have merged the balancer's
 * packets; FIXED_GSO (5.2) keeps the segments' size as it was, since what is cut
 * here is a header, not payload. The helper makes the stack check the inner
 * checksums itself where the card had vouched for the outer packet.
 */
#include "platform/linux_tc.h"

#include "lib/decap.h"

static __always_inline int decap(struct tc_context *ctx, struct decap_traffic *traffic,
				 const enum family family)
{
	enum decap_verdict verdict;
	__u32 inner_length = 0;

	/* Drivers may leave headers in a page of their own. */
	if (packet_start(ctx) + DECAP_HEADERS(family) > packet_end(ctx) &&
	    ctx->len >= DECAP_HEADERS(family))
		skb_pull_data(ctx, DECAP_HEADERS(family));
	verdict = decap_judge(packet_start(ctx), packet_end(ctx), ctx->len, family, &inner_length);
	if (verdict == DECAP_VERDICT_PASS) {
		traffic->passed_packets++;
		return TC_ACT_UNSPEC;
	}
	if (verdict == DECAP_VERDICT_MALFORMED ||
	    skb_adjust_room(ctx, -(__s32)ip_header_size(family), ADJ_ROOM_MAC, ADJ_ROOM_FIXED_GSO)) {
		traffic->malformed_packets++;
		return TC_ACT_SHOT;
	}
	traffic->decapsulated_packets++;
	traffic->decapsulated_bytes += inner_length;
	return TC_ACT_UNSPEC;
}

SEC(DECAP_TC_SECTION)
int decap_tc(struct tc_context *ctx)
{
	struct decap_traffic *traffic = decap_traffic();

	if (!traffic)
		return TC_ACT_UNSPEC;
	switch (frame_family(packet_start(ctx), packet_end(ctx))) {
	case FAMILY_IPV4:
		return decap(ctx, traffic, FAMILY_IPV4);
	case FAMILY_IPV6:
		return decap(ctx, traffic, FAMILY_IPV6);
	}
	traffic->passed_packets++;
	return TC_ACT_UNSPEC;
}

char _license[] SEC("license") = "GPL";
