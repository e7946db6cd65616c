/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * linux.h - Linux's numbers, as its UAPI (linux/bpf.h) fixes them. The
 * youngest thing used is bpf_ktime_get_coarse_ns (5.11); inner maps of other
 * sizes than their template came with 5.10.
 */
#pragma once

#define LB_SECTION "xdp"
#define DECAP_XDP_SECTION "xdp"
#define DECAP_TC_SECTION "tc"

#define MAP_HASH 1
#define MAP_ARRAY 2
#define MAP_PERCPU_ARRAY 6
#define MAP_LRU_HASH 9
#define MAP_HASH_OF_MAPS 13

/* BPF_F_INNER_MAP: an inner array's size may differ from that of the template. */
#define MAP_OF_ANY_SIZE __uint(map_flags, 0x1000);

#define MAP_UPDATE_ANY 0
#define MAP_UPDATE_NOEXIST 1

/* enum xdp_action */
#define XDP_DROP 1
#define XDP_PASS 2
#define XDP_TX 3

/* struct xdp_md: data and data_end are offsets that the verifier makes pointers. */
struct xdp_context {
	__u32 data;
	__u32 data_end;
	__u32 data_meta;
	__u32 ingress_ifindex;
	__u32 rx_queue_index;
	__u32 egress_ifindex;
};

#define packet_start(ctx) ((void *)(long)(ctx)->data)
#define packet_end(ctx) ((void *)(long)(ctx)->data_end)

/* The part of struct __sk_buff that decap_tc.c reads. */
struct tc_context {
	__u32 len;
	__u32 unused[18];
	__u32 data;
	__u32 data_end;
};

/* Verdicts of a classifier: UNSPEC leaves the packet to the next filter. */
#define TC_ACT_UNSPEC (-1)
#define TC_ACT_SHOT 2

/* bpf_skb_adjust_room */
#define ADJ_ROOM_MAC 1
#define ADJ_ROOM_FIXED_GSO (1ULL << 0)

static void *(*const map_lookup)(void *map, const void *key) = (void *)1;
static long (*const map_update)(void *map, const void *key, const void *value, __u64 flags) =
	(void *)2;
static long (*const map_delete)(void *map, const void *key) = (void *)3;
static __u32 (*const prandom)(void) = (void *)7;
static long (*const skb_pull_data)(struct tc_context *ctx, __u32 len) = (void *)39;
static long (*const adjust_head)(struct xdp_context *ctx, int delta) = (void *)44;
static long (*const skb_adjust_room)(struct tc_context *ctx, __s32 len_diff, __u32 mode,
				     __u64 flags) = (void *)50;
static __u64 (*const ktime_get_coarse_ns)(void) = (void *)160;

/*
 * The clock of the tables: CLOCK_MONOTONIC_COARSE, which is the last timer
 * tick's time. Reading it costs a fraction of what the exact clock costs.
 */
static __always_inline __u64 coarse_clock_ns(void)
{
	return ktime_get_coarse_ns();
}
