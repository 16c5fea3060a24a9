/* Random blocks on both engines: some instructions with branches among them, run a few times over, with flags that live across blocks, memory
 * operands that mostly hit and now and then fault, and everything compared afterwards. Exit status: 0 no difference, 1 differences, 2 usage. */
#include "oracle.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "cpu/cpu.h"
#include "cpu/engine.h"

#define MAX_INSNS 40
#define COUNTER (O_DATA + 8)

static struct { u64 seed, one, count; unsigned seconds, max_failures; bool have_one; } opt = { .seed = 1, .count = 20000, .max_failures = 3 };

/* ---- generator: registers that hold addresses are rarely written ---- */
struct block {
	u8 code[MAX_INSNS * 16 + 800];
	unsigned len, starts[MAX_INSNS + 8], n, rounds;
};
static struct block b;

/* 64-bit, and 32- and 16-bit code, which has eight registers. */
static enum omode mode;
static const u8 data_wide[] = { 0, 1, 2, 8, 10, 11, 13, 15 }, base_wide[] = { 3, 5, 6, 7, 9, 12, 14, 4 };
static const u8 data_narrow[] = { 0, 1, 2, 0, 1, 2, 0, 1 }, base_narrow[] = { 3, 5, 6, 7, 3, 5, 6, 4 };
static const u8 *data_regs, *base_regs;

static void put8(unsigned v) { b.code[b.len++] = (u8)v; }
static void put32(u32 v) { memcpy(b.code + b.len, &v, 4); b.len += 4; }
/* Few faults, so that loops become hot. */
static bool tame;
static unsigned a_reg(void) { return tame || rnd_chance(96) ? data_regs[rnd_below(8)] : rnd_below(mode == O_64 ? 16 : 8); }
static unsigned any_reg(void) { return rnd_chance(70) ? data_regs[rnd_below(8)] : base_regs[rnd_below(8)]; }

/* What this mode needs for a 32-bit operand, or a 16-bit one. */
static void size_prefix(unsigned size)
{
	if ((size == 2 && mode != O_16) || (size == 4 && mode == O_16))
		put8(0x66);
}
/* PUSH and POP have one size in 64-bit mode. */
static void odd_size(void)
{
	if (mode != O_64 && rnd_chance(mode == O_16 ? 50 : 10))
		put8(0x66);
}

/* Prefixes, opcode and ModRM. size 1, 2, 4, 8; op already of that size; up to 3 opcode bytes. mem: r/m is memory. */
static void ins(unsigned prefix, unsigned size, u32 op, unsigned reg, bool mem, unsigned rm)
{
	unsigned base = base_regs[rnd_below(8)], index = data_regs[rnd_below(8)], form = rnd_below(10);
	if (mode != O_64 && size == 8)
		size = 4;
	if (mode != O_64)
		reg &= 7, rm &= 7;
	if (tame && form == 0)
		form = rnd_below(16);
	bool sib = mem && (form == 0 || (base & 7) == 4), rip = mem && form == 1 && rnd_chance(20);
	unsigned rex = (size == 8 ? 8 : 0) | (reg & 8 ? 4 : 0) | ((mem ? !rip && (base & 8) : (rm & 8)) ? 1 : 0) | (sib && form == 0 && (index & 8) ? 2 : 0);

	size_prefix(size);
	if (mem && rnd_chance(3))
		put8(0x65);
	if (mem && (mode == O_16 || rnd_chance(mode == O_64 ? 2 : 1)))
		put8(0x67);
	if (prefix)
		put8(prefix);
	if (mode == O_64 && (rex || (size == 1 && rnd_chance(60))))
		put8(0x40 | rex);
	if (op > 0xffff)
		put8(op >> 16);
	if (op > 0xff)
		put8(op >> 8);
	put8(op);
	if (!mem) {
		put8(0xc0 | (reg & 7) << 3 | (rm & 7));
	} else if (rip) {
		put8(5 | (reg & 7) << 3);
		put32((u32)(O_DATA + 0x800 + rnd_below(64) - (mode == O_64 ? O_CODE : mode == O_32 ? 0 : O_DATA)));
	} else {
		put8(0x40 | (reg & 7) << 3 | (sib ? 4 : base & 7));
		if (sib)
			put8((form == 0 ? (index & 7) << 3 | (rnd_below(4) << 6) : 0x20) | (base & 7));
		put8(rnd_below(128) - 64);
	}
}

