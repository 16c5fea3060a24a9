/* A program and its kernel call each other by SYSCALL and SYSRET, or by INT and IRETQ, on the interpreter and on translated code: all architectural state, the count of
 * instructions and all memory must be equal at the end, whatever is unusual about the last of the calls. That the many before it were host code's is asked too.
 *
 * RBX counts calls, RBP says which is the last; after it the kernel jumps to R13. RSI gathers what the program sees of RCX and R11, RDI what the kernel sees of flags. */
#include "interp_rig.h"
#include "jit/jit.h"

#include <stdio.h>
#include <stdlib.h>

enum { AT_KERNEL = 0x22000, AT_USER = 0x28000, VECTOR = 0x40, INT_VECTOR = 0x41, CALLS = 60 };
#define HIGH_HALF 0x40000000u /* all memory once more, for supervisors only; with INT the kernel's stack and tables are there */

/* As bytes, because the test is no guest: everything is position independent. */
asm(".pushsection .rodata\n"
    "kernel_code: lahf; inc %rbx; movzbl %ah, %edx; rol $1, %rdi; xor %rdx, %rdi\n"
    "  test %r12, %r12; jz 1f; call 2f\n" /* R12: it may use the program's stack */
    "1: cmp %rbx, %rbp; lahf; je 3f; sysretq\n"
    "2: pushfq; pop %rdx; add %rdx, %rdi; ret\n"
    "3: jmp *%r13\n"
    "kernel_end:\n"
    "user_code: call 1f; adc $7, %r14; jmp user_code\n"
    "1: add %r14, %r14; lea (%rsi,%rsi,2), %rsi; cmp $0x33, %r14b; syscall; mov -9(%rsp), %edx; lea (%rsi,%r11), %rsi; lea (%rsi,%rcx), %rsi; ret\n"
    "user_end:\n"
    "handler_code: lahf; inc %rbx; movzbl %ah, %edx; rol $1, %rdi; xor %rdx, %rdi; cld\n"
    "  cmp %rbx, %rbp; lahf; je 3f; iretq\n"
    "3: jmp *%r13\n"
    "handler_end:\n"
    "int_code: add %r14, %r14; std; lea (%rsi,%rsi,2), %rsi; cmp $0x33, %r14b; int $0x41; lahf; mov -9(%rsp), %edx; movzbl %ah, %eax; pushfq; pop %rdx; add %rdx, %rsi\n"
    "  xor %rax, %rsi; jmp int_code\n"
    "int_end:\n"
    ".popsection");
extern const u8 kernel_code[], kernel_end[], user_code[], user_end[], handler_code[], handler_end[], int_code[], int_end[];

static struct core r;

