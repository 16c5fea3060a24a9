/* Behind JZ host code knows what some comparisons have left in the flags, and stores none of it. Each side of such a branch pushes its flags, for every size and bit, of memory and
 * of a register, and they are compared with the manual's. */
#include "interp_rig.h"
#include "jit/jit.h"

#include <stdio.h>
#include <string.h>

#define AT_LOOP 0x22000u
#define AT_FAR 0x26000u
#define AT_DATA 0x50000u
#define AT_OTHER 0x51000u
#define ROUNDS 60u /* enough for both sides to be translated */

static struct core r;

static int open_it(void **state)
{
	jit_wary = 0; /* the code is written anew all the time */
	interp_open(&r, CORE_LONG);
	jit_hot = 8; /* both sides are known when the branch is translated, and joined to it */
	return 0;
}
static int close_it(void **state)
{
	interp_close(&r);
	return 0;
}

/* All of TEST and CMP, but for the AF that TEST leaves undefined. */
static u64 flags_of(bool cmp, unsigned size, u64 x, u64 y)
{
	u64 mask = low_mask(size * 8), top = bit(size * 8 - 1);
	x &= mask;
	y &= mask;
	u64 v = (cmp ? x - y : x & y) & mask, f = v ? 0 : FLAG_ZF;
	f |= (v & top ? FLAG_SF : 0) | (__builtin_parity((u8)v) ? 0 : FLAG_PF);
	if (cmp)
		f |= (x < y ? FLAG_CF : 0) | ((x ^ y) & (x ^ v) & top ? FLAG_OF : 0) | ((x ^ y ^ v) & 0x10 ? FLAG_AF : 0);
	return f;
}

static unsigned jump(u64 at, u64 to)
{
	char hex[16];
	u32 rel = (u32)(to - at - 5);
	snprintf(hex, sizeof hex, "e9%02x%02x%02x%02x", rel & 0xff, rel >> 8 & 0xff, rel >> 16 & 0xff, rel >> 24);
	return interp_put(&r, at, hex);
}

/* a: xor [rsi], rdx; mov rax, [rsi]; CODE; jz z; mov rbx, [rdi]; pushf; pop r8; jmp e; z: mov rbx, [rdi]; pushf; pop r9; e: dec ebp; jz b; jmp r14; b: hlt. Loads, for host code wants
 * the host's flags for them. far: PUSHF is in another page. */
static void put_loop(const char *code, bool far)
{
	u64 at = AT_LOOP;
	at += interp_put(&r, at, "483116 488b06");
	at += interp_put(&r, at, code);
	if (far) {
		u64 e = at + 18;
		at += interp_put(&r, at, "7408 488b1f");
		at += jump(at, AT_FAR);
		at += interp_put(&r, at, "488b1f");
		at += jump(at, AT_FAR + 0x40);
		jump(AT_FAR + interp_put(&r, AT_FAR, "9c4158"), e);
		jump(AT_FAR + 0x40 + interp_put(&r, AT_FAR + 0x40, "9c4159"), e);
	} else {
		at += interp_put(&r, at, "7408 488b1f 9c4158 eb06 488b1f 9c4159");
	}
	interp_put(&r, at, "ffcd 7403 41ffe6 f4");
}

/* The memory is 0 and v in turn. */
static void one_way(const char *code, bool cmp, bool swapped, unsigned size, u64 v, u64 with, bool far)
{
	u64 *g = r.cpu->arch.gpr, seen = FLAG_ARITH & (cmp ? ~(u64)0 : ~FLAG_AF);
	put_loop(code, far);
	core_set(&r, AT_DATA, 8, 0);
	g[GPR_RSI] = AT_DATA;
	g[GPR_RDI] = AT_OTHER;
	g[GPR_RDX] = v;
	g[GPR_RCX] = with;
	g[GPR_R14] = AT_LOOP;
	g[GPR_RBP] = ROUNDS;
	g[GPR_R8] = g[GPR_R9] = 0;
	interp_go(&r, AT_LOOP);
	u64 on = swapped ? flags_of(cmp, size, with, v) : flags_of(cmp, size, v, with), off = swapped ? flags_of(cmp, size, with, 0) : flags_of(cmp, size, 0, with);
	assert_int_equal(!!(on & FLAG_ZF) + !!(off & FLAG_ZF), 1); /* the test's own: it goes to both sides */
	if ((g[GPR_R8] & seen) != ((on & FLAG_ZF ? off : on) & seen) || (g[GPR_R9] & seen) != (FLAG_ZF | FLAG_PF))
		print_error("%s, %#llx with %#llx\n", code, (unsigned long long)v, (unsigned long long)with);
	assert_int_equal(g[GPR_R8] & seen, (on & FLAG_ZF ? off : on) & seen);
	assert_int_equal(g[GPR_R9] & seen, FLAG_ZF | FLAG_PF);
}

static void one(const char *code, bool cmp, bool swapped, unsigned size, u64 v, u64 with)
{
	one_way(code, cmp, swapped, size, v, with, false);
	one_way(code, cmp, swapped, size, v, with, true);
}

/* With an immediate of one bit, of memory and of RAX. */
static void tests_of_one_bit(void **state)
{
	static const struct { const char *memory, *rax; unsigned size, imm; } rows[] = {
		{ "f606", "f6c0", 1, 1 }, { "66f706", "66f7c0", 2, 2 }, { "f706", "f7c0", 4, 4 }, { "48f706", "48f7c0", 8, 4 },
	};
	for (unsigned n = 0; n < array_len(rows); n++)
		for (unsigned k = 0; k < rows[n].imm * 8; k++) {
			u64 with = rows[n].size == 8 ? (u64)(i64)(i32)(1u << k) : bit(k), v = bit(k) | (k == 31 ? 0 : 0x8040000000000000);
			for (unsigned reg = 0; reg < 2; reg++) {
				char code[40] = "";
				strcat(code, reg ? rows[n].rax : rows[n].memory);
				for (unsigned b = 0; b < rows[n].imm; b++)
					sprintf(code + strlen(code), "%02x", (1u << k) >> (8 * b) & 0xff);
				one(code, false, false, rows[n].size, v, with);
			}
		}
}

static void comparisons(void **state)
{
	static const struct { const char *code; unsigned size; bool cmp, swapped; } rows[] = {
		{ "390e", 4, true, false }, { "48390e", 8, true, false }, { "380e", 1, true, false }, { "66390e", 2, true, false }, { "3b0e", 4, true, true }, { "483b0e", 8, true, true },
		{ "3a0e", 1, true, true }, { "39c8", 4, true, false }, { "4839c8", 8, true, false }, { "850e", 4, false, false }, { "48850e", 8, false, false }, { "85c8", 4, false, false },
	};
	static const u64 values[] = { 1, 0x7f, 0x80, 0x8000, 0x80000000, 0xffffffffffffffff, 0x123456789abcdef0, 0x8000000000000000 };
	for (unsigned n = 0; n < array_len(rows); n++)
		for (unsigned k = 0; k < array_len(values); k++)
			if (values[k] & low_mask(rows[n].size * 8))
				one(rows[n].code, rows[n].cmp, rows[n].swapped, rows[n].size, values[k], values[k]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(tests_of_one_bit, open_it, close_it),
		cmocka_unit_test_setup_teardown(comparisons, open_it, close_it),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
