/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/* Connections that are no flow yet: what the engine has to see of them. */
#ifndef SYNWALL_PENDING_H
#define SYNWALL_PENDING_H

#include "clock.h"
#include "hash.h"
#include "maps.h"
#include "parse.h"

/* Has the connection's segments passed up from now on. */
static __always_inline int mark_pending(const struct settings *settings, const struct packet *p)
{
	__u32 now = now_in_millis(p);
	struct flow_key key = flow_key(p);
	__u64 hash = hash_flow(settings, p);
	struct hint *hint = hint_of(hash);

	bpf_map_update_elem(&pending, &key, &now, BPF_ANY);
	if (hint && hash >> 20 & 1)
		*(volatile __u16 *)&hint->stamps[1] = now >> STAMP_SHIFT;
	else if (hint)
		*(volatile __u16 *)&hint->stamps[0] = now >> STAMP_SHIFT;
	return GOES_UP;
}

/* Whether the connection was marked, for a segment that was looked up as a flow. */
static __always_inline bool is_pending(const struct packet *p)
{
	__u32 now = now_in_millis(p), *marked;
	struct flow_key key;
	__u16 age = (now >> STAMP_SHIFT) - stamp_hint(p->hint, p->hash);

	/* User space's clock is finer: its stamp may be of the next unit. */
	if ((__u16)(age + 1) > STAMP_LIFE + 1)
		return false;
	key = flow_key(p);
	marked = bpf_map_lookup_elem(&pending, &key);
	/* Nor is this CPU's clock ahead of all others: a mark may be of a later time. */
	return marked && (__s32)(now - *marked) < PENDING_LIFE;
}

#endif
