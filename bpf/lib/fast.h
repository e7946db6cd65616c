/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * fast.h - the packet of an established flow, which is what most packets are:
 * one look at the flow, one at its backend, and it leaves. Whatever asks for more, be
 * it a flag, a fault or a look that finds nothing, is left to slow.h, untouched.
 */
#pragma once

#include "conntrack.h"
#include "encap.h"
#include "nat.h"
#include "parse.h"
#include "stages.h"

/* SNAT's way back is looked after once in so long, if no reply proves it. */
#define WAY_BACK_NS 1000000000ULL

/* What has become of a packet, for who is to answer the driver. */
#define NOT_FAST (-1)

static __always_inline int fast_request(struct xdp_context *ctx, const struct lb_config *cfg,
					const struct packet *packet, const struct flow *flow,
					const enum family family)
{
	struct ct_entry *entry = flow_find(flow, family);
	struct backend *backend;
	__u32 slot, id;
	__u64 now;

	if (!entry)
		return NOT_FAST;
	now = coarse_clock_ns();
	if (conntrack_expired(entry, flow->proto, cfg, now))
		return NOT_FAST;
	id = entry->backend_id;
	backend = backend_lookup(id);
	if (!backend)
		return NOT_FAST;
	if (backend->mac_slot >= MAC_UNKNOWN)
		return NOT_FAST;
	slot = backend->service_slot;
	if (entry->mode == LB_MODE_SNAT) {
		struct address own;
		struct translation to;

		if (now > entry->way_back_ns && now - entry->way_back_ns > WAY_BACK_NS)
			return NOT_FAST;
		/* Replies shall follow a client that comes by another router now. */
		if (!mac_equal((const __u16 *)entry->client_mac, packet->source_mac))
			return NOT_FAST;
		own_address(cfg, family, &own);
		to.saddr = &own;
		to.daddr = &backend->address;
		to.sport = entry->nat_port;
		to.dport = backend->port ? backend->port : flow->dport;
		to.next_hop = next_hop_of(backend);
		if (!nat_rewrite(ctx, cfg, packet, flow, &to, family))
			return drop(DROP_MALFORMED_L4);
	} else {
		if (!encap_fits(packet, backend, cfg, family))
			return NOT_FAST;
		if (!encap(ctx, cfg, packet, flow, backend, family))
			return drop(DROP_ADJUST_HEAD);
	}
	conntrack_seen_rx(entry, flow->proto, packet, now, false);
	count_rx(slot, id, packet->length, false);
	return XDP_TX;
}

static __always_inline int fast_reply(struct xdp_context *ctx, const struct lb_config *cfg,
				      const struct packet *packet, const struct flow *reply,
				      const enum family family)
{
	struct translation to;
	struct nat_entry *way_back;
	struct backend *backend;
	struct ct_entry *entry;
	struct flow client;
	__u64 now;

	if (!in_pool(cfg, reply->dport))
		return XDP_PASS;
	way_back = nat_find(reply, family);
	if (!way_back)
		return NOT_FAST;
	client_flow(&client, way_back, reply->proto);
	entry = flow_find(&client, family);
	if (!entry)
		return NOT_FAST;
	now = coarse_clock_ns();
	if (!has_way_back(entry, way_back, reply, cfg, now))
		return NOT_FAST;
	backend = backend_lookup(entry->backend_id);
	if (!backend)
		return NOT_FAST;
	to.saddr = &client.daddr;
	to.daddr = &client.saddr;
	to.sport = client.dport;
	to.dport = client.sport;
	to.next_hop = (const __u16 *)way_back->client_mac;
	if (!nat_rewrite(ctx, cfg, packet, reply, &to, family))
		return drop(DROP_MALFORMED_L4);
	conntrack_seen_tx(entry, packet, now);
	count_tx(backend->service_slot, entry->backend_id, packet->length);
	return XDP_TX;
}

static __always_inline int fast(struct xdp_context *ctx, const enum family family)
{
	int verdict = NOT_FAST;
	struct packet packet;
	struct lb_config *cfg;
	struct flow flow;
	__u32 zero = 0;

	cfg = map_lookup(&config, &zero);
	if (!cfg)
		return XDP_PASS;
	switch (parse_simple(packet_start(ctx), packet_end(ctx), cfg, family, &packet, &flow)) {
	case PARSED_NOT_OURS:
		return XDP_PASS;
	case PARSED_PORTS:
		if (packet.tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST))
			break;
		if (is_own_address(cfg, &flow.daddr, family))
			verdict = fast_reply(ctx, cfg, &packet, &flow, family);
		else
			verdict = fast_request(ctx, cfg, &packet, &flow, family);
		break;
	default:
		break;
	}
	if (verdict != NOT_FAST)
		return verdict;
	return go_on(ctx, family == FAMILY_IPV4 ? STAGE_SLOW4 : STAGE_SLOW6);
}
