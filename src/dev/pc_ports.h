/* The PC's odd single ports: 92h (A20 and fast reset), B2h/B3h (APM, no SMM behind it), 80h (POST code), 402h
 * (firmware debug output). */
#ifndef NB_DEV_PC_PORTS_H
#define NB_DEV_PC_PORTS_H

#include "bus/bus.h"
#include "dev/dev.h"

#define PC_PORTS_STATE(F, A) F(u8, port92) F(u8, apm_control) F(u8, apm_status) F(u8, post)
STATE_STRUCT(pc_ports_regs, PC_PORTS_STATE);

struct pc_ports {
	struct bus *bus;
	struct pc_ports_regs regs; /* bus->lock */
	void (*debug_output)(void *opaque, u8 byte);
	void *opaque;
};

/* debug_output may be NULL. */
struct pc_ports *pc_ports_create(struct bus *bus, struct dev_list *devs, void (*debug_output)(void *opaque, u8 byte), void *opaque);

#endif
