/* The PC's pair of 8259A interrupt controllers with the edge/level registers of PCI chipsets (Intel 8259A data sheet; PIIX "ELCR").
 * Surprise: an edge stays latched when the line drops before the acknowledge (the data sheet would give a spurious IRQ 7), so that devices may pulse. */
#ifndef NB_I8259_H
#define NB_I8259_H

#include "bus/bus.h"
#include "dev/dev.h"

#define I8259_CHIP(F, A) \
	F(u8, irr)          /* latched edges and asserted level inputs */ \
	F(u8, imr) F(u8, isr) \
	F(u8, lines)        /* inputs as they are now */ \
	F(u8, elcr)         /* 1 = level-triggered */ \
	F(u8, base)         /* ICW2: vector of input 0 */ \
	F(u8, icw4)         /* bit 1 AEOI, bit 4 special fully nested */ \
	F(u8, icw1) \
	F(u8, icw_next)     /* which of ICW2-4 the data port takes next; 0 = OCW1 */ \
	F(u8, lowest)       /* input with the lowest priority (7 after reset) */ \
	F(u8, read_isr) F(u8, poll) F(u8, special_mask) F(u8, rotate_aeoi) A(u8, pad_, 2)
STATE_STRUCT(i8259_chip, I8259_CHIP);

#define I8259_STATE(F, A) A(struct i8259_chip, chip, 2) /* master, slave */
STATE_STRUCT(i8259_regs, I8259_STATE);
extern const struct state_desc i8259_regs_state;

struct i8259 {
	struct bus *bus;
	struct irq_line intr;
	struct i8259_regs regs; /* bus->lock */
};

/* intr: the INTR pin. */
struct i8259 *i8259_create(struct bus *bus, struct dev_list *devs, struct irq_line intr);
void i8259_reset(struct i8259 *p);
/* Under bus->lock: */
void i8259_set(struct i8259 *p, unsigned irq, int level);
bool i8259_intr(const struct i8259 *p);
/* The vector that i8259_inta would give now; no side effects. */
u8 i8259_peek(const struct i8259 *p);
/* INTA cycle: a request moves into service. With none pending: the spurious vector (input 7), nothing in service. */
u8 i8259_inta(struct i8259 *p);

#endif
