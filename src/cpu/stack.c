/* Stack accesses: PUSH and POP of engines, and the stack cursor of far transfers and event delivery. */
#include "cpu/desc.h"

bool seg_limit_ok(const struct seg *s, u64 ea, unsigned size)
{
	u64 last = ea + size - 1;
	if ((s->attr & (SEG_S | SEG_TYPE_CODE | SEG_TYPE_EC)) == (SEG_S | SEG_TYPE_EC)) {
		u64 top = s->attr & SEG_DB ? 0xffffffff : 0xffff;
		return ea > s->limit && last <= top;
	}
	return last <= s->limit && last >= ea;
}

void stack_current(const struct cpu *c, struct stack *s, u32 ext)
{
	*s = (struct stack){ .ss = c->arch.seg[SEG_SS], .sp = c->arch.gpr[GPR_RSP], .mask = c->stack_mask, .flat = cpu_long64(c), .error = ext };
}

/* A 16-bit stack leaves the upper part of (E)SP alone. */
static u64 sp_merge(u64 old, u64 sp, u64 mask)
{
	return mask == 0xffff ? (old & ~(u64)0xffff) | (sp & 0xffff) : sp & mask;
}

void stack_move(struct stack *s, u64 sp)
{
	s->sp = sp_merge(s->sp, sp, s->mask);
}

static bool stack_la(struct cpu *c, const struct stack *s, u64 ea, unsigned size, u64 *la)
{
	if (s->flat) {
		*la = ea;
		return (cpu_canonical(ea) && cpu_canonical(ea + size - 1)) || fail(c, VEC_SS, s->error);
	}
	*la = (u32)(s->ss.base + ea);
	return (!(s->ss.attr & SEG_UNUSABLE) && seg_limit_ok(&s->ss, ea, size)) || fail(c, VEC_SS, s->error);
}

bool stack_push(struct cpu *c, struct stack *s, u64 v, unsigned size)
{
	u64 la, ea = (s->sp - size) & s->mask;
	if (!stack_la(c, s, ea, size, &la))
		return false;
	if (s->sys ? !mmu_write_sys(c, la, size, v) : !mmu_write(c, la, size, v))
		return false;
	stack_move(s, ea);
	return true;
}

bool stack_pop(struct cpu *c, struct stack *s, u64 *v, unsigned size)
{
	u64 la, ea = s->sp & s->mask;
	if (!stack_la(c, s, ea, size, &la) || !mmu_read(c, la, size, v))
		return false;
	stack_move(s, ea + size);
	return true;
}

bool stack_room(struct cpu *c, const struct stack *s, unsigned n)
{
	u64 la;
	u64 low = (s->sp - n) & s->mask;
	if (s->flat || low < (s->sp & s->mask))
		return stack_la(c, s, low, n, &la);
	/* SP wraps inside the pushes: each has its own check */
	return true;
}

u64 stack_merge_rsp(const struct cpu *c, u64 sp, u64 mask)
{
	return sp_merge(c->arch.gpr[GPR_RSP], sp, mask);
}

bool cpu_push(struct cpu *c, u64 v, unsigned size)
{
	u64 la, ea = (c->arch.gpr[GPR_RSP] - size) & c->stack_mask;
	if (cpu_long64(c)) {
		if (unlikely(!cpu_canonical(ea) || !cpu_canonical(ea + size - 1)))
			return fail(c, VEC_SS, 0);
		la = ea;
	} else {
		if (unlikely(ea + size - 1 >= c->bound_w[SEG_SS]) && !cpu_seg_check(c, SEG_SS, ea, size, true))
			return false;
		la = (u32)(c->seg_base[SEG_SS] + ea);
	}
	if (!mmu_write(c, la, size, v))
		return false;
	c->arch.gpr[GPR_RSP] = stack_merge_rsp(c, ea, c->stack_mask);
	return true;
}

bool cpu_pop(struct cpu *c, u64 *v, unsigned size)
{
	u64 la, ea = c->arch.gpr[GPR_RSP] & c->stack_mask;
	if (cpu_long64(c)) {
		if (unlikely(!cpu_canonical(ea) || !cpu_canonical(ea + size - 1)))
			return fail(c, VEC_SS, 0);
		la = ea;
	} else {
		if (unlikely(ea + size - 1 >= c->bound_r[SEG_SS]) && !cpu_seg_check(c, SEG_SS, ea, size, false))
			return false;
		la = (u32)(c->seg_base[SEG_SS] + ea);
	}
	if (!mmu_read(c, la, size, v))
		return false;
	c->arch.gpr[GPR_RSP] = stack_merge_rsp(c, ea + size, c->stack_mask);
	return true;
}
