/* HPET. Register and field names: IA-PC HPET Specification 1.0a, chapter 2. */
#include "dev/hpet.h"
#include "base/log.h"
#include <stdlib.h>

STATE_DESC(hpet_regs, HPET_STATE);

enum { REG_CAP = 0x00, REG_CONFIG = 0x10, REG_ISR = 0x20, REG_COUNTER = 0xf0, REG_TIMERS = 0x100, REG_END = REG_TIMERS + 0x20 * HPET_TIMERS };
enum { TN_CONFIG = 0x00, TN_CMP = 0x08, TN_FSB = 0x10 };

#define CAP (((u64)HPET_TICK_NS * 1000000 << 32) | 0x8086u << 16 | BIT(15) /* legacy */ | BIT(13) /* 64 bits */ | (HPET_TIMERS - 1) << 8 | 1)
#define CFG_ENABLE BIT(0)
#define CFG_LEGACY BIT(1)
#define TN_LEVEL BIT(1)
#define TN_ENABLE BIT(2)
#define TN_PERIODIC BIT(3)
#define TN_PERIODIC_CAP BIT(4)
#define TN_SIZE_CAP BIT(5)
#define TN_SETVAL BIT(6)
#define TN_32BIT BIT(8)
#define TN_FSB_ENABLE BIT(14)
#define TN_FSB_CAP BIT(15)
#define TN_ROUTES ((u64)0x00f00000) /* lines 20-23, as ICH9 */
#define TN_FIXED (TN_PERIODIC_CAP | TN_SIZE_CAP | TN_FSB_CAP | TN_ROUTES << 32)
#define TN_WRITABLE (TN_LEVEL | TN_ENABLE | TN_PERIODIC | TN_SETVAL | TN_32BIT | 0x3e00 | TN_FSB_ENABLE)

static bool running(const struct hpet *h) { return h->regs.config & CFG_ENABLE; }

static u64 counter(const struct hpet *h, u64 v)
{
	return h->regs.counter + (running(h) ? (v - h->regs.counter_v) / HPET_TICK_NS : 0);
}

static u64 width_mask(const struct hpet *h, unsigned n) { return h->regs.tn_config[n] & TN_32BIT ? 0xffffffff : ~(u64)0; }

/* V of the next time that the counter equals the comparator; `again`: it does so just now and has been served. */
static void compute_due(struct hpet *h, unsigned n, bool again)
{
	struct hpet_regs *r = &h->regs;
	r->due[n] = CLOCK_NEVER;
	if (!running(h))
		return;
	u64 gone = (bus_now(h->bus) - r->counter_v) / HPET_TICK_NS; /* whole ticks since counter_v */
	u64 diff = (r->cmp[n] - (r->counter + gone)) & width_mask(h, n);
	if (!diff && again) {
		if (width_mask(h, n) == ~(u64)0)
			return;
		diff = width_mask(h, n) + 1;
	}
	u128 due = (u128)r->counter_v + ((u128)gone + diff) * HPET_TICK_NS;
	if (due < CLOCK_NEVER)
		r->due[n] = (u64)due;
}

/* Line of timer n, or -1. */
static int route(const struct hpet *h, unsigned n)
{
	if ((h->regs.config & CFG_LEGACY) && n < 2)
		return n ? 8 : 0;
	unsigned line = (unsigned)bits(h->regs.tn_config[n], 13, 9);
	return line < HPET_LINES && (TN_ROUTES & bit(line)) ? (int)line : -1;
}

/* Levels that our lines should have now. */
static u32 levels(const struct hpet *h)
{
	u32 up = 0;
	if (!(h->regs.config & CFG_LEGACY))
		up |= (h->regs.pit_level ? 1u : 0) | (h->regs.rtc_level ? 1u << 8 : 0);
	for (unsigned n = 0; n < HPET_TIMERS; n++) {
		u64 c = h->regs.tn_config[n];
		if ((c & TN_LEVEL) && (c & TN_ENABLE) && !(c & TN_FSB_ENABLE) && (h->regs.isr & bit(n)) && route(h, n) >= 0)
			up |= 1u << route(h, n);
	}
	return up;
}

static void drive_lines(struct hpet *h)
{
	u32 up = levels(h), change = up ^ h->regs.lines;
	h->regs.lines = up;
	for (; change; change &= change - 1) {
		unsigned n = (unsigned)__builtin_ctz(change);
		irq_line_set(h->lines[n], up >> n & 1);
	}
}

