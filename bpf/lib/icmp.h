/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * icmp.h - ICMP to the balancer (RFC 792, RFC 4443). It answers echo requests to
 * a VIP. An error that quotes a packet of a flow goes to whoever had sent that
 * packet: to the backend when it comes to the VIP, to the client when it comes to
 * the balancer's own address (SNAT), with the quoted headers as they left there.
 * So path MTU discovery works through the VIP. All else passes.
 */
#pragma once

#include "conntrack.h"
#include "encap.h"
#include "nat.h"
#include "parse.h"
#include "service.h"
#include "stages.h"

#define ICMP_ECHO_REPLY 0
#define ICMP_UNREACHABLE 3
#define ICMP_ECHO_REQUEST 8
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETER_PROBLEM 12
#define ICMPV6_UNREACHABLE 1
#define ICMPV6_PARAMETER_PROBLEM 4
#define ICMPV6_ECHO_REQUEST 128
#define ICMPV6_ECHO_REPLY 129

/* What RFC 792 has an error quote of the transport: ports and a little more. */
#define QUOTED_L4 8
/* A TCP header as far as its checksum. */
#define QUOTED_TCP_CHECKSUM 18

static __always_inline bool icmp_is_error(__u8 type, const enum family family)
{
	if (family == FAMILY_IPV6)
		return type >= ICMPV6_UNREACHABLE && type <= ICMPV6_PARAMETER_PROBLEM;
	return type == ICMP_UNREACHABLE || type == ICMP_TIME_EXCEEDED ||
	       type == ICMP_PARAMETER_PROBLEM;
}

/* Swapped addresses leave every checksum as it was; type and TTL do not. */
static __always_inline bool answer_echo(struct xdp_context *ctx, const struct packet *packet,
					const enum family family)
{
	void *end = packet_end(ctx);
	struct eth_header *eth = packet_start(ctx);
	struct ipv4_header *ip4 = (void *)(eth + 1);
	struct ipv6_header *ip6 = (void *)(eth + 1);
	struct icmp_header *icmp = (void *)ip4 + l4_offset(packet);
	struct address address;
	__u16 mac[3], was, now;

	if ((void *)ip4 + ip_header_size(family) > end || (void *)(icmp + 1) > end)
		return false;
	mac_copy(mac, eth->dest);
	mac_copy(eth->dest, eth->source);
	mac_copy(eth->source, mac);
	was = icmp->type | (__u16)icmp->code << 8;
	icmp->type = family == FAMILY_IPV4 ? ICMP_ECHO_REPLY : ICMPV6_ECHO_REPLY;
	now = icmp->type | (__u16)icmp->code << 8;
	icmp->checksum = checksum_apply(icmp->checksum, checksum_delta16(was, now));
	if (family == FAMILY_IPV4) {
		was = ip4->ttl | (__u16)ip4->proto << 8;
		ip4->ttl = INITIAL_TTL;
		now = ip4->ttl | (__u16)ip4->proto << 8;
		ip4->checksum = checksum_apply(ip4->checksum, checksum_delta16(was, now));
		address.word[0] = ip4->saddr;
		ip4->saddr = ip4->daddr;
		ip4->daddr = address.word[0];
	} else {
		ip6->hop_limit = INITIAL_TTL;
		__builtin_memcpy(&address, &ip6->saddr, sizeof(address));
		__builtin_memcpy(&ip6->saddr, &ip6->daddr, sizeof(address));
		__builtin_memcpy(&ip6->daddr, &address, sizeof(address));
	}
	return true;
}

/* A packet that an error quotes. */
struct quote {
	struct flow flow;    /* as it was sent */
	__u64 offset;	     /* of its IP header, from the frame's beginning */
	__u64 header_length; /* of its IP header */
	bool tcp_checksum;   /* enough of it is quoted */
};

