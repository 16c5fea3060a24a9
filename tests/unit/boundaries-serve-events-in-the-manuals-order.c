#include "core_rig.h"

static struct core r;
static struct exit_record what;
#define CPU (r.cpu)

enum { HANDLER_NMI = AT_HANDLER, HANDLER_IRQ = AT_HANDLER + 0x100, HANDLER_DB = AT_HANDLER + 0x200, HANDLER_BP = AT_HANDLER + 0x300 };

static void open_prot(void)
{
	core_open(&r, CORE_PROT);
	core_idt(&r, VEC_NMI, CODE0, HANDLER_NMI, 0x8e, 0);
	core_idt(&r, 0x40, CODE0, HANDLER_IRQ, 0x8e, 0);
	core_idt(&r, VEC_DB, CODE0, HANDLER_DB, 0x8e, 0);
	core_idt(&r, VEC_BP, CODE0, HANDLER_BP, 0x8e, 0);
	CPU->arch.rip = 0x100;
}
static void irq(void)
{
	r.irq = 0x40;
	cpu_pend(CPU, PEND_INTR);
}
static void service(void) { assert_true(cpu_service(CPU, &what)); }
/* One instruction of `len` bytes ran. */
static void step(unsigned len)
{
	CPU->arch.rip += len;
	CPU->icount++;
	service();
}
static void sti(void)
{
	CPU->arch.rflags |= FLAG_IF;
	cpu_unblocked(CPU);
	cpu_set_shadow(CPU, SHADOW_STI);
}

static void an_interrupt_waits_for_if(void **state)
{
	open_prot();
	irq();
	service();
	assert_int_equal(CPU->arch.rip, 0x100);
	assert_int_equal(CPU->pending, 0); /* no reason to come back before IF changes */
	cpu_set_rflags(CPU, FLAG_IF);
	assert_true(cpu_must_service(CPU));
	service();
	assert_int_equal(CPU->arch.rip, HANDLER_IRQ);
	assert_int_equal(r.acknowledged, 1);
	core_close(&r);
}

static void sti_holds_interrupts_for_exactly_one_instruction(void **state)
{
	open_prot();
	irq();
	service();
	sti();
	step(1);
	assert_int_equal(CPU->arch.rip, 0x101);
	assert_true(CPU->mode & MODE_ONE);
	assert_true(cpu_must_service(CPU));
	step(1); /* nop */
	assert_int_equal(CPU->arch.rip, HANDLER_IRQ);
	assert_int_equal(core_stack(&r, 0, 4), 0x102);
	assert_false(CPU->mode & MODE_ONE);
	core_close(&r);
}

static void sti_hlt_does_not_lose_the_wake_up(void **state)
{
	open_prot();
	irq();
	service();
	sti();
	step(1);
	CPU->arch.rip++; /* hlt */
	cpu_halt(CPU, ACT_HLT);
	service();
	assert_int_equal(CPU->arch.activity, ACT_ACTIVE);
	assert_int_equal(CPU->arch.rip, HANDLER_IRQ);
	assert_int_equal(core_stack(&r, 0, 4), 0x102);
	core_close(&r);
}

static void hlt_sleeps_until_an_interrupt(void **state)
{
	open_prot();
	cpu_set_rflags(CPU, FLAG_IF);
	cpu_halt(CPU, ACT_HLT);
	assert_true(cpu_must_service(CPU));
	assert_false(cpu_service(CPU, &what));
	assert_int_equal(what.kind, EXIT_HALT);
	assert_int_equal(what.wake_v, CLOCK_NEVER);
	assert_int_equal(CPU->pending, 0);
	assert_false(cpu_service(CPU, &what)); /* nothing happened: still asleep */
	irq();
	service();
	assert_int_equal(CPU->arch.rip, HANDLER_IRQ);
	core_close(&r);
}

static void hlt_with_if_clear_wakes_for_nmi_only(void **state)
{
	open_prot();
	cpu_halt(CPU, ACT_HLT);
	irq();
	assert_false(cpu_service(CPU, &what));
	assert_int_equal(CPU->pending, 0); /* else the sleeper would spin */
	cpu_pend(CPU, PEND_NMI);
	service();
	assert_int_equal(CPU->arch.rip, HANDLER_NMI);
	core_close(&r);
}

