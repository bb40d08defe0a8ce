/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/* Rewrites a segment of a flow as engine/translate.rs does: in place, the checksum incrementally (RFC 1624). */
#ifndef SYNWALL_TRANSLATE_H
#define SYNWALL_TRANSLATE_H

#include "csum.h"
#include "maps.h"
#include "options.h"

/* How far TSvals are remembered: a quarter of the circle. */
#define CLOCK_REACH (1u << 30)
/* More than a clock of milliseconds moves in a minute. */
#define CLOCK_LEAP (1u << 16)

/* The options of a segment that are translated, by their offset in the TCP header; 0 for none. */
struct places {
	/* Of TSval. TSecr follows. */
	__u32 timestamps;
	/* Of the first edge, and how many there are. */
	__u32 sack;
	__u32 edges;
};

/*
 * Finds them in the lists that senders of today write: timestamps, then SACK, each behind two NOPs. False for any other
 * list, which is the engine's.
 */
static __always_inline bool find_options(const struct packet *p, struct places *places)
{
	__u32 at = TCP_LEN;
	const __u32 *word = octets(p, p->tcp, TCP_LEN + TIMESTAMPS_LEN);

	places->timestamps = places->sack = places->edges = 0;
	if (p->header_len == at)
		return true;
	if (p->header_len >= at + TIMESTAMPS_LEN && word && word[5] == TIMESTAMPS_WORD) {
		places->timestamps = at + 4;
		at += TIMESTAMPS_LEN;
		if (p->header_len == at)
			return true;
	}
	word = octets(p, p->tcp + at, 4);
	if (!word || (*word & bpf_htonl(0xffffff00)) != bpf_htonl(0x01010500))
		return false;
	places->edges = (p->header_len - at - 4) / 4;
	places->sack = at + 4;
	return places->edges && places->edges <= 8 && places->edges % 2 == 0 &&
	       bpf_ntohl(*word) % 256 == 2 + places->edges * 4;
}

/* Replaces a word of the segment; the checksum's part of it. */
static __always_inline __u64 replace_word(const struct packet *p, __u32 at, __u32 new)
{
	__u32 *word = octets(p, p->tcp + at, 4), old;

	if (!word)
		return 0;
	old = *word;
	*word = new;
	return (__u32)~old + (__u64)new;
}

/* The scales of the windows that one side announces: its own, and the one that its reader applies. */
static __always_inline __u32 scale_from(__u16 scales, __u8 side)
{
	return scales >> (side == SIDE_SERVER ? 0 : 8) & 15;
}

static __always_inline __u32 scale_to(__u16 scales, __u8 side)
{
	return scales >> (side == SIDE_SERVER ? 4 : 12) & 15;
}

/* The field that says to the reader what `window` says: never 0 unless it was 0, or the reader would stop and probe. */
static __always_inline __u32 rescaled(__u32 window, __u32 from, __u32 to)
{
	__u32 field = window << from >> to;

	if (field > 0xffff)
		field = 0xffff;
	return field || !window ? field : 1;
}

/* What the server is to see of an echo: itself if it sent that, else it was a cookie's, which stands for the SYN-ACK. */
static __always_inline __u32 echoed(const struct slot *slot, __u32 tsecr)
{
	__u32 latest = slot->clock_latest, reach = slot->clock_reach;

	return latest - tsecr <= reach ? tsecr : latest - reach;
}

/* Notes a TSval of the server; false if it leaps, which only a segment may whose checksum is good. */
static __always_inline bool note_clock(struct slot *slot, __u32 tsval)
{
	__u32 ahead = tsval - slot->clock_latest, behind = slot->clock_latest - tsval;
	__u64 reach;

	/* One that is a little behind was overtaken. */
	if (!behind || behind < CLOCK_REACH)
		return true;
	if (ahead >= CLOCK_LEAP)
		return false;
	reach = (__u64)slot->clock_reach + ahead;
	slot->clock_latest = tsval;
	slot->clock_reach = reach < CLOCK_REACH ? reach : CLOCK_REACH;
	return true;
}

/* Rewrites the options; the checksum's part of it. */
static __always_inline __u64 translate_options(const struct packet *p, const struct slot *slot,
					       const struct places *places)
{
	const __u32 *stamp = octets(p, p->tcp + places->timestamps, 8);
	__u64 sum = 0;

	if (p->side == SIDE_SERVER) {
		if (places->timestamps && stamp)
			sum += replace_word(p, places->timestamps, bpf_htonl(bpf_ntohl(stamp[0]) - slot->ts_delta));
		return sum;
	}
	/* Without ACK the field means nothing (RFC 7323 §3.2). */
	if (places->timestamps && stamp && (p->flags & FLAG_ACK))
		sum += replace_word(p, places->timestamps + 4,
				    bpf_htonl(echoed(slot, bpf_ntohl(stamp[1]) + slot->ts_delta)));
	for (__u32 i = 0; i < 8 && i < places->edges; i++) {
		const __u32 *edge = octets(p, p->tcp + places->sack + i * 4, 4);

		if (!edge)
			break;
		sum += replace_word(p, places->sack + i * 4, bpf_htonl(bpf_ntohl(*edge) + slot->delta));
	}
	return sum;
}

/* Whether its sender on this machine has left the checksum to the device: only the engine can pass that on. */
static __always_inline bool is_partial(const struct packet *p)
{
	const struct tcphdr *tcp = p->tcp;

	return tcp->check == csum_fold(csum_pseudo(p, p->segment_len));
}

/* Rewrites the segment for its reader. */
static __always_inline void translate(const struct packet *p, struct slot *slot, const struct places *places)
{
	struct tcphdr *tcp = p->tcp;
	__u32 from = scale_from(slot->scales, p->side), to = scale_to(slot->scales, p->side);
	__u64 sum;

	sum = (__u16)~tcp->check + translate_options(p, slot, places);
	if (p->side == SIDE_SERVER)
		sum += replace_word(p, offsetof(struct tcphdr, seq), bpf_htonl(p->seq - slot->delta));
	else if (p->flags & FLAG_ACK)
		sum += replace_word(p, offsetof(struct tcphdr, ack_seq), bpf_htonl(p->ack + slot->delta));
	if (from != to) {
		__be16 window = bpf_htons(rescaled(p->window, from, to));

		sum += (__u16)~tcp->window + (__u32)window;
		tcp->window = window;
	}
	tcp->check = ~csum_fold(sum);
}

#endif
