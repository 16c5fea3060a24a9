/* IOAPIC with 24 pins (82093AA data sheet), version 20h: it also has the EOI register of later chipsets. */
#ifndef NB_IOAPIC_H
#define NB_IOAPIC_H

#include "bus/bus.h"
#include "dev/dev.h"

#define IOAPIC_PINS 24

#define IOAPIC_STATE(F, A) \
	A(u64, rte, IOAPIC_PINS)  /* redirection table entries; bit 14 remote IRR */ \
	F(u32, lines)             /* inputs as they are now */ \
	F(u32, id) F(u32, select) F(u32, pad_)
STATE_STRUCT(ioapic_regs, IOAPIC_STATE);
extern const struct state_desc ioapic_regs_state;

struct irq_system;
struct ioapic {
	struct irq_system *sys;
	struct ioapic_regs regs; /* bus->lock */
};

struct ioapic *ioapic_create(struct irq_system *s);
void ioapic_reset(struct ioapic *p);
/* Under bus->lock: */
void ioapic_set(struct ioapic *p, unsigned pin, int level);
/* A local APIC's EOI broadcast, or a write to the EOI register. */
void ioapic_eoi(struct ioapic *p, u8 vector);

#endif
