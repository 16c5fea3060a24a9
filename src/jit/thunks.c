/* The few pieces of host code that exist once: the way in, the way out to C from a site, and short ways to another privilege level.
 *
 *   enter(code, rip)   C calls it: saves what C wants kept, loads the guest, jumps to code. Returns when a site decides to leave.
 *   out                a stub calls it; behind the return address is the distance to the site. Stores the guest, asks jit_on_site(), and goes on where
 *                      that says, or leaves. */
#include "jit/tr.h"

#define DEEP 65536 /* bytes of the thread's stack for return addresses; more in between: returns.c */

static const u8 callee_saved[] = { RBX, RBP, R12, R13, R14, R15 };

static void move_guest(struct as *a, struct cpu *c, bool load)
{
	for (unsigned g = 0; g < 16; g++) {
		if (jit_home[g] == NO_HOME)
			continue;
		if (load)
			as_load(a, 8, jit_home[g], rm_abs(&c->arch.gpr[g]));
		else
			as_store(a, 8, rm_abs(&c->arch.gpr[g]), jit_home[g]);
	}
}

static void load_guest(struct as *a, struct cpu *c, struct hot *h)
{
	as_load(a, 8, HOST, rm_abs(&h->host));
	as_load(a, 8, LEFT, rm_abs(&h->left));
	move_guest(a, c, true);
}

static void make_enter(struct as *a, struct cpu *c, struct hot *h, const u8 *ret_empty)
{
	for (unsigned n = 0; n < sizeof callee_saved; n++)
		as_push(a, callee_saved[n]);
	as_alu_imm(a, 0, OP_SUB, 8, rm_reg(RSP), 8); /* host code runs with the stack aligned */
	as_mov(a, 8, S1, RDI);
	as_mov(a, 8, S0, RSI);
	as_lea(a, 8, RAX, rm_abs(ret_empty));
	as_push(a, RAX);
	as_store(a, 8, rm_abs(&h->rsp_top), RSP);
	as_store(a, 8, rm_abs(&h->rsp_base), RSP);
	as_lea(a, 8, RAX, rm_mem(RSP, -DEEP));
	as_store(a, 8, rm_abs(&h->rsp_limit), RAX);
	load_guest(a, c, h);
	as_ins(a, 0, 4, 0xff, DIGIT | 4, rm_reg(S1), 0);
}

/* Behind hot->vec; the host's upper halves are left clean for C. */
static void move_vec(struct as *a, struct jit *j, bool load)
{
	for (unsigned r = 0; r < 16; r++) {
		struct rm m = rm_abs(j->hot->vec + 32 * r);
		if (j->avx) {
			as8(a, 0xc5);
			as8(a, (r < 8 ? 0x80 : 0) | 0x7c);
			as8(a, load ? 0x28 : 0x29);
			as_modrm(a, r, m, 0);
		} else {
			as_ins(a, 0, 4, load ? 0x0f28 : 0x0f29, r, m, 0);
		}
	}
	if (j->avx && !load) {
		as8(a, 0xc5); /* vzeroupper */
		as8(a, 0xf8);
		as8(a, 0x77);
	}
}

