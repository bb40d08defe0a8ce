// SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only
/* A stand-in: the maps, counters and verdicts without any decision. */
#include <linux/bpf.h>
#include <linux/types.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"

#define MAP(map, map_type, key_type, value_type, entries, flags) \
	struct {                                                 \
		__uint(type, map_type);                          \
		__uint(max_entries, entries);                    \
		__uint(map_flags, flags);                        \
		__type(key, key_type);                           \
		__type(value, value_type);                       \
	} map SEC(".maps")
#define MMAPABLE(map, value_type, entries) MAP(map, BPF_MAP_TYPE_ARRAY, __u32, value_type, entries, BPF_F_MMAPABLE)

MMAPABLE(settings, struct settings, 1);
MMAPABLE(services, struct service, SERVICE_ROWS);
MAP(budgets, BPF_MAP_TYPE_ARRAY, __u32, struct budget, SERVICE_ROWS, 0);
MAP(source_budgets, BPF_MAP_TYPE_ARRAY, __u32, __u64, 2 * SOURCE_ROW, 0);
MMAPABLE(areas, struct area, 1);
MAP(area_trie, BPF_MAP_TYPE_LPM_TRIE, struct prefix_key, __u32, 1, BPF_F_NO_PREALLOC);
MMAPABLE(ports, struct port_block, PORT_BLOCKS);
MAP(filter, BPF_MAP_TYPE_LPM_TRIE, struct prefix_key, __u32, 65536, BPF_F_NO_PREALLOC);
MAP(pending, BPF_MAP_TYPE_LRU_HASH, struct flow_key, __u32, 1024, 0);
MAP(refused, BPF_MAP_TYPE_LRU_HASH, struct server_key, __u64, 4096, 0);
MMAPABLE(tags, __u64, 1);
MMAPABLE(slots, struct slot, 4);
MMAPABLE(counters, struct service_counters, SERVICE_ROWS);
MMAPABLE(port_counters, struct port_counters, 2);
MAP(links, BPF_MAP_TYPE_DEVMAP, __u32, __u32, 2, 0);
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} sightings SEC(".maps");

static __always_inline int cross(struct xdp_md *ctx, __u32 side)
{
	__u32 zero = 0, row = bpf_get_smp_processor_id() * 2 + side;
	struct settings *set = bpf_map_lookup_elem(&settings, &zero);
	struct port_counters *count = bpf_map_lookup_elem(&port_counters, &row);
	struct sighting seen = { .service = 3, .port = 80 };

	if (!set || !count)
		return XDP_DROP;
	if (set->flags & SETTING_BYPASS) {
		count->passed_up++;
		return XDP_PASS;
	}
	count->received++;
	count->received_octets += ctx->data_end - ctx->data;
	count->forwarded++;
	bpf_ringbuf_output(&sightings, &seen, sizeof(seen), 0);
	return bpf_redirect_map(&links, !side, XDP_DROP);
}

SEC("xdp")
int synwall_outside(struct xdp_md *ctx)
{
	void *unused[] = { &services, &budgets, &source_budgets, &areas, &area_trie, &ports, &filter, &pending, &refused, &tags, &slots, &counters };

	(void)unused;
	return cross(ctx, SIDE_CLIENT);
}

SEC("xdp")
int synwall_inside(struct xdp_md *ctx)
{
	return cross(ctx, SIDE_SERVER);
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