/* What the kernel does after the last call. */
#define HALT "f4"
#define SYSRETQ "480f07"
struct scene {
	const char *name, *last;
	u64 flags, fmask, efer_off, cr0, cr4, dr7;
	bool no_stack, interrupt;
	int vector; /* -1: no exception */
	bool ring0, nmi_blocked; /* IRETQ only: the program is part of the kernel */
};
static const struct scene scenes[] = {
	{ "nothing unusual", HALT, 0x202, 0x47700, .vector = -1 },
	{ "no mask", HALT, 0x202, 0, .vector = -1 },
	{ "all masked, the program has DF, NT and ID", HALT, 0x204602, ~(u32)0, .vector = -1 },
	{ "SMAP", HALT, 0x202, 0x47700, .cr4 = CR4_SMAP, .no_stack = true, .vector = -1 },
	{ "the program's AC is masked, SMAP", HALT, 0x40202, 0x47700, .cr4 = CR4_SMAP, .no_stack = true, .vector = -1 },
	{ "the program's AC stays, SMAP", HALT, 0x40202, 0x7700, .cr4 = CR4_SMAP, .vector = -1 },
	{ "a data breakpoint is on", HALT, 0x202, 0x47700, .dr7 = 0x10001, .vector = -1 },
	{ "system calls are off from the start", HALT, 0x202, 0x47700, .efer_off = EFER_SCE, .vector = VEC_UD },
	/* mov ecx, C0000080h; rdmsr; and al, ~1; wrmsr; sysretq */
	{ "the kernel turns system calls off", "b9800000c0 0f32 24fe 0f30" SYSRETQ, 0x202, 0x47700, .vector = VEC_UD },
	/* the same; push 23h; push rsp; push 202h; push 33h; push AT_USER; iretq */
	{ "the program finds system calls off", "b9800000c0 0f32 24fe 0f30 bc00900000 6a23 6800900000 6802020000 6a33 6800800200 48cf", 0x202, 0x47700, .vector = VEC_UD },
	{ "the kernel calls itself", "49c7c5 00400200 48ffc5 0f05", 0x202, 0x47700, .vector = -1 }, /* mov r13, 24000h; inc rbp; syscall */
	{ "SYSRET to an address that is not canonical", "48b90000000000800000" SYSRETQ, 0x202, 0x47700, .vector = VEC_GP },
	{ "SYSRET to a page that is not there", "48c7c100000040" SYSRETQ, 0x202, 0x47700, .vector = VEC_PF },
	{ "SYSRET with TF", "49c7c302010000" SYSRETQ, 0x202, 0x47700, .vector = VEC_DB },
	{ "SYSRET turns alignment checks on", "4981cb00000400" SYSRETQ, 0x202, 0x47700, .cr0 = CR0_AM, .vector = VEC_AC },
	{ "SYSRET with RF, VM and reserved bits", "49c7c3ff8a0300 b900910200" SYSRETQ, 0x202, 0x47700, .vector = VEC_UD },
	{ "SYSRET to 32-bit code", "b900900200 0f07", 0x202, 0x47700, .vector = VEC_UD }, /* mov ecx, 29000h: syscall, which is #UD there */
	{ "an interrupt waits for SYSRET", "4981cb00020000" SYSRETQ, 0x002, 0x47700, .interrupt = true, .vector = -1 },
};

/* What the handler does after the last INT. [rsp]: RIP CS RFLAGS RSP SS */
#define IRETQ "48cf"
#define TO(rip) "48c70424" rip                  /* mov qword [rsp], */
#define TO_CS(sel) "48c7442408" sel "000000"    /* mov qword [rsp + 8], */
#define TO_SS(sel) "48c7442420" sel "000000"    /* mov qword [rsp + 32], */
#define WITH(flags) "48814c2410" flags          /* or qword [rsp + 16], */
#define TO_HALT TO("00400200")
#define TO_UD TO("00910200")
static const struct scene int_scenes[] = {
	{ "IRETQ, nothing unusual", HALT, 0x202, .vector = -1 },
	{ "IRETQ, interrupts off, SMAP", HALT, 0x002, .cr4 = CR4_SMAP, .vector = -1 },
	{ "IRETQ within the kernel", HALT, 0x202, .cr4 = CR4_SMAP, .ring0 = true, .vector = -1 },
	{ "IRETQ with AC within the kernel, SMAP", HALT, 0x40202, .cr4 = CR4_SMAP, .ring0 = true, .vector = -1 },
	{ "IRETQ with AC to the program", HALT, 0x40202, .cr4 = CR4_SMAP, .vector = -1 },
	{ "IRETQ with RF, NT and ID", WITH("00402100") TO_UD IRETQ, 0x202, .vector = VEC_UD },
	{ "IRETQ with TF", WITH("00010000") IRETQ, 0x202, .vector = VEC_DB },
	{ "IRETQ with IOPL and VIF", WITH("00300800") TO_UD IRETQ, 0x202, .vector = VEC_UD },
	{ "IRETQ with VM", WITH("00000200") TO_UD IRETQ, 0x202, .vector = VEC_UD },
	{ "IRETQ turns alignment checks on", WITH("00000400") IRETQ, 0x202, .cr0 = CR0_AM, .vector = VEC_AC },
	{ "IRETQ to an address that is not canonical", "48b80000000000800000 48890424" IRETQ, 0x202, .vector = VEC_GP },
	{ "IRETQ to a page that is not there", "b800000080 48890424" IRETQ, 0x202, .vector = VEC_PF },
	{ "IRETQ to a null SS", TO_SS("00") IRETQ, 0x202, .vector = VEC_GP },
	{ "IRETQ to a CS that is data", TO_CS("23") IRETQ, 0x202, .vector = VEC_GP },
	{ "IRETQ to a CS of the kernel with the program's SS", TO_CS("28") TO_HALT IRETQ, 0x202, .vector = VEC_GP },
	{ "IRETQ to 32-bit code", TO_CS("1b") TO_UD IRETQ, 0x202, .vector = VEC_UD },
	{ "IRETQ from the program's handler to the kernel", TO_CS("28") TO_SS("10") TO_HALT IRETQ, 0x202, .vector = -1 },
	{ "IRETQ to the kernel with a null SS", TO_CS("28") TO_SS("00") TO_HALT IRETQ, 0x202, .vector = -1 },
	{ "IRETQ with NT in RFLAGS", "9c 66810c24 0040 9d" IRETQ, 0x202, .vector = VEC_GP }, /* pushf; or word [rsp], 4000h; popf */
	{ "IRETQ, a data breakpoint is on", HALT, 0x202, .dr7 = 0x10001, .vector = -1 },
	{ "IRETQ unblocks NMIs", HALT, 0x202, .nmi_blocked = true, .vector = -1 },
	{ "an interrupt waits for IRETQ", WITH("00020000") IRETQ, 0x002, .interrupt = true, .vector = -1 },
};

