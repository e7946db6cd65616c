/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * events.h - what happens to flows, told to whoever listens. Nobody does as long
 * as the agent's event_rate is 0, and then it costs one comparison. The rate
 * bounds each CPU's share of a second; what is beyond it is only counted.
 */
#pragma once

#include "maps.h"

#define SECOND_NS 1000000000ULL

static __always_inline bool event_allowed(struct event_budget *budget,
					  const struct lb_config *cfg, __u64 now)
{
	if (now - budget->second_began_ns >= SECOND_NS) {
		budget->second_began_ns = now;
		budget->sent = 0;
	}
	if (budget->sent >= cfg->event_rate) {
		budget->suppressed++;
		return false;
	}
	budget->sent++;
	return true;
}

/* The caller fills in what the event is about; here it gets its time and goes. */
static __always_inline void event_send(struct request *r, const struct lb_config *cfg)
{
	__u64 now = coarse_clock_ns();

	if (!event_allowed(&r->budget, cfg, now))
		return;
	r->event.time_ns = now;
	if (ringbuf_output(&events, &r->event, sizeof(r->event), 0))
		r->budget.lost++;
}