static void interrupt(struct hpet *h, unsigned n)
{
	u64 c = h->regs.tn_config[n];
	if (!(c & TN_ENABLE))
		return;
	if (c & TN_FSB_ENABLE) {
		bus_msi(h->bus, h->regs.fsb[n] >> 32, (u32)h->regs.fsb[n]);
	} else if (c & TN_LEVEL) {
		h->regs.isr |= bit(n);
	} else if (route(h, n) >= 0) {
		unsigned line = (unsigned)route(h, n);
		irq_line_set(h->lines[line], 1);
		irq_line_set(h->lines[line], h->regs.lines >> line & 1);
	}
}

/* Timer n matched at due[n]. Missed periods are dropped: one interrupt, the comparator moves past the counter. */
static void match(struct hpet *h, unsigned n)
{
	struct hpet_regs *r = &h->regs;
	u64 period = r->period[n] & width_mask(h, n);
	if ((r->tn_config[n] & TN_PERIODIC) && period) {
		u64 late = (bus_now(h->bus) - r->due[n]) / HPET_TICK_NS;
		r->cmp[n] = (r->cmp[n] + (late / period + 1) * period) & width_mask(h, n);
	}
	compute_due(h, n, true);
	interrupt(h, n);
}

static void hpet_update(struct hpet *h)
{
	u64 v = bus_now(h->bus), next = CLOCK_NEVER;
	for (unsigned n = 0; n < HPET_TIMERS; n++) {
		if (h->regs.due[n] <= v)
			match(h, n);
		if (h->regs.tn_config[n] & TN_ENABLE)
			next = min_u64(next, h->regs.due[n]);
	}
	drive_lines(h);
	if (next != CLOCK_NEVER && next < v + CLOCK_MIN_PERIOD_NS) {
		bool periodic = false;
		for (unsigned n = 0; n < HPET_TIMERS; n++)
			periodic |= h->regs.due[n] == next && (h->regs.tn_config[n] & TN_PERIODIC) && h->regs.period[n] * HPET_TICK_NS < CLOCK_MIN_PERIOD_NS;
		if (periodic)
			next = v + CLOCK_MIN_PERIOD_NS;
	}
	clock_arm(h->bus->clock, &h->timer, next);
}

/* ---- registers ---- */

static u64 timer_read(const struct hpet *h, unsigned n, unsigned reg)
{
	switch (reg) {
	case TN_CONFIG: return h->regs.tn_config[n] | TN_FIXED;
	case TN_CMP: return h->regs.cmp[n];
	case TN_FSB: return h->regs.fsb[n];
	default: return 0;
	}
}

static u64 reg_read(const struct hpet *h, unsigned reg)
{
	switch (reg) {
	case REG_CAP: return CAP;
	case REG_CONFIG: return h->regs.config;
	case REG_ISR: return h->regs.isr;
	case REG_COUNTER: return counter(h, bus_now(h->bus));
	}
	if (reg >= REG_TIMERS && reg < REG_END)
		return timer_read(h, (reg - REG_TIMERS) / 0x20, reg & 0x1f);
	return 0;
}

static void write_config(struct hpet *h, u64 v)
{
	struct hpet_regs *r = &h->regs;
	u64 now = bus_now(h->bus), count = counter(h, now), old = r->config;
	r->config = v & (CFG_ENABLE | CFG_LEGACY);
	if (!((v ^ old) & CFG_ENABLE))
		return;
	r->counter = count;
	r->counter_v = now;
	for (unsigned n = 0; n < HPET_TIMERS; n++)
		compute_due(h, n, false);
}

static void write_tn_config(struct hpet *h, unsigned n, u64 v)
{
	u64 old = h->regs.tn_config[n];
	v &= TN_WRITABLE;
	if (!(TN_ROUTES & bit(bits(v, 13, 9)))) /* "software reads back to see whether the route was accepted" */
		v = (v & ~(u64)0x3e00) | (old & 0x3e00);
	h->regs.tn_config[n] = v;
	if (v & TN_32BIT) {
		h->regs.cmp[n] &= 0xffffffff;
		h->regs.period[n] &= 0xffffffff;
	}
	if (!(v & TN_LEVEL) || !(v & TN_ENABLE))
		h->regs.isr &= ~bit(n);
	compute_due(h, n, true);
}

/* 2.3.9.2.2 "Periodic Mode": a write sets the period; with Tn_VAL_SET_CNF also the accumulator. */
static void write_cmp(struct hpet *h, unsigned n, u64 v, u64 written)
{
	struct hpet_regs *r = &h->regs;
	bool periodic = r->tn_config[n] & TN_PERIODIC;
	v &= width_mask(h, n);
	if (!periodic || (r->tn_config[n] & TN_SETVAL))
		r->cmp[n] = ((r->cmp[n] & ~written) | (v & written)) & width_mask(h, n);
	if (periodic)
		r->period[n] = ((r->period[n] & ~written) | (v & written)) & width_mask(h, n);
	r->tn_config[n] &= ~TN_SETVAL;
	compute_due(h, n, false);
}

