/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/* The maps. What is in them is said in abi.h; sizes of 1 are set by user space when it loads the program. */
#ifndef SYNWALL_MAPS_H
#define SYNWALL_MAPS_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"

#define ARRAY_MAP(name, entries, type_of_value, map_flags_)                                                  \
	struct {                                                                                             \
		__uint(type, BPF_MAP_TYPE_ARRAY);                                                            \
		__uint(max_entries, entries);                                                                \
		__uint(map_flags, map_flags_);                                                               \
		__type(key, __u32);                                                                          \
		__type(value, type_of_value);                                                                \
	} name SEC(".maps")

/* What holds for all services. */
ARRAY_MAP(settings, 1, struct settings, BPF_F_MMAPABLE);
/* The services. */
ARRAY_MAP(services, SERVICE_ROWS, struct service, BPF_F_MMAPABLE);
/* The budgets of each service. */
ARRAY_MAP(budgets, SERVICE_ROWS, struct budget, 0);
/* The budgets of source prefixes. Mapped by nobody, but what can be begins at the begin of a line of memory. */
ARRAY_MAP(source_budgets, SOURCE_BLOCKS * SOURCE_CELLS, __u64, BPF_F_MMAPABLE);
/* Clients that completed a handshake lately. */
ARRAY_MAP(known, KNOWN_BLOCKS * KNOWN_BLOCK, __u64, BPF_F_MMAPABLE);
/* Protected prefixes. */
ARRAY_MAP(areas, 1, struct area, BPF_F_MMAPABLE);
/* The service of each port of each area. */
ARRAY_MAP(ports, PORT_BLOCKS, struct port_block, BPF_F_MMAPABLE);
/* Tags of the flow table, a word a bucket. */
ARRAY_MAP(tags, 1, __u64, BPF_F_MMAPABLE);
/* Flows. */
ARRAY_MAP(slots, SLOTS_PER_BUCKET, struct slot, BPF_F_MMAPABLE);
/* What was counted, by CPU and service. */
ARRAY_MAP(counters, SERVICE_ROWS, struct service_counters, BPF_F_MMAPABLE);
/* What was counted, by CPU and side. */
ARRAY_MAP(port_counters, 2, struct port_counters, BPF_F_MMAPABLE);

/* Where protected prefixes are in `areas`, when they are many. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct prefix_key);
	__type(value, __u32);
} area_trie SEC(".maps");

/* Sources that are denied or allowed. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct prefix_key);
	__type(value, __u32);
} filter SEC(".maps");

/* Connections that user space is opening. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct flow_key);
	__type(value, __u32);
} pending SEC(".maps");

/* Whether it is worth looking there, or among the flows. */
ARRAY_MAP(hints, HINTS, struct hint, BPF_F_MMAPABLE);

/* Clients' prefixes that a server refused lately, and servers that refuse all. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct refusal_key);
	__type(value, __u64);
} refused SEC(".maps");

/* SYNs that the detector gets to see. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} sightings SEC(".maps");

/* The two ports. */
struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u32);
} links SEC(".maps");

#endif