static void put(u64 at, const u8 *from, const u8 *to) { assert_int_equal(mem_write(&r.mem, gpa(at), from, (u64)(to - from)), 0); }

static void prepare(const struct scene *w)
{
	struct cpu *c = r.cpu;
	put(AT_KERNEL, kernel_code, kernel_end);
	put(AT_USER, user_code, user_end);
	interp_put(&r, 0x23000, w->last);
	interp_put(&r, 0x24000, HALT);
	interp_put(&r, 0x29000, "90 0f05");
	interp_put(&r, 0x29100, "90 0f0b");
	interp_catch(&r);
	interp_put(&r, AT_HANDLER + 16 * VECTOR, HALT);
	core_idt(&r, VECTOR, CODE64, AT_HANDLER + 16 * VECTOR, 0x8e, 0);
	core_set(&r, AT_TSS + 4, 8, AT_STACK0);
	c->arch.star = (u64)(0x20 | 3) << 48 | (u64)CODE64 << 32; /* + 16: CODE64_3 */
	c->arch.lstar = AT_KERNEL;
	c->arch.fmask = w->fmask;
	c->arch.efer = (c->arch.efer | EFER_SCE) & ~w->efer_off;
	c->arch.cr0 |= w->cr0;
	c->arch.cr4 |= w->cr4;
	c->arch.dr[7] |= w->dr7;
	c->arch.dr[0] = 0x70000;
	memset(c->arch.gpr, 0, 16 * sizeof c->arch.gpr[0]);
	c->arch.gpr[GPR_RSP] = AT_STACK3;
	c->arch.gpr[GPR_RBP] = CALLS;
	c->arch.gpr[GPR_RCX] = AT_USER;
	c->arch.gpr[GPR_R11] = w->flags;
	c->arch.gpr[GPR_R12] = !w->no_stack;
	c->arch.gpr[GPR_R13] = 0x23000;
	c->arch.gpr[GPR_R14] = 0x123456789abcdef;
	cpu_update_mode(c);
	mmu_switch(c);
}

