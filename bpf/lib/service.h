/* SPDX-License-Identifier: GPL-2.0-only */
/* service.h - which service a packet asks for, and whether it may. */
#pragma once

#include "family.h"

static __always_inline void service_key_init(struct service_key *key, const struct address *vip,
					     __be16 port, __u8 proto, const enum family family)
{
	__builtin_memset(key, 0, sizeof(*key));
	key->vip = *vip;
	key->port = port;
	key->proto = proto;
	key->family = family;
}

/* The service of the port, else that of all ports. */
static __always_inline struct service *service_lookup(const struct flow *flow,
						      const enum family family)
{
	struct service_key key;
	struct service *service;

	service_key_init(&key, &flow->daddr, flow->dport, flow->proto, family);
	service = map_lookup(&services, &key);
	if (service)
		return service;
	key.port = 0;
	return map_lookup(&services, &key);
}

/* Whether an address is a VIP at all. */
static __always_inline bool is_vip(const struct address *a, const enum family family)
{
	struct service_key key;

	service_key_init(&key, a, 0, family == FAMILY_IPV4 ? IPPROTO_ICMP : IPPROTO_ICMPV6,
			 family);
	return map_lookup(&services, &key);
}

static __always_inline bool source_allowed(struct request *r, const struct service *service)
{
	struct source_key *key = &r->source_key;

	if (!(service->flags & SERVICE_RANGES))
		return true;
	key->prefix_length = 8 * (sizeof(*key) - sizeof(key->prefix_length));
	key->service_slot = to_be32(service->slot);
	key->source = r->flow.saddr;
	return map_lookup(&sources, key);
}
