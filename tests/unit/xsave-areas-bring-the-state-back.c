/* The XSAVE family at CPL 0: what each form writes (SDM volume 1, chapter "Managing State Using the XSAVE Feature Set") and that XRSTOR and XRSTORS
 * bring it back. What CPL 3 can do is compared with the silicon in tests/insn. */
#include "interp_rig.h"

static struct core r;
#define AT_AREA 0x50000u
#define COMPACTED BIT(63)

static int open_long(void **state)
{
	interp_open(&r, CORE_LONG);
	interp_catch(&r);
	return 0;
}
static int close_it(void **state)
{
	interp_close(&r);
	return 0;
}

static void prepare(u64 rfbm, bool initial)
{
	struct cpu_arch *a = &r.cpu->arch;

	a->cr4 |= CR4_OSFXSR | CR4_OSXSAVE;
	a->xcr0 = 7;
	a->gpr[GPR_RSP] = AT_STACK0;
	a->gpr[GPR_RSI] = AT_AREA;
	a->gpr[GPR_RAX] = rfbm;
	a->gpr[GPR_RDX] = 0;
	memset(a->x87, 0, sizeof a->x87);
	store_le(a->x87, 0x37f, 2);
	a->mxcsr = initial ? 0x1f80 : 0x3fa0;
	for (unsigned k = 0; k < sizeof a->ymm; k++)
		a->ymm[k] = initial ? 0 : (u8)(k * 37 + 1);
	if (!initial) {
		a->x87[4] = 0x80;
		store_le(a->x87 + 2, 0x3800, 2);
		store_le(a->x87 + 8, 0x123456, 8);
		store_le(a->x87 + 32, 0x8765432187654321, 8);
		store_le(a->x87 + 40, 0x4001, 2);
	}
	r.cpu->x87_resident = false;
	for (unsigned k = 0; k < 1024; k += 8)
		core_set(&r, AT_AREA + k, 8, 0xcccccccccccccccc);
	for (unsigned k = 512; k < 576; k += 8)
		core_set(&r, AT_AREA + k, 8, 0);
}

static u64 at(unsigned off) { return core_get(&r, AT_AREA + off, 8); }

static const struct { const char *name, *save, *restore; u64 xcomp; } forms[] = {
	{ "XSAVE", "480fae26", "480fae2e", 0 },
	{ "XSAVEOPT", "480fae36", "480fae2e", 0 },
	{ "XSAVEC", "480fc726", "480fae2e", COMPACTED },
	{ "XSAVES", "480fc72e", "480fc71e", COMPACTED },
};

static void round_trip(void **state)
{
	for (unsigned f = 0; f < array_len(forms); f++)
		for (u64 rfbm = 0; rfbm < 8; rfbm++) {
			struct cpu_arch before, *a = &r.cpu->arch;

			prepare(rfbm, false);
			before = *a;
			interp_do(&r, forms[f].save);
			assert_int_equal(interp_caught(&r), -1);
			assert_int_equal(at(512), rfbm);
			assert_int_equal(at(520), forms[f].xcomp ? forms[f].xcomp | rfbm : 0);
			assert_int_equal(at(576) == 0xcccccccccccccccc, !(rfbm & 4));
			memset(a->ymm, 0x55, sizeof a->ymm);
			store_le(a->x87 + 32, 1, 8);
			a->mxcsr = 0x1f80;
			interp_do(&r, forms[f].restore);
			assert_int_equal(interp_caught(&r), -1);
			for (unsigned x = 0; x < 16; x++) {
				assert_int_equal(!memcmp(a->ymm + 32 * x, before.ymm + 32 * x, 16), (rfbm & 2) != 0);
				assert_int_equal(!memcmp(a->ymm + 32 * x + 16, before.ymm + 32 * x + 16, 16), (rfbm & 4) != 0);
			}
			assert_int_equal(!memcmp(a->x87 + 32, before.x87 + 32, 8), rfbm & 1);
			/* The standard form loads MXCSR with AVX too. */
			assert_int_equal(a->mxcsr == 0x3fa0, (rfbm & (forms[f].xcomp ? 2 : 6)) != 0);
		}
}

static void initial_state_is_not_written(void **state)
{
	for (unsigned f = 1; f < array_len(forms); f++) {
		prepare(7, true);
		interp_do(&r, forms[f].save);
		assert_int_equal(at(512), 0);
		assert_int_equal(at(0), 0xcccccccccccccccc);
		assert_int_equal(at(160), 0xcccccccccccccccc);
		assert_int_equal(at(576), 0xcccccccccccccccc);
		/* and XRSTOR of it initialises */
		r.cpu->arch.gpr[GPR_RAX] = 7;
		memset(r.cpu->arch.ymm, 1, sizeof r.cpu->arch.ymm);
		store_le(r.cpu->arch.x87 + 32, 77, 8);
		core_set(&r, AT_AREA + 24, 8, 0x1f80);
		interp_do(&r, forms[f].restore);
		assert_int_equal(interp_caught(&r), -1);
		for (unsigned k = 0; k < sizeof r.cpu->arch.ymm; k++)
			assert_int_equal(r.cpu->arch.ymm[k], 0);
		assert_int_equal(load_le(r.cpu->arch.x87 + 32, 8), 0);
		assert_int_equal(load_le(r.cpu->arch.x87, 2), 0x37f);
	}
}

/* A header that XRSTORS must refuse. */
static void bad_headers(void **state)
{
	static const struct { u64 bv, comp; unsigned reserved; int vector; } rows[] = {
		{ 7, COMPACTED | 7, 0, -1 }, { 7, 0, 0, VEC_GP }, { 7, COMPACTED | 3, 0, VEC_GP }, { 8, COMPACTED | 15, 0, VEC_GP },
		{ 0, COMPACTED | BIT(9), 0, VEC_GP }, { 0, COMPACTED, 528, VEC_GP }, { 0, COMPACTED, 568, VEC_GP }, { 0, COMPACTED, 0, -1 },
	};

	for (unsigned k = 0; k < array_len(rows); k++) {
		prepare(7, false);
		for (unsigned n = 0; n < 512; n += 8)
			core_set(&r, AT_AREA + n, 8, 0);
		core_set(&r, AT_AREA + 512, 8, rows[k].bv);
		core_set(&r, AT_AREA + 520, 8, rows[k].comp);
		if (rows[k].reserved)
			core_set(&r, AT_AREA + rows[k].reserved, 8, 1);
		interp_do(&r, "480fc71e");
		if (interp_caught(&r) != rows[k].vector)
			fail_msg("row %u: vector %d, not %d", k, interp_caught(&r), rows[k].vector);
	}
}

static void sizes(void **state)
{
	assert_int_equal(cpu_xsave_size(1, 0, false), 576);
	assert_int_equal(cpu_xsave_size(3, 0, true), 576);
	assert_int_equal(cpu_xsave_size(7, 0, false), 832);
	assert_int_equal(cpu_xsave_size(7, 0, true), 832);
	assert_int_equal(cpu_xsave_size(7 | BIT(9), 0, false), 840);
	assert_int_equal(cpu_xsave_size(3 | BIT(9), 0, false), 840);
	assert_int_equal(cpu_xsave_size(3 | BIT(9), 0, true), 584);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(round_trip, open_long, close_it),
		cmocka_unit_test_setup_teardown(initial_state_is_not_written, open_long, close_it),
		cmocka_unit_test_setup_teardown(bad_headers, open_long, close_it),
		cmocka_unit_test(sizes),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
