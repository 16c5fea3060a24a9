/* MC146818. Register names: Motorola MC146818 data sheet. */
#include "dev/mc146818.h"
#include "base/log.h"
#include <stdlib.h>

STATE_DESC(mc146818_regs, MC146818_STATE);

enum { SEC, SEC_ALARM, MIN, MIN_ALARM, HOUR, HOUR_ALARM, WDAY, MDAY, MONTH, YEAR, REG_A, REG_B, REG_C, REG_D };
enum { A_UIP = 0x80, A_DIVIDER = 0x70, A_DIVIDER_32K = 0x20, A_RATE = 0x0f };
enum { B_SET = 0x80, B_PIE = 0x40, B_AIE = 0x20, B_UIE = 0x10, B_BINARY = 0x04, B_24H = 0x02 };
enum { C_IRQF = 0x80, C_PF = 0x40, C_AF = 0x20, C_UF = 0x10 };
#define D_VALID 0x80
#define HOUR_PM 0x80
#define ALARM_ANY 0xc0   /* both top bits: matches every value */
#define UIP_NS 244000    /* "Update-in-progress": at least this long before the update */
#define DAY_S 86400

/* ---- calendar ---- */

/* Days since 1970-01-01 of a proleptic Gregorian date; month 1 to 12 (any day number). */
static i64 days_of(i64 y, unsigned m, i64 d)
{
	y -= m <= 2;
	i64 era = (y >= 0 ? y : y - 399) / 400;
	i64 yoe = y - era * 400, doy = (153 * ((i64)m + (m > 2 ? -3 : 9)) + 2) / 5 + d - 1;
	return era * 146097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719468;
}

struct date { i64 y; unsigned m, d; };

static struct date date_of(i64 days)
{
	days += 719468;
	i64 era = (days >= 0 ? days : days - 146096) / 146097;
	i64 doe = days - era * 146097;
	i64 yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
	i64 doy = doe - (365 * yoe + yoe / 4 - yoe / 100), mp = (5 * doy + 2) / 153;
	struct date r = { .d = (unsigned)(doy - (153 * mp + 2) / 5 + 1), .m = (unsigned)(mp < 10 ? mp + 3 : mp - 9) };
	r.y = yoe + era * 400 + (r.m <= 2);
	return r;
}

/* ---- time bytes ---- */

static bool binary(const struct mc146818 *p) { return p->regs.cmos[REG_B] & B_BINARY; }
static unsigned decode(const struct mc146818 *p, u8 v) { return binary(p) ? v : (v >> 4) * 10u + (v & 15); }
static u8 encode(const struct mc146818 *p, unsigned v) { return (u8)(binary(p) ? v : v / 10 << 4 | v % 10); }

static unsigned decode_hour(const struct mc146818 *p, u8 v)
{
	if (p->regs.cmos[REG_B] & B_24H)
		return decode(p, v);
	unsigned h = decode(p, v & ~HOUR_PM) % 12;
	return v & HOUR_PM ? h + 12 : h;
}

static u8 encode_hour(const struct mc146818 *p, unsigned h)
{
	if (p->regs.cmos[REG_B] & B_24H)
		return encode(p, h);
	return encode(p, h % 12 ? h % 12 : 12) | (h >= 12 ? HOUR_PM : 0);
}

static i64 get_time(const struct mc146818 *p)
{
	const u8 *c = p->regs.cmos;
	unsigned month = decode(p, c[MONTH]);
	i64 year = decode(p, c[CMOS_CENTURY]) * 100 + decode(p, c[YEAR]);
	i64 days = days_of(year, month >= 1 && month <= 12 ? month : 1, decode(p, c[MDAY]));
	return days * DAY_S + decode_hour(p, c[HOUR]) * 3600 + decode(p, c[MIN]) * 60 + decode(p, c[SEC]);
}

static void put_time(struct mc146818 *p, i64 t)
{
	u8 *c = p->regs.cmos;
	i64 days = t / DAY_S - (t % DAY_S < 0);
	unsigned s = (unsigned)(t - days * DAY_S);
	struct date d = date_of(days);
	unsigned year = (unsigned)(((d.y % 10000) + 10000) % 10000);
	c[SEC] = encode(p, s % 60);
	c[MIN] = encode(p, s / 60 % 60);
	c[HOUR] = encode_hour(p, s / 3600);
	c[WDAY] = encode(p, (unsigned)(((days + 4) % 7 + 7) % 7 + 1)); /* 1970-01-01 was a Thursday; 1 = Sunday */
	c[MDAY] = encode(p, d.d);
	c[MONTH] = encode(p, d.m);
	c[YEAR] = encode(p, year % 100);
	c[CMOS_CENTURY] = encode(p, year / 100);
}

/* ---- the passing of time ---- */

