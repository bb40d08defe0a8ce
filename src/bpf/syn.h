/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/* A client's SYN: what engine/mod.rs handle_opening and engine/listen.rs do of it without a table. */
#ifndef SYNWALL_SYN_H
#define SYNWALL_SYN_H

#include "answer.h"
#include "budget.h"
#include "flow.h"
#include "pending.h"
#include "screen.h"
#include "service.h"
#include "stats.h"

/* The MSS of who announces none (RFC 9293 §3.7.1, RFC 8200 §5). */
#define DEFAULT_MSS_V4 536
#define DEFAULT_MSS_V6 1220

/* 2^64 / phi. */
#define GOLDEN_RATIO 0x9e3779b97f4a7c15ULL

/* Shows the SYN to the detector, or one of so many. */
static __always_inline void sight(const struct settings *settings, const struct packet *p,
				  const struct service_counters *row)
{
	/* Sources that take turns must not fall into step with the sample: multiples of the golden ratio never do. */
	__u64 spread = row->syn_received * GOLDEN_RATIO;
	__u32 log2 = settings->sampling_log2 & 63;
	const __u8 *hop_limit = p->ip + (p->is_v6 ? 7 : 8);
	struct sighting *seen;

	if (log2 && spread >> (64 - log2))
		return;
	seen = bpf_ringbuf_reserve(&sightings, sizeof(*seen), 0);
	/* Lost if nobody takes them out: the detector asks for fewer. */
	if (!seen)
		return;
	__builtin_memcpy(seen->source, p->client, sizeof(seen->source));
	seen->service = p->service;
	seen->source_port = client_port(p);
	seen->port = server_port(p);
	seen->hop_limit = *hop_limit;
	seen->weight_log2 = log2;
	/* It is looked for at a beat: to wake anyone for each would cost more than the answer. */
	bpf_ringbuf_submit(seen, BPF_RB_NO_WAKEUP);
}

/* Whether the server refused the client's prefix, or everyone, lately. */
static __always_inline bool is_refused(const struct settings *settings, const struct packet *p, __u64 now)
{
	struct refusal_key key = {.port = p->ports >> 16};
	__u64 *until;

	if (now >= settings->refused_until)
		return false;
	__builtin_memcpy(key.address, p->server, sizeof(key.address));
	until = bpf_map_lookup_elem(&refused, &key);
	if (until && now < *until)
		return true;
	prefix_of(p, key.prefix);
	until = bpf_map_lookup_elem(&refused, &key);
	return until && now < *until;
}

/* What the SYN-ACK grants of the SYN's offer: leaves its options in `o`, and returns what the cookie carries of them. */
static __always_inline struct cookie_options grant(const struct settings *settings, const struct packet *p,
						   const struct service *service, struct options *o)
{
	__u32 parity = settings->parity & 1;
	/* An MSS of 0 is none, as Linux takes it. */
	__u32 mss = (o->has & HAS_MSS) && o->mss ? o->mss : p->is_v6 ? DEFAULT_MSS_V6 : DEFAULT_MSS_V4;
	struct cookie_options carried = {.flags = parity << 7, .extra = COOKIE_VERSION};

	/* Without MSS in the SYN there is none in the answer: it is never longer than the SYN. */
	o->mss = service->mss[p->is_v6];
	if (!(service->flags & SERVICE_WSCALE))
		o->has &= ~HAS_WSCALE;
	if (!(service->flags & SERVICE_SACK))
		o->has &= ~HAS_SACK;
	if (!(service->flags & SERVICE_TIMESTAMPS))
		o->has &= ~HAS_TIMESTAMPS;
	if (o->has & HAS_SACK)
		carried.flags |= COOKIE_SACK;
	if (o->has & HAS_TIMESTAMPS) {
		carried.flags |= fine_mss_index(mss);
		carried.extra |= COOKIE_TIMESTAMPS;
		carried.scale = o->has & HAS_WSCALE ? o->wscale + 1 : 0;
		if ((p->flags & FLAG_ECE) && (p->flags & FLAG_CWR) && (service->flags & SERVICE_ECN))
			carried.extra |= COOKIE_ECN;
	} else {
		carried.flags |= mss_index(p->is_v6, mss) | (o->has & HAS_WSCALE ? wscale_index(o->wscale) << 3 : 0);
	}
	o->wscale = service->promised_wscale[parity];
	return carried;
}

/* Answers a SYN that is within its budgets. */
static __always_inline int answer_syn(const struct settings *settings, const struct packet *p,
				      const struct service *service, struct options *o)
{
	struct cookie_options carried = grant(settings, p, service, o);
	__u64 mac = cookie_end(p, cookie_start(p, settings->keys[settings->parity & 1]), p->seq, &carried);

	o->tsecr = o->tsval;
	o->tsval = bpf_htonl(cookie_tsval(mac, unix_nanos(settings, now_in_nanos(p)), &carried));
	return write_answer(p, cookie_isn(mac, carried.flags),
			    FLAG_SYN | FLAG_ACK | (carried.extra & COOKIE_ECN ? FLAG_ECE : 0),
			    service->early_data, o);
}