static void imm(unsigned size, unsigned max)
{
	u64 v = rnd_edge();
	for (unsigned k = 0; k < (size < max ? size : max); k++)
		put8(v >> (8 * k));
}

static unsigned a_size(void) { static const u8 s[] = { 1, 2, 4, 4, 4, 8, 8, 8 }; return s[rnd_below(8)]; }

static void g_alu(void)
{
	unsigned op = rnd_below(8), size = a_size(), w = size > 1;
	switch (rnd_below(5)) {
	case 0: ins(0, size, op << 3 | w, any_reg(), true, 0); break;
	case 1: ins(0, size, op << 3 | 2 | w, op == 7 ? any_reg() : a_reg(), true, 0); break;
	case 2: ins(0, size, op << 3 | 2 | w, op == 7 ? any_reg() : a_reg(), false, any_reg()); break;
	case 3: ins(0, size, 0x80 | w, op, rnd_chance(40), a_reg()); imm(size, 4); break;
	default: if (size == 1) size = 4; ins(0, size, 0x83, op, rnd_chance(40), a_reg()); put8(rnd()); break;
	}
}
static void g_test(void)
{
	unsigned size = a_size();
	if (rnd_chance(50)) {
		ins(0, size, 0x84 | (size > 1), any_reg(), rnd_chance(40), any_reg());
	} else {
		ins(0, size, 0xf6 | (size > 1), 0, rnd_chance(40), any_reg());
		imm(size, 4);
	}
}
static void g_mov(void)
{
	unsigned size = a_size(), w = size > 1;
	switch (rnd_below(6)) {
	case 0: ins(0, size, 0x88 | w, any_reg(), true, 0); break;
	case 1: ins(0, size, 0x8a | w, a_reg(), true, 0); break;
	case 2: ins(0, size, 0x8a | w, a_reg(), false, any_reg()); break;
	case 3: ins(0, size, 0xc6 | w, 0, rnd_chance(50), a_reg()); imm(size, 4); break;
	case 4: if (size == 1) size = 8; ins(0, size, 0x8d, a_reg(), true, 0); break;
	default: if (size == 1) size = 4; ins(0, size, 0x0fb6 | rnd_below(2) | rnd_below(2) << 3, a_reg(), rnd_chance(50), any_reg()); break;
	}
}
static void g_unary(void)
{
	unsigned size = a_size(), w = size > 1, k = rnd_below(4);
	bool mem = rnd_chance(35);
	if (k < 2)
		ins(mem && rnd_chance(30) ? 0xf0 : 0, size, 0xfe | w, k, mem, a_reg());
	else
		ins(mem && rnd_chance(30) ? 0xf0 : 0, size, 0xf6 | w, k, mem, a_reg());
}
static void g_shift(void)
{
	static const u8 ops[] = { 0, 1, 2, 3, 4, 5, 7, 4, 5, 7 };
	unsigned size = a_size(), w = size > 1, op = ops[rnd_below(10)];
	if (rnd_chance(40)) {
		ins(0, size, 0xd2 | w, op, rnd_chance(30), a_reg());
	} else {
		ins(0, size, 0xc0 | w, op, rnd_chance(30), a_reg());
		put8(rnd_chance(90) ? rnd_below(33) : rnd());
	}
}
static void g_muldiv(void)
{
	unsigned size = a_size(), k = rnd_below(6);
	if (k < 2) {
		ins(0, size, 0xf6 | (size > 1), 4 + k, rnd_chance(30), any_reg());
	} else if (k == 2) {
		if (rnd_chance(50)) { /* likely no #DE */
			ins(0, 4, 0x33, 2, false, 2);
			b.starts[b.n++] = b.len;
		}
		ins(0, size < 4 ? 4 : size, 0xf7, 6 + rnd_below(2), rnd_chance(30), any_reg());
	} else if (k == 3) {
		ins(0, size == 1 ? 4 : size, 0x0faf, a_reg(), rnd_chance(40), any_reg());
	} else if (k == 4) {
		ins(0, size == 1 ? 4 : size, 0x69, a_reg(), rnd_chance(40), any_reg());
		imm(size == 1 ? 4 : size, 4);
	} else {
		if (rnd_chance(50))
			put8(mode == O_64 ? 0x48 : 0x66);
		put8(0x98 + rnd_below(2));
	}
}
static void g_bits(void)
{
	unsigned size = a_size(), k = rnd_below(6);
	if (size == 1)
		size = 8;
	switch (k) {
	case 0: ins(0, size, 0x0fa3 | rnd_below(4) << 3, any_reg(), false, a_reg()); break;
	case 1: ins(0, size, 0x0fba, 4 + rnd_below(4), rnd_chance(40), a_reg()); put8(rnd()); break;
	case 2: ins(rnd_chance(50) ? 0xf3 : 0, size, 0x0fbc | rnd_below(2), a_reg(), rnd_chance(40), any_reg()); break;
	case 3: ins(0xf3, size, 0x0fb8, a_reg(), rnd_chance(40), any_reg()); break;
	case 4: ins(0, size, 0x0fa4 | rnd_below(2) << 3, any_reg(), rnd_chance(20), a_reg()); put8(rnd_below(40)); break;
	default: ins(0, size, 0x0fa5 | rnd_below(2) << 3, any_reg(), false, a_reg()); break;
	}
}
static void g_cond(void)
{
	unsigned size = a_size(), cond = rnd_below(16);
	if (rnd_chance(50))
		ins(0, 1, 0x0f90 | cond, 0, rnd_chance(30), a_reg());
	else
		ins(0, size == 1 ? 4 : size, 0x0f40 | cond, a_reg(), rnd_chance(40), any_reg());
}
static void push_pop(unsigned op, unsigned r)
{
	if (r & 8)
		put8(0x41);
	put8(op | (r & 7));
}
/* As functions begin and end. */
static void g_frame(void)
{
	unsigned n = 1 + rnd_below(6);
	for (unsigned k = 0; k < n; k++)
		push_pop(0x50, any_reg());
	for (unsigned k = 0; k < n; k++)
		push_pop(0x58, data_regs[rnd_below(8)]);
}
static void g_stack(void)
{
	unsigned r = any_reg(), w = a_reg();
	switch (rnd_below(7)) {
	case 6: ins(0, 4, 0x8f, 0, true, 0); break;
	case 5: g_frame(); break;
	case 0: odd_size(); if (r & 8) put8(0x41); put8(0x50 | (r & 7)); break;
	case 1: odd_size(); if (w & 8) put8(0x41); put8(0x58 | (w & 7)); break;
	case 2: put8(0x6a); put8(rnd()); break;
	case 3: ins(0, 4, 0xff, 6, true, 0); break;
	default: put8(0x9c); break; /* pushfq */
	}
}
static void g_exchange(void)
{
	unsigned size = a_size(), w = size > 1, k = rnd_below(4);
	bool mem = rnd_chance(60);
	if (k == 0)
		ins(0, size, 0x86 | w, a_reg(), mem, a_reg());
	else if (k == 1)
		ins(mem && rnd_chance(50) ? 0xf0 : 0, size, 0x0fc0 | w, a_reg(), mem, a_reg());
	else if (k == 2)
		ins(mem && rnd_chance(50) ? 0xf0 : 0, size, 0x0fb0 | w, any_reg(), mem, a_reg());
	else {
		unsigned r = a_reg();
		if (mode == O_64)
			put8(size == 8 ? 0x48 | (r >> 3) : 0x40 | (r >> 3));
		else
			size_prefix(4);
		put8(0x0f);
		put8(0xc8 | (r & 7));
	}
}
static void g_odd(void)
{
	static const u8 one[] = { 0x9e, 0x9f, 0xf5, 0xf8, 0xf9, 0x90, 0xfc, 0xfd };
	if (rnd_chance(70)) {
		put8(one[rnd_below(8)]);
	} else { /* lods, stos, movs, scas of few elements */
		static const u8 str[] = { 0xa4, 0xa5, 0xaa, 0xab, 0xac, 0xae };
		put8(str[rnd_below(6)]);
	}
}
static void g_sse(void)
{
	static const u16 ops[] = { 0x28, 0x10, 0x58, 0x59, 0x5c, 0x54, 0x57, 0x14, 0xc6, 0x2e, 0x51, 0x5b };
	static const u16 ints[] = { 0x6f, 0xfe, 0xef, 0xeb, 0xd4, 0x60, 0x62, 0x70, 0x74, 0x76, 0xfa, 0xdb };
	unsigned n = mode == O_64 ? 16 : 8, x = rnd_below(n), y = rnd_below(n), k = rnd_below(12);
	bool mem = rnd_chance(40);
	switch (rnd_below(8)) {
	case 0: ins(0, 4, 0x0f00 | ops[k], x, mem, y); if (ops[k] == 0xc6) put8(rnd()); break;
	case 1: put8(0x66); ins(0, 4, 0x0f00 | ints[k], x, mem, y); if (ints[k] == 0x70) put8(rnd()); break;
	case 2: ins(0xf3, 4, 0x0f00 | (rnd_chance(50) ? 0x10 : 0x58), x, mem, y); break;
	case 3: ins(0xf2, 4, 0x0f00 | (rnd_chance(50) ? 0x10 : 0x59), x, mem, y); break;
	case 4: put8(0x66); ins(0, rnd_chance(50) ? 8 : 4, 0x0f6e, x, mem, any_reg()); break;
	case 5: put8(0x66); ins(0, rnd_chance(50) ? 8 : 4, 0x0f7e, x, mem, a_reg()); break;
	case 6: ins(rnd_chance(50) ? 0xf3 : 0, 4, 0x0f11 | (rnd_chance(30) ? 0x6e : 0), x, true, y); break;
	default: ins(0xf2, rnd_chance(50) ? 8 : 4, rnd_chance(50) ? 0x0f2a : 0x0f2d, rnd_below(8), mem, rnd_below(3)); break;
	}
}
/* The code changes the immediate of the instruction behind, now and in all rounds: add byte [there], n. 16-bit segments do not reach the code. */
static u64 code_at;
static void g_self(void)
{
	if (mode == O_16 || !rnd_chance(20)) {
		g_alu();
		return;
	}
	put8(0x80);
	put8(0x04);
	put8(0x25);
	put32((u32)(code_at + b.len + 5 + 2));
	put8(rnd());
	b.starts[b.n++] = b.len;
	put8(0x83); /* add, or, ... r32, imm8 */
	put8(0xc0 | rnd_below(8) << 3 | data_regs[rnd_below(3)]);
	put8(rnd());
}
static void g_avx(void)
{
	static const u8 ops[] = { 0xfe, 0xef, 0xeb, 0xd4, 0xfa, 0xdb, 0x60, 0x74 };
	unsigned n = mode == O_64 ? 16 : 8, x = rnd_below(n), y = rnd_below(8), v = rnd_below(n), l = rnd_below(2);
	put8(0xc5);
	put8((x & 8 ? 0 : 0x80) | (~v & 15) << 3 | l << 2 | 1);
	put8(ops[rnd_below(8)]);
	if (rnd_chance(60)) {
		put8(0xc0 | (x & 7) << 3 | y);
	} else if (mode == O_16) {
		put8(0x46 | (x & 7) << 3); /* [bp + disp8] */
		put8(rnd_below(128) - 64);
	} else {
		put8(0x40 | (x & 7) << 3 | 6); /* [rsi + disp8] */
		put8(rnd_below(128) - 64);
	}
}

