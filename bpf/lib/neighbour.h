/* SPDX-License-Identifier: GPL-2.0-only */
/* neighbour.h - the MAC that a backend's packets are sent to. */
#pragma once

#include "maps.h"

static __always_inline struct neighbour *neighbour_lookup(__be32 address)
{
	return map_lookup(&neighbours, &address);
}
