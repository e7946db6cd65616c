//go:build ignore
/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * lb.c - the balancer, at XDP.
 *
 * A packet meets these programs: `lb`, which is attached, sends it on by its
 * family. `lb_fast` (fast.h) forwards the packets of established flows. What it
 * does not, `lb_slow` (slow.h) takes: it opens flows, closes them, and knows
 * fragments and faults; `lb_reply` (reply.h) does so for SNAT's replies. `lb_icmp` (icmp.h) answers echo requests and brings errors to
 * whom they concern, `lb_too_big` (too_big.h) tells a client that its packet does not
 * fit. Each is compiled for IPv4 and for IPv6 from the same functions.
 *
 * It meets the maps in this order. `config` says who the balancer is. `vip_filter`
 * sorts out what is for other addresses: it passes. `flows` remembers where an
 * established flow goes, `new_flows` one that has had a single packet; any other
 * is for a service if `services` has its destination, and `maglev` says where
 * it goes. `backends` has the backend's address and the MAC of the next hop. A packet to the
 * balancer's own address may be a backend's reply: `nat` and `new_nat` know.
 * What is ours leaves by the interface that it came from (XDP_TX), encapsulated (DSR)
 * or translated (SNAT), as its flow began.
 *
 * What is not for a service passes untouched. Of a packet that is for a service
 * either a copy leaves and is counted as traffic, or it is dropped and counted
 * under one reason.
 */
#include "platform/platform.h"

#include "lib/fast.h"
#include "lib/icmp.h"
#include "lib/reply.h"
#include "lib/slow.h"
#include "lib/too_big.h"
#include "lib/vlan.h"

SEC(LB_SECTION)
int lb(struct xdp_context *ctx)
{
	struct eth_header *eth = packet_start(ctx);

	if ((void *)(eth + 1) > packet_end(ctx))
		return XDP_PASS;
	if (eth->proto == ETHERTYPE_IPV4)
		call_stage(ctx, STAGE_FAST4);
	else if (eth->proto == ETHERTYPE_IPV6)
		call_stage(ctx, STAGE_FAST6);
	else if (is_vlan(eth->proto))
		return tagged();
	return XDP_PASS;
}

SEC(LB_SECTION)
int lb_fast4(struct xdp_context *ctx)
{
	return fast(ctx, FAMILY_IPV4);
}

SEC(LB_SECTION)
int lb_slow4(struct xdp_context *ctx)
{
	return slow(ctx, FAMILY_IPV4);
}

SEC(LB_SECTION)
int lb_reply4(struct xdp_context *ctx)
{
	return slow_reply(ctx, FAMILY_IPV4);
}

SEC(LB_SECTION)
int lb_icmp4(struct xdp_context *ctx)
{
	return icmp(ctx, FAMILY_IPV4);
}

SEC(LB_SECTION)
int lb_too_big4(struct xdp_context *ctx)
{
	return too_big(ctx, FAMILY_IPV4);
}

SEC(LB_SECTION)
int lb_fast6(struct xdp_context *ctx)
{
	return fast(ctx, FAMILY_IPV6);
}

SEC(LB_SECTION)
int lb_slow6(struct xdp_context *ctx)
{
	return slow(ctx, FAMILY_IPV6);
}

SEC(LB_SECTION)
int lb_reply6(struct xdp_context *ctx)
{
	return slow_reply(ctx, FAMILY_IPV6);
}

SEC(LB_SECTION)
int lb_icmp6(struct xdp_context *ctx)
{
	return icmp(ctx, FAMILY_IPV6);
}

SEC(LB_SECTION)
int lb_too_big6(struct xdp_context *ctx)
{
	return too_big(ctx, FAMILY_IPV6);
}

char _license[] SEC("license") = "GPL";
