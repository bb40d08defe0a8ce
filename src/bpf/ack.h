/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/* A client's segment that is no SYN: of a flow, of a connection that is being opened, or an ACK that returns a cookie. */
#ifndef SYNWALL_ACK_H
#define SYNWALL_ACK_H

#include "budget.h"
#include "cookie.h"
#include "established.h"
#include "options.h"
#include "pending.h"
#include "screen.h"
#include "service.h"
#include "stats.h"

/* What the segment claims to return. */
static __always_inline struct claim read_claim(const struct packet *p)
{
	struct claim claim = {.isn = p->ack - 1};
	struct options o;

	read_options(p, &o);
	claim.has_timestamps = blurred(p, o.has) & HAS_TIMESTAMPS;
	claim.tsecr = bpf_ntohl(o.tsecr);
	return claim;
}

/* Refuses a segment without a flow that returns no cookie, unless it is the engine that may let it through, or resets it. */
static __always_inline int refuse(const struct packet *p, const struct service *service, __u32 reason)
{
	struct service_counters *row;

	/* Of a connection that began before the start, perhaps. */
	if (service->flags & SERVICE_GRACE)
		return IS_ODD;
	if (reason != DROP_COOKIE_INVALID)
		return DROPPED(reason);
	if ((service->flags & SERVICE_RESET_UNKNOWN) &&
	    take_reset(service, p->service, now_in_nanos(p)))
		return GOES_UP;
	row = service_counters(p);
	if (row)
		row->cookie_invalid++;
	return DROPPED(DROP_COOKIE_INVALID);
}

/*
 * What becomes of a segment without a flow before a cookie is looked for in it; if there is none, it `crosses` where clients are
 * let through.
 */
static __always_inline int meet(const struct settings *settings, const struct packet *p,
				const struct service *service, bool *crosses)
{
	bool has_grace = service && (service->flags & SERVICE_GRACE);
	__u32 rule;
	int verdict;

	if (!service || (service->mode == MODE_OFF && !has_grace))
		return CROSSES;
	rule = service->mode <= MODE_MONITOR ? 0 : find_rule(settings, p);
	if (rule == RULE_DENY)
		return DROPPED(DROP_DENIED);
	/* What is only watched goes up within the same limit as its SYN. */
	if (is_pending(p) && (service->mode > MODE_MONITOR || has_grace || take_seen(false, now_in_nanos(p))))
		return IS_WANTED;
	*crosses = service->mode <= MODE_MONITOR || rule == RULE_ALLOW;
	if (*crosses && !has_grace)
		return CROSSES;
	verdict = screen(p);
	if (verdict != CONTINUE)
		return *crosses ? CROSSES : verdict;
	if (*crosses && (p->flags & (FLAG_SYN | FLAG_ACK | FLAG_RST)) != FLAG_ACK)
		return CROSSES;
	if (!(p->flags & FLAG_ACK) || (p->flags & (FLAG_SYN | FLAG_RST)))
		return refuse(p, service, DROP_NO_FLOW);
	if (settings->has_key[settings->parity & 1])
		return CONTINUE;
	return *crosses ? CROSSES : DROPPED(DROP_NO_KEY);
}

/* Handles a segment of a client that is no SYN. */
static __always_inline int handle_client(const struct settings *settings, struct packet *p)
{
	struct slot *slot = find_flow(settings, p);
	struct service *service = NULL;
	bool crosses = false;
	struct claim claim;
	int verdict;

	if (slot) {
		verdict = handle_in_flow(settings, p, slot);
	} else {
		service = find_service(settings, p);
		verdict = meet(settings, p, service, &crosses);
	}
	if (verdict != CONTINUE)
		return verdict;
	crosses = blurred(p, crosses) & 1;
	claim = read_claim(p);
	if (service && (service->flags & SERVICE_REQUIRE_TIMESTAMPS) && !claim.has_timestamps)
		return crosses ? CROSSES : refuse(p, service, DROP_TIMESTAMPS_REQUIRED);
	if (cookie_is_good(settings, p, &claim)) {
		mark_pending(settings, p);
		return IS_WANTED;
	}
	if (service)
		return crosses ? CROSSES : refuse(p, service, DROP_COOKIE_INVALID);
	return slot ? DROPPED(DROP_OUT_OF_WINDOW) : GOES_UP;
}

#endif
