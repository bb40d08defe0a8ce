/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/* Budgets: the generic cell rate algorithm of table/budget.rs. A cell says when it would be empty again. */
#ifndef SYNWALL_BUDGET_H
#define SYNWALL_BUDGET_H

#include "clock.h"
#include "hash.h"
#include "maps.h"
#include "stats.h"

/* A second's worth may come at once. */
#define BURST 1000000000ULL
/* Other CPUs get in between: so often a budget is asked again. */
#define MOST_TRIES 8
/* Nanoseconds, see take_seen. */
#define SEEN_INTERVAL 50000ULL

/* The cell at `now`: no credit for the past, and none of a future that the clock has left. */
static __always_inline __u64 settled(__u64 empty_at, __u64 now, __u64 burst)
{
	if (empty_at > now + burst)
		return now;
	return empty_at > now ? empty_at : now;
}

/* When the cell is empty after `cost` more, or 0 if that is beyond the burst. */
static __always_inline __u64 charged(__u64 empty_at, __u64 now, __u64 cost, __u64 burst)
{
	__u64 after;

	if (burst < cost)
		burst = cost;
	after = settled(empty_at, now, burst) + cost;
	return after <= now + burst ? after : 0;
}

/*
 * Takes `cost` out of a cell that all CPUs share: not 0 if there was room. A function of its own for the reason that walk_options
 * is; it is called for few packets.
 */
__noinline int take(__u64 *cell, __u64 now, __u64 cost)
{
	if (!cell)
		return false;
	for (int i = 0; i < MOST_TRIES; i++) {
		__u64 before = *(volatile __u64 *)cell;
		__u64 after = charged(before, now, cost, BURST);

		if (!after)
			return false;
		if (__sync_val_compare_and_swap(cell, before, after) == before)
			return true;
	}
	return false;
}

/* Takes a RST that nothing but the arrival calls for. */
static __always_inline bool take_reset(const struct service *service, __u32 id, __u64 now)
{
	struct budget *budget;

	if (!service->reset_interval)
		return true;
	budget = bpf_map_lookup_elem(&budgets, &id);
	return budget && take(&budget->reset, now, service->reset_interval);
}

/* Takes a SYN-ACK out of what this CPU has taken out of the service's budget. */
static __always_inline bool take_synack(const struct service *service, struct service_counters *row, __u32 id,
					__u64 now)
{
	__u32 chunk = service->synack_chunk ? service->synack_chunk : 1;
	struct budget *budget;

	if (!service->synack_interval)
		return true;
	if (row->synack_credit) {
		row->synack_credit--;
		return true;
	}
	budget = bpf_map_lookup_elem(&budgets, &id);
	if (!budget || !take(&budget->synack, now, service->synack_interval * chunk))
		return false;
	row->synack_credit = chunk - 1;
	return true;
}

/*
 * Takes a frame out of the budget that is named by this hash, at `interval` nanoseconds each: a sketch, refused only if both
 * cells are spent. Two CPUs at once may count one event for two: a budget is a bound, not a ledger. A function of its own for the
 * reason that walk_options is.
 */
__noinline int take_cells(__u64 hash, __u64 interval, __u64 now)
{
	__u64 after, one, other, *first, *second;
	__u32 block, cell, place;

	block = hash % SOURCE_BLOCKS * SOURCE_CELLS;
	cell = hash >> 32;
	place = block + cell % SOURCE_CELLS;
	first = bpf_map_lookup_elem(&source_budgets, &place);
	/* One of the others. */
	cell += 1 + ((hash >> 35 & 0xff) * (SOURCE_CELLS - 1) >> 8);
	place = block + cell % SOURCE_CELLS;
	second = bpf_map_lookup_elem(&source_budgets, &place);
	if (!first || !second)
		return true;
	one = settled(*first, now, BURST);
	other = settled(*second, now, BURST);
	after = charged(one < other ? one : other, now, interval, BURST);
	if (!after)
		return false;
	*first = one > after ? one : after;
	*second = other > after ? other : after;
	return true;
}

/* Takes a frame out of the budget of its source prefix and what it is for. */
static __always_inline bool take_source(const struct settings *settings, const struct packet *p, __u32 what,
					__u64 interval, __u64 now)
{
	return !interval || take_cells(hash_source(settings, p, what), interval, now);
}

/* Whether the client completed a handshake lately. */
static __always_inline bool is_known(const struct settings *settings, const struct packet *p, __u64 now)
{
	__u64 own = hash_client(settings, p, KNOWN_CLIENT), site = hash_site(settings, p);
	__u32 in_block = p->is_v6 ? own : bpf_ntohl(p->client[3]);
	__u32 place = site % KNOWN_BLOCKS * KNOWN_BLOCK + ((in_block ^ site >> 56) & (KNOWN_BLOCK - 1));
	const __u64 *cell = bpf_map_lookup_elem(&known, &place);

	return cell && *cell >> 16 == (own >> 48 | 1) &&
	       (__u16)((now >> KNOWN_UNIT_LOG2) - *cell) < KNOWN_LIFE;
}

/* Takes a SYN out of the budget of its address's own, which only a client that is known has. */
static __always_inline bool take_own_share(const struct settings *settings, const struct packet *p,
					   const struct service *service, __u64 now)
{
	if (!is_known(settings, p, now))
		return false;
	return !service->source_interval ||
	       take_cells(hash_client(settings, p, p->service), service->source_interval, now);
}

/*
 * Takes a SYN that the engine is to see although its client is let off, of 20,000 a second: more would drown it, and push out the
 * marks of others' connections. Those of services that are only watched spend nothing that allowed sources of the others need.
 */
static __always_inline bool take_seen(bool is_let_off, __u64 now)
{
	__u32 all = NO_SERVICE;
	struct budget *budget = bpf_map_lookup_elem(&budgets, &all);

	return budget && take(is_let_off ? &budget->let_off : &budget->watched, now, SEEN_INTERVAL);
}

/* Takes the second look at a probe. */
static __always_inline bool take_probe(const struct packet *p)
{
	if (!p->port->probes)
		return false;
	p->port->probes--;
	return true;
}

/* Whether SYNs come to this CPU at more than the rate at which pressure begins. */
static __always_inline bool is_above(const struct service *service, struct service_counters *row, __u64 now)
{
	__u64 after;

	if (!service->pressure_interval)
		return false;
	after = charged(row->pressure_meter, now, service->pressure_interval, service->pressure_window);
	if (!after)
		return true;
	row->pressure_meter = after;
	return false;
}

#endif
