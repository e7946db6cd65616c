/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * maglev.h - which backend a new flow goes to. The hash is Cilium's, so that a
 * balancer of theirs with the same table makes the same choice.
 */
#pragma once

#include "maps.h"

/* JHASH_INITVAL of Linux's jhash.h, and Cilium's default seed for IPv4. */
#define JHASH_INITIAL 0xdeadbeef
#define JHASH_SEED_IPV4 1910299206U

static __always_inline __u32 rotate_left(__u32 word, __u32 by)
{
	return (word << by) | (word >> (32 - by));
}

/* jhash_3words of Linux's jhash.h: Bob Jenkins' lookup3 for three words. */
static __always_inline __u32 jhash_3words(__u32 a, __u32 b, __u32 c, __u32 seed)
{
	seed += JHASH_INITIAL + (3 << 2);
	a += seed;
	b += seed;
	c += seed;

	c ^= b;
	c -= rotate_left(b, 14);
	a ^= c;
	a -= rotate_left(c, 11);
	b ^= a;
	b -= rotate_left(a, 25);
	c ^= b;
	c -= rotate_left(b, 16);
	a ^= c;
	a -= rotate_left(c, 4);
	b ^= a;
	b -= rotate_left(a, 14);
	c ^= b;
	c -= rotate_left(b, 24);
	return c;
}

/* The VIP is not in it: one client lands on one backend of all VIPs that share it. */
static __always_inline __u32 flow_hash(const struct flow_key *flow)
{
	return jhash_3words(flow->saddr, (__u32)flow->dport << 16 | flow->sport, flow->proto,
			    JHASH_SEED_IPV4);
}

/* The id of the flow's backend, 0 when the service has none. */
static __always_inline __u32 maglev_select(const struct service *service,
					   const struct flow_key *flow)
{
	__u32 slot = service->slot;
	__u32 size = service->table_size;
	__u32 index;
	__u32 *id;
	void *table;

	if (!size)
		return 0;
	table = map_lookup(&maglev, &slot);
	if (!table)
		return 0;
	index = flow_hash(flow) % size;
	id = map_lookup(table, &index);
	return id ? *id : 0;
}
