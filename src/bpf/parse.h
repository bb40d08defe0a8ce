/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/* Reads the headers of a frame as wire/ethernet.rs, wire/frame.rs and wire/tcp.rs do. */
#ifndef SYNWALL_PARSE_H
#define SYNWALL_PARSE_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <stdbool.h>
#include <stddef.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "verdict.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "cookies and words of addresses are put together for little-endian machines"
#endif

/* Octets without tags. */
#define LINK_LEN 14
#define TAG_LEN 4
/* Type and code of an ICMP error, and the octets in front of what it quotes. */
#define ICMP_HEADER_LEN 8
#define V4_LEN 20
#define V6_LEN 40
#define TCP_LEN 20
#define MAX_OPTIONS_LEN 40
/* Link with two tags, IPv6, TCP. */
#define MAX_HEADERS_LEN (LINK_LEN + 2 * TAG_LEN + V6_LEN + TCP_LEN + MAX_OPTIONS_LEN)

#define FLAG_FIN 0x01
#define FLAG_SYN 0x02
#define FLAG_RST 0x04
#define FLAG_ACK 0x10
#define FLAG_ECE 0x40
#define FLAG_CWR 0x80

/* The middle of an IPv4-mapped address. */
#define MAPPED bpf_htonl(0xffff)

/* A frame, and what was read from it. Kept in registers, so never given to a function that is not inlined. */
struct packet {
	struct xdp_md *ctx;
	/* This CPU, and its row of the port that the frame came to. */
	__u32 cpu;
	struct port_counters *port;
	void *data;
	void *end;
	/* Octets of the frame as it came. */
	__u64 len;
	/* Headers that were found to be whole. */
	void *ip;
	void *tcp;
	/* Constant where they are used. */
	bool is_v6;
	__u8 side;
	bool is_fragment;
	__u8 flags;
	/* Addresses as in the packet, IPv4 mapped; ports as in the client's segments. */
	__u32 client[4];
	__u32 server[4];
	__u32 ports;
	__u32 seq;
	__u32 ack;
	__u16 window;
	/* Octets of TCP header, and of the segment. */
	__u16 header_len;
	__u16 segment_len;
	/* Of its connection, and what a hint says of that; of segments that are looked up as a flow. */
	__u64 hash;
	__u64 hint;
	/* Of the slot of its flow, before anything else of it was read. */
	__u32 version;
	/* The service that it is counted for. */
	__u32 service;
	/*
	 * 0, but to the verifier anything below 64. Added to what a loop counts with it makes all rounds alike, so that they
	 * are verified once and not once for each way to come there.
	 */
	__u32 nothing;
};

static __always_inline __u16 client_port(const struct packet *p)
{
	return bpf_ntohs(p->ports & 0xffff);
}

static __always_inline __u16 server_port(const struct packet *p)
{
	return bpf_ntohs(p->ports >> 16);
}

/* SEG.SEQ + SEG.LEN. */
static __always_inline __u32 segment_end(const struct packet *p)
{
	return p->seq + p->segment_len - p->header_len + !!(p->flags & FLAG_SYN) + !!(p->flags & FLAG_FIN);
}

static __always_inline bool is_tag(__be16 type)
{
	/* 802.1Q, 802.1ad, and the number that was in use before 802.1ad. */
	return type == bpf_htons(0x8100) || type == bpf_htons(0x88a8) || type == bpf_htons(0x9100);
}

/*
 * The same bits, of 0 to 63, which the verifier takes for any: where ways join that differ in nothing else it goes on with one of
 * them.
 */
static __always_inline __u32 blurred(const struct packet *p, __u32 bits)
{
	bits ^= p->nothing;
	return bits & 63;
}

/* `len` octets at `at`, or NULL if the frame ends before. */
static __always_inline void *octets(const struct packet *p, void *at, __u32 len)
{
	return at + len <= p->end ? at : NULL;
}

/* Finds the payload of the link behind up to two tags; its type, or 0 if the frame ends before. */
static __always_inline __be16 parse_link(struct packet *p)
{
	void *at = p->data + 2 * ETH_ALEN;
	__u64 len;

#pragma unroll
	for (int tags = 0; tags < 2; tags++) {
		if (at + 2 > p->end)
			return 0;
		if (!is_tag(*(__be16 *)at))
			break;
		at += TAG_LEN;
	}
	/*
	 * To the verifier a difference of pointers is any number: so it looks at the rest once, and not once for each number of
	 * tags.
	 */
	barrier_var(at);
	len = at - p->data;
	barrier_var(len);
	at = p->data + (len & 31);
	barrier_var(at);
	if (at + 2 > p->end)
		return 0;
	p->ip = at + 2;
	return *(__be16 *)at;
}

/* What is left of the frame behind `at`. */
static __always_inline __u64 octets_left(const struct packet *p, const void *at)
{
	__u64 left = p->end - at;

	/* Half of a difference of pointers is none to the verifier. */
	barrier_var(left);
	return left;
}

/* Whether an ICMP error of this type may be about TCP (wire/icmp.rs). */
static __always_inline bool is_icmp_error(bool is_v6, __u8 type)
{
	if (is_v6)
		return type >= 1 && type <= 4;
	return type == 3 || type == 4 || type == 5 || type == 11 || type == 12;
}

