/* Emitters of system instructions, for the case that is frequent: kernel code with nothing unusual going on. Each asks for that case first and
 * otherwise leaves before it has done anything (SITE_RESUME): the interpreter's handler knows the whole manual. Not here: what changes the mode or
 * ends a block; those are handlers, after which engine.c looks for host code to go on with.
 *
 * Surprise: STI needs no single step here. Its shadow lasts one instruction, and nobody looks for interrupts between two instructions of a block;
 * what already waits takes the handler's way. */
#include "jit/tr.h"
#include "jit/sys.h"
#include "bus/clock.h"
#include "interp/sys.h"
#include "mem/mem.h"

static void leave_unless(struct tr *t, unsigned cond) { tr_exit_if(t, cond ^ 1, SITE_RESUME); }

/* What has been found to be so (t->sys_checked): until a handler runs it stays. */
#define SYS_CPL0 1u
#define SYS_ROOT 2u  /* not in a guest */
#define SYS_VMCS 4u  /* there is a current one */
#define SYS_QUIET 8u /* and nobody wants to hear of writes to it */

/* Regions are entered where not all was asked. True: it is known already; else ask now. Either way the host's flags are no longer the guest's. */
static bool known(struct tr *t, u8 what)
{
	bool yes = t->sys_checked & what;
	t->host = 0;
	t->sys_checked |= t->region ? 0 : what;
	return yes;
}

static void need_zero(struct tr *t, unsigned size, const void *p)
{
	as_alu_imm(&t->a, 0, OP_CMP, size, rm_abs(p), 0);
	leave_unless(t, CC_E);
	t->host = 0;
}

static void need_cpl0(struct tr *t)
{
	if (!known(t, SYS_CPL0))
		need_zero(t, 1, &t->c->arch.cpl);
}

