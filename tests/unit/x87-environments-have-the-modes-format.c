/* FNSTENV, FLDENV, FNSAVE and FRSTOR in the four formats of SDM volume 1, "Saving the x87 FPU's State with FSTENV/FNSTENV and FSAVE/FNSAVE". */
#include "interp_rig.h"

static struct core r;
#define AT_MEM 0x6000u

static int open_long(void **state) { interp_open(&r, CORE_LONG); return 0; }
static int open_prot(void **state) { interp_open(&r, CORE_PROT); return 0; }
static int open_real(void **state) { interp_open(&r, CORE_REAL); return 0; }
static int close_it(void **state) { interp_close(&r); return 0; }

/* FCW 37Fh, FSW 3800h (TOP 7), ST0 valid; FOP, FIP and FDP as given. */
static void prepare(u32 fip, u32 fdp, u16 fop)
{
	struct cpu *c = r.cpu;

	memset(c->arch.x87, 0, sizeof c->arch.x87);
	store_le(c->arch.x87, 0x37f, 2);
	store_le(c->arch.x87 + 2, 0x3800, 2);
	c->arch.x87[4] = 0x80;
	store_le(c->arch.x87 + 6, fop, 2);
	store_le(c->arch.x87 + 8, fip, 8);
	store_le(c->arch.x87 + 16, fdp, 8);
	store_le(c->arch.x87 + 32, BIT(63), 8);
	store_le(c->arch.x87 + 40, 0x3fff, 2);
	c->x87_resident = false;
	c->arch.gpr[GPR_RSI] = AT_MEM;
	for (unsigned k = 0; k < 128; k += 4)
		core_set(&r, AT_MEM + k, 4, 0xcccccccc);
}

static void words(unsigned n, const u32 *want)
{
	for (unsigned k = 0; k < n; k++)
		if (core_get(&r, AT_MEM + 4 * k, 4) != want[k])
			fail_msg("word %u: %#llx, not %#x", k, (unsigned long long)core_get(&r, AT_MEM + 4 * k, 4), want[k]);
}

static void halves(unsigned n, const u16 *want)
{
	for (unsigned k = 0; k < n; k++)
		if (core_get(&r, AT_MEM + 2 * k, 2) != want[k])
			fail_msg("half %u: %#llx, not %#x", k, (unsigned long long)core_get(&r, AT_MEM + 2 * k, 2), want[k]);
}

static void protected_32(void **state)
{
	prepare(0x12345678, 0x9abcdef0, 0x5a5);
	interp_do(&r, "d936"); /* fnstenv [rsi] */
	words(8, (const u32[]){ 0xffff037f, 0xffff3800, 0xffff3fff, 0x12345678, 0x05a50000, 0x9abcdef0, 0xffff0000, 0xcccccccc });
}

static void protected_16(void **state)
{
	prepare(0x12345678, 0x9abcdef0, 0x5a5);
	interp_do(&r, "66d936");
	halves(8, (const u16[]){ 0x37f, 0x3800, 0x3fff, 0x5678, 0, 0xdef0, 0, 0xcccc });
}

static void real_16(void **state)
{
	prepare(0xa5678, 0xbdef0, 0x5a5);
	interp_do(&r, "d934"); /* fnstenv [si] */
	halves(8, (const u16[]){ 0x37f, 0x3800, 0x3fff, 0x5678, 0xa5a5, 0xdef0, 0xb000, 0xcccc });
}

static void real_32(void **state)
{
	prepare(0x12345678, 0x9abcdef0, 0x5a5);
	interp_do(&r, "66d934");
	assert_int_equal(core_get(&r, AT_MEM + 12, 2), 0x5678);
	assert_int_equal(core_get(&r, AT_MEM + 16, 4), 0x12345a5 | 0x1234 << 12);
	assert_int_equal(core_get(&r, AT_MEM + 20, 2), 0xdef0);
	assert_int_equal(core_get(&r, AT_MEM + 24, 4), 0x9abc << 12);
	assert_int_equal(core_get(&r, AT_MEM + 28, 4), 0xcccccccc);
}

