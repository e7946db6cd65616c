/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * family.h - what differs between IPv4 and IPv6 beyond the headers: how an
 * address is compared, and which table has a flow. Everything else takes the
 * family as a constant and is written once; the compiler makes two programs of it.
 */
#pragma once

#include "maps.h"
#include "packet.h"

static __always_inline bool address_equal(const struct address *a, const struct address *b,
					  const enum family family)
{
	if (family == FAMILY_IPV4)
		return a->word[0] == b->word[0];
	return a->word[0] == b->word[0] && a->word[1] == b->word[1] &&
	       a->word[2] == b->word[2] && a->word[3] == b->word[3];
}

static __always_inline bool address_is_set(const struct address *a, const enum family family)
{
	if (family == FAMILY_IPV4)
		return a->word[0];
	return a->word[0] | a->word[1] | a->word[2] | a->word[3];
}

/* The balancer's own address of a family. */
static __always_inline void own_address(const struct lb_config *cfg, const enum family family,
					struct address *own)
{
	if (family == FAMILY_IPV4) {
		__builtin_memset(own, 0, sizeof(*own));
		own->word[0] = cfg->address4;
	} else {
		*own = cfg->address6;
	}
}

static __always_inline bool is_own_address(const struct lb_config *cfg, const struct address *a,
					   const enum family family)
{
	if (family == FAMILY_IPV4)
		return a->word[0] == cfg->address4;
	return address_equal(a, &cfg->address6, family);
}

static __always_inline struct request *request_of_this_cpu(void)
{
	__u32 zero = 0;

	return map_lookup(&scratch, &zero);
}

/* Knuth's multiplicative hash; the agent computes the same for vip_filter. */
#define GOLDEN_RATIO 0x9e3779b1U

static __always_inline __u32 address_bit(const struct address *a, const enum family family)
{
	__u32 word = a->word[0];

	if (family == FAMILY_IPV6)
		word ^= a->word[1] * 3 ^ a->word[2] * 5 ^ a->word[3] * 7;
	return (word * GOLDEN_RATIO) >> 16;
}

/* Whether the address may be a VIP or the balancer's own: false is certain. */
static __always_inline bool may_be_ours(const struct address *a, const enum family family)
{
	__u32 bit = address_bit(a, family);
	__u32 index = bit / 64;
	__u64 *word = map_lookup(&vip_filter, &index);

	return word && (*word >> (bit % 64) & 1);
}

/*
 * Written in two stores of 8 bytes: the kernel compares keys in such pieces, and a
 * processor waits for two narrower stores to be done before it loads what both wrote.
 */
static __always_inline void flow4_of(struct flow4 *key, const struct flow *flow)
{
	__u64 *halves = (__u64 *)key;

	halves[0] = (__u64)flow->daddr.word[0] << 32 | flow->saddr.word[0];
	halves[1] = (__u64)flow->proto << 32 | (__u32)flow->dport << 16 | flow->sport;
}

/* A flow as a key of its family's tables; IPv4's is made in the room. */
static __always_inline const void *table_key(struct flow4 *room, const struct flow *flow,
					     const enum family family)
{
	if (family == FAMILY_IPV6)
		return flow;
	flow4_of(room, flow);
	return room;
}

static __always_inline void *table_find(void *table4, void *table6, const struct flow *flow,
					const enum family family)
{
	struct flow4 room;
	const void *key = table_key(&room, flow, family);

	return map_lookup(family == FAMILY_IPV6 ? table6 : table4, key);
}

static __always_inline long table_insert(void *table4, void *table6, const struct flow *flow,
					 const void *value, const enum family family)
{
	struct flow4 room;
	const void *key = table_key(&room, flow, family);

	return map_update(family == FAMILY_IPV6 ? table6 : table4, key, value, MAP_UPDATE_NOEXIST);
}

static __always_inline void table_delete(void *table4, void *table6, const struct flow *flow,
					 const enum family family)
{
	struct flow4 room;
	const void *key = table_key(&room, flow, family);

	map_delete(family == FAMILY_IPV6 ? table6 : table4, key);
}
