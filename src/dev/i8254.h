/* 8254 interval timer with the PC's port 61h (system control port B): Intel 8254 data sheet. Not here: sound.
 * Surprise: nothing counts. Every count and output level is computed from V; a timer is armed only for channel 0's next edge. */
#ifndef NB_I8254_H
#define NB_I8254_H

#include "bus/bus.h"
#include "dev/dev.h"

#define I8254_HZ 1193182ull

#define I8254_CHANNEL(F, A) \
	F(u64, start)        /* PIT tick at which the present count began */ \
	F(u64, held)         /* ticks elapsed when the gate went low (modes 0, 2, 3, 4) */ \
	F(u64, switch_at)    /* tick at which next_reload takes over, with next_reload != 0 */ \
	F(u32, reload)       /* 1 to 65536 (10000 in BCD) */ \
	F(u32, next_reload)  /* modes 2 and 3: written while counting */ \
	F(u16, latch) \
	F(u8, latched)       /* bytes of `latch` still to be read, 0 = not latched */ \
	F(u8, mode) F(u8, access) /* 1 LSB, 2 MSB, 3 both */ F(u8, bcd) F(u8, gate) \
	F(u8, loaded)        /* a count was written since the control word */ \
	F(u8, triggered)     /* modes 1 and 5: the gate has risen since */ \
	F(u8, status) F(u8, status_latched) \
	F(u8, write_low)     /* LSB of a two-byte count */ \
	F(u8, write_second) F(u8, read_second) A(u8, pad_, 2)
STATE_STRUCT(i8254_channel, I8254_CHANNEL);

#define I8254_STATE(F, A) \
	A(struct i8254_channel, ch, 3) \
	F(u64, seen)         /* tick up to which channel 0's edges were delivered */ \
	F(u8, port61)        /* bits 0-3 as written */ A(u8, pad_, 7)
STATE_STRUCT(i8254_regs, I8254_STATE);
extern const struct state_desc i8254_regs_state;

struct i8254 {
	struct bus *bus;
	struct irq_line irq;
	struct clock_timer timer;
	struct i8254_regs regs; /* bus->lock */
};

/* irq: channel 0's output. */
struct i8254 *i8254_create(struct bus *bus, struct dev_list *devs, struct irq_line irq);
void i8254_update(struct i8254 *p);

#endif
