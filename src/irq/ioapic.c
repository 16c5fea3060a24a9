/* IOAPIC. Register names: 82093AA data sheet. Surprise: nothing is stored for edge inputs, because a message is delivered at once or, masked, lost. */
#include "irq/ioapic.h"
#include "base/log.h"
#include "irq/irq.h"
#include <stdlib.h>

STATE_DESC(ioapic_regs, IOAPIC_STATE);

enum { IOREGSEL = 0x00, IOWIN = 0x10, IOEOI = 0x40 };
enum { REG_ID, REG_VERSION, REG_ARB, REG_RTE = 0x10 };

#define RTE_LOGICAL  BIT(11)
#define RTE_STATUS   BIT(12)
#define RTE_POLARITY BIT(13)
#define RTE_REMOTE   BIT(14)
#define RTE_LEVEL    BIT(15)
#define RTE_MASKED   BIT(16)
#define RTE_WRITABLE (0xff0000000001ffffull & ~(RTE_STATUS | RTE_REMOTE))
#define VERSION      (((IOAPIC_PINS - 1) << 16) | 0x20)

/* Sends the pin's message. True: someone took it. */
static bool send(struct ioapic *p, unsigned pin)
{
	u64 rte = p->regs.rte[pin];
	struct irq_msg m = {
		.dest = (u32)(rte >> 56), .vector = (u8)rte, .mode = bits(rte, 10, 8),
		.logical = rte & RTE_LOGICAL, .level = rte & RTE_LEVEL,
	};
	if (trace_on(TRACE_IRQ))
		trace_line(TRACE_IRQ, "IOAPIC pin %u: vector %02x mode %u dest %02x%s", pin, m.vector, m.mode, m.dest, m.logical ? " logical" : "");
	return irq_system_deliver(p->sys, &m, NULL) > 0;
}

static bool is_level(u64 rte)
{
	unsigned mode = bits(rte, 10, 8);
	return (rte & RTE_LEVEL) && (mode == IRQ_FIXED || mode == IRQ_LOWEST);
}

/* A level pin asks again until it is accepted, then waits for the EOI (remote IRR). */
static void service_level(struct ioapic *p, unsigned pin)
{
	u64 *rte = &p->regs.rte[pin];
	if (!is_level(*rte) || (*rte & (RTE_MASKED | RTE_REMOTE)) || !(p->regs.lines & bit(pin)))
		return;
	/* Set first: the target may run and write EOI before irq_system_deliver returns (it then waits for bus->lock). */
	*rte |= RTE_REMOTE;
	if (!send(p, pin))
		*rte &= ~RTE_REMOTE;
}

void ioapic_set(struct ioapic *p, unsigned pin, int level)
{
	bool was = p->regs.lines & bit(pin);
	if (was == !!level)
		return;
	p->regs.lines ^= (u32)bit(pin);
	u64 rte = p->regs.rte[pin];
	if (is_level(rte))
		service_level(p, pin);
	else if (level && !(rte & RTE_MASKED))
		send(p, pin);
}

void ioapic_eoi(struct ioapic *p, u8 vector)
{
	for (unsigned i = 0; i < IOAPIC_PINS; i++) {
		u64 *rte = &p->regs.rte[i];
		if ((u8)*rte != vector || !(*rte & RTE_REMOTE))
			continue;
		*rte &= ~RTE_REMOTE;
		service_level(p, i);
	}
}

/* ---- registers ---- */

static u32 reg_read(struct ioapic *p)
{
	u32 sel = p->regs.select;
	switch (sel) {
	case REG_ID: case REG_ARB: return p->regs.id;
	case REG_VERSION: return VERSION;
	}
	if (sel < REG_RTE || sel >= REG_RTE + 2 * IOAPIC_PINS)
		return 0;
	u64 rte = p->regs.rte[(sel - REG_RTE) / 2];
	return (u32)(sel & 1 ? rte >> 32 : rte);
}

static void rte_write(struct ioapic *p, unsigned pin, bool high, u32 v)
{
	u64 *rte = &p->regs.rte[pin];
	u64 keep = *rte & (RTE_REMOTE | RTE_STATUS);
	u64 all = high ? (*rte & 0xffffffff) | (u64)v << 32 : (*rte & ~(u64)0xffffffff) | v;
	*rte = (all & RTE_WRITABLE) | keep;
	/* Edge mode has no remote IRR: kernels for chips without EOI register switch to edge and back to clear a stuck one. */
	if (!(*rte & RTE_LEVEL))
		*rte &= ~RTE_REMOTE;
	service_level(p, pin);
}

static void reg_write(struct ioapic *p, u32 v)
{
	u32 sel = p->regs.select;
	if (sel == REG_ID)
		p->regs.id = v & 0x0f000000;
	else if (sel >= REG_RTE && sel < REG_RTE + 2 * IOAPIC_PINS)
		rte_write(p, (sel - REG_RTE) / 2, sel & 1, v);
}

/* Registers are 32 bits on 16-byte boundaries; narrower reads give the bytes asked for, narrower writes reach only IOREGSEL and EOI (8 bits wide). */
static u64 mmio_read(void *dev, u64 off, unsigned size)
{
	struct ioapic *p = dev;
	u32 v = 0;
	switch (off & 0xfc) {
	case IOREGSEL: v = p->regs.select; break;
	case IOWIN: v = reg_read(p); break;
	}
	return (u64)v >> (8 * (off & 3));
}

static void mmio_write(void *dev, u64 off, u64 value, unsigned size)
{
	struct ioapic *p = dev;
	switch (off & 0xff) {
	case IOREGSEL: p->regs.select = (u8)value; break;
	case IOWIN:
		if (size >= 4)
			reg_write(p, (u32)value);
		break;
	case IOEOI: ioapic_eoi(p, (u8)value); break;
	}
}

static const struct bus_ops ops = { mmio_read, mmio_write };

void ioapic_reset(struct ioapic *p)
{
	for (unsigned i = 0; i < IOAPIC_PINS; i++)
		p->regs.rte[i] = RTE_MASKED;
	p->regs.id = p->regs.select = 0;
}

static void reset_cb(void *p) { ioapic_reset(p); }

struct ioapic *ioapic_create(struct irq_system *s)
{
	struct ioapic *p = dev_alloc(sizeof *p);
	p->sys = s;
	ioapic_reset(p);
	bus_add_mmio(s->bus, IRQ_IOAPIC_BASE, PAGE_SIZE, &ops, p, "IOAPIC");
	dev_list_add(s->devs, &(struct dev_instance){ .name = "ioapic", .desc = &ioapic_regs_state, .regs = &p->regs, .dev = p,
						      .reset = reset_cb, .destroy = free });
	return p;
}