/* Bases that move by constants, as in loops over arrays. */
static void g_stride(void)
{
	unsigned r = base_regs[rnd_below(7)];
	if (mode == O_64)
		put8(0x48 | r >> 3);
	bool far = rnd_chance(25) && mode != O_16;
	put8(far ? 0x81 : 0x83);
	put8((rnd_chance(65) ? 0xc0 : 0xe8) | (r & 7)); /* add, sub */
	if (far)
		put32(64 + rnd_below(200));
	else
		put8(1u << rnd_below(7));
}
static void g_unaligned(void)
{
	static const u8 ops[] = { 0x10, 0x11, 0x6f, 0x7f };
	unsigned k = rnd_below(4);
	ins(k < 2 ? 0 : 0xf3, 4, 0x0f00 | ops[k], rnd_below(mode == O_64 ? 16 : 8), true, 0);
}
static void (*const tame_makers[])(void) = { g_alu, g_alu, g_alu, g_alu, g_test, g_mov, g_mov, g_mov, g_unary, g_shift, g_cond, g_exchange, g_stride, g_stride, g_unaligned, g_avx,
	g_frame, g_self };
/* Short loops over both pages. */
static void (*const walkers[])(void) = { g_alu, g_mov, g_mov, g_stride, g_stride, g_unaligned };
static void (*const makers[])(void) = { g_alu, g_alu, g_alu, g_alu, g_test, g_mov, g_mov, g_mov, g_unary, g_unary, g_shift, g_muldiv, g_bits, g_cond, g_cond,
	g_stack, g_exchange, g_odd, g_sse, g_sse, g_avx, g_self };

