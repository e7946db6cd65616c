/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * windows.h - the numbers of eBPF for Windows 0.21 (ebpf_structs.h,
 * ebpf_nethooks.h): its general helpers count from 1, those of the XDP_TEST
 * hook from 65536. None of this was run on a Windows host: the objects are
 * checked against this table and by PREVAIL only.
 */
#pragma once

/* The hook of efW 0.13 to 0.21, whose bpf_xdp_adjust_head works. */
#define LB_SECTION "xdp_test"
#define DECAP_XDP_SECTION "xdp_test"

#define MAP_HASH 1
#define MAP_ARRAY 2
#define MAP_PERCPU_ARRAY 5
#define MAP_HASH_OF_MAPS 6
#define MAP_LRU_HASH 8

/* No such flag: every inner array has the template's size there. */
#define MAP_OF_ANY_SIZE

#define MAP_UPDATE_ANY 0
#define MAP_UPDATE_NOEXIST 1

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

static void *(*const map_lookup)(void *map, const void *key) = (void *)1;
static long (*const map_update)(void *map, const void *key, const void *value, __u64 flags) =
	(void *)2;
static long (*const map_delete)(void *map, const void *key) = (void *)3;
static __u32 (*const prandom)(void) = (void *)6;
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
