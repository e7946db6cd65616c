/* SPDX-License-Identifier: GPL-2.0-only */
/* request.h - what slow.h and reply.h share: a packet on its way, and its end. */
#pragma once

#include "conntrack.h"
#include "events.h"
#include "nat.h"
#include "parse.h"
#include "service.h"
#include "stages.h"

/* Outcomes besides a drop's reason. */
#define FORWARDED DROP_NONE
#define PASSED (DROP_REASON_MAX + 1)
#define TOO_BIG (DROP_REASON_MAX + 2)

static __always_inline void tell(struct request *r, const struct lb_config *cfg,
				 const struct flow *flow, enum event_kind kind, __u32 reason,
				 const enum family family)
{
	struct flow_event *event = &r->event;

	if (!cfg->event_rate)
		return;
	event->flow = *flow;
	event->reason = reason;
	event->backend_id = r->backend_id;
	event->service_id = r->service_id;
	event->kind = kind;
	event->family = family;
	event->mode = r->mode;
	event->pad = 0;
	event_send(r, cfg);
}

static __always_inline void request_init(struct request *r)
{
	r->now = coarse_clock_ns();
	r->backend_id = 0;
	r->service_id = 0;
	r->service_slot = 0;
	r->mode = 0;
	r->opened = false;
	r->stray = false;
}

/* What the driver is told, once an outcome is certain. */
static __always_inline int finish(struct request *r, const struct lb_config *cfg,
				  __u32 outcome, const enum family family)
{
	if (outcome == PASSED)
		return XDP_PASS;
	if (outcome == FORWARDED) {
		if (r->packet.first_fragment)
			fragment_lead(r, family);
		return XDP_TX;
	}
	if (outcome == TOO_BIG)
		outcome = DROP_MTU_EXCEEDED;
	tell(r, cfg, &r->flow, EVENT_DROPPED, outcome, family);
	return drop(outcome);
}
