/* Guests with more code than the translator's memory holds, on purpose with very little of it (NESTBOX_TEST_CODE_KIB, docs/jit.md): results stay right,
 * --stats counts how often all was thrown away, and memory stays within what it was given. The interpreter runs the same guests with its usual memory. */
#include "interp_rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define CODE_KIB 512u
#define AT_MANY 0x110000u     /* functions, 16 bytes each */
#define MANY 10000u
#define AT_DEEP_STACK 0x1f0000u

static struct core r;
static unsigned blocks_kib; /* little: decoded blocks run out first, and take all host code with them; much: host code does */
static const struct engine_ops *translator; /* NULL: the interpreter runs */

static int open_it(void **state)
{
	const char *name = getenv("NESTBOX_TEST_ENGINE");
	translator = name && !strcmp(name, "jit") ? &jit_engine : name && !strcmp(name, "lockstep") ? &lockstep_engine : NULL;
	interp_open(&r, CORE_LONG);
	r.cpu->arch.gpr[GPR_RSP] = AT_DEEP_STACK;
	return 0;
}
static int close_it(void **state)
{
	interp_close(&r);
	return 0;
}

/* ---- what it costs ---- */
static u64 stat_of(const char *name)
{
	char *text = NULL;
	size_t n;
	FILE *f = open_memstream(&text, &n);
	translator->print_stats(r.cpu, f);
	fclose(f);
	const char *at = strstr(text, name);
	assert_non_null(at);
	u64 v = strtoull(at + strlen(name), NULL, 10);
	free(text);
	return v;
}

static u64 resident_kib(void)
{
	unsigned long long size, resident;
	FILE *f = fopen("/proc/self/statm", "r");
	assert_int_equal(fscanf(f, "%llu %llu", &size, &resident), 2);
	fclose(f);
	return resident * (u64)sysconf(_SC_PAGESIZE) / 1024;
}

/* All was thrown away so often at least; and what is there now fits, while all that was made would not have. */
static void assert_flushed(u64 flushes)
{
	if (!translator)
		return;
	u64 n = stat_of(" flushes=");
	if (n < flushes)
		print_error("%llu flushes\n", (unsigned long long)n);
	assert_true(n >= flushes);
	assert_true(stat_of(" arena_kib=") <= CODE_KIB);
	assert_true(stat_of(" code_kib=") > CODE_KIB);
}

/* ---- guests ---- */
static void put_function(unsigned n, const u8 *code, unsigned len) { assert_int_equal(mem_write(&r.mem, gpa(AT_MANY + 16 * n), code, len), 0); }

/* Each is called in turn, three times over: lea eax, [rax+n]; ret. */
static void more_functions_than_fit(void **state)
{
	for (unsigned n = 0; n < MANY; n++) {
		u8 code[] = { 0x8d, 0x80, 0, 0, 0, 0, 0xc3 };
		store_le(code + 2, n, 4);
		put_function(n, code, sizeof code);
	}
	u64 before = 0;
	for (unsigned times = 0; times < 3; times++) {
		r.cpu->arch.gpr[GPR_RDI] = AT_MANY;
		r.cpu->arch.gpr[GPR_RSI] = AT_MANY + 16 * MANY;
		interp_do(&r, "31c0 ffd7 4883c710 4839f7 75f5"); /* xor eax, eax; again: call rdi; add rdi, 16; cmp rdi, rsi; jne again */
		assert_int_equal(r.cpu->arch.gpr[GPR_RAX], MANY * (MANY - 1) / 2);
		if (times == 0)
			before = resident_kib();
	}
	assert_flushed(10);
	if (translator)
		assert_true(resident_kib() < before + 1024 + blocks_kib);
}

