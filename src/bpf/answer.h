/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/* Rewrites a SYN into its SYN-ACK, octet for octet what engine/listen.rs and wire/build.rs make. */
#ifndef SYNWALL_ANSWER_H
#define SYNWALL_ANSWER_H

#include "cookie.h"
#include "csum.h"
#include "options.h"

#define HOP_LIMIT 64

/* Swaps the MAC addresses and keeps the tags. A group's address is made one of local administration, as LinkHeader::reversed does. */
static __always_inline void reverse_link(const struct packet *p)
{
	__u64 first = *(__u64 *)p->data;
	__u32 last = *(__u32 *)(p->data + 8);
	__u64 group = first & 1;

	first = (first ^ group) | group << 1;
	*(__u64 *)p->data = first >> 48 | (__u64)last << 16 | first << 48;
	*(__u32 *)(p->data + 8) = first >> 16;
}

/* An atomic packet back: its identification is never used (RFC 6864 §4.1). */
static __always_inline void write_v4(const struct packet *p, __u32 segment_len)
{
	__u32 *word = p->ip;
	__u32 first = bpf_htonl(0x45000000 | (V4_LEN + segment_len)), second = bpf_htonl(0x00004000);
	__u32 third = bpf_htonl(HOP_LIMIT << 24 | IPPROTO_TCP << 16);

	third |= (__u32)(__u16)~csum_fold(csum_addresses(p) + first + second + third) << 16;
	word[0] = first;
	word[1] = second;
	word[2] = third;
	word[3] = p->server[3];
	word[4] = p->client[3];
}

static __always_inline void write_v6(const struct packet *p, __u32 segment_len)
{
	__u32 *word = p->ip;

	word[0] = bpf_htonl(0x60000000);
	word[1] = bpf_htonl(segment_len << 16 | IPPROTO_TCP << 8 | HOP_LIMIT);
	__builtin_memcpy(word + 2, p->server, sizeof(p->server));
	__builtin_memcpy(word + 6, p->client, sizeof(p->client));
}

/* Writes the options one behind the other; false if the frame is too short, which that of a SYN is not. */
static __always_inline bool write_options(const struct packet *p, const struct options *o, __u64 *sum,
					  __u32 *len)
{
	__u32 at = TCP_LEN;

#define PUT(value)                                                                                           \
	do {                                                                                                 \
		__u32 word = value;                                                                          \
		if (p->tcp + at + 4 > p->end)                                                                \
			return false;                                                                        \
		*(__u32 *)(p->tcp + at) = word;                                                              \
		*sum += word;                                                                                \
		at += 4;                                                                                     \
	} while (0)

	if (o->has & HAS_MSS)
		PUT(bpf_htonl(OPTION_MSS << 24 | 4 << 16 | o->mss));
	if (o->has & HAS_TIMESTAMPS) {
		PUT(o->has & HAS_SACK ? bpf_htonl(0x0402080a) : TIMESTAMPS_WORD);
		PUT(o->tsval);
		PUT(o->tsecr);
	} else if (o->has & HAS_SACK) {
		PUT(bpf_htonl(0x01010402));
	}
	if (o->has & HAS_WSCALE)
		PUT(bpf_htonl(0x01030300 | o->wscale));
#undef PUT
	*len = at;
	return true;
}

/* Makes the frame a SYN-ACK; `o` are its options. */
static __always_inline int write_answer(const struct packet *p, __u32 isn, __u8 flags, __u16 window,
					const struct options *o)
{
	__u32 *word = p->tcp;
	__u32 ports = p->ports >> 16 | p->ports << 16, seq = bpf_htonl(isn), ack = bpf_htonl(p->seq + 1);
	__u32 len, fourth;
	__u64 sum = csum_addresses(p) + bpf_htons(IPPROTO_TCP);
	int excess;

	if (!write_options(p, o, &sum, &len))
		return DROPPED(DROP_MALFORMED);
	reverse_link(p);
	fourth = bpf_htonl(len << 26 | flags << 16 | window);
	sum += bpf_htons(len) + (__u64)ports + seq + ack + fourth;
	word[0] = ports;
	word[1] = seq;
	word[2] = ack;
	word[3] = fourth;
	word[4] = (__u16)~csum_fold(sum);
	if (p->is_v6)
		write_v6(p, len);
	else
		write_v4(p, len);
	/* Payload and padding of the link, and the options that are not granted. */
	excess = octets_left(p, p->tcp) - len;
	if (excess && bpf_xdp_adjust_tail(p->ctx, -excess))
		return DROPPED(DROP_MALFORMED);
	return IS_ANSWERED;
}

#endif
