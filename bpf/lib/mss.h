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

static __always_inline void mss_clamp(struct xdp_context *ctx, const struct packet *packet,
				      __u16 mss)
{
	void *end = packet_end(ctx);
	struct tcp_header *tcp =
		packet_start(ctx) + sizeof(struct eth_header) + packet->l4_offset;
	__u64 offset = sizeof(*tcp);
	__u64 options_end;

	if ((void *)(tcp + 1) > end)
		return;
	options_end = (tcp->data_offset >> 4) * 4;
#pragma unroll
	for (int i = 0; i < MSS_OPTIONS; i++) {
		__u8 *option = (void *)tcp + offset;
		__u8 odd;
		__u16 was, now;

		if (offset + TCP_OPTION_MSS_LENGTH > options_end || offset > 60)
			return;
		if ((void *)(option + TCP_OPTION_MSS_LENGTH) > end)
			return;
		if (option[0] == TCP_OPTION_END)
			return;
		if (option[0] == TCP_OPTION_NOP) {
			offset++;
			continue;
		}
		if (option[1] < 2)
			return;
		if (option[0] != TCP_OPTION_MSS) {
			offset += option[1];
			continue;
		}
		if (option[1] != TCP_OPTION_MSS_LENGTH)
			return;
		was = option[2] << 8 | option[3];
		if (was <= mss)
			return;
		/* At an odd offset its bytes stand in two words, the halves swapped. */
		odd = offset & 1;
		now = mss;
		option[2] = now >> 8;
		option[3] = now;
		if (!odd) {
			was = to_be16(was);
			now = to_be16(now);
		}
		tcp->checksum = checksum_apply(tcp->checksum, checksum_delta16(was, now));
		return;
	}
}