/* Answers a SYN, or says why not (engine/listen.rs try_answer_syn). */
static __always_inline int try_answer_syn(const struct settings *settings, const struct packet *p,
					  const struct service *service, struct service_counters *row, __u64 now)
{
	struct options o;
	int verdict;

	if (!settings->has_key[settings->parity & 1] || now > settings->alive_until)
		return DROPPED(DROP_NO_KEY);
	read_options(p, &o);
	if ((service->flags & SERVICE_REQUIRE_TIMESTAMPS) && !(o.has & HAS_TIMESTAMPS))
		return DROPPED(DROP_TIMESTAMPS_REQUIRED);
	if (!take_source(settings, p, p->service, service->source_interval, now) &&
	    !take_own_share(settings, p, service, now))
		return DROPPED(DROP_SOURCE_RATE_EXCEEDED);
	if (!take_synack(service, row, p->service, now))
		return DROPPED(DROP_SYN_RATE_EXCEEDED);
	if (o.has & HAS_SIGNATURE)
		row->syn_signed++;
	verdict = answer_syn(settings, p, service, &o);
	if (verdict == IS_ANSWERED)
		row->synack_sent++;
	return verdict;
}

/* Handles a SYN that cookies answer, now or if SYNs come too fast. */
static __always_inline int challenge(const struct settings *settings, const struct packet *p,
				     struct service *service, struct service_counters *row)
{
	int verdict = screen_opening(p);
	__u64 now;

	if (verdict == IS_OPENING)
		return verdict;
	if (verdict != CONTINUE) {
		row->syn_received++;
		return verdict;
	}
	now = now_in_nanos(p);
	/* The engine lets these through, or repeats what it answers, as long as they are few. */
	if ((service->mode == MODE_ADAPTIVE || (service->flags & SERVICE_SPEAKS_FIRST)) && !service->pressed) {
		if (!is_above(service, row, now))
			return mark_pending(settings, p);
		service->pressed = 1;
	}
	if (is_refused(settings, p, now)) {
		if (take_reset(service, p->service, now))
			return GOES_UP;
		verdict = DROPPED(DROP_RESET_RATE_EXCEEDED);
	}
	row->syn_received++;
	sight(settings, p, row);
	return verdict == CONTINUE ? try_answer_syn(settings, p, service, row, now) : verdict;
}

/*
 * Has the engine watch a SYN that crosses whatever happens; beyond what it can see without harm to others the SYN is counted here.
 * On the tuple of a flow it is the engine that knows whether that is over.
 */
static __always_inline int watch_opening(const struct settings *settings, struct packet *p,
					 const struct service *service, struct service_counters *row)
{
	bool is_of_one = find_flow(settings, p) || ((service->flags & SERVICE_GRACE) && is_pending(p));

	if (is_of_one || take_seen(false, now_in_nanos(p))) {
		mark_pending(settings, p);
		return is_of_one ? IS_WANTED : GOES_UP;
	}
	row->syn_received++;
	return CROSSES;
}

/* Has the engine see the SYN of a source that is allowed, see engine/let_off.rs: nothing else can challenge it. */
static __always_inline int let_off(const struct settings *settings, const struct packet *p,
				   const struct service *service, struct service_counters *row)
{
	__u64 now = now_in_nanos(p);

	if (take_seen(true, now) || take_own_share(settings, p, service, now))
		return mark_pending(settings, p);
	row->syn_received++;
	return DROPPED(DROP_SOURCE_RATE_EXCEEDED);
}

/* Handles a SYN without ACK from a client. */
static __always_inline int handle_opening(const struct settings *settings, struct packet *p)
{
	struct service *service = find_service(settings, p);
	struct service_counters *row;
	struct slot *slot;
	__u32 rule = 0;

	if (!service)
		return CROSSES;
	row = service_counters(p);
	if (!row)
		return GOES_UP;
	if (service->mode == MODE_OFF && !(service->flags & SERVICE_GRACE)) {
		/* It may belong to a connection from before. */
		if (find_flow(settings, p))
			return GOES_UP;
		row->syn_received++;
		return CROSSES;
	}
	if (service->mode <= MODE_MONITOR)
		return watch_opening(settings, p, service, row);
	rule = find_rule(settings, p);
	if (rule == RULE_DENY)
		return DROPPED(DROP_DENIED);
	if (rule == RULE_ALLOW)
		return let_off(settings, p, service, row);
	slot = find_flow(settings, p);
	/* The server itself may have opened it, or this is its very SYN: see engine/mod.rs is_of_live_flow. */
	if (slot && ((slot->flags & FLOW_DIRECT) || slot->client_iss == p->seq))
		return IS_WANTED;
	return challenge(settings, p, service, row);
}

#endif
