/* SDM "Handling Self- and Cross-Modifying Code": the modifying processor stores the new code, then a flag; the executing one waits for the flag, executes
 * a serializing instruction (CPUID, SERIALIZE), and then must run the new code. Many rounds of it, in translated code on both sides, wherever the code that changes
 * lies: alone in its page, beside the loop that waits, in the same block, over a page's border; and with both processors doing both at once. Flags and
 * acknowledgements are round numbers, so that nobody writes code that another may be running. Host time decides nothing: who waits, waits. */
#include "smp_rig.h"

#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#define AT_FLAG 0x60000u /* one page each: flag and acknowledgement of vCPU n at + 8 n */
#define AT_ACK 0x61000u
#define AT_READER 0x20000u
#define AT_WRITER 0x28000u

static struct smp s;
static unsigned rounds = 400;

/* A reader that ran old code has halted, and its writer waits in vain. */
static void say_and_die(int sig)
{
	for (unsigned n = 0; n < 2; n++)
		print_error("CPU %u: round %u, rax %u\n", n, (u32)s.core[n].cpu->arch.gpr[GPR_R13], (u32)s.core[n].cpu->arch.gpr[GPR_RAX]);
	abort();
}

static int open_it(void **state)
{
	smp_open(&s);
	signal(SIGALRM, say_and_die);
	alarm(60);
	return 0;
}
static int close_it(void **state)
{
	alarm(0);
	smp_close(&s);
	return 0;
}

static void set(unsigned n, unsigned gpr, u64 v) { s.core[n].cpu->arch.gpr[gpr] = v; }
static u64 get(unsigned n, unsigned gpr) { return s.core[n].cpu->arch.gpr[gpr]; }

static void forget_round(void)
{
	for (unsigned n = 0; n < 2; n++) {
		core_set(&s.core[0], AT_FLAG + 8 * n, 8, 0);
		core_set(&s.core[0], AT_ACK + 8 * n, 8, 0);
		set(n, GPR_R12, rounds);
		set(n, GPR_R13, 0);
		set(n, GPR_RSP, AT_STACK0 - 0x800 * n);
	}
}

/* again: inc r13d; wait: cmp [rsi], r13d; jne wait; xor eax, eax; cpuid; call rbp; cmp eax, r13d; jne bad; call rbp; cmp eax, r13d; jne bad; mov [rdi], r13d;
 * cmp r13d, r12d; jne again; bad: hlt */
#define READER "41ffc5 44392e 75fb 31c0 0fa2 ffd5 4439e8 750f ffd5 4439e8 7508 44892f 4539e5 75de f4"

/* The same with the code in line: ...; cpuid; mov eax, imm32 (at READER_IMM); cmp eax, r13d; jne bad; mov [rdi], r13d; cmp r13d, r12d; jne again; bad: hlt */
#define READER_IN_LINE "41ffc5 44392e 75fb 31c0 0fa2 b800000000 4439e8 7508 44892f 4539e5 75e2 f4"
#define READER_IMM (AT_READER + 13)

/* again: inc r13d; mov [rbp], r13d; mov [rsi], r13d; wait: cmp [rdi], r13d; jne wait; cmp r13d, r12d; jne again; hlt */
#define WRITER "41ffc5 44896d00 44892e 44392f 75fb 4539e5 75ec f4"

/* The same, writing the operand byte by byte, so that what is half new may have been decoded: mov eax, r13d; mov [rbp], al; mov [rbp+1], ah; shr eax, 16;
 * mov [rbp+2], al; mov [rbp+3], ah */
#define WRITER_OF_BYTES "41ffc5 4489e8 884500 886501 c1e810 884502 886503 44892e 44392f 75fb 4539e5 75de f4"

static const struct { const char *name, *reader, *writer; u64 function, imm; } places[] = {
	{ "in a page of its own", READER, WRITER, 0x50000, 0x50001 },
	{ "in the reader's page", READER, WRITER, AT_READER + 0x200, AT_READER + 0x201 },
	{ "in the line of the reader's loop", READER, WRITER, AT_READER + 0x30, AT_READER + 0x31 },
	{ "in the writer's page", READER, WRITER, AT_WRITER + 0x80, AT_WRITER + 0x81 },
	{ "over a page's border", READER, WRITER, 0x50ffd, 0x50ffe },
	{ "in the reader's block", READER_IN_LINE, WRITER, 0, READER_IMM },
	{ "byte by byte", READER, WRITER_OF_BYTES, 0x50000, 0x50001 },
	{ "byte by byte over a page's border", READER, WRITER_OF_BYTES, 0x50ffd, 0x50ffe },
	{ "byte by byte in the reader's block", READER_IN_LINE, WRITER_OF_BYTES, 0, READER_IMM },
};

/* Where the readers have XOR EAX, EAX; CPUID: that, or SERIALIZE; NOP. */
#define READER_SERIALIZES (AT_READER + 8)
static const char *serializing = "31c0 0fa2";

