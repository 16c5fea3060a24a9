/* The PC's odd single ports. */
#include "dev/pc_ports.h"
#include <stdlib.h>

STATE_DESC(pc_ports_regs, PC_PORTS_STATE);

enum { PORT_POST = 0x80, PORT_92 = 0x92, PORT_APM = 0xb2, PORT_DEBUG = 0x402 };
enum { P92_RESET = 1, P92_A20 = 2, DEBUG_PRESENT = 0xe9 };

static u64 post_read(void *dev, u64 off, unsigned size)
{
	return ((struct pc_ports *)dev)->regs.post;
}

static void post_write(void *dev, u64 off, u64 value, unsigned size)
{
	((struct pc_ports *)dev)->regs.post = (u8)value;
}

static u64 port92_read(void *dev, u64 off, unsigned size)
{
	return ((struct pc_ports *)dev)->regs.port92;
}

/* Intel ICH9 data sheet "PORT92—Fast A20 and Init Register": INIT on 0 to 1. The bit is not kept: whatever it
 * starts, starts anew. */
static void port92_write(void *dev, u64 off, u64 value, unsigned size)
{
	struct pc_ports *p = dev;

	p->regs.port92 = (u8)value & ~P92_RESET;
	if ((value & P92_RESET) && p->bus->power)
		p->bus->power(p->bus->power_opaque, BUS_RESET, 0);
}

static u8 apm_read8(void *dev, u64 off)
{
	struct pc_ports *p = dev;

	return off == 0 ? p->regs.apm_control : p->regs.apm_status;
}

static void apm_write8(void *dev, u64 off, u8 v)
{
	struct pc_ports *p = dev;

	*(off == 0 ? &p->regs.apm_control : &p->regs.apm_status) = v;
}

static u64 apm_read(void *dev, u64 off, unsigned size)
{
	return dev_read_bytes(dev, off, size, apm_read8);
}

static void apm_write(void *dev, u64 off, u64 value, unsigned size)
{
	dev_write_bytes(dev, off, value, size, apm_write8);
}

static u64 debug_read(void *dev, u64 off, unsigned size)
{
	return DEBUG_PRESENT;
}

static void debug_write(void *dev, u64 off, u64 value, unsigned size)
{
	struct pc_ports *p = dev;

	if (p->debug_output)
		p->debug_output(p->opaque, (u8)value);
}

static const struct { u16 port; u8 size; const char *name; struct bus_ops ops; } port_row[] = {
	{ PORT_POST, 1, "post", { post_read, post_write } },
	{ PORT_92, 1, "port92", { port92_read, port92_write } },
	{ PORT_APM, 2, "apm", { apm_read, apm_write } },
	{ PORT_DEBUG, 1, "debugcon", { debug_read, debug_write } },
};

static void ports_reset(void *dev)
{
	((struct pc_ports *)dev)->regs = (struct pc_ports_regs){ .port92 = P92_A20 };
}

struct pc_ports *pc_ports_create(struct bus *bus, struct dev_list *devs, void (*debug_output)(void *opaque, u8 byte), void *opaque)
{
	struct pc_ports *p = dev_alloc(sizeof(*p));

	p->bus = bus;
	p->debug_output = debug_output;
	p->opaque = opaque;
	for (unsigned i = 0; i < array_len(port_row); i++)
		bus_add_port(bus, port_row[i].port, port_row[i].size, &port_row[i].ops, p, port_row[i].name);
	dev_list_add(devs, &(struct dev_instance){ .name = "pc-ports", .desc = &pc_ports_regs_state, .regs = &p->regs, .dev = p,
		.reset = ports_reset, .destroy = free });
	ports_reset(p);
	return p;
}
