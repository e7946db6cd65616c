/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * nat.h - SNAT: the balancer speaks to the backend in its own name, from a
 * port of its own for each flow, and finds the client again by that port.
 */
#pragma once

#include "checksum.h"
#include "maps.h"

/*
 * How many random ports are tried. A fresh random one each time first fails
 * when four fifths of the pool are taken; stepping from one random start fails
 * at half of it, since taken ports come in runs.
 */
#define NAT_PROBES 32

/* A flow between client and backend, all that its reverse entry is made of. */
struct nat_flow {
	struct flow_key reply; /* the reverse entry's key */
	struct nat_entry entry;
};

static __always_inline void nat_flow_init(struct nat_flow *f, const struct lb_config *cfg,
					  const struct flow_key *client, __be32 backend,
					  __be16 backend_port, __be16 nat_port)
{
	__builtin_memset(f, 0, sizeof(*f));
	f->reply.saddr = backend;
	f->reply.daddr = cfg->address;
	f->reply.sport = backend_port;
	f->reply.dport = nat_port;
	f->reply.proto = client->proto;
	f->entry.client_address = client->saddr;
	f->entry.client_port = client->sport;
	f->entry.vip = client->daddr;
	f->entry.vip_port = client->dport;
}

static __always_inline bool nat_same_client(const struct nat_entry *a, const struct nat_entry *b)
{
	return a->client_address == b->client_address && a->client_port == b->client_port &&
	       a->vip == b->vip && a->vip_port == b->vip_port;
}

/* Brings an older way back up to what the flow knows now. */
static __always_inline void nat_refresh(struct nat_entry *entry, const struct nat_flow *f,
					const struct packet *packet)
{
	__u16 *mac = (__u16 *)entry->client_mac;

	if (!mac_equal(mac, packet->source_mac))
		mac_copy(mac, packet->source_mac);
	if (entry->backend_id != f->entry.backend_id)
		entry->backend_id = f->entry.backend_id;
}

/* What became of a way back that a packet asked for. */
enum nat_claim {
	NAT_TAKEN, /* another flow has the port */
	NAT_FOUND, /* it was there; another CPU may have just entered it */
	NAT_ENTERED,
};

/*
 * Makes sure that the way back of f exists under its port: it was there, or
 * was evicted from the LRU and is restored, or is new.
 */
static __always_inline enum nat_claim nat_hold(struct nat_flow *f, const struct packet *packet)
{
	struct nat_entry *entry = map_lookup(&nat, &f->reply);

	if (entry) {
		if (!nat_same_client(entry, &f->entry))
			return NAT_TAKEN;
		nat_refresh(entry, f, packet);
		return NAT_FOUND;
	}
	mac_copy((__u16 *)f->entry.client_mac, packet->source_mac);
	if (map_update(&nat, &f->reply, &f->entry, MAP_UPDATE_NOEXIST) == 0)
		return NAT_ENTERED;
	/* Another CPU was faster, perhaps with a packet of the same flow. */
	entry = map_lookup(&nat, &f->reply);
	return entry && nat_same_client(entry, &f->entry) ? NAT_FOUND : NAT_TAKEN;
}

/*
 * Finds a port for a new flow and enters its way back: the client's own port
 * where it lies in the pool and is free, else a random one. f->reply.dport is the
 * port afterwards. NAT_TAKEN when NAT_PROBES ports were taken.
 */
static __always_inline enum nat_claim nat_claim(struct nat_flow *f, const struct lb_config *cfg,
						const struct packet *packet)
{
	enum nat_claim claim;
	__u16 wanted = from_be16(f->entry.client_port);
	__u32 low = cfg->nat_min;
	__u32 ports;

	if (cfg->nat_max < low)
		return NAT_TAKEN;
	ports = cfg->nat_max - low + 1;

	if (wanted >= low && wanted <= cfg->nat_max) {
		f->reply.dport = f->entry.client_port;
		claim = nat_hold(f, packet);
		if (claim != NAT_TAKEN)
			return claim;
	}
	mac_copy((__u16 *)f->entry.client_mac, packet->source_mac);
#pragma unroll
	for (int i = 0; i < NAT_PROBES; i++) {
		f->reply.dport = to_be16((__u16)(low + prandom() % ports));
		if (map_update(&nat, &f->reply, &f->entry, MAP_UPDATE_NOEXIST) == 0)
			return NAT_ENTERED;
	}
	return NAT_TAKEN;
}

/*
 * Makes the packet of flow `from` one of flow `to`: addresses, ports, TTL,
 * checksums, MACs. The checksums' difference is the same in both headers, since
 * TCP's and UDP's pseudo header holds the addresses. False when the packet
 * is not what the parser saw, which cannot be.
 */
static __always_inline bool nat_rewrite(struct xdp_context *ctx, const struct packet *packet,
					const struct flow_key *from, const struct flow_key *to,
					const __u16 *source_mac, const __u16 *dest_mac)
{
	void *end = packet_end(ctx);
	struct eth_header *eth = packet_start(ctx);
	struct ipv4_header *ip = (void *)(eth + 1);
	__u32 addresses = checksum_delta32(from->saddr, to->saddr) +
			  checksum_delta32(from->daddr, to->daddr);
	__u32 ports = checksum_delta16(from->sport, to->sport) +
		      checksum_delta16(from->dport, to->dport);
	__u16 ttl_and_proto;
	void *l4;

	if ((void *)(ip + 1) > end)
		return false;
	mac_copy(eth->dest, dest_mac);
	mac_copy(eth->source, source_mac);
	ttl_and_proto = ip->ttl | (__u16)ip->proto << 8;
	ip->ttl--;
	ip->saddr = to->saddr;
	ip->daddr = to->daddr;
	ip->checksum = checksum_apply(
		ip->checksum, addresses + checksum_delta16(ttl_and_proto, ttl_and_proto - 1));

	l4 = (void *)ip + packet->header_length;
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
