/* The ISA test device of kvm-unit-tests. */
#include "dev/pc_testdev.h"
#include <stdlib.h>

STATE_DESC(pc_testdev_regs, PC_TESTDEV_STATE);

enum { PORT_LANES = 0xe0, PORT_FLUSH = 0xe4, PORT_LANES_BYTEWISE = 0xe8, PORT_IRQ = 0x2000 };
#define MEM_BASE 0xff000000u

static u64 lanes_read(void *dev, u64 off, unsigned size)
{
	return (((struct pc_testdev *)dev)->regs.lanes >> (8 * off)) & low_mask(8 * size);
}

static void lanes_write(void *dev, u64 off, u64 value, unsigned size)
{
	struct pc_testdev *t = dev;
	u32 mask = (u32)(low_mask(8 * size) << (8 * off));

	t->regs.lanes = (t->regs.lanes & ~mask) | ((u32)(value << (8 * off)) & mask);
}

/* Asks for a page of guest memory to be dropped and faulted in again: with one flat mapping there is nothing to do. */
static u64 flush_read(void *dev, u64 off, unsigned size)
{
	return low_mask(8 * size);
}

static void flush_write(void *dev, u64 off, u64 value, unsigned size)
{
}

static u64 irq_read(void *dev, u64 off, unsigned size)
{
	return 0;
}

static void irq_write(void *dev, u64 off, u64 value, unsigned size)
{
	irq_line_set(((struct pc_testdev *)dev)->line[off], (u8)value != 0);
}

static u64 mem_window_read(void *dev, u64 off, unsigned size)
{
	return load_le(((struct pc_testdev *)dev)->regs.mem + off, size);
}

static void mem_window_write(void *dev, u64 off, u64 value, unsigned size)
{
	store_le(((struct pc_testdev *)dev)->regs.mem + off, value, size);
}

static const struct { u16 port; u8 size; struct bus_ops ops; } port_row[] = {
	{ PORT_LANES, 4, { lanes_read, lanes_write } },
	{ PORT_FLUSH, 4, { flush_read, flush_write } },
	{ PORT_LANES_BYTEWISE, 4, { lanes_read, lanes_write } },
	{ PORT_IRQ, PC_TESTDEV_IRQS, { irq_read, irq_write } },
};
static const struct bus_ops mem_ops = { mem_window_read, mem_window_write };

static void testdev_reset(void *dev)
{
	struct pc_testdev *t = dev;

	memset(&t->regs, 0, sizeof(t->regs));
}

struct pc_testdev *pc_testdev_create(struct bus *bus, struct dev_list *devs, const struct irq_line line[PC_TESTDEV_IRQS])
{
	struct pc_testdev *t = dev_alloc(sizeof(*t));

	memcpy(t->line, line, sizeof(t->line));
	for (unsigned i = 0; i < array_len(port_row); i++)
		bus_add_port(bus, port_row[i].port, port_row[i].size, &port_row[i].ops, t, "pc-testdev");
	bus_add_mmio(bus, MEM_BASE, PC_TESTDEV_MEM, &mem_ops, t, "pc-testdev");
	dev_list_add(devs, &(struct dev_instance){ .name = "pc-testdev", .desc = &pc_testdev_regs_state, .regs = &t->regs, .dev = t,
		.reset = testdev_reset, .destroy = free });
	return t;
}
