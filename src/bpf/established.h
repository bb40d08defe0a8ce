/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
#ifndef SYNWALL_ESTABLISHED_H
#define SYNWALL_ESTABLISHED_H
#include "flow.h"
static __always_inline int handle_in_flow(const struct settings *settings, struct packet *p, struct slot *slot)
{
	return GOES_UP;
}
static __always_inline int keep_out(const struct packet *p, struct slot *slot)
{
	return DROPPED(DROP_OUT_OF_WINDOW);
}
#endif