/* Short forward branches, aimed when all starts are known. */
struct fix { unsigned at, insn; };

/* Functions that the block calls: some registers kept on the stack, some work, a way out in the middle, perhaps a call of the one before. */
#define FUNCTIONS 3
static void make_functions(const struct fix *calls, unsigned ncalls)
{
	unsigned start[FUNCTIONS];
	for (unsigned f = 0; f < FUNCTIONS; f++) {
		unsigned n = rnd_below(5), at;
		start[f] = b.len;
		for (unsigned k = 0; k < n; k++)
			push_pop(0x50, any_reg());
		g_alu();
		put8(0x70 | rnd_below(16));
		at = b.len;
		put8(0);
		if (f && rnd_chance(40)) {
			put8(0xe8);
			put32(start[f - 1] - (b.len + 4));
		}
		g_mov();
		g_alu();
		b.code[at] = (u8)(b.len - at - 1);
		for (unsigned k = n; k-- > 0;)
			push_pop(0x58, data_regs[rnd_below(8)]);
		put8(0xc3);
	}
	for (unsigned k = 0; k < ncalls; k++)
		store_le(b.code + calls[k].at, start[calls[k].insn] - (calls[k].at + 4), 4);
}

static void make_block(void)
{
	struct fix fixes[MAX_INSNS], calls[MAX_INSNS], tables[2 * MAX_INSNS];
	unsigned nfixes = 0, ncalls = 0, ntables = 0, want = 2 + rnd_below(MAX_INSNS - 6);
	b.len = b.n = 0;
	bool walk = rnd_chance(10);
	tame = walk || rnd_chance(50);
	if (walk)
		want = 3 + rnd_below(6);
	unsigned jump_chance = mode == O_64 && !walk && rnd_chance(25) ? 10 : 0;
	unsigned call_chance = mode != O_16 && !walk && rnd_chance(40) ? 10 : 0;
	while (b.n < want) {
		b.starts[b.n++] = b.len;
		if (walk) {
			walkers[rnd_below(array_len(walkers))]();
		} else if (rnd_chance(12)) {
			put8(rnd_chance(85) ? 0x70 | rnd_below(16) : 0xeb);
			fixes[nfixes++] = (struct fix){ b.len, b.n + rnd_below(4) };
			put8(0);
		} else if (rnd_chance(jump_chance)) { /* lea rax, A; lea rdx, B; cmovCC rax, rdx; jmp rax */
			for (unsigned n = 0; n < 2; n++) {
				put8(0x48);
				put8(0x8d);
				put8(n ? 0x15 : 0x05);
				tables[ntables++] = (struct fix){ b.len, b.n + rnd_below(4) };
				put32(0);
			}
			put32(0xc2400f48 | rnd_below(16) << 16);
			put8(0xff);
			put8(0xe0);
		} else if (rnd_chance(call_chance)) {
			put8(0xe8);
			calls[ncalls++] = (struct fix){ b.len, rnd_below(FUNCTIONS) };
			put32(0);
		} else {
			(tame ? tame_makers[rnd_below(array_len(tame_makers))] : makers[rnd_below(array_len(makers))])();
		}
	}
	b.starts[b.n] = b.len;
	for (unsigned f = 0; f < nfixes; f++) {
		unsigned to = fixes[f].insn < b.n ? b.starts[fixes[f].insn] : b.len;
		b.code[fixes[f].at] = (u8)(to - fixes[f].at - 1);
	}
	for (unsigned f = 0; f < ntables; f++)
		store_le(b.code + tables[f].at, (tables[f].insn < b.n ? b.starts[tables[f].insn] : b.len) - (tables[f].at + 4), 4);
	b.rounds = 0;
	if (ncalls || walk || rnd_chance(80)) { /* dec dword [COUNTER]; jnz start; hlt: the counter is where random stores do not go */
		size_prefix(4);
		if (mode == O_16)
			put8(0x67);
		put8(0xff);
		put8(0x0c);
		put8(0x25);
		put32(mode == O_16 ? COUNTER - O_DATA : COUNTER);
		size_prefix(4);
		put8(0x0f);
		put8(0x85);
		put32((u32)-(i32)(b.len + 4));
		put8(0xf4);
		b.rounds = 2 + (u32)rnd_below(walk ? 400 : rnd_chance(50) ? 4 : 40);
		make_functions(calls, ncalls);
	}
}

