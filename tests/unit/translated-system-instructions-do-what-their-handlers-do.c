/* Blocks of kernel code on the lockstep engine: the host code of src/jit/sys.c and the handlers run the same blocks one after the other, from the same
 * state, and any difference between them ends the process. What a row says about the end is the manual's. Each row also says which instruction must
 * have been done by host code, so that nothing passes because it was left to the handlers. */
#include "interp_rig.h"
#include "jit/jit.h"
#include "vmx/vmx.h"

#include <stdlib.h>

#define AT_DATA 0x50000u
#define BASE_A 0x50000u /* what GS, FS and the kernel's GS are at the start */
#define BASE_K 0x51000u
#define A 0xaaaau       /* what is at 8 bytes from them */
#define K 0xbbbbu
#define ANY (~(u64)0)

static struct core r;

struct expect { u64 rax, rcx, iflag, x87_top; };
struct row_of_code { const char *name, *hex; ZydisMnemonic op; struct expect end; };
static const struct row_of_code rows[] = {
	{ "STI; JMP", "fa fb eb00 90", ZYDIS_MNEMONIC_STI, { ANY, ANY, 1 } },
	{ "STI; NOP; NOP", "fa fb 90 90", ZYDIS_MNEMONIC_STI, { ANY, ANY, 1 } },
	{ "STI as the last but HLT", "fa fb", ZYDIS_MNEMONIC_STI, { ANY, ANY, 1 } },
	{ "STI twice", "fa fb fb 90", ZYDIS_MNEMONIC_STI, { ANY, ANY, 1 } },
	{ "STI; CLI", "fa fb fa 90", ZYDIS_MNEMONIC_STI, { ANY, ANY, 0 } },
	{ "STI; CLI; STI; more", "fa fb fa fb ffc0 ffc0", ZYDIS_MNEMONIC_STI, { 2, 0, 1 } },
	{ "STI; CPUID's handler", "fa fb 0fa2 31c0 31c9", ZYDIS_MNEMONIC_STI, { 0, 0, 1 } },
	{ "STI; a load that misses", "fa fb 488b0e 90", ZYDIS_MNEMONIC_STI, { 0, 0, 1 } },
	{ "STI; PUSHF; CLI; PUSHF", "fa fb 9c 58 fa 9c 59", ZYDIS_MNEMONIC_PUSHFQ, { 0x202, 0x002, 0 } },
	{ "PUSHF with arithmetic flags", "fa 31c9 83e901 9c 58 31c9", ZYDIS_MNEMONIC_PUSHFQ, { 0x097, 0, 0 } },
	{ "SWAPGS between loads", "65488b042508000000 0f01f8 65488b0c2508000000 0f01f8", ZYDIS_MNEMONIC_SWAPGS, { A, K, ANY } },
	{ "SWAPGS; RDGSBASE", "0f01f8 f3480faec8 0f01f8 f3480faec9", ZYDIS_MNEMONIC_RDGSBASE, { BASE_K, BASE_A, ANY } },
	{ "WRFSBASE between loads", "b800100500 64488b0c2508000000 f3480faed0 64488b042508000000", ZYDIS_MNEMONIC_WRFSBASE, { K, A, ANY } },
	{ "WRGSBASE; RDGSBASE", "b800100500 f3480faed8 f3480faec9", ZYDIS_MNEMONIC_WRGSBASE, { BASE_K, BASE_K, ANY } },
	{ "STAC, CLAC around stores", "48890e 0f01cb 488906 eb00 488906 9c 58 0f01ca 48894610 9c 59 25 00000400 81e1 00000400", ZYDIS_MNEMONIC_STAC, { 0x40000, 0, ANY } },
	{ "RDPKRU", "0f01ee", ZYDIS_MNEMONIC_RDPKRU, { 0x55555554, 0, ANY } },
	{ "PAUSE and fences", "f390 0faef0 0faee8 0faef8 ffc0", ZYDIS_MNEMONIC_PAUSE, { 1, 0, ANY } },
	{ "SERIALIZE", "31c0 83f801 0f01e8 9c 58 29c9", ZYDIS_MNEMONIC_SERIALIZE, { 0x97, 0, 0 } },
	{ "SERIALIZE alone in its block", "eb00 0f01e8 eb00 ffc0", ZYDIS_MNEMONIC_SERIALIZE, { 1, 0, ANY } },
	{ "CMPXCHG16B", "baaaaa0000 480fc70e 0f94c0", ZYDIS_MNEMONIC_CMPXCHG16B, { 1, ANY, ANY } },
	{ "BTS of a bit string", "b841000000 480fab06 0f92c0 480fa34608 488b4e08", ZYDIS_MNEMONIC_BTS, { ANY, A | 2, ANY } },
	{ "RDTSC", "b8ffffffff 0f31 eb00 90 29c0 29c9", ZYDIS_MNEMONIC_RDTSC, { 0, 0, ANY } }, /* lockstep compares what it read */
	{ "RDTSC and flags", "31c9 83e901 0f31 9c 58 31c9", ZYDIS_MNEMONIC_RDTSC, { 0x097, 0, 0 } },
	{ "RDTSCP", "0f01f9 eb00 29c0", ZYDIS_MNEMONIC_RDTSCP, { 0, 0x77, ANY } },
	{ "MOV from CR0, CR4", "31c0 0f20c1 0f20e0 90", ZYDIS_MNEMONIC_MOV, { 0x610000 | CR4_PAE | CR4_OSFXSR | CR4_PKE, CR0_PG | CR0_WP | CR0_NE | CR0_ET | CR0_PE, ANY } },
	{ "MOV from CR2, CR3, to a register that lives in memory", "83e90a 410f20d0 0f20d9 4c89c0", ZYDIS_MNEMONIC_MOV, { 0xc4c4, AT_TABLES, ANY } },
	{ "flags across MOV from CR", "83f901 0f20d8 9c 58 25ff000000", ZYDIS_MNEMONIC_MOV, { 0x97, 0, ANY } },
	{ "MOV from CS, SS", "83f901 8cc8 48b9ffffffffffffffff 668cd1 9c 4158 450fb6c0", ZYDIS_MNEMONIC_MOV, { CODE64, 0xffffffffffff0000 | DATA0, ANY } },
	{ "RDMSR of GS's base", "b9010100c0 0f32 29c9", ZYDIS_MNEMONIC_RDMSR, { BASE_A, 0, ANY } },
	{ "RDMSR of the kernel's GS base", "b9020100c0 0f32 29c9", ZYDIS_MNEMONIC_RDMSR, { BASE_K, 0, ANY } },
	{ "RDMSR of FS's base", "83e901 b9000100c0 0f32 29c9", ZYDIS_MNEMONIC_RDMSR, { BASE_A, 0, ANY } },
	{ "RDMSR of IA32_DEBUGCTL", "b9d9010000 0f32 29c9", ZYDIS_MNEMONIC_RDMSR, { 1, 0, ANY } },
	{ "RDMSR of another", "b9810000c0 0f32 29c9", ZYDIS_MNEMONIC_NOP, { 0x44332211, 0, ANY } },
	{ "CLD, STD", "83e901 fd 9c fc 9c 58 59", ZYDIS_MNEMONIC_STD, { 0x097, 0x497, 0 } },
	{ "POP to memory", "6a07 6a08 8f4610 8f4608 488b4610 488b4e08 ", ZYDIS_MNEMONIC_POP, { 8, 7, ANY } },
	{ "POP to memory at RSP", "6a07 6a08 8f0424 58", ZYDIS_MNEMONIC_NOP, { 8, ANY, ANY } },
	/* mov ecx, 3; again: fld1; dec ecx; jnz again */
	{ "x87 registers", "b903000000 d9e8 ffc9 75fa", ZYDIS_MNEMONIC_DEC, { ANY, 0, ANY, 5 } },
	{ "x87 registers and memory", "b905000000 d9e8 d9e8 dec1 dd1e ffc9 75f4 488b06", ZYDIS_MNEMONIC_DEC, { 0x4000000000000000, 0, ANY, 0 } },
};

