/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/*
 * The keyed hash of flows and prefixes: NH over pairs of words (multiplication of sums with secrets, as in UMAC, RFC 4418),
 * then mixed. Nobody who chooses tuples without the secrets can make them collide; io/xdp/table.rs has the same in Rust.
 */
#ifndef SYNWALL_HASH_H
#define SYNWALL_HASH_H

#include "maps.h"
#include "parse.h"

static __always_inline __u64 hash_pair(const struct settings *settings, int place, __u32 one, __u32 other)
{
	return (one + settings->hash_keys[place]) * (other + settings->hash_keys[place + 1]);
}

static __always_inline __u64 hash_mix(const struct settings *settings, __u64 hash)
{
	hash ^= hash >> 32;
	hash *= settings->hash_keys[10] | 1;
	return hash ^ hash >> 29;
}

/* The hash of a connection. */
static __always_inline __u64 hash_flow(const struct settings *settings, const struct packet *p)
{
	const __u32 *from = p->client, *to = p->server;

	return hash_mix(settings,
			hash_pair(settings, 0, from[0], from[1]) + hash_pair(settings, 2, from[2], from[3]) +
				hash_pair(settings, 4, to[0], to[1]) + hash_pair(settings, 6, to[2], to[3]) +
				hash_pair(settings, 8, p->ports, 0));
}

/* What may be known of connections with such a hash. */
static __always_inline struct hint *hint_of(__u64 hash)
{
	__u32 place = hash % HINTS;

	return bpf_map_lookup_elem(&hints, &place);
}

/* What a hint says of a connection: whether it may be a flow, and when it may have been marked. */
static __always_inline __u32 flow_hint(__u64 hint, __u64 hash)
{
	return hint >> (hash >> 15 & 31) & 1;
}

static __always_inline __u16 stamp_hint(__u64 hint, __u64 hash)
{
	return hint >> (hash >> 20 & 1 ? 48 : 32);
}

/* The client's prefix, IPv4 /24 or IPv6 /64, in two words. */
static __always_inline void prefix_of(const struct packet *p, __u32 *prefix)
{
	const __u32 *from = p->client;

	/* What begins like a multicast address is no source of IPv6 (RFC 4291 §2.7). */
	prefix[0] = p->is_v6 ? from[0] : bpf_htonl(0xff000004);
	prefix[1] = p->is_v6 ? from[1] : from[3] & bpf_htonl(0xffffff00);
}

/* The hash of the client's prefix and what it is asked for. */
static __always_inline __u64 hash_source(const struct settings *settings, const struct packet *p, __u32 what)
{
	__u32 prefix[2];

	prefix_of(p, prefix);
	return hash_mix(settings, hash_pair(settings, 0, prefix[0], prefix[1]) + hash_pair(settings, 2, what, 0));
}

/* The hash of the client's address and what it is asked for. */
static __always_inline __u64 hash_client(const struct settings *settings, const struct packet *p, __u32 what)
{
	const __u32 *from = p->client;

	return hash_mix(settings, hash_pair(settings, 0, from[0], from[1]) + hash_pair(settings, 2, from[2], from[3]) +
					  hash_pair(settings, 4, what, 0));
}

/* The hash of the client's site: IPv4 /24 or IPv6 /48. */
static __always_inline __u64 hash_site(const struct settings *settings, const struct packet *p)
{
	__u32 prefix[2];

	prefix_of(p, prefix);
	if (p->is_v6)
		prefix[1] &= bpf_htonl(0xffff0000);
	return hash_mix(settings,
			hash_pair(settings, 0, prefix[0], prefix[1]) + hash_pair(settings, 2, KNOWN_SITE, 0));
}

#endif