static void need_root(struct tr *t)
{
	if (!known(t, SYS_ROOT))
		need_zero(t, 1, &t->c->arch.guest_mode);
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

enum { SHL = 4, SHR = 5, SAR = 7 };
static void shift(struct as *a, unsigned op, unsigned size, unsigned reg, unsigned by)
{
	as_ins(a, 0, size, 0xc1, DIGIT | op, rm_reg(reg), 1);
	as8(a, by);
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
	return r->emit && !(i->flags & INSN_MEM) && !(r->how & (H_STACK | H_ENDS)) && !tr_is_special_mov(i);
}

/* STI's shadow ends with the next instruction. When that one leaves, a guest's exit would tell of the shadow: so one that cannot, or RET, the end of every
 * kernel's spin_unlock_irq(), where engine.c makes the shadow when it leaves (jit_sti_shadow). */
static bool ends_shadow(const struct tr *t, const struct insn *i)
{
	return is_quiet(i) || (i->op == ZYDIS_MNEMONIC_JMP && jit_is_relative(i)) || (jit_sti_shadow(i) && i->opsize == t->width && !t->j->lockstep);
}

bool e_sti(struct tr *t, const struct insn *i)
{
	if (t->k + 1u >= t->b->n)
		return false;
	need_cpl0(t);
	if (!ends_shadow(t, i + 1))
		need_root(t);
	else if (jit_sti_shadow(i + 1))
		need_clear(t, &t->c->arch.rflags, FLAG_IF); /* else there is no shadow */
	need_zero(t, 4, &t->c->deferred);
	need_zero(t, 4, &t->c->pending);
	as_alu_imm(&t->a, 0, OP_OR, 4, rm_abs(&t->c->arch.rflags), FLAG_IF);
	return true;
}

/* CLD, STD */
bool e_cld(struct tr *t, const struct insn *i)
{
	bool set = jit_rows[i->op].arg;
	as_alu_imm(&t->a, 0, set ? OP_OR : OP_AND, 4, rm_abs(&t->c->arch.rflags), set ? FLAG_DF : (u64)(i64)(i32)~FLAG_DF);
	t->host = 0;
	return true;
}

bool e_pushf(struct tr *t, const struct insn *i)
{
	struct as *a = &t->a;
	if (i->opsize != 8)
		return false;
	if (cpu_has(t->c, FEAT_SVM)) /* has an intercept for it */
		need_root(t);
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
	shift(a, SHL, 8, S1, 16); /* canonical? */
	shift(a, SAR, 8, S1, 16);
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

/* A guest's may exit. With one vCPU there is nobody to wait for. */
bool e_pause(struct tr *t, const struct insn *i)
{
	need_root(t);
	if (t->c->ncpus == 1)
		return true;
	as8(&t->a, 0xf3);
	as8(&t->a, 0x90);
	as_alu_imm(&t->a, 0, OP_SUB, 4, rm_abs(&t->c->pauses), 1);
	leave_unless(t, CC_NS);
	t->host = 0;
	return true;
}

bool e_mfence(struct tr *t, const struct insn *i)
{
	as8(&t->a, 0x0f);
	as8(&t->a, 0xae);
	as8(&t->a, 0xf0);
	return true;
}

/* What other vCPUs have written into code pends. */
bool e_serialize(struct tr *t, const struct insn *i)
{
	if (!cpu_has(t->c, FEAT_SERIALIZE))
		return false;
	need_zero(t, 4, &t->c->pending);
	return t->c->ncpus == 1 || e_mfence(t, i);
}

/* ---- time ---- */
/* S0 = V in ns as this vCPU knows it. */
static void emit_v(struct tr *t)
{
	struct as *a = &t->a;
	struct cpu *c = t->c;
	as_load(a, 8, S0, rm_abs(&t->hot->base));
	as_alu_load(a, OP_SUB, 8, S0, rm_reg(LEFT));
	as_alu_load(a, OP_SUB, 8, S0, rm_abs(&c->v_icount));
	as_mov_imm(a, S1, 512);
	as_alu_load(a, OP_SUB, 4, S1, rm_abs(&c->v_slow));
	as_ins(a, 0, 8, 0x0faf, S0, rm_reg(S1), 0); /* imul */
	shift(a, SAR, 8, S0, 8);
	as_alu_load(a, OP_ADD, 8, S0, rm_abs(&c->v_base));
}

/* EDX:EAX, and ECX of RDTSCP, of V in `reg`. */
static void emit_tsc(struct tr *t, const struct insn *i, unsigned reg)
{
	struct as *a = &t->a;
	struct cpu *c = t->c;
	as_ins(a, 0, 8, 0x69, reg, rm_reg(reg), 4); /* imul */
	as32(a, (u32)(c->tsc_khz / 1000000));
	as_alu_load(a, OP_ADD, 8, reg, rm_abs(&c->arch.tsc_offset));
	as_mov(a, 8, RDX, reg);
	as_mov(a, 4, RAX, reg);
	shift(a, SHR, 8, RDX, 32);
	if (jit_rows[i->op].arg)
		as_load(a, 4, RCX, rm_abs(&c->arch.tsc_aux));
}

static bool whole_ghz(const struct cpu *c) { return c->tsc_khz / 1000000 * 1000000 == c->tsc_khz; }

/* RDTSC, RDTSCP: cpu_tsc() of a machine with one vCPU. */
bool e_rdtsc(struct tr *t, const struct insn *i)
{
	struct cpu *c = t->c;
	if (c->ncpus > 1 || !whole_ghz(c))
		return false;
	need_root(t);
	need_clear(t, &c->arch.cr4, CR4_TSD);
	emit_v(t);
	emit_tsc(t, i, S0);
	return true;
}

static void least(struct as *a, unsigned reg, u32 most)
{
	as_mov_imm(a, RDX, most);
	as_alu_load(a, OP_CMP, 8, reg, rm_reg(RDX));
	as_ins(a, 0, 8, 0x0f47, reg, rm_reg(RDX), 0); /* cmova */
}

/* The same with several, as clock_read() does it for a vCPU that is not behind the clock and hardly ahead. */
u8 *tr_rdtsc_shared(struct tr *t, const struct insn *i)
{
	struct as *a = &t->a;
	struct cpu *c = t->c;
	u8 *no[4], *over;
	if ((i->op != ZYDIS_MNEMONIC_RDTSC && i->op != ZYDIS_MNEMONIC_RDTSCP) || c->ncpus == 1 || !whole_ghz(c) || !c->clock || !c->clock->per_tick)
		return NULL;
	if (!t->mem)
		tr_flags_save(t);
	as_alu_imm(a, 0, OP_TEST, 1, rm_abs(&c->arch.guest_mode), 0xff);
	no[0] = as_jcc(a, CC_NE, a->p);
	as_alu_imm(a, 0, OP_TEST, 4, rm_abs(&c->arch.cr4), CR4_TSD);
	no[1] = as_jcc(a, CC_NE, a->p);
	emit_v(t);
	as_mov_imm(a, RDX, (u64)(uintptr_t)&c->clock->now); /* whatever happens, RDX and RAX are written */
	as_load(a, 8, S1, rm_mem(RDX, 0));
	as_alu_load(a, OP_SUB, 8, S0, rm_reg(S1));
	as_alu_imm(a, 0, OP_CMP, 8, rm_reg(S0), CLOCK_READ_NS);
	no[2] = as_jcc(a, CC_AE, a->p);
	as_load(a, 8, S0, rm_mem(RDX, 8));
	as_alu_load(a, OP_CMP, 8, S1, rm_mem(RDX, 0));
	no[3] = as_jcc(a, CC_NE, a->p);
	as8(a, 0x0f); /* lfence: the guest's are not in host code */
	as8(a, 0xae);
	as8(a, 0xe8);
	as8(a, 0x0f); /* rdtsc */
	as8(a, 0x31);
	shift(a, SHL, 8, RDX, 32);
	as_alu_load(a, OP_OR, 8, RAX, rm_reg(RDX));
	as_mov_imm(a, RDX, 0);
	as_alu_load(a, OP_SUB, 8, RAX, rm_reg(S0));
	as_ins(a, 0, 8, 0x0f4c, RAX, rm_reg(RDX), 0); /* cmovl */
	least(a, RAX, CLOCK_READ_TICKS);
	as_mov_imm(a, RDX, c->clock->per_tick);
	as_ins(a, 0, 8, 0x0faf, RAX, rm_reg(RDX), 0); /* imul */
	shift(a, SHR, 8, RAX, 32);
	least(a, RAX, CLOCK_READ_NS - 1);
	as_alu_load(a, OP_ADD, 8, RAX, rm_reg(S1));
	emit_tsc(t, i, RAX);
	over = as_jmp(a, a->p);
	for (unsigned n = 0; n < 4; n++)
		as_aim(no[n], a->p);
	return over;
}

/* ---- control registers, MSRs ---- */
static bool mov_from_cr(struct tr *t, const struct insn *i)
{
	struct cpu_arch *r = &t->c->arch;
	const void *const from[5] = { &r->cr0, NULL, &r->cr2, &r->cr3, &r->cr4 };
	if (i->aux != (void *)sys_mov_from_cr || i->src > 4 || !from[i->src] || t->region)
		return false;
	if (!t->mem && !t->rc.op)
		tr_flags_save(t);
	need_cpl0(t);
	if (i->src != 2) /* may exit, or a guest sees another */
		need_root(t);
	as_load(&t->a, t->width, S0, rm_abs(from[i->src]));
	put_reg(t, i->dst, t->width, S0);
	return true;
}

/* To a general register; no flags change. */
static bool mov_from_seg(struct tr *t, const struct insn *i)
{
	if (i->flags & INSN_MEM)
		return false;
	as_ins(&t->a, 0, 4, 0x0fb7, S0, rm_abs(&t->c->arch.seg[i->src].sel), 0); /* movzx */
	put_reg(t, i->dst, i->opsize, S0);
	return true;
}

bool tr_mov_special(struct tr *t, const struct insn *i)
{
	return i->src2 == SEL_MOV_FROM_SEG ? mov_from_seg(t, i) : mov_from_cr(t, i);
}

/* Of the registers that kernels read all the time. */
bool e_rdmsr(struct tr *t, const struct insn *i)
{
	struct as *a = &t->a;
	struct cpu_arch *r = &t->c->arch;
	const struct { u32 msr; const void *at; } known[] = {
		{ 0x1d9, &r->debugctl }, { 0xc0000101, &r->seg[SEG_GS].base }, { 0xc0000102, &r->kernel_gs_base }, { 0xc0000100, &r->seg[SEG_FS].base },
		{ 0x48, cpu_has(t->c, FEAT_SPEC_CTRL) ? &r->spec_ctrl : NULL },
	};
	u8 *found[array_len(known)];
	if (trace_on(TRACE_MSR))
		return false;
	need_cpl0(t);
	need_root(t);
	for (unsigned n = 0; n < array_len(known); n++) {
		found[n] = NULL;
		if (!known[n].at)
			continue;
		as_load(a, 8, S0, rm_abs(known[n].at));
		as_alu_imm(a, 0, OP_CMP, 4, rm_reg(RCX), known[n].msr);
		found[n] = as_jcc(a, CC_E, a->p);
	}
	struct site *s = tr_site(t, SITE_RESUME);
	tr_stub(t, as_jmp(a, a->p), s);
	for (unsigned n = 0; n < array_len(known); n++)
		if (found[n])
			as_aim(found[n], a->p);
	as_mov(a, 4, RAX, S0);
	as_mov(a, 8, RDX, S0);
	shift(a, SHR, 8, RDX, 32);
	return true;
}

/* ---- VMX ---- */
static const u64 masks[4] = { 0, 0xffff, 0xffffffff, ~0ull };

/* S1 = slot and HOST = mask of the field that guest register `enc` names: one that there is, and not its upper half; else leaves. Uses S0. */
static void find_field(struct tr *t, unsigned enc)
{
	struct as *a = &t->a;
	as_load(a, 8, S0, greg(t, enc));
	as_alu_imm(a, 0, OP_TEST, 8, rm_reg(S0), ~(u64)VM_FIELD_BITS);
	leave_unless(t, CC_E);
	as_mov_imm(a, HOST, (u64)(uintptr_t)t->c->vm_field_row);
	as_ins(a, 0, 4, 0x0fb7, S1, rm_sib(HOST, S0, 0, 0), 0); /* movzx: encodings are even, rows two bytes */
	as_mov_imm(a, HOST, (u64)(uintptr_t)masks);
	as_mov(a, 4, S0, S1);
	as_alu_imm(a, 0, OP_AND, 4, rm_reg(S0), 3);
	leave_unless(t, CC_NE);
	as_load(a, 8, HOST, rm_sib(HOST, S0, 3, 0));
	shift(a, SHR, 4, S1, 2);
	plan_forget(t); /* HOST is no group's any more */
}

/* Hypervisors write MOV enc, constant in front. The field's row, or 0: not known here, or no field. */
static u16 constant_field(const struct tr *t, const struct insn *i, unsigned enc)
{
	for (const struct insn *m = i; t->b->frame[1] == NO_FRAME && m-- > t->b->insn;) {
		if (m->op == ZYDIS_MNEMONIC_MOV && m->dst == enc && m->opsize >= 4 && (m->flags & INSN_IMM) && !(m->flags & INSN_MEM) && !tr_is_special_mov(m)) {
			u64 v = m->opsize == 4 ? (u32)m->imm : m->imm;
			return v & ~(u64)VM_FIELD_BITS ? 0 : t->c->vm_field_row[v / 2];
		}
		if (!jit_rows[m->op].emit || (tr_writes(m) >> enc & 1))
			return 0;
	}
	return 0;
}

/* VMsucceed clears the flags. */
static void succeed(struct tr *t)
{
	tr_flags_set(t, (struct recipe){ .op = RC_CLEAR, .size = 8, .a = GPR_ZERO });
	t->host = 0;
}

/* In another mode it is #UD, in non-root operation it may exit. */
static bool in_root_operation(struct tr *t)
{
	if (!t->c->vm_field_row || t->width != 8)
		return false;
	need_cpl0(t);
	need_root(t);
	return true;
}

/* S0 = the fields of the current VMCS. */
static void load_fields(struct tr *t)
{
	as_load(&t->a, 8, S0, rm_abs(&t->c->vm_fields));
	if (known(t, SYS_VMCS))
		return;
	as_alu_load(&t->a, OP_TEST, 8, S0, rm_reg(S0));
	leave_unless(t, CC_NE);
}

/* reg = the low bits of m that a field of this row has. */
static void load_width(struct as *a, unsigned reg, struct rm m, unsigned row)
{
	if ((row & 3) == 1)
		as_ins(a, 0, 4, 0x0fb7, reg, m, 0); /* movzx */
	else
		as_load(a, (row & 3) == 2 ? 4 : 8, reg, m);
}

/* SDM "VMREAD", of a register. */
bool e_vmread(struct tr *t, const struct insn *i)
{
	struct as *a = &t->a;
	if ((i->flags & INSN_MEM) || !in_root_operation(t))
		return false;
	u16 row = constant_field(t, i, i->src);
	if (row & 3) {
		load_fields(t);
		unsigned x = homed(t, i->dst) ? t->home[i->dst] : S1;
		load_width(a, x, rm_mem(S0, (row >> 2) * 8), row);
		if (x == S1)
			put_reg(t, i->dst, 8, S1);
		succeed(t);
		return true;
	}
	find_field(t, i->src);
	load_fields(t);
	as_alu_load(a, OP_AND, 8, HOST, rm_sib(S0, S1, 3, 0));
	put_reg(t, i->dst, 8, HOST);
	succeed(t);
	return true;
}

/* A VMCS is there, in RAM that nobody wants to hear of: no dirty log, no decoded code. */
static void need_quiet_vmcs(struct tr *t)
{
	struct as *a = &t->a;
	if (known(t, SYS_QUIET))
		return;
	as_load(a, 8, S0, rm_abs(&t->c->vm_code));
	as_alu_load(a, OP_TEST, 8, S0, rm_reg(S0));
	leave_unless(t, CC_NE);
	as_alu_imm(a, 0, OP_CMP, 8, rm_mem(S0, 0), 0);
	leave_unless(t, CC_E);
	as_mov_imm(a, S0, (u64)(uintptr_t)&t->c->mem->dirty_log);
	as_alu_imm(a, 0, OP_CMP, 1, rm_mem(S0, 0), 0);
	leave_unless(t, CC_E);
}

/* [S0] = who wrote a slot, for explanations. Uses S1. */
static void note_writer(struct tr *t, const struct insn *i)
{
	struct as *a = &t->a;
	as_load(a, 8, S1, rm_abs(&t->c->vm_ptr));
	as_store(a, 8, rm_mem(S0, offsetof(struct vm_written, vmcs)), S1);
	as_load(a, 8, S1, rm_abs(&t->hot->page));
	as_lea(a, 8, S1, rm_mem(S1, t->b->off + i->off));
	as_store(a, 8, rm_mem(S0, offsetof(struct vm_written, rip)), S1);
}

static void write_constant_field(struct tr *t, const struct insn *i, struct rm value, unsigned row)
{
	struct as *a = &t->a;
	unsigned slot = row >> 2;
	as_mov_imm(a, S0, (u64)(uintptr_t)&t->c->vm_written[slot]);
	note_writer(t, i);
	as_load(a, 8, S0, rm_abs(&t->c->vm_fields));
	t->m = rm_mem(S0, (i32)slot * 8);
	if (t->j->lockstep) {
		as_lea(a, 8, S0, t->m);
		t->m = rm_mem(S0, 0);
		tr_log_store(t, 8);
	}
	load_width(a, S1, value, row);
	as_store(a, 8, t->m, S1);
	if (t->c->vm_field_part[slot])
		as_store_imm(a, 1, rm_abs(&t->c->vm_written_part[t->c->vm_field_part[slot]]), 1);
	succeed(t);
}

/* SDM "VMWRITE". All fields may be written (IA32_VMX_MISC[29]), and a write is no more than that, and a note for VM entry, which looks at the fields. */
bool e_vmwrite(struct tr *t, const struct insn *i)
{
	struct as *a = &t->a;
	struct rm value = i->flags & INSN_MEM ? rm_abs(&t->hot->tmp) : greg(t, i->src);
	if (!in_root_operation(t))
		return false;
	need_quiet_vmcs(t);
	if (i->flags & INSN_MEM) {
		if (!tr_operand(t, i, 8, false))
			return false;
		as_load(a, 8, S0, t->m);
		as_store(a, 8, value, S0);
	}
	u16 row = constant_field(t, i, i->dst);
	if (row & 3) {
		write_constant_field(t, i, value, row);
		return true;
	}
	find_field(t, i->dst);
	as_alu_load(a, OP_AND, 8, HOST, value);
	as_store(a, 8, rm_abs(&t->hot->tmp2), HOST);
	_Static_assert(sizeof(struct vm_written) == 16, "the shift");
	as_mov(a, 4, HOST, S1);
	shift(a, SHL, 4, S1, 4);
	as_mov_imm(a, S0, (u64)(uintptr_t)t->c->vm_written);
	as_lea(a, 8, S0, rm_sib(S0, S1, 0, 0));
	note_writer(t, i);
	as_load(a, 8, S0, rm_abs(&t->c->vm_fields));
	as_lea(a, 8, S0, rm_sib(S0, HOST, 3, 0));
	t->m = rm_mem(S0, 0);
	if (t->j->lockstep)
		tr_log_store(t, 8);
	as_load(a, 8, HOST, rm_abs(&t->hot->tmp2));
	as_store(a, 8, t->m, HOST);
	for (unsigned part = 1; part < VM_PARTS; part++) /* which one is not known here */
		as_store_imm(a, 1, rm_abs(&t->c->vm_written_part[part]), 1);
	succeed(t);
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
	shift(a, SAR, 8, S1, log);
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
