/* An installed Debian that shuts down: the translator looks at a block twice, and read a vector instruction again where the TLB had its page in the first place only.
 * Data with the same place had moved it aside, the search for a block to join brought it back, and the two looks did not agree: the process ended as a bug. */
#include "interp_rig.h"

#include <stdlib.h>

extern unsigned jit_hot;

#define DIRECTORY (AT_TABLES + 0x2000)

static void data_in_the_place_of_code(void **state)
{
	struct core r;
	interp_open(&r, CORE_LONG);
	jit_hot = 12;
	core_set(&r, DIRECTORY, 8, 0x87); /* 0 and 8 MiB, whose pages have the same places: the same memory */
	core_set(&r, DIRECTORY + 32, 8, 0x87);
	core_set(&r, AT_TABLES + 0x1000, 8, DIRECTORY | 7);
	assert_int_not_equal(cpu_set_cr3(r.cpu, AT_TABLES), STEP_FAULT);
	assert_int_not_equal(cpu_set_cr4(r.cpu, CR4_PAE | CR4_OSFXSR), STEP_FAULT);
	interp_put(&r, 0x22000, "acacac eb0b");                         /* a: lodsb, three times: stays with the interpreter; jmp b */
	interp_put(&r, 0x22010, "0f1006 488b4620 488b5e28 eb03");       /* b: movups xmm0, [rsi]; mov rax, [rsi+32]; mov rbx, [rsi+40]; jmp c */
	interp_put(&r, 0x22020, "ffc9 75dc f4");                        /* c: dec ecx; jnz a */
	for (unsigned run = 0; run < 2; run++) { /* links, before b is hot; then with data in the place of code */
		r.cpu->arch.gpr[GPR_RSI] = run ? 0x822100 : 0x823100;
		r.cpu->arch.gpr[GPR_RCX] = run ? 64 : 6;
		interp_go(&r, 0x22000);
		assert_int_equal(r.cpu->arch.gpr[GPR_RCX], 0);
	}
	interp_close(&r);
}

int main(void)
{
	setenv("NESTBOX_TEST_ENGINE", "jit", 1);
	const struct CMUnitTest tests[] = { cmocka_unit_test(data_in_the_place_of_code) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