/* mov rcx, value; mov edx, field; vmwrite rdx, rcx; mov eax, 5; sub ecx, ecx; vmread rax, rdx; pushf; pop rcx. NOP: its handler does it. */
#define VMREAD(value, field) "48b9" value "ba" field " 0f79d1 b805000000 29c9 0f78d0 9c 59"
static const struct row_of_code vmx_rows[] = {
	{ "VMREAD of HOST_RIP", VMREAD("8877665544332211", "166c0000"), ZYDIS_MNEMONIC_VMREAD, { 0x1122334455667788, 2, ANY } },
	{ "VMREAD of 32 bits", VMREAD("8877665544332211", "00400000"), ZYDIS_MNEMONIC_VMREAD, { 0x55667788, 2, ANY } },
	{ "VMREAD of 16 bits", VMREAD("8877665544332211", "00080000"), ZYDIS_MNEMONIC_VMREAD, { 0x7788, 2, ANY } },
	{ "VMREAD of an upper half", VMREAD("8877665544332211", "01200000"), ZYDIS_MNEMONIC_NOP, { 0x55667788, 2, ANY } },
	{ "VMREAD of no field", VMREAD("8877665544332211", "7e6c0000"), ZYDIS_MNEMONIC_NOP, { 5, 0x42, ANY } },
	{ "VMREAD of an encoding with reserved bits", VMREAD("8877665544332211", "167c0000"), ZYDIS_MNEMONIC_NOP, { 5, 0x42, ANY } },
	{ "VMWRITE of a register", VMREAD("8877665544332211", "166c0000"), ZYDIS_MNEMONIC_VMWRITE, { 0x1122334455667788, 2, ANY } },
	{ "VMWRITE of 16 bits", VMREAD("8877665544332211", "00080000"), ZYDIS_MNEMONIC_VMWRITE, { 0x7788, 2, ANY } },
	{ "VMWRITE of exit information (IA32_VMX_MISC[29])", VMREAD("8877665544332211", "02440000"), ZYDIS_MNEMONIC_VMWRITE, { 0x55667788, 2, ANY } },
	/* mov qword [rsi], 77h; mov edx, GUEST_RIP; cmp ecx, 1; vmwrite rdx, [rsi]; pushf; pop rcx; vmread rax, rdx */
	{ "VMWRITE of memory", "48c70677000000 ba1e680000 83f901 0f7916 9c 59 0f78d0", ZYDIS_MNEMONIC_VMWRITE, { 0x77, 2, ANY } },
	{ "VMREAD, VMWRITE, VMREAD", "ba1e680000 0f78d0 48ffc0 0f79d0 0f78d1 4829c8", ZYDIS_MNEMONIC_VMWRITE, { 0, ANY, ANY } },
	{ "VMREAD and VMWRITE of a field that is computed", "48b98877665544332211 ba166c0000 83c200 0f79d1 b805000000 29c9 0f78d0", ZYDIS_MNEMONIC_VMREAD, { 0x1122334455667788, 0, ANY } },
	{ "the same of 32 bits", "48b98877665544332211 ba00400000 83c200 0f79d1 b805000000 29c9 0f78d0", ZYDIS_MNEMONIC_VMWRITE, { 0x55667788, 0, ANY } },
	{ "VMREAD into and VMWRITE from registers in memory", "49b98877665544332211 41ba166c0000 450f79d1 4531c9 450f78d1 4c89c8 29c9", ZYDIS_MNEMONIC_VMREAD, { 0x1122334455667788, 0, ANY } },
	{ "VMREAD; JBE", "ba166c0000 0f78d0 7605 b805000000 29c9", ZYDIS_MNEMONIC_VMREAD, { 5, 0, ANY } },
	{ "VMREAD; JA", "31c0 ba166c0000 0f78d1 7705 b807000000 29c9", ZYDIS_MNEMONIC_VMREAD, { 0, 0, ANY } },
	{ "VMREAD; SETcc, INC", "ba166c0000 0f78d1 0f97c0 ffc1 0f93c1 0fb6c0 0fb6c9", ZYDIS_MNEMONIC_VMREAD, { 1, 1, ANY } },
	{ "flags across VMREAD's neighbours", "31c9 ba166c0000 83f901 0f78d0 0f92c1", ZYDIS_MNEMONIC_VMREAD, { ANY, 0, ANY } },
};

