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
#include "platform/platform.h"

#include "lib/decap.h"

SEC(DECAP_TC_SECTION)
int decap_tc(struct tc_context *ctx)
{
	struct decap_traffic *traffic = decap_traffic();
	enum decap_verdict verdict;
	__u32 inner_length = 0;

	if (!traffic)
		return TC_ACT_UNSPEC;
	/* Drivers may leave headers in a page of their own. */
	if (packet_start(ctx) + DECAP_HEADERS > packet_end(ctx) && ctx->len >= DECAP_HEADERS)
		skb_pull_data(ctx, DECAP_HEADERS);
	verdict = decap_judge(packet_start(ctx), packet_end(ctx), ctx->len, &inner_length);
	if (verdict == DECAP_VERDICT_PASS) {
		traffic->passed_packets++;
		return TC_ACT_UNSPEC;
	}
	if (verdict == DECAP_VERDICT_MALFORMED ||
	    skb_adjust_room(ctx, -DECAP_STRIP, ADJ_ROOM_MAC, ADJ_ROOM_FIXED_GSO)) {
		traffic->malformed_packets++;
		return TC_ACT_SHOT;
	}
	traffic->decapsulated_packets++;
	traffic->decapsulated_bytes += inner_length;
	return TC_ACT_UNSPEC;
}

char _license[] SEC("license") = "GPL";
