/* 8254. Section titles are those of Intel's 8254 data sheet. */
#include "dev/i8254.h"
#include "base/log.h"
#include <stdlib.h>

STATE_DESC(i8254_channel, I8254_CHANNEL);
STATE_DESC(i8254_regs, I8254_STATE);

#define REFRESH_NS 15085 /* port 61h bit 4 toggles with each DRAM refresh request */
enum { P61_GATE2 = 1, P61_SPEAKER = 2, P61_WRITABLE = 0x0f, P61_REFRESH = 0x10, P61_OUT2 = 0x20 };
enum { ACCESS_LATCH, ACCESS_LSB, ACCESS_MSB, ACCESS_BOTH };

static u64 tick_now(const struct i8254 *p) { return clock_mul_div(bus_now(p->bus), I8254_HZ, NSEC_PER_SEC); }

/* First V at which tick_now() is t. */
static u64 tick_v(u64 t)
{
	u128 ns = ((u128)t * NSEC_PER_SEC + I8254_HZ - 1) / I8254_HZ;
	return ns >= CLOCK_NEVER ? CLOCK_NEVER : (u64)ns;
}

static bool periodic(const struct i8254_channel *c) { return c->mode == 2 || c->mode == 3; }
static bool gate_triggers(const struct i8254_channel *c) { return c->mode == 1 || c->mode == 5; }

/* A count written while a period runs takes over at the period's end ("Mode 2", "Mode 3"). */
static void channel_sync(struct i8254_channel *c, u64 now)
{
	if (!c->next_reload || now < c->switch_at)
		return;
	c->start = c->switch_at;
	c->reload = c->next_reload;
	c->next_reload = 0;
}

static u64 elapsed(const struct i8254_channel *c, u64 now)
{
	if (!c->gate && !gate_triggers(c))
		return c->held;
	return now - c->start;
}

static bool output(const struct i8254_channel *c, u64 now)
{
	if (!c->loaded || (gate_triggers(c) && !c->triggered))
		return c->mode != 0;
	u64 e = elapsed(c, now);
	switch (c->mode) {
	case 0:
	case 1: return e >= c->reload;
	case 2: return !c->gate || c->reload == 1 || e % c->reload != c->reload - 1;
	case 3: return !c->gate || e % c->reload < (c->reload + 1) / 2;
	default: return e != c->reload; /* 4, 5: low for one tick */
	}
}

static u32 modulus(const struct i8254_channel *c) { return c->bcd ? 10000 : 65536; }

static u16 to_bcd(u32 v) { return (u16)(v % 10 | v / 10 % 10 << 4 | v / 100 % 10 << 8 | v / 1000 % 10 << 12); }
static u32 from_bcd(u32 v) { return (v & 15) + (v >> 4 & 15) * 10 + (v >> 8 & 15) * 100 + (v >> 12 & 15) * 1000; }

/* The counting element as a read would see it. */
static u16 counter(const struct i8254_channel *c, u64 now)
{
	u64 e = c->loaded && !(gate_triggers(c) && !c->triggered) ? elapsed(c, now) : 0;
	u32 m = modulus(c), v;
	if (!c->reload)
		v = 0;
	else if (c->mode == 2)
		v = c->reload - (u32)(e % c->reload);
	else if (c->mode == 3) { /* by twos, down once for each half of the wave */
		u32 at = (u32)(e % c->reload), first = (c->reload + 1) / 2;
		v = (c->reload & ~1u) - 2 * (at < first ? at : at - first);
	} else
		v = (u32)((c->reload + m - e % m) % m);
	v %= m;
	return c->bcd ? to_bcd(v) : (u16)v;
}

/* ---- channel 0: edges and the timer ---- */

/* Did the output rise in (seen, now]? A level comparison would miss the short pulses. */
static bool rose(const struct i8254_channel *c, u64 seen, u64 now)
{
	if (!c->loaded || !c->gate || gate_triggers(c))
		return false;
	seen = max_u64(seen, c->start);
	if (now <= seen)
		return false;
	if (periodic(c))
		return (now - c->start) / c->reload > (seen - c->start) / c->reload;
	u64 edge = c->start + c->reload + (c->mode == 4);
	return seen < edge && edge <= now;
}

