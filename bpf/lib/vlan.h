/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * vlan.h - frames with a VLAN tag. They are not balanced: they pass to the stack,
 * which may have VLAN interfaces of its own, unless the agent says that there are to be
 * none. A tag that the card takes off (rx-vlan-offload) is not seen here.
 */
#pragma once

#include "stats.h"

#define ETHERTYPE_VLAN to_be16(0x8100)	       /* IEEE 802.1Q */
#define ETHERTYPE_SERVICE_VLAN to_be16(0x88a8) /* IEEE 802.1ad, the outer one of two */

static __always_inline bool is_vlan(__be16 proto)
{
	return proto == ETHERTYPE_VLAN || proto == ETHERTYPE_SERVICE_VLAN;
}

static __always_inline int tagged(void)
{
	struct lb_config *cfg;
	__u32 zero = 0;

	cfg = map_lookup(&config, &zero);
	if (!cfg || cfg->vlan != VLAN_DROP)
		return XDP_PASS;
	return drop(DROP_VLAN);
}
