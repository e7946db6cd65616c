//go:build ignore
/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * lb.c - the balancer, at XDP.
 *
 * A packet meets the maps in this order. `config` says who the balancer is;
 * without it everything passes. A packet to the balancer's own address and a port
 * of the SNAT pool may be a backend's reply: `nat` knows. Any other one is the
 * balancer's if `services` has its destination. `conntrack` remembers where its
 * flow goes; a new flow asks `maglev`. `neighbours` has the MAC, and the packet
 * leaves by the interface it came from (XDP_TX), encapsulated (DSR) or
 * translated (SNAT), as its flow began.
 *
 * What is not for a service passes untouched: other protocols, ICMP to a VIP,
 * and later fragments, which have no ports. Of a packet that is for a service
 * either a copy leaves and is counted as traffic, or it is dropped and counted
 * under one reason.
 */
#include "platform/platform.h"

#include "lib/conntrack.h"
#include "lib/encap.h"
#include "lib/maglev.h"
#include "lib/nat.h"
#include "lib/neighbour.h"
#include "lib/service.h"
#include "lib/stats.h"

/*
 * Where a packet goes: what its flow remembers, or is about to. Scalars only,
 * since PREVAIL does not see that a pointer was checked on each of two ways
 * that meet.
 */
struct target {
	__be32 address;
	__be16 port;
	__be16 nat_port; /* SNAT only */
	enum lb_mode mode;
	__u32 backend_id;
	__u16 mac[3]; /* of the next hop */
};

static __always_inline bool select_backend(const struct service *service,
					   const struct flow_key *flow, struct target *target)
{
	__u32 id = maglev_select(service, flow);
	struct backend *backend;

	if (!id)
		return false;
	backend = map_lookup(&backends, &id);
	if (!backend || !backend->address)
		return false;
	target->address = backend->address;
	target->port = backend->port;
	target->mode = service->mode;
	target->backend_id = id;
	return true;
}

/* Finds the next hop, and whether the packet fits. Needs no state and makes none. */
static __always_inline enum drop_reason reach(const struct lb_config *cfg,
					      const struct packet *packet, struct target *target)
{
	struct neighbour *neighbour = neighbour_lookup(target->address);

	if (!neighbour)
		return DROP_NO_NEIGHBOUR;
	mac_copy(target->mac, (const __u16 *)neighbour->mac);
	if (target->mode == LB_MODE_DSR && !encap_fits(packet, cfg))
		return DROP_MTU_EXCEEDED;
	return DROP_NONE;
}

/* Removes both halves of a flow that is over, so that a new one finds no trace of it. */
static __always_inline void forget(const struct lb_config *cfg, const struct flow_key *flow,
				   const struct ct_entry *entry)
{
	struct nat_flow way_back;
	struct nat_entry *found;

	if (entry->mode == LB_MODE_SNAT) {
		nat_flow_init(&way_back, cfg, flow, entry->backend_address, entry->backend_port,
			      entry->nat_port);
		found = map_lookup(&nat, &way_back.reply);
		if (found && nat_same_client(found, &way_back.entry))
			map_delete(&nat, &way_back.reply);
	}
	map_delete(&conntrack, flow);
}

/* Whether replies of a flow come by this way. */
static __always_inline bool answers_by(const struct ct_entry *entry, const struct flow_key *reply)
{
	return entry->mode == LB_MODE_SNAT && entry->nat_port == reply->dport &&
	       entry->backend_address == reply->saddr && entry->backend_port == reply->sport;
}

/*
 * Remembers a new flow. In SNAT the way back is entered first: a reply may
 * follow the packet at once. Either both halves are in or none.
 *
 * *opened stays false when the table has no room, or when another CPU was faster
 * with a packet of the same flow: then that one's choice counts, and a way back
 * that was entered here goes, unless it is the same.
 */
static __always_inline enum drop_reason remember(const struct lb_config *cfg,
						 const struct service *service,
						 const struct packet *packet,
						 const struct flow_key *flow, __u64 now,
						 struct target *target, bool *opened)
{
	enum nat_claim claim = NAT_FOUND;
	struct ct_entry *winner;
	struct nat_flow way_back;
	struct ct_entry entry;

	nat_flow_init(&way_back, cfg, flow, target->address, target->port, 0);
	if (target->mode == LB_MODE_SNAT) {
		way_back.entry.backend_id = target->backend_id;
		claim = nat_claim(&way_back, cfg, packet);
		if (claim == NAT_TAKEN)
			return DROP_NAT_EXHAUSTED;
	}
	target->nat_port = way_back.reply.dport;

