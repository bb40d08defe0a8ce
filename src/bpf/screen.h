/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/* Refuses what no client's TCP sends, in the order of engine/classify.rs. */
#ifndef SYNWALL_SCREEN_H
#define SYNWALL_SCREEN_H

#include "csum.h"
#include "options.h"
#include "service.h"

/* An address that cannot be a peer's. */
static __always_inline bool is_bogus(bool is_v6, const __u32 *address)
{
	__u8 first = address[3];
	__u32 high = address[0] | address[1], mapped = address[2] ^ MAPPED;
	__u32 low = address[2] | (address[3] & ~bpf_htonl(1));

	if (!is_v6)
		return first == 0 || first == 127 || first >= 224;
	if ((__u8)address[0] == 0xff)
		return true;
	/* As in is_mapped. */
	barrier_var(high);
	barrier_var(mapped);
	barrier_var(low);
	return !high && (!mapped || !low);
}

static __always_inline bool is_same(bool is_v6, const __u32 *one, const __u32 *other)
{
	__u32 differs = one[3] ^ other[3];

	if (is_v6)
		differs |= (one[0] ^ other[0]) | (one[1] ^ other[1]) | (one[2] ^ other[2]);
	barrier_var(differs);
	return !differs;
}

/* What is wrong with a segment without a flow, as far as its header shows. */
static __always_inline int screen(const struct packet *p)
{
	if ((p->flags & FLAG_SYN) && (p->flags & (FLAG_FIN | FLAG_RST)))
		return DROPPED(DROP_BAD_FLAGS);
	if (!(p->flags & (FLAG_SYN | FLAG_ACK | FLAG_RST)))
		return DROPPED(DROP_BAD_FLAGS);
	if (!(p->ports & 0xffff) || !(p->ports >> 16))
		return DROPPED(DROP_BOGUS_PORT);
	if (is_bogus(p->is_v6, p->client) || is_same(p->is_v6, p->client, p->server))
		return DROPPED(DROP_BOGUS_ADDRESS);
	if (p->is_fragment)
		return DROPPED(DROP_FRAGMENT);
	return CONTINUE;
}

/* Whether the IPv4 header says its own sum. */
static __always_inline bool has_good_ip_checksum(const struct packet *p)
{
	const __u32 *word = p->ip;

	return p->is_v6 || csum_fold((__u64)word[0] + word[1] + word[2] + word[3] + word[4]) == 0xffff;
}

/* The sum of a segment, straight for the lengths of most SYNs. */
static __always_inline bool csum_segment(const struct packet *p, __u64 *sum)
{
	const __u32 *word = p->tcp;
	__u32 len = p->segment_len - TCP_LEN;
	__u64 from, rest;

	*sum += (__u64)word[0] + word[1] + word[2] + word[3] + word[4];
	if (!len)
		return true;
	if (len == 4 && octets(p, p->tcp, TCP_LEN + 4)) {
		*sum += word[5];
		return true;
	}
	if (len == LINUX_SYN_LEN && octets(p, p->tcp, TCP_LEN + LINUX_SYN_LEN)) {
		*sum += (__u64)word[5] + word[6] + word[7] + word[8] + word[9];
		return true;
	}
	from = p->tcp - p->data + TCP_LEN;
	barrier_var(from);
	rest = csum_octets(p->ctx, from, len);
	*sum += rest;
	return rest != CSUM_NONE;
}

/* Verifies the checksums of a segment that is about to be answered. */
static __always_inline int verify(const struct packet *p)
{
	__u64 pseudo = csum_pseudo(p, p->segment_len), sum = pseudo;
	const struct tcphdr *tcp = p->tcp;

	if (!csum_segment(p, &sum))
		return IS_OPENING;
	/* Its sender on this machine has left the rest of it to the device: the engine is told so. */
	if (csum_fold(sum) != 0xffff)
		return tcp->check == csum_fold(pseudo) ? IS_OPENING : DROPPED(DROP_BAD_CHECKSUM);
	return has_good_ip_checksum(p) ? CONTINUE : DROPPED(DROP_BAD_CHECKSUM);
}

/* What is wrong with a SYN. */
static __always_inline int screen_opening(const struct packet *p)
{
	int verdict = screen(p);

	return verdict == CONTINUE ? verify(p) : verdict;
}

#endif
