// SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only
/* The bare peers: what XDP on a veth can do at most, with next to no work in the program. */
#include "common.h"

/* The port that each of the box's two ports forwards to: 0 to the server, 1 to the client. */
struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u32);
} links SEC(".maps");

static ALWAYS_INLINE void swap_macs(void *frame)
{
	__u32 high = FIELD(__u32, frame, 0);
	__u16 low = FIELD(__u16, frame, 4);

	FIELD(__u32, frame, 0) = FIELD(__u32, frame, 6);
	FIELD(__u16, frame, 4) = FIELD(__u16, frame, 10);
	FIELD(__u32, frame, 6) = high;
	FIELD(__u16, frame, 10) = low;
}

/* Swapping leaves the sums as they are. */
static ALWAYS_INLINE void swap_u32(void *frame, int one, int other)
{
	__u32 was = FIELD(__u32, frame, one);

	FIELD(__u32, frame, one) = FIELD(__u32, frame, other);
	FIELD(__u32, frame, other) = was;
}

/* Turns a SYN into a SYN-ACK with the ISN 0 and the client's own options. */
static ALWAYS_INLINE void answer(void *tcp)
{
	__u32 ports = FIELD(__u32, tcp, 0), seq = FIELD(__u32, tcp, TCP_SEQ_AT);
	__u32 ack = bpf_htonl(bpf_ntohl(seq) + 1);
	__u64 sum = (__u16)~FIELD(__u16, tcp, TCP_SUM_AT);

	FIELD(__u32, tcp, 0) = ports << 16 | ports >> 16;
	FIELD(__u32, tcp, TCP_SEQ_AT) = 0;
	FIELD(__u32, tcp, TCP_ACK_AT) = ack;
	FIELD(__u8, tcp, TCP_FLAGS_AT) = FLAG_SYN | FLAG_ACK;
	/* The old number out, the new one and the flag in (RFC 1624). */
	sum += (__u64)(__u32)~seq + ack + bpf_htons(FLAG_ACK);
	FIELD(__u16, tcp, TCP_SUM_AT) = ~fold(sum);
}

SEC("xdp")
int reflect(struct xdp_md *ctx)
{
	void *frame = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;

	if (frame + IPV4_TCP_AT + TCP_LEN > end)
		return XDP_PASS;
	if (FIELD(__u16, frame, ETHERTYPE_AT) == ETHERTYPE_IPV4) {
		if (FIELD(__u8, frame, IPV4_PROTOCOL_AT) != PROTOCOL_TCP)
			return XDP_PASS;
		swap_u32(frame, IPV4_SOURCE_AT, IPV4_DESTINATION_AT);
		answer(frame + IPV4_TCP_AT);
	} else {
		if (frame + IPV6_TCP_AT + TCP_LEN > end)
			return XDP_PASS;
		if (FIELD(__u16, frame, ETHERTYPE_AT) != ETHERTYPE_IPV6 ||
		    FIELD(__u8, frame, IPV6_NEXT_AT) != PROTOCOL_TCP)
			return XDP_PASS;
		swap_u32(frame, IPV6_SOURCE_AT, IPV6_DESTINATION_AT);
		swap_u32(frame, IPV6_SOURCE_AT + 4, IPV6_DESTINATION_AT + 4);
		swap_u32(frame, IPV6_SOURCE_AT + 8, IPV6_DESTINATION_AT + 8);
		swap_u32(frame, IPV6_SOURCE_AT + 12, IPV6_DESTINATION_AT + 12);
		answer(frame + IPV6_TCP_AT);
	}
	swap_macs(frame);
	return XDP_TX;
}

SEC("xdp")
int drop(struct xdp_md *ctx)
{
	return XDP_DROP;
}

/*
 * Looks at addresses, ports and numbers, as whoever decides about a segment must: they come from another core's cache. Never
 * true of a frame that is made here.
 */
static ALWAYS_INLINE int is_nothing(struct xdp_md *ctx)
{
	void *frame = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;

	if (frame + IPV4_TCP_AT + TCP_LEN > end)
		return 0;
	return !(FIELD(volatile __u32, frame, IPV4_SOURCE_AT) | FIELD(volatile __u32, frame, IPV4_DESTINATION_AT) |
		 FIELD(volatile __u32, frame, IPV4_TCP_AT) | FIELD(volatile __u32, frame, IPV4_TCP_AT + TCP_ACK_AT));
}

SEC("xdp")
int drop_read(struct xdp_md *ctx)
{
	return is_nothing(ctx) ? XDP_PASS : XDP_DROP;
}

SEC("xdp")
int to_inside_read(struct xdp_md *ctx)
{
	return is_nothing(ctx) ? XDP_PASS : bpf_redirect_map(&links, 0, 0);
}

SEC("xdp")
int to_outside_read(struct xdp_md *ctx)
{
	return is_nothing(ctx) ? XDP_PASS : bpf_redirect_map(&links, 1, 0);
}

SEC("xdp")
int to_inside(struct xdp_md *ctx)
{
	return bpf_redirect_map(&links, 0, 0);
}

SEC("xdp")
int to_outside(struct xdp_md *ctx)
{
	return bpf_redirect_map(&links, 1, 0);
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
