/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * slow.h - every packet of a client that is not of an established flow, or has
 * something to it: handshakes and farewells, options and fragments, faults, and
 * what the tables have lost.
 */
#pragma once

#include "encap.h"
#include "mss.h"
#include "request.h"
#include "select.h"

/*
 * Whether a SYN finds that the service would not make such a flow any more: its
 * backend takes no new ones, or the service has another mode by now. In DSR the
 * end of a connection may never be seen, so a SYN is what tells that the client
 * has begun another one; a handshake that has only begun keeps its mode, for its
 * SYN may come twice.
 */
static __always_inline bool outdated(const struct ct_entry *entry, const struct backend *backend,
				     const struct service *service, const struct flow *flow,
				     const enum family family)
{
	if (backend->state != BACKEND_ACTIVE || backend->service_slot != service->slot)
		return true;
	if (!(entry->flags & CT_SEEN_NON_SYN) || entry->mode == service->mode)
		return false;
	/* Hairpin flows are SNAT in a service of DSR (see open_flow). */
	return !(entry->mode == LB_MODE_SNAT &&
		 address_equal(&backend->address, &flow->saddr, family));
}

/* Removes both halves of a flow that is over, so that a new one finds no trace of it. */
static __always_inline void forget(struct request *r, const struct lb_config *cfg,
				   const struct ct_entry *entry, const struct backend *backend,
				   const enum family family)
{
	struct nat_entry *found;

	if (backend && entry->mode == LB_MODE_SNAT) {
		way_back_init(&r->way_back, cfg, &r->flow, &r->packet, backend,
			      entry->backend_id, entry->nat_port, family);
		found = nat_find(&r->way_back.reply, family);
		if (found && nat_same_client(found, &r->way_back.entry, family))
			table_delete(&nat4, &nat6, &r->way_back.reply, family);
		found = new_nat_find(&r->way_back.reply, family);
		if (found && nat_same_client(found, &r->way_back.entry, family))
			table_delete(&new_nat4, &new_nat6, &r->way_back.reply, family);
	}
	table_delete(&flows4, &flows6, &r->flow, family);
	table_delete(&new_flows4, &new_flows6, &r->flow, family);
}

/*
 * Remembers a new flow. In SNAT the way back is entered first: a reply may
 * follow the packet at once. Either both halves are in or none.
 *
 * When another CPU was faster with a packet of the same flow, that one's choice
 * counts; a way back that was entered here goes, unless it is the same.
 */
static __always_inline enum drop_reason remember(struct request *r, const struct lb_config *cfg,
						 const struct backend *backend,
						 const enum family family)
{
	enum nat_claim claim = NAT_FOUND;
	struct ct_entry *entry = &r->entry, *winner;

	way_back_init(&r->way_back, cfg, &r->flow, &r->packet, backend, r->backend_id, 0, family);
	if (r->mode == LB_MODE_SNAT) {
		if (!address_is_set(&r->way_back.reply.daddr, family))
			return DROP_NAT_EXHAUSTED;
		claim = nat_claim(&r->way_back, cfg, family);
		if (claim == NAT_TAKEN)
			return DROP_NAT_EXHAUSTED;
	}
	__builtin_memset(entry, 0, sizeof(*entry));
	entry->last_seen_ns = r->now;
	entry->way_back_ns = r->now;
	entry->backend_id = r->backend_id;
	entry->nat_port = r->way_back.reply.dport;
	entry->mode = r->mode;
	mac_copy((__u16 *)entry->client_mac, r->packet.source_mac);
	conntrack_seen_rx(entry, r->flow.proto, &r->packet, r->now, true);
	if (table_insert(&new_flows4, &new_flows6, &r->flow, entry, family) == 0) {
		r->opened = true;
		return DROP_NONE;
	}
	if (claim != NAT_ENTERED)
		return DROP_NONE;
	winner = new_flow_find(&r->flow, family);
	if (!winner || winner->mode != LB_MODE_SNAT || winner->backend_id != r->backend_id ||
	    winner->nat_port != r->way_back.reply.dport)
		table_delete(&new_nat4, &new_nat6, &r->way_back.reply, family);
	return DROP_NONE;
}

/* Whether a packet can go to a backend, and what stands in its way. */
static __always_inline __u32 reach(const struct request *r, const struct lb_config *cfg,
				   const struct backend *backend, const enum family family)
{
	if (backend->mac_slot >= MAC_UNKNOWN)
		return DROP_NO_NEIGHBOUR;
	if (r->mode == LB_MODE_DSR && !encap_fits(&r->packet, backend, cfg, family))
		return TOO_BIG;
	return DROP_NONE;
}

