/* Guest memory from host code: the effective address, then a probe of the bank (cpu/mmu.h) that does tag, permission and page crossing with one
 * compare:
 *
 *   lea  S0, address        rorx S1, S0, 7        and S1d, 1023 * 32
 *   xor  S0, gs:[S1]        (offset in the page if the tag is right, else something above)
 *   cmp  S0, 4096 - size    ja miss
 *   add  S0, gs:[S1 + host]
 *
 * A miss goes to C, which fills the entry if it can and tries the instruction again, or has the interpreter go on with it. */
#include "jit/tr.h"

_Static_assert(sizeof(struct tlb_fast) == 32 && TLB_ENTRIES == 1024, "the probe's index");

/* Base and index in registers; at most one load each. */
static struct rm plain(struct tr *t, const struct insn *i, unsigned to)
{
	struct as *a = &t->a;
	unsigned base = i->base, index = i->index, bh, ih;
	i32 disp = i->disp;
	if (index == GPR_ZERO && base == GPR_ZERO) {
		as_mov_imm(a, to, (u64)(i64)disp);
		return rm_mem(to, 0);
	}
	if (base == GPR_BLOCK_RIP) {
		as_load(a, 8, to, rm_abs(&t->hot->page));
		return rm_mem(to, disp + t->b->off);
	}
	if (index == GPR_ZERO) {
		if (homed(base))
			return rm_mem(jit_home[base], disp);
		as_load(a, 8, to, greg(t, base));
		return rm_mem(to, disp);
	}
	ih = homed(index) ? jit_home[index] : to;
	if (!homed(index))
		as_load(a, 8, to, greg(t, index));
	if (base == GPR_ZERO) {
		as_mov_imm(a, S1, (u64)(i64)disp);
		return rm_sib(S1, ih, i->scale, 0);
	}
	bh = homed(base) ? jit_home[base] : S1;
	if (!homed(base))
		as_load(a, 8, S1, greg(t, base));
	return rm_sib(bh, ih, i->scale, disp);
}

/* No flags change. */
bool tr_effective(struct tr *t, const struct insn *i, unsigned to)
{
	if (i->asize < 4 || (i->base == GPR_BLOCK_RIP && (i->index != GPR_ZERO || !fits32((i64)i->disp + t->b->off))))
		return false;
	struct rm m = plain(t, i, to);
	unsigned size = i->asize == 4 ? 4 : 8;
	if (m.kind == RM_MEM && m.disp == 0) {
		if (m.reg != to || size == 4)
			as_mov(&t->a, size, to, m.reg);
	} else {
		as_lea(&t->a, size, to, m);
	}
	return true;
}

bool tr_address(struct tr *t, const struct insn *i)
{
	if (!tr_effective(t, i, S0))
		return false;
	if (i->seg == SEG_FS || i->seg == SEG_GS)
		as_alu_load(&t->a, OP_ADD, 8, S0, rm_abs(&t->c->seg_base[i->seg]));
	return true;
}

void tr_probe(struct tr *t, unsigned size, bool write)
{
	struct as *a = &t->a;
	struct site *s = tr_site(t, write ? SITE_WRITE : SITE_READ);
	const struct insn *i = &t->b->insn[t->k];
	s->size = (u8)size;
	s->twice = (i->op == ZYDIS_MNEMONIC_PUSH || i->op == ZYDIS_MNEMONIC_CALL) && (i->flags & INSN_MEM);
	if (t->j->bmi2) {
		static const u8 rorx[] = { 0xc4, 0x43, 0xfb, 0xf0, 0xda, 7 }; /* rorx r11, r10, 7 */
		memcpy(a->p, rorx, sizeof rorx);
		a->p += sizeof rorx;
	} else {
		as_mov(a, 8, S1, S0);
		as_ins(a, 0, 8, 0xc1, 5, rm_reg(S1), 1); /* shr */
		as8(a, 7);
	}
	as_alu_imm(a, 0, OP_AND, 4, rm_reg(S1), 0x7fe0);
	as_gs(a);
	as_alu_load(a, OP_XOR, 8, S0, rm_mem(S1, write ? offsetof(struct tlb_fast, w) : offsetof(struct tlb_fast, r)));
	as_alu_imm(a, 0, OP_CMP, 8, rm_reg(S0), 4096 - size);
	tr_stub(t, as_jcc(a, CC_A, a->p), s);
	as_gs(a);
	as_alu_load(a, OP_ADD, 8, S0, rm_mem(S1, offsetof(struct tlb_fast, host)));
	t->host = 0;
	if (t->j->lockstep && write) {
		s = tr_site(t, SITE_LOG);
		s->size = (u8)size;
		as_call(a, s->vec ? t->j->out_vec : t->j->out);
		as32(a, (u32)((u8 *)s - a->p));
		s->retry = jit_off(t->j, a->p);
	}
}

bool tr_operand(struct tr *t, const struct insn *i, unsigned size, bool write)
{
	if (!tr_address(t, i))
		return false;
	tr_probe(t, size, write);
	return true;
}
