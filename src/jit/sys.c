/* Emitters of system instructions, for the case that is frequent: kernel code with nothing unusual going on. Each asks for that case first and
 * otherwise leaves before it has done anything (SITE_RESUME): the interpreter's handler knows the whole manual. Not here: what changes the mode or
 * ends a block; those are handlers, after which engine.c looks for host code to go on with.
 *
 * Surprise: STI needs no single step here. Its shadow lasts one instruction, and nobody looks for interrupts between two instructions of a block;
 * what already waits takes the handler's way. */
#include "jit/tr.h"
#include "jit/sys.h"

static void leave_unless(struct tr *t, unsigned cond) { tr_exit_if(t, cond ^ 1, SITE_RESUME); }

static void need_cpl0(struct tr *t)
{
	as_alu_imm(&t->a, 0, OP_CMP, 1, rm_abs(&t->c->arch.cpl), 0);
	leave_unless(t, CC_E);
	t->host = 0;
}

/* Leaves when bits of a 32-bit word at p are not all clear (or, for one bit, not set). */
static void need_clear(struct tr *t, const void *p, u32 bits)
{
	as_alu_imm(&t->a, 0, OP_TEST, 4, rm_abs(p), bits);
	leave_unless(t, CC_E);
	t->host = 0;
}
static void need_set(struct tr *t, const void *p, u32 one)
{
	as_alu_imm(&t->a, 0, OP_TEST, 4, rm_abs(p), one);
	leave_unless(t, CC_NE);
	t->host = 0;
}

/* ---- interrupt flag ---- */
bool e_cli(struct tr *t, const struct insn *i)
{
	need_cpl0(t);
	as_alu_imm(&t->a, 0, OP_AND, 4, rm_abs(&t->c->arch.rflags), (u64)(i64)(i32)~FLAG_IF);
	return true;
}

/* A NOP's operand is not accessed: kernels fill what they patch out with long ones. */
static bool is_quiet(const struct insn *i)
{
	const struct row *r = &jit_rows[i->op];
	if (i->op == ZYDIS_MNEMONIC_NOP)
		return true;
	return r->emit && !(i->flags & INSN_MEM) && !(r->how & (H_STACK | H_ENDS));
}

bool e_sti(struct tr *t, const struct insn *i)
{
	if (t->k + 1u >= t->b->n)
		return false;
	need_cpl0(t);
	if (!is_quiet(i + 1)) /* a guest's exit would tell of the shadow */
		need_clear(t, &t->c->arch.guest_mode, 0xff);
	need_clear(t, &t->c->deferred, ~(u32)0);
	need_clear(t, &t->c->pending, ~(u32)0);
	as_alu_imm(&t->a, 0, OP_OR, 4, rm_abs(&t->c->arch.rflags), FLAG_IF);
	return true;
}

bool e_pushf(struct tr *t, const struct insn *i)
{
	struct as *a = &t->a;
	if (i->opsize != 8)
		return false;
	if (cpu_has(t->c, FEAT_SVM)) /* has an intercept for it */
		need_clear(t, &t->c->arch.guest_mode, 0xff);
	as_lea(a, 8, S0, rm_mem(t->home[GPR_RSP], -8));
	tr_probe(t, 8, true);
	tr_flags_host(t, F_ALL);
	as8(a, 0x9c); /* pushf */
	as_pop(a, S1);
	as_alu_imm(a, 0, OP_AND, 4, rm_reg(S1), FLAG_ARITH);
	as_alu_load(a, OP_OR, 8, S1, rm_abs(&t->c->arch.rflags)); /* RF and VM are clear where host code runs */
	as_store(a, 8, rm_mem(S0, 0), S1);
	as_lea(a, 8, t->home[GPR_RSP], rm_mem(t->home[GPR_RSP], -8));
	t->host = 0;
	return true;
}

/* ---- RFLAGS.AC ---- */
static void switch_class(struct tr *t, u8 cls)
{
	struct as *a = &t->a;
	as_mov_imm(a, S1, (u64)(uintptr_t)&t->c->tlb->cur_bank[cls]);
	as_load(a, 8, S1, rm_mem(S1, 0));
	as_alu_load(a, OP_TEST, 8, S1, rm_reg(S1));
	leave_unless(t, CC_NE);
	as8(a, 0xf3); /* wrgsbase S1 */
	as8(a, 0x49);
	as8(a, 0x0f);
	as8(a, 0xae);
	as8(a, 0xc0 | 3 << 3 | (S1 & 7));
	as_store(a, 8, rm_abs(&t->hot->bank), S1);
	as_store_imm(a, 1, rm_abs(&t->c->acc_class), cls);
	plan_forget(t);
}

