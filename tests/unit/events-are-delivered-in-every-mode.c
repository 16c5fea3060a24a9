#include "core_rig.h"

static struct core r;
#define CPU (r.cpu)

static void raise_fault(unsigned vector, int error)
{
	CPU->fault = (struct event){ .kind = EVENT_FAULT, .vector = (u8)vector, .has_error = error >= 0, .error = error >= 0 ? (u32)error : 0 };
	cpu_take_fault(CPU);
}
static struct event external(u8 vector) { return (struct event){ .kind = EVENT_EXT_INT, .vector = vector }; }

static void real_mode_pushes_three_words_and_no_error_code(void **state)
{
	core_open(&r, CORE_REAL);
	core_set(&r, 13 * 4, 4, 0x3000u << 16 | 0x123);
	cpu_set_rflags(CPU, FLAG_IF | FLAG_CF);
	CPU->arch.rip = 0x77;
	raise_fault(VEC_GP, 0x18);
	assert_int_equal(CPU->arch.rip, 0x123);
	assert_int_equal(CPU->arch.seg[SEG_CS].base, 0x30000);
	assert_int_equal(CPU->arch.gpr[GPR_RSP], 0x8000 - 6);
	assert_int_equal(core_stack(&r, 0, 2), 0x77);
	assert_int_equal(core_stack(&r, 1, 2), AT_CODE >> 4);
	assert_int_equal(core_stack(&r, 2, 2), FLAG_IF | FLAG_CF | 2);
	assert_false(cpu_rflags(CPU) & FLAG_IF);
	core_close(&r);
}

static void protected_mode_same_privilege(void **state)
{
	core_open(&r, CORE_PROT);
	core_idt(&r, VEC_GP, CODE0, AT_HANDLER, 0x8f, 0); /* trap gate: IF stays */
	cpu_set_rflags(CPU, FLAG_IF | FLAG_TF | FLAG_NT);
	CPU->arch.rip = 0x1234;
	u64 sp = CPU->arch.gpr[GPR_RSP];
	raise_fault(VEC_GP, 0x18);
	assert_int_equal(CPU->arch.rip, AT_HANDLER);
	assert_int_equal(CPU->arch.gpr[GPR_RSP], sp - 16);
	assert_int_equal(core_stack(&r, 0, 4), 0x18);
	assert_int_equal(core_stack(&r, 1, 4), 0x1234);
	assert_int_equal(core_stack(&r, 2, 4), CODE0);
	assert_int_equal(core_stack(&r, 3, 4), FLAG_IF | FLAG_TF | FLAG_NT | FLAG_RF | 2); /* a fault sets RF */
	assert_int_equal(cpu_rflags(CPU), FLAG_IF | 2);
	core_close(&r);
}

static void interrupt_gates_clear_if_and_leave_rf_alone(void **state)
{
	core_open(&r, CORE_PROT);
	core_idt(&r, 0x40, CODE0, AT_HANDLER, 0x8e, 0);
	cpu_set_rflags(CPU, FLAG_IF);
	cpu_deliver(CPU, external(0x40));
	assert_int_equal(core_stack(&r, 2, 4), FLAG_IF | 2);
	assert_int_equal(cpu_rflags(CPU), 2);
	core_close(&r);
}

static void sixteen_bit_gates_push_words(void **state)
{
	core_open(&r, CORE_PROT);
	core_idt(&r, 0x40, CODE0, 0x5678, 0x86, 0);
	u64 sp = CPU->arch.gpr[GPR_RSP];
	cpu_deliver(CPU, external(0x40));
	assert_int_equal(CPU->arch.gpr[GPR_RSP], sp - 6);
	assert_int_equal(CPU->arch.rip, 0x5678);
	core_close(&r);
}

