/* What a device is wired to: port and MMIO windows, IRQ lines, MSI, the virtual clock. Devices see only this, mem/ and their backend.
 * Locking: bus_* dispatch takes bus->lock around every handler; timers' fire() with .locked and backend callbacks take it too. So a device's own
 * state needs no lock of its own. Local APICs are not on this bus. */
#ifndef NB_BUS_H
#define NB_BUS_H

#include "base/base.h"
#include "bus/clock.h"
#include "mem/mem.h"
#include <pthread.h>

/* off: byte offset in the window; size: 1, 2, 4 or 8 (MMIO). The bus never splits an access; a read returns zero-extended data. */
struct bus_ops {
	u64 (*read)(void *dev, u64 off, unsigned size);
	void (*write)(void *dev, u64 off, u64 value, unsigned size);
};

struct bus_window {
	u64 base, size;
	const struct bus_ops *ops;
	void *dev;
	const char *name;
	bool enabled;
};

/* An interrupt line as handed to a device. raise/lower are idempotent levels; pulse = 1 then 0 (edge). */
struct irq_line {
	void (*set)(void *opaque, unsigned n, int level);
	void *opaque;
	unsigned n;
};
static inline void irq_line_set(struct irq_line l, int level) { if (l.set) l.set(l.opaque, l.n, level); }
static inline void irq_line_pulse(struct irq_line l) { irq_line_set(l, 1); irq_line_set(l, 0); }

#define BUS_MAX_WINDOWS 96

enum bus_power { BUS_POWER_OFF, BUS_RESET, BUS_DEBUG_EXIT };

struct bus {
	pthread_mutex_t lock;       /* recursive; guards all devices */
	struct mem *mem;
	struct clock *clock;
	struct bus_window ports[BUS_MAX_WINDOWS]; /* lock */
	unsigned nports;
	struct bus_window mmio[BUS_MAX_WINDOWS];  /* lock */
	unsigned nmmio;
	u8 port_window[65536];      /* lock; number + 1 of the window that owns the port, 0 = none */
	/* Message-signalled interrupt: a 32-bit write of data to address FEExxxxxh. Filled in by vm/ with irq/'s router. */
	void (*msi)(void *opaque, u64 address, u32 data);
	void *msi_opaque;
	/* What the guest asked of the machine; filled in by vm/. */
	void (*power)(void *opaque, enum bus_power what, u32 value);
	void *power_opaque;
	/* SMP-visible statistics */
	u64 pio_count, mmio_count;  /* atomic */
};

/* Takes bus->lock into use also as the clock's device lock. */
void bus_init(struct bus *b, struct mem *mem, struct clock *clock);
void bus_destroy(struct bus *b);
static inline void bus_lock(struct bus *b) { pthread_mutex_lock(&b->lock); }
static inline void bus_unlock(struct bus *b) { pthread_mutex_unlock(&b->lock); }
static inline u64 bus_now(const struct bus *b) { return clock_now(b->clock); }
static inline void bus_msi(struct bus *b, u64 address, u32 data) { if (b->msi) b->msi(b->msi_opaque, address, data); }

/* Adds a window; returns its handle (>= 0). Overlap with an enabled window: the later one wins. */
int bus_add_port(struct bus *b, u16 base, u32 size, const struct bus_ops *ops, void *dev, const char *name);
int bus_add_mmio(struct bus *b, u64 base, u64 size, const struct bus_ops *ops, void *dev, const char *name);
/* Moves and switches a window (PCI BARs). */
void bus_move_port(struct bus *b, int handle, u64 base, bool enabled);
void bus_move_mmio(struct bus *b, int handle, u64 base, bool enabled);

/* vCPU side. An access that spans two windows or hits none: reads all ones, writes nothing. Unclaimed ports with size 2/4 are tried bytewise
 * only when the first byte's window does not cover all bytes. */
u64 bus_port_read(struct bus *b, u16 port, unsigned size);
void bus_port_write(struct bus *b, u16 port, u64 value, unsigned size);
u64 bus_mmio_read(struct bus *b, u64 addr, unsigned size);
void bus_mmio_write(struct bus *b, u64 addr, u64 value, unsigned size);

#endif
