/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/* Connections that are no flow yet: what the engine has to see of them. */
#ifndef SYNWALL_PENDING_H
#define SYNWALL_PENDING_H

#include "hash.h"
#include "maps.h"
#include "parse.h"

#define NANOS_PER_MILLI 1000000

static __always_inline __u32 now_in_millis(void)
{
	return bpf_ktime_get_coarse_ns() / NANOS_PER_MILLI;
}

/* The stamp of the connection with this hash. */
static __always_inline __u16 *stamp_of(__u64 hash)
{
	__u32 block = hash / STAMPS_PER_BLOCK % STAMP_BLOCKS;
	struct stamp_block *blocks = bpf_map_lookup_elem(&stamps, &block);

	return blocks ? &blocks->stamps[hash % STAMPS_PER_BLOCK] : NULL;
}

/* Has the connection's segments passed up from now on. */
static __always_inline int mark_pending(const struct settings *settings, const struct packet *p)
{
	__u32 now = now_in_millis();
	struct flow_key key = flow_key(p);
	__u16 *stamp = stamp_of(hash_flow(settings, p));

	bpf_map_update_elem(&pending, &key, &now, BPF_ANY);
	if (stamp)
		*(volatile __u16 *)stamp = now >> STAMP_SHIFT;
	return GOES_UP;
}

/* Whether the connection was marked, for a segment that was looked up as a flow. */
static __always_inline bool is_pending(const struct packet *p)
{
	__u32 now = now_in_millis(), *marked;
	struct flow_key key;
	__u16 *stamp = stamp_of(p->hash);

	if (stamp && (__u16)((now >> STAMP_SHIFT) - *(volatile __u16 *)stamp + 1) > STAMP_LIFE + 1)
		return false;
	key = flow_key(p);
	marked = bpf_map_lookup_elem(&pending, &key);
	return marked && now - *marked < PENDING_LIFE;
}

#endif
