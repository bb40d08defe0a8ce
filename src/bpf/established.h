/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/* A segment of a flow: judged, noted and translated as engine/established.rs and engine/flow.rs do. */
#ifndef SYNWALL_ESTABLISHED_H
#define SYNWALL_ESTABLISHED_H

#include "flow.h"
#include "pending.h"
#include "service.h"
#include "translate.h"

/*
 * Octets. How far behind a segment may be and still pass as an old duplicate, beside the window: a window without scaling, and as
 * much again for the segment that went beyond the window.
 */
#define OLD_SEGMENT 132000
/* So many empty ACKs in turn say nothing that the first few did not. */
#define STORM_LENGTH 20
/* What comes later than this is no storm: no probe is sent again so soon. Milliseconds. */
#define STORM_PAUSE 200

/* Whether one number lies before another (RFC 9293 §3.4). */
static __always_inline bool is_before(__u32 one, __u32 other)
{
	return (__s32)(one - other) < 0;
}

/* SEG.ACK in the server's view. */
static __always_inline __u32 ack_of(const struct packet *p, const struct slot *slot)
{
	return p->side == SIDE_CLIENT ? p->ack + slot->delta : p->ack;
}

/* A window, and some. */
static __always_inline __u32 beyond(__u32 window)
{
	return window + OLD_SEGMENT < OLD_SEGMENT ? ~0u : window + OLD_SEGMENT;
}

/*
 * Whether the segment may be of the connection (RFC 9293 §3.10.7.4, RFC 5961). The note of a direct one goes by what the client
 * has acknowledged before, see engine/note.rs.
 */
static __always_inline bool is_acceptable(const struct packet *p, const struct slot *slot)
{
	const struct end *sender = &slot->ends[p->side], *receiver = &slot->ends[!p->side];
	__u32 window = beyond(receiver->max_window), reach = beyond(sender->max_window);
	/* RFC 5961 5.2: several CPUs carry the ACKs of a connection, and one that was overtaken by a window's worth may come with data. */
	__u32 oldest = sender->acked - (slot->flags & FLOW_DIRECT && p->side == SIDE_CLIENT ? OLD_SEGMENT : reach);

	/*
	 * Where it begins decides: of one that goes on beyond the edge its receiver takes what fits, and one that begins before
	 * RCV.NXT it owes an ACK. The sender of a window probe goes on one octet beyond.
	 */
	if (is_before(receiver->edge + 1, p->seq) || is_before(segment_end(p), receiver->acked - window))
		return false;
	return !(p->flags & FLAG_ACK) || (!is_before(receiver->next, ack_of(p, slot)) &&
					  !is_before(ack_of(p, slot), oldest));
}

/* Whether a RST may be obeyed or challenged, be it one before RCV.NXT, as macOS sends it behind a FIN. */
static __always_inline bool may_reset(const struct packet *p, const struct slot *slot)
{
	const struct end *sender = &slot->ends[p->side], *receiver = &slot->ends[!p->side];

	return p->seq == sender->next || (!is_before(p->seq + 1, receiver->acked) && is_before(p->seq, receiver->edge)) ||
	       p->seq == receiver->acked;
}

/*
 * Moves a number on, never back, whatever other CPUs and user space do at the same time: a number that fell back would keep out
 * what a peer acknowledges, or sends, until the same segment comes again. One that was not moved after so many tries others
 * have moved.
 */
static __always_inline void advance(__u32 *number, __u32 to)
{
	__u32 seen = *(volatile __u32 *)number;

	for (int i = 0; i < 3 && is_before(seen, to); i++) {
		__u32 found = __sync_val_compare_and_swap(number, seen, to);

		if (found == seen)
			return;
		seen = found;
	}
}