static void nmis_are_blocked_until_iret_even_if_it_faults(void **state)
{
	open_prot();
	cpu_pend(CPU, PEND_NMI);
	service();
	assert_int_equal(CPU->arch.rip, HANDLER_NMI);
	cpu_pend(CPU, PEND_NMI);
	service();
	assert_int_equal(core_stack(&r, 0, 4), 0x100); /* not taken */
	assert_int_equal(CPU->pending, 0);
	core_set(&r, CPU->arch.gpr[GPR_RSP] + 4, 4, DATA3); /* bad CS in the frame */
	core_expect_fault(&r, cpu_iret(CPU, 4, NULL), VEC_GP, DATA3 & ~3);
	assert_true(cpu_must_service(CPU));
	service();
	assert_int_equal(core_stack(&r, 0, 4), HANDLER_NMI);
	core_close(&r);
}

static void an_nmi_comes_before_an_interrupt(void **state)
{
	open_prot();
	cpu_set_rflags(CPU, FLAG_IF);
	irq();
	cpu_pend(CPU, PEND_NMI);
	service();
	assert_int_equal(CPU->arch.rip, HANDLER_NMI); /* its gate cleared IF */
	assert_int_equal(r.acknowledged, 0);
	assert_int_equal(cpu_iret(CPU, 4, NULL), STEP_STOP);
	service();
	assert_int_equal(CPU->arch.rip, HANDLER_IRQ);
	core_close(&r);
}

static void tf_traps_after_the_instruction_that_began_with_it(void **state)
{
	open_prot();
	cpu_set_rflags(CPU, FLAG_TF); /* as by POPF: no trap yet */
	service();
	assert_int_equal(CPU->arch.rip, 0x100);
	step(3);
	assert_int_equal(CPU->arch.rip, HANDLER_DB);
	assert_int_equal(core_stack(&r, 0, 4), 0x103);
	assert_int_equal(CPU->arch.dr[6], 0xffff4ff0);
	assert_false(CPU->arch.rflags & FLAG_TF);
	core_close(&r);
}

static void a_fault_takes_the_place_of_the_single_step_trap(void **state)
{
	open_prot();
	core_idt(&r, VEC_UD, CODE0, AT_HANDLER + 0x400, 0x8e, 0);
	cpu_set_rflags(CPU, FLAG_TF);
	service();
	cpu_ud(CPU);
	cpu_take_fault(CPU);
	service();
	assert_int_equal(CPU->arch.rip, AT_HANDLER + 0x400);
	assert_true(core_get(&r, CPU->arch.gpr[GPR_RSP] + 8, 4) & FLAG_TF);
	core_close(&r);
}

static void mov_ss_holds_debug_traps_back_into_the_next_handler(void **state)
{
	open_prot();
	CPU->arch.dr[0] = 0x5000;
	assert_int_not_equal(cpu_mov_to_dr(CPU, 7, 0xd0001 | 0x400), STEP_FAULT); /* 4-byte write */
	service();
	cpu_debug_data(CPU, 0x5002, 1, true); /* MOV SS from memory that hits it (any access would do) */
	cpu_set_shadow(CPU, SHADOW_MOVSS);
	step(2);
	assert_int_equal(CPU->arch.rip, 0x102);
	cpu_soft_event(CPU, EVENT_SOFT_EXC, VEC_BP, 1); /* INT3 next: CVE-2018-8897 */
	service();
	assert_int_equal(CPU->arch.rip, HANDLER_DB);
	assert_int_equal(core_stack(&r, 0, 4), HANDLER_BP);
	assert_int_equal(CPU->arch.dr[6] & 0xf, 1);
	core_close(&r);
}

static void data_breakpoints_match_their_range_and_kind(void **state)
{
	open_prot();
	CPU->arch.dr[1] = 0x5000;
	assert_int_not_equal(cpu_mov_to_dr(CPU, 7, 0xd00000 | 4 | 0x400), STEP_FAULT);
	cpu_debug_data(CPU, 0x4ffc, 4, true);
	cpu_debug_data(CPU, 0x5004, 4, true);
	cpu_debug_data(CPU, 0x5000, 4, false);
	assert_int_equal(CPU->arch.pending_dbg, 0);
	cpu_debug_data(CPU, 0x4ffe, 8, true);
	assert_int_equal(CPU->arch.pending_dbg, BIT(12) | 2);
	core_close(&r);
}

