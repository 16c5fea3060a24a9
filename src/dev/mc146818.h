/* MC146818 real-time clock and CMOS RAM at ports 70h/71h (Motorola data sheet; 128 bytes as in the PC/AT). All on V.
 * Surprise: the time bytes are what software last wrote, advanced lazily by whole seconds whenever somebody looks, so that odd values read back. */
#ifndef NB_MC146818_H
#define NB_MC146818_H

#include "bus/bus.h"
#include "dev/dev.h"

#define CMOS_SIZE 128
#define CMOS_CENTURY 0x32

#define MC146818_STATE(F, A) \
	A(u8, cmos, CMOS_SIZE)   /* 0-9 time, 0Ah-0Dh registers A-D */ \
	F(u64, updated_v)        /* V of the last second boundary that was applied */ \
	F(u64, periodic_v)       /* V up to which periodic boundaries were counted */ \
	F(u8, index)             /* port 70h, bit 7 = NMI off */ A(u8, pad_, 7)
STATE_STRUCT(mc146818_regs, MC146818_STATE);
extern const struct state_desc mc146818_regs_state;

struct mc146818 {
	struct bus *bus;
	struct irq_line irq;
	struct clock_timer timer;
	struct mc146818_regs regs; /* bus->lock */
};

/* Starts with the clock's rtc_base_s + V as UTC, BCD, 24 hours. irq: IRQ 8. */
struct mc146818 *mc146818_create(struct bus *bus, struct dev_list *devs, struct irq_line irq);
/* What firmware keeps in CMOS (memory size, boot order): index 0Eh to 7Fh but the century. */
void cmos_set(struct mc146818 *p, u8 index, u8 value);
/* The usual memory-size bytes for this much RAM below and above 4 GiB, and the number of CPUs in 5Fh. */
void cmos_set_memory(struct mc146818 *p, u64 below_4g, u64 above_4g, unsigned ncpus);

#endif
