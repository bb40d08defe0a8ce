/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/*
 * What time it is. The kernel's coarse clock moves with its ticks, so each CPU asks once a tick: to look at the count of
 * ticks is a load, to ask for the time a call, and for milliseconds a division.
 */
#ifndef SYNWALL_CLOCK_H
#define SYNWALL_CLOCK_H

#include "parse.h"

#define NANOS_PER_MILLI 1000000

static __always_inline void read_clock(struct port_counters *port)
{
	__u64 tick = bpf_jiffies64();

	if (port->tick == tick)
		return;
	port->nanos = bpf_ktime_get_coarse_ns();
	port->millis = port->nanos / NANOS_PER_MILLI;
	port->tick = tick;
}

static __always_inline __u64 now_in_nanos(const struct packet *p)
{
	read_clock(p->port);
	return p->port->nanos;
}

static __always_inline __u32 now_in_millis(const struct packet *p)
{
	read_clock(p->port);
	return p->port->millis;
}

#endif
