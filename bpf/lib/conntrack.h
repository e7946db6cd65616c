/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * conntrack.h - what the balancer remembers of a client's flow: how far its
 * handshake or farewell has come, and when it is over.
 *
 * Entries are changed in place without atomics. Each direction's counters are
 * written by that direction alone, and a network card's receive hashing keeps
 * one direction on one CPU. Both write last_seen_ns and flags: of two times
 * written in one tick either is right, and a flag lost because FINs crossed in
 * the same instant costs a longer lifetime of the entry, nothing else. Atomics
 * would make every packet pay for that.
 */
#pragma once

#include "family.h"

static __always_inline struct ct_entry *flow_find(const struct flow *flow,
						  const enum family family)
{
	return table_find(&flows4, &flows6, flow, family);
}

static __always_inline struct ct_entry *new_flow_find(const struct flow *flow,
						      const enum family family)
{
	return table_find(&new_flows4, &new_flows6, flow, family);
}

/* The client's first packet, or a retransmission of it. */
static __always_inline bool is_syn(const struct packet *packet)
{
	return (packet->tcp_flags & (TCP_SYN | TCP_ACK | TCP_RST | TCP_FIN)) == TCP_SYN;
}

/* In DSR the backend's FIN never passes here, so the client's has to do. */
static __always_inline bool conntrack_closing(const struct ct_entry *entry)
{
	__u8 both = CT_RX_CLOSING;

	if (entry->mode == LB_MODE_SNAT)
		both |= CT_TX_CLOSING;
	return (entry->flags & CT_RESET) || (entry->flags & both) == both;
}

static __always_inline __u64 conntrack_lifetime(const struct ct_entry *entry, __u8 proto,
						const struct lb_config *cfg)
{
	if (proto != IPPROTO_TCP)
		return cfg->non_tcp_ns;
	if (conntrack_closing(entry))
		return cfg->tcp_closing_ns;
	if (entry->flags & CT_SEEN_NON_SYN)
		return cfg->tcp_established_ns;
	return cfg->tcp_syn_ns;
}

/*
 * The two times come from different reads of the clock, on different CPUs
 * perhaps: an entry that was just seen may carry a later time than now.
 */
static __always_inline bool conntrack_expired(const struct ct_entry *entry, __u8 proto,
					      const struct lb_config *cfg, __u64 now)
{
	__u64 last = entry->last_seen_ns;

	return now > last && now - last > conntrack_lifetime(entry, proto, cfg);
}

/*
 * A flow's first packet does not establish it, be it from the middle of a
 * connection: a stray one must not hold an entry for hours.
 */
static __always_inline void conntrack_seen_rx(struct ct_entry *entry, __u8 proto,
					      const struct packet *packet, __u64 now, bool opened)
{
	entry->last_seen_ns = now;
	entry->rx_packets++;
	entry->rx_bytes += packet->length;
	if (proto != IPPROTO_TCP)
		return;
	if (!opened && !is_syn(packet))
		entry->flags |= CT_SEEN_NON_SYN;
	if (packet->tcp_flags & TCP_FIN)
		entry->flags |= CT_RX_CLOSING;
	if (packet->tcp_flags & TCP_RST)
		entry->flags |= CT_RESET;
}

static __always_inline void conntrack_seen_tx(struct ct_entry *entry, const struct packet *packet,
					      __u64 now)
{
	entry->last_seen_ns = now;
	entry->way_back_ns = now;
	entry->tx_packets++;
	entry->tx_bytes += packet->length;
	if (packet->tcp_flags & TCP_FIN)
		entry->flags |= CT_TX_CLOSING;
	if (packet->tcp_flags & TCP_RST)
		entry->flags |= CT_RESET;
}
