/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/* The cookie: docs/cookie.md, src/cookie. */
#ifndef SYNWALL_COOKIE_H
#define SYNWALL_COOKIE_H

#include "budget.h"
#include "parse.h"
#include "siphash.h"

#define COOKIE_VERSION 0x20
#define COOKIE_TIMESTAMPS 0x01
#define COOKIE_ECN 0x02
#define COOKIE_PARITY 0x80
#define COOKIE_SACK 0x40

#define TSVAL_ECN (1 << 12)
#define TSVAL_SCALE_SHIFT 8
#define TSVAL_CLOCK_SHIFT 13
#define TSVAL_CLOCK 0x7ffff
/* The clock's unit: 2^22 ns. */
#define TICK_SHIFT 22
#define MAC8 0xff

/* The place of a scale, at most 14, that was offered: 4 bits each. */
static __always_inline __u8 wscale_index(__u8 wscale)
{
	return 0x777776654332211ULL >> (wscale * 4) & 7;
}

/* 1 if `mss` reaches `entry`, without a branch. */
static __always_inline __u64 reaches(__u64 mss, __u64 entry)
{
	return ((mss - entry) >> 63) ^ 1;
}

/* The place of the largest MSS that is not above, without timestamps. */
static __always_inline __u8 mss_index(bool is_v6, __u64 mss)
{
	if (is_v6)
		return reaches(mss, 536) + reaches(mss, 1220) + reaches(mss, 1280) + reaches(mss, 1360) +
		       reaches(mss, 1420) + reaches(mss, 1440) + reaches(mss, 8940);
	return reaches(mss, 536) + reaches(mss, 960) + reaches(mss, 1220) + reaches(mss, 1360) +
	       reaches(mss, 1440) + reaches(mss, 1460) + reaches(mss, 8960);
}

/* The same with timestamps: cookie/layout.rs MSS_FINE. The factors divide by 36, 20 and 500. */
static __always_inline __u8 fine_mss_index(__u32 mss)
{
	if (mss < 68)
		return 0;
	if (mss < 1220)
		return 1 + ((mss - 68) * 1821 >> 16);
	if (mss < 1460)
		return 33 + ((mss - 1220) * 3277 >> 16) + reaches(mss, 1432) + reaches(mss, 1452);
	if (mss >= 8960)
		return 63;
	return 47 + ((mss - 1460) * 33555 >> 24) + reaches(mss, 8940);
}

/* The hash of the addresses, the same for whatever the segment says. */
static __always_inline struct siphash cookie_start(const struct packet *p, const __u64 key[2])
{
	const __u32 *from = p->client, *to = p->server;
	struct siphash s = sip_start(key);

	if (!p->is_v6) {
		sip_word(&s, from[3] | (__u64)to[3] << 32);
		return s;
	}
	sip_word(&s, from[0] | (__u64)from[1] << 32);
	sip_word(&s, from[2] | (__u64)from[3] << 32);
	sip_word(&s, to[0] | (__u64)to[1] << 32);
	sip_word(&s, to[2] | (__u64)to[3] << 32);
	return s;
}

/* What is hashed of the options: cookie/layout.rs. */
struct cookie_options {
	__u8 flags;
	__u8 extra;
	__u8 scale;
};

/* The hash of the whole message. */
static __always_inline __u64 cookie_end(const struct packet *p, struct siphash s, __u32 iss,
					const struct cookie_options *o)
{
	const __u64 len = p->is_v6 ? 43 : 19;

	sip_word(&s, p->ports | (__u64)bpf_htonl(iss) << 32);
	sip_word(&s, o->flags | (__u64)o->extra << 8 | (__u64)o->scale << 16 | len << 56);
	return sip_end(&s);
}

/* The ISN of a MAC and the flags. */
static __always_inline __u32 cookie_isn(__u64 mac, __u8 flags)
{
	return (__u32)(mac >> 40) << 8 | (flags ^ mac >> 56);
}

/* The clock in the MAC's bits: each of its bits changes one. */
static __always_inline __u32 fold(__u32 clock)
{
	return (clock ^ clock >> 8 ^ clock >> 16) & MAC8;
}

static __always_inline __u32 cookie_tsval(__u64 mac, __u64 unix_nanos, const struct cookie_options *o)
{
	__u32 clock = unix_nanos >> TICK_SHIFT & TSVAL_CLOCK;

	return clock << TSVAL_CLOCK_SHIFT | (o->extra & COOKIE_ECN ? TSVAL_ECN : 0) |
	       (__u32)o->scale << TSVAL_SCALE_SHIFT | ((mac & MAC8) ^ fold(clock));
}

/* What an ACK claims to return. */
struct claim {
	__u32 isn;
	bool has_timestamps;
	__u32 tsecr;
};

/* Whether the cookie is genuine for this ISS of the client. */
static __always_inline bool cookie_matches(const struct packet *p, struct siphash s, const struct claim *claim,
					   __u32 iss)
{
	struct cookie_options o = {.flags = claim->isn ^ claim->isn >> 24, .extra = COOKIE_VERSION};
	__u64 mac, wrong;

	if (claim->has_timestamps) {
		o.extra |= COOKIE_TIMESTAMPS | (claim->tsecr & TSVAL_ECN ? COOKIE_ECN : 0);
		o.scale = claim->tsecr >> TSVAL_SCALE_SHIFT & 0xf;
	}
	mac = cookie_end(p, s, iss, &o);
	wrong = mac >> 40 ^ claim->isn >> 8;
	if (claim->has_timestamps)
		wrong |= (mac ^ claim->tsecr ^ fold(claim->tsecr >> TSVAL_CLOCK_SHIFT)) & MAC8;
	return !wrong;
}

/* Whether a segment returns a cookie of ours. */
static __always_inline bool cookie_is_good(const struct settings *settings, const struct packet *p,
					   const struct claim *claim)
{
	__u32 parity = (claim->isn ^ claim->isn >> 24) >> 7;
	struct siphash s;

	/* Linux 6.1 knows the bound of what is masked last. */
	barrier_var(parity);
	parity &= 1;
	if (!settings->has_key[parity])
		return false;
	s = cookie_start(p, settings->keys[parity]);
	if (cookie_matches(p, s, claim, p->seq - 1))
		return true;
	/*
	 * A keep-alive or window probe can be the first that arrives when the ACK was lost (RFC 9293 §3.8.4). A flood that
	 * looks like that pays for one hash and not for two: only so many are looked at twice, and a client repeats its probe.
	 */
	return p->segment_len - p->header_len <= 1 && take_probe(p) && cookie_matches(p, s, claim, p->seq);
}

#endif
