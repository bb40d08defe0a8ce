/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/* Counters: rows of this CPU alone, so plain additions do. */
#ifndef SYNWALL_STATS_H
#define SYNWALL_STATS_H

#include "maps.h"
#include "parse.h"

/* This CPU's row of a service, or of what belongs to none. */
static __always_inline struct service_counters *service_counters(const struct packet *p)
{
	__u32 row = p->cpu * SERVICE_ROWS + p->service;

	return bpf_map_lookup_elem(&counters, &row);
}

/* This CPU's row of the port that the frame came to. */
static __always_inline struct port_counters *port_row(const struct packet *p)
{
	__u32 row = p->cpu * 2 + p->side;

	return bpf_map_lookup_elem(&port_counters, &row);
}

/* Counts a drop. */
static __always_inline void count_drop(const struct packet *p, __u32 reason)
{
	struct service_counters *row = service_counters(p);

	if (row && reason < DROP_REASONS)
		row->dropped[reason]++;
}

/* Counts a frame that arrived, and carries out what was decided of it. */
static __always_inline int settle(const struct packet *p, int verdict)
{
	struct port_counters *port = p->port;
	__u32 other = !p->side;

	if (ACTION_OF(verdict) == GOES_UP) {
		port->passed_up++;
		return XDP_PASS;
	}
	port->received++;
	port->received_octets += p->len;
	switch (ACTION_OF(verdict)) {
	case IS_ANSWERED:
		port->consumed++;
		port->originated++;
		return XDP_TX;
	case IS_DROPPED:
		port->dropped++;
		count_drop(p, REASON_OF(verdict));
		return XDP_DROP;
	default:
		port->forwarded++;
		return bpf_redirect_map(&links, other, XDP_ABORTED);
	}
}

#endif