static void code_breakpoints_fault_once_and_rf_passes_them(void **state)
{
	open_prot();
	CPU->arch.dr[2] = 0x100;
	assert_int_not_equal(cpu_mov_to_dr(CPU, 7, 0x20 | 0x400), STEP_FAULT);
	service();
	assert_int_equal(CPU->arch.rip, HANDLER_DB);
	assert_int_equal(CPU->arch.dr[6] & 0xf, 4);
	u64 frame = CPU->arch.gpr[GPR_RSP];
	assert_int_equal(core_get(&r, frame, 4), 0x100);
	assert_false(core_get(&r, frame + 8, 4) & FLAG_RF); /* the handler has to set it */
	core_set(&r, frame + 8, 4, core_get(&r, frame + 8, 4) | FLAG_RF);
	assert_int_equal(cpu_iret(CPU, 4, NULL), STEP_STOP);
	service();
	assert_int_equal(CPU->arch.rip, 0x100); /* runs it */
	step(1);
	assert_int_equal(CPU->arch.rip, 0x101);
	assert_false(CPU->arch.rflags & FLAG_RF);
	core_close(&r);
}

static void init_sends_the_boot_cpu_to_the_reset_vector_and_others_to_sleep(void **state)
{
	open_prot();
	CPU->arch.cr0 |= CR0_CD;
	CPU->arch.star = 5;
	cpu_pend(CPU, PEND_INIT);
	service();
	assert_int_equal(CPU->arch.rip, 0xfff0);
	assert_int_equal(CPU->arch.seg[SEG_CS].base, 0xffff0000);
	assert_int_equal(CPU->arch.cr0, CR0_ET | CR0_CD);
	assert_int_equal(CPU->arch.star, 5);
	CPU->arch.apic_base &= ~BIT(8);
	cpu_pend(CPU, PEND_INIT);
	assert_false(cpu_service(CPU, &what));
	assert_int_equal(what.kind, EXIT_HALT);
	irq(); /* nothing but SIPI wakes it */
	cpu_pend(CPU, PEND_NMI);
	assert_false(cpu_service(CPU, &what));
	CPU->arch.sipi_vector = 0x9a;
	cpu_pend(CPU, PEND_SIPI);
	service();
	assert_int_equal(CPU->arch.seg[SEG_CS].sel, 0x9a00);
	assert_int_equal(CPU->arch.seg[SEG_CS].base, 0x9a000);
	assert_int_equal(CPU->arch.rip, 0);
	core_close(&r);
}

static void a_kick_leaves_and_code_requests_are_passed_on(void **state)
{
	open_prot();
	cpu_pend(CPU, PEND_CODE | PEND_KICK);
	assert_false(cpu_service(CPU, &what));
	assert_int_equal(what.kind, EXIT_KICK);
	assert_int_equal(r.code_calls, 1);
	cpu_unpend(CPU, PEND_KICK);         /* the VM's part */
	assert_true(cpu_must_service(CPU)); /* the next run begins with a service */
	service();
	core_close(&r);
}

static void timer_fired(void *o) { ++*(unsigned *)o; }

static void timers_fire_when_instructions_have_passed(void **state)
{
	unsigned fired = 0;
	struct clock_timer t = { .fire = timer_fired, .opaque = &fired, .name = "t" };
	open_prot();
	clock_add_timer(&r.clock, &t);
	clock_arm(&r.clock, &t, 1000);
	cpu_pend(CPU, PEND_TIMER);
	service();
	assert_int_equal(CPU->budget_end - CPU->icount, 500); /* 2 ns each */
	CPU->icount += 499;
	assert_false(cpu_must_service(CPU));
	CPU->icount++;
	assert_true(cpu_must_service(CPU));
	service();
	assert_int_equal(fired, 1);
	assert_int_equal(clock_now(&r.clock), 1000);
	core_close(&r);
}

