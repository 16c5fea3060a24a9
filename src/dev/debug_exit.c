/* Test exit. */
#include "dev/debug_exit.h"

static u64 exit_read(void *dev, u64 off, unsigned size)
{
	return 0;
}

static void exit_write(void *dev, u64 off, u64 value, unsigned size)
{
	struct bus *bus = dev;

	if (bus->power)
		bus->power(bus->power_opaque, BUS_DEBUG_EXIT, (u32)value);
}

static const struct bus_ops exit_ops = { exit_read, exit_write };

void debug_exit_create(struct bus *bus, u16 port)
{
	bus_add_port(bus, port, 4, &exit_ops, bus, "debug-exit");
}
