/* Port and MMIO dispatch. Ports go through a table of 64 Ki window numbers that is painted again whenever a window changes (PCI BARs do so a few
 * times per boot), MMIO through a search of a short list. Surprise: a handler may move or add windows while it runs, so nothing of
 * a window is used after its handler was called. */
#include "bus/bus.h"
#include "base/log.h"

void bus_init(struct bus *b, struct mem *mem, struct clock *clock)
{
	memset(b, 0, sizeof *b);
	pthread_mutexattr_t a;
	pthread_mutexattr_init(&a);
	pthread_mutexattr_settype(&a, PTHREAD_MUTEX_RECURSIVE);
	pthread_mutex_init(&b->lock, &a);
	pthread_mutexattr_destroy(&a);
	b->mem = mem;
	b->clock = clock;
	if (clock)
		clock->device_lock = &b->lock;
}

void bus_destroy(struct bus *b) { pthread_mutex_destroy(&b->lock); }

/* ---- windows ---- */

static void paint_ports(struct bus *b)
{
	memset(b->port_window, 0, sizeof b->port_window);
	for (unsigned i = 0; i < b->nports; i++) {
		const struct bus_window *w = &b->ports[i];
		if (!w->enabled || w->base > 0xffff)
			continue;
		memset(&b->port_window[w->base], (int)i + 1, min_u64(w->size, 0x10000 - w->base));
	}
}

static int add_window(struct bus_window *list, unsigned *n, struct bus_window w)
{
	_Static_assert(BUS_MAX_WINDOWS < 255, "port_window[] holds bytes");
	bug_if(*n == BUS_MAX_WINDOWS);
	list[*n] = w;
	return (int)(*n)++;
}

int bus_add_port(struct bus *b, u16 base, u32 size, const struct bus_ops *ops, void *dev, const char *name)
{
	bus_lock(b);
	int h = add_window(b->ports, &b->nports, (struct bus_window){ base, size, ops, dev, name, true });
	paint_ports(b);
	bus_unlock(b);
	return h;
}

int bus_add_mmio(struct bus *b, u64 base, u64 size, const struct bus_ops *ops, void *dev, const char *name)
{
	bus_lock(b);
	int h = add_window(b->mmio, &b->nmmio, (struct bus_window){ base, size, ops, dev, name, true });
	bus_unlock(b);
	return h;
}

void bus_move_port(struct bus *b, int handle, u64 base, bool enabled)
{
	bus_lock(b);
	bug_if(handle < 0 || (unsigned)handle >= b->nports);
	struct bus_window *w = &b->ports[handle];
	if (w->base != base || w->enabled != enabled) {
		w->base = base;
		w->enabled = enabled;
		paint_ports(b);
	}
	bus_unlock(b);
}

void bus_move_mmio(struct bus *b, int handle, u64 base, bool enabled)
{
	bus_lock(b);
	bug_if(handle < 0 || (unsigned)handle >= b->nmmio);
	b->mmio[handle].base = base;
	b->mmio[handle].enabled = enabled;
	bus_unlock(b);
}

/* The window that holds all `size` bytes at addr, or NULL. */
static const struct bus_window *port_window(const struct bus *b, u32 port, unsigned size)
{
	unsigned n = port <= 0xffff ? b->port_window[port] : 0;
	if (!n)
		return NULL;
	const struct bus_window *w = &b->ports[n - 1];
	return port - w->base + size <= w->size ? w : NULL;
}

static const struct bus_window *mmio_window(const struct bus *b, u64 addr, unsigned size)
{
	for (unsigned i = b->nmmio; i-- > 0;) {
		const struct bus_window *w = &b->mmio[i];
		if (w->enabled && addr >= w->base && addr - w->base < w->size)
			return addr - w->base + size <= w->size ? w : NULL;
	}
	return NULL;
}

static u64 window_read(const struct bus_window *w, u64 addr, unsigned size)
{
	u64 ones = low_mask(8 * size);
	return w && w->ops->read ? w->ops->read(w->dev, addr - w->base, size) & ones : ones;
}

static void window_write(const struct bus_window *w, u64 addr, u64 value, unsigned size)
{
	if (w && w->ops->write)
		w->ops->write(w->dev, addr - w->base, value & low_mask(8 * size), size);
}

static const char *window_name(const struct bus_window *w) { return w ? w->name : "nobody"; }

/* ---- accesses ---- */

u64 bus_port_read(struct bus *b, u16 port, unsigned size)
{
	__atomic_fetch_add(&b->pio_count, 1, __ATOMIC_RELAXED);
	u64 v = 0;
	bus_lock(b);
	const struct bus_window *w = port_window(b, port, size);
	const char *name = window_name(w);
	if (w || size == 1) {
		v = window_read(w, port, size);
	} else { /* as an ISA bridge would split it */
		for (unsigned i = 0; i < size; i++)
			v |= window_read(port_window(b, (u32)port + i, 1), (u32)port + i, 1) << (8 * i);
	}
	bus_unlock(b);
	if (trace_on(TRACE_IO))
		trace_line(TRACE_IO, "in%u  %04x -> %llx (%s)", size * 8, port, (unsigned long long)v, name);
	return v;
}

void bus_port_write(struct bus *b, u16 port, u64 value, unsigned size)
{
	__atomic_fetch_add(&b->pio_count, 1, __ATOMIC_RELAXED);
	bus_lock(b);
	const struct bus_window *w = port_window(b, port, size);
	if (trace_on(TRACE_IO))
		trace_line(TRACE_IO, "out%u %04x <- %llx (%s)", size * 8, port, (unsigned long long)value, window_name(w));
	if (w || size == 1) {
		window_write(w, port, value, size);
	} else {
		for (unsigned i = 0; i < size; i++)
			window_write(port_window(b, (u32)port + i, 1), (u32)port + i, value >> (8 * i), 1);
	}
	bus_unlock(b);
}

u64 bus_mmio_read(struct bus *b, u64 addr, unsigned size)
{
	__atomic_fetch_add(&b->mmio_count, 1, __ATOMIC_RELAXED);
	bus_lock(b);
	const struct bus_window *w = mmio_window(b, addr, size);
	const char *name = window_name(w);
	u64 v = window_read(w, addr, size);
	bus_unlock(b);
	if (trace_on(TRACE_MMIO))
		trace_line(TRACE_MMIO, "read%u  %llx -> %llx (%s)", size * 8, (unsigned long long)addr, (unsigned long long)v, name);
	return v;
}

void bus_mmio_write(struct bus *b, u64 addr, u64 value, unsigned size)
{
	__atomic_fetch_add(&b->mmio_count, 1, __ATOMIC_RELAXED);
	bus_lock(b);
	const struct bus_window *w = mmio_window(b, addr, size);
	if (trace_on(TRACE_MMIO))
		trace_line(TRACE_MMIO, "write%u %llx <- %llx (%s)", size * 8, (unsigned long long)addr, (unsigned long long)value, window_name(w));
	window_write(w, addr, value, size);
	bus_unlock(b);
}
