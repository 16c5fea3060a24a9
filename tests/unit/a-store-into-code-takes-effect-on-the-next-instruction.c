/* Self-modifying code on one vCPU (SDM "Self-Modifying Code"), through every way that a block can have been reached. */
#include "interp_rig.h"
#include "interp/interp.h"

extern unsigned jit_hot;
static struct core r;

static int open_long(void **state)
{
	interp_open(&r, CORE_LONG);
	return 0;
}
static int close_it(void **state)
{
	interp_close(&r);
	return 0;
}

static void same_block(void **state)
{
	/* xor eax,eax; xor ebx,ebx; mov byte [rip+1], c3h; inc eax, which the store turns into inc ebx */
	interp_do(&r, "31c0 31db c605 01000000 c3 ffc0");
	assert_int_equal(r.cpu->arch.gpr[GPR_RAX], 0);
	assert_int_equal(r.cpu->arch.gpr[GPR_RBX], 1);
}

static void counts_stay_exact(void **state)
{
	u64 before = r.cpu->icount;
	interp_do(&r, "31c0 31db c605 01000000 c3 ffc0");
	assert_int_equal(r.cpu->icount - before, 5); /* with HLT */
}

static void through_an_alias(void **state)
{
	/* page tables: 1 GiB + AT_CODE maps the same memory */
	core_set(&r, AT_TABLES + 0x1008, 8, 0x87);
	mmu_flush_all(r.cpu);
	/* mov rdi, 1 GiB + address of the operand byte; mov byte [rdi], c3; inc eax -> inc ebx */
	interp_do(&r, "31c0 31db 48bf 1300024000000000 c607c3 90 ffc0");
	assert_int_equal(r.cpu->arch.gpr[GPR_RAX], 0);
	assert_int_equal(r.cpu->arch.gpr[GPR_RBX], 1);
}

static void loop_patches_itself_each_time(void **state)
{
	/* xor eax,eax; mov ecx,100; loop: add byte [rip+2],1; add eax,0 (its immediate grows); dec ecx; jnz loop */
	interp_do(&r, "31c0 b964000000 8005 02000000 01 83c000 ffc9 75f2");
	assert_int_equal(r.cpu->arch.gpr[GPR_RAX], 5050);
}

/* GRUB's calls of the BIOS write beside their code all the time: with two ns an instruction its wait of a second took the host a minute. */
static void writing_into_code_takes_time(void **state)
{
	u64 before = cpu_now(r.cpu);
	interp_do(&r, "31c0 b964000000 8005 02000000 01 83c000 ffc9 75f2");
	assert_true(cpu_now(r.cpu) - before > 100 * 1000);
}

static void second_page_of_a_crossing_instruction(void **state)
{
	/* f, two bytes before the page's end: mov eax, imm32; ret. call f; mov ebx,eax; mov byte [imm32's second byte], 99h; call f */
	interp_put(&r, AT_CODE + 0xffe, "b8 11223344 c3");
	interp_do(&r, "e8 f90f0000 89c3 c605 f20f0000 99 e8 eb0f0000");
	assert_int_equal(r.cpu->arch.gpr[GPR_RBX], 0x44332211);
	assert_int_equal(r.cpu->arch.gpr[GPR_RAX], 0x44339911);
}

static void second_page_mapped_elsewhere(void **state)
{
	/* 4 KiB pages for the 2 MiB at 1 GiB: page 20h -> AT_CODE, page 21h -> first one frame, then another */
	u64 pd = AT_TABLES + 0x2000, pt = AT_TABLES + 0x3000;
	core_set(&r, AT_TABLES + 0x1008, 8, pd | 7);
	core_set(&r, pd, 8, pt | 7);
	core_set(&r, pt + 8 * 0x20, 8, 0x40000 | 7);
	core_set(&r, pt + 8 * 0x21, 8, 0x41000 | 7);
	interp_put(&r, 0x40ffe, "b8 11");
	interp_put(&r, 0x41000, "223344 f4");
	interp_put(&r, 0x42000, "aabbcc f4");
	mmu_flush_all(r.cpu);
	interp_go(&r, 0x40020ffe);
	assert_int_equal(r.cpu->arch.gpr[GPR_RAX], 0x44332211);
	core_set(&r, pt + 8 * 0x21, 8, 0x42000 | 7);
	mmu_invlpg(r.cpu, gva(0x40021000));
	interp_go(&r, 0x40020ffe);
	assert_int_equal(r.cpu->arch.gpr[GPR_RAX], 0xccbbaa11);
}

