/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * nat.h - SNAT: the balancer speaks to the backend in its own name, from a
 * port of its own for each flow, and finds the client again by that port.
 *
 * A way back is in `new_nat` while its flow is in `new_flows`, and then moves to
 * `nat`: it is entered there before it leaves here, so a port that is in use is
 * in at least one of them at any time. Who finds it in neither, one after the other, on
 * another CPU than the one that moves it, looks into the first one again.
 */
#pragma once

#include "checksum.h"
#include "conntrack.h"

/*
 * How many random ports are tried. With 64 fresh ones each time, of 32,768 one
 * destination's ports four fifths can be taken before the first flow finds
 * none, and at nine tenths one flow of 850 finds none; stepping from one random
 * start fails at half, since taken ports come in runs.
 */
#define NAT_PROBES 64

static __always_inline struct nat_entry *nat_find(const struct flow *reply,
						  const enum family family)
{
	return table_find(&nat4, &nat6, reply, family);
}

static __always_inline struct nat_entry *new_nat_find(const struct flow *reply,
						      const enum family family)
{
	return table_find(&new_nat4, &new_nat6, reply, family);
}

static __always_inline void way_back_init(struct way_back *w, const struct lb_config *cfg,
					  const struct flow *client, const struct packet *packet,
					  const struct backend *backend, __u32 backend_id,
					  __be16 nat_port, const enum family family)
{
	__builtin_memset(w, 0, sizeof(*w));
	w->reply.saddr = backend->address;
	own_address(cfg, family, &w->reply.daddr);
	w->reply.sport = backend->port ? backend->port : client->dport;
	w->reply.dport = nat_port;
	w->reply.proto = client->proto;
	w->entry.client = client->saddr;
	w->entry.client_port = client->sport;
	w->entry.vip = client->daddr;
	w->entry.vip_port = client->dport;
	w->entry.backend_id = backend_id;
	mac_copy((__u16 *)w->entry.client_mac, packet->source_mac);
}

static __always_inline bool nat_same_client(const struct nat_entry *a, const struct nat_entry *b,
					    const enum family family)
{
	return address_equal(&a->client, &b->client, family) &&
	       a->client_port == b->client_port && address_equal(&a->vip, &b->vip, family) &&
	       a->vip_port == b->vip_port;
}

/* Brings an older way back up to what the flow knows now. */
static __always_inline void nat_refresh(struct nat_entry *entry, const struct nat_entry *now)
{
	__u16 *mac = (__u16 *)entry->client_mac;

	if (!mac_equal(mac, (const __u16 *)now->client_mac))
		mac_copy(mac, (const __u16 *)now->client_mac);
	if (entry->backend_id != now->backend_id)
		entry->backend_id = now->backend_id;
}

/* Whether a flow's entry is not over and has this way back, of that port. */
static __always_inline bool has_way_back(const struct ct_entry *entry,
					 const struct nat_entry *way_back, const struct flow *reply,
					 const struct lb_config *cfg, __u64 now)
{
	return entry->mode == LB_MODE_SNAT && entry->nat_port == reply->dport &&
	       entry->backend_id == way_back->backend_id &&
	       !conntrack_expired(entry, reply->proto, cfg, now);
}

/* What became of a way back that a packet asked for. */
enum nat_claim {
	NAT_TAKEN, /* another flow has the port */
	NAT_FOUND, /* it was there; another CPU may have just entered it */
	NAT_ENTERED,
};

/* Enters a way back under its port as new, unless the port is taken in either table. */
static __always_inline bool nat_enter(const struct way_back *w, const enum family family)
{
	struct flow4 room; /* one key for all three: this is what nat_claim repeats */
	const void *key = table_key(&room, &w->reply, family);
	void *new_nat = family == FAMILY_IPV6 ? (void *)&new_nat6 : &new_nat4;

	if (map_update(new_nat, key, &w->entry, MAP_UPDATE_NOEXIST))
		return false;
	if (!map_lookup(family == FAMILY_IPV6 ? (void *)&nat6 : &nat4, key))
		return true;
	map_delete(new_nat, key);
	return false;
}

/*
 * Finds a port for a new flow and enters its way back: the client's own port
 * where it lies in the pool and is free, else a random one. w->reply.dport is the
 * port afterwards. NAT_TAKEN when NAT_PROBES ports were taken.
 */
static __always_inline enum nat_claim nat_claim(struct way_back *w, const struct lb_config *cfg,
						const enum family family)
{
	__u16 wanted = from_be16(w->entry.client_port);
	__u32 low = cfg->nat_min;
	struct nat_entry *present;
	__u32 ports;

	if (cfg->nat_max < low)
		return NAT_TAKEN;
	ports = cfg->nat_max - low + 1;

	if (wanted >= low && wanted <= cfg->nat_max) {
		w->reply.dport = w->entry.client_port;
		if (nat_enter(w, family))
			return NAT_ENTERED;
		present = nat_find(&w->reply, family);
		if (!present)
			present = new_nat_find(&w->reply, family);
		if (present && nat_same_client(present, &w->entry, family)) {
			nat_refresh(present, &w->entry);
			return NAT_FOUND;
		}
	}
	LOOP_OF_MANY
	for (int i = 0; i < NAT_PROBES; i++) {
		/* A product instead of a remainder: that costs a division, and code for a divisor of 0. */
		w->reply.dport = to_be16((__u16)(low + ((__u64)prandom() * ports >> 32)));
		if (nat_enter(w, family))
			return NAT_ENTERED;
	}
	return NAT_TAKEN;
}