/* From class 0: SMAP is on, AC clear, and nothing makes accesses slow. */
bool e_stac(struct tr *t, const struct insn *i)
{
	if (!t->j->fsgsbase || t->width == 4)
		return false;
	need_cpl0(t);
	as_alu_imm(&t->a, 0, OP_CMP, 1, rm_abs(&t->c->acc_class), 0);
	leave_unless(t, CC_E);
	switch_class(t, 1);
	as_alu_imm(&t->a, 0, OP_OR, 4, rm_abs(&t->c->arch.rflags), FLAG_AC);
	return true;
}

bool e_clac(struct tr *t, const struct insn *i)
{
	struct as *a = &t->a;
	if (!t->j->fsgsbase || t->width == 4)
		return false;
	need_cpl0(t);
	as_alu_imm(a, 0, OP_TEST, 4, rm_abs(&t->c->arch.rflags), FLAG_AC);
	u8 *done = as_jcc(a, CC_E, a->p);
	as_alu_imm(a, 0, OP_CMP, 1, rm_abs(&t->c->acc_class), 1);
	leave_unless(t, CC_E);
	need_set(t, &t->c->arch.cr4, CR4_SMAP);
	switch_class(t, 0);
	as_alu_imm(a, 0, OP_AND, 4, rm_abs(&t->c->arch.rflags), (u64)(i64)(i32)~FLAG_AC);
	as_aim(done, a->p);
	return true;
}

/* ---- segment bases ---- */
bool e_swapgs(struct tr *t, const struct insn *i)
{
	struct as *a = &t->a;
	struct cpu *c = t->c;
	need_cpl0(t);
	as_load(a, 8, S0, rm_abs(&c->arch.seg[SEG_GS].base));
	as_load(a, 8, S1, rm_abs(&c->arch.kernel_gs_base));
	as_store(a, 8, rm_abs(&c->arch.kernel_gs_base), S0);
	as_store(a, 8, rm_abs(&c->arch.seg[SEG_GS].base), S1);
	as_store(a, 8, rm_abs(&c->seg_base[SEG_GS]), S1);
	return true;
}

static unsigned base_seg(const struct insn *i)
{
	return i->op == ZYDIS_MNEMONIC_RDFSBASE || i->op == ZYDIS_MNEMONIC_WRFSBASE ? SEG_FS : SEG_GS;
}

bool e_rdbase(struct tr *t, const struct insn *i)
{
	if (!cpu_has(t->c, FEAT_FSGSBASE))
		return false;
	need_set(t, &t->c->arch.cr4, CR4_FSGSBASE);
	as_load(&t->a, i->opsize, S0, rm_abs(&t->c->arch.seg[base_seg(i)].base));
	put_reg(t, i->dst, i->opsize, S0);
	return true;
}

bool e_wrbase(struct tr *t, const struct insn *i)
{
	struct as *a = &t->a;
	unsigned seg = base_seg(i);
	if (!cpu_has(t->c, FEAT_FSGSBASE))
		return false;
	need_set(t, &t->c->arch.cr4, CR4_FSGSBASE);
	as_load(a, i->opsize, S0, greg(t, i->dst));
	as_mov(a, 8, S1, S0);
	as_ins(a, 0, 8, 0xc1, DIGIT | 4, rm_reg(S1), 1); /* shl 16; sar 16: canonical? */
	as8(a, 16);
	as_ins(a, 0, 8, 0xc1, DIGIT | 7, rm_reg(S1), 1);
	as8(a, 16);
	as_alu_load(a, OP_CMP, 8, S1, rm_reg(S0));
	leave_unless(t, CC_E);
	as_store(a, 8, rm_abs(&t->c->arch.seg[seg].base), S0);
	as_store(a, 8, rm_abs(&t->c->seg_base[seg]), S0);
	return true;
}

/* ---- protection keys, PAUSE, fences ---- */
bool e_rdpkru(struct tr *t, const struct insn *i)
{
	struct as *a = &t->a;
	if (!cpu_has(t->c, FEAT_PKU))
		return false;
	need_set(t, &t->c->arch.cr4, CR4_PKE);
	as_alu_load(a, OP_TEST, 4, RCX, rm_reg(RCX));
	leave_unless(t, CC_E);
	as_load(a, 4, RAX, rm_abs(&t->c->arch.pkru));
	as_mov_imm(a, RDX, 0);
	return true;
}

/* A guest's may exit. */
bool e_pause(struct tr *t, const struct insn *i)
{
	need_clear(t, &t->c->arch.guest_mode, 0xff);
	return true;
}

bool e_mfence(struct tr *t, const struct insn *i)
{
	as8(&t->a, 0x0f);
	as8(&t->a, 0xae);
	as8(&t->a, 0xf0);
	return true;
}

