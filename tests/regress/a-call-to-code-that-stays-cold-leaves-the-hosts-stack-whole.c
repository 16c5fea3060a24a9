/* SeaBIOS and an installed Debian killed the VM's process: a call to another page where no host code was had left the guest's return address on the host's
 * stack, without a host address; cold code led to host code, and that one's RET went to the guest's address on the host. */
#include "interp_rig.h"

#include <stdlib.h>

static void calls(void **state)
{
	struct core r;
	interp_open(&r, CORE_LONG);
	interp_catch(&r);
	interp_put(&r, 0x22ffe, "83c001"); /* f: add eax, 1, across the page's border: never translated */
	interp_put(&r, 0x23001, "c3");
	interp_put(&r, 0x24000, "31c0 b988130000 e8f2efffff ffc9 75f7 c3"); /* g: xor eax, eax; mov ecx, 5000; again: call f; dec ecx; jnz again */
	for (unsigned times = 0; times < 3; times++) {
		r.cpu->arch.gpr[GPR_RSP] = 0xf0000;
		interp_do(&r, "e8fb3f0000 90"); /* call g */
		assert_int_equal(r.cpu->arch.gpr[GPR_RSP], 0xf0000);
		assert_int_equal(r.cpu->arch.gpr[GPR_RAX], 5000);
	}
	interp_close(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(calls) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
