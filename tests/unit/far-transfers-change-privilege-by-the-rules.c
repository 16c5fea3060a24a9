#include "core_rig.h"

static struct core r;
#define CPU (r.cpu)

static void jumps_check_the_code_segment(void **state)
{
	static const struct { u16 sel; int vector, error; } rows[] = {
		{ 0, VEC_GP, 0 }, { GDT_END, VEC_GP, GDT_END }, { DATA0, VEC_GP, DATA0 }, { CODE3, VEC_GP, CODE3 & ~3 }, { CODE0 | 3, VEC_GP, CODE0 },
		{ ABSENT_CODE, VEC_NP, ABSENT_CODE }, { LDT, VEC_GP, LDT }, { SMALL_CODE, VEC_GP, 0 /* beyond its limit */ }
	};
	core_open(&r, CORE_PROT);
	for (unsigned i = 0; i < array_len(rows); i++)
		core_expect_fault(&r, cpu_far_jmp(CPU, rows[i].sel, 0x100, 4, 7), (unsigned)rows[i].vector, rows[i].error);
	assert_int_equal(cpu_far_jmp(CPU, CONFORMING | 3, 0x100, 4, 7), STEP_STOP);
	assert_int_equal(CPU->arch.seg[SEG_CS].sel, CONFORMING); /* RPL becomes CPL */
	assert_int_equal(cpu_far_jmp(CPU, SMALL_CODE, 0xff, 4, 7), STEP_STOP);
	assert_int_equal(CPU->arch.rip, 0xff);
	core_close(&r);
}

static void user_code_may_call_conforming_code_and_stays_user(void **state)
{
	core_open(&r, CORE_PROT);
	core_user(&r);
	CPU->arch.rip = 0x500;
	assert_int_equal(cpu_far_call(CPU, CONFORMING, 0x700, 4, 7), STEP_STOP);
	assert_int_equal(CPU->arch.cpl, 3);
	assert_int_equal(CPU->arch.seg[SEG_CS].sel, CONFORMING | 3);
	assert_int_equal(core_stack(&r, 0, 4), 0x507);
	assert_int_equal(core_stack(&r, 1, 4), CODE3);
	assert_int_equal(cpu_far_ret(CPU, 4, 0), STEP_STOP);
	assert_int_equal(CPU->arch.rip, 0x507);
	assert_int_equal(CPU->arch.gpr[GPR_RSP], AT_STACK3);
	core_close(&r);
}

static void a_call_gate_switches_stacks_copies_parameters_and_returns(void **state)
{
	core_open(&r, CORE_PROT);
	core_gate(&r, AT_GDT + GATE, CODE0, 0x1000, 0xec, 2);
	core_user(&r);
	CPU->arch.gpr[GPR_RSP] = AT_STACK3 - 8;
	core_set(&r, AT_STACK3 - 8, 4, 0xaaaa);
	core_set(&r, AT_STACK3 - 4, 4, 0xbbbb);
	CPU->arch.rip = 0x500;
	assert_int_equal(cpu_far_call(CPU, GATE | 3, 0xffffffff, 4, 7), STEP_STOP);
	assert_int_equal(CPU->arch.cpl, 0);
	assert_int_equal(CPU->arch.rip, 0x1000);
	assert_int_equal(CPU->arch.gpr[GPR_RSP], AT_STACK0 - 24);
	assert_int_equal(core_stack(&r, 0, 4), 0x507);
	assert_int_equal(core_stack(&r, 1, 4), CODE3);
	assert_int_equal(core_stack(&r, 2, 4), 0xaaaa);
	assert_int_equal(core_stack(&r, 3, 4), 0xbbbb);
	assert_int_equal(core_stack(&r, 4, 4), AT_STACK3 - 8);
	assert_int_equal(core_stack(&r, 5, 4), DATA3);
	cpu_load_seg(CPU, SEG_DS, DATA0);
	assert_int_equal(cpu_far_ret(CPU, 4, 8), STEP_STOP);
	assert_int_equal(CPU->arch.cpl, 3);
	assert_int_equal(CPU->arch.gpr[GPR_RSP], AT_STACK3);
	assert_true(CPU->arch.seg[SEG_DS].attr & SEG_UNUSABLE); /* the kernel's DS is taken away */
	assert_int_equal(CPU->arch.seg[SEG_ES].sel, DATA3);
	core_close(&r);
}

