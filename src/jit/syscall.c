/* Short ways: SYSCALL, SYSRET and IRETQ between 64-bit programs and their kernel, and within the kernel, without leaving host code by the long way: the thunk (thunks.c) saves no more than C may
 * change, and C does the usual case in which nothing has to be searched. What it changes of the CPU's state is in cpu/fastcall.c and cpu/ret.c, beside
 * the whole instructions; here are bank, host's return addresses and host code of the other side. Whatever is unusual goes to the handler, with nothing done.
 *
 * Surprise: arch.icount is stale in here. Nobody may look at the time. */
#include "jit/tr.h"
#include "jit/sys.h"
#include "jit/vec.h"
#include "interp/sys.h"

/* Host code at rip for access class cls, and its bank; NULL if it takes any search. */
static u8 *known_code(const struct cpu *c, u64 rip, u8 cls, struct tlb_bank **bank)
{
	struct tlb_bank *b = *bank = c->tlb->cur_bank[cls];
	if (unlikely(!b || b->flat || c->dbg))
		return NULL;
	const struct tlb_jump *at = mmu_bank_find_jump(b, rip);
	return likely(at != NULL) ? at->code : NULL;
}

/* The CPU is on the other side now: so is host code. */
hot_path static u8 *arrive(struct cpu *c, u64 rip, u8 cls, struct tlb_bank *bank, u8 *code)
{
	struct jit *j = jit_of(c);
	struct hot *h = j->hot;
	c->acc_class = cls;
	j->in.xneed = cls == 2 ? TLB_XU : TLB_XS;
	if (likely(h->bank != bank))
		asm volatile("wrgsbase %0" : : "r"(bank));
	h->bank = bank;
	jit_returns_switch(c);
	h->lazy_op = 0;
	h->s0 = rip;
	j->stats.stays++;
	return code;
}

/* next: what RCX gets; flags: RFLAGS, whole. Host code to go on at, or NULL: nothing is done. */
static u8 *on_syscall(struct cpu *c, u64 next, u64 flags)
{
	struct tlb_bank *bank;
	u8 cls = c->arch.cr4 & CR4_SMAP ? 0 : 1, *code = known_code(c, c->arch.lstar, cls, &bank);
	if (unlikely(!code) || c->acc_class != 2 || !cpu_syscall_usual(c, next, flags))
		return NULL;
	return arrive(c, c->arch.lstar, cls, bank, code);
}

static u8 *on_sysret(struct cpu *c, u64 next, u64 flags)
{
	struct tlb_bank *bank;
	u64 rip = c->arch.gpr[GPR_RCX];
	u8 *code = known_code(c, rip, 2, &bank);
	if (unlikely(!code) || c->acc_class > 1 || !cpu_sysret_usual(c))
		return NULL;
	return arrive(c, rip, 2, bank, code);
}

static u8 *on_iret(struct cpu *c, u64 next, u64 flags)
{
	struct iret_way w;
	struct tlb_bank *bank;
	if (unlikely(!cpu_iret_find(c, &w)))
		return NULL;
	u8 cls = w.rpl ? 2 : (c->arch.cr4 & CR4_SMAP) && !(w.flags & FLAG_AC) ? 0 : 1, *code = known_code(c, w.rip, cls, &bank);
	if (unlikely(!code))
		return NULL;
	cpu_iret_take(c, &w);
	return arrive(c, w.rip, cls, bank, code);
}

/* Host code at arch.rip, whatever mode and side this is now. */
hot_path static u8 *arrive_anywhere(struct cpu *c)
{
	struct jit *j = jit_of(c);
	struct hot *h = j->hot;
	u64 rip = c->arch.rip;
	struct tlb_bank *b = c->tlb->cur_bank[c->acc_class];
	bool usual = !cpu_must_service(c) && jit_mode(c->mode) && c->acc_class != 3 && !c->dbg;
	h->s0 = rip;
	h->lazy_op = 0;
	h->vec_ok = jit_vec_ok(c);
	const struct tlb_jump *at = b ? mmu_bank_find_jump(b, rip) : NULL;
	if (unlikely(!usual || !at || b->flat != !(c->mode & MODE_L)))
		return j->go_on;
	return arrive(c, rip, c->acc_class, b, at->code);
}

