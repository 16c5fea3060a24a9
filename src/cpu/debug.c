/* Debug registers and breakpoint matching (SDM "Debug, Branch Profile, TSC, ..."). When a #DB is delivered is service.c's business. */
#include "cpu/desc.h"

#define DR7_GD BIT(13)

static bool dr7_enabled(u64 dr7, unsigned n) { return dr7 >> (2 * n) & 3; }
static unsigned dr7_rw(u64 dr7, unsigned n) { return (unsigned)(dr7 >> (16 + 4 * n) & 3); }
/* LEN field: 0 one byte, 1 two, 2 eight, 3 four. */
static u64 dr7_len(u64 dr7, unsigned n)
{
	static const u8 len[4] = { 1, 2, 8, 4 };
	return len[dr7 >> (18 + 4 * n) & 3];
}

enum { RW_EXECUTE, RW_WRITE, RW_IO, RW_ANY };

/* B bits of breakpoints of the wanted kinds that [at, at+size) touches, plus DBG_ENABLED when one is enabled. */
static u64 match(const struct cpu *c, u64 at, unsigned size, unsigned kinds)
{
	u64 dr7 = c->arch.dr[7], hit = 0;
	for (unsigned n = 0; n < 4; n++) {
		u64 len = dr7_len(dr7, n), from = c->arch.dr[n] & ~(len - 1);
		if (!(kinds >> dr7_rw(dr7, n) & 1) || at > from + len - 1 || at + size - 1 < from)
			continue;
		hit |= bit(n);
		if (dr7_enabled(dr7, n))
			hit |= DBG_ENABLED;
	}
	return hit;
}

static void note(struct cpu *c, u64 hit)
{
	if (!(hit & DBG_ENABLED))
		return;
	c->arch.pending_dbg |= hit;
	cpu_pend(c, PEND_STEP);
}

void cpu_debug_data(struct cpu *c, u64 la, unsigned size, bool write)
{
	note(c, match(c, la, size, write ? 1u << RW_WRITE | 1u << RW_ANY : 1u << RW_ANY));
}

void cpu_debug_io(struct cpu *c, u16 port, unsigned size)
{
	if (c->arch.cr4 & CR4_DE)
		note(c, match(c, port, size, 1u << RW_IO));
}

u64 debug_code_match(const struct cpu *c)
{
	if (!(c->arch.dr[7] & 0xff))
		return 0;
	u64 la = cpu_long64(c) ? c->arch.rip : (u32)(c->arch.seg[SEG_CS].base + c->arch.rip);
	u64 hit = match(c, la, 1, 1u << RW_EXECUTE);
	return hit & DBG_ENABLED ? hit & 0xf : 0;
}

/* DR4 and DR5 are names of DR6 and DR7 unless CR4.DE; then #UD. */
static bool dr_alias(struct cpu *c, unsigned *dr)
{
	if (*dr != 4 && *dr != 5)
		return true;
	if (c->arch.cr4 & CR4_DE) {
		cpu_ud(c);
		return false;
	}
	*dr += 2;
	return true;
}

static bool general_detect(struct cpu *c)
{
	if (likely(!(c->arch.dr[7] & DR7_GD)))
		return false;
	c->fault = (struct event){ .kind = EVENT_FAULT, .vector = VEC_DB, .payload = DR6_BD };
	return true;
}

enum step cpu_mov_from_dr(struct cpu *c, unsigned dr, u64 *value)
{
	if (!dr_alias(c, &dr) || general_detect(c))
		return STEP_FAULT;
	*value = c->arch.dr[dr & 7];
	return STEP_END;
}

enum step cpu_mov_to_dr(struct cpu *c, unsigned dr, u64 value)
{
	if (!dr_alias(c, &dr) || general_detect(c))
		return STEP_FAULT;
	if (dr < 4) {
		c->arch.dr[dr] = value;
		return STEP_STOP;
	}
	if (value >> 32)
		return cpu_gp(c, 0);
	if (dr == 6)
		c->arch.dr[6] = (value & (0xf | DR6_BD | DR6_BS | DR6_BT)) | 0xffff0ff0;
	else
		c->arch.dr[7] = (value & 0xffff23ff) | 0x400;
	if (c->arch.dr[7] & 0xff)
		cpu_pend(c, PEND_STEP);
	cpu_update_mode(c); /* data breakpoints make every access slow */
	return STEP_STOP;
}
