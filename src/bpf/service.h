/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/* Whose a segment is: areas, their ports, and the rules for sources. */
#ifndef SYNWALL_SERVICE_H
#define SYNWALL_SERVICE_H

#include "maps.h"
#include "parse.h"

/* Whether the address lies in the area. IPv4 and IPv6 never lie in each other's. */
static __always_inline bool is_inside(const struct area *area, bool is_v6, const __u32 *address)
{
	__u64 other, miss;

	/* What differs most, first. */
	if ((address[3] & area->mask[3]) != area->address[3])
		return false;
	barrier();
	/* Without a branch each, of which the verifier would go both ways: 0 for an area of IPv4. */
	other = area->address[0] | area->address[1] | (area->address[2] ^ MAPPED) | ~area->mask[2];
	if (!is_v6)
		return !other;
	miss = ((address[0] & area->mask[0]) ^ area->address[0]) | ((address[1] & area->mask[1]) ^ area->address[1]) |
	       ((address[2] & area->mask[2]) ^ area->address[2]);
	return !(miss | (other - 1) >> 63);
}

static __always_inline bool is_mapped(const __u32 *address)
{
	__u32 other = address[0] | address[1] | (address[2] ^ MAPPED);

	/* One branch, after which the verifier knows nothing about the words. */
	barrier_var(other);
	return !other;
}

/* The narrowest area around the address. */
static __always_inline struct area *find_area(const struct settings *settings, bool is_v6,
					      const __u32 *address, __u32 *place)
{
	if (settings->flags & SETTING_MANY_AREAS) {
		struct prefix_key key = {.len = 128};
		__u32 *found;

		if (is_v6 && is_mapped(address))
			return NULL;
		__builtin_memcpy(key.address, address, sizeof(key.address));
		found = bpf_map_lookup_elem(&area_trie, &key);
		if (!found)
			return NULL;
		*place = *found;
		return bpf_map_lookup_elem(&areas, place);
	}
	for (__u32 i = 0; i < FEW_AREAS && i < settings->areas; i++) {
		struct area *area;

		*place = i;
		area = bpf_map_lookup_elem(&areas, place);
		if (area && is_inside(area, is_v6, address))
			return area;
	}
	return NULL;
}

/* The service that the segment goes to or comes from, noted in `p`; NULL if it is none's. */
static __always_inline struct service *find_service(const struct settings *settings, struct packet *p)
{
	struct port_block *block;
	__u32 place, id;

	if (!find_area(settings, p->is_v6, p->server, &place))
		return NULL;
	place = place * PORT_BLOCKS + server_port(p) / PORT_BLOCK;
	block = bpf_map_lookup_elem(&ports, &place);
	if (!block)
		return NULL;
	id = block->service[server_port(p) % PORT_BLOCK];
	if (!id)
		return NULL;
	id--;
	p->service = id;
	return bpf_map_lookup_elem(&services, &id);
}

/* Whether it is aimed at, or comes from, an address of which any port is protected. */
static __always_inline bool is_protected(const struct settings *settings, const struct packet *p)
{
	__u32 place;
	struct area *area = find_area(settings, p->is_v6, p->server, &place);

	return area && area->is_protected;
}

/* The operator's rule for the client, 0 if there is none. */
static __always_inline __u32 find_rule(const struct settings *settings, const struct packet *p)
{
	struct prefix_key key = {.len = 128};
	__u32 *rule;

	if (!(settings->flags & SETTING_FILTER) || (p->is_v6 && is_mapped(p->client)))
		return 0;
	__builtin_memcpy(key.address, p->client, sizeof(key.address));
	rule = bpf_map_lookup_elem(&filter, &key);
	return rule ? *rule : 0;
}

#endif