/* Notes an acceptable segment. */
static __always_inline void note(const struct packet *p, struct slot *slot, __u32 now)
{
	struct end *sender = &slot->ends[p->side];
	__u32 from = scale_from(slot->scales, p->side), to = scale_to(slot->scales, p->side);

	advance(&sender->next, segment_end(p));
	/* How much more it carries only the later fragments know: as much as the window takes. */
	if (p->is_fragment)
		advance(&sender->next, slot->ends[!p->side].edge);
	if (p->flags & FLAG_ACK) {
		__u32 said = (__u32)p->window << from, told = rescaled(p->window, from, to) << to;
		/* What the peer is told may round up what was said. */
		__u32 window = said > told ? said : told;

		advance(&sender->acked, ack_of(p, slot));
		advance(&sender->edge, ack_of(p, slot) + window);
		if (sender->max_window < window)
			sender->max_window = window;
	}
	slot->last_seen = now;
}

/* Whether the segment is empty and says nothing that the ones before did not. */
static __always_inline bool says_nothing_new(const struct packet *p, const struct slot *slot)
{
	const struct end *sender = &slot->ends[p->side];

	return p->segment_len == p->header_len && !p->is_fragment && !is_before(sender->next, p->seq) &&
	       !is_before(sender->acked, ack_of(p, slot));
}

/* Notes what the segment says; whether it only keeps a storm of empty ACKs going. */
static __always_inline bool keeps_storm(const struct packet *p, struct slot *slot, __u32 now)
{
	__u8 before = slot->storm, length = before, mine = p->side == SIDE_SERVER;

	if (slot->last_server == mine || (__s32)(now - slot->last_seen) >= STORM_PAUSE || !says_nothing_new(p, slot))
		length = 0;
	else if (length < 0xff)
		length++;
	if (before != length)
		slot->storm = length;
	if (slot->last_server != mine)
		slot->last_server = mine;
	return length > STORM_LENGTH;
}

/* Whether the operator has locked the client out since. */
static __always_inline bool is_denied(const struct settings *settings, const struct packet *p)
{
	const struct service *service;
	__u32 id = p->service;

	if (p->side == SIDE_SERVER || find_rule(settings, p) != RULE_DENY)
		return false;
	service = bpf_map_lookup_elem(&services, &id);
	return service && service->mode >= MODE_ADAPTIVE;
}

/* Whether a client's segment may return the cookie with which a SYN was answered on a direct flow's tuple. */
static __always_inline bool may_return_cookie(const struct packet *p, const struct slot *slot)
{
	return (slot->flags & FLOW_CHALLENGED) && p->side == SIDE_CLIENT &&
	       (p->flags & (FLAG_SYN | FLAG_ACK | FLAG_RST)) == FLAG_ACK && p->seq - slot->ts_delta <= 1;
}

/* Whether a RST may be exact as its receiver sees it (RFC 5961 §3.2), be it one before RCV.NXT, as macOS sends it behind a FIN. */
static __always_inline bool is_exact(const struct packet *p, const struct slot *slot)
{
	__u32 expected = slot->ends[!p->side].acked;

	return p->seq == expected || p->seq + 1 == expected || p->seq == slot->ends[p->side].next;
}

/* Whether a server's segment lies before what was noted of neither end: the engine believes it. */
static __always_inline bool is_ahead(const struct packet *p, const struct slot *slot)
{
	const struct end *server = &slot->ends[SIDE_SERVER];

	return p->side == SIDE_SERVER && (p->flags & FLAG_ACK) && !is_before(segment_end(p), server->next) &&
	       !is_before(p->ack, server->acked);
}

/*
 * A segment of a direct flow crosses whatever it says, and is noted if its receiver would take it (engine/note.rs). What may
 * end the flow, or show that the note is behind, the engine must see; and what may be of a connection that was challenged.
 */