static void timer_write(struct hpet *h, unsigned n, unsigned reg, u64 v, u64 written)
{
	switch (reg) {
	case TN_CONFIG: write_tn_config(h, n, v); break;
	case TN_CMP: write_cmp(h, n, v, written); break;
	case TN_FSB: h->regs.fsb[n] = v; break;
	}
}

/* v: the register's new value, bits outside `written` as they read. */
static void reg_write(struct hpet *h, unsigned reg, u64 v, u64 written)
{
	switch (reg) {
	case REG_CONFIG: write_config(h, v); return;
	case REG_ISR: h->regs.isr &= ~(v & written); return;
	case REG_COUNTER:
		h->regs.counter = v;
		h->regs.counter_v = bus_now(h->bus);
		for (unsigned n = 0; n < HPET_TIMERS; n++)
			compute_due(h, n, false);
		return;
	}
	if (reg >= REG_TIMERS && reg < REG_END)
		timer_write(h, (reg - REG_TIMERS) / 0x20, reg & 0x1f, v, written);
}

/* 64-bit registers; any aligned part may be accessed. An access never spans two registers (it is zero or lost beyond the first). */
static u64 mmio_read(void *dev, u64 off, unsigned size)
{
	struct hpet *h = dev;
	hpet_update(h);
	return reg_read(h, off & 0x3f8) >> (8 * (off & 7));
}

static void mmio_write(void *dev, u64 off, u64 value, unsigned size)
{
	struct hpet *h = dev;
	unsigned reg = off & 0x3f8, shift = 8 * (off & 7);
	u64 written = low_mask(8 * size) << shift;
	hpet_update(h);
	reg_write(h, reg, (reg_read(h, reg) & ~written) | (value << shift & written), written);
	hpet_update(h);
}

static const struct bus_ops ops = { mmio_read, mmio_write };

/* ---- the 8254's and the RTC's lines ---- */

static void legacy_input(void *dev, unsigned line, int level)
{
	struct hpet *h = dev;
	*(line ? &h->regs.rtc_level : &h->regs.pit_level) = !!level;
	drive_lines(h);
}

struct irq_line hpet_pit_line(struct hpet *h) { return (struct irq_line){ legacy_input, h, 0 }; }
struct irq_line hpet_rtc_line(struct hpet *h) { return (struct irq_line){ legacy_input, h, 8 }; }

static void update_cb(void *h) { hpet_update(h); }

static void loaded_cb(void *dev) /* see i8254.c */
{
	struct hpet *h = dev;
	clock_arm(h->bus->clock, &h->timer, bus_now(h->bus));
}

static void reset_cb(void *dev)
{
	struct hpet *h = dev;
	struct hpet_regs *r = &h->regs;
	u8 pit = r->pit_level, rtc = r->rtc_level;
	u32 lines = r->lines;
	memset(r, 0, sizeof *r);
	r->pit_level = pit;
	r->rtc_level = rtc;
	r->lines = lines;
	for (unsigned n = 0; n < HPET_TIMERS; n++) {
		r->cmp[n] = ~(u64)0;
		r->due[n] = CLOCK_NEVER;
		r->tn_config[n] = 20 << 9;
	}
	hpet_update(h);
}

static void destroy_cb(void *dev)
{
	struct hpet *h = dev;
	clock_del_timer(h->bus->clock, &h->timer);
	free(h);
}

struct hpet *hpet_create(struct bus *bus, struct dev_list *devs, const struct irq_line lines[HPET_LINES])
{
	struct hpet *h = dev_alloc(sizeof *h);
	h->bus = bus;
	memcpy(h->lines, lines, sizeof h->lines);
	h->timer = (struct clock_timer){ .deadline = CLOCK_NEVER, .fire = update_cb, .opaque = h, .name = "hpet", .locked = true };
	clock_add_timer(bus->clock, &h->timer);
	reset_cb(h);
	bus_add_mmio(bus, HPET_BASE, 0x400, &ops, h, "HPET");
	dev_list_add(devs, &(struct dev_instance){ .name = "hpet", .desc = &hpet_regs_state, .regs = &h->regs, .dev = h,
						   .reset = reset_cb, .loaded = loaded_cb, .destroy = destroy_cb });
	return h;
}
