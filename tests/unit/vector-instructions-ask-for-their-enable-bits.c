/* Which control bits x87, MMX, SSE and AVX instructions need, and which fault they raise without (SDM volume 3, "Emulation of x87 FPU
 * Instructions", "Initialization of the SSE Extensions", "Exception Conditions of Legacy SIMD and VEX Instructions"). */
#include "interp_rig.h"

static struct core r;
#define AT_MEM 0x50000
#define OK (-1)

static int open_long(void **state)
{
	interp_open(&r, CORE_LONG);
	interp_catch(&r);
	return 0;
}
static int open_real(void **state)
{
	interp_open(&r, CORE_REAL);
	return 0;
}
static int close_it(void **state)
{
	interp_close(&r);
	return 0;
}

/* Runs hex with CR0 bits and CR4 bits as given, XMM and x87 initialised, rsi = AT_MEM. Returns the vector or OK. */
static int with(const char *hex, u64 cr0, u64 cr4, u64 xcr0)
{
	struct cpu *c = r.cpu;

	c->arch.cr0 = (c->arch.cr0 & ~(u64)(CR0_EM | CR0_TS | CR0_MP | CR0_NE)) | cr0;
	c->arch.cr4 = (c->arch.cr4 & ~(u64)(CR4_OSFXSR | CR4_OSXSAVE | CR4_OSXMMEXCPT)) | cr4;
	c->arch.xcr0 = xcr0;
	c->arch.gpr[GPR_RSP] = AT_STACK0;
	c->arch.gpr[GPR_RSI] = AT_MEM;
	c->arch.mxcsr = 0x1f80;
	memset(c->arch.x87, 0, sizeof c->arch.x87);
	store_le(c->arch.x87, 0x37f, 2);
	c->x87_resident = false;
	interp_do(&r, hex);
	return interp_caught(&r);
}