static __always_inline int watch(const struct settings *settings, const struct packet *p, struct slot *slot)
{
	if (may_return_cookie(p, slot)) {
		mark_pending(settings, p);
		return IS_WANTED;
	}
	if ((slot->flags & FLOW_UP) || (p->flags & FLAG_SYN))
		return IS_WANTED;
	if (p->flags & FLAG_RST)
		return is_exact(p, slot) ? IS_WANTED : CROSSES;
	if (!is_acceptable(p, slot))
		return is_ahead(p, slot) || (slot->flags & FLOW_CHALLENGED) ? IS_WANTED : CROSSES;
	if (p->flags & FLAG_FIN)
		return IS_WANTED;
	if (p->flags & FLAG_ACK)
		note(p, slot, now_in_millis(p));
	return CROSSES;
}

/* Translates an acceptable segment, unless there is more to say of it than that. */
static __always_inline int pass_on(const struct packet *p, struct slot *slot)
{
	__u32 now = now_in_millis(p);
	struct places places;

	if (keeps_storm(p, slot, now)) {
		slot->last_seen = now;
		return DROPPED(DROP_ACK_STORM);
	}
	/* Described anew meanwhile: what was read may be of two connections. */
	if (!is_unchanged(p, slot))
		return GOES_UP;
	if (is_partial(p) || !find_options(p, &places))
		return IS_WANTED;
	if (p->side == SIDE_SERVER && places.timestamps) {
		const __u32 *tsval = octets(p, p->tcp + places.timestamps, 4);

		if (!tsval || !note_clock(slot, bpf_ntohl(*tsval)))
			return GOES_UP;
	}
	places.timestamps = blurred(p, places.timestamps);
	places.sack = blurred(p, places.sack);
	note(p, slot, now);
	translate(p, slot, &places);
	/* What it was rewritten by was read after the last look: better lost, to be repeated, than wrong. */
	return is_unchanged(p, slot) ? CROSSES : DROPPED(DROP_OUT_OF_WINDOW);
}

/*
 * What a segment of a translated flow says of its state: the engine must see it, but only if its receiver would look at it
 * (engine/established.rs), or anyone could have the engine look at as many as he can send. Servers are trusted not to flood.
 */
static __always_inline int judge_flags(const struct packet *p, const struct slot *slot, bool acceptable)
{
	if (!(p->flags & (FLAG_SYN | FLAG_ACK | FLAG_RST)))
		return DROPPED(DROP_BAD_FLAGS);
	if ((p->flags & FLAG_SYN) && p->side == SIDE_SERVER)
		return GOES_UP;
	if (p->flags & FLAG_RST)
		return may_reset(p, slot) ? IS_WANTED : DROPPED(DROP_BAD_RESET);
	if (p->flags & (FLAG_SYN | FLAG_FIN))
		return acceptable ? IS_WANTED : CONTINUE;
	return CONTINUE;
}

/*
 * Handles a segment of a flow; CONTINUE if it may be the first of the next connection on its tuple. A first fragment, too: on
 * its way through the engine it would fall behind the later ones, and receivers give up on what is 64 packets late.
 */
static __always_inline int handle_in_flow(const struct settings *settings, struct packet *p, struct slot *slot)
{
	bool acceptable = is_acceptable(p, slot);
	int verdict;

	p->service = slot->service < NO_SERVICE ? slot->service : NO_SERVICE;
	if (is_denied(settings, p))
		return DROPPED(DROP_DENIED);
	if (slot->flags & FLOW_DIRECT) {
		verdict = watch(settings, p, slot);
		return is_unchanged(p, slot) ? verdict : GOES_UP;
	}
	if (slot->flags & FLOW_UP)
		return IS_WANTED;
	verdict = judge_flags(p, slot, acceptable);
	if (verdict == CONTINUE && acceptable)
		return pass_on(p, slot);
	/* A slot that was written meanwhile judges nothing. */
	if (!is_unchanged(p, slot))
		return GOES_UP;
	if (verdict != CONTINUE)
		return verdict;
	return p->flags & FLAG_ACK && p->side == SIDE_CLIENT ? CONTINUE : DROPPED(DROP_OUT_OF_WINDOW);
}

#endif