/* A VM exit by an instruction of a guest, or a VM entry: what changes is in cpu/ and vmx/, and of the general registers it is RSP alone. The handler does it all; it
 * must not have to do with others. */
hot_path static u8 *on_virt(struct cpu *c, struct site *s)
{
	struct jit *j = jit_of(c);
	const struct insn *i = (const struct insn *)jit_host(j, s->helper);
	u64 left = j->hot->left;
	if (!jit_rows[i->op].arg) /* the guest's; those of a hypervisor end with its VMRESUME, or are all replaced */
		jit_settle_flags(c, s);
	c->icount = j->base - left;
	j->in.cur = jit_block(j, s);
	c->arch.gpr[GPR_BLOCK_RIP] = j->hot->page + jit_block(j, s)->off;
	c->arch.rip = insn_rip(c, i);
	switch (((sys_fn *)i->aux)(c, i)) { /* it is the last of its block: nothing to take back */
	case STEP_STOP:
		j->stats.helper_calls++;
		j->prof_helper[i->op]++;
		return arrive_anywhere(c);
	case STEP_FAULT: c->fault.kind = EVENT_NONE; return NULL; /* nothing is done: it faults again where faults are delivered */
	default: break;
	}
	j->stats.helper_calls++; /* VMfail */
	j->hot->lazy_op = 0;
	if (likely(!cpu_must_service(c)))
		return jit_host(j, s->retry);
	j->hot->s0 = insn_next_rip(c, i);
	return j->go_on;
}

/* CPUID in a guest, VMRESUME, VMLAUNCH. */
bool e_virt(struct tr *t, const struct insn *i)
{
	struct as *a = &t->a;
	u8 *not_a_guest = NULL;
	if (t->width != 8 || !t->j->fsgsbase || t->j->lockstep || t->region || !t->c->vm_field_row)
		return false;
	tr_flags_save(t); /* a recipe's registers are not stored */
	tr_vec_flush(t);
	struct site *s = tr_handler_site(t, i);
	if (!jit_rows[i->op].arg) {
		as_alu_imm(a, 0, OP_CMP, 1, rm_abs(&t->c->arch.guest_mode), 0);
		not_a_guest = as_jcc(a, CC_E, a->p);
	}
	as_store(a, 8, rm_abs(&t->hot->left), LEFT);
	as_mov_imm(a, S0, (u64)(uintptr_t)s);
	as_call(a, t->j->way[WAY_VIRT]);
	if (not_a_guest)
		as_aim(not_a_guest, a->p);
	tr_call_handler(t, s, NULL);
	return true;
}

void jit_set_ways(struct hot *h)
{
	h->way[WAY_STRING] = (void *)jit_on_string;
	h->way[WAY_VIRT] = (void *)on_virt;
	h->way[WAY_SYSCALL] = (void *)on_syscall;
	h->way[WAY_SYSRET] = (void *)on_sysret;
	h->way[WAY_IRET] = (void *)on_iret;
}

/* The thunk comes back here when it is the handler's turn. */
bool e_syscall(struct tr *t, const struct insn *i)
{
	struct as *a = &t->a;
	unsigned way = jit_rows[i->op].arg;
	if (t->width != 8 || !t->j->fsgsbase || t->j->lockstep || (way != WAY_SYSCALL && i->opsize != 8))
		return false;
	if (way == WAY_SYSCALL) {
		tr_flags_host(t, F_ALL);
		as8(a, 0x9c); /* pushf */
		as_pop(a, S1);
		as_alu_imm(a, 0, OP_AND, 4, rm_reg(S1), FLAG_ARITH);
		as_alu_load(a, OP_OR, 8, S1, rm_abs(&t->c->arch.rflags));
		as_load(a, 8, S0, rm_abs(&t->hot->page));
		as_lea(a, 8, S0, rm_mem(S0, (i32)tr_after(t->b, i)));
		t->host = 0;
	}
	as_call(a, t->j->way[way]);
	struct site *s = tr_site(t, SITE_RESUME);
	as_call(a, t->j->out);
	as32(a, (u32)((u8 *)s - a->p));
	t->ended = true;
	return true;
}
