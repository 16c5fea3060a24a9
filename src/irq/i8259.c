/* 8259A pair. Section titles are those of Intel's 8259A data sheet. */
#include "irq/i8259.h"
#include "base/log.h"
#include <stdlib.h>

STATE_DESC(i8259_chip, I8259_CHIP);
STATE_DESC(i8259_regs, I8259_STATE);

enum {
	ICW1 = 0x10, ICW1_IC4 = 1, ICW1_SINGLE = 2, ICW1_LEVEL = 8,
	ICW4_AEOI = 2, ICW4_SFNM = 0x10,
	OCW3 = 8, OCW3_READ = 3, OCW3_READ_ISR = 3, OCW3_READ_IRR = 2, OCW3_POLL = 4, OCW3_ESMM = 0x40, OCW3_SMM = 0x20,
};

#define CASCADE 2
static const u8 elcr_writable[2] = { 0xf8, 0xde }; /* IRQ 0, 1, 2, 8 and 13 are always edge */

/* The input with the highest priority in `set`, or -1: priorities fall from the one after `lowest`. */
static int highest(const struct i8259_chip *c, u8 set)
{
	for (unsigned i = 1; i <= 8; i++) {
		unsigned n = (c->lowest + i) & 7;
		if (set & (1u << n))
			return (int)n;
	}
	return -1;
}

static unsigned rank(const struct i8259_chip *c, int n) { return n < 0 ? 8 : ((unsigned)n - c->lowest - 1) & 7; }

/* "Fully Nested Mode": the input that may interrupt now, or -1. */
static int request(const struct i8259_chip *c, bool master)
{
	int n = highest(c, c->irr & ~c->imr);
	u8 blockers = c->isr;
	if (c->special_mask) /* "Special Mask Mode": masked levels in service do not block */
		blockers &= ~c->imr;
	if (master && (c->icw4 & ICW4_SFNM)) /* the slave may interrupt again while it is in service */
		blockers &= ~(1u << CASCADE);
	return rank(c, n) < rank(c, highest(c, blockers)) ? n : -1;
}

/* The slave's output is the master's input 2, a plain level. */
static void cascade(struct i8259 *p)
{
	struct i8259_chip *m = &p->regs.chip[0];
	if (request(&p->regs.chip[1], false) >= 0)
		m->irr |= 1u << CASCADE;
	else
		m->irr &= ~(1u << CASCADE);
}

static void i8259_update(struct i8259 *p)
{
	cascade(p);
	irq_line_set(p->intr, i8259_intr(p));
}

bool i8259_intr(const struct i8259 *p) { return request(&p->regs.chip[0], true) >= 0; }

void i8259_set(struct i8259 *p, unsigned irq, int level)
{
	struct i8259_chip *c = &p->regs.chip[irq >> 3];
	u8 b = (u8)(1u << (irq & 7));
	bool was = c->lines & b;
	c->lines = level ? c->lines | b : c->lines & ~b;
	if (c->elcr & b || c->icw1 & ICW1_LEVEL)
		c->irr = level ? c->irr | b : c->irr & ~b;
	else if (level && !was)
		c->irr |= b;
	i8259_update(p);
}

/* ---- acknowledge ---- */

static void take(struct i8259_chip *c, int n)
{
	u8 b = (u8)(1u << n);
	if (!((c->elcr & b || c->icw1 & ICW1_LEVEL) && (c->lines & b)))
		c->irr &= ~b;
	if (!(c->icw4 & ICW4_AEOI))
		c->isr |= b;
	else if (c->rotate_aeoi)
		c->lowest = (u8)n;
}

u8 i8259_peek(const struct i8259 *p)
{
	const struct i8259_chip *m = &p->regs.chip[0], *s = &p->regs.chip[1];
	int n = request(m, true);
	if (n != CASCADE)
		return m->base + (n < 0 ? 7 : n);
	n = request(s, false);
	return s->base + (n < 0 ? 7 : n);
}

u8 i8259_inta(struct i8259 *p)
{
	struct i8259_chip *m = &p->regs.chip[0], *s = &p->regs.chip[1];
	u8 vector = i8259_peek(p);
	int n = request(m, true);
	if (n == CASCADE) {
		int k = request(s, false);
		if (k >= 0)
			take(s, k);
	}
	if (n >= 0)
		take(m, n);
	i8259_update(p);
	return vector;
}

/* ---- registers ---- */

/* "Poll Command": the next read acts as an acknowledge and gives the input number, bit 7 = there was one. */
static u8 poll_read(struct i8259 *p, unsigned which)
{
	struct i8259_chip *c = &p->regs.chip[which];
	int n = request(c, which == 0);
	c->poll = 0;
	if (n < 0)
		return 0;
	take(c, n);
	i8259_update(p);
	return 0x80 | (u8)n;
}

static u8 read8(struct i8259 *p, unsigned which, unsigned off)
{
	struct i8259_chip *c = &p->regs.chip[which];
	if (c->poll)
		return poll_read(p, which);
	if (off)
		return c->imr;
	return c->read_isr ? c->isr : c->irr;
}