/* False when it is no TCP or UDP, or too little of it is quoted. */
static __always_inline bool read_quote(void *data, void *end, const struct packet *packet,
				       struct quote *quote, const enum family family)
{
	__u64 length = packet->length + sizeof(struct eth_header);
	struct ipv4_header *ip4;
	struct ipv6_header *ip6;
	__be16 *ports;

	quote->offset = sizeof(struct eth_header) + l4_offset(packet) + sizeof(struct icmp_header);
	quote->header_length = ip_header_size(family);
	ip4 = data + quote->offset;
	ip6 = data + quote->offset;
	if ((void *)ip4 + ip_header_size(family) > end)
		return false;
	flow_init(&quote->flow, ip4, ip6, family);
	if (family == FAMILY_IPV4) {
		quote->header_length = (ip4->version_ihl & 0x0f) * 4;
		if (ip4->version_ihl >> 4 != 4 || quote->header_length < sizeof(*ip4) ||
		    ip4->fragment & IP_FRAGMENT_OFFSET)
			return false;
		quote->flow.proto = ip4->proto;
	} else {
		if (ip6->version_class >> 4 != 6)
			return false;
		quote->flow.proto = ip6->next_header;
	}
	if (quote->flow.proto != IPPROTO_TCP && quote->flow.proto != IPPROTO_UDP)
		return false;
	if (length < quote->offset + quote->header_length + QUOTED_L4)
		return false;
	quote->tcp_checksum = quote->flow.proto == IPPROTO_TCP &&
			      length >= quote->offset + quote->header_length +
						QUOTED_TCP_CHECKSUM;
	ports = (void *)ip4 + quote->header_length;
	if ((void *)ports + QUOTED_L4 > end)
		return false;
	quote->flow.sport = ports[0];
	quote->flow.dport = ports[1];
	return true;
}

/* The same flow as the other end sends it. */
static __always_inline void flow_turn(struct flow *turned, const struct flow *flow)
{
	__builtin_memset(turned, 0, sizeof(*turned));
	turned->saddr = flow->daddr;
	turned->daddr = flow->saddr;
	turned->sport = flow->dport;
	turned->dport = flow->sport;
	turned->proto = flow->proto;
}

/*
 * Puts other addresses and ports into the quoted headers and mends their
 * checksums. Returns what the ICMP checksum gains by it. A TCP checksum is only
 * there when more than the usual 8 bytes are quoted; what is behind the IP packet
 * in the frame is none.
 */
static __always_inline __u32 rewrite_quote(void *data, void *end, const struct quote *quote,
					   const struct translation *to, const enum family family)
{
	struct ipv4_header *ip4 = data + quote->offset;
	struct ipv6_header *ip6 = data + quote->offset;
	__u32 addresses = checksum_delta_address(&quote->flow.saddr, to->saddr, family) +
			  checksum_delta_address(&quote->flow.daddr, to->daddr, family);
	__u32 ports = checksum_delta16(quote->flow.sport, to->sport) +
		      checksum_delta16(quote->flow.dport, to->dport);
	__u32 gained = addresses + ports;
	struct udp_header *udp;
	struct tcp_header *tcp;
	__u16 was;

	if ((void *)ip4 + ip_header_size(family) > end)
		return 0;
	if (family == FAMILY_IPV4) {
		ip4->saddr = to->saddr->word[0];
		ip4->daddr = to->daddr->word[0];
		was = ip4->checksum;
		ip4->checksum = checksum_apply(was, addresses);
		gained += checksum_delta16(was, ip4->checksum);
	} else {
		__builtin_memcpy(&ip6->saddr, to->saddr, sizeof(*to->saddr));
		__builtin_memcpy(&ip6->daddr, to->daddr, sizeof(*to->daddr));
	}
	udp = (void *)ip4 + quote->header_length;
	if ((void *)(udp + 1) > end)
		return 0;
	udp->sport = to->sport;
	udp->dport = to->dport;
	if (quote->flow.proto == IPPROTO_UDP) {
		was = udp->checksum;
		udp->checksum = checksum_apply_udp(was, addresses + ports);
		return gained + checksum_delta16(was, udp->checksum);
	}
	tcp = (void *)udp;
	if (!quote->tcp_checksum)
		return gained;
	/* Joined into one condition, the bound would be lost on PREVAIL. */
	asm volatile("" : "+r"(tcp));
	if ((void *)tcp + QUOTED_TCP_CHECKSUM > end)
		return gained;
	was = tcp->checksum;
	tcp->checksum = checksum_apply(was, addresses + ports);
	return gained + checksum_delta16(was, tcp->checksum);
}