/* A host's clock that goes on with the instructions: 2,000 million a second, or 100 million. */
static u64 host_at;
static u64 fake_host(void) { return host_at; }
static u64 run_against_host(u64 host_ps_per_insn, u64 insns)
{
	open_prot();
	r.clock.host_ns = fake_host;
	host_at = 1000;
	for (u64 n = 0; n < insns; n += 10000) {
		CPU->icount += 10000;
		host_at += 10000 * host_ps_per_insn / 1000;
		service();
	}
	u64 v = cpu_now(CPU);
	core_close(&r);
	return v;
}

static void time_does_not_run_ahead_of_the_host(void **state)
{
	u64 v = run_against_host(500, 1000000000); /* half a second of the host */
	assert_in_range(v, 490000000, 525000000);
	v = run_against_host(10000, 20000000); /* a slow host: 2 ns an instruction, and the rest is not caught up with */
	assert_in_range(v, 39000000, 41000000);
}

static void a_vcpu_adopts_the_time_of_one_that_is_ahead(void **state)
{
	open_prot();
	u64 before = cpu_tsc(CPU);
	clock_publish(&r.clock, 5000000);
	cpu_pend(CPU, PEND_TIMER);
	service();
	assert_int_equal(cpu_now(CPU), 5000000);
	assert_int_equal(cpu_tsc(CPU) - before, 10000000); /* 2 GHz */
	clock_publish(&r.clock, 6000000);
	CPU->ncpus = 2;
	assert_int_equal(cpu_tsc(CPU) - before, 12000000); /* another vCPU may have read this already */
	core_close(&r);
}

static void dr7_gd_traps_and_dr4_is_an_alias(void **state)
{
	u64 v;
	open_prot();
	assert_int_equal(cpu_mov_from_dr(CPU, 4, &v), STEP_END);
	assert_int_equal(v, 0xffff0ff0);
	CPU->arch.cr4 |= CR4_DE;
	core_expect_fault(&r, cpu_mov_from_dr(CPU, 4, &v), VEC_UD, -1);
	core_expect_fault(&r, cpu_mov_to_dr(CPU, 7, 1ull << 32), VEC_GP, 0);
	assert_int_equal(cpu_mov_to_dr(CPU, 6, 0), STEP_STOP);
	assert_int_equal(CPU->arch.dr[6], 0xffff0ff0);
	assert_int_equal(cpu_mov_to_dr(CPU, 7, 0xffffffff), STEP_STOP);
	assert_int_equal(CPU->arch.dr[7], 0xffff27ff);
	core_expect_fault(&r, cpu_mov_to_dr(CPU, 0, 0), VEC_DB, -1);
	assert_int_equal(CPU->fault.payload, BIT(13));
	CPU->arch.dr[7] = 0x2400;
	cpu_mov_from_dr(CPU, 0, &v);
	cpu_take_fault(CPU);
	assert_int_equal(CPU->arch.dr[6], 0xffff2ff0);
	assert_int_equal(CPU->arch.dr[7], 0x400);
	core_close(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_interrupt_waits_for_if), cmocka_unit_test(sti_holds_interrupts_for_exactly_one_instruction),
		cmocka_unit_test(sti_hlt_does_not_lose_the_wake_up), cmocka_unit_test(hlt_sleeps_until_an_interrupt),
		cmocka_unit_test(hlt_with_if_clear_wakes_for_nmi_only), cmocka_unit_test(nmis_are_blocked_until_iret_even_if_it_faults),
		cmocka_unit_test(an_nmi_comes_before_an_interrupt), cmocka_unit_test(tf_traps_after_the_instruction_that_began_with_it),
		cmocka_unit_test(a_fault_takes_the_place_of_the_single_step_trap), cmocka_unit_test(mov_ss_holds_debug_traps_back_into_the_next_handler),
		cmocka_unit_test(data_breakpoints_match_their_range_and_kind), cmocka_unit_test(code_breakpoints_fault_once_and_rf_passes_them),
		cmocka_unit_test(init_sends_the_boot_cpu_to_the_reset_vector_and_others_to_sleep),
		cmocka_unit_test(a_kick_leaves_and_code_requests_are_passed_on), cmocka_unit_test(timers_fire_when_instructions_have_passed),
		cmocka_unit_test(time_does_not_run_ahead_of_the_host), cmocka_unit_test(a_vcpu_adopts_the_time_of_one_that_is_ahead), cmocka_unit_test(dr7_gd_traps_and_dr4_is_an_alias),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