static u64 next_event(const struct i8254_channel *c, u64 now)
{
	if (!c->loaded || !c->gate || gate_triggers(c))
		return CLOCK_NEVER;
	u64 e = now - c->start;
	if (periodic(c)) {
		u64 period = c->start + (e / c->reload + 1) * c->reload, half = c->start + e / c->reload * c->reload + (c->reload + 1) / 2;
		return c->mode == 3 && half > now && half < period ? half : period;
	}
	u64 edge = c->start + c->reload + (c->mode == 4);
	return edge > now ? edge : CLOCK_NEVER;
}

void i8254_update(struct i8254 *p)
{
	struct i8254_channel *c = &p->regs.ch[0];
	u64 now = tick_now(p);
	bool edge = rose(c, p->regs.seen, now);
	u64 before = c->start;
	channel_sync(c, now);
	if (c->start != before) /* the switch of counts is itself a period's end */
		edge = true;
	p->regs.seen = now;
	if (edge)
		irq_line_set(p->irq, 0);
	irq_line_set(p->irq, output(c, now));
	u64 next = next_event(c, now);
	if (next != CLOCK_NEVER)
		next = tick_v(next);
	if (next != CLOCK_NEVER && periodic(c) && tick_v(c->reload) < CLOCK_MIN_PERIOD_NS)
		next = max_u64(next, bus_now(p->bus) + CLOCK_MIN_PERIOD_NS);
	clock_arm(p->bus->clock, &p->timer, next);
}

/* ---- programming ("Programming the 8254") ---- */

static void load_count(struct i8254 *p, struct i8254_channel *c, u32 v)
{
	u64 now = tick_now(p);
	u32 n = c->bcd ? from_bcd(v) % 10000 : v;
	if (!n)
		n = modulus(c);
	if (periodic(c) && c->loaded && c->gate) {
		c->next_reload = n;
		c->switch_at = c->start + ((now - c->start) / c->reload + 1) * c->reload;
		return;
	}
	c->reload = n;
	c->next_reload = 0;
	c->loaded = 1;
	c->held = 0;
	if (!gate_triggers(c) || !c->triggered)
		c->start = now;
}

static void write_count(struct i8254 *p, struct i8254_channel *c, u8 v)
{
	switch (c->access) {
	case ACCESS_LSB: load_count(p, c, v); return;
	case ACCESS_MSB: load_count(p, c, (u32)v << 8); return;
	}
	if (!c->write_second) {
		c->write_low = v;
		c->write_second = 1;
		if (c->mode == 0) /* "Mode 0": writing the first byte disables counting */
			c->loaded = 0;
	} else {
		c->write_second = 0;
		load_count(p, c, (u32)v << 8 | c->write_low);
	}
}

static void latch_count(struct i8254 *p, struct i8254_channel *c)
{
	if (c->latched)
		return;
	c->latch = counter(c, tick_now(p));
	c->latched = c->access == ACCESS_BOTH ? 2 : 1;
}

static void latch_status(struct i8254 *p, struct i8254_channel *c)
{
	if (c->status_latched)
		return;
	bool null_count = !c->loaded || c->next_reload;
	c->status = (u8)(output(c, tick_now(p)) << 7 | null_count << 6 | c->access << 4 | c->mode << 1 | c->bcd);
	c->status_latched = 1;
}

/* "Read-Back Command": bits 5 and 4 low = latch count, status; bits 3-1 select channels. */
static void read_back(struct i8254 *p, u8 v)
{
	for (unsigned i = 0; i < 3; i++) {
		if (!(v & 2u << i))
			continue;
		if (!(v & 0x20))
			latch_count(p, &p->regs.ch[i]);
		if (!(v & 0x10))
			latch_status(p, &p->regs.ch[i]);
	}
}

static void write_control(struct i8254 *p, u8 v)
{
	if (v >> 6 == 3) {
		read_back(p, v);
		return;
	}
	struct i8254_channel *c = &p->regs.ch[v >> 6];
	unsigned access = v >> 4 & 3, mode = v >> 1 & 7;
	if (access == ACCESS_LATCH) {
		latch_count(p, c);
		return;
	}
	c->access = (u8)access;
	c->mode = (u8)(mode >= 6 ? mode - 4 : mode);
	c->bcd = v & 1;
	c->loaded = c->triggered = c->latched = c->status_latched = c->write_second = c->read_second = 0;
	c->next_reload = 0;
}

static u8 read_count(struct i8254 *p, struct i8254_channel *c)
{
	if (c->status_latched) {
		c->status_latched = 0;
		return c->status;
	}
	u16 v = c->latched ? c->latch : counter(c, tick_now(p));
	bool high = c->access == ACCESS_MSB || (c->access == ACCESS_BOTH && c->read_second);
	if (c->access == ACCESS_BOTH)
		c->read_second ^= 1;
	if (c->latched)
		c->latched--;
	return (u8)(high ? v >> 8 : v);
}

