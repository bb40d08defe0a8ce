/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/* What becomes of a frame. A helper returns one of these, or CONTINUE if it settles nothing. */
#ifndef SYNWALL_VERDICT_H
#define SYNWALL_VERDICT_H

#include <linux/bpf.h>

#include "abi.h"

enum verdict {
	CONTINUE = -1,
	/* The engine decides. */
	GOES_UP = XDP_PASS,
	/* To the other port. */
	CROSSES = XDP_REDIRECT,
	/* Back to where it came from, rewritten into an answer. */
	IS_ANSWERED = XDP_TX,
	/* Dropped, for the reason in the bits above. */
	IS_DROPPED = XDP_DROP,
	/* It crosses, unless it is aimed at a protected address. */
	IS_MALFORMED = 8,
	IS_TINY_FRAGMENT = 9,
	/* Headers that only the engine reads, and ICMP errors, which may be about a connection: see up.h. */
	IS_ODD = 10,
	IS_ERROR = 11,
	/* The engine decides, but a client could send such segments in millions: see up.h. */
	IS_WANTED = 12,
	/* A SYN whose checksum the engine alone can verify; anyone can send that. */
	IS_OPENING = 13,
	/* Longer than the other link carries: the engine tells its sender. */
	IS_LONG = 14,
};

#define DROPPED(reason) (IS_DROPPED | (reason) << 8)
#define ACTION_OF(verdict) ((verdict) & 0xff)
#define REASON_OF(verdict) ((verdict) >> 8)

#endif