/* Function n calls n + 1: all is thrown away while the host's stack has many return addresses. add eax, n; call next; inc ecx; ret */
static void deep_calls(void **state)
{
	for (unsigned n = 0; n < MANY; n++) {
		u8 code[] = { 0x05, 0, 0, 0, 0, 0xe8, 6, 0, 0, 0, 0xff, 0xc1, 0xc3 };
		store_le(code + 1, n, 4);
		put_function(n, code, sizeof code);
	}
	put_function(MANY, (const u8 *)"\xc3", 1);
	for (unsigned times = 0; times < 3; times++) {
		interp_do(&r, "31c0 31c9 e8f7ff0e00"); /* xor eax, eax; xor ecx, ecx; call AT_MANY */
		assert_int_equal(r.cpu->arch.gpr[GPR_RAX], MANY * (MANY - 1) / 2);
		assert_int_equal(r.cpu->arch.gpr[GPR_RCX], MANY);
		assert_int_equal(r.cpu->arch.gpr[GPR_RSP], AT_DEEP_STACK);
	}
	assert_flushed(10);
}

/* The guest writes a function of its own each time, in turn to 256 places, and calls it:
 * again: inc r13d; mov ebx, r13d; and ebx, 255; shl ebx, 6; mov byte [rdi+rbx], b8h; mov [rdi+rbx+1], r13d; mov byte [rdi+rbx+5], c3h;
 * lea rdx, [rdi+rbx]; call rdx; add r14, rax; cmp r13d, r12d; jne again */
static void functions_made_as_they_are_needed(void **state)
{
	u64 before = 0;
	for (unsigned times = 0; times < 3; times++) {
		r.cpu->arch.gpr[GPR_RDI] = AT_MANY;
		r.cpu->arch.gpr[GPR_R12] = MANY;
		r.cpu->arch.gpr[GPR_R13] = r.cpu->arch.gpr[GPR_R14] = 0;
		interp_do(&r, "41ffc5 4489eb 81e3ff000000 c1e306 c6041fb8 44896c1f01 c6441f05c3 488d141f ffd2 4901c6 4539e5 75d5");
		assert_int_equal(r.cpu->arch.gpr[GPR_R14], (u64)MANY * (MANY + 1) / 2);
		if (times == 0)
			before = resident_kib();
	}
	assert_flushed(5);
	if (translator)
		assert_true(resident_kib() < before + 1024 + blocks_kib);
}

/* Loops that are worth a region each: mov ecx, 2000; again: inc eax; dec ecx; jnz again; ret. */
static void hot_loops(void **state)
{
	enum { LOOPS = 2000, ROUNDS = 500 };
	for (unsigned n = 0; n < LOOPS; n++) {
		u8 code[] = { 0xb9, 0, 0, 0, 0, 0xff, 0xc0, 0xff, 0xc9, 0x75, 0xfa, 0xc3 };
		store_le(code + 1, ROUNDS, 4);
		put_function(n, code, sizeof code);
	}
	for (unsigned times = 0; times < 2; times++) {
		r.cpu->arch.gpr[GPR_RDI] = AT_MANY;
		r.cpu->arch.gpr[GPR_RSI] = AT_MANY + 16 * LOOPS;
		interp_do(&r, "31c0 ffd7 4883c710 4839f7 75f5");
		assert_int_equal(r.cpu->arch.gpr[GPR_RAX], LOOPS * ROUNDS);
	}
	assert_flushed(2);
	if (translator == &jit_engine)
		assert_true(stat_of(" regions=") > 100);
}

static int run_with(unsigned blocks)
{
	char kib[32];
	blocks_kib = blocks;
	snprintf(kib, sizeof kib, "%u,%u", CODE_KIB, blocks_kib);
	setenv("NESTBOX_TEST_CODE_KIB", kib, 1);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(more_functions_than_fit, open_it, close_it),
		cmocka_unit_test_setup_teardown(deep_calls, open_it, close_it),
		cmocka_unit_test_setup_teardown(functions_made_as_they_are_needed, open_it, close_it),
		cmocka_unit_test_setup_teardown(hot_loops, open_it, close_it),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

int main(void)
{
	jit_slice = 200;
	jit_samples = 1;
	return run_with(256) + run_with(8192);
}
