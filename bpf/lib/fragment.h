/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * fragment.h - a packet's fragments go where the first one went, which alone
 * has the ports. One that comes before the first is dropped: it cannot be kept.
 */
#pragma once

#include "family.h"

static __always_inline void fragment_key_init(struct fragment_key *key, const struct flow *flow,
					      __be32 id, const enum family family)
{
	__builtin_memset(key, 0, sizeof(*key));
	key->saddr = flow->saddr;
	key->daddr = flow->daddr;
	key->id = id;
	key->proto = flow->proto;
	key->family = family;
}

/* Gives a later fragment's flow its ports; false when nobody knows them. */
static __always_inline bool fragment_follow(const struct lb_config *cfg, struct flow *flow,
					    __be32 id, const enum family family)
{
	struct request *r = request_of_this_cpu();
	__u64 now = coarse_clock_ns();
	struct fragment *first;

	if (!r)
		return false;
	fragment_key_init(&r->fragment_key, flow, id, family);
	first = map_lookup(&fragments, &r->fragment_key);
	if (!first)
		return false;
	if (now > first->last_seen_ns && now - first->last_seen_ns > cfg->fragment_ns)
		return false;
	flow->sport = first->sport;
	flow->dport = first->dport;
	return true;
}

/* Keeps the ports of a first fragment that is forwarded, for those behind it. */
static __always_inline void fragment_lead(struct request *r, const enum family family)
{
	fragment_key_init(&r->fragment_key, &r->flow, r->packet.fragment_id, family);
	r->fragment.last_seen_ns = r->now;
	r->fragment.sport = r->flow.sport;
	r->fragment.dport = r->flow.dport;
	map_update(&fragments, &r->fragment_key, &r->fragment, MAP_UPDATE_ANY);
}