static void an_inner_handler_gets_the_stack_of_the_tss(void **state)
{
	core_open(&r, CORE_PROT);
	core_user(&r);
	core_idt(&r, 0x40, CODE0, AT_HANDLER, 0x8e, 0);
	CPU->arch.rip = 0x4444;
	cpu_deliver(CPU, external(0x40));
	assert_int_equal(CPU->arch.cpl, 0);
	assert_int_equal(CPU->arch.seg[SEG_SS].sel, DATA0);
	assert_int_equal(CPU->arch.gpr[GPR_RSP], AT_STACK0 - 20);
	assert_int_equal(core_stack(&r, 0, 4), 0x4444);
	assert_int_equal(core_stack(&r, 1, 4), CODE3);
	assert_int_equal(core_stack(&r, 2, 4), 0x202);
	assert_int_equal(core_stack(&r, 3, 4), AT_STACK3);
	assert_int_equal(core_stack(&r, 4, 4), DATA3);
	core_close(&r);
}

static void int_n_obeys_the_gates_dpl(void **state)
{
	core_open(&r, CORE_PROT);
	core_user(&r);
	core_idt(&r, 0x40, CODE0, AT_HANDLER, 0x8e, 0);
	core_idt(&r, 0x41, CODE0, AT_HANDLER, 0xee, 0);
	core_idt(&r, VEC_GP, CODE0, AT_HANDLER + 0x100, 0x8e, 0);
	CPU->arch.rip = 0x4444;
	assert_int_equal(cpu_soft_event(CPU, EVENT_SOFT_INT, 0x41, 2), STEP_STOP);
	assert_int_equal(CPU->arch.rip, AT_HANDLER);
	assert_int_equal(core_stack(&r, 0, 4), 0x4446);
	core_close(&r);
	core_open(&r, CORE_PROT);
	core_user(&r);
	core_idt(&r, 0x40, CODE0, AT_HANDLER, 0x8e, 0);
	core_idt(&r, VEC_GP, CODE0, AT_HANDLER + 0x100, 0x8e, 0);
	CPU->arch.rip = 0x4444;
	cpu_soft_event(CPU, EVENT_SOFT_INT, 0x40, 2);
	assert_int_equal(CPU->arch.rip, AT_HANDLER + 0x100);
	assert_int_equal(core_stack(&r, 0, 4), 0x40 * 8 + 2); /* IDT, not external */
	assert_int_equal(core_stack(&r, 1, 4), 0x4444);
	core_close(&r);
}

static void error_codes_tell_external_events(void **state)
{
	core_open(&r, CORE_PROT);
	core_idt(&r, VEC_NP, CODE0, AT_HANDLER, 0x8e, 0);
	core_idt(&r, 0x40, CODE0, AT_HANDLER, 0x0e, 0); /* not present */
	cpu_deliver(CPU, external(0x40));
	assert_int_equal(CPU->arch.rip, AT_HANDLER);
	assert_int_equal(core_stack(&r, 0, 4), 0x40 * 8 + 2 + 1);
	core_idt(&r, 0x41, ABSENT_CODE, AT_HANDLER, 0x8e, 0);
	cpu_deliver(CPU, external(0x41));
	assert_int_equal(core_stack(&r, 0, 4), ABSENT_CODE | 1);
	core_close(&r);
}

static void long_mode_aligns_the_stack_and_pushes_five_quadwords(void **state)
{
	core_open(&r, CORE_LONG);
	core_idt(&r, VEC_PF, CODE64, 0xffff800000000000 + AT_HANDLER, 0x8e, 0);
	CPU->arch.gpr[GPR_RSP] = 0x7fff;
	CPU->arch.rip = 0x1111;
	CPU->fault = (struct event){ .kind = EVENT_FAULT, .vector = VEC_PF, .has_error = 1, .error = 2, .payload = 0xdead000 };
	cpu_take_fault(CPU);
	assert_int_equal(CPU->arch.cr2, 0xdead000);
	assert_int_equal(CPU->arch.rip, 0xffff800000000000 + AT_HANDLER);
	assert_int_equal(CPU->arch.gpr[GPR_RSP], 0x7ff0 - 48);
	assert_int_equal(core_stack(&r, 0, 8), 2);
	assert_int_equal(core_stack(&r, 1, 8), 0x1111);
	assert_int_equal(core_stack(&r, 2, 8), CODE64);
	assert_int_equal(core_stack(&r, 4, 8), 0x7fff);
	assert_int_equal(core_stack(&r, 5, 8), DATA0);
	assert_int_equal(CPU->arch.seg[SEG_SS].sel, DATA0); /* no change of privilege: SS stays */
	core_close(&r);
}