/*
 * Chooses a backend for a packet of a flow that is not known. A backend that is
 * itself the client cannot get its own packet back with its own address as the
 * source, so its flow is SNAT whatever the service's mode.
 */
static __always_inline __u32 choose(struct request *r, const struct service *service,
				    const enum family family)
{
	struct backend *backend;

	r->mode = service->mode;
	r->backend_id = select_backend(r, service, &r->flow, r->now, family);
	if (!r->backend_id)
		return DROP_NO_BACKEND;
	backend = backend_lookup(r->backend_id);
	if (!backend)
		return DROP_NO_BACKEND;
	if (address_equal(&backend->address, &r->flow.saddr, family))
		r->mode = LB_MODE_SNAT;
	return DROP_NONE;
}

/* Lets a client's packet go to its backend. */
static __always_inline __u32 send_request(struct xdp_context *ctx, struct request *r,
					  const struct lb_config *cfg,
					  const struct service *service,
					  const struct backend *backend, const enum family family)
{
	struct translation to;

	if (service->mss && r->packet.tcp_flags & TCP_SYN)
		mss_clamp(ctx, &r->packet, &r->walk, service->mss);
	if (r->mode == LB_MODE_DSR)
		return encap(ctx, cfg, &r->packet, &r->flow, backend, family) ? FORWARDED
									      : DROP_ADJUST_HEAD;
	to.saddr = &r->way_back.reply.daddr;
	to.daddr = &r->way_back.reply.saddr;
	to.sport = r->way_back.reply.dport;
	to.dport = r->way_back.reply.sport;
	to.next_hop = next_hop_of(backend);
	return nat_rewrite(ctx, cfg, &r->packet, &r->flow, &to, family) ? FORWARDED
									: DROP_MALFORMED_L4;
}

/*
 * A flow's second packet establishes it: what is remembered of it moves to where
 * first packets do not push it out. A repeated SYN is no second packet.
 */
static __always_inline bool establishes(const struct request *r)
{
	if (r->opened || r->packet.tcp_flags & TCP_RST)
		return false;
	return r->flow.proto != IPPROTO_TCP || !is_syn(&r->packet);
}

static __always_inline void note_request(struct request *r, struct ct_entry *entry, bool is_new,
					 const struct lb_config *cfg, const enum family family)
{
	bool was_closing = conntrack_closing(entry);

	if (r->opened) { /* its entry began with what there is to note */
		tell(r, cfg, &r->flow, EVENT_NEW, DROP_NONE, family);
		return;
	}
	entry->way_back_ns = r->now;
	mac_copy((__u16 *)entry->client_mac, r->packet.source_mac);
	conntrack_seen_rx(entry, r->flow.proto, &r->packet, r->now, false);
	if (!was_closing && conntrack_closing(entry))
		tell(r, cfg, &r->flow, EVENT_CLOSED, DROP_NONE, family);
	if (!is_new || !establishes(r))
		return;
	table_insert(&flows4, &flows6, &r->flow, entry, family);
	if (r->mode == LB_MODE_SNAT)
		nat_promote(&r->way_back, family);
	table_delete(&new_flows4, &new_flows6, &r->flow, family);
}