/*
 * Makes sure that the way back of a known flow exists: it was there, or was
 * evicted and is restored. False when another flow has taken its port.
 */
static __always_inline bool nat_hold(const struct way_back *w, bool is_new,
				     const enum family family)
{
	struct nat_entry *entry = nat_find(&w->reply, family);

	if (!entry)
		entry = new_nat_find(&w->reply, family);
	if (!entry)
		entry = nat_find(&w->reply, family);
	if (entry) {
		if (!nat_same_client(entry, &w->entry, family))
			return false;
		nat_refresh(entry, &w->entry);
		return true;
	}
	if (is_new)
		return nat_enter(w, family);
	return table_insert(&nat4, &nat6, &w->reply, &w->entry, family) == 0;
}

/* The flow is established, so its way back is. */
static __always_inline void nat_promote(const struct way_back *w, const enum family family)
{
	table_insert(&nat4, &nat6, &w->reply, &w->entry, family);
	table_delete(&new_nat4, &new_nat6, &w->reply, family);
}

/* The addresses and ports that a packet gets. */
struct translation {
	const struct address *saddr, *daddr;
	__be16 sport, dport;
	const __u16 *next_hop;
};

/*
 * Sends a frame one hop on under other addresses: those, MACs, TTL, the header's
 * checksum, whose difference by the addresses the caller knows. False when the frame is
 * not what the parser saw, which cannot be.
 */
static __always_inline bool readdress(struct eth_header *eth, void *end,
				      const struct lb_config *cfg, const struct address *saddr,
				      const struct address *daddr, __u32 addresses,
				      const __u16 *next_hop, const enum family family)
{
	struct ipv4_header *ip4 = (void *)(eth + 1);
	struct ipv6_header *ip6 = (void *)(eth + 1);

	if ((void *)ip4 + ip_header_size(family) > end)
		return false;
	mac_copy(eth->dest, next_hop);
	mac_copy(eth->source, (const __u16 *)cfg->mac);
	if (family == FAMILY_IPV4) {
		__u16 ttl_and_proto = ip4->ttl | (__u16)ip4->proto << 8;

		ip4->ttl--;
		ip4->saddr = saddr->word[0];
		ip4->daddr = daddr->word[0];
		ip4->checksum = checksum_apply(
			ip4->checksum,
			addresses + checksum_delta16(ttl_and_proto, ttl_and_proto - 1));
	} else {
		ip6->hop_limit--;
		__builtin_memcpy(&ip6->saddr, saddr, sizeof(*saddr));
		__builtin_memcpy(&ip6->daddr, daddr, sizeof(*daddr));
	}
	return true;
}

/*
 * Gives the packet of flow `from` other addresses and ports: those, TTL,
 * checksums, MACs. The checksums' difference is the same in both headers, since
 * TCP's and UDP's pseudo header holds the addresses. False when the packet
 * is not what the parser saw, which cannot be.
 */
static __always_inline bool nat_rewrite(struct xdp_context *ctx, const struct lb_config *cfg,
					const struct packet *packet, const struct flow *from,
					const struct translation *to, const enum family family)
{
	void *end = packet_end(ctx);
	struct eth_header *eth = packet_start(ctx);
	__u32 addresses = checksum_delta_address(&from->saddr, to->saddr, family) +
			  checksum_delta_address(&from->daddr, to->daddr, family);
	__u32 ports = checksum_delta16(from->sport, to->sport) +
		      checksum_delta16(from->dport, to->dport);
	void *l4;

	if (!readdress(eth, end, cfg, to->saddr, to->daddr, addresses, to->next_hop, family))
		return false;
	if (packet->later_fragment)
		return true;

	l4 = (void *)(eth + 1) + l4_offset(packet);
	if (from->proto == IPPROTO_TCP) {
		struct tcp_header *tcp = l4;

		if ((void *)(tcp + 1) > end)
			return false;
		tcp->sport = to->sport;
		tcp->dport = to->dport;
		tcp->checksum = checksum_apply(tcp->checksum, addresses + ports);
	} else {
		struct udp_header *udp = l4;

		if ((void *)(udp + 1) > end)
			return false;
		udp->sport = to->sport;
		udp->dport = to->dport;
		udp->checksum = checksum_apply_udp(udp->checksum, addresses + ports);
	}
	return true;
}

/* Whether replies may come to a port at all. */
static __always_inline bool in_pool(const struct lb_config *cfg, __be16 port)
{
	__u16 host = from_be16(port);

	return host >= cfg->nat_min && host <= cfg->nat_max;
}

static __always_inline void client_flow(struct flow *client, const struct nat_entry *way_back,
					__u8 proto)
{
	__builtin_memset(client, 0, sizeof(*client));
	client->saddr = way_back->client;
	client->daddr = way_back->vip;
	client->sport = way_back->client_port;
	client->dport = way_back->vip_port;
	client->proto = proto;
}
