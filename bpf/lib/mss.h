/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * mss.h - bounds the TCP MSS option of a handshake (RFC 9293, 3.7.1): for paths
 * that lose ICMP. In DSR only the client's SYN passes, which bounds what the
 * backend sends; in SNAT both directions are bounded.
 */
#pragma once

#include "checksum.h"

#define TCP_OPTION_END 0
#define TCP_OPTION_NOP 1
#define TCP_OPTION_MSS 2
#define TCP_OPTION_MSS_LENGTH 4

/* Options that stand in front of MSS in real stacks' SYNs: none, or a NOP or two. */
#define MSS_OPTIONS 8

/* The longest TCP header, and the shortest. */
#define TCP_HEADER_MAX 60

/*
 * Where the MSS option stands in the header, 0 if it is not found. What is known of
 * the offset goes through the map `scratch`, as with parse.h's walk: else the Linux
 * verifier follows each way through the options by itself, to the end of the program.
 */
static __always_inline __u64 mss_find(struct tcp_header *tcp, void *end, volatile struct walk *walk)
{
	__u64 offset = sizeof(*tcp);
	__u64 options_end = (tcp->data_offset >> 4) * 4;

#pragma unroll
	for (int i = 0; i < MSS_OPTIONS; i++) {
		__u8 *option = (void *)tcp + offset;

		if (offset + TCP_OPTION_MSS_LENGTH > options_end)
			return 0;
		if ((void *)(option + TCP_OPTION_MSS_LENGTH) > end)
			return 0;
		if (option[0] == TCP_OPTION_END)
			return 0;
		if (option[0] == TCP_OPTION_MSS)
			return option[1] == TCP_OPTION_MSS_LENGTH ? offset : 0;
		if (option[0] != TCP_OPTION_NOP && option[1] < 2)
			return 0;
		walk->offset = offset + (option[0] == TCP_OPTION_NOP ? 1 : option[1]);
		offset = walk->offset;
		if (offset > TCP_HEADER_MAX)
			return 0;
	}
	return 0;
}

static __always_inline void mss_clamp(struct xdp_context *ctx, const struct packet *packet,
				      volatile struct walk *walk, __u16 mss)
{
	void *end = packet_end(ctx);
	struct tcp_header *tcp =
		packet_start(ctx) + sizeof(struct eth_header) + l4_offset(packet);
	__u16 was, now = mss;
	__u8 *option;
	__u64 offset;

	if ((void *)(tcp + 1) > end)
		return;
	offset = mss_find(tcp, end, walk);
	if (!offset)
		return;
	option = (void *)tcp + offset;
	if ((void *)(option + TCP_OPTION_MSS_LENGTH) > end)
		return;
	was = option[2] << 8 | option[3];
	if (was <= mss)
		return;
	option[2] = now >> 8;
	option[3] = now;
	/* At an odd offset its bytes stand in two words, the halves swapped. */
	if (!(offset & 1)) {
		was = to_be16(was);
		now = to_be16(now);
	}
	tcp->checksum = checksum_apply(tcp->checksum, checksum_delta16(was, now));
}