static const struct { const char *name, *hex; u64 cr0, cr4, xcr0; int vector; } rows[] = {
	{ "x87", "d9e8", 0, 0, 1, OK },
	{ "x87, EM", "d9e8", CR0_EM, 0, 1, VEC_NM },
	{ "x87, TS", "d9e8", CR0_TS, 0, 1, VEC_NM },
	{ "x87 control, TS", "dbe3", CR0_TS, 0, 1, VEC_NM },
	{ "x87 store of status, EM", "dfe0", CR0_EM, 0, 1, VEC_NM },
	{ "x87, MP alone", "d9e8", CR0_MP, 0, 1, OK },
	{ "FWAIT, TS", "9b", CR0_TS, 0, 1, OK },
	{ "FWAIT, MP", "9b", CR0_MP, 0, 1, OK },
	{ "FWAIT, MP and TS", "9b", CR0_MP | CR0_TS, 0, 1, VEC_NM },
	{ "FWAIT, EM", "9b", CR0_EM, 0, 1, OK },
	{ "MMX", "0f6fc1", 0, 0, 1, OK },
	{ "MMX, EM", "0f6fc1", CR0_EM, 0, 1, VEC_UD },
	{ "MMX, TS", "0f6fc1", CR0_TS, 0, 1, VEC_NM },
	{ "MMX, EM and TS", "0f6fc1", CR0_EM | CR0_TS, 0, 1, VEC_UD },
	{ "EMMS, TS", "0f77", CR0_TS, 0, 1, VEC_NM },
	{ "PSHUFW needs no OSFXSR", "0f70c100", 0, 0, 1, OK },
	{ "MOVDQ2Q needs OSFXSR", "f20fd6c1", 0, 0, 1, VEC_UD },
	{ "MOVDQ2Q", "f20fd6c1", 0, CR4_OSFXSR, 1, OK },
	{ "SSE", "0f58c1", 0, CR4_OSFXSR, 1, OK },
	{ "SSE, no OSFXSR", "0f58c1", 0, 0, 1, VEC_UD },
	{ "SSE, EM", "0f58c1", CR0_EM, CR4_OSFXSR, 1, VEC_UD },
	{ "SSE, TS", "0f58c1", CR0_TS, CR4_OSFXSR, 1, VEC_NM },
	{ "SSE, EM and TS", "0f58c1", CR0_EM | CR0_TS, CR4_OSFXSR, 1, VEC_UD },
	{ "SSE, no OSFXSR, TS", "0f58c1", CR0_TS, 0, 1, VEC_UD },
	{ "SSE move, TS", "0f2806", CR0_TS, CR4_OSFXSR, 1, VEC_NM },
	{ "SSE move to memory, no OSFXSR", "0f2906", 0, 0, 1, VEC_UD },
	{ "SSE, XCR0 does not matter", "0f58c1", 0, CR4_OSFXSR | CR4_OSXSAVE, 1, OK },
	{ "STMXCSR, TS", "0fae1e", CR0_TS, CR4_OSFXSR, 1, VEC_NM },
	{ "STMXCSR, no OSFXSR", "0fae1e", 0, 0, 1, VEC_UD },
	{ "CVTSI2SD, no OSFXSR", "f20f2ac0", 0, 0, 1, VEC_UD },
	{ "CVTTSS2SI from memory, TS", "f30f2c06", CR0_TS, CR4_OSFXSR, 1, VEC_NM },
	{ "AVX", "c5f058c1", 0, CR4_OSXSAVE, 7, OK },
	{ "AVX, no OSXSAVE", "c5f058c1", 0, CR4_OSFXSR, 7, VEC_UD },
	{ "AVX, XCR0 without AVX", "c5f058c1", 0, CR4_OSXSAVE, 3, VEC_UD },
	{ "AVX, TS", "c5f058c1", CR0_TS, CR4_OSXSAVE, 7, VEC_NM },
	{ "AVX, XCR0 without AVX, TS", "c5f058c1", CR0_TS, CR4_OSXSAVE, 3, VEC_UD },
	{ "AVX, EM does not matter", "c5f058c1", CR0_EM, CR4_OSXSAVE, 7, OK },
	{ "AVX, OSFXSR does not matter", "c5f058c1", 0, CR4_OSXSAVE, 7, OK },
	{ "VZEROUPPER, TS", "c5f877", CR0_TS, CR4_OSXSAVE, 7, VEC_NM },
	{ "VMASKMOVPS, XCR0 without AVX", "c4e2712c06", 0, CR4_OSXSAVE, 3, VEC_UD },
	{ "VMOVAPS, TS", "c5f82806", CR0_TS, CR4_OSXSAVE, 7, VEC_NM },
	{ "FXSAVE", "0fae06", 0, 0, 1, OK },
	{ "FXSAVE, EM", "0fae06", CR0_EM, 0, 1, VEC_NM },
	{ "FXSAVE, TS", "0fae06", CR0_TS, 0, 1, VEC_NM },
	{ "FXSAVE, misaligned", "0fae4608", 0, 0, 1, VEC_GP },
	{ "XSAVE", "0fae26", 0, CR4_OSXSAVE, 7, OK },
	{ "XSAVE, no OSXSAVE", "0fae26", 0, 0, 7, VEC_UD },
	{ "XSAVE, TS", "0fae26", CR0_TS, CR4_OSXSAVE, 7, VEC_NM },
	{ "XSAVE, EM does not matter", "0fae26", CR0_EM, CR4_OSXSAVE, 7, OK },
	{ "XSAVE, misaligned", "0fae6620", 0, CR4_OSXSAVE, 7, VEC_GP },
	/* Unmask division by zero, then 1 / 0. */
	{ "x87 exception waits", "c7067b030000 d92e d9e8 d9ee def9", CR0_NE, 0, 1, OK },
	{ "x87 exception, next x87", "c7067b030000 d92e d9e8 d9ee def9 d9e8", CR0_NE, 0, 1, VEC_MF },
	{ "x87 exception, FWAIT", "c7067b030000 d92e d9e8 d9ee def9 9b", CR0_NE, 0, 1, VEC_MF },
	{ "x87 exception, MMX", "c7067b030000 d92e d9e8 d9ee def9 0f6fc1", CR0_NE, 0, 1, VEC_MF },
	{ "x87 exception, EMMS", "c7067b030000 d92e d9e8 d9ee def9 0f77", CR0_NE, 0, 1, VEC_MF },
	{ "x87 exception, FNSTSW and FNCLEX do not wait", "c7067b030000 d92e d9e8 d9ee def9 dfe0 dbe2 9b", CR0_NE, 0, 1, OK },
	{ "x87 exception, SSE does not care", "c7067b030000 d92e d9e8 d9ee def9 0f58c1", CR0_NE, CR4_OSFXSR, 1, OK },
	{ "x87 exception, FNSTENV masks it", "c7067b030000 d92e d9e8 d9ee def9 d97610 9b", CR0_NE, 0, 1, OK },
	{ "FLDCW that unmasks an old flag", "d9e8 d9ee def9 c7067b030000 d92e 9b", CR0_NE, 0, 1, VEC_MF },
	{ "SIMD exception", "c706801d0000 0fae16 0f57c0 0f57c9 0f5ec1", 0, CR4_OSFXSR | CR4_OSXMMEXCPT, 1, OK }, /* 0/0 is invalid, masked */
	{ "SIMD exception, invalid", "c706001f0000 0fae16 0f57c0 0f57c9 0f5ec1", 0, CR4_OSFXSR | CR4_OSXMMEXCPT, 1, VEC_XM },
	{ "SIMD exception, no OSXMMEXCPT", "c706001f0000 0fae16 0f57c0 0f57c9 0f5ec1", 0, CR4_OSFXSR, 1, VEC_UD },
	{ "LDMXCSR, reserved bit", "c70600000100 0fae16", 0, CR4_OSFXSR, 1, VEC_GP },
};

