/* fuzz-cpu, seed 5167: empty places in the table of jump targets held 8000000000000000h, "not canonical". A guest that jumped just there found such a
 * place, and host code went on at its null pointer: the process died. */
#include "interp_rig.h"

#include <stdlib.h>

static void jumps_and_calls(void **state)
{
	static const char *const branches[] = { "ffe0", "ffd0", "c3" };
	static const u64 targets[] = { 0x8000000000000000, 0, 1, 0x1000, 0xfffffffffffff000, 0x7fffffffffff, 0x800000000000 };
	for (unsigned i = 0; i < array_len(branches) * array_len(targets); i++) {
		struct core r;
		interp_open(&r, CORE_LONG);
		interp_catch(&r);
		interp_put(&r, 0, "f4f4");
		interp_put(&r, 0x1000, "f4");
		u64 to = targets[i / array_len(branches)];
		core_set(&r, AT_STACK0 - 0x100, 8, to);
		for (unsigned times = 0; times < 4; times++) {
			r.cpu->arch.gpr[GPR_RAX] = to;
			r.cpu->arch.gpr[GPR_RSP] = AT_STACK0 - 0x100;
			interp_do(&r, branches[i % array_len(branches)]);
			if (to > 0x1000)
				assert_true(interp_caught(&r) == VEC_GP || interp_caught(&r) == VEC_PF);
			else
				assert_int_equal(r.cpu->arch.rip, to + 1);
		}
		interp_close(&r);
	}
}

int main(void)
{
	setenv("NESTBOX_TEST_ENGINE", "jit", 1);
	const struct CMUnitTest tests[] = { cmocka_unit_test(jumps_and_calls) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
