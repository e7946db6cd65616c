/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * stages.h - the programs behind the one that is attached. That one only calls
 * the first of them, so that what a packet meets can be replaced while the
 * attachment stays (XDP for Windows does not replace an attached program). A
 * program is handed nothing but the frame, so each can be replaced by itself.
 *
 * All calls have constant indices: Linux turns those into plain jumps.
 */
#pragma once

#include "stats.h"

int lb_fast4(struct xdp_context *ctx);
int lb_slow4(struct xdp_context *ctx);
int lb_reply4(struct xdp_context *ctx);
int lb_icmp4(struct xdp_context *ctx);
int lb_too_big4(struct xdp_context *ctx);
int lb_fast6(struct xdp_context *ctx);
int lb_slow6(struct xdp_context *ctx);
int lb_reply6(struct xdp_context *ctx);
int lb_icmp6(struct xdp_context *ctx);
int lb_too_big6(struct xdp_context *ctx);

struct {
	__uint(type, MAP_PROG_ARRAY);
	__uint(max_entries, STAGE_MAX);
	__type(key, enum stage);
	__array(values, int(struct xdp_context *));
} stages SEC(".maps") = {
	.values = {
		[STAGE_FAST4] = lb_fast4,
		[STAGE_SLOW4] = lb_slow4,
		[STAGE_REPLY4] = lb_reply4,
		[STAGE_ICMP4] = lb_icmp4,
		[STAGE_TOO_BIG4] = lb_too_big4,
		[STAGE_FAST6] = lb_fast6,
		[STAGE_SLOW6] = lb_slow6,
		[STAGE_REPLY6] = lb_reply6,
		[STAGE_ICMP6] = lb_icmp6,
		[STAGE_TOO_BIG6] = lb_too_big6,
	},
};

/*
 * Goes on in another program. Returns only when that one is not there. The
 * statement behind the call says nothing to the processor, but another thing in each
 * place: else the compiler makes one call of several, with an index that varies.
 */
static __always_inline void call_stage(struct xdp_context *ctx, const enum stage stage)
{
	tail_call(ctx, &stages, stage);
	asm volatile("" : : "i"(stage));
}

static __always_inline int go_on(struct xdp_context *ctx, const enum stage stage)
{
	call_stage(ctx, stage);
	return drop(DROP_NO_STAGE);
}