/* From prepare(), what INT and IRETQ need: the way into the program is an IRETQ too. */
static void prepare_int(const struct scene *w)
{
	struct cpu *c = r.cpu;
	core_set(&r, AT_TABLES + 0x1000 + 8, 8, 0x83); /* HIGH_HALF -> 0 */
	put(AT_KERNEL, handler_code, handler_end);
	put(AT_USER, int_code, int_end);
	core_idt(&r, INT_VECTOR, CODE64, HIGH_HALF + AT_KERNEL, 0xee, 0);
	core_set(&r, AT_TSS + 4, 8, HIGH_HALF + AT_STACK0);
	c->arch.gdtr.base = HIGH_HALF + AT_GDT;
	c->arch.idtr.base = HIGH_HALF + AT_IDT;
	c->arch.tr.base = HIGH_HALF + AT_TSS;
	c->arch.gpr[GPR_RSP] = HIGH_HALF + AT_STACK0 - 40;
	const u64 frame[5] = { AT_USER, w->ring0 ? CODE64 : CODE64_3, w->flags, w->ring0 ? HIGH_HALF + AT_STACK3 : AT_STACK3, w->ring0 ? DATA0 : DATA3 };
	for (unsigned n = 0; n < array_len(frame); n++)
		core_set(&r, AT_STACK0 - 40 + 8 * n, 8, frame[n]);
	c->arch.shadow = w->nmi_blocked ? SHADOW_NMI : 0;
}

struct end { struct cpu_arch arch; u64 icount; int caught; u8 *memory; };

static struct end run(const struct scene *w, const char *engine, bool by_int)
{
	struct end e = { .memory = malloc(2 * MiB) };
	setenv("NESTBOX_TEST_ENGINE", engine, 1);
	interp_open(&r, CORE_LONG);
	prepare(w);
	if (w->interrupt) {
		r.irq = VECTOR;
		cpu_pend(r.cpu, PEND_INTR);
	}
	if (by_int)
		prepare_int(w);
	interp_put(&r, AT_CODE, by_int ? IRETQ : SYSRETQ);
	interp_go(&r, AT_CODE);
	e.arch = r.cpu->arch;
	e.arch.gpr[GPR_BLOCK_RIP] = 0;
	e.icount = r.cpu->icount;
	e.caught = interp_caught(&r);
	assert_int_equal(r.acknowledged, w->interrupt);
	assert_int_equal(mem_read(&r.mem, gpa(0), e.memory, 2 * MiB), 0);
	if (!strcmp(engine, "jit") && (w == scenes || w == int_scenes || w == int_scenes + 2) && jit_of(r.cpu)->fsgsbase) {
		const struct jit *j = jit_of(r.cpu);
		assert_in_range(j->prof_left[ZYDIS_MNEMONIC_IRETQ], 0, 4);
		assert_in_range(j->prof_left[ZYDIS_MNEMONIC_SYSCALL], 0, 4);
		assert_in_range(j->prof_left[ZYDIS_MNEMONIC_SYSRET], 0, 4);
	}
	interp_close(&r);
	return e;
}

static bool same_end(const struct scene *w, bool by_int)
{
	struct end i = run(w, "interp", by_int), j = run(w, "jit", by_int);
	bool same = !memcmp(&i.arch, &j.arch, sizeof i.arch) && i.icount == j.icount && !memcmp(i.memory, j.memory, 2 * MiB);
	bool ended = i.caught == w->vector && (w->efer_off || i.arch.gpr[GPR_RBX] >= CALLS);
	if (!same) {
		print_message("%s: the engines differ: count %llu, %llu\n", w->name, (unsigned long long)i.icount, (unsigned long long)j.icount);
		state_dump(stderr, &cpu_arch_state, "  cpu", &i.arch, &j.arch);
	}
	if (!ended)
		print_message("%s: %llu calls, vector %d, must be %d\n", w->name, (unsigned long long)i.arch.gpr[GPR_RBX], i.caught, w->vector);
	free(i.memory);
	free(j.memory);
	return same && ended;
}

static void syscall_and_sysret(void **state)
{
	bool ok = true;
	for (unsigned n = 0; n < array_len(scenes); n++)
		ok &= same_end(&scenes[n], false);
	assert_true(ok);
}

static void int_and_iretq(void **state)
{
	bool ok = true;
	for (unsigned n = 0; n < array_len(int_scenes); n++)
		ok &= same_end(&int_scenes[n], true);
	assert_true(ok);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(syscall_and_sysret), cmocka_unit_test(int_and_iretq) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