static void make_case(struct ocase *k, u64 seed)
{
	static const enum omode modes[] = { O_64, O_64, O_32, O_32, O_16 };
	rnd_seed(seed);
	mode = modes[rnd_below(array_len(modes))];
	data_regs = mode == O_64 ? data_wide : data_narrow;
	base_regs = mode == O_64 ? base_wide : base_narrow;
	code_at = O_CODE + rnd_below(256);
	make_block();
	memset(k, 0, sizeof *k);
	k->seed = seed;
	k->mode = mode;
	k->ds = k->es = k->ss = O_SEG_DATA;
	k->at = code_at;
	k->block = b.code;
	k->len = b.len;
	u64 from = mode == O_16 ? 0 : O_DATA;
	for (unsigned r = 0; r < (mode == O_64 ? 16 : 8); r++)
		k->in.gpr[r] = rnd_chance(50) ? rnd_below(64) : rnd_edge();
	for (unsigned r = 0; r < 8; r++)
		k->in.gpr[base_regs[r]] = from + 0x80 + (rnd_below(O_DATA_SIZE - 0x100) & ~(rnd_chance(60) ? 15ull : 0)) + (rnd_chance(2) ? O_DATA_SIZE : 0);
	for (unsigned r = 0; r < 8 && jit_splits == 0; r++) /* across the pages' border: groups split */
		if (rnd_chance(40))
			k->in.gpr[base_regs[r]] = from + PAGE_SIZE - 0x30 + rnd_below(0x60);
	for (unsigned r = 0; r < 8 && mode != O_64; r++)
		k->in.gpr[r] = (u32)k->in.gpr[r];
	k->in.rflags = (rnd() & FLAG_ARITH) | 0x202;
	for (unsigned n = 0; n < O_DATA_SIZE; n += 8)
		store_le(k->mem + n, rnd_chance(70) ? rnd() : rnd_below(256), 8);
	if (b.rounds)
		store_le(k->mem + (COUNTER - O_DATA), b.rounds, 4);
	rnd_vector(k->in.fp.fx + 160, 256);
	rnd_vector(k->in.fp.ymmh, 256);
	store_le(k->in.fp.fx, 0x37f, 2);
	store_le(k->in.fp.fx + 24, rnd_chance(90) ? 0x1f80 : 0x1f80 & rnd(), 4);
}