static void prepare(unsigned k)
{
	forget_round();
	interp_put(&s.core[0], AT_READER, places[k].reader);
	interp_put(&s.core[0], READER_SERIALIZES, serializing);
	interp_put(&s.core[0], AT_WRITER, places[k].writer);
	if (places[k].function)
		interp_put(&s.core[0], places[k].function, "b800000000 c3");
	for (unsigned n = 0; n < 2; n++) {
		set(n, GPR_RSI, AT_FLAG);
		set(n, GPR_RDI, AT_ACK);
	}
	set(0, GPR_RBP, places[k].function);
	set(1, GPR_RBP, places[k].imm);
}

static void assert_all_seen(unsigned k)
{
	if (core_get(&s.core[0], AT_ACK, 4) != rounds)
		print_error("%s: round %u ran %u\n", places[k].name, (u32)get(0, GPR_R13), (u32)get(0, GPR_RAX));
	assert_int_equal(core_get(&s.core[0], AT_ACK, 4), rounds);
	assert_int_equal((u32)get(0, GPR_RAX), rounds);
	assert_true(s.core[0].cpu->stats.code_invalidations > 0);
}

/* ---- tests ---- */
static void another_cpu_writes(void **state)
{
	for (unsigned k = 0; k < array_len(places); k++) {
		prepare(k);
		smp_go(&s, (u64[]){ AT_READER, AT_WRITER }, NULL);
		assert_all_seen(k);
	}
}

static void serialize(void **state)
{
	serializing = "0f01e8 90";
	another_cpu_writes(state);
	serializing = "31c0 0fa2";
}

static unsigned place;
static void device(struct smp *m)
{
	struct mem *mem = &m->core[0].mem;
	for (u32 n = 1; n <= rounds; n++) {
		assert_int_equal(mem_write(mem, gpa(places[place].imm), &n, 4), 0);
		mem_write_le(mem, gpa(AT_FLAG), n, 4);
		while (mem_read_le(mem, gpa(AT_ACK), 4) != n) {
			if (s.core[0].cpu->arch.activity == ACT_HLT) /* the reader has found old code */
				return;
			sched_yield();
		}
	}
}

static void a_device_writes(void **state)
{
	for (place = 0; place < array_len(places); place++) {
		prepare(place);
		smp_go(&s, (u64[]){ AT_READER, 0 }, device);
		assert_all_seen(place);
	}
}

/* Each writes the other's function, then waits for its own:
 * again: inc r13d; mov [rbp], r13d; mov [rsi], r13d; wait: cmp [rdi], r13d; jne wait; xor eax, eax; cpuid; call r14; cmp eax, r13d; jne bad; mov [r15], r13d;
 * wait2: cmp [r9], r13d; jne wait2; cmp r13d, r12d; jne again; bad: hlt */
#define BOTH "41ffc5 44896d00 44892e 44392f 75fb 31c0 0fa2 41ffd6 4439e8 750d 45892f 453929 75fb 4539e5 75d8 f4"

static void each_writes_the_others_code(void **state)
{
	static const struct { u64 code[2], function[2]; } rows[] = {
		{ { AT_READER, AT_WRITER }, { 0x50000, 0x51000 } },
		{ { AT_READER, AT_WRITER }, { 0x50000, 0x50100 } },
		{ { AT_READER, AT_WRITER }, { 0x50000, 0x50010 } },             /* in one line */
		{ { AT_READER, AT_READER + 0x100 }, { 0x20200, 0x20210 } },     /* all in one page */
		{ { AT_READER, AT_READER }, { 0x20040, 0x20050 } },             /* both run the same loop */
		{ { AT_READER, AT_WRITER }, { AT_WRITER + 0x40, AT_READER + 0x40 } },
	};
	for (unsigned k = 0; k < array_len(rows); k++) {
		forget_round();
		for (unsigned n = 0; n < 2; n++) {
			interp_put(&s.core[0], rows[k].code[n], BOTH);
			interp_put(&s.core[0], rows[k].function[n], "b800000000 c3");
			set(n, GPR_RBP, rows[k].function[!n] + 1);
			set(n, GPR_R14, rows[k].function[n]);
			set(n, GPR_RSI, AT_FLAG + 8 * !n);
			set(n, GPR_RDI, AT_FLAG + 8 * n);
			set(n, GPR_R15, AT_ACK + 8 * n);
			set(n, GPR_R9, AT_ACK + 8 * !n);
		}
		smp_go(&s, rows[k].code, NULL);
		for (unsigned n = 0; n < 2; n++) {
			if (core_get(&s.core[0], AT_ACK + 8 * n, 4) != rounds)
				print_error("row %u: CPU %u: round %u ran %u\n", k, n, (u32)get(n, GPR_R13), (u32)get(n, GPR_RAX));
			assert_int_equal(core_get(&s.core[0], AT_ACK + 8 * n, 4), rounds);
		}
	}
}

int main(void)
{
	if (!getenv("NESTBOX_TEST_ENGINE")) /* the interpreter waits more slowly */
		rounds = 100;
	jit_slice = 500; /* waiting loops become regions soon */
	jit_samples = 1;
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(another_cpu_writes, open_it, close_it),
		cmocka_unit_test_setup_teardown(serialize, open_it, close_it),
		cmocka_unit_test_setup_teardown(a_device_writes, open_it, close_it),
		cmocka_unit_test_setup_teardown(each_writes_the_others_code, open_it, close_it),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