/* An ICMP error goes up if what it quotes may be TCP; nothing else of ICMP concerns anyone here. */
static __always_inline int parse_icmp(const struct packet *p, void *message)
{
	const __u8 *octet = octets(p, message, ICMP_HEADER_LEN + V4_LEN);
	/* IPv4's protocol. IPv6 may quote extension headers in front of TCP, but not in front of UDP or ICMP. */
	const int protocol = ICMP_HEADER_LEN + (p->is_v6 ? 6 : 9);

	if (!octet || !is_icmp_error(p->is_v6, octet[0]))
		return CROSSES;
	if (octet[protocol] == IPPROTO_UDP || octet[protocol] == IPPROTO_ICMP || octet[protocol] == IPPROTO_ICMPV6)
		return CROSSES;
	return IS_ERROR;
}

/* Finds the TCP header behind an IPv4 header. */
static __always_inline int parse_v4(struct packet *p)
{
	struct iphdr *ip = octets(p, p->ip, V4_LEN);
	__u32 fragment;
	__u64 len;

	/* Nothing that anyone here could read. */
	if (!ip || *(__u8 *)ip >> 4 != 4)
		return CROSSES;
	p->client[0] = p->client[1] = p->server[0] = p->server[1] = 0;
	p->client[2] = p->server[2] = MAPPED;
	p->client[3] = p->side == SIDE_CLIENT ? ip->saddr : ip->daddr;
	p->server[3] = p->side == SIDE_CLIENT ? ip->daddr : ip->saddr;
	len = bpf_ntohs(ip->tot_len);
	if (ip->ihl < 5 || len < ip->ihl * 4 || len > octets_left(p, ip))
		return ip->protocol == IPPROTO_TCP ? IS_MALFORMED : CROSSES;
	if (ip->protocol != IPPROTO_TCP && ip->protocol != IPPROTO_ICMP)
		return CROSSES;
	fragment = bpf_ntohs(ip->frag_off);
	p->is_fragment = fragment & 0x3fff;
	if (ip->protocol == IPPROTO_ICMP && p->is_fragment)
		return CROSSES;
	if (ip->ihl != 5)
		return ip->protocol == IPPROTO_ICMP ? IS_ERROR : IS_ODD;
	if (ip->protocol == IPPROTO_ICMP)
		return parse_icmp(p, ip + 1);
	/* Worth nothing without the first fragment, which is judged; but one that overlaps its header is (RFC 3128). */
	if (fragment & 0x1fff)
		return (fragment & 0x1fff) == 1 ? IS_TINY_FRAGMENT : CROSSES;
	p->tcp = ip + 1;
	p->segment_len = len - V4_LEN;
	return CONTINUE;
}

/* Whether a header of this number may stand in front of TCP (wire/ipv6.rs). */
static __always_inline bool is_extension(__u8 header)
{
	return header == IPPROTO_HOPOPTS || header == IPPROTO_ROUTING || header == IPPROTO_FRAGMENT ||
	       header == IPPROTO_AH || header == IPPROTO_DSTOPTS;
}

/* Finds the TCP header behind an IPv6 header. */
static __always_inline int parse_v6(struct packet *p)
{
	struct ipv6hdr *ip = octets(p, p->ip, V6_LEN);
	__u64 len;

	if (!ip || *(__u8 *)ip >> 4 != 6)
		return CROSSES;
	for (int i = 0; i < 4; i++) {
		__u32 source = ip->saddr.in6_u.u6_addr32[i], destination = ip->daddr.in6_u.u6_addr32[i];

		p->client[i] = p->side == SIDE_CLIENT ? source : destination;
		p->server[i] = p->side == SIDE_CLIENT ? destination : source;
	}
	len = bpf_ntohs(ip->payload_len);
	p->is_fragment = false;
	if (len + V6_LEN > octets_left(p, ip))
		return IS_MALFORMED;
	if (is_extension(ip->nexthdr))
		return IS_ODD;
	if (ip->nexthdr == IPPROTO_ICMPV6)
		return parse_icmp(p, ip + 1);
	if (ip->nexthdr != IPPROTO_TCP)
		return CROSSES;
	p->tcp = ip + 1;
	p->segment_len = len;
	return CONTINUE;
}

/* Reads the fixed part of the TCP header. */
static __always_inline int parse_tcp(struct packet *p)
{
	struct tcphdr *tcp = octets(p, p->tcp, TCP_LEN);
	__u32 ports;

	if (!tcp || p->segment_len < TCP_LEN)
		return p->is_fragment ? IS_TINY_FRAGMENT : IS_MALFORMED;
	p->header_len = tcp->doff * 4;
	if (p->header_len < TCP_LEN || p->header_len > p->segment_len)
		return p->is_fragment ? IS_TINY_FRAGMENT : IS_MALFORMED;
	ports = *(__u32 *)tcp;
	p->ports = p->side == SIDE_CLIENT ? ports : ports >> 16 | ports << 16;
	p->seq = bpf_ntohl(tcp->seq);
	p->ack = bpf_ntohl(tcp->ack_seq);
	p->flags = ((__u8 *)tcp)[13];
	p->window = bpf_ntohs(tcp->window);
	return CONTINUE;
}

/* A connection's name, for maps. */
static __always_inline struct flow_key flow_key(const struct packet *p)
{
	struct flow_key key;

	__builtin_memcpy(key.client, p->client, sizeof(key.client));
	__builtin_memcpy(key.server, p->server, sizeof(key.server));
	key.client_port = p->ports;
	key.server_port = p->ports >> 16;
	return key;
}

#endif
