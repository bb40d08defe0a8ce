/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/*
 * The Internet checksum (RFC 1071) and its incremental update (RFC 1624), in the order of octets of the machine: sums of
 * words as they lie in memory, for a sum commutes with swapping octets.
 */
#ifndef SYNWALL_CSUM_H
#define SYNWALL_CSUM_H

#include "parse.h"

/* The one's complement sum of what was added up: less than 2^42, for that is more than all words of a frame make. */
static __always_inline __u16 csum_fold(__u64 sum)
{
	sum = (sum >> 16) + (sum & 0xffff);
	sum = (sum >> 16) + (sum & 0xffff);
	sum = (sum >> 16) + (sum & 0xffff);
	return sum;
}

/* Records that a word changed. */
static __always_inline __u64 csum_replace(__u64 sum, __u32 old, __u32 new)
{
	return sum + (__u32)~old + new;
}

/* Both addresses, which an answer swaps. */
static __always_inline __u64 csum_addresses(const struct packet *p)
{
	__u64 sum = (__u64)p->client[3] + p->server[3];

	if (p->is_v6)
		sum += (__u64)p->client[0] + p->client[1] + p->client[2] + p->server[0] +
		       p->server[1] + p->server[2];
	return sum;
}

/* The pseudo-header of a segment of `len` octets. */
static __always_inline __u64 csum_pseudo(const struct packet *p, __u32 len)
{
	return csum_addresses(p) + bpf_htons(IPPROTO_TCP) + bpf_htons(len);
}

/* The octets that a SYN may carry behind its fixed header and still be answered here: a full segment of Ethernet. */
#define MOST_SYN_OCTETS 1540
/* No sum of so few octets comes near it. */
#define CSUM_NONE (~0ULL)

/*
 * Adds up `len` octets from octet `from` of the frame on; CSUM_NONE if they are too many. A function of its own for the reason
 * that walk_options is.
 */
__noinline __u64 csum_octets(struct xdp_md *ctx, __u32 from, __u32 len)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end, *at;
	__u64 sum = 0;
	__u64 place;

	if (from > MAX_HEADERS_LEN || len > MOST_SYN_OCTETS)
		return CSUM_NONE;
	at = data + from;
	for (int i = 0; i < MOST_SYN_OCTETS / 16 && len >= 16; i++, len -= 16, at += 16) {
		const __u32 *word = at;

		/* Or the compiler counts down from the end, which the verifier does not allow. */
		barrier_var(at);
		if (at + 16 > end)
			return CSUM_NONE;
		sum += (__u64)word[0] + word[1] + word[2] + word[3];
	}
	/* As in parse_link: one pointer, wherever the rest begins. */
	barrier_var(at);
	place = at - data;
	barrier_var(place);
	at = data + (place & 2047);
	for (int i = 0; i < 3 && len >= 4; i++, len -= 4, at += 4) {
		barrier_var(at);
		if (at + 4 > end)
			return CSUM_NONE;
		sum += *(const __u32 *)at;
	}
	if (len >= 2) {
		if (at + 2 > end)
			return CSUM_NONE;
		sum += *(const __u16 *)at;
		at += 2;
	}
	if (len & 1) {
		if (at + 1 > end)
			return CSUM_NONE;
		sum += *(const __u8 *)at;
	}
	return sum;
}

#endif