static int open_it(void **state)
{
	setenv("NESTBOX_TEST_ENGINE", "lockstep", 1);
	interp_open(&r, CORE_LONG);
	core_set(&r, AT_TABLES, 8, (AT_TABLES + 0x1000) | 3); /* supervisor pages, for SMAP */
	mmu_flush_all(r.cpu);
	interp_catch(&r);
	return 0;
}
static int close_it(void **state)
{
	interp_close(&r);
	return 0;
}

static void prepare(void)
{
	struct cpu *c = r.cpu;
	memset(c->arch.gpr, 0, 16 * sizeof c->arch.gpr[0]);
	c->arch.gpr[GPR_RSP] = AT_STACK0;
	c->arch.gpr[GPR_RSI] = AT_DATA;
	c->arch.cr0 &= ~(u64)(CR0_EM | CR0_TS);
	c->arch.cr4 |= CR4_FSGSBASE | CR4_PKE | CR4_SMAP | CR4_OSFXSR;
	c->arch.pkru = 0x55555554;
	c->arch.rflags = FLAG_FIXED1;
	c->arch.cc = cpu_flags_to_cc(0);
	c->arch.shadow = 0;
	c->arch.seg[SEG_GS].base = c->arch.seg[SEG_FS].base = BASE_A;
	c->arch.kernel_gs_base = BASE_K;
	c->arch.tsc_aux = 0x77;
	c->arch.cr2 = 0xc4c4;
	c->arch.debugctl = 1;
	c->arch.star = 0x44332211;
	memset(c->arch.x87, 0, sizeof c->arch.x87);
	store_le(c->arch.x87, 0x37f, 2);
	c->x87_resident = false;
	cpu_update_mode(c);
	core_set(&r, AT_DATA, 8, 0);
	core_set(&r, BASE_A + 8, 8, A);
	core_set(&r, BASE_K + 8, 8, K);
}

