/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/* TCP options: what wire/tcp_options.rs reads. */
#ifndef SYNWALL_OPTIONS_H
#define SYNWALL_OPTIONS_H

#include "parse.h"

#define OPTION_END 0
#define OPTION_NOP 1
#define OPTION_MSS 2
#define OPTION_WSCALE 3
#define OPTION_SACK_PERMITTED 4
#define OPTION_SACK 5
#define OPTION_TIMESTAMPS 8
#define OPTION_MD5 19
#define OPTION_AUTHENTICATION 29

#define MAX_WSCALE 14

/* Which of them there are. */
enum {
	HAS_MSS = 1 << 0,
	HAS_WSCALE = 1 << 1,
	HAS_SACK = 1 << 2,
	HAS_TIMESTAMPS = 1 << 3,
	HAS_SIGNATURE = 1 << 4,
};

struct options {
	__u32 has;
	__u16 mss;
	__u8 wscale;
	/* As they stand in the segment. Of several, TSval is the last's, as in Linux, and TSecr the first's. */
	__u32 tsval;
	__u32 tsecr;
};

/* What an option is known by: kind and length. */
#define OPTION(kind, len) ((kind) | (len) << 8)

/* Notes an option of `len` octets; false if the frame ends before. */
static __always_inline bool note_option(void *at, void *end, __u32 kind, __u32 len, struct options *o)
{
	const __u8 *octet = at;

	switch (OPTION(kind, len)) {
	case OPTION(OPTION_MSS, 4):
		if (at + 4 > end)
			return false;
		o->mss = octet[2] << 8 | octet[3];
		o->has |= HAS_MSS;
		break;
	case OPTION(OPTION_WSCALE, 3):
		if (at + 3 > end)
			return false;
		o->wscale = octet[2] < MAX_WSCALE ? octet[2] : MAX_WSCALE;
		o->has |= HAS_WSCALE;
		break;
	case OPTION(OPTION_SACK_PERMITTED, 2):
		o->has |= HAS_SACK;
		break;
	case OPTION(OPTION_TIMESTAMPS, 10):
		if (at + 10 > end)
			return false;
		o->tsval = *(__u32 *)(octet + 2);
		if (!(o->has & HAS_TIMESTAMPS))
			o->tsecr = *(__u32 *)(octet + 6);
		o->has |= HAS_TIMESTAMPS;
		break;
	default:
		if (kind == OPTION_MD5 || kind == OPTION_AUTHENTICATION)
			o->has |= HAS_SIGNATURE;
	}
	return true;
}

/*
 * Reads the options from octet `from` to octet `to` of the frame. What is behind a broken length is ignored. A function of
 * its own, not static: the verifier goes through it once and not once for each way to come here. `nothing` is p->nothing.
 */
__noinline int walk_options(struct xdp_md *ctx, __u32 from, __u32 to, struct options *o, __u32 nothing)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 at = from;

	if (!o || to > MAX_HEADERS_LEN)
		return 0;
	nothing &= 127;
	for (int i = 0; i < MAX_OPTIONS_LEN; i++) {
		const __u8 *octet;
		__u32 kind, len;

		at = (at + nothing) & 127;
		if (at >= to || at >= MAX_HEADERS_LEN)
			break;
		octet = data + at;
		if ((void *)octet + 1 > end || *octet == OPTION_END)
			break;
		kind = *octet;
		if (kind == OPTION_NOP) {
			at++;
			continue;
		}
		if ((void *)octet + 2 > end)
			break;
		len = octet[1];
		if (len < 2 || at + len > to || !note_option((void *)octet, end, kind, len, o))
			break;
		at += len;
	}
	return 0;
}

/* The words of the SYN of Linux: MSS, SACK permitted, timestamps, window scale. */
#define LINUX_SYN_LEN 20
/* The words of nearly every segment with timestamps: NOP, NOP, timestamps. */
#define TIMESTAMPS_LEN 12
#define TIMESTAMPS_WORD bpf_htonl(0x0101080a)

/* Reads the options of a segment. */
static __always_inline void read_options(const struct packet *p, struct options *o)
{
	__u32 len = p->header_len - TCP_LEN;
	__u64 from;
	const __u32 *word = p->tcp + TCP_LEN;

	o->has = 0;
	o->mss = o->wscale = 0;
	o->tsval = o->tsecr = 0;
	if (!len)
		return;
	if (len == 4 && octets(p, (void *)word, 4) &&
	    (word[0] & bpf_htonl(0xffff0000)) == bpf_htonl(0x02040000)) {
		o->has = HAS_MSS;
		o->mss = bpf_ntohl(word[0]);
		return;
	}
	if (len == TIMESTAMPS_LEN && octets(p, (void *)word, TIMESTAMPS_LEN) && word[0] == TIMESTAMPS_WORD) {
		o->has = HAS_TIMESTAMPS;
		o->tsval = word[1];
		o->tsecr = word[2];
		return;
	}
	if (len == LINUX_SYN_LEN && octets(p, (void *)word, LINUX_SYN_LEN) &&
	    (word[0] & bpf_htonl(0xffff0000)) == bpf_htonl(0x02040000) && word[1] == bpf_htonl(0x0402080a) &&
	    (word[4] & bpf_htonl(0xffffff00)) == bpf_htonl(0x01030300)) {
		__u32 wscale = bpf_ntohl(word[4]) & 0xff;

		o->has = HAS_MSS | HAS_SACK | HAS_TIMESTAMPS | HAS_WSCALE;
		o->mss = bpf_ntohl(word[0]);
		o->wscale = wscale < MAX_WSCALE ? wscale : MAX_WSCALE;
		o->tsval = word[2];
		o->tsecr = word[3];
		return;
	}
	from = p->tcp - p->data + TCP_LEN;
	barrier_var(from);
	walk_options(p->ctx, from, from + len, o, p->nothing);
}

#endif