/* "Gate": a low level stops modes 0, 2, 3 and 4; a rising edge restarts 1, 2, 3 and 5. */
static void set_gate(struct i8254 *p, struct i8254_channel *c, bool gate)
{
	u64 now = tick_now(p);
	if (c->gate == gate)
		return;
	if (!gate) {
		c->held = c->loaded ? elapsed(c, now) : 0;
	} else if (periodic(c) || gate_triggers(c)) {
		c->start = now;
		c->triggered = 1;
		if (c->next_reload)
			c->reload = c->next_reload;
		c->next_reload = 0;
	} else {
		c->start = now - c->held;
	}
	c->gate = gate;
}

/* ---- bus ---- */

static u8 port_read8(void *dev, u64 off)
{
	struct i8254 *p = dev;
	if (off == 3)
		return 0;
	channel_sync(&p->regs.ch[off], tick_now(p));
	return read_count(p, &p->regs.ch[off]);
}

static void port_write8(void *dev, u64 off, u8 v)
{
	struct i8254 *p = dev;
	i8254_update(p);
	for (unsigned i = 1; i < 3; i++)
		channel_sync(&p->regs.ch[i], tick_now(p));
	if (off == 3)
		write_control(p, v);
	else
		write_count(p, &p->regs.ch[off], v);
	i8254_update(p);
}

static u64 port_read(void *dev, u64 off, unsigned size)
{
	i8254_update(dev);
	return dev_read_bytes(dev, off, size, port_read8);
}

static void port_write(void *dev, u64 off, u64 v, unsigned size) { dev_write_bytes(dev, off, v, size, port_write8); }

static u64 p61_read(void *dev, u64 off, unsigned size)
{
	struct i8254 *p = dev;
	struct i8254_channel *c = &p->regs.ch[2];
	u64 now = tick_now(p);
	channel_sync(c, now);
	u8 v = p->regs.port61;
	if (bus_now(p->bus) / REFRESH_NS & 1)
		v |= P61_REFRESH;
	if (output(c, now))
		v |= P61_OUT2;
	return v;
}

static void p61_write(void *dev, u64 off, u64 v, unsigned size)
{
	struct i8254 *p = dev;
	channel_sync(&p->regs.ch[2], tick_now(p));
	p->regs.port61 = v & P61_WRITABLE;
	set_gate(p, &p->regs.ch[2], v & P61_GATE2);
}

static const struct bus_ops port_ops = { port_read, port_write };
static const struct bus_ops p61_ops = { p61_read, p61_write };

static void update_cb(void *p) { i8254_update(p); }

/* Changes nothing itself, so that saving again gives the same bytes: the timer does what is due. */
static void loaded_cb(void *dev)
{
	struct i8254 *p = dev;
	clock_arm(p->bus->clock, &p->timer, bus_now(p->bus));
}

static void reset_cb(void *dev)
{
	struct i8254 *p = dev;
	memset(&p->regs, 0, sizeof p->regs);
	for (unsigned i = 0; i < 3; i++) {
		p->regs.ch[i].mode = 3; /* undefined on the chip; mode 3 without a count: output high, nothing moves */
		p->regs.ch[i].access = ACCESS_BOTH;
		p->regs.ch[i].gate = i != 2;
	}
	p->regs.seen = tick_now(p);
	i8254_update(p);
}

static void destroy_cb(void *dev)
{
	struct i8254 *p = dev;
	clock_del_timer(p->bus->clock, &p->timer);
	free(p);
}

struct i8254 *i8254_create(struct bus *bus, struct dev_list *devs, struct irq_line irq)
{
	struct i8254 *p = dev_alloc(sizeof *p);
	p->bus = bus;
	p->irq = irq;
	p->timer = (struct clock_timer){ .deadline = CLOCK_NEVER, .fire = update_cb, .opaque = p, .name = "i8254", .locked = true };
	clock_add_timer(bus->clock, &p->timer);
	reset_cb(p);
	bus_add_port(bus, 0x40, 4, &port_ops, p, "i8254");
	bus_add_port(bus, 0x61, 1, &p61_ops, p, "port 61h");
	dev_list_add(devs, &(struct dev_instance){ .name = "i8254", .desc = &i8254_regs_state, .regs = &p->regs, .dev = p,
						   .reset = reset_cb, .loaded = loaded_cb, .destroy = destroy_cb });
	return p;
}
