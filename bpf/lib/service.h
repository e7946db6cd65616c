/* SPDX-License-Identifier: GPL-2.0-only */
/* service.h - which service a packet asks for. */
#pragma once

#include "maps.h"

static __always_inline struct service *service_lookup(__be32 vip, __be16 port, __u8 proto)
{
	struct service_key key;

	__builtin_memset(&key, 0, sizeof(key));
	key.vip = vip;
	key.port = port;
	key.proto = proto;
	return map_lookup(&services, &key);
}
