/* REP STOS and REP MOVS in code that is hot, which do not call their handlers when all lies in one page: memory, registers, flags and the count of instructions, for every element
 * size, on both sides of the cases that have the short way: counts from 0 to a page and more, pages that end in between, overlaps, an alias, downwards. */
#include "interp_rig.h"
#include "jit/jit.h"

#include <stdlib.h>

#define AT_LOOP 0x22000u
#define AT_DATA 0x50000u
#define BYTES 0x4000u
#define ALIAS 0x40000000u /* 1 GiB: the same memory */
#define ROUNDS 40u        /* enough to be translated */
#define PATTERN 0x8877665544332211ull

static struct core r;
static u8 image[BYTES];

static int open_it(void **state)
{
	interp_open(&r, CORE_LONG);
	core_set(&r, AT_TABLES + 0x1008, 8, 0x87);
	mmu_flush_all(r.cpu);
	return 0;
}
static int close_it(void **state)
{
	interp_close(&r);
	return 0;
}

static const struct { const char *name, *hex; unsigned size; bool movs; } ops[] = {
	{ "STOSB", "f3aa", 1, false }, { "STOSD", "f3ab", 4, false }, { "STOSQ", "f348ab", 8, false },
	{ "MOVSB", "f3a4", 1, true }, { "MOVSQ", "f348a5", 8, true }, { "REPNE MOVSB", "f2a4", 1, true },
};
static const struct { u32 to, from; } places[] = {
	{ 0x000, 0x2000 }, { 0x101, 0x2007 }, { 0xff0, 0x2000 }, { 0xfff, 0x2001 }, { 0x200, 0x1ffd }, { 0x108, 0x100 }, { 0x101, 0x100 }, { 0x100, 0x101 },
	{ 0x300, 0x300 }, { 0x113, ALIAS + 0x100 }, { ALIAS + 0x10b, 0x103 }, { ALIAS + 0x800, 0x2000 },
};
static const unsigned counts[] = { 0, 1, 2, 4, 5, 7, 64, 100, 512, 513, 1500 };

static u8 *byte(u64 at) { return &image[(at & (ALIAS - 1)) % BYTES]; }

/* What the manual says. */
static void model(unsigned op, u64 to, u64 from, unsigned n, bool down, u64 rax)
{
	unsigned size = ops[op].size;
	for (unsigned k = 0; k < n; k++) {
		u8 bytes[8];
		u64 step = down ? -(u64)k * size : (u64)k * size;
		for (unsigned b = 0; b < size; b++)
			bytes[b] = ops[op].movs ? *byte(from + step + b) : rax >> (8 * b) & 0xff;
		for (unsigned b = 0; b < size; b++)
			*byte(to + step + b) = bytes[b];
	}
}

static void fill(void)
{
	for (unsigned k = 0; k < BYTES; k++)
		image[k] = (u8)(k * 7 + k / 256);
	assert_int_equal(mem_write(&r.mem, gpa(AT_DATA), image, BYTES), 0);
}

/* a: mov rcx, r8; mov rdi, r9; mov rsi, r10; cmp rcx, r11; OP; adc rbx, 0; dec ebp; jz b; jmp r14; b: hlt */
static void one(unsigned op, u64 to, u64 from, unsigned n, bool down, u64 rax)
{
	u64 *g = r.cpu->arch.gpr, moved = (u64)n * ops[op].size, before, expected = ROUNDS * (9 + n / (32 / ops[op].size));
	static u8 memory[BYTES];
	fill();
	for (unsigned k = 0; k < ROUNDS; k++)
		model(op, to, from, n, down, rax);
	g[GPR_RAX] = rax;
	g[GPR_R8] = n;
	g[GPR_R9] = AT_DATA + to;
	g[GPR_R10] = AT_DATA + from;
	g[GPR_R11] = 64;
	g[GPR_R14] = AT_LOOP;
	g[GPR_RBX] = 0;
	g[GPR_RBP] = ROUNDS;
	r.cpu->arch.rflags = (r.cpu->arch.rflags & ~(u64)FLAG_DF) | (down ? FLAG_DF : 0);
	before = r.cpu->icount;
	interp_go(&r, AT_LOOP);
	assert_int_equal(mem_read(&r.mem, gpa(AT_DATA), memory, BYTES), 0);
	if (memcmp(memory, image, BYTES) || r.cpu->icount - before != expected)
		print_error("%s of %u from %#llx to %#llx%s\n", ops[op].name, n, (unsigned long long)from, (unsigned long long)to, down ? " downwards" : "");
	assert_memory_equal(memory, image, BYTES);
	assert_int_equal(r.cpu->icount - before, expected); /* the last JMP is HLT */
	assert_int_equal(g[GPR_RCX], 0);
	assert_int_equal(g[GPR_RDI], AT_DATA + to + (down ? -moved : moved));
	assert_int_equal(g[GPR_RSI], AT_DATA + from + (!ops[op].movs ? 0 : down ? -moved : moved));
	assert_int_equal(g[GPR_RBX], n < 64 ? ROUNDS : 0);
	assert_int_equal(g[GPR_RAX], rax);
}

