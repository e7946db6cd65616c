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
 * checksums itself where the card had vouched for the outer packet. A merged packet
 * is counted as the packets that it was made of: those the balancer counted.
 */
#include "platform/linux_tc.h"

#include "lib/decap.h"

/* As many as the balancer passes. Its maps come with parse.h, so this reads them itself. */
#define DECAP_EXTENSIONS 4

/* Of those that the balancer passes; fragments GRO leaves alone. */
static __always_inline bool is_extension(__u8 proto)
{
	return proto == IPPROTO_HOPOPTS || proto == IPPROTO_DSTOPTS;
}

/*
 * The bytes of the inner packet's IP and transport headers, which each segment of a
 * merged packet had; 0 when they cannot be read. They may lie outside of the linear
 * part, where only the helper reads.
 */
static __always_inline __u32 inner_headers(struct tc_context *ctx, const enum family family)
{
	const __u32 inner = sizeof(struct eth_header) + ip_header_size(family);
	struct ipv6_extension extension;
	__u32 length, tcp_length;
	struct ipv4_header ip4;
	struct ipv6_header ip6;
	struct tcp_header tcp;
	__u8 proto;

	if (family == FAMILY_IPV4) {
		if (skb_load_bytes(ctx, inner, &ip4, sizeof(ip4)))
			return 0;
		length = (ip4.version_ihl & 0x0f) * 4;
		proto = ip4.proto;
	} else {
		if (skb_load_bytes(ctx, inner, &ip6, sizeof(ip6)))
			return 0;
		length = sizeof(ip6);
		proto = ip6.next_header;
		for (int i = 0; i < DECAP_EXTENSIONS && is_extension(proto); i++) {
			if (skb_load_bytes(ctx, inner + length, &extension, sizeof(extension)))
				return 0;
			length += (extension.length + 1) * 8;
			proto = extension.next_header;
		}
	}
	if (proto == IPPROTO_UDP)
		return length + sizeof(struct udp_header);
	if (proto != IPPROTO_TCP || skb_load_bytes(ctx, inner + length, &tcp, sizeof(tcp)))
		return 0;
	tcp_length = (tcp.data_offset >> 4) * 4;
	return tcp_length < sizeof(tcp) ? 0 : length + tcp_length;
}

/* The frames that a packet stands for, as far as the kernel has counted them. */
static __always_inline __u32 frames(const struct tc_context *ctx)
{
	return ctx->gso_size && ctx->gso_segs ? ctx->gso_segs : 1;
}

/*
 * Counts a packet as what came over the wire: each segment had the inner headers, of
 * which a merged packet has one copy. A card that merges itself (virtio-net with guest
 * offloads, SKB_GSO_DODGY) leaves the segments uncounted; then their payload tells. If
 * the headers cannot be read, the bytes are the merged packet's own, and uncounted
 * segments are one packet.
 */
static __always_inline void measure(struct tc_context *ctx, __u32 inner_length,
				    const enum family family, __u32 *packets, __u64 *bytes)
{
	__u32 headers;

	*packets = frames(ctx);
	*bytes = inner_length;
	if (!ctx->gso_size)
		return;
	headers = inner_headers(ctx, family);
	if (!headers || headers >= inner_length)
		return;
	if (!ctx->gso_segs)
		*packets = (inner_length - headers + ctx->gso_size - 1) / ctx->gso_size;
	*bytes += (__u64)(*packets - 1) * headers;
}

static __always_inline int decap(struct tc_context *ctx, struct decap_traffic *traffic,
				 const enum family family)
{
	__u32 inner_length = 0, packets;
	enum decap_verdict verdict;
	__u64 bytes;

	/* Drivers may leave headers in a page of their own. */
	if (packet_start(ctx) + DECAP_HEADERS(family) > packet_end(ctx) &&
	    ctx->len >= DECAP_HEADERS(family))
		skb_pull_data(ctx, DECAP_HEADERS(family));
	verdict = decap_judge(packet_start(ctx), packet_end(ctx), ctx->len, family, &inner_length);
	if (verdict == DECAP_VERDICT_PASS) {
		traffic->passed_packets += frames(ctx);
		return TC_ACT_UNSPEC;
	}
	if (verdict == DECAP_VERDICT_MALFORMED) {
		traffic->malformed_packets += frames(ctx);
		return TC_ACT_SHOT;
	}
	/* Before the header is cut: that clears gso_segs. */
	measure(ctx, inner_length, family, &packets, &bytes);
	if (skb_adjust_room(ctx, -(__s32)ip_header_size(family), ADJ_ROOM_MAC, ADJ_ROOM_FIXED_GSO)) {
		traffic->malformed_packets += packets;
		return TC_ACT_SHOT;
	}
	traffic->decapsulated_packets += packets;
	traffic->decapsulated_bytes += bytes;
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
	traffic->passed_packets += frames(ctx);
	return TC_ACT_UNSPEC;
}

char _license[] SEC("license") = "GPL";
