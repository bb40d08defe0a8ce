/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/*
 * The XDP plane: settles what comes in millions, and passes everything else up to the engine, which decides as if there
 * were no program. What goes up: everything while the policy changes; packets longer than the other link carries;
 * IPv4 with options and IPv6 with extension headers, if aimed at us; ICMP errors that may be about TCP; SYN, FIN and RST
 * of flows if their receiver would look at them, a server's SYN in any case; segments of flows that the engine wants;
 * connections that are being opened.
 *
 * A frame's way: parse.h, then syn.h (answer.h, cookie.h), ack.h or server.h (flow.h, established.h, translate.h), then
 * stats.h. What is shared with user space is in abi.h.
 */
#include "clock.h"
#include "parse.h"
#include "stats.h"
#include "service.h"
#include "syn.h"
#include "ack.h"
#include "server.h"
#include "up.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

/* Decides about a packet of either version of IP, but for how much of it may go up. */
static __always_inline int judge_packet(const struct settings *settings, struct packet *p, bool is_v6)
{
	int verdict;

	verdict = is_v6 ? parse_v6(p) : parse_v4(p);
	if (octets_left(p, p->ip) > settings->mtu[!p->side])
		return IS_LONG;
	if (verdict == CONTINUE)
		verdict = parse_tcp(p);
	if (verdict == IS_MALFORMED || verdict == IS_TINY_FRAGMENT) {
		if (!is_protected(settings, p))
			return CROSSES;
		return DROPPED(verdict == IS_MALFORMED ? DROP_MALFORMED : DROP_FRAGMENT);
	}
	if (verdict != CONTINUE)
		return verdict;
	if (p->side == SIDE_SERVER)
		return handle_server(settings, p);
	if ((p->flags & FLAG_SYN) && !(p->flags & FLAG_ACK))
		return handle_opening(settings, p);
	return handle_client(settings, p);
}

static __always_inline int handle_packet(const struct settings *settings, struct packet *p, bool is_v6)
{
	p->is_v6 = is_v6;
	return limit_up(settings, p, judge_packet(settings, p, is_v6));
}

/* One for each version, or the compiler makes one copy of the program of the two, which asks the version at every turn. */
static __always_inline int handle_v4(const struct settings *settings, struct packet *p)
{
	return handle_packet(settings, p, false);
}

static __always_inline int handle_v6(const struct settings *settings, struct packet *p)
{
	return handle_packet(settings, p, true);
}

/* Decides about a frame. */
static __always_inline int handle_frame(const struct settings *settings, struct packet *p)
{
	if (settings->flags & SETTING_BYPASS)
		return GOES_UP;
	switch (parse_link(p)) {
	case bpf_htons(ETH_P_IP):
		return handle_v4(settings, p);
	case bpf_htons(ETH_P_IPV6):
		return handle_v6(settings, p);
	default:
		return CROSSES;
	}
}

static __always_inline int handle(struct xdp_md *ctx, __u8 side)
{
	struct packet p = {
		.ctx = ctx,
		.data = (void *)(long)ctx->data,
		.end = (void *)(long)ctx->data_end,
		.len = (void *)(long)ctx->data_end - (void *)(long)ctx->data,
		.side = side,
		.service = NO_SERVICE,
	};
	__u32 only = 0;
	struct settings *rules = bpf_map_lookup_elem(&settings, &only);

	p.cpu = bpf_get_smp_processor_id();
	p.port = port_row(&p);
	if (!rules || !p.port)
		return XDP_PASS;
	read_clock(p.port);
	p.nothing = rules->version >> 16 & 63;
	return settle(&p, handle_frame(rules, &p));
}

/* On the port to the clients. */
SEC("xdp")
int synwall_outside(struct xdp_md *ctx)
{
	return handle(ctx, SIDE_CLIENT);
}

/* On the port to the servers. */
SEC("xdp")
int synwall_inside(struct xdp_md *ctx)
{
	return handle(ctx, SIDE_SERVER);
}
