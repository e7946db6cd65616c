/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * stats.h - counters. They are per CPU and a program is not interrupted by
 * another one on its CPU, so plain additions lose nothing. A packet counts as
 * traffic once it is certain to leave, and as one drop otherwise.
 */
#pragma once

#include "maps.h"

static __always_inline int drop(enum drop_reason reason)
{
	__u32 key = reason;
	__u64 *packets = map_lookup(&drops, &key);

	if (packets)
		(*packets)++;
	return XDP_DROP;
}

static __always_inline void count_icmp(enum icmp_deed deed)
{
	__u32 key = deed;
	__u64 *packets = map_lookup(&icmp_packets, &key);

	if (packets)
		(*packets)++;
}

static __always_inline void traffic_add_rx(struct traffic *traffic, __u32 bytes, bool opened)
{
	if (!traffic)
		return;
	traffic->rx_packets++;
	traffic->rx_bytes += bytes;
	traffic->connections += opened;
}

static __always_inline void traffic_add_tx(struct traffic *traffic, __u32 bytes)
{
	if (!traffic)
		return;
	traffic->tx_packets++;
	traffic->tx_bytes += bytes;
}

static __always_inline void count_rx(__u32 slot, __u32 backend, __u32 bytes, bool opened)
{
	traffic_add_rx(map_lookup(&service_stats, &slot), bytes, opened);
	traffic_add_rx(map_lookup(&backend_stats, &backend), bytes, opened);
}

static __always_inline void count_tx(__u32 slot, __u32 backend, __u32 bytes)
{
	traffic_add_tx(map_lookup(&service_stats, &slot), bytes);
	traffic_add_tx(map_lookup(&backend_stats, &backend), bytes);
}