static void call_gates_are_checked(void **state)
{
	core_open(&r, CORE_PROT);
	core_user(&r);
	core_gate(&r, AT_GDT + GATE, CODE0, 0x1000, 0x8c, 0);
	core_expect_fault(&r, cpu_far_call(CPU, GATE, 0, 4, 7), VEC_GP, GATE);
	core_gate(&r, AT_GDT + GATE, CODE0, 0x1000, 0x6c, 0);
	core_expect_fault(&r, cpu_far_call(CPU, GATE, 0, 4, 7), VEC_NP, GATE);
	core_gate(&r, AT_GDT + GATE, DATA0, 0x1000, 0xec, 0);
	core_expect_fault(&r, cpu_far_call(CPU, GATE, 0, 4, 7), VEC_GP, DATA0);
	core_gate(&r, AT_GDT + GATE, 0, 0x1000, 0xec, 0);
	core_expect_fault(&r, cpu_far_call(CPU, GATE, 0, 4, 7), VEC_GP, 0);
	core_gate(&r, AT_GDT + GATE, ABSENT_CODE, 0x1000, 0xec, 0);
	core_expect_fault(&r, cpu_far_call(CPU, GATE, 0, 4, 7), VEC_NP, ABSENT_CODE);
	core_gate(&r, AT_GDT + GATE, CODE0, 0x1000, 0xec, 0);
	core_expect_fault(&r, cpu_far_jmp(CPU, GATE, 0, 4, 7), VEC_GP, CODE0); /* JMP cannot raise privilege */
	core_gate(&r, AT_GDT + GATE, SMALL_CODE, 0x1000, 0xec, 0);
	core_expect_fault(&r, cpu_far_call(CPU, GATE, 0, 4, 7), VEC_GP, 0);
	core_close(&r);
}

static void a_64_bit_call_gate_pushes_quadwords_on_rsp0(void **state)
{
	core_open(&r, CORE_LONG);
	core_gate(&r, AT_GDT + GATE, CODE64, 0xffff800000001000, 0xec, 0);
	core_user(&r);
	CPU->arch.rip = 0x500;
	assert_int_equal(cpu_far_call(CPU, GATE | 3, 0, 8, 3), STEP_STOP);
	assert_int_equal(CPU->arch.rip, 0xffff800000001000);
	assert_int_equal(CPU->arch.gpr[GPR_RSP], AT_STACK0 - 32);
	assert_int_equal(CPU->arch.seg[SEG_SS].sel, 0);
	assert_int_equal(core_stack(&r, 0, 8), 0x503);
	assert_int_equal(core_stack(&r, 3, 8), DATA3);
	assert_int_equal(cpu_far_ret(CPU, 8, 0), STEP_STOP);
	assert_int_equal(CPU->arch.cpl, 3);
	assert_true(CPU->mode & MODE_L);
	core_expect_fault(&r, cpu_far_call(CPU, TASK_GATE, 0, 8, 3), VEC_GP, TASK_GATE);
	core_close(&r);
}

static void push_frame(const u64 *v, unsigned n, unsigned size)
{
	while (n--)
		assert_true(cpu_push(CPU, v[n], size));
}

static void iret_checks_its_frame(void **state)
{
	static const struct { u64 f[5]; int vector, error; } rows[] = {
		{ { 0x10, 0, 2, 0x9000, DATA3 }, VEC_GP, 0 }, { { 0x10, DATA0, 2, 0x9000, DATA3 }, VEC_GP, DATA0 },
		{ { 0x10, CODE3 & ~3, 2, 0x9000, DATA3 }, VEC_GP, CODE3 & ~3 }, { { 0x10, CODE3, 2, 0x9000, 0 }, VEC_GP, 0 },
		{ { 0x10, CODE3, 2, 0x9000, DATA0 }, VEC_GP, DATA0 }, { { 0x10, CODE3, 2, 0x9000, DATA3 & ~3 }, VEC_GP, DATA3 & ~3 },
		{ { 0x10, ABSENT_CODE, 2, 0x9000, DATA0 }, VEC_NP, ABSENT_CODE }, { { 0x1000, SMALL_CODE, 2, 0x9000, DATA0 }, VEC_GP, 0 },
	};
	core_open(&r, CORE_PROT);
	u64 sp = CPU->arch.gpr[GPR_RSP];
	for (unsigned i = 0; i < array_len(rows); i++) {
		CPU->arch.gpr[GPR_RSP] = sp;
		push_frame(rows[i].f, 5, 4);
		core_expect_fault(&r, cpu_iret(CPU, 4, NULL), (unsigned)rows[i].vector, rows[i].error);
		assert_int_equal(CPU->arch.gpr[GPR_RSP], sp - 20);
	}
	core_close(&r);
}