static bool want(const char *row, const char *what, u64 is, u64 should)
{
	if (should == ANY || is == should)
		return true;
	print_message("%s: %s is %#llx, must be %#llx\n", row, what, (unsigned long long)is, (unsigned long long)should);
	return false;
}

static void run_rows(const struct row_of_code *list, unsigned count)
{
	const struct cpu *c = r.cpu;
	bool ok = true;
	for (unsigned n = 0; n < count; n++) {
		const char *name = list[n].name;
		const struct expect *e = &list[n].end;
		struct jit *j = jit_of(c);
		unsigned len = interp_put(&r, AT_CODE, list[n].hex);
		interp_put(&r, AT_CODE + len, "f4");
		for (unsigned round = 0; round < 2; round++) { /* the second time the TLB knows the pages */
			u64 entries = j->stats.entries;
			memset(j->prof_left, 0, sizeof j->prof_left);
			prepare();
			interp_go(&r, AT_CODE);
			ok &= want(name, "RIP", c->arch.rip, AT_CODE + len + 1) & want(name, "RAX", c->arch.gpr[GPR_RAX], e->rax) &
			      want(name, "RCX", c->arch.gpr[GPR_RCX], e->rcx) & want(name, "RSP", c->arch.gpr[GPR_RSP], AT_STACK0) &
			      want(name, "the shadow", c->arch.shadow, 0) & want(name, "IF", !!(c->arch.rflags & FLAG_IF), e->iflag) &
			      want(name, "x87 TOP", c->arch.x87[3] >> 3 & 7, e->x87_top) & want(name, "entries of host code", j->stats.entries > entries, true);
		}
		if (list[n].op != ZYDIS_MNEMONIC_STAC || j->fsgsbase) /* without, its handler does it */
			ok &= want(name, "times that host code left at the instruction", j->prof_left[list[n].op], 0);
	}
	assert_true(ok);
}

static void the_blocks(void **state) { run_rows(rows, array_len(rows)); }

/* Runs a row once more; how often its instruction was left to the handler. */
static u32 left_of(const char *hex, ZydisMnemonic op)
{
	struct jit *j = jit_of(r.cpu);
	memset(j->prof_left, 0, sizeof j->prof_left);
	prepare();
	interp_do(&r, hex);
	return j->prof_left[op];
}

/* Of all registers, whether or not the block has them loaded; the lower halves stay. vmovaps ymm1, ymm0; vzeroupper; vmovaps ymm2, ymm1; vmovaps xmm3, xmm0 */
static void upper_halves(void **state)
{
	struct cpu *c = r.cpu;
	struct jit *j = jit_of(c);
	for (unsigned round = 0; round < 2; round++) {
		memset(j->prof_left, 0, sizeof j->prof_left);
		prepare();
		c->arch.cr4 |= CR4_OSXSAVE;
		c->arch.xcr0 = 7;
		cpu_update_mode(c);
		for (unsigned n = 0; n < sizeof c->arch.ymm; n++)
			c->arch.ymm[n] = (u8)(n / 32 + 1);
		interp_do(&r, "c5fc28c8 c5f877 c5fc28d1 c5f828d8");
		for (unsigned n = 0; n < sizeof c->arch.ymm; n++) {
			unsigned reg = n / 32 == 2 || n / 32 == 3 || n / 32 == 1 ? 0 : n / 32;
			assert_int_equal(c->arch.ymm[n], n % 32 < 16 ? reg + 1 : 0);
		}
		assert_int_equal(j->prof_left[ZYDIS_MNEMONIC_VZEROUPPER], 0);
	}
}