/* Sends an error on with other addresses, inside and outside. */
static __always_inline bool forward_error(struct xdp_context *ctx, const struct lb_config *cfg,
					  const struct packet *packet, const struct flow *outside,
					  const struct quote *quote,
					  const struct translation *to,
					  const enum family family)
{
	void *end = packet_end(ctx);
	struct eth_header *eth = packet_start(ctx);
	struct icmp_header *icmp;
	__u32 addresses, gained;

	gained = rewrite_quote(eth, end, quote, to, family);
	/* Outside, the error goes the way back. */
	addresses = checksum_delta_address(&outside->saddr, to->daddr, family) +
		    checksum_delta_address(&outside->daddr, to->saddr, family);
	if (!readdress(eth, end, cfg, to->daddr, to->saddr, addresses, to->next_hop, family))
		return false;
	if (family == FAMILY_IPV6)
		gained += addresses; /* ICMPv6 has a pseudo header */
	icmp = (void *)(eth + 1) + l4_offset(packet);
	if ((void *)(icmp + 1) > end)
		return false;
	icmp->checksum = checksum_apply(icmp->checksum, gained);
	return true;
}

static __always_inline struct ct_entry *any_flow_find(const struct flow *client,
						      const enum family family)
{
	struct ct_entry *entry = flow_find(client, family);

	return entry ? entry : new_flow_find(client, family);
}

/* An error to a VIP quotes what a backend sent in the VIP's name. */
static __always_inline int error_to_backend(struct xdp_context *ctx, const struct lb_config *cfg,
					    const struct packet *packet,
					    const struct flow *outside, const struct quote *quote,
					    const enum family family)
{
	struct address own;
	struct translation to;
	struct service *service;
	struct backend *backend;
	struct ct_entry *entry;
	struct flow client;
	__u32 id = 0;
	enum lb_mode mode = LB_MODE_DSR;
	__be16 nat_port = 0;

	flow_turn(&client, &quote->flow);
	entry = any_flow_find(&client, family);
	if (entry && !conntrack_expired(entry, client.proto, cfg, coarse_clock_ns())) {
		id = entry->backend_id;
		mode = entry->mode;
		nat_port = entry->nat_port;
	} else {
		service = service_lookup(&client, family);
		if (!service)
			return XDP_PASS;
		/* Only the table says where the flow may still be, and only to who asks it by hash. */
		if (service->mode != LB_MODE_DSR || service->flags & SERVICE_RANDOM)
			return drop(DROP_NO_FLOW);
		id = select_by_table(service, &client, family);
		if (!id)
			return drop(DROP_NO_BACKEND);
	}
	backend = backend_lookup(id);
	if (!backend)
		return drop(DROP_NO_BACKEND);
	if (backend->mac_slot >= MAC_UNKNOWN)
		return drop(DROP_NO_NEIGHBOUR);
	if (mode == LB_MODE_DSR) {
		if (!encap_fits(packet, backend, cfg, family))
			return drop(DROP_MTU_EXCEEDED);
		if (!encap(ctx, cfg, packet, &client, backend, family))
			return drop(DROP_ADJUST_HEAD);
		count_icmp(ICMP_ERROR_TO_BACKEND);
		return XDP_TX;
	}
	own_address(cfg, family, &own);
	to.saddr = &backend->address;
	to.daddr = &own;
	to.sport = backend->port ? backend->port : quote->flow.sport;
	to.dport = nat_port;
	to.next_hop = next_hop_of(backend);
	if (!forward_error(ctx, cfg, packet, outside, quote, &to, family))
		return drop(DROP_MALFORMED_L4);
	count_icmp(ICMP_ERROR_TO_BACKEND);
	return XDP_TX;
}