/* ---- running ---- */
static struct ostate out[2];
static u8 memory[2][O_DATA_SIZE];

static void show(const struct ocase *k)
{
	for (unsigned n = 0; n < b.n; n++) {
		ZydisDecodedInstruction zi;
		ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
		ZydisFormatter f;
		char text[128] = "?";
		ZydisFormatterInit(&f, ZYDIS_FORMATTER_STYLE_INTEL);
		if (gen_decode(k->mode, b.code + b.starts[n], &zi, op))
			ZydisFormatterFormatInstruction(&f, &zi, op, zi.operand_count_visible, text, sizeof text, k->at + b.starts[n], NULL);
		printf("  %6llx  %s\n", (unsigned long long)(k->at + b.starts[n]), text);
	}
}

static u64 insns[2]; /* virtual time goes by them */

static bool same(const struct ocase *k)
{
	bool ok = memcmp(&out[0], &out[1], sizeof out[0]) == 0 && memcmp(memory[0], memory[1], O_DATA_SIZE) == 0 && insns[0] == insns[1];
	if (ok)
		return true;
	printf("seed %#llx: the engines differ (interp, jit), %s-bit code\n", (unsigned long long)k->seed, k->mode == O_64 ? "64" : k->mode == O_32 ? "32" : "16");
	show(k);
	printf("  instructions counted: %llu %llu\n", (unsigned long long)insns[0], (unsigned long long)insns[1]);
	for (unsigned r = 0; r < 16; r++)
		printf("  r%-2u %016llx %016llx %016llx%s\n", r, (unsigned long long)k->in.gpr[r], (unsigned long long)out[0].gpr[r], (unsigned long long)out[1].gpr[r],
		       out[0].gpr[r] == out[1].gpr[r] ? "" : " <--");
	printf("  rip %llx %llx  rflags %llx %llx  vector %u %u  cr2 %llx %llx  mxcsr %x %x\n", (unsigned long long)out[0].rip, (unsigned long long)out[1].rip,
	       (unsigned long long)out[0].rflags, (unsigned long long)out[1].rflags, out[0].vector, out[1].vector, (unsigned long long)out[0].cr2,
	       (unsigned long long)out[1].cr2, (u32)load_le(out[0].fp.fx + 24, 4), (u32)load_le(out[1].fp.fx + 24, 4));
	for (unsigned r = 0; r < 16; r++)
		if (memcmp(out[0].fp.fx + 160 + 16 * r, out[1].fp.fx + 160 + 16 * r, 16) || memcmp(out[0].fp.ymmh + 16 * r, out[1].fp.ymmh + 16 * r, 16))
			printf("  ymm%-2u %016llx%016llx  %016llx%016llx\n", r, (unsigned long long)load_le(out[0].fp.fx + 168 + 16 * r, 8), (unsigned long long)load_le(out[0].fp.fx + 160 + 16 * r, 8),
			       (unsigned long long)load_le(out[1].fp.fx + 168 + 16 * r, 8), (unsigned long long)load_le(out[1].fp.fx + 160 + 16 * r, 8));
	for (unsigned r = 0; r < 16; r++)
		if (memcmp(out[0].fp.ymmh + 16 * r, out[1].fp.ymmh + 16 * r, 16))
			printf("  ymm%u: upper halves differ\n", r);
	for (unsigned n = 0; n < O_DATA_SIZE; n++)
		if (memory[0][n] != memory[1][n]) {
			printf("  memory differs from %#llx on: %02x %02x\n", (unsigned long long)O_DATA + n, memory[0][n], memory[1][n]);
			break;
		}
	return false;
}

