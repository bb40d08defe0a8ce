/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/*
 * What goes up without need. The engine is slow, and what it is for must not be a way to drown it: so each CPU passes up
 * only so many odd frames and so many segments of clients, and of a source prefix only so many. Real clients come nowhere
 * near: a connection passes up a handful of segments. Servers are trusted not to flood.
 */
#ifndef SYNWALL_UP_H
#define SYNWALL_UP_H

#include "budget.h"
#include "service.h"

/* Nanoseconds each, a second's worth at once. A CPU passes up 20,000 odd frames a second, */
#define ODD_INTERVAL 50000ULL
/* 300,000 segments of clients, about what one core of the engine takes, */
#define WANTED_INTERVAL 3333ULL
/* and of a source prefix and service 200,000; */
#define WANTED_SOURCE_INTERVAL 5000ULL
/* of SYNs that take no proof to send 50,000, which take nothing from those, */
#define OPENING_INTERVAL 20000ULL
/* and of packets that are too long 50,000, of a source prefix as many as the engine reports. */
#define LONG_INTERVAL 20000ULL
#define LONG_SOURCE_INTERVAL 1000000ULL
/* 1,000 ICMP errors of the prefix of a router or client. */
#define ERROR_SOURCE_INTERVAL 1000000ULL
/* Told apart from the SYNs of the same prefix. */
#define WANTED_OF_SOURCE (1 << 16)
#define ERRORS_OF_SOURCE (1 << 17)
#define LONG_OF_SOURCE (1 << 18)

/* Takes one out of a meter of this CPU. */
static __always_inline bool take_own(__u64 *meter, __u64 now, __u64 interval)
{
	__u64 after = charged(*meter, now, interval, BURST);

	if (after)
		*meter = after;
	return after;
}

/* Whether the segments of the service's clients cross whatever happens. */
static __always_inline bool is_spared(const struct packet *p)
{
	__u32 id = p->service;
	const struct service *service = bpf_map_lookup_elem(&services, &id);

	return !service || service->mode < MODE_ADAPTIVE;
}

/* Passes up what a client could send in millions, as long as it does not. */
static __always_inline int pass_wanted(const struct settings *settings, const struct packet *p)
{
	__u64 now = now_in_nanos(p);

	if (take_source(settings, p, p->service | WANTED_OF_SOURCE, WANTED_SOURCE_INTERVAL, now) &&
	    take_own(&p->port->wanted_meter, now, WANTED_INTERVAL))
		return GOES_UP;
	return is_spared(p) ? CROSSES : DROPPED(DROP_SOURCE_RATE_EXCEEDED);
}

/* Passes up what may concern a protected address, as long as it is not too much. */
static __always_inline int pass_odd(const struct settings *settings, const struct packet *p, bool is_error)
{
	bool is_ours = is_protected(settings, p);
	__u64 now;

	/* An error may quote what it is not addressed to, and flows may be left of addresses that were protected. */
	if (!is_ours && !is_error && !(settings->flags & SETTING_LINGERING))
		return CROSSES;
	now = now_in_nanos(p);
	/* One reporter without end takes nothing from the path MTU discovery of others. */
	if ((!is_error || take_source(settings, p, ERRORS_OF_SOURCE, ERROR_SOURCE_INTERVAL, now)) &&
	    take_own(&p->port->odd_meter, now, ODD_INTERVAL))
		return GOES_UP;
	if (!is_ours)
		return CROSSES;
	return DROPPED(is_error ? DROP_ICMP_RATE_EXCEEDED : DROP_SOURCE_RATE_EXCEEDED);
}

/* Passes up a packet that is too long, as long as its sender may be told. */
static __always_inline int pass_long(const struct settings *settings, const struct packet *p)
{
	__u64 now = now_in_nanos(p);

	if (take_source(settings, p, LONG_OF_SOURCE, LONG_SOURCE_INTERVAL, now) &&
	    take_own(&p->port->long_meter, now, LONG_INTERVAL))
		return GOES_UP;
	return DROPPED(DROP_TOO_BIG);
}

/* Settles what is left to the engine within limits. */
static __always_inline int limit_up(const struct settings *settings, const struct packet *p, int verdict)
{
	if (verdict < IS_ODD || verdict > IS_LONG)
		return verdict;
	if (p->side == SIDE_SERVER)
		return GOES_UP;
	if (verdict == IS_LONG)
		return pass_long(settings, p);
	if (verdict == IS_OPENING)
		return take_own(&p->port->opening_meter, now_in_nanos(p), OPENING_INTERVAL)
			       ? GOES_UP
			       : DROPPED(DROP_SOURCE_RATE_EXCEEDED);
	return verdict == IS_WANTED ? pass_wanted(settings, p) : pass_odd(settings, p, verdict == IS_ERROR);
}

#endif