static bool divider_runs(const struct mc146818 *p) { return (p->regs.cmos[REG_A] & A_DIVIDER) == A_DIVIDER_32K; }
static bool updates(const struct mc146818 *p) { return divider_runs(p) && !(p->regs.cmos[REG_B] & B_SET); }

/* Period of the periodic interrupt in 1/32768 s, 0 = none ("Periodic Interrupt Rate"). */
static u32 periodic_ticks(const struct mc146818 *p)
{
	unsigned rate = p->regs.cmos[REG_A] & A_RATE;
	if (!rate || !divider_runs(p))
		return 0;
	return 1u << (rate <= 2 ? rate + 6 : rate - 1);
}

static u64 ticks_32k(u64 v) { return clock_mul_div(v, 32768, NSEC_PER_SEC); }
static u64 tick_32k_v(u64 t) { return (u64)(((u128)t * NSEC_PER_SEC + 32767) / 32768); }

static bool alarm_field(u8 alarm, u8 now) { return (alarm & ALARM_ANY) == ALARM_ANY || alarm == now; }

static bool alarm_at(const struct mc146818 *p, unsigned s)
{
	const u8 *c = p->regs.cmos;
	return alarm_field(c[SEC_ALARM], encode(p, s % 60)) && alarm_field(c[MIN_ALARM], encode(p, s / 60 % 60)) &&
	       alarm_field(c[HOUR_ALARM], encode_hour(p, s / 3600));
}

/* Did the alarm match during the n seconds after t? */
static bool alarm_within(const struct mc146818 *p, i64 t, u64 n)
{
	u64 first = (u64)(((t % DAY_S) + DAY_S) % DAY_S);
	for (u64 i = 1; i <= min_u64(n, DAY_S); i++)
		if (alarm_at(p, (unsigned)((first + i) % DAY_S)))
			return true;
	return false;
}

static void advance(struct mc146818 *p)
{
	struct mc146818_regs *r = &p->regs;
	u64 v = bus_now(p->bus);
	u64 n = v > r->updated_v ? (v - r->updated_v) / NSEC_PER_SEC : 0;
	if (n && divider_runs(p)) {
		r->updated_v += n * NSEC_PER_SEC;
		if (updates(p)) {
			i64 t = get_time(p);
			if (alarm_within(p, t, n))
				r->cmos[REG_C] |= C_AF;
			r->cmos[REG_C] |= C_UF;
			put_time(p, t + (i64)n);
		}
	}
	u32 period = periodic_ticks(p);
	if (period && ticks_32k(v) / period > ticks_32k(r->periodic_v) / period)
		r->cmos[REG_C] |= C_PF;
	r->periodic_v = v;
}

static u64 next_event(const struct mc146818 *p)
{
	u8 b = p->regs.cmos[REG_B], c = p->regs.cmos[REG_C];
	u64 next = CLOCK_NEVER;
	if (updates(p) && ((b & B_UIE && !(c & C_UF)) || (b & B_AIE && !(c & C_AF))))
		next = p->regs.updated_v + NSEC_PER_SEC;
	u32 period = periodic_ticks(p);
	if (period && b & B_PIE && !(c & C_PF))
		next = min_u64(next, tick_32k_v((ticks_32k(bus_now(p->bus)) / period + 1) * period));
	return next;
}

static void rtc_update(struct mc146818 *p)
{
	u8 *c = p->regs.cmos;
	advance(p);
	if (c[REG_B] & c[REG_C] & (C_PF | C_AF | C_UF)) /* enables and flags share their bit positions */
		c[REG_C] |= C_IRQF;
	else
		c[REG_C] &= ~C_IRQF;
	irq_line_set(p->irq, !!(c[REG_C] & C_IRQF));
	clock_arm(p->bus->clock, &p->timer, next_event(p));
}

/* ---- registers ---- */

static u8 read_a(const struct mc146818 *p)
{
	u8 a = p->regs.cmos[REG_A] & ~A_UIP;
	u64 in_second = bus_now(p->bus) - p->regs.updated_v;
	return updates(p) && in_second + UIP_NS >= NSEC_PER_SEC ? a | A_UIP : a;
}

static u8 read_c(struct mc146818 *p)
{
	u8 c = p->regs.cmos[REG_C];
	p->regs.cmos[REG_C] = 0;
	rtc_update(p);
	return c;
}

static u8 cmos_read(struct mc146818 *p, u8 i)
{
	switch (i) {
	case REG_A: return read_a(p);
	case REG_C: return read_c(p);
	default: return p->regs.cmos[i];
	}
}

/* "DV2, DV1, DV0": when the divider leaves reset the first update follows half a second later. */
static void write_a(struct mc146818 *p, u8 v)
{
	bool ran = divider_runs(p);
	p->regs.cmos[REG_A] = v & ~A_UIP;
	if (!ran && divider_runs(p)) {
		u64 now = bus_now(p->bus);
		p->regs.updated_v = now > NSEC_PER_SEC / 2 ? now - NSEC_PER_SEC / 2 : 0;
	}
}