/* "Initialization Command Words": ICW1 clears the edge latches, the mask and all modes but not the inputs. */
static void write_icw1(struct i8259_chip *c, u8 v)
{
	c->icw1 = v;
	c->icw_next = 2;
	c->irr = c->lines & (v & ICW1_LEVEL ? 0xff : c->elcr);
	c->imr = c->isr = 0;
	c->lowest = 7;
	c->read_isr = c->poll = c->special_mask = c->rotate_aeoi = 0;
	if (!(v & ICW1_IC4))
		c->icw4 = 0;
}

static void write_ocw3(struct i8259_chip *c, u8 v)
{
	if (v & OCW3_POLL)
		c->poll = 1;
	if ((v & OCW3_READ) == OCW3_READ_ISR)
		c->read_isr = 1;
	else if ((v & OCW3_READ) == OCW3_READ_IRR)
		c->read_isr = 0;
	if (v & OCW3_ESMM)
		c->special_mask = !!(v & OCW3_SMM);
}

/* "Operation Control Word 2": bits 7-5 = rotate, specific, EOI. */
static void write_ocw2(struct i8259_chip *c, u8 v)
{
	int n = v & 7;
	bool rotate = v & 0x80, specific = v & 0x40, eoi = v & 0x20;
	if (!eoi) {
		if (rotate && specific)
			c->lowest = (u8)n; /* set priority */
		else if (!specific)
			c->rotate_aeoi = rotate;
		return;
	}
	if (!specific)
		n = highest(c, c->special_mask ? c->isr & ~c->imr : c->isr);
	if (n < 0)
		return;
	c->isr &= ~(1u << n);
	if (rotate)
		c->lowest = (u8)n;
}

static void write_data(struct i8259_chip *c, u8 v)
{
	switch (c->icw_next) {
	case 2:
		c->base = v & 0xf8;
		c->icw_next = c->icw1 & ICW1_SINGLE ? (c->icw1 & ICW1_IC4 ? 4 : 0) : 3;
		break;
	case 3: /* the cascade is wired, not programmed */
		c->icw_next = c->icw1 & ICW1_IC4 ? 4 : 0;
		break;
	case 4:
		c->icw4 = v;
		c->icw_next = 0;
		break;
	case 0:
		c->imr = v;
		break;
	}
}

static void write8(struct i8259 *p, unsigned which, unsigned off, u8 v)
{
	struct i8259_chip *c = &p->regs.chip[which];
	if (off)
		write_data(c, v);
	else if (v & ICW1)
		write_icw1(c, v);
	else if (v & OCW3)
		write_ocw3(c, v);
	else
		write_ocw2(c, v);
	i8259_update(p);
}

static void set_elcr(struct i8259 *p, unsigned which, u8 v)
{
	struct i8259_chip *c = &p->regs.chip[which];
	c->elcr = v & elcr_writable[which];
	c->irr = (c->irr & ~c->elcr) | (c->lines & c->elcr);
	i8259_update(p);
}

/* ---- bus ---- */

static u8 master_read8(void *d, u64 off) { return read8(d, 0, (unsigned)off); }
static u8 slave_read8(void *d, u64 off) { return read8(d, 1, (unsigned)off); }
static void master_write8(void *d, u64 off, u8 v) { write8(d, 0, (unsigned)off, v); }
static void slave_write8(void *d, u64 off, u8 v) { write8(d, 1, (unsigned)off, v); }
static u8 elcr_read8(void *d, u64 off) { return ((struct i8259 *)d)->regs.chip[off & 1].elcr; }
static void elcr_write8(void *d, u64 off, u8 v) { set_elcr(d, off & 1, v); }

#define OPS(name) \
	static u64 name##_read(void *d, u64 off, unsigned size) { return dev_read_bytes(d, off, size, name##_read8); } \
	static void name##_write(void *d, u64 off, u64 v, unsigned size) { dev_write_bytes(d, off, v, size, name##_write8); } \
	static const struct bus_ops name##_ops = { name##_read, name##_write }
OPS(master);
OPS(slave);
OPS(elcr);

void i8259_reset(struct i8259 *p)
{
	for (unsigned i = 0; i < 2; i++) {
		struct i8259_chip *c = &p->regs.chip[i];
		u8 lines = c->lines;
		memset(c, 0, sizeof *c);
		c->lines = lines;
		c->imr = 0xff; /* undefined on the chip; this way nothing happens before the first ICW1 */
		c->lowest = 7;
	}
	p->regs.chip[0].base = 0x08; /* the IBM PC BIOS's vectors: sane if something is unmasked without an ICW */
	p->regs.chip[1].base = 0x70;
	i8259_update(p);
}

static void reset_cb(void *p) { i8259_reset(p); }
static void loaded_cb(void *p) { i8259_update(p); }

struct i8259 *i8259_create(struct bus *bus, struct dev_list *devs, struct irq_line intr)
{
	struct i8259 *p = dev_alloc(sizeof *p);
	p->bus = bus;
	p->intr = intr;
	i8259_reset(p);
	bus_add_port(bus, 0x20, 2, &master_ops, p, "8259 master");
	bus_add_port(bus, 0xa0, 2, &slave_ops, p, "8259 slave");
	bus_add_port(bus, 0x4d0, 2, &elcr_ops, p, "ELCR");
	dev_list_add(devs, &(struct dev_instance){ .name = "i8259", .desc = &i8259_regs_state, .regs = &p->regs, .dev = p,
						   .reset = reset_cb, .loaded = loaded_cb, .destroy = free });
	return p;
}
