/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * linux_tc.h - TC's side of Linux's numbers (linux/bpf.h, linux/pkt_cls.h). Windows
 * has no such hook, so only decap_tc.c includes it.
 */
#pragma once

#include "platform.h"

#define DECAP_TC_SECTION "tc"

/*
 * The part of struct __sk_buff that decap_tc.c reads. Of a packet that was merged, or
 * is yet to be cut: how many segments (gso_segs, 5.1) of how much payload each
 * (gso_size, 5.7), the last one of less. 0 where there is but one packet; of segments
 * also where nobody has counted them.
 */
struct tc_context {
	__u32 len;
	__u32 unused[18];
	__u32 data;
	__u32 data_end;
	__u32 unused2[20];
	__u32 gso_segs;
	__u64 sk;
	__u32 gso_size;
};

_Static_assert(__builtin_offsetof(struct tc_context, gso_segs) == 164, "struct __sk_buff");
_Static_assert(__builtin_offsetof(struct tc_context, gso_size) == 176, "struct __sk_buff");

/* Verdicts of a classifier: UNSPEC leaves the packet to the next filter. */
#define TC_ACT_UNSPEC (-1)
#define TC_ACT_SHOT 2

/* bpf_skb_adjust_room */
#define ADJ_ROOM_MAC 1
#define ADJ_ROOM_FIXED_GSO (1ULL << 0)

static long (*const skb_load_bytes)(const struct tc_context *ctx, __u32 offset, void *to,
				    __u32 len) = (void *)26;
static long (*const skb_pull_data)(struct tc_context *ctx, __u32 len) = (void *)39;
static long (*const skb_adjust_room)(struct tc_context *ctx, __s32 len_diff, __u32 mode,
				     __u64 flags) = (void *)50;