/* ---- VMX ---- */
/* SDM "VMREAD", of a register in root operation, of a field that there is and not its upper half. VMsucceed clears the flags. */
bool e_vmread(struct tr *t, const struct insn *i)
{
	static const u64 masks[4] = { 0, 0xffff, 0xffffffff, ~0ull };
	struct as *a = &t->a;
	struct cpu *c = t->c;
	if (!c->vm_field_row || (i->flags & INSN_MEM))
		return false;
	need_cpl0(t);
	need_clear(t, &c->arch.guest_mode, 0xff);
	as_load(a, 8, S0, greg(t, i->src));
	as_alu_imm(a, 0, OP_TEST, 8, rm_reg(S0), ~(u64)VM_FIELD_BITS);
	leave_unless(t, CC_E);
	as_mov_imm(a, HOST, (u64)(uintptr_t)c->vm_field_row);
	as_ins(a, 0, 4, 0x0fb7, S1, rm_sib(HOST, S0, 0, 0), 0); /* movzx: encodings are even, rows two bytes */
	as_mov_imm(a, HOST, (u64)(uintptr_t)masks);
	as_mov(a, 4, S0, S1);
	as_alu_imm(a, 0, OP_AND, 4, rm_reg(S0), 3);
	leave_unless(t, CC_NE);
	as_load(a, 8, HOST, rm_sib(HOST, S0, 3, 0));
	as_load(a, 8, S0, rm_abs(&c->vm_fields));
	as_alu_load(a, OP_TEST, 8, S0, rm_reg(S0));
	leave_unless(t, CC_NE);
	as_ins(a, 0, 4, 0xc1, DIGIT | 5, rm_reg(S1), 1); /* shr */
	as8(a, 2);
	as_alu_load(a, OP_AND, 8, HOST, rm_sib(S0, S1, 3, 0));
	put_reg(t, i->dst, 8, HOST);
	as_mov_imm(a, S1, 1);
	as_alu_imm(a, 0, OP_ADD, 4, rm_reg(S1), 0);
	plan_forget(t);
	tr_flags_set(t, rc_none());
	return true;
}

/* ---- memory ---- */
bool e_cmpxchg16b(struct tr *t, const struct insn *i)
{
	struct as *a = &t->a;
	if (i->opsize != 8 || !tr_address(t, i))
		return false;
	as_alu_imm(a, 0, OP_TEST, 4, rm_reg(S0), 15);
	leave_unless(t, CC_E);
	tr_probe(t, 16, true);
	tr_flags_host(t, F_ALL);
	as_ins(a, 0xf0, 8, 0x0fc7, DIGIT | 1, rm_mem(S0, 0), 0);
	tr_flags_set(t, rc_none());
	return true;
}

/* BT, BTS, BTR, BTC of a bit string: the register's upper bits choose the operand's place. op: as BT_* */
bool tr_bit_string(struct tr *t, const struct insn *i, unsigned op)
{
	struct as *a = &t->a;
	unsigned n = i->opsize, lock = i->flags & INSN_LOCK ? 0xf0 : 0, log = n == 8 ? 6 : 5;
	if (n < 4 || i->asize != 8 || (lock && !op) || !tr_address(t, i))
		return false;
	as_load(a, n, S1, greg(t, i->src));
	if (n == 4)
		as_ins(a, 0, 8, 0x63, S1, rm_reg(S1), 0); /* movsxd */
	as_ins(a, 0, 8, 0xc1, DIGIT | 7, rm_reg(S1), 1); /* sar */
	as8(a, log);
	as_lea(a, 8, S0, rm_sib(S0, S1, n == 8 ? 3 : 2, 0));
	tr_probe(t, n, op != 0);
	if (lock) {
		as_load(a, 4, S1, greg(t, i->src));
		as_alu_imm(a, 0, OP_AND, 4, rm_reg(S1), 8 * n - 1);
		as_store(a, 8, rm_abs(&t->hot->tmp), S1);
	}
	tr_flags_host(t, tr_live(t) & ~F_CF);
	if (lock) {
		as_load(a, 8, S1, rm_abs(&t->hot->tmp));
		as_ins(a, lock, n, 0x0fa3 | op << 3, S1, rm_mem(S0, 0), 0);
		tr_flags_set(t, rc_none());
		return true;
	}
	as_load(a, n, S1, greg(t, i->src));
	as_store(a, 8, rm_abs(&t->hot->tmp), S0);
	as_load(a, n, S0, rm_mem(S0, 0));
	as_ins(a, 0, n, 0x0fa3 | op << 3, S1, rm_reg(S0), 0);
	if (op) {
		as_load(a, 8, S1, rm_abs(&t->hot->tmp));
		as_store(a, n, rm_mem(S1, 0), S0);
	}
	tr_flags_set(t, rc_none());
	return true;
}