static void long_mode_inner_handlers_run_with_a_null_ss(void **state)
{
	core_open(&r, CORE_LONG);
	core_user(&r);
	core_idt(&r, 0x40, CODE64, AT_HANDLER, 0x8e, 0);
	cpu_deliver(CPU, external(0x40));
	assert_int_equal(CPU->arch.seg[SEG_SS].sel, 0);
	assert_int_equal(CPU->arch.gpr[GPR_RSP], AT_STACK0 - 40);
	assert_int_equal(core_stack(&r, 4, 8), DATA3);
	/* and back */
	assert_int_equal(cpu_iret(CPU, 8, NULL), STEP_STOP);
	assert_int_equal(CPU->arch.cpl, 3);
	assert_int_equal(CPU->arch.gpr[GPR_RSP], AT_STACK3);
	assert_int_equal(CPU->arch.seg[SEG_SS].sel, DATA3);
	core_close(&r);
}

static void ist_switches_stacks_without_a_privilege_change(void **state)
{
	core_open(&r, CORE_LONG);
	core_idt(&r, VEC_DB, CODE64, AT_HANDLER, 0x8e, 1);
	cpu_deliver(CPU, (struct event){ .kind = EVENT_TRAP, .vector = VEC_DB, .payload = BIT(14) });
	assert_int_equal(CPU->arch.gpr[GPR_RSP], AT_IST - 40);
	assert_int_equal(CPU->arch.dr[6], 0xffff4ff0);
	core_close(&r);
}

static void long_mode_refuses_legacy_gates_and_code(void **state)
{
	core_open(&r, CORE_LONG);
	core_idt(&r, VEC_GP, CODE64, AT_HANDLER, 0x8e, 0);
	core_idt(&r, 0x40, CODE0, 0, 0x8e, 0); /* 32-bit code */
	cpu_deliver(CPU, external(0x40));
	assert_int_equal(core_stack(&r, 0, 8), CODE0 | 1);
	core_idt(&r, 0x41, CODE64, 0, 0x85, 0); /* task gate */
	cpu_deliver(CPU, external(0x41));
	assert_int_equal(core_stack(&r, 0, 8), 0x41 * 8 + 3);
	core_idt(&r, 0x42, CODE64, 0x0000900000000000, 0x8e, 0); /* not canonical */
	cpu_deliver(CPU, external(0x42));
	assert_int_equal(core_stack(&r, 0, 8), 1);
	core_close(&r);
}

static void enter_vm86(void)
{
	static const u32 frame[] = { 0x10, 0x2000, FLAG_VM | FLAG_IF, 0x100, 0x900, 0x11, 0x22, 0x33, 0x44 };
	CPU->arch.gpr[GPR_RSP] = 0x7000;
	for (unsigned i = 0; i < array_len(frame); i++)
		core_set(&r, 0x7000 + 4 * i, 4, frame[i]);
	assert_int_equal(cpu_iret(CPU, 4, NULL), STEP_STOP);
	assert_true(CPU->mode & MODE_VM86);
}

