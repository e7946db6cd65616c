/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * windows.h - the numbers of eBPF for Windows 0.21 (ebpf_structs.h,
 * ebpf_nethooks.h): its general helpers count from 1, those of the XDP_TEST
 * hook from 65536. None of this was run on a Windows host: the objects are
 * checked against this table and by PREVAIL only.
 */
#pragma once

/*
 * The hook of efW 0.13 to 0.21, whose bpf_xdp_adjust_head works, and that of XDP for
 * Windows, with the same context and helpers, where it always fails.
 */
#ifdef PLATFORM_WINDOWS_XDP
#define LB_SECTION "xdp"
#define DECAP_XDP_SECTION "xdp"
#else
#define LB_SECTION "xdp_test"
#define DECAP_XDP_SECTION "xdp_test"
#endif

#define MAP_PERCPU_ARRAY 5
#define MAP_HASH_OF_MAPS 6
#define MAP_LRU_HASH 8
#define MAP_LPM_TRIE 9
#define MAP_RINGBUF 13

/* No such flag: every inner array has the template's size there. */
#define MAP_OF_ANY_SIZE
#define MAP_NO_PREALLOC
#define MAP_LRU_OF_EACH_CPU

/* xdp_action_t */
#define XDP_PASS 1
#define XDP_DROP 2
#define XDP_TX 3

/* struct xdp_md_t: real pointers, unlike Linux. */
struct xdp_context {
	void *data;
	void *data_end;
	__u64 data_meta;
	__u32 ingress_ifindex;
};

#define packet_start(ctx) ((ctx)->data)
#define packet_end(ctx) ((ctx)->data_end)

static long (*const tail_call)(void *ctx, void *programs, __u32 index) = (void *)5;
static __u32 (*const prandom)(void) = (void *)6;
static long (*const ringbuf_output)(void *ring, void *data, __u64 size, __u64 flags) =
	(void *)11;
static __u64 (*const ktime_get_boot_ms)(void) = (void *)30;
static long (*const adjust_head)(struct xdp_context *ctx, int delta) = (void *)65536;

/*
 * The clock of the tables: milliseconds since boot from the system's tick, as
 * nanoseconds, so that lifetimes have one unit everywhere.
 */
static __always_inline __u64 coarse_clock_ns(void)
{
	return ktime_get_boot_ms() * 1000000ULL;
}

/* PREVAIL (of 2025) does not see the end of a loop whose body calls helpers. */
#define LOOP_OF_MANY _Pragma("unroll")

/*
 * There is no way to cut a frame's end. What stands behind the IP packet is
 * padding to its receiver, as on short Ethernet frames: the client gets some of
 * its own bytes back that it will not look at.
 */
static __always_inline bool frame_trim(struct xdp_context *ctx, __u64 length)
{
	(void)ctx;
	(void)length;
	return true;
}
