/* fuzz-cpu, seed 476: an #AC handler at CPL 3 on a misaligned stack. The delivery of #AC raises #AC, which is benign, so it is delivered in turn, for
 * ever (silicon locks up: CVE-2015-5307). The vCPU's thread could not be stopped. Now it is a shutdown that says why. */
#include "regress.h"

static void alignment_check_on_the_handlers_stack(void **state)
{
	struct core r;
	interp_open(&r, CORE_PROT);
	core_idt(&r, VEC_AC, CODE3, AT_HANDLER, 0xee, 0);
	interp_put(&r, AT_CODE, "50"); /* push eax */
	core_user(&r);
	r.cpu->arch.gpr[GPR_RSP] = AT_STACK3 - 1;
	assert_int_equal(cpu_set_cr0(r.cpu, r.cpu->arch.cr0 | CR0_AM), STEP_STOP);
	cpu_set_rflags(r.cpu, cpu_rflags(r.cpu) | FLAG_AC);
	cpu_update_mode(r.cpu);
	assert_int_equal(regress_run(&r, AT_CODE, 100000), EXIT_SHUTDOWN);
	assert_non_null(strstr(r.cpu->death, "without end"));
	interp_close(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(alignment_check_on_the_handlers_stack) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
