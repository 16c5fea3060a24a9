/* Length, page and segment limits of instruction fetch; which bytes are which instruction (GUESTS.md section 8, items 11, 23, 24). */
#include "interp_rig.h"
#include "isa/decode.h"

#include <stdio.h>

static struct core r;
#define GPR(n) (r.cpu->arch.gpr[GPR_##n])

static int open_long(void **state)
{
	interp_open(&r, CORE_LONG);
	interp_catch(&r);
	return 0;
}
static int open_prot(void **state)
{
	interp_open(&r, CORE_PROT);
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

static void fifteen_bytes_run_sixteen_fault(void **state)
{
	interp_do(&r, "66666666666666666666666666 6690");
	assert_int_equal(interp_caught(&r), -1);
	interp_do(&r, "6666666666666666666666666666 6690");
	assert_int_equal(interp_caught(&r), VEC_GP);
	assert_int_equal(core_stack(&r, 1, 8), AT_CODE);
}

/* 4 KiB pages at 1 GiB, page 0 present, page 1 not. */
static void map_one_page(void)
{
	u64 pd = AT_TABLES + 0x2000, pt = AT_TABLES + 0x3000;
	core_set(&r, AT_TABLES + 0x1008, 8, pd | 7);
	core_set(&r, pd, 8, pt | 7);
	core_set(&r, pt, 8, 0x40000 | 7);
	mmu_flush_all(r.cpu);
}

static void fetch_faults_on_the_second_page_only_when_needed(void **state)
{
	map_one_page();
	interp_put(&r, 0x40ffe, "eb90"); /* two bytes that end the page: a jump back to page 0 */
	interp_put(&r, 0x40f90, "f4");
	interp_go(&r, 0x40000ffe);
	assert_int_equal(interp_caught(&r), -1);
	interp_put(&r, 0x40ffe, "b811"); /* mov eax, imm32 */
	interp_go(&r, 0x40000ffe);
	assert_int_equal(interp_caught(&r), VEC_PF);
	assert_int_equal(r.cpu->arch.cr2, 0x40001000);
	assert_int_equal(core_stack(&r, 1, 8), 0x40000ffe);
}

static void falling_off_a_page_faults_at_the_next(void **state)
{
	map_one_page();
	interp_put(&r, 0x40ff0, "ffc0 ffc0 ffc0 ffc0 ffc0 ffc0 ffc0 ffc0");
	GPR(RAX) = 0;
	u64 before = r.cpu->icount;
	interp_go(&r, 0x40000ff0);
	assert_int_equal(interp_caught(&r), VEC_PF);
	assert_int_equal(GPR(RAX), 8);
	assert_int_equal(core_stack(&r, 1, 8), 0x40001000);
	assert_int_equal(r.cpu->icount - before, 10); /* eight, the delivery, and the handler's HLT */
}

static void a_fault_in_mid_block_counts_what_ran(void **state)
{
	GPR(RAX) = 0;
	u64 before = r.cpu->icount;
	interp_do(&r, "ffc0 ffc0 0f0b ffc0 ffc0");
	assert_int_equal(interp_caught(&r), VEC_UD);
	assert_int_equal(GPR(RAX), 2);
	assert_int_equal(r.cpu->icount - before, 4); /* two, the delivery, and the handler's HLT */
}

static void code_segment_limit_holds_for_every_byte(void **state)
{
	/* SMALL_CODE: limit FFh, 32-bit. At FEh: two bytes fit; three do not. */
	core_set(&r, 0xfe, 2, 0x9090);
	core_set(&r, 0x100, 1, 0xf4);
	core_set(&r, 0xfd, 1, 0x90);
	interp_put(&r, AT_CODE, "ea fd000000 b000");
	interp_go(&r, AT_CODE);
	assert_int_equal(interp_caught(&r), VEC_GP);
	assert_int_equal(core_stack(&r, 1, 4), 0x100);
	core_set(&r, 0xfe, 2, 0x11b8);
	interp_go(&r, AT_CODE);
	assert_int_equal(interp_caught(&r), VEC_GP);
	assert_int_equal(core_stack(&r, 1, 4), 0xfe);
}

static void real_mode_words_do_not_wrap_at_the_limit(void **state)
{
	/* IVT: every vector to 0:7000, HLT there. mov ax,[ffff]: #GP (13) */
	for (unsigned v = 0; v < 32; v++)
		core_set(&r, 4 * v, 4, 0x7000);
	interp_put(&r, 0x7000, "f4");
	GPR(RAX) = 0x1234;
	interp_put(&r, AT_CODE, "a1ffff f4");
	interp_go(&r, AT_CODE);
	assert_int_equal(r.cpu->arch.rip, 0x7001);
	assert_int_equal(GPR(RAX), 0x1234);
	assert_int_equal(core_stack(&r, 0, 2), 0);
}

/* ---- decoding ---- */
struct row {
	enum isa_mode mode;
	const char *hex;
	enum isa_result result;
	ZydisMnemonic mnemonic;
	unsigned len;
};

static const struct row rows[] = {
	{ ISA_64, "f30f1efa", ISA_OK, ZYDIS_MNEMONIC_NOP, 4 },         /* ENDBR64 */
	{ ISA_64, "f3480f1ec8", ISA_OK, ZYDIS_MNEMONIC_NOP, 5 },       /* RDSSPQ */
	{ ISA_64, "660f1ac0", ISA_OK, ZYDIS_MNEMONIC_NOP, 4 },         /* BNDMOV */
	{ ISA_64, "f30f1b00", ISA_OK, ZYDIS_MNEMONIC_NOP, 4 },         /* BNDMK */
	{ ISA_64, "0f1c00", ISA_OK, ZYDIS_MNEMONIC_NOP, 3 },           /* CLDEMOTE */
	{ ISA_64, "0f18f8", ISA_OK, ZYDIS_MNEMONIC_NOP, 3 },
	{ ISA_64, "0f0d08", ISA_OK, ZYDIS_MNEMONIC_PREFETCHW, 3 },
	{ ISA_64, "0fb9c0", ISA_OK, ZYDIS_MNEMONIC_UD1, 3 },
	{ ISA_64, "0fff", ISA_MORE, 0, 0 },                            /* UD0 has a ModRM byte */
	{ ISA_64, "f390", ISA_OK, ZYDIS_MNEMONIC_PAUSE, 2 },
	{ ISA_64, "4190", ISA_OK, ZYDIS_MNEMONIC_XCHG, 2 },
	{ ISA_64, "f00fa300", ISA_UD, 0, 0 },                          /* LOCK BT */
	{ ISA_64, "f0ffc0", ISA_UD, 0, 0 },                            /* LOCK INC EAX */
	{ ISA_64, "f08700", ISA_OK, ZYDIS_MNEMONIC_XCHG, 3 },
	{ ISA_64, "66e810000000", ISA_OK, ZYDIS_MNEMONIC_CALL, 6 },    /* 66 is ignored on near branches */
	{ ISA_64, "37", ISA_UD, 0, 0 },                                /* AAA */
	{ ISA_64, "06", ISA_UD, 0, 0 },                                /* PUSH ES */
	{ ISA_64, "82c001", ISA_UD, 0, 0 },
	{ ISA_32, "82c001", ISA_OK, ZYDIS_MNEMONIC_ADD, 3 },
	{ ISA_32, "d6", ISA_OK, ZYDIS_MNEMONIC_SALC, 1 },
	{ ISA_64, "0f2018", ISA_OK, ZYDIS_MNEMONIC_MOV, 3 },           /* MOV from CR3 ignores mod */
	{ ISA_64, "0f20c8", ISA_UD, 0, 0 },                            /* CR1 */
	{ ISA_64, "8ec8", ISA_UD, 0, 0 },                              /* MOV CS */
	{ ISA_64, "f1", ISA_OK, ZYDIS_MNEMONIC_INT1, 1 },
	{ ISA_64, "d1f0", ISA_OK, ZYDIS_MNEMONIC_SHL, 2 },             /* group 2 /6 is SHL */
	{ ISA_64, "f6c801", ISA_OK, ZYDIS_MNEMONIC_TEST, 3 },          /* group 3 /1 is TEST */
	{ ISA_64, "f30fbcc0", ISA_OK, ZYDIS_MNEMONIC_BSF, 4 },         /* no BMI1 in this decoder */
	{ ISA_64, "f30fbdc0", ISA_OK, ZYDIS_MNEMONIC_BSR, 4 },
};

static void odd_encodings_are_what_the_silicon_makes_of_them(void **state)
{
	struct isa_decoder d;
	isa_decoder_init(&d, false, false);
	for (unsigned k = 0; k < array_len(rows); k++) {
		struct isa_insn in;
		u8 bytes[15];
		unsigned n = 0;
		for (const char *h = rows[k].hex; *h; h += 2, n++)
			sscanf(h, "%2hhx", &bytes[n]);
		enum isa_result got = isa_decode(&d, rows[k].mode, bytes, n, &in);
		if (got != rows[k].result || (got == ISA_OK && (in.zi.mnemonic != rows[k].mnemonic || in.zi.length != rows[k].len)))
			fail_msg("%s: result %d, %s, %u bytes", rows[k].hex, got, got == ISA_OK ? ZydisMnemonicGetString(in.zi.mnemonic) : "-",
				 got == ISA_OK ? in.zi.length : 0);
	}
}

int main(void)
{
#define T(f, open) cmocka_unit_test_setup_teardown(f, open, close_it)
	const struct CMUnitTest tests[] = {
		T(fifteen_bytes_run_sixteen_fault, open_long), T(fetch_faults_on_the_second_page_only_when_needed, open_long),
		T(falling_off_a_page_faults_at_the_next, open_long), T(a_fault_in_mid_block_counts_what_ran, open_long),
		T(code_segment_limit_holds_for_every_byte, open_prot), T(real_mode_words_do_not_wrap_at_the_limit, open_real),
		cmocka_unit_test(odd_encodings_are_what_the_silicon_makes_of_them),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