/* In VMX root operation, with a current VMCS at BASE_K + 2000h. */
static void enter_root_operation(void)
{
	struct cpu *c = r.cpu;
	cpu_model_free((struct cpu_model *)c->model);
	c->model = cpu_model_make("fast", true, 1, c->tsc_khz);
	assert_int_equal(vmx_create(c), 0);
	prepare();
	c->arch.feat_ctl = 5;
	c->arch.cr4 |= CR4_VMXE;
	cpu_update_mode(c);
	core_set(&r, AT_DATA, 8, BASE_K + 0x1000);
	core_set(&r, AT_DATA + 8, 8, BASE_K + 0x2000);
	u64 revision;
	assert_true(cpu_rdmsr(c, 0x480, &revision)); /* IA32_VMX_BASIC */
	core_set(&r, BASE_K + 0x1000, 4, (u32)revision & 0x7fffffff);
	core_set(&r, BASE_K + 0x2000, 4, (u32)revision & 0x7fffffff);
	interp_do(&r, "f30fc736 0fc77608 9c 58"); /* vmxon [rsi]; vmptrld [rsi + 8]; pushf; pop rax */
	assert_int_equal(c->arch.gpr[GPR_RAX], 2);
}

static void vmx_fields_in_root_operation(void **state)
{
	enter_root_operation();
	run_rows(vmx_rows, array_len(vmx_rows));
	vmx_destroy(r.cpu);
}

#define WRITE_RIP VMREAD("8877665544332211", "1e680000") /* GUEST_RIP */
static void vmwrite_tells_who_wants_to_hear_of_it(void **state)
{
	struct cpu *c = r.cpu;
	enter_root_operation();
	left_of(WRITE_RIP, ZYDIS_MNEMONIC_VMWRITE);
	assert_int_equal(left_of(WRITE_RIP, ZYDIS_MNEMONIC_VMWRITE), 0);
	const struct vm_written *w = &c->vm_written[c->vm_field_row[0x681e / 2] >> 2];
	assert_int_equal(w->vmcs, BASE_K + 0x2000);
	assert_int_equal(w->rip, AT_CODE + 15); /* behind two MOVs */

	u64 frame = (BASE_K + 0x2000) / 4096;
	mem_dirty_take(&r.mem, NULL);
	assert_int_equal(left_of(WRITE_RIP, ZYDIS_MNEMONIC_VMWRITE), 1);
	assert_true(r.mem.dirty[frame / 64] >> (frame % 64) & 1);
	r.mem.dirty_log = false;

	r.mem.code_lines[frame] = 1;
	assert_int_equal(left_of(WRITE_RIP, ZYDIS_MNEMONIC_VMWRITE), 1);
	r.mem.code_lines[frame] = 0;
	assert_int_equal(left_of(WRITE_RIP, ZYDIS_MNEMONIC_VMWRITE), 0);

	core_set(&r, AT_DATA, 8, BASE_K + 0x2000);
	interp_do(&r, "660fc736"); /* vmclear [rsi] */
	/* No current VMCS: VMfailInvalid, and the memory operand is not looked at. mov ecx, -1; cmp ecx, ecx; vmwrite rdx, [rcx << 32] */
	assert_int_equal(left_of("48c7c1ffffffff 48c1e11f ba1e680000 39c9 0f7911 9c 58", ZYDIS_MNEMONIC_VMWRITE), 1);
	assert_int_equal(c->arch.gpr[GPR_RAX], 3);
	vmx_destroy(c);
}

/* In compatibility mode both are #UD (SDM "VMREAD", "VMWRITE"). */
static void vmx_fields_in_compatibility_mode(void **state)
{
	static const char *const code[] = { "90 0f78d0", "90 0f79d0", "90 0f7916" };
	struct cpu *c = r.cpu;
	enter_root_operation();
	for (unsigned n = 0; n < array_len(code); n++) {
		prepare();
		struct seg cs = c->arch.seg[SEG_CS], flat = { .limit = ~0u, .attr = 0xc093, .sel = DATA0 };
		c->arch.seg[SEG_SS] = c->arch.seg[SEG_DS] = c->arch.seg[SEG_ES] = flat;
		c->arch.seg[SEG_CS] = (struct seg){ .limit = ~0u, .attr = 0xc09b, .sel = CODE0 };
		cpu_update_mode(c);
		assert_true(c->mode & MODE_FLAT);
		u64 entries = jit_of(c)->stats.entries;
		interp_do(&r, code[n]);
		assert_true(jit_of(c)->stats.entries > entries);
		assert_int_equal(interp_caught(&r), VEC_UD);
		c->arch.seg[SEG_CS] = cs;
		cpu_update_mode(c);
	}
	vmx_destroy(c);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test_setup_teardown(the_blocks, open_it, close_it),
					    cmocka_unit_test_setup_teardown(upper_halves, open_it, close_it),
					    cmocka_unit_test_setup_teardown(vmx_fields_in_root_operation, open_it, close_it),
					    cmocka_unit_test_setup_teardown(vmwrite_tells_who_wants_to_hear_of_it, open_it, close_it),
					    cmocka_unit_test_setup_teardown(vmx_fields_in_compatibility_mode, open_it, close_it) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