static void all(void **state)
{
	const char *engine = getenv("NESTBOX_TEST_ENGINE");
	for (unsigned op = 0; op < array_len(ops); op++) {
		unsigned len = interp_put(&r, AT_LOOP, "4c89c1 4c89cf 4c89d6 4c39d9");
		len += interp_put(&r, AT_LOOP + len, ops[op].hex);
		interp_put(&r, AT_LOOP + len, "4883d300 ffcd 7403 41ffe6 f4");
		for (unsigned p = 0; p < array_len(places); p++)
			for (unsigned n = 0; n < array_len(counts); n++)
				if (counts[n] * ops[op].size <= 0x1800)
					one(op, places[p].to, places[p].from, counts[n], false, p & 1 ? PATTERN : 0);
		one(op, 0x800, 0x1800, 100, true, PATTERN);
		one(op, 0x100, 0x2100, 64, false, 0x5555555555555555);
	}
	if (engine && !strcmp(engine, "jit"))
		assert_true(jit_of(r.cpu)->stats.strings > 1000);
}

/* A page with decoded code, one that may only be read, and one that is not there. */
static void no_plain_pages(void **state)
{
	u64 pt = AT_TABLES + 0x3000;
	interp_put(&r, AT_LOOP, "4c89c1 4c89cf 4c89d6 4c39d9 f3a4 4883d300 ffcd 7403 41ffe6 f4");
	fill();
	interp_put(&r, 0x60000, "90 f4");
	interp_go(&r, 0x60000);
	assert_int_not_equal(mem_code_lines(&r.mem, 0x60), 0);
	u64 *g = r.cpu->arch.gpr;
	for (unsigned turn = 0; turn < 3; turn++) {
		core_set(&r, AT_TABLES + 0x2000, 8, turn ? pt | 7 : 0x87);
		core_set(&r, AT_TABLES + 0x1008, 8, (AT_TABLES + 0x2000) | 7);
		core_set(&r, pt + 8 * 0x60, 8, turn == 1 ? 0x60000 | 5 : 0);
		mmu_flush_all(r.cpu);
		if (turn) {
			assert_int_not_equal(cpu_set_cr0(r.cpu, r.cpu->arch.cr0 | BIT(16)), STEP_FAULT);
			interp_catch(&r);
		}
		g[GPR_R8] = 2;
		g[GPR_R9] = ALIAS + 0x60000;
		g[GPR_R10] = AT_DATA;
		g[GPR_R14] = AT_LOOP;
		g[GPR_RBP] = ROUNDS;
		interp_go(&r, AT_LOOP);
		if (turn) {
			assert_int_equal(interp_caught(&r), 14);
			assert_int_equal(r.cpu->arch.cr2, ALIAS + 0x60000);
			assert_int_equal(g[GPR_RCX], 2);
			assert_int_equal(g[GPR_RBP], ROUNDS);
		}
		assert_int_equal(core_get(&r, 0x60000, 1), image[0]);
		assert_int_equal(mem_code_lines(&r.mem, 0x60), 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(all, open_it, close_it),
		cmocka_unit_test_setup_teardown(no_plain_pages, open_it, close_it),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