static void fnstenv_masks_and_fldenv_brings_back(void **state)
{
	prepare(0x1000, 0x2000, 0x111);
	store_le(r.cpu->arch.x87, 0x340, 2);
	interp_do(&r, "d936 d97e40"); /* fnstenv [rsi]; fnstcw [rsi+40h] */
	assert_int_equal(core_get(&r, AT_MEM, 2), 0x340);
	assert_int_equal(core_get(&r, AT_MEM + 0x40, 2), 0x37f);
	interp_do(&r, "dbe3 d926 d97e40"); /* fninit; fldenv [rsi]; fnstcw */
	assert_int_equal(core_get(&r, AT_MEM + 0x40, 2), 0x340);
	assert_int_equal(load_le(r.cpu->arch.x87 + 2, 2), 0x3800);
	assert_int_equal(load_le(r.cpu->arch.x87 + 6, 2), 0x111);
	assert_int_equal(load_le(r.cpu->arch.x87 + 8, 8), 0x1000);
	assert_int_equal(load_le(r.cpu->arch.x87 + 16, 8), 0x2000);
}

static void fnsave_initialises_and_frstor_brings_back(void **state)
{
	u8 before[160];

	prepare(0x1000, 0x2000, 0x111);
	memcpy(before, r.cpu->arch.x87, 160);
	interp_do(&r, "dd36"); /* fnsave [rsi] */
	assert_int_equal(load_le(r.cpu->arch.x87, 2), 0x37f);
	assert_int_equal(load_le(r.cpu->arch.x87 + 2, 8), 0);
	assert_int_equal(load_le(r.cpu->arch.x87 + 8, 8), 0);
	assert_int_equal(core_get(&r, AT_MEM + 108, 4), 0xcccccccc);
	interp_do(&r, "dd26");
	assert_memory_equal(r.cpu->arch.x87, before, 24);
	assert_memory_equal(r.cpu->arch.x87 + 32, before + 32, 128);
}

/* The pointer follows every instruction that is not for control; opcode and data pointer only unmasked exceptions. */
static void pointers(void **state)
{
	prepare(0, 0, 0);
	interp_do(&r, "d9e8 d906"); /* fld1; fld dword [rsi] */
	assert_int_equal(load_le(r.cpu->arch.x87 + 8, 8), AT_CODE + 2);
	assert_int_equal(load_le(r.cpu->arch.x87 + 16, 8), 0);
	interp_do(&r, "d9e8 d97e40 dfe0 dbe2"); /* fld1; fnstcw; fnstsw ax; fnclex */
	assert_int_equal(load_le(r.cpu->arch.x87 + 8, 8), AT_CODE);
	prepare(0, 0, 0);
	core_set(&r, AT_MEM, 4, 0);
	core_set(&r, AT_MEM + 0x40, 2, 0x37b);
	interp_do(&r, "d96e40 d836"); /* fldcw [rsi+40h]; fdiv dword [rsi] */
	assert_int_equal(load_le(r.cpu->arch.x87 + 6, 2), 0x036);
	assert_int_equal(load_le(r.cpu->arch.x87 + 8, 8), AT_CODE + 3);
	assert_int_equal(load_le(r.cpu->arch.x87 + 16, 8), AT_MEM);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(protected_32, open_long, close_it),
		cmocka_unit_test_setup_teardown(protected_16, open_long, close_it),
		cmocka_unit_test_setup_teardown(protected_32, open_prot, close_it),
		cmocka_unit_test_setup_teardown(protected_16, open_prot, close_it),
		cmocka_unit_test_setup_teardown(real_16, open_real, close_it),
		cmocka_unit_test_setup_teardown(real_32, open_real, close_it),
		cmocka_unit_test_setup_teardown(fnstenv_masks_and_fldenv_brings_back, open_long, close_it),
		cmocka_unit_test_setup_teardown(fnsave_initialises_and_frstor_brings_back, open_prot, close_it),
		cmocka_unit_test_setup_teardown(pointers, open_long, close_it),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
