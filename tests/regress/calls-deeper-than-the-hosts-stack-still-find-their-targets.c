/* Two CPUs in L2: when return addresses had filled the host's stack, a call to another page took its target from a register that C had changed, and the
 * guest ran to a host address. */
#include "interp_rig.h"

#include <stdlib.h>

static void deep_recursion(void **state)
{
	struct core r;
	interp_open(&r, CORE_LONG);
	interp_catch(&r);
	interp_put(&r, 0x22000, "ffc9 7e05 e8f71f0000 c3"); /* f: if (--ecx > 0) g() */
	interp_put(&r, 0x24000, "ffc9 7e05 e8f7dfffff c3"); /* g: if (--ecx > 0) f() */
	for (unsigned times = 0; times < 3; times++) {
		r.cpu->arch.gpr[GPR_RSP] = 0xf0000;
		interp_do(&r, "b9e02e0000 e8f61f0000"); /* mov ecx, 12000; call f */
		assert_int_equal(r.cpu->arch.rip, AT_CODE + 11);
		assert_int_equal(r.cpu->arch.gpr[GPR_RSP], 0xf0000);
		assert_int_equal(r.cpu->arch.gpr[GPR_RCX], 0);
	}
	interp_close(&r);
}

int main(void)
{
	setenv("NESTBOX_TEST_ENGINE", "jit", 1);
	const struct CMUnitTest tests[] = { cmocka_unit_test(deep_recursion) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