	__builtin_memset(&entry, 0, sizeof(entry));
	entry.last_seen_ns = now;
	entry.backend_id = target->backend_id;
	entry.service_id = service->id;
	entry.service_slot = service->slot;
	entry.backend_address = target->address;
	entry.backend_port = target->port;
	entry.nat_port = target->nat_port;
	entry.mode = target->mode;
	if (map_update(&conntrack, flow, &entry, MAP_UPDATE_NOEXIST) == 0) {
		*opened = true;
		return DROP_NONE;
	}
	if (claim == NAT_ENTERED) {
		winner = map_lookup(&conntrack, flow);
		if (!winner || !answers_by(winner, &way_back.reply))
			map_delete(&nat, &way_back.reply);
	}
	return DROP_NONE;
}

/* A packet of a flow that is not known, or was over. */
static __always_inline enum drop_reason begin(const struct lb_config *cfg,
					      const struct service *service,
					      const struct packet *packet,
					      const struct flow_key *flow, __u64 now,
					      struct target *target, bool *opened)
{
	enum drop_reason reason;

	if (!select_backend(service, flow, target))
		return DROP_NO_BACKEND;
	reason = reach(cfg, packet, target);
	if (reason)
		return reason;
	return remember(cfg, service, packet, flow, now, target, opened);
}

/* A packet of a flow that lives: it goes where the first one went, as that one did. */
static __always_inline enum drop_reason resume(const struct lb_config *cfg,
					       const struct packet *packet,
					       const struct flow_key *flow,
					       const struct ct_entry *entry,
					       struct target *target)
{
	enum drop_reason reason;
	struct nat_flow way_back;

	target->address = entry->backend_address;
	target->port = entry->backend_port;
	target->nat_port = entry->nat_port;
	target->mode = entry->mode;
	target->backend_id = entry->backend_id;
	reason = reach(cfg, packet, target);
	if (reason || target->mode != LB_MODE_SNAT)
		return reason;

	nat_flow_init(&way_back, cfg, flow, target->address, target->port, target->nat_port);
	way_back.entry.backend_id = target->backend_id;
	if (nat_hold(&way_back, packet) != NAT_TAKEN)
		return DROP_NONE;
	/*
	 * The way back was evicted and another flow took its port. The backend
	 * would not know this connection under any other one, so it is lost;
	 * forgotten, the client's next packet opens a new flow, which the backend
	 * resets instead of leaving it to hang.
	 */
	map_delete(&conntrack, flow);
	return DROP_CONNTRACK_FAILED;
}

static __always_inline bool translate(struct xdp_context *ctx, const struct lb_config *cfg,
				      const struct packet *packet, const struct flow_key *flow,
				      const struct target *target)
{
	struct flow_key to;

	__builtin_memset(&to, 0, sizeof(to));
	to.saddr = cfg->address;
	to.daddr = target->address;
	to.sport = target->nat_port;
	to.dport = target->port;
	return nat_rewrite(ctx, packet, flow, &to, (const __u16 *)cfg->mac, target->mac);
}

/*
 * A client's reset of a flow that is not known. It opens none. In DSR the hash's
 * backend may hold the connection still, from before its entry was lost; in SNAT
 * no backend knows the port that it would get.
 */
static __always_inline int reset_unknown(struct xdp_context *ctx, const struct lb_config *cfg,
					 const struct service *service,
					 const struct packet *packet, const struct flow_key *flow)
{
	enum drop_reason reason;
	struct target target;

	if (service->mode == LB_MODE_SNAT)
		return drop(DROP_NO_FLOW);
	if (!select_backend(service, flow, &target))
		return drop(DROP_NO_BACKEND);
	reason = reach(cfg, packet, &target);
	if (reason)
		return drop(reason);
	if (!encap(ctx, cfg, packet, target.address, target.mac))
		return drop(DROP_ADJUST_HEAD);
	count_rx(service->slot, target.backend_id, packet->length, false);
	return XDP_TX;
}