static void page_that_lost_its_code_is_fast_again(void **state)
{
	interp_put(&r, 0x50000, "f4");
	interp_go(&r, 0x50000);
	assert_int_not_equal(mem_code_lines(&r.mem, 0x50), 0);
	/* mov rdi,0x50000; mov ecx,512; xor eax,eax; rep stosq */
	interp_do(&r, "48c7c7 00000500 b900020000 31c0 f348ab");
	assert_int_equal(mem_code_lines(&r.mem, 0x50), 0);
	struct tlb_entry *e = mmu_hit(r.cpu, 0x50000, TLB_W(r.cpu->acc_class));
	assert_non_null(e);
}

/* again: WRITE; jmp b; (60 bytes) b: mov eax, imm32; dec ebp; jnz again; hlt. Hot, with b translated together with what leads to it; then the write that went
 * elsewhere until then changes b. */
static void hot_code_that_follows(void **state)
{
	static const char *const writes[] = {
		"4c89cf 4c89d6 892e 4489d9 f3a4", /* mov rdi, r9; mov rsi, r10; mov [rsi], ebp; mov ecx, r11d; rep movsb */
		"418929",                         /* mov [r9], ebp */
		"41c70101000000",                 /* mov dword ptr [r9], 1 */
	};
	u64 *g = r.cpu->arch.gpr;
	unsigned hot = jit_hot;
	jit_hot = 12; /* b is there when what leads to it is translated */
	for (unsigned n = 0; n < array_len(writes); n++) {
		unsigned at = interp_put(&r, AT_CODE, writes[n]), b = AT_CODE + at + 62;
		interp_put(&r, AT_CODE + at, "eb3c");
		interp_put(&r, b, "b800000000 ffcd 75");
		core_set(&r, b + 8, 1, (u8)-(at + 62 + 9));
		core_set(&r, b + 9, 1, 0xf4);
		block_forget_all(r.cpu);
		for (unsigned turn = 0; turn < 2; turn++) {
			g[GPR_R9] = turn ? b + 1 : 0x50000;
			g[GPR_R10] = 0x51000;
			g[GPR_R11] = 4;
			g[GPR_RBP] = turn ? 1 : 300;
			u64 before = r.cpu->icount;
			interp_go(&r, AT_CODE);
			assert_int_equal(g[GPR_RAX], turn);
			if (turn)
				assert_int_equal(r.cpu->icount - before, n ? 6 : 10); /* with HLT */
		}
	}
	jit_hot = hot;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(same_block, open_long, close_it),
		cmocka_unit_test_setup_teardown(counts_stay_exact, open_long, close_it),
		cmocka_unit_test_setup_teardown(through_an_alias, open_long, close_it),
		cmocka_unit_test_setup_teardown(loop_patches_itself_each_time, open_long, close_it),
		cmocka_unit_test_setup_teardown(writing_into_code_takes_time, open_long, close_it),
		cmocka_unit_test_setup_teardown(hot_code_that_follows, open_long, close_it),
		cmocka_unit_test_setup_teardown(second_page_of_a_crossing_instruction, open_long, close_it),
		cmocka_unit_test_setup_teardown(second_page_mapped_elsewhere, open_long, close_it),
		cmocka_unit_test_setup_teardown(page_that_lost_its_code_is_fast_again, open_long, close_it),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
