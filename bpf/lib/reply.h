/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * reply.h - SNAT: a backend's packet to the balancer, of a flow that is not
 * established, or with something to it.
 */
#pragma once

#include "mss.h"
#include "request.h"

/*
 * The conntrack entry of a reply's flow. When the LRU evicted it, it is made
 * again from its way back, else the client's next packet would open a new flow
 * from a new port. Null when the reply belongs to no living flow.
 */
static __always_inline struct ct_entry *reply_entry(struct request *r,
						    const struct lb_config *cfg,
						    const struct nat_entry *way_back,
						    const struct flow *client,
						    const enum family family)
{
	struct ct_entry *restored = &r->entry;
	struct ct_entry *entry = flow_find(client, family);

	if (!entry)
		entry = new_flow_find(client, family);
	if (!entry)
		entry = flow_find(client, family); /* it moved in between */
	if (entry)
		return has_way_back(entry, way_back, &r->flow, cfg, r->now) ? entry : 0;
	if (!service_lookup(client, family))
		return 0;
	__builtin_memset(restored, 0, sizeof(*restored));
	restored->last_seen_ns = r->now;
	restored->backend_id = way_back->backend_id;
	restored->nat_port = r->flow.dport;
	restored->mode = LB_MODE_SNAT;
	table_insert(&new_flows4, &new_flows6, client, restored, family);
	return new_flow_find(client, family);
}

/* A packet to the balancer's own address; r->flow is backend to balancer. */
static __always_inline __u32 reply(struct xdp_context *ctx, struct request *r,
				   const struct lb_config *cfg, const enum family family)
{
	struct nat_entry *way_back;
	struct translation to;
	struct backend *backend;
	struct ct_entry *entry;
	struct flow client;
	bool was_closing;

	if (!in_pool(cfg, r->flow.dport))
		return PASSED;
	way_back = nat_find(&r->flow, family);
	if (!way_back)
		way_back = new_nat_find(&r->flow, family);
	if (!way_back)
		way_back = nat_find(&r->flow, family); /* it moved in between */
	if (!way_back)
		return PASSED;
	client_flow(&client, way_back, r->flow.proto);
	r->mode = LB_MODE_SNAT;
	r->backend_id = way_back->backend_id;
	backend = backend_lookup(r->backend_id);
	if (!backend)
		return PASSED;
	r->service_id = backend->service_id;
	r->service_slot = backend->service_slot;
	entry = reply_entry(r, cfg, way_back, &client, family);
	if (!entry)
		return PASSED;
	if (r->packet.fault)
		return r->packet.fault;
	if (r->packet.tcp_flags & TCP_SYN) {
		struct service *service = service_lookup(&client, family);

		if (service && service->mss)
			mss_clamp(ctx, &r->packet, &r->walk, service->mss);
	}
	to.saddr = &client.daddr;
	to.daddr = &client.saddr;
	to.sport = client.dport;
	to.dport = client.sport;
	to.next_hop = (const __u16 *)way_back->client_mac;
	if (!nat_rewrite(ctx, cfg, &r->packet, &r->flow, &to, family))
		return DROP_MALFORMED_L4;
	was_closing = conntrack_closing(entry);
	conntrack_seen_tx(entry, &r->packet, r->now);
	if (!was_closing && conntrack_closing(entry))
		tell(r, cfg, &client, EVENT_CLOSED, DROP_NONE, family);
	count_tx(r->service_slot, r->backend_id, r->packet.length);
	return FORWARDED;
}

static __always_inline int slow_reply(struct xdp_context *ctx, const enum family family)
{
	struct lb_config *cfg;
	struct request *r = request_of_this_cpu();
	__u32 zero = 0;

	cfg = map_lookup(&config, &zero);
	if (!cfg || !r)
		return XDP_PASS;
	if (parse(packet_start(ctx), packet_end(ctx), cfg, family, &r->packet, &r->flow) !=
	    PARSED_PORTS)
		return XDP_PASS;
	request_init(r);
	return finish(r, cfg, reply(ctx, r, cfg, family), family);
}