/* A client's packet to a service. */
static __always_inline __u32 request(struct xdp_context *ctx, struct request *r,
				     const struct lb_config *cfg, const struct service *service,
				     const enum family family)
{
	struct backend *backend = 0;
	struct ct_entry *entry;
	bool is_new = false;
	__u32 outcome;

	if (r->packet.fault)
		return r->packet.fault;
	entry = flow_find(&r->flow, family);
	if (!entry) {
		is_new = true;
		entry = new_flow_find(&r->flow, family);
	}
	/* It may have moved in between; a flow that a SYN begins has not. */
	if (!entry && !is_syn(&r->packet)) {
		entry = flow_find(&r->flow, family);
		is_new = !entry;
	}
	if (entry) {
		bool over;

		backend = backend_lookup(entry->backend_id);
		over = !backend || conntrack_expired(entry, r->flow.proto, cfg, r->now);
		if (!over && backend && is_syn(&r->packet))
			over = conntrack_closing(entry) ||
			       outdated(entry, backend, service, &r->flow, family) ||
			       !source_allowed(r, service);
		if (over) {
			forget(r, cfg, entry, backend, family);
			entry = 0;
		}
	}
	if (!entry) {
		/* A known flow goes on, as on the fast path, which does not ask. */
		if (!source_allowed(r, service))
			return DROP_SOURCE_DENIED;
		outcome = choose(r, service, family);
		if (outcome)
			return outcome;
		if (r->packet.tcp_flags & TCP_RST) {
			/*
			 * A reset opens no flow. In DSR the hash's backend may hold the
			 * connection still, from before its entry was lost; in SNAT no
			 * backend knows the port that it would get.
			 */
			if (r->mode == LB_MODE_SNAT)
				return DROP_NO_FLOW;
			r->stray = true;
			entry = &r->entry;
			entry->mode = r->mode;
			entry->backend_id = r->backend_id;
		} else {
			backend = backend_lookup(r->backend_id);
			if (!backend)
				return DROP_NO_BACKEND;
			outcome = reach(r, cfg, backend, family);
			if (outcome)
				return outcome;
			outcome = remember(r, cfg, backend, family);
			if (outcome)
				return outcome;
			is_new = true;
			/* What was entered is known; what another CPU has entered is not. */
			entry = r->opened ? &r->entry : new_flow_find(&r->flow, family);
			if (!entry)
				return DROP_CONNTRACK_FAILED;
		}
	}

	r->mode = entry->mode;
	r->backend_id = entry->backend_id;
	backend = backend_lookup(r->backend_id);
	if (!backend)
		return DROP_NO_BACKEND;
	/* As on the fast path: a service may have come since, of the port alone. */
	r->service_id = backend->service_id;
	r->service_slot = backend->service_slot;
	if (!r->opened) {
		outcome = reach(r, cfg, backend, family);
		if (outcome)
			return outcome;
	}
	if (r->mode == LB_MODE_SNAT && !r->opened) {
		way_back_init(&r->way_back, cfg, &r->flow, &r->packet, backend, r->backend_id,
			      entry->nat_port, family);
		if (!nat_hold(&r->way_back, is_new, family)) {
			/*
			 * The way back was evicted and another flow took its port. The
			 * backend would not know this connection under any other one, so
			 * it is lost; forgotten, the client's next packet opens a new flow,
			 * which the backend resets instead of leaving it to hang.
			 */
			table_delete(&flows4, &flows6, &r->flow, family);
			table_delete(&new_flows4, &new_flows6, &r->flow, family);
			return DROP_CONNTRACK_FAILED;
		}
	}
	outcome = send_request(ctx, r, cfg, service, backend, family);
	if (outcome) {
		if (r->opened)
			forget(r, cfg, entry, backend, family);
		return outcome;
	}
	if (!r->stray)
		note_request(r, entry, is_new, cfg, family);
	return FORWARDED;
}

static __always_inline int slow(struct xdp_context *ctx, const enum family family)
{
	struct service *service;
	struct lb_config *cfg;
	struct request *r = request_of_this_cpu();
	enum parsed parsed;
	__u32 outcome;
	__u32 zero = 0;

	cfg = map_lookup(&config, &zero);
	if (!cfg || !r)
		return XDP_PASS;
	parsed = parse(packet_start(ctx), packet_end(ctx), cfg, family, &r->packet, &r->flow);
	if (parsed == PARSED_NOT_OURS)
		return XDP_PASS;
	if (parsed == PARSED_ICMP)
		return go_on(ctx, family == FAMILY_IPV4 ? STAGE_ICMP4 : STAGE_ICMP6);
	if (is_own_address(cfg, &r->flow.daddr, family)) {
		/* The stack knows best what to do with a broken packet of its own. */
		if (parsed == PARSED_NO_PORTS)
			return XDP_PASS;
		return go_on(ctx, family == FAMILY_IPV4 ? STAGE_REPLY4 : STAGE_REPLY6);
	}
	request_init(r);
	if (parsed == PARSED_NO_PORTS) {
		if (!is_vip(&r->flow.daddr, family))
			return XDP_PASS;
		outcome = r->packet.fault;
	} else {
		service = service_lookup(&r->flow, family);
		if (!service)
			return XDP_PASS;
		r->service_id = service->id;
		r->service_slot = service->slot;
		outcome = request(ctx, r, cfg, service, family);
	}
	if (outcome == FORWARDED)
		count_rx(r->service_slot, r->backend_id, r->packet.length, r->opened);
	if (outcome != TOO_BIG || !r->packet.dont_fragment || r->packet.later_fragment)
		return finish(r, cfg, outcome, family);
	tell(r, cfg, &r->flow, EVENT_DROPPED, DROP_MTU_EXCEEDED, family);
	return go_on(ctx, family == FAMILY_IPV4 ? STAGE_TOO_BIG4 : STAGE_TOO_BIG6);
}
