/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/*
 * What time it is. The kernel's coarse clock moves with its ticks, so each CPU asks once a tick: to look at the count of
 * ticks is a load, to ask for the time a call, and for milliseconds a division.
 */
#ifndef SYNWALL_CLOCK_H
#define SYNWALL_CLOCK_H

#include "parse.h"

#define NANOS_PER_MILLI 1000000
/* Probes of which a CPU takes a second look for a cookie: 25,000 a second and more, as the kernel ticks. */
#define PROBES_PER_TICK 256

/* Looks at the clock, for all that a frame asks of it. */
static __always_inline void read_clock(struct port_counters *port)
{
	__u64 tick = bpf_jiffies64();

	if (port->tick == tick)
		return;
	port->nanos = bpf_ktime_get_coarse_ns();
	port->millis = port->nanos / NANOS_PER_MILLI;
	port->probes = PROBES_PER_TICK;
	port->tick = tick;
}

static __always_inline __u64 now_in_nanos(const struct packet *p)
{
	return p->port->nanos;
}

static __always_inline __u32 now_in_millis(const struct packet *p)
{
	return p->port->millis;
}

/* Unix time, which goes on from its last reading; the coarse clock may be behind that. */
static __always_inline __u64 unix_nanos(const struct settings *settings, __u64 now)
{
	__u64 read_at = settings->unix_read_at;

	return settings->unix_nanos + (now > read_at ? now - read_at : 0);
}

#endif
