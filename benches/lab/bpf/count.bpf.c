// SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only
/*
 * At the ends of the lab: counts what belongs to the load and takes it away before it costs more. All else passes: real
 * clients live on the same segment.
 */
#include "common.h"

enum { COUNT_SYN, COUNT_SYN_ACK, COUNT_RST, COUNT_OTHER, COUNTS };

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTS);
	__type(key, __u32);
	__type(value, __u64);
} counts SEC(".maps");

/* The TCP header of a segment that came from, or goes to, an address of the load; or NULL. */
static ALWAYS_INLINE void *load_segment(void *frame, void *end)
{
	if (frame + IPV4_TCP_AT + TCP_LEN > end)
		return 0;
	if (FIELD(__u16, frame, ETHERTYPE_AT) == ETHERTYPE_IPV4) {
		if (FIELD(__u8, frame, IPV4_PROTOCOL_AT) == PROTOCOL_TCP &&
		    (is_load4(FIELD(__u32, frame, IPV4_SOURCE_AT)) ||
		     is_load4(FIELD(__u32, frame, IPV4_DESTINATION_AT))))
			return frame + IPV4_TCP_AT;
		return 0;
	}
	if (FIELD(__u16, frame, ETHERTYPE_AT) != ETHERTYPE_IPV6 || frame + IPV6_TCP_AT + TCP_LEN > end)
		return 0;
	if (FIELD(__u8, frame, IPV6_NEXT_AT) != PROTOCOL_TCP)
		return 0;
	if (is_load6(FIELD(__u32, frame, IPV6_SOURCE_AT), FIELD(__u32, frame, IPV6_SOURCE_AT + 4)) ||
	    is_load6(FIELD(__u32, frame, IPV6_DESTINATION_AT), FIELD(__u32, frame, IPV6_DESTINATION_AT + 4)))
		return frame + IPV6_TCP_AT;
	return 0;
}

SEC("xdp")
int count(struct xdp_md *ctx)
{
	void *frame = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	void *tcp = load_segment(frame, end);
	__u32 key = COUNT_OTHER;
	__u64 *counter;
	__u8 flags;

	if (!tcp || tcp + TCP_LEN > end)
		return XDP_PASS;
	flags = FIELD(__u8, tcp, TCP_FLAGS_AT);
	if (flags & FLAG_RST)
		key = COUNT_RST;
	else if (flags & FLAG_SYN)
		key = flags & FLAG_ACK ? COUNT_SYN_ACK : COUNT_SYN;
	counter = bpf_map_lookup_elem(&counts, &key);
	if (counter)
		++*counter;
	return XDP_DROP;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
