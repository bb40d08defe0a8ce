// SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only
/*
 * The load. The kernel runs this for each live frame of BPF_PROG_TEST_RUN; it writes a whole segment into the frame and
 * redirects it to a veth. Pages are recycled as whoever had them last left them, so every octet is written anew.
 *
 * It is bounded by `left`, and paced by dropping frames until the next is due, which costs a core but no burst.
 */
#include "common.h"

/* Octets of the frame that the kernel supplies, and of every template. */
#define ROOM 96
#define TEMPLATES 8

enum template_flags {
	IS_IPV6 = 1 << 0,
	/* The acknowledgement number and TSecr are guesses. */
	HAS_GUESSES = 1 << 1,
	/* Of one of `flows` established connections, the sequence numbers rising; else all by chance. */
	OF_A_FLOW = 1 << 2,
	/* TSval is by chance: behind MSS and SACK permitted in a SYN, behind two NOPs else. */
	HAS_TIMESTAMPS = 1 << 3,
};

enum {
	SYN_TIMESTAMPS_AT = TCP_LEN + 4 + 2 + 2,
	ACK_TIMESTAMPS_AT = TCP_LEN + 2 + 2,
};

/* A segment whose source, ports, numbers and times are 0, with the sums of what is there. */
struct template {
	__u32 len;
	__u32 flags;
	__u32 ip_sum;
	__u32 tcp_sum;
	__u32 seq;
	__u32 padding;
	__u64 frame[ROOM / 8];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, TEMPLATES);
	__type(key, __u32);
	__type(value, struct template);
} templates SEC(".maps");

struct progress {
	__u64 random;
	__u64 left;
	__u64 sent;
	/* Nanoseconds between segments; 0 for as fast as it goes. */
	__u64 interval;
	__u64 next;
	__u64 flows;
	__u64 ifindex;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct progress);
} progress SEC(".maps");

/* SplitMix64. */
static ALWAYS_INLINE __u64 next_random(struct progress *state)
{
	__u64 mixed = state->random += 0x9e3779b97f4a7c15;

	mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9;
	mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111eb;
	return mixed ^ (mixed >> 31);
}

static ALWAYS_INLINE int is_due(struct progress *state)
{
	__u64 now;

	if (!state->left)
		return 0;
	if (state->interval) {
		now = bpf_ktime_get_ns();
		if (now < state->next)
			return 0;
		/* What could not be sent in time is not made up for. */
		state->next = (state->next + 1000000 < now ? now : state->next) + state->interval;
	}
	state->left--;
	state->sent++;
	return 1;
}

/* The address and the port of the flows, one after another: see `tuple` in the loader. A table scatters them itself. */
static ALWAYS_INLINE void name_flow(struct progress *state, __u32 *source, __u16 *port)
{
	__u32 number = state->flows ? state->sent % state->flows : 0;

	*source = bpf_htonl(0xc6130000 | (number & 0xffff));
	*port = bpf_htons(20000 + (number >> 16));
}

static ALWAYS_INLINE __u32 forge_source(__u32 random)
{
	__u32 host = random & 0x1ffff;

	if (host >> 8 == 0xff)
		host ^= 0x10000;
	return bpf_htonl(0xc6120000 | host);
}

/* Writes TSval, and TSecr where it is a guess, and returns their sum. */
static ALWAYS_INLINE __u64 write_timestamps(struct progress *state, const struct template *template, void *tcp)
{
	__u64 random;

	if (!(template->flags & HAS_TIMESTAMPS))
		return 0;
	random = next_random(state);
	if (!(template->flags & HAS_GUESSES)) {
		FIELD(__u32, tcp, SYN_TIMESTAMPS_AT) = random;
		return random & 0xffffffff;
	}
	FIELD(__u32, tcp, ACK_TIMESTAMPS_AT) = random;
	FIELD(__u32, tcp, ACK_TIMESTAMPS_AT + 4) = random >> 32;
	return (random & 0xffffffff) + (random >> 32);
}

/* Writes ports, numbers and times, and the checksum over them and `sum`. */
static ALWAYS_INLINE void write_tcp(struct progress *state, const struct template *template, void *tcp, __u16 port,
				    __u64 sum)
{
	__u64 random = next_random(state);
	__u32 seq = bpf_htonl(random);

	if (template->flags & OF_A_FLOW)
		seq = bpf_htonl(template->seq + (state->sent & 0xffffff));
	FIELD(__u16, tcp, 0) = port;
	FIELD(__u32, tcp, TCP_SEQ_AT) = seq;
	sum += write_timestamps(state, template, tcp) + template->tcp_sum + port + seq;
	if (template->flags & HAS_GUESSES) {
		FIELD(__u32, tcp, TCP_ACK_AT) = random >> 32;
		sum += random >> 32;
	}
	FIELD(__u16, tcp, TCP_SUM_AT) = ~fold(sum);
}

static ALWAYS_INLINE void write_ipv4(struct progress *state, const struct template *template, void *frame)
{
	__u64 random = next_random(state);
	__u16 port = bpf_htons(1024 + ((random >> 32 & 0xffff) * 64512 >> 16));
	__u32 source = forge_source(random);

	if (template->flags & OF_A_FLOW)
		name_flow(state, &source, &port);
	FIELD(__u32, frame, IPV4_SOURCE_AT) = source;
	FIELD(__u16, frame, IPV4_SUM_AT) = ~fold(template->ip_sum + (__u64)source);
	write_tcp(state, template, frame + IPV4_TCP_AT, port, source);
}

static ALWAYS_INLINE void write_ipv6(struct progress *state, const struct template *template, void *frame)
{
	__u64 random = next_random(state);
	__u16 port = bpf_htons(1024 + ((random >> 32 & 0xffff) * 64512 >> 16));
	/* 2001:db8:1xxx::, which the lab's own 2001:db8:255:: is not. */
	__u32 net = bpf_htonl((0x1000 | (random >> 48 & 0xfff)) << 16), host = random;

	FIELD(__u32, frame, IPV6_SOURCE_AT + 4) = net;
	FIELD(__u32, frame, IPV6_SOURCE_AT + 12) = host;
	write_tcp(state, template, frame + IPV6_TCP_AT, port, (__u64)net + host);
}

SEC("xdp")
int generate(struct xdp_md *ctx)
{
	void *frame = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct template *template;
	struct progress *state;
	__u32 key = 0, ifindex;
	int i;

	state = bpf_map_lookup_elem(&progress, &key);
	if (!state || frame + ROOM > end || !is_due(state))
		return XDP_DROP;
	key = state->sent % TEMPLATES;
	template = bpf_map_lookup_elem(&templates, &key);
	if (!template)
		return XDP_DROP;
	for (i = 0; i < ROOM / 8; i++)
		FIELD(__u64, frame, i * 8) = template->frame[i];
	if (template->flags & IS_IPV6)
		write_ipv6(state, template, frame);
	else
		write_ipv4(state, template, frame);
	ifindex = state->ifindex;
	if (bpf_xdp_adjust_tail(ctx, (int)template->len - ROOM))
		return XDP_DROP;
	return bpf_redirect(ifindex, 0);
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