static void enable_bits(void **state)
{
	for (unsigned k = 0; k < array_len(rows); k++) {
		int got = with(rows[k].hex, rows[k].cr0, rows[k].cr4, rows[k].xcr0);

		if (got != rows[k].vector)
			fail_msg("%s: vector %d, not %d", rows[k].name, got, rows[k].vector);
	}
}

/* A fault leaves the stored XMM state and the flags that MXCSR got; the result is not written. */
static void simd_exception_leaves_the_destination(void **state)
{
	r.cpu->arch.gpr[GPR_RAX] = 0;
	assert_int_equal(with("c706001f0000 0fae16 0f57c0 0f57c9 0f5ec1", 0, CR4_OSFXSR | CR4_OSXMMEXCPT, 1), VEC_XM);
	assert_int_equal(r.cpu->arch.mxcsr, 0x1f01);
	assert_int_equal(load_le(r.cpu->arch.ymm, 8), 0);
}

static void vex_does_not_exist_in_real_mode(void **state)
{
	r.cpu->arch.cr4 |= CR4_OSXSAVE | CR4_OSFXSR;
	r.cpu->arch.xcr0 = 7;
	r.cpu->arch.gpr[GPR_RSP] = 0x8000;
	core_set(&r, VEC_UD * 4, 4, AT_HANDLER >> 4 << 16);
	interp_put(&r, AT_HANDLER, "f4");
	interp_do(&r, "c5f877");
	assert_int_equal(r.cpu->arch.seg[SEG_CS].base + r.cpu->arch.rip, AT_HANDLER + 1);
	interp_do(&r, "0f57c0"); /* but SSE does */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(enable_bits, open_long, close_it),
		cmocka_unit_test_setup_teardown(simd_exception_leaves_the_destination, open_long, close_it),
		cmocka_unit_test_setup_teardown(vex_does_not_exist_in_real_mode, open_real, close_it),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
