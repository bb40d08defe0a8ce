/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/* A server's segment. Servers are trusted not to flood: what is of no flow goes up. */
#ifndef SYNWALL_SERVER_H
#define SYNWALL_SERVER_H

#include "established.h"
#include "pending.h"
#include "service.h"

/* Handles a segment from a server. */
static __always_inline int handle_server(const struct settings *settings, struct packet *p)
{
	struct slot *slot = find_flow(settings, p);
	struct service *service;

	if (slot)
		return handle_in_flow(settings, p, slot);
	service = find_service(settings, p);
	if (!service || (service->mode == MODE_OFF && !(service->flags & SERVICE_GRACE)))
		return CROSSES;
	/* What answers a SYN that was not watched is not watched either. */
	if (service->mode <= MODE_MONITOR && (p->flags & (FLAG_SYN | FLAG_ACK)) != FLAG_SYN && !is_pending(p))
		return CROSSES;
	return p->flags & FLAG_SYN ? mark_pending(settings, p) : GOES_UP;
}

#endif
