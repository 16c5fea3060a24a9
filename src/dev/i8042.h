/* i8042 keyboard controller with neither keyboard nor mouse plugged in. Here because software resets the machine and
 * switches A20 through it. Surprises: A20 is always on, its bit only reads back; bytes for a keyboard answer with a
 * timeout, as with no cable. */
#ifndef NB_DEV_I8042_H
#define NB_DEV_I8042_H

#include "bus/bus.h"
#include "dev/dev.h"

#define I8042_STATE(F, A) F(u8, status) F(u8, control) F(u8, output_port) F(u8, command) F(u8, data) A(u8, pad_, 3)
STATE_STRUCT(i8042_regs, I8042_STATE);

struct i8042 {
	struct bus *bus;
	struct irq_line irq_kbd, irq_aux;
	struct i8042_regs regs;  /* bus->lock */
	bool line_kbd, line_aux; /* last given out */
};

/* Ports 60h and 64h. */
struct i8042 *i8042_create(struct bus *bus, struct dev_list *devs, struct irq_line kbd, struct irq_line aux);

#endif
