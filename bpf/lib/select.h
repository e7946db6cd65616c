/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * select.h - which backend a new flow goes to. The hash is Cilium's, so that a
 * balancer of theirs with the same table makes the same choice.
 */
#pragma once

#include "family.h"

/* JHASH_INITVAL of Linux's jhash.h, and Cilium's default seeds. */
#define JHASH_INITIAL 0xdeadbeef
#define JHASH_SEED_IPV4 1910299206U
#define JHASH_SEED_IPV6 2454738568U

static __always_inline __u32 rotate_left(__u32 word, __u32 by)
{
	return (word << by) | (word >> (32 - by));
}

/* The last steps of Bob Jenkins' lookup3, as Linux's jhash.h has them. */
static __always_inline __u32 jhash_final(__u32 a, __u32 b, __u32 c)
{
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

struct jhash {
	__u32 a, b, c;
};

static __always_inline void jhash_mix(struct jhash *h)
{
	h->a -= h->c;
	h->a ^= rotate_left(h->c, 4);
	h->c += h->b;
	h->b -= h->a;
	h->b ^= rotate_left(h->a, 6);
	h->a += h->c;
	h->c -= h->b;
	h->c ^= rotate_left(h->b, 8);
	h->b += h->a;
	h->a -= h->c;
	h->a ^= rotate_left(h->c, 16);
	h->c += h->b;
	h->b -= h->a;
	h->b ^= rotate_left(h->a, 19);
	h->a += h->c;
	h->c -= h->b;
	h->c ^= rotate_left(h->b, 4);
	h->b += h->a;
}

/*
 * The VIP is not in it: one client lands on one backend of all VIPs that share
 * it. Under session affinity the client's port is not either.
 */
static __always_inline __u32 flow_hash(const struct flow *flow, bool affinity,
				       const enum family family)
{
	__u32 ports = (__u32)flow->dport << 16 | (affinity ? 0 : flow->sport);
	const __u32 seed = JHASH_SEED_IPV4 + JHASH_INITIAL + (3 << 2);
	struct jhash h;

	if (family == FAMILY_IPV4) /* jhash_3words */
		return jhash_final(flow->saddr.word[0] + seed, ports + seed, flow->proto + seed);
	h.a = flow->saddr.word[0];
	h.b = flow->saddr.word[1];
	h.c = flow->saddr.word[2];
	jhash_mix(&h);
	h.a += flow->saddr.word[3];
	h.b += ports;
	h.c += flow->proto;
	jhash_mix(&h);
	h.a += JHASH_SEED_IPV6;
	return jhash_final(h.a, h.b, h.c);
}

static __always_inline struct backend *backend_lookup(__u32 id)
{
	struct backend *backend = map_lookup(&backends, &id);

	/* An entry of state GONE is as good as none; PREVAIL wants the null check to itself. */
	if (!backend)
		return 0;
	return backend->state == BACKEND_GONE ? 0 : backend;
}

/*
 * The MAC that counts of a backend whose next hop answers. The mask tells the
 * verifier what was asked before, mac_slot < MAC_UNKNOWN: that of Linux 6.1 forgets
 * the bound of what it had to spill. The compiler remembers it, and would leave the
 * mask out if it saw where the slot comes from.
 */
static __always_inline const __u16 *next_hop_of(const struct backend *backend)
{
	__u32 slot = backend->mac_slot;

	asm volatile("" : "+r"(slot));
	return (const __u16 *)backend->mac[slot & 1];
}

/* The id of a new flow's backend in the service's table, 0 when there is none. */
static __always_inline __u32 select_by_table(const struct service *service,
					     const struct flow *flow, const enum family family)
{
	__u32 slot = service->slot;
	__u32 size = service->table_size;
	__u32 index, half;
	__u64 *pair;
	void *table;

	if (!size)
		return 0;
	table = map_lookup(&maglev, &slot);
	if (!table)
		return 0;
	if (service->flags & SERVICE_RANDOM)
		index = prandom() % size;
	else
		index = flow_hash(flow, service->flags & SERVICE_AFFINITY, family) % size;
	half = index / 2;
	pair = map_lookup(table, &half);
	if (!pair)
		return 0;
	return index & 1 ? *pair >> 32 : *pair;
}

/*
 * Under affinity: the id of the backend that the client has, 0 when it has none
 * that takes new flows. Leaves the key in scratch.
 */
static __always_inline __u32 affinity_find(struct request *r, const struct service *service,
					   const struct flow *flow, __u64 now)
{
	struct affinity *known;
	struct backend *backend;
	__u32 id;

	r->affinity_key.client = flow->saddr;
	r->affinity_key.service_slot = service->slot;
	known = map_lookup(&affinities, &r->affinity_key);
	if (!known)
		return 0;
	if (now > known->last_seen_ns && now - known->last_seen_ns > service->affinity_ns)
		return 0;
	id = known->backend_id;
	backend = backend_lookup(id);
	if (!backend)
		return 0;
	if (backend->state != BACKEND_ACTIVE || backend->service_slot != service->slot)
		return 0;
	known->last_seen_ns = now;
	return id;
}

/*
 * The id of a new flow's backend: under affinity the one that the client has,
 * while that one takes new flows, else one of the table's.
 */
static __always_inline __u32 select_backend(struct request *r, const struct service *service,
					    const struct flow *flow, __u64 now,
					    const enum family family)
{
	__u32 id;

	if (!(service->flags & SERVICE_AFFINITY))
		return select_by_table(service, flow, family);
	id = affinity_find(r, service, flow, now);
	if (id)
		return id;
	id = select_by_table(service, flow, family);
	if (!id)
		return 0;
	r->affinity.last_seen_ns = now;
	r->affinity.backend_id = id;
	r->affinity.pad = 0;
	map_update(&affinities, &r->affinity_key, &r->affinity, MAP_UPDATE_ANY);
	return id;
}