static unsigned long endless;
static bool run_one(u64 seed, unsigned long *faults)
{
	static struct ocase k;
	make_case(&k, seed);
	for (unsigned n = 0; n < 2; n++) {
		guest_select(n);
		bool ended = guest_run(&k, &out[n], memory[n]);
		insns[n] = guest_insns;
		if (ended)
			continue;
		if (n && guest_endless) {
			printf("seed %#llx: on the translator it does not end\n", (unsigned long long)seed);
			show(&k);
			return false;
		}
		endless += guest_endless;
		for (unsigned m = 0; m < 2; m++) { /* one has not run it, or less of it: the next cases must not see that */
			guest_select(m);
			guest_forget_code();
		}
		return true; /* fell out of the block: both do */
	}
	*faults += out[0].vector != VECTOR_NONE;
	return same(&k);
}

/* The translator's choices for case n: loops become regions in their second round, or not at all; blocks with groups have a twin, or not. */
static void tune(u64 n)
{
	jit_hot = (unsigned)(n % 3);
	jit_wary = 0; /* all blocks are at the same place */
	jit_slice = n % 4 == 0 ? 65536 : n % 4 == 1 ? 128 + n % 512 : 1; /* in the middle: regions that go on for some rounds */
	jit_samples = 1;
	jit_splits = n % 5 < 2 ? 0 : 32;
}

