/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * linux.h - Linux's numbers, as its UAPI (linux/bpf.h) fixes them. The
 * youngest thing used is bpf_ktime_get_coarse_ns (5.11); inner maps of other
 * sizes than their template came with 5.10.
 */
#pragma once

#define LB_SECTION "xdp"
#define DECAP_XDP_SECTION "xdp"

#define MAP_PERCPU_ARRAY 6
#define MAP_LRU_HASH 9
#define MAP_LPM_TRIE 11
#define MAP_HASH_OF_MAPS 13
#define MAP_RINGBUF 27

/*
 * BPF_F_INNER_MAP: an inner array's size may differ from that of the template.
 * BPF_F_MMAPABLE (5.5): the agent writes it as memory, not entry by entry.
 */
#define MAP_OF_ANY_SIZE __uint(map_flags, 0x1000 | 0x400);

/*
 * BPF_F_NO_COMMON_LRU: each CPU evicts from a share of its own, without a lock and
 * for half the cost. What it entered is found on all of them.
 */
#define MAP_LRU_OF_EACH_CPU __uint(map_flags, 2);

/* BPF_F_NO_PREALLOC: a trie must have it. */
#define MAP_NO_PREALLOC __uint(map_flags, 1);

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

static __u32 (*const prandom)(void) = (void *)7;
static long (*const tail_call)(void *ctx, void *programs, __u32 index) = (void *)12;
static long (*const adjust_head)(struct xdp_context *ctx, int delta) = (void *)44;
static long (*const adjust_tail)(struct xdp_context *ctx, int delta) = (void *)65;
static long (*const ringbuf_output)(void *ring, void *data, __u64 size, __u64 flags) =
	(void *)130;
static __u64 (*const ktime_get_coarse_ns)(void) = (void *)160;

/*
 * The clock of the tables: CLOCK_MONOTONIC_COARSE, which is the last timer
 * tick's time. Reading it costs a fraction of what the exact clock costs.
 */
static __always_inline __u64 coarse_clock_ns(void)
{
	return ktime_get_coarse_ns();
}

/*
 * A loop as it is, which the verifier follows to its end (5.3): unrolled, it would be
 * most of its program, and each call that the kernel replaces moves what is behind it.
 */
#define LOOP_OF_MANY _Pragma("clang loop unroll(disable)")

/* Cuts the frame to a length. False when it cannot be cut. */
static __always_inline bool frame_trim(struct xdp_context *ctx, __u64 length)
{
	__u64 now = packet_end(ctx) - packet_start(ctx);

	return adjust_tail(ctx, (int)length - (int)now) == 0;
}
