/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/* What the programs of the bench share: where fields are, and which addresses belong to the load. */
#ifndef BENCH_COMMON_H
#define BENCH_COMMON_H

#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define ALWAYS_INLINE inline __attribute__((always_inline))

/* Frames of the load have no tags, no IP options and no extension headers. */
enum {
	ETHERTYPE_AT = 12,
	IP_AT = 14,
	IPV4_PROTOCOL_AT = IP_AT + 9,
	IPV4_SUM_AT = IP_AT + 10,
	IPV4_SOURCE_AT = IP_AT + 12,
	IPV4_DESTINATION_AT = IP_AT + 16,
	IPV4_TCP_AT = IP_AT + 20,
	IPV6_NEXT_AT = IP_AT + 6,
	IPV6_SOURCE_AT = IP_AT + 8,
	IPV6_DESTINATION_AT = IP_AT + 24,
	IPV6_TCP_AT = IP_AT + 40,
	TCP_SEQ_AT = 4,
	TCP_ACK_AT = 8,
	TCP_FLAGS_AT = 13,
	TCP_SUM_AT = 16,
	TCP_LEN = 20,
};

enum {
	FLAG_SYN = 1 << 1,
	FLAG_RST = 1 << 2,
	FLAG_ACK = 1 << 4,
};

#define ETHERTYPE_IPV4 bpf_htons(0x0800)
#define ETHERTYPE_IPV6 bpf_htons(0x86dd)
#define PROTOCOL_TCP 6

/* A field of a frame. Plain pointers, so that the compiler reads and writes it in one piece. */
#define FIELD(type, frame, at) (*(type *)((frame) + (at)))

/* 198.18.0.0/15 but for 198.18.255.0/24, where the lab itself lives. Network byte order. */
static ALWAYS_INLINE int is_load4(__u32 address)
{
	return (address & bpf_htonl(0xfffe0000)) == bpf_htonl(0xc6120000) &&
	       (address & bpf_htonl(0xffffff00)) != bpf_htonl(0xc612ff00);
}

/* 2001:db8::/32 but for 2001:db8:255::/48; the first 64 bits. Network byte order. */
static ALWAYS_INLINE int is_load6(__u32 first, __u32 second)
{
	return first == bpf_htonl(0x20010db8) && (second & bpf_htonl(0xffff0000)) != bpf_htonl(0x02550000);
}

/* Folds a one's complement sum into 16 bits. */
static ALWAYS_INLINE __u16 fold(__u64 sum)
{
	sum = (sum >> 32) + (sum & 0xffffffff);
	sum = (sum >> 16) + (sum & 0xffff);
	sum = (sum >> 16) + (sum & 0xffff);
	sum = (sum >> 16) + (sum & 0xffff);
	return sum;
}

#endif