static void cmos_write(struct mc146818 *p, u8 i, u8 v)
{
	switch (i) {
	case REG_A: write_a(p, v); break;
	case REG_B: p->regs.cmos[REG_B] = v & B_SET ? v & ~B_UIE : v; break;
	case REG_C:
	case REG_D: break;
	default: p->regs.cmos[i] = v;
	}
}

static u8 read8(void *dev, u64 off)
{
	struct mc146818 *p = dev;
	return off ? cmos_read(p, p->regs.index & 0x7f) : 0xff; /* port 70h is write-only */
}

static void write8(void *dev, u64 off, u8 v)
{
	struct mc146818 *p = dev;
	if (off)
		cmos_write(p, p->regs.index & 0x7f, v);
	else
		p->regs.index = v;
}

static u64 port_read(void *dev, u64 off, unsigned size)
{
	rtc_update(dev);
	return dev_read_bytes(dev, off, size, read8);
}

static void port_write(void *dev, u64 off, u64 v, unsigned size)
{
	rtc_update(dev);
	dev_write_bytes(dev, off, v, size, write8);
	rtc_update(dev);
}

static const struct bus_ops ops = { port_read, port_write };

void cmos_set(struct mc146818 *p, u8 index, u8 value) { p->regs.cmos[index & (CMOS_SIZE - 1)] = value; }

/* The layout that PC firmware and its loaders share: little-endian counters in units of 1 KiB and 64 KiB. */
void cmos_set_memory(struct mc146818 *p, u64 below_4g, u64 above_4g, unsigned ncpus)
{
	u64 ext_k = min_u64(below_4g > MiB ? (below_4g - MiB) / KiB : 0, 0xffff);
	u64 over_16m = min_u64(below_4g > 16 * MiB ? (below_4g - 16 * MiB) / (64 * KiB) : 0, 0xffff);
	u64 over_4g = above_4g / (64 * KiB);
	const struct { u8 index; u8 value; } rows[] = {
		{ 0x15, 640 & 0xff }, { 0x16, 640 >> 8 },
		{ 0x17, (u8)ext_k }, { 0x18, (u8)(ext_k >> 8) }, { 0x30, (u8)ext_k }, { 0x31, (u8)(ext_k >> 8) },
		{ 0x34, (u8)over_16m }, { 0x35, (u8)(over_16m >> 8) },
		{ 0x5b, (u8)over_4g }, { 0x5c, (u8)(over_4g >> 8) }, { 0x5d, (u8)(over_4g >> 16) },
		{ 0x5f, (u8)(ncpus - 1) },
	};
	for (unsigned i = 0; i < array_len(rows); i++)
		cmos_set(p, rows[i].index, rows[i].value);
}

static void update_cb(void *p) { rtc_update(p); }

static void loaded_cb(void *dev) /* see i8254.c */
{
	struct mc146818 *p = dev;
	clock_arm(p->bus->clock, &p->timer, bus_now(p->bus));
}

/* RESET clears the interrupt enables and flags; the battery keeps the rest. */
static void reset_cb(void *dev)
{
	struct mc146818 *p = dev;
	p->regs.cmos[REG_B] &= ~(B_PIE | B_AIE | B_UIE);
	p->regs.cmos[REG_C] = 0;
	rtc_update(p);
}

static void destroy_cb(void *dev)
{
	struct mc146818 *p = dev;
	clock_del_timer(p->bus->clock, &p->timer);
	free(p);
}

struct mc146818 *mc146818_create(struct bus *bus, struct dev_list *devs, struct irq_line irq)
{
	struct mc146818 *p = dev_alloc(sizeof *p);
	p->bus = bus;
	p->irq = irq;
	p->timer = (struct clock_timer){ .deadline = CLOCK_NEVER, .fire = update_cb, .opaque = p, .name = "mc146818", .locked = true };
	clock_add_timer(bus->clock, &p->timer);
	p->regs.cmos[REG_A] = A_DIVIDER_32K | 6; /* 1024 Hz, as PC firmware sets it */
	p->regs.cmos[REG_B] = B_24H;
	p->regs.cmos[REG_D] = D_VALID;
	u64 v = bus_now(bus);
	p->regs.updated_v = v - v % NSEC_PER_SEC;
	p->regs.periodic_v = v;
	put_time(p, bus->clock->rtc_base_s + (i64)(v / NSEC_PER_SEC));
	rtc_update(p);
	bus_add_port(bus, 0x70, 2, &ops, p, "mc146818");
	dev_list_add(devs, &(struct dev_instance){ .name = "mc146818", .desc = &mc146818_regs_state, .regs = &p->regs, .dev = p,
						   .reset = reset_cb, .loaded = loaded_cb, .destroy = destroy_cb });
	return p;
}
