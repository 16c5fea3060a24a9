/* What lies between the interrupt controllers: lines with several devices, message routing, EOI broadcast. */
#include "irq/irq.h"
#include "base/log.h"
#include "irq/i8259.h"
#include "irq/ioapic.h"
#include "irq/lapic.h"
#include <stdio.h>
#include <stdlib.h>

STATE_DESC(irq_lines_regs, IRQ_LINES_STATE);

/* ---- lines ---- */

#define SOURCE_SHIFT 8

static void line_set(void *opaque, unsigned n, int level)
{
	struct irq_system *s = opaque;
	unsigned gsi = n & 0xff;
	u64 b = bit(n >> SOURCE_SHIFT);
	bus_lock(s->bus);
	u64 was = s->regs.sources[gsi], now = level ? was | b : was & ~b;
	s->regs.sources[gsi] = now;
	if (!was != !now) {
		if (trace_on(TRACE_IRQ))
			trace_line(TRACE_IRQ, "line %u %s", gsi, now ? "up" : "down");
		if (gsi < 16)
			i8259_set(s->pic, gsi, now != 0);
		ioapic_set(s->ioapic, gsi == 0 ? 2 : gsi, now != 0);
	}
	bus_unlock(s->bus);
}

struct irq_line irq_system_line(struct irq_system *s, unsigned gsi)
{
	bug_if(gsi >= IRQ_GSIS || s->nsources[gsi] >= 64);
	return (struct irq_line){ line_set, s, gsi | (unsigned)s->nsources[gsi]++ << SOURCE_SHIFT };
}

/* INTR goes to every LINT0 and, as on PCs with an IOAPIC, to its pin 0. Under bus->lock. */
void irq_system_pic_output(void *system, unsigned n, int level)
{
	struct irq_system *s = system;
	for (unsigned i = 0; i < s->ncpus; i++)
		lapic_lint(s->lapic[i], 0, level);
	if (s->ioapic)
		ioapic_set(s->ioapic, 0, level);
}

void irq_system_nmi(struct irq_system *s)
{
	for (unsigned i = 0; i < s->ncpus; i++) {
		lapic_lint(s->lapic[i], 1, 1);
		lapic_lint(s->lapic[i], 1, 0);
	}
}

void irq_system_eoi(struct irq_system *s, u8 vector)
{
	bus_lock(s->bus);
	ioapic_eoi(s->ioapic, vector);
	bus_unlock(s->bus);
}

/* ---- messages ---- */

/* SDM "Lowest Priority Delivery Mode": the target with the lowest processor priority; the search rotates so that equals take turns. */
static unsigned deliver_lowest(struct irq_system *s, const struct irq_msg *m, const struct lapic *skip)
{
	struct lapic *best = NULL;
	u32 start = lapic_load(&s->regs.lowest_next);
	for (unsigned i = 0; i < s->ncpus; i++) {
		struct lapic *l = s->lapic[(start + i) % s->ncpus];
		if (l == skip || !lapic_matches(l, m) || !lapic_soft_enabled(l))
			continue;
		if (!best || (lapic_load(&l->regs.ppr) >> 4) < (lapic_load(&best->regs.ppr) >> 4))
			best = l;
	}
	if (best)
		lapic_store(&s->regs.lowest_next, best->cpu->index + 1);
	return best && lapic_accept(best, IRQ_FIXED, m->vector, m->level);
}

unsigned irq_system_deliver(struct irq_system *s, const struct irq_msg *m, const struct lapic *skip)
{
	if (m->mode == IRQ_LOWEST || (m->redirect && m->mode == IRQ_FIXED))
		return deliver_lowest(s, m, skip);
	unsigned n = 0;
	for (unsigned i = 0; i < s->ncpus; i++) {
		struct lapic *l = s->lapic[i];
		if (l != skip && lapic_matches(l, m))
			n += lapic_accept(l, m->mode, m->vector, m->level);
	}
	return n;
}

void irq_system_msi(void *system, u64 address, u32 data)
{
	struct irq_msg m = {
		.dest = (u32)bits(address, 19, 12), .vector = (u8)data, .mode = bits(data, 10, 8),
		.logical = address & BIT(2), .redirect = address & BIT(3), .level = data & BIT(15),
	};
	if (address >> 20 != 0xfee || (m.level && !(data & BIT(14)))) /* a level's de-assert message does nothing */
		return;
	if (trace_on(TRACE_IRQ))
		trace_line(TRACE_IRQ, "MSI %llx data %x", (unsigned long long)address, data);
	irq_system_deliver(system, &m, NULL);
}

/* ---- set up ---- */

struct irq_system *irq_system_create(struct bus *bus, struct dev_list *devs)
{
	struct irq_system *s = dev_alloc(sizeof *s);
	s->bus = bus;
	s->devs = devs;
	dev_list_add(devs, &(struct dev_instance){ .name = "irq_lines", .desc = &irq_lines_regs_state, .regs = &s->regs, .dev = s, .destroy = free });
	s->pic = i8259_create(bus, devs, (struct irq_line){ irq_system_pic_output, s, 0 });
	s->ioapic = ioapic_create(s);
	bus->msi = irq_system_msi;
	bus->msi_opaque = s;
	return s;
}

static void lapic_reset_cb(void *l) { lapic_reset(l, true); }

static void lapic_loaded_cb(void *dev)
{
	struct lapic *l = dev;
	__atomic_store_n(&l->timer_due, 0, __ATOMIC_SEQ_CST);
	lapic_timer_rearm(l);
	lapic_recheck(l);
}

static void lapic_destroy_cb(void *dev)
{
	struct lapic *l = dev; /* the vCPU may be gone already */
	clock_del_timer(l->sys->bus->clock, &l->timer);
	for (unsigned i = 0; i < l->sys->ncpus; i++)
		if (l->sys->lapic[i] == l)
			l->sys->ncpus = i; /* destroyed in reverse order */
	free(l);
}

void irq_system_add_cpu(struct irq_system *s, struct cpu *c)
{
	bug_if(c->index != s->ncpus || c->index >= IRQ_MAX_CPUS);
	struct lapic *l = dev_alloc(sizeof *l);
	l->sys = s;
	l->cpu = c;
	snprintf(l->name, sizeof l->name, "lapic.%u", c->index);
	s->lapic[s->ncpus++] = l;
	c->intc = &lapic_intc_ops;
	c->intc_state = l;
	lapic_timer_setup(l);
	lapic_reset(l, true);
	struct dev_instance i = { .desc = &lapic_regs_state, .regs = &l->regs, .dev = l,
				  .reset = lapic_reset_cb, .loaded = lapic_loaded_cb, .destroy = lapic_destroy_cb };
	snprintf(i.name, sizeof i.name, "%s", l->name);
	dev_list_add(s->devs, &i);
}

void irq_system_virtual_wire(struct irq_system *s)
{
	struct lapic *l = s->lapic[0];
	lapic_store(&l->regs.svr, 0x1ff);
	lapic_store(&l->regs.lvt[LVT_LINT0], IRQ_EXTINT << 8);
	lapic_store(&l->regs.lvt[LVT_LINT1], IRQ_NMI << 8);
	lapic_recheck(l);
}