static void virtual_8086_mode_is_entered_and_left_with_all_segments(void **state)
{
	core_open(&r, CORE_PROT);
	enter_vm86();
	assert_int_equal(CPU->arch.cpl, 3);
	assert_int_equal(CPU->arch.rip, 0x10);
	assert_int_equal(CPU->arch.seg[SEG_CS].base, 0x20000);
	assert_int_equal(CPU->arch.seg[SEG_SS].base, 0x9000);
	assert_int_equal(CPU->arch.seg[SEG_ES].sel, 0x11);
	assert_int_equal(CPU->arch.seg[SEG_GS].sel, 0x44);
	core_idt(&r, 0x40, CODE0, AT_HANDLER, 0x8e, 0);
	cpu_deliver(CPU, external(0x40));
	assert_int_equal(CPU->arch.gpr[GPR_RSP], AT_STACK0 - 36);
	assert_int_equal(core_stack(&r, 2, 4) & FLAG_VM, FLAG_VM);
	assert_int_equal(core_stack(&r, 4, 4), 0x900);
	assert_int_equal(core_stack(&r, 5, 4), 0x11);
	assert_int_equal(core_stack(&r, 8, 4), 0x44);
	assert_true(CPU->arch.seg[SEG_DS].attr & SEG_UNUSABLE);
	assert_false(CPU->mode & MODE_VM86);
	assert_int_equal(cpu_iret(CPU, 4, NULL), STEP_STOP);
	assert_true(CPU->mode & MODE_VM86);
	core_expect_fault(&r, cpu_soft_event(CPU, EVENT_SOFT_INT, 0x40, 2), VEC_GP, 0); /* IOPL < 3 */
	core_expect_fault(&r, cpu_iret(CPU, 2, NULL), VEC_GP, 0);
	core_close(&r);
}

static void a_virtual_8086_handler_must_run_at_cpl_0(void **state)
{
	core_open(&r, CORE_PROT);
	core_idt(&r, VEC_GP, CODE0, AT_HANDLER, 0x8e, 0);
	core_idt(&r, 0x40, CODE3, AT_HANDLER, 0x8e, 0);
	enter_vm86();
	cpu_deliver(CPU, external(0x40));
	assert_int_equal(core_stack(&r, 0, 4), (CODE3 & ~3) | 1);
	core_close(&r);
}

static void bad_inner_stacks_are_ts_faults(void **state)
{
	static const struct { u16 ss; u8 vector; int error; } rows[] = {
		{ 0, VEC_TS, 1 }, { DATA3, VEC_TS, (DATA3 & ~3) | 1 }, { READ_ONLY, VEC_TS, READ_ONLY | 1 }, { ABSENT_DATA, VEC_SS, ABSENT_DATA | 1 },
		{ GDT_END, VEC_TS, GDT_END | 1 }
	};
	for (unsigned i = 0; i < array_len(rows); i++) {
		core_open(&r, CORE_PROT);
		core_user(&r);
		core_set(&r, AT_TSS + 8, 2, rows[i].ss);
		core_idt(&r, 0x40, CODE0, AT_HANDLER, 0x8e, 0);
		struct event ev = external(0x40);
		core_expect_fault(&r, event_deliver_once(CPU, &ev, false), rows[i].vector, rows[i].error);
		assert_int_equal(CPU->arch.cpl, 3);
		assert_int_equal(CPU->arch.gpr[GPR_RSP], AT_STACK3);
		core_close(&r);
	}
	core_open(&r, CORE_PROT);
	core_user(&r);
	core_idt(&r, 0x40, CODE0, AT_HANDLER, 0x8e, 0);
	CPU->arch.tr.limit = 8;
	struct event ev = external(0x40);
	core_expect_fault(&r, event_deliver_once(CPU, &ev, false), VEC_TS, TSS | 1);
	core_close(&r);
}

static void two_contributory_faults_are_a_double_fault(void **state)
{
	core_open(&r, CORE_PROT);
	core_idt(&r, VEC_DF, CODE0, AT_HANDLER, 0x8e, 0); /* #GP's gate is empty: #GP again */
	CPU->arch.rip = 0x55;
	raise_fault(VEC_NP, 0x18);
	assert_int_equal(CPU->arch.rip, AT_HANDLER);
	assert_int_equal(core_stack(&r, 0, 4), 0);
	assert_int_equal(core_stack(&r, 1, 4), 0x55);
	core_close(&r);
}