static void iret_loads_flags_by_privilege(void **state)
{
	core_open(&r, CORE_PROT);
	push_frame((u64[]){ 0x10, CODE3, FLAG_IF | FLAG_IOPL | FLAG_NT | FLAG_ID | FLAG_AC | 0x8a2 | 2, 0x9000, DATA3 }, 5, 4);
	assert_int_equal(cpu_iret(CPU, 4, NULL), STEP_STOP);
	assert_int_equal(cpu_rflags(CPU), FLAG_IF | FLAG_IOPL | FLAG_NT | FLAG_ID | FLAG_AC | FLAG_OF | FLAG_SF | 2);
	core_close(&r);
	core_open(&r, CORE_PROT);
	core_user(&r); /* IOPL 0, IF 1 */
	push_frame((u64[]){ 0x10, CODE3, FLAG_IOPL | 2 }, 3, 4);
	assert_int_equal(cpu_iret(CPU, 4, NULL), STEP_STOP);
	assert_int_equal(cpu_rflags(CPU), FLAG_IF | 2); /* neither IOPL nor IF are its to change */
	core_close(&r);
}

static void iret_to_a_16_bit_stack_keeps_the_upper_half_of_esp(void **state)
{
	core_open(&r, CORE_PROT);
	core_gdt(&r, DATA16, 0, 0xffff, 0xf2, 0);
	push_frame((u64[]){ 0x10, CODE3, 2, 0x9000, DATA16 | 3 }, 5, 4);
	CPU->arch.gpr[GPR_RSP] |= 0x10000;
	for (unsigned i = 0; i < 5; i++) /* the frame again, where ESP points now */
		core_set(&r, 0x10000 + AT_STACK0 - 0x100 - 20 + 4 * i, 4, core_get(&r, AT_STACK0 - 0x100 - 20 + 4 * i, 4));
	assert_int_equal(cpu_iret(CPU, 4, NULL), STEP_STOP);
	assert_int_equal(CPU->arch.gpr[GPR_RSP], 0x19000);
	core_close(&r);
}

static void iret_in_64_bit_mode_always_pops_the_stack(void **state)
{
	core_open(&r, CORE_LONG);
	push_frame((u64[]){ 0xffff800000001234, CODE64, FLAG_IF | 2, 0x7777, 0 }, 5, 8); /* null SS at CPL 0 is fine */
	assert_int_equal(cpu_iret(CPU, 8, NULL), STEP_STOP);
	assert_int_equal(CPU->arch.rip, 0xffff800000001234);
	assert_int_equal(CPU->arch.gpr[GPR_RSP], 0x7777);
	CPU->arch.gpr[GPR_RSP] = 0x7000;
	push_frame((u64[]){ 0x0000800000000000, CODE64, 2, 0x7777, 0 }, 5, 8);
	core_expect_fault(&r, cpu_iret(CPU, 8, NULL), VEC_GP, 0);
	push_frame((u64[]){ 0x10, CODE64_3, 2, 0x7777, 3 }, 5, 8); /* but not at CPL 3 */
	core_expect_fault(&r, cpu_iret(CPU, 8, NULL), VEC_GP, 0);
	cpu_set_rflags(CPU, FLAG_NT);
	core_expect_fault(&r, cpu_iret(CPU, 8, NULL), VEC_GP, 0);
	core_close(&r);
}

static void syscall_and_sysret(void **state)
{
	core_open(&r, CORE_LONG);
	assert_true(cpu_wrmsr(CPU, 0xc0000081, (u64)(CODE0 | 3) << 48 | (u64)CODE64 << 32));
	assert_true(cpu_wrmsr(CPU, 0xc0000082, 0xffff800000005000));
	assert_true(cpu_wrmsr(CPU, 0xc0000084, FLAG_IF | FLAG_TF));
	core_user(&r);
	cpu_set_rflags(CPU, FLAG_IF | FLAG_CF);
	CPU->arch.rip = 0x500;
	assert_int_equal(cpu_syscall(CPU, 2), STEP_STOP);
	assert_int_equal(CPU->arch.rip, 0xffff800000005000);
	assert_int_equal(CPU->arch.gpr[GPR_RCX], 0x502);
	assert_int_equal(CPU->arch.gpr[GPR_R11], FLAG_IF | FLAG_CF | 2);
	assert_int_equal(cpu_rflags(CPU), FLAG_CF | 2);
	assert_int_equal(CPU->arch.cpl, 0);
	assert_int_equal(CPU->arch.seg[SEG_SS].sel, CODE64 + 8);
	assert_int_equal(cpu_sysret(CPU, 8), STEP_STOP);
	assert_int_equal(CPU->arch.cpl, 3);
	assert_int_equal(CPU->arch.seg[SEG_CS].sel, (CODE0 | 3) + 16);
	assert_int_equal(CPU->arch.seg[SEG_CS].attr, 0xa0fb);
	assert_int_equal(cpu_rflags(CPU), FLAG_IF | FLAG_CF | 2);
	core_expect_fault(&r, cpu_sysret(CPU, 8), VEC_GP, 0);
	cpu_syscall(CPU, 2);
	CPU->arch.gpr[GPR_RCX] = 0x0000800000000000;
	core_expect_fault(&r, cpu_sysret(CPU, 8), VEC_GP, 0);
	assert_int_equal(CPU->arch.cpl, 0);
	assert_int_equal(cpu_sysret(CPU, 4), STEP_STOP); /* to compatibility mode */
	assert_false(CPU->mode & MODE_L);
	core_expect_fault(&r, cpu_syscall(CPU, 2), VEC_UD, -1);
	core_close(&r);
}

