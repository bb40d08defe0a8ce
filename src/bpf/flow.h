/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/* The flow table: finding a flow (io/xdp/table.rs puts them there). */
#ifndef SYNWALL_FLOW_H
#define SYNWALL_FLOW_H

#include "hash.h"
#include "maps.h"

/*
 * Keeps loads before it from loads after it: a slot's version is read before and after what else is read of it. x86 does so
 * by itself. Elsewhere it takes an atomic operation that returns a value, which the kernel defines as a full barrier, for
 * BPF has no cheaper one before Linux 6.13.
 */
static __always_inline void order_loads(void)
{
#ifdef __TARGET_ARCH_x86
	barrier();
#else
	__u64 word = 0;

	__sync_val_compare_and_swap(&word, 0, 1);
	barrier();
#endif
}

/* Whether the slot is still what it was when the segment was compared with it. */
static __always_inline bool is_unchanged(const struct packet *p, const struct slot *slot)
{
	order_loads();
	return *(const volatile __u32 *)&slot->version == p->version;
}

#define LANES 0x0001000100010001ULL

/* Whether the slot holds the flow of this segment, and is not being written. */
static __always_inline bool is_slot_of(const struct slot *slot, struct packet *p)
{
	const __u32 *from = p->client, *to = p->server;
	const struct flow_key *key = &slot->key;

	p->version = *(const volatile __u32 *)&slot->version;
	if (p->version & 1)
		return false;
	order_loads();
	/* Without a branch each, of which the verifier would go both ways. */
	return !((key->client[3] ^ from[3]) | (*(const __u32 *)&key->client_port ^ p->ports) |
		 (key->server[3] ^ to[3]) | (key->client[0] ^ from[0]) | (key->client[1] ^ from[1]) |
		 (key->client[2] ^ from[2]) | (key->server[0] ^ to[0]) | (key->server[1] ^ to[1]) |
		 (key->server[2] ^ to[2]));
}

/* Looks through a bucket; touches slots only if their tag is the flow's. */
static __always_inline struct slot *find_in_bucket(struct packet *p, __u32 bucket, __u64 tag)
{
	__u64 *word = bpf_map_lookup_elem(&tags, &bucket), lanes, miss;

	if (!word)
		return NULL;
	lanes = *(volatile __u64 *)word;
	miss = lanes ^ tag * LANES;
	/* The usual trick finds a lane of zeros: without one, no tag is the flow's. */
	if (!((miss - LANES) & ~miss & LANES << 15))
		return NULL;
	for (__u32 lane = 0; lane < SLOTS_PER_BUCKET; lane++) {
		__u32 place = bucket * SLOTS_PER_BUCKET + lane;
		struct slot *slot;

		if ((miss >> (lane * 16) & 0xffff) != 0)
			continue;
		slot = bpf_map_lookup_elem(&slots, &place);
		if (slot && is_slot_of(slot, p))
			return slot;
	}
	return NULL;
}

/* The flow of the segment, NULL if there is none. */
static __always_inline struct slot *find_flow(const struct settings *settings, struct packet *p)
{
	__u64 hash = p->hash = hash_flow(settings, p), buckets = settings->buckets;
	__u64 tag = (__u16)(hash >> 13);
	struct hint *hint = hint_of(hash);
	struct slot *slot;

	if (!hint)
		return NULL;
	p->hint = *(volatile __u64 *)hint;
	if (!flow_hint(p->hint, hash))
		return NULL;
	if (!tag)
		tag = 1;
	slot = find_in_bucket(p, (hash >> 32) * buckets >> 32, tag);
	if (slot)
		return slot;
	return find_in_bucket(p, (hash & 0xffffffff) * buckets >> 32, tag);
}

#endif
