/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * decap.h - the backend's side of DSR: which packets lose their outer header.
 * Only IP-in-IP that the balancer sent to this very backend does. A bridge
 * floods frames for MACs it has not learned, so a backend sees, and without the
 * check of the address would answer, what others are meant to get.
 */
#pragma once

#include "packet.h"

struct {
	__uint(type, MAP_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct decap_config);
} decap_config SEC(".maps");

struct {
	__uint(type, MAP_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct decap_traffic);
} decap_stats SEC(".maps");

/* Of the frame, the part that decides: Ethernet, outer header, inner header. */
#define DECAP_HEADERS (sizeof(struct eth_header) + 2 * sizeof(struct ipv4_header))
#define DECAP_STRIP ((int)sizeof(struct ipv4_header))

enum decap_verdict {
	DECAP_VERDICT_PASS,
	DECAP_VERDICT_STRIP,
	DECAP_VERDICT_MALFORMED,
};

/*
 * Judges a frame of which the bytes from data to end can be read; in_frame is
 * its whole length. *inner_length is the inner IP total length of one to strip.
 */
static __always_inline enum decap_verdict decap_judge(void *data, void *end, __u64 in_frame,
						      __u32 *inner_length)
{
	struct eth_header *eth = data;
	struct ipv4_header *outer = (void *)(eth + 1);
	struct ipv4_header *inner = (void *)(outer + 1);
	__u32 zero = 0, outer_length, inner_header;
	struct decap_config *cfg;

	cfg = map_lookup(&decap_config, &zero);
	if (!cfg || !cfg->address)
		return DECAP_VERDICT_PASS;
	if ((void *)(outer + 1) > end)
		return DECAP_VERDICT_PASS;
	/* 0x45: version 4 and no options, as the balancer sends it. */
	if (eth->proto != ETHERTYPE_IPV4 || outer->version_ihl != 0x45 ||
	    outer->proto != IPPROTO_IPIP || outer->daddr != cfg->address)
		return DECAP_VERDICT_PASS;
	if (cfg->balancer && outer->saddr != cfg->balancer)
		return DECAP_VERDICT_PASS;
	if (outer->fragment & (IP_MORE_FRAGMENTS | IP_FRAGMENT_OFFSET))
		return DECAP_VERDICT_PASS;

	if ((void *)(inner + 1) > end)
		return DECAP_VERDICT_MALFORMED;
	outer_length = from_be16(outer->total_length);
	if (outer_length < 2 * sizeof(*outer) || sizeof(*eth) + outer_length > in_frame)
		return DECAP_VERDICT_MALFORMED;
	inner_header = (inner->version_ihl & 0x0f) * 4;
	*inner_length = from_be16(inner->total_length);
	if (inner->version_ihl >> 4 != 4 || inner_header < sizeof(*inner) ||
	    *inner_length < inner_header || *inner_length > outer_length - sizeof(*outer))
		return DECAP_VERDICT_MALFORMED;
	return DECAP_VERDICT_STRIP;
}

/* Null only where the map is missing, which the loaders do not allow. */
static __always_inline struct decap_traffic *decap_traffic(void)
{
	__u32 zero = 0;

	return map_lookup(&decap_stats, &zero);
}