static void a_fault_while_delivering_an_interrupt_is_served_alone(void **state)
{
	core_open(&r, CORE_PROT);
	core_idt(&r, VEC_GP, CODE0, AT_HANDLER, 0x8e, 0);
	cpu_deliver(CPU, external(0x40)); /* empty gate */
	assert_int_equal(CPU->arch.rip, AT_HANDLER);
	assert_int_equal(core_stack(&r, 0, 4), 0x40 * 8 + 3);
	core_close(&r);
}

static void a_page_fault_inside_a_page_fault_is_a_double_fault(void **state)
{
	core_open(&r, CORE_LONG);
	core_idt(&r, VEC_PF, CODE64, AT_HANDLER, 0x8e, 0);
	core_idt(&r, VEC_DF, CODE64, AT_HANDLER + 0x100, 0x8e, 1);
	CPU->arch.gpr[GPR_RSP] = 0x40001000; /* beyond the one gigabyte that is mapped */
	CPU->fault = (struct event){ .kind = EVENT_FAULT, .vector = VEC_PF, .has_error = 1, .payload = 0x1234567890 };
	cpu_take_fault(CPU);
	assert_int_equal(CPU->arch.rip, AT_HANDLER + 0x100);
	assert_int_equal(CPU->arch.cr2, 0x40000ff8);
	core_close(&r);
}

static void a_triple_fault_shuts_down_and_says_why(void **state)
{
	struct exit_record what;
	core_open(&r, CORE_PROT);
	CPU->arch.idtr.limit = 0;
	CPU->arch.rip = 0xabcd;
	cpu_soft_event(CPU, EVENT_SOFT_EXC, VEC_BP, 1);
	assert_int_equal(CPU->arch.activity, ACT_SHUTDOWN);
	assert_non_null(strstr(CPU->death, "0008:abcd"));
	assert_non_null(strstr(CPU->death, "#BP whose delivery raised #GP(1a), then #GP(1a) whose delivery raised #GP(6b), then #DF"));
	assert_false(cpu_service(CPU, &what));
	assert_int_equal(what.kind, EXIT_SHUTDOWN);
	core_close(&r);
}

static void injected_exceptions_leave_cr2_and_dr6_alone(void **state)
{
	core_open(&r, CORE_LONG);
	core_idt(&r, VEC_PF, CODE64, AT_HANDLER, 0x8e, 0);
	CPU->arch.cr2 = 0x77;
	event_deliver_injected(CPU, (struct event){ .kind = EVENT_FAULT, .vector = VEC_PF, .has_error = 1, .error = 5 });
	assert_int_equal(CPU->arch.cr2, 0x77);
	assert_int_equal(core_stack(&r, 0, 8), 5);
	core_close(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(real_mode_pushes_three_words_and_no_error_code), cmocka_unit_test(protected_mode_same_privilege),
		cmocka_unit_test(interrupt_gates_clear_if_and_leave_rf_alone), cmocka_unit_test(sixteen_bit_gates_push_words),
		cmocka_unit_test(an_inner_handler_gets_the_stack_of_the_tss), cmocka_unit_test(int_n_obeys_the_gates_dpl),
		cmocka_unit_test(error_codes_tell_external_events), cmocka_unit_test(long_mode_aligns_the_stack_and_pushes_five_quadwords),
		cmocka_unit_test(long_mode_inner_handlers_run_with_a_null_ss), cmocka_unit_test(ist_switches_stacks_without_a_privilege_change),
		cmocka_unit_test(long_mode_refuses_legacy_gates_and_code), cmocka_unit_test(virtual_8086_mode_is_entered_and_left_with_all_segments),
		cmocka_unit_test(a_virtual_8086_handler_must_run_at_cpl_0), cmocka_unit_test(bad_inner_stacks_are_ts_faults),
		cmocka_unit_test(two_contributory_faults_are_a_double_fault), cmocka_unit_test(a_fault_while_delivering_an_interrupt_is_served_alone),
		cmocka_unit_test(a_page_fault_inside_a_page_fault_is_a_double_fault), cmocka_unit_test(a_triple_fault_shuts_down_and_says_why),
		cmocka_unit_test(injected_exceptions_leave_cr2_and_dr6_alone),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
