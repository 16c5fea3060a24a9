/* The ISA test device of kvm-unit-tests: a byte-lane register, interrupt lines by hand, a little MMIO memory. Only
 * with --test-devices. */
#ifndef NB_DEV_PC_TESTDEV_H
#define NB_DEV_PC_TESTDEV_H

#include "bus/bus.h"
#include "dev/dev.h"

#define PC_TESTDEV_IRQS 24
#define PC_TESTDEV_MEM 0x10000

#define PC_TESTDEV_STATE(F, A) F(u32, lanes) A(u8, mem, PC_TESTDEV_MEM)
STATE_STRUCT(pc_testdev_regs, PC_TESTDEV_STATE);

struct pc_testdev {
	struct irq_line line[PC_TESTDEV_IRQS];
	struct pc_testdev_regs regs; /* bus->lock */
};

/* line[n] is what port 2000h + n drives. */
struct pc_testdev *pc_testdev_create(struct bus *bus, struct dev_list *devs, const struct irq_line line[PC_TESTDEV_IRQS]);

#endif