static void make_out(struct as *a, struct cpu *c, struct hot *h, bool vec)
{
	struct jit *j = jit_of(c);
	if (vec)
		move_vec(a, j, false);
	as_store(a, 8, rm_abs(&h->s0), S0);
	as_store(a, 8, rm_abs(&h->s1), S1);
	as_store(a, 8, rm_abs(&h->host), HOST);
	as_pop(a, S0);
	as_store(a, 8, rm_abs(&h->rsp), RSP);
	as_ins(a, 0, 4, 0xff, DIGIT | 6, rm_abs(&h->ret_empty), 0); /* push: a new stretch may begin here, see returns.c */
	as_alu_imm(a, 0, OP_AND, 8, rm_reg(RSP), (u64)-16);
	as_ins(a, 0, 8, 0x63, S1, rm_mem(S0, 0), 0); /* movsxd */
	move_guest(a, c, false);
	as_store(a, 8, rm_abs(&h->left), LEFT);
	as_lea(a, 8, RSI, rm_sib(S0, S1, 0, 0));
	as_mov_imm(a, RDI, (u64)(uintptr_t)c);
	as_ins(a, 0, 4, 0xff, DIGIT | 2, rm_abs(&h->on_site), 0);
	as_mov(a, 8, S1, RAX);
	as_alu_load(a, OP_TEST, 8, RAX, rm_reg(RAX));
	u8 *leave = as_jcc(a, CC_E, a->p);
	as_load(a, 8, RSP, rm_abs(&h->rsp));
	as_load(a, 8, S0, rm_abs(&h->s0));
	if (vec)
		move_vec(a, j, true);
	load_guest(a, c, h);
	as_ins(a, 0, 4, 0xff, DIGIT | 4, rm_reg(S1), 0);
	as_aim(leave, a->p);
	as_load(a, 8, RSP, rm_abs(&h->rsp_top));
	as_alu_imm(a, 0, OP_ADD, 8, rm_reg(RSP), 16);
	for (unsigned n = sizeof callee_saved; n-- > 0;)
		as_pop(a, callee_saved[n]);
	as8(a, 0xc3);
}

/* Leaves at a site that belongs to no block. */
static void leave_as(struct as *a, struct jit *j, enum site_kind kind)
{
	as_call(a, j->out);
	struct site *s = (struct site *)align_up((uintptr_t)a->p + 4, _Alignof(struct site));
	as32(a, (u32)((u8 *)s - a->p));
	a->p = (u8 *)s;
	memset(s, 0, sizeof *s);
	s->kind = (u8)kind;
	a->p += sizeof *s;
}

/* ret_empty is what lies at the bottom of the host's stack. What is on the stack is of no more use: start anew, and look the address up. */
static u8 *make_ret_miss(struct as *a, struct jit *j)
{
	u8 *ret_empty = a->p;
	j->ret_miss = a->p;
	as_store(a, 8, rm_abs(&j->hot->ret), S1);
	as_load(a, 8, RSP, rm_abs(&j->hot->rsp_base));
	as_alu_load(a, OP_TEST, 8, LEFT, rm_reg(LEFT));
	u8 *late = as_jcc(a, CC_LE, a->p), *miss = flow_lookup_both(a, j);
	flow_jump_found(a);
	as_aim(late, a->p);
	as_aim(miss, a->p);
	leave_as(a, j, SITE_RET);
	return ret_empty;
}

/* What C may change of the guest's. */
static const u8 caller_saved[] = { GPR_RAX, GPR_RCX, GPR_RDX, GPR_RSP, GPR_RSI, GPR_RDI };
static void move_caller_saved(struct as *a, struct cpu *c, bool load)
{
	for (unsigned n = 0; n < sizeof caller_saved; n++) {
		unsigned g = caller_saved[n];
		if (load)
			as_load(a, 8, jit_home[g], rm_abs(&c->arch.gpr[g]));
		else
			as_store(a, 8, rm_abs(&c->arch.gpr[g]), jit_home[g]);
	}
}