/* An error to the balancer quotes what it sent to a backend for a client. */
static __always_inline int error_to_client(struct xdp_context *ctx, const struct lb_config *cfg,
					   const struct packet *packet,
					   const struct flow *outside, const struct quote *quote,
					   const enum family family)
{
	struct nat_entry *way_back;
	struct translation to;
	struct ct_entry *entry;
	struct flow reply, client;

	flow_turn(&reply, &quote->flow);
	way_back = nat_find(&reply, family);
	if (!way_back)
		way_back = new_nat_find(&reply, family);
	if (!way_back)
		return XDP_PASS;
	client_flow(&client, way_back, reply.proto);
	entry = any_flow_find(&client, family);
	/* As with replies: a flow that was only evicted gets it, one that is over does not. */
	if (entry && !has_way_back(entry, way_back, &reply, cfg, coarse_clock_ns()))
		return XDP_PASS;
	to.saddr = &way_back->client;
	to.daddr = &way_back->vip;
	to.sport = way_back->client_port;
	to.dport = way_back->vip_port;
	to.next_hop = (const __u16 *)way_back->client_mac;
	if (!forward_error(ctx, cfg, packet, outside, quote, &to, family))
		return drop(DROP_MALFORMED_L4);
	count_icmp(ICMP_ERROR_TO_CLIENT);
	return XDP_TX;
}

static __always_inline int icmp(struct xdp_context *ctx, const enum family family)
{
	void *data = packet_start(ctx), *end = packet_end(ctx);
	struct ipv4_header *ip4 = data + sizeof(struct eth_header);
	struct ipv6_header *ip6 = data + sizeof(struct eth_header);
	struct icmp_header *header;
	struct lb_config *cfg;
	struct packet packet;
	struct quote quote;
	struct flow flow;
	__u32 zero = 0;
	bool own;
	__u8 ttl;

	cfg = map_lookup(&config, &zero);
	if (!cfg)
		return XDP_PASS;
	if (parse(data, end, cfg, family, &packet, &flow) != PARSED_ICMP)
		return XDP_PASS;
	own = is_own_address(cfg, &flow.daddr, family);
	if (!own && !is_vip(&flow.daddr, family))
		return XDP_PASS;
	header = (void *)ip4 + l4_offset(&packet);
	if ((void *)(header + 1) > end || packet.length < l4_offset(&packet) + sizeof(*header))
		return own ? XDP_PASS : drop(DROP_MALFORMED_L4);
	if (!own && header->type == (family == FAMILY_IPV4 ? ICMP_ECHO_REQUEST
							   : ICMPV6_ECHO_REQUEST)) {
		if (!answer_echo(ctx, &packet, family))
			return drop(DROP_MALFORMED_L4);
		count_icmp(ICMP_ECHO_ANSWERED);
		return XDP_TX;
	}
	if (!icmp_is_error(header->type, family) || !read_quote(data, end, &packet, &quote, family))
		return XDP_PASS;
	/* A host reports on packets that it was sent, so the quoted source is who was written to. */
	if (!address_equal(&quote.flow.saddr, &flow.daddr, family))
		return XDP_PASS;
	if ((void *)ip4 + ip_header_size(family) > end)
		return XDP_PASS;
	ttl = family == FAMILY_IPV4 ? ip4->ttl : ip6->hop_limit;
	if (own)
		return ttl <= 1 ? XDP_PASS
				: error_to_client(ctx, cfg, &packet, &flow, &quote, family);
	if (ttl <= 1)
		return drop(DROP_TTL_EXPIRED);
	return error_to_backend(ctx, cfg, &packet, &flow, &quote, family);
}
