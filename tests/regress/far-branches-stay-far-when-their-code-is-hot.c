/* fuzz-cpu, seed 1124: with a 64-bit operand, far JMP, CALL and RET have the mnemonics and sizes of near ones, and the translator took them for those:
 * JMP and CALL went to themselves, RET popped no CS. */
#include "interp_rig.h"

#include <stdlib.h>

static void far_branches(void **state)
{
	static const struct { const char *code; u64 rip; } rows[] = {
		{ "48ff2c2500300300", AT_HANDLER + 0x201 }, /* jmp far [33000h] */
		{ "48ff1c2500300300", AT_HANDLER + 0x201 }, /* call far [33000h] */
		{ "48cb", AT_HANDLER + 0x201 },
	};
	for (unsigned i = 0; i < array_len(rows); i++) {
		struct core r;
		interp_open(&r, CORE_LONG);
		interp_catch(&r);
		interp_put(&r, AT_HANDLER + 0x200, "f4");
		core_set(&r, 0x33000, 8, AT_HANDLER + 0x200);
		core_set(&r, 0x33008, 8, CODE64);
		core_set(&r, AT_STACK0 - 0x100, 8, AT_HANDLER + 0x200);
		core_set(&r, AT_STACK0 - 0xf8, 8, CODE64);
		for (unsigned times = 0; times < 4; times++) {
			r.cpu->arch.gpr[GPR_RSP] = AT_STACK0 - 0x100;
			interp_do(&r, rows[i].code);
			assert_int_equal(r.cpu->arch.rip, rows[i].rip);
			assert_int_equal(r.cpu->arch.gpr[GPR_RSP], AT_STACK0 - 0x100 + (i == 1 ? -16 : i == 2 ? 16 : 0));
		}
		interp_close(&r);
	}
}

int main(void)
{
	setenv("NESTBOX_TEST_ENGINE", "jit", 1);
	const struct CMUnitTest tests[] = { cmocka_unit_test(far_branches) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