/* A client's packet to a service. */
static __always_inline int balance(struct xdp_context *ctx, const struct lb_config *cfg,
				   const struct service *service, const struct packet *packet,
				   const struct flow_key *flow)
{
	__u64 now = coarse_clock_ns();
	enum drop_reason reason;
	struct ct_entry *entry;
	struct target target;
	bool opened = false;

	if (packet->fault)
		return drop(packet->fault);

	entry = map_lookup(&conntrack, flow);
	if (entry && conntrack_over(entry, service, flow->proto, packet, cfg, now)) {
		forget(cfg, flow, entry);
		entry = 0;
	}
	if (!entry) {
		if (packet->tcp_flags & TCP_RST)
			return reset_unknown(ctx, cfg, service, packet, flow);
		reason = begin(cfg, service, packet, flow, now, &target, &opened);
		if (reason)
			return drop(reason);
		entry = map_lookup(&conntrack, flow);
		if (!entry)
			return drop(DROP_CONNTRACK_FAILED);
	}
	if (!opened) {
		reason = resume(cfg, packet, flow, entry, &target);
		if (reason)
			return drop(reason);
	}

	if (target.mode == LB_MODE_SNAT) {
		if (!translate(ctx, cfg, packet, flow, &target))
			return drop(DROP_MALFORMED_L4);
	} else if (!encap(ctx, cfg, packet, target.address, target.mac)) {
		if (opened)
			map_delete(&conntrack, flow);
		return drop(DROP_ADJUST_HEAD);
	}

	/* The service may have been deleted and added again since the flow began. */
	entry->service_id = service->id;
	entry->service_slot = service->slot;
	conntrack_seen_rx(entry, flow->proto, packet, now, opened);
	count_rx(service->slot, target.backend_id, packet->length, opened);
	return XDP_TX;
}

/*
 * The conntrack entry of a reply's flow. When the LRU evicted it, it is made
 * again from its way back, else the client's next packet would open a new flow
 * from a new port. Null when the reply belongs to no living flow.
 */
static __always_inline struct ct_entry *reply_entry(const struct lb_config *cfg,
						    const struct nat_entry *way_back,
						    const struct flow_key *reply,
						    const struct flow_key *client, __u64 now)
{
	struct ct_entry *entry = map_lookup(&conntrack, client);
	struct ct_entry restored;
	struct service *service;

	if (entry) {
		if (!answers_by(entry, reply))
			return 0;
		return conntrack_expired(entry, reply->proto, cfg, now) ? 0 : entry;
	}
	service = service_lookup(client->daddr, client->dport, client->proto);
	if (!service)
		return 0;
	__builtin_memset(&restored, 0, sizeof(restored));
	restored.last_seen_ns = now;
	restored.backend_id = way_back->backend_id;
	restored.service_id = service->id;
	restored.service_slot = service->slot;
	restored.backend_address = reply->saddr;
	restored.backend_port = reply->sport;
	restored.nat_port = reply->dport;
	restored.mode = LB_MODE_SNAT;
	map_update(&conntrack, client, &restored, MAP_UPDATE_NOEXIST);
	return map_lookup(&conntrack, client);
}

/* A packet to the balancer's own address and SNAT pool. */
static __always_inline int answer(struct xdp_context *ctx, const struct lb_config *cfg,
				  const struct packet *packet, const struct flow_key *reply)
{
	struct nat_entry *way_back = map_lookup(&nat, reply);
	struct flow_key client, to;
	struct ct_entry *entry;
	__u64 now;

	if (!way_back)
		return XDP_PASS;
	now = coarse_clock_ns();
	__builtin_memset(&client, 0, sizeof(client));
	client.saddr = way_back->client_address;
	client.daddr = way_back->vip;
	client.sport = way_back->client_port;
	client.dport = way_back->vip_port;
	client.proto = reply->proto;
	entry = reply_entry(cfg, way_back, reply, &client, now);
	if (!entry)
		return XDP_PASS;
	if (packet->fault)
		return drop(packet->fault);

	__builtin_memset(&to, 0, sizeof(to));
	to.saddr = client.daddr;
	to.daddr = client.saddr;
	to.sport = client.dport;
	to.dport = client.sport;
	if (!nat_rewrite(ctx, packet, reply, &to, (const __u16 *)cfg->mac,
			 (const __u16 *)way_back->client_mac))
		return drop(DROP_MALFORMED_L4);
	conntrack_seen_tx(entry, packet, now);
	count_tx(entry->service_slot, entry->backend_id, packet->length);
	return XDP_TX;
}

SEC(LB_SECTION)
int lb(struct xdp_context *ctx)
{
	struct service *service;
	struct packet packet;
	struct lb_config *cfg;
	struct flow_key flow;
	__u32 zero = 0;
	__u16 dport;

	cfg = map_lookup(&config, &zero);
	if (!cfg || !cfg->address)
		return XDP_PASS;
	if (!parse(packet_start(ctx), packet_end(ctx), cfg->mac, &packet, &flow))
		return XDP_PASS;

	dport = from_be16(flow.dport);
	if (flow.daddr == cfg->address && dport >= cfg->nat_min && dport <= cfg->nat_max)
		return answer(ctx, cfg, &packet, &flow);

	service = service_lookup(flow.daddr, flow.dport, flow.proto);
	if (!service)
		return XDP_PASS;
	return balance(ctx, cfg, service, &packet, &flow);
}

char _license[] SEC("license") = "GPL";