static void sysenter_and_sysexit(void **state)
{
	core_open(&r, CORE_PROT);
	core_expect_fault(&r, cpu_sysenter(CPU), VEC_GP, 0);
	assert_true(cpu_wrmsr(CPU, 0x174, CODE0));
	assert_true(cpu_wrmsr(CPU, 0x175, 0x7000));
	assert_true(cpu_wrmsr(CPU, 0x176, 0x6000));
	core_user(&r);
	assert_int_equal(cpu_sysenter(CPU), STEP_STOP);
	assert_int_equal(CPU->arch.cpl, 0);
	assert_int_equal(CPU->arch.rip, 0x6000);
	assert_int_equal(CPU->arch.gpr[GPR_RSP], 0x7000);
	assert_false(CPU->arch.rflags & FLAG_IF);
	CPU->arch.gpr[GPR_RCX] = 0x9000;
	CPU->arch.gpr[GPR_RDX] = 0x1234;
	assert_int_equal(cpu_sysexit(CPU, 4), STEP_STOP);
	assert_int_equal(CPU->arch.cpl, 3);
	assert_int_equal(CPU->arch.rip, 0x1234);
	assert_int_equal(CPU->arch.seg[SEG_CS].sel, CODE3);
	assert_int_equal(CPU->arch.seg[SEG_SS].sel, DATA3);
	core_close(&r);
}

static void real_mode_far_calls_check_the_limit(void **state)
{
	core_open(&r, CORE_REAL);
	CPU->arch.rip = 0x10;
	assert_int_equal(cpu_far_call(CPU, 0x3000, 0x20, 2, 5), STEP_STOP);
	assert_int_equal(CPU->arch.seg[SEG_CS].base, 0x30000);
	assert_int_equal(core_stack(&r, 0, 2), 0x15);
	assert_int_equal(cpu_far_ret(CPU, 2, 0), STEP_STOP);
	assert_int_equal(CPU->arch.rip, 0x15);
	core_expect_fault(&r, cpu_far_jmp(CPU, 0x3000, 0x10000, 4, 7), VEC_GP, 0);
	CPU->arch.gpr[GPR_RSP] = 1;
	core_expect_fault(&r, cpu_far_call(CPU, 0x3000, 0x20, 2, 5), VEC_SS, 0);
	assert_int_equal(CPU->arch.gpr[GPR_RSP], 1);
	core_close(&r);
}

static void ports_are_allowed_by_iopl_or_by_the_bitmap(void **state)
{
	core_open(&r, CORE_PROT);
	assert_true(cpu_io_allowed(CPU, 0x60, 1));
	core_user(&r);
	core_set(&r, AT_TSS + 0x66, 2, 0xffff);
	assert_false(cpu_io_allowed(CPU, 0x60, 1)); /* bitmap beyond the limit */
	core_expect_fault(&r, STEP_FAULT, VEC_GP, 0);
	CPU->arch.tr.limit = 0x67 + 33;
	core_set(&r, AT_TSS + 0x66, 2, 0x68);
	for (unsigned i = 0; i < 33; i++)
		core_set(&r, AT_TSS + 0x68 + i, 1, i == 12 ? 0xfd : 0xff);
	assert_false(cpu_io_allowed(CPU, 0x60, 1));
	assert_true(cpu_io_allowed(CPU, 0x61, 1));
	assert_false(cpu_io_allowed(CPU, 0x61, 2));
	cpu_set_rflags(CPU, FLAG_IOPL);
	assert_true(cpu_io_allowed(CPU, 0x60, 4));
	core_close(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(jumps_check_the_code_segment), cmocka_unit_test(user_code_may_call_conforming_code_and_stays_user),
		cmocka_unit_test(a_call_gate_switches_stacks_copies_parameters_and_returns), cmocka_unit_test(call_gates_are_checked),
		cmocka_unit_test(a_64_bit_call_gate_pushes_quadwords_on_rsp0), cmocka_unit_test(iret_checks_its_frame),
		cmocka_unit_test(iret_loads_flags_by_privilege), cmocka_unit_test(iret_to_a_16_bit_stack_keeps_the_upper_half_of_esp),
		cmocka_unit_test(iret_in_64_bit_mode_always_pops_the_stack), cmocka_unit_test(syscall_and_sysret),
		cmocka_unit_test(sysenter_and_sysexit), cmocka_unit_test(real_mode_far_calls_check_the_limit),
		cmocka_unit_test(ports_are_allowed_by_iopl_or_by_the_bitmap),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