/* Not when somebody waits. Else C, with S0 and S1, which says where to go on; or back. */
static void make_way(struct as *a, struct cpu *c, struct hot *h, unsigned way)
{
	as_alu_load(a, OP_TEST, 8, LEFT, rm_reg(LEFT));
	u8 *late = as_jcc(a, CC_LE, a->p);
	as_alu_imm(a, 0, OP_CMP, 4, rm_abs(&c->pending), 0);
	u8 *wanted = as_jcc(a, CC_NE, a->p);
	as_pop(a, HOST);
	as_store(a, 8, rm_abs(&h->tmp), HOST);
	as_store(a, 8, rm_abs(&h->rsp), RSP);
	as_ins(a, 0, 4, 0xff, DIGIT | 6, rm_abs(&h->ret_empty), 0); /* push, as in make_out() */
	as_alu_imm(a, 0, OP_AND, 8, rm_reg(RSP), (u64)-16);
	move_caller_saved(a, c, false);
	as_mov_imm(a, RDI, (u64)(uintptr_t)c);
	as_mov(a, 8, RSI, S0);
	as_mov(a, 8, RDX, S1);
	as_ins(a, 0, 4, 0xff, DIGIT | 2, rm_abs(&h->way[way]), 0);
	as_mov(a, 8, S1, RAX);
	as_load(a, 8, RSP, rm_abs(&h->rsp));
	as_load(a, 8, S0, rm_abs(&h->s0));
	move_caller_saved(a, c, true);
	as_alu_load(a, OP_TEST, 8, S1, rm_reg(S1));
	u8 *no = as_jcc(a, CC_E, a->p);
	if (way == WAY_STRING)
		as_alu_load(a, OP_SUB, 8, LEFT, rm_abs(&h->ticks));
	as_ins(a, 0, 4, 0xff, DIGIT | 4, rm_reg(S1), 0);
	as_aim(no, a->p);
	as_ins(a, 0, 4, 0xff, DIGIT | 4, rm_abs(&h->tmp), 0);
	as_aim(late, a->p);
	as_aim(wanted, a->p);
	as8(a, 0xc3);
}

static u8 *make_zero_uppers(struct as *a, struct cpu *c)
{
	static const u8 vpxor[] = { 0xc5, 0xf9, 0xef, 0xc0 }; /* xmm0 */
	u8 *thunk = a->p;
	memcpy(a->p, vpxor, sizeof vpxor);
	a->p += sizeof vpxor;
	for (unsigned r = 0; r < 16; r++) {
		as8(a, 0xc5); /* vmovaps */
		as8(a, 0xf8);
		as8(a, 0x29);
		as_modrm(a, 0, rm_abs(c->arch.ymm + 32 * r + 16), 0);
	}
	as8(a, 0xc3);
	return thunk;
}

void jit_make_thunks(struct cpu *c)
{
	struct jit *j = jit_of(c);
	struct as a = { j->first, j->arena_end };
	j->hot->on_site = (void *)jit_on_site;
	j->out = a.p;
	make_out(&a, c, j->hot, false);
	j->out_vec = a.p = (u8 *)align_up((uintptr_t)a.p, 64);
	make_out(&a, c, j->hot, true);
	j->gone = a.p = (u8 *)align_up((uintptr_t)a.p, 64);
	leave_as(&a, j, SITE_GONE); /* where far entries of dead blocks lead */
	j->go_on = a.p = (u8 *)align_up((uintptr_t)a.p, 64);
	leave_as(&a, j, SITE_GO_ON);
	a.p = (u8 *)align_up((uintptr_t)a.p, 64);
	flags_make_thunk(&a, j, c);
	a.p = (u8 *)align_up((uintptr_t)a.p, 64);
	jit_set_ways(j->hot);
	for (unsigned way = 0; way < WAYS; way++) {
		j->way[way] = a.p;
		make_way(&a, c, j->hot, way);
		a.p = (u8 *)align_up((uintptr_t)a.p, 64);
	}
	for (unsigned n = 0; n < 8; n++) {
		j->search[n >> 2][n >> 1 & 1][n & 1] = memory_search_thunk(&a, j, n >> 2, n >> 1 & 1, n & 1 ? HOST : S0);
		a.p = (u8 *)align_up((uintptr_t)a.p, 64);
	}
	for (unsigned call = 0; call < 2; call++) {
		j->far[call] = flow_far_thunk(&a, j, call);
		a.p = (u8 *)align_up((uintptr_t)a.p, 64);
	}
	j->aside = flow_aside_thunk(&a);
	a.p = (u8 *)align_up((uintptr_t)a.p, 64);
	j->zero_uppers = make_zero_uppers(&a, c);
	a.p = (u8 *)align_up((uintptr_t)a.p, 64);
	u8 *ret_empty = j->hot->ret_empty = make_ret_miss(&a, j);
	j->enter = a.p = (u8 *)align_up((uintptr_t)a.p, 64);
	make_enter(&a, c, j->hot, ret_empty);
	j->first = (u8 *)align_up((uintptr_t)a.p, 64);
}