static void parse(int argc, char **argv)
{
	static const struct option longs[] = { { "seed", 1, 0, 's' }, { "seconds", 1, 0, 't' }, { "count", 1, 0, 'n' }, { "case", 1, 0, 'c' },
		{ "max-failures", 1, 0, 'f' }, { "help", 0, 0, 'h' }, { 0 } };
	int o;
	while ((o = getopt_long(argc, argv, "h", longs, NULL)) != -1) {
		switch (o) {
		case 's': opt.seed = strtoull(optarg, NULL, 0); break;
		case 't': opt.seconds = (unsigned)atoi(optarg); opt.count = ~(u64)0; break;
		case 'n': opt.count = strtoull(optarg, NULL, 0); break;
		case 'f': opt.max_failures = (unsigned)atoi(optarg); break;
		case 'c': opt.one = strtoull(optarg, NULL, 0); opt.have_one = true; break;
		default:
			printf("usage: blocks [--seed N] [--count N | --seconds N] [--case SEED] [--max-failures N]\n"
			       "Runs random blocks on the interpreter and on the translator and compares everything.\n");
			exit(o == 'h' ? 0 : 2);
		}
	}
}

int main(int argc, char **argv)
{
	unsigned long done = 0, faults = 0, failures = 0;
	struct timespec begin, now;

	setvbuf(stdout, NULL, _IOLBF, 0);
	parse(argc, argv);
	printf("blocks: --seed %llu\n", (unsigned long long)opt.seed); /* a run that is killed has said what it ran */
	for (unsigned n = 0; n < 2; n++) {
		guest_select(n);
		guest_engine(n ? "jit" : "interp");
		if (guest_init() < 0)
			return 2;
	}
	if (opt.have_one) {
		tune(opt.one & (BIT(40) - 1));
		return run_one(opt.one, &faults) ? 0 : 1;
	}
	clock_gettime(CLOCK_MONOTONIC, &begin);
	for (u64 n = 0; n < opt.count && failures < opt.max_failures; n++, done++) {
		tune(n);
		if (!run_one(opt.seed << 40 | n, &faults))
			failures++;
		clock_gettime(CLOCK_MONOTONIC, &now);
		if (opt.seconds && now.tv_sec - begin.tv_sec > (time_t)opt.seconds)
			break;
	}
	printf("%lu blocks, %lu exceptions, %lu without end, %lu differences (--seed %llu)\n", done, faults, endless, failures, (unsigned long long)opt.seed);
	return failures ? 1 : 0;
}
