/* An interrupt line that stays up, an interrupt controller that ends interrupts by itself, and a trap gate: before the handler's first instruction
 * the next interrupt is taken, without end. The loop of boundary work never looked whether the VM wants the vCPU to stop. */
#include "regress.h"

static int always(void *o) { return 0x40; }

static void stuck_line(void **state)
{
	struct core r;
	interp_open(&r, CORE_PROT);
	struct intc_ops stuck = *r.cpu->intc;
	stuck.pending = stuck.acknowledge = always;
	r.cpu->intc = &stuck;
	core_idt(&r, 0x40, CODE0, AT_HANDLER, 0x8f, 0);
	interp_put(&r, AT_HANDLER, "cf");
	interp_put(&r, AT_CODE, "90ebfd");
	r.cpu->arch.gpr[GPR_RSP] = 0x1f0000;
	cpu_set_rflags(r.cpu, FLAG_FIXED1 | FLAG_IF);
	cpu_pend(r.cpu, PEND_INTR);
	assert_int_equal(regress_run(&r, AT_CODE, 5000), EXIT_KICK);
	assert_true(r.cpu->stats.interrupts > 1000);
	interp_close(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(stuck_line) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
