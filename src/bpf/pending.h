/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/* Connections that are no flow yet: what the engine has to see of them. */
#ifndef SYNWALL_PENDING_H
#define SYNWALL_PENDING_H

#include "maps.h"
#include "parse.h"

#define NANOS_PER_MILLI 1000000

static __always_inline __u32 now_in_millis(void)
{
	return bpf_ktime_get_coarse_ns() / NANOS_PER_MILLI;
}

/* Has the connection's segments passed up from now on. */
static __always_inline int mark_pending(const struct packet *p)
{
	__u32 now = now_in_millis();
	struct flow_key key = flow_key(p);

	bpf_map_update_elem(&pending, &key, &now, BPF_ANY);
	return GOES_UP;
}

static __always_inline bool is_pending(const struct packet *p)
{
	struct flow_key key = flow_key(p);
	__u32 *marked = bpf_map_lookup_elem(&pending, &key);

	return marked && now_in_millis() - *marked < PENDING_LIFE;
}

#endif
