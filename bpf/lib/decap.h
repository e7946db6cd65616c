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
#define DECAP_HEADERS(family) (sizeof(struct eth_header) + 2 * ip_header_size(family))

enum decap_verdict {
	DECAP_VERDICT_PASS,
	DECAP_VERDICT_STRIP,
	DECAP_VERDICT_MALFORMED,
};

static __always_inline bool address_matches(const struct address *a, const struct address *pattern,
					    const struct address *mask)
{
	return !(((a->word[0] ^ pattern->word[0]) & mask->word[0]) |
		 ((a->word[1] ^ pattern->word[1]) & mask->word[1]) |
		 ((a->word[2] ^ pattern->word[2]) & mask->word[2]) |
		 ((a->word[3] ^ pattern->word[3]) & mask->word[3]));
}

/* An outer header as the balancer writes it: no options, no extensions, no fragment. */
static __always_inline bool is_for_us(const struct ipv4_header *ip4, const struct ipv6_header *ip6,
				      const struct decap_config *cfg, const enum family family)
{
	const struct address *own = &cfg->address6;

	if (family == FAMILY_IPV4)
		return cfg->address4 && ip4->version_ihl == 0x45 && ip4->proto == IPPROTO_IPIP &&
		       ip4->daddr == cfg->address4 &&
		       !((ip4->saddr ^ cfg->source4) & cfg->mask4) &&
		       !(ip4->fragment & (IP_MORE_FRAGMENTS | IP_FRAGMENT_OFFSET));
	return (own->word[0] | own->word[1] | own->word[2] | own->word[3]) &&
	       ip6->version_class >> 4 == 6 && ip6->next_header == IPPROTO_IPV6 &&
	       ip6->daddr.word[0] == own->word[0] && ip6->daddr.word[1] == own->word[1] &&
	       ip6->daddr.word[2] == own->word[2] && ip6->daddr.word[3] == own->word[3] &&
	       address_matches(&ip6->saddr, &cfg->source6, &cfg->mask6);
}

/*
 * Judges a frame of which the bytes from data to end can be read; in_frame is
 * its whole length. *inner_length is the inner IP length of one to strip.
 */
static __always_inline enum decap_verdict decap_judge(void *data, void *end, __u64 in_frame,
						      const enum family family,
						      __u32 *inner_length)
{
	struct eth_header *eth = data;
	void *outer = eth + 1;
	void *inner = outer + ip_header_size(family);
	struct ipv4_header *outer4 = outer, *inner4 = inner;
	struct ipv6_header *outer6 = outer, *inner6 = inner;
	__u32 zero = 0, outer_length, inner_header;
	struct decap_config *cfg;

	cfg = map_lookup(&decap_config, &zero);
	if (!cfg)
		return DECAP_VERDICT_PASS;
	if (outer + ip_header_size(family) > end)
		return DECAP_VERDICT_PASS;
	if (!is_for_us(outer4, outer6, cfg, family))
		return DECAP_VERDICT_PASS;

	if (inner + ip_header_size(family) > end)
		return DECAP_VERDICT_MALFORMED;
	if (family == FAMILY_IPV4) {
		outer_length = from_be16(outer4->total_length);
		inner_header = (inner4->version_ihl & 0x0f) * 4;
		*inner_length = from_be16(inner4->total_length);
		if (inner4->version_ihl >> 4 != 4 || inner_header < sizeof(*inner4))
			return DECAP_VERDICT_MALFORMED;
	} else {
		outer_length = from_be16(outer6->payload_length) + sizeof(*outer6);
		inner_header = sizeof(*inner6);
		*inner_length = from_be16(inner6->payload_length) + sizeof(*inner6);
		if (inner6->version_class >> 4 != 6)
			return DECAP_VERDICT_MALFORMED;
	}
	if (outer_length < 2 * ip_header_size(family) || sizeof(*eth) + outer_length > in_frame)
		return DECAP_VERDICT_MALFORMED;
	if (*inner_length < inner_header ||
	    *inner_length > outer_length - (__u32)ip_header_size(family))
		return DECAP_VERDICT_MALFORMED;
	return DECAP_VERDICT_STRIP;
}

/* The family that a frame says it is of; 0 when it is of neither. */
static __always_inline __u8 frame_family(void *data, void *end)
{
	struct eth_header *eth = data;

	if ((void *)(eth + 1) > end)
		return 0;
	if (eth->proto == ETHERTYPE_IPV4)
		return FAMILY_IPV4;
	return eth->proto == ETHERTYPE_IPV6 ? FAMILY_IPV6 : 0;
}

/* Null only where the map is missing, which the loaders do not allow. */
static __always_inline struct decap_traffic *decap_traffic(void)
{
	__u32 zero = 0;

	return map_lookup(&decap_stats, &zero);
}
