/* A guest that exits by CPUID all the time and a hypervisor that resumes it, both translated: neither way leaves host code, and all that can be seen is what the
 * interpreter makes of the same code. */
#include "vmx_rig.h"
#include "../unit/interp_rig.h"
#include "jit/jit.h"

#include <stdlib.h>

#define ROUNDS 500
#define AT_LEFT (AT_OPERAND + 0x10)

struct end {
	struct cpu_arch arch;
	u64 insns, exits, left;
};

static const char start[] = "0f01c2 f4"; /* vmlaunch; hlt */
/* RAX and RDX away; GUEST_RIP += 2; dec [AT_LEFT]; RAX and RDX back; jz over vmresume; hlt */
static const char hypervisor[] = "48890425 00300400 48891425 08300400 ba1e680000 0f78d0 4883c002 0f79d0 ff0c25 10300400"
				 "488b0425 00300400 488b1425 08300400 7403 0f01c3 f4";
/* loop: stc; cpuid; inc rdi; adc r12, 0; jmp loop */
static const char guest[] = "f9 0fa2 48ffc7 4983d400 ebf4";

static void open_with(struct vmx_rig *r, const char *engine)
{
	setenv("NESTBOX_TEST_ENGINE", engine, 1);
	vmx_open_root(r);
	interp_create_engine(&r->core);
	interp_put(&r->core, AT_CODE, start);
	interp_put(&r->core, AT_HOST_CODE, hypervisor);
	interp_put(&r->core, AT_GUEST_CODE, guest);
	core_set(&r->core, AT_LEFT, 4, ROUNDS);
	for (unsigned g = 0; g < 16; g++)
		r->cpu->arch.gpr[g] = g == GPR_RSP ? AT_STACK0 : 0x1111111111111111ull * g + 5;
}

static void run(struct vmx_rig *r, struct end *end)
{
	u64 before = r->cpu->icount;
	interp_go(&r->core, AT_CODE);
	end->arch = r->cpu->arch;
	end->insns = r->cpu->icount - before;
	end->exits = r->cpu->stats.vmentries;
	end->left = core_get(&r->core, AT_LEFT, 4);
}

/* The fields in which the two must agree; beside, what is not the guest's to see. */
static void expect_same(const struct end *a, const struct end *b)
{
	for (unsigned g = 0; g < 16; g++)
		assert_int_equal(a->arch.gpr[g], b->arch.gpr[g]);
	assert_int_equal(a->arch.rip, b->arch.rip);
	assert_int_equal(a->arch.rflags, b->arch.rflags);
	assert_int_equal(a->arch.cc, b->arch.cc);
	assert_int_equal(a->arch.cr0, b->arch.cr0);
	assert_int_equal(a->arch.cr3, b->arch.cr3);
	assert_int_equal(a->arch.cr4, b->arch.cr4);
	assert_int_equal(a->arch.efer, b->arch.efer);
	assert_int_equal(a->arch.guest_mode, b->arch.guest_mode);
	assert_memory_equal(a->arch.seg, b->arch.seg, sizeof a->arch.seg);
	assert_int_equal(a->insns, b->insns);
	assert_int_equal(a->exits, b->exits);
	assert_int_equal(a->left, b->left);
}

/* Engines that work the same; setup changes the VMCS. Leaves the translated machine open. */
static void both(struct vmx_rig *r, void (*setup)(struct vmx_rig *), struct end *end)
{
	struct end interpreted;
	open_with(r, "interp");
	setup(r);
	run(r, &interpreted);
	interp_engine.destroy(r->cpu);
	vmx_close(r);
	open_with(r, "jit");
	setup(r);
	run(r, end);
	expect_same(end, &interpreted);
}

static void close_both(struct vmx_rig *r)
{
	jit_engine.destroy(r->cpu);
	vmx_close(r);
}

/* Without, exits and entries empty the TLB. */
static void use_vpid(struct vmx_rig *r)
{
	set_control(r, CTL_PROC2_VPID, true);
	set_field(r, VF_VPID, 1);
}

static void a_loop_of_exits(void **state)
{
	struct vmx_rig r;
	struct end end;
	both(&r, use_vpid, &end);
	const struct jit *j = jit_of(r.cpu);
	assert_int_equal(end.left, 0);
	assert_int_equal(end.exits, ROUNDS);
	assert_int_equal(r.cpu->stats.vmexits[EXIT_CPUID], ROUNDS);
	for (unsigned g = 0; g < 16; g++) {
		u64 was = 0x1111111111111111ull * g + 5;
		assert_int_equal(end.arch.gpr[g], g == GPR_RSP ? AT_STACK0 : g == GPR_RDI || g == GPR_R12 ? was + ROUNDS - 1 : was);
	}
	if (j->fsgsbase) { /* else there is no short way */
		assert_true(j->stats.entries < 50); /* while things get hot */
		assert_int_equal(j->prof_left[ZYDIS_MNEMONIC_VMRESUME], 0);
		assert_int_equal(j->prof_left[ZYDIS_MNEMONIC_CPUID], 0);
		assert_true(j->prof_helper[ZYDIS_MNEMONIC_VMRESUME] > ROUNDS - 20);
	}
	close_both(&r);
}

static void open_window(struct vmx_rig *r)
{
	use_vpid(r);
	set_control(r, CTL_PROC_INTR_WINDOW, true);
	set_field(r, VF_GUEST_RFLAGS, FLAG_FIXED1 | FLAG_IF);
}

static void nothing(struct vmx_rig *r) {}
static void an_address_space_that_is_emptied_each_time(void **state)
{
	struct vmx_rig r;
	struct end end;
	both(&r, nothing, &end);
	assert_int_equal(end.left, 0);
	close_both(&r);
}

/* What waits for the guest exits before it has done anything. */
static void a_window_that_is_open(void **state)
{
	struct vmx_rig r;
	struct end end;
	both(&r, open_window, &end);
	assert_int_equal(r.cpu->stats.vmexits[EXIT_INTERRUPT_WINDOW], ROUNDS);
	assert_int_equal(end.arch.gpr[GPR_RDI], 0x1111111111111111ull * GPR_RDI + 5);
	close_both(&r);
}

static void trap_flag(struct vmx_rig *r) { set_control(r, CTL_PROC_MTF, true); }
static void single_steps_of_the_guest(void **state)
{
	struct vmx_rig r;
	struct end end;
	both(&r, trap_flag, &end);
	assert_true(r.cpu->stats.vmexits[EXIT_MONITOR_TRAP_FLAG] > ROUNDS / 3);
	close_both(&r);
}

static void bad_guest(struct vmx_rig *r)
{
	set_field(r, VF_GUEST_TR_AR, 0);
	r->vmcs->launched = 1;
	interp_put(&r->core, AT_CODE, "0f01c3 f4"); /* vmresume; hlt */
}
static void an_entry_that_fails(void **state)
{
	struct vmx_rig r;
	struct end end;
	both(&r, bad_guest, &end);
	assert_int_equal(r.cpu->stats.vmentry_failures, ROUNDS);
	close_both(&r);
}

static void other_stack(struct vmx_rig *r)
{
	use_vpid(r);
	set_field(r, VF_GUEST_CS_SELECTOR, CODE64_3); /* a program, whose host code is in another bank */
	set_field(r, VF_GUEST_CS_AR, 11 | SEG_S | SEG_P | SEG_L | SEG_G | 3 << SEG_DPL_SHIFT);
	set_field(r, VF_GUEST_SS_SELECTOR, DATA3);
	set_field(r, VF_GUEST_SS_AR, 3 | SEG_S | SEG_P | SEG_DB | SEG_G | 3 << SEG_DPL_SHIFT);
	set_field(r, VF_HOST_RSP, AT_STACK0 - 0x100);
}
static void a_program_of_the_guest(void **state)
{
	struct vmx_rig r;
	struct end end;
	both(&r, other_stack, &end);
	assert_int_equal(end.left, 0);
	assert_int_equal(end.arch.gpr[GPR_RSP], AT_STACK0 - 0x100);
	assert_int_equal(end.arch.cpl, 0);
	close_both(&r);
}

/* VMfail goes on behind the instruction, once. */
static void vmresume_that_fails(void **state)
{
	struct vmx_rig r;
	open_with(&r, "jit");
	interp_put(&r.core, AT_CODE, "31c0 0f01c3 9c 59 f4"); /* xor eax, eax; vmresume; pushf; pop rcx; hlt */
	for (unsigned n = 1; n < 40; n++) {
		r.cpu->arch.gpr[GPR_RCX] = 0;
		interp_go(&r.core, AT_CODE);
		assert_int_equal(r.cpu->arch.gpr[GPR_RCX], FLAG_FIXED1 | FLAG_ZF);
		vmx_expect_error(&r, VMERR_VMRESUME_NOT_LAUNCHED);
	}
	close_both(&r);
}

static void vmresume_that_does_not_exist(void **state)
{
	struct vmx_rig r;
	open_with(&r, "jit");
	interp_catch(&r.core);
	r.vmx->s.on = 0;
	interp_put(&r.core, AT_CODE, "90 0f01c3 f4");
	for (unsigned n = 0; n < 40; n++) {
		r.cpu->arch.gpr[GPR_RSP] = AT_STACK0;
		interp_go(&r.core, AT_CODE);
		assert_int_equal(interp_caught(&r.core), VEC_UD);
		assert_int_equal(core_stack(&r.core, 0, 8), AT_CODE + 1);
	}
	close_both(&r);
}

/* Outside a guest CPUID writes four registers. */
static void cpuid_of_the_hypervisor(void **state)
{
	struct vmx_rig r;
	open_with(&r, "jit");
	interp_put(&r.core, AT_CODE, "31c0 0fa2 4889de f4"); /* xor eax, eax; cpuid; mov rsi, rbx; hlt */
	for (unsigned n = 0; n < 40; n++) {
		r.cpu->arch.gpr[GPR_RBX] = n;
		interp_go(&r.core, AT_CODE);
		assert_int_equal(r.cpu->arch.gpr[GPR_RSI], 0x756e6547);
		assert_int_equal(r.cpu->arch.gpr[GPR_RBX], 0x756e6547);
	}
	close_both(&r);
}

/* again: cli; push BEHIND; jmp SHADOW; SHADOW: sti; ret; BEHIND: dec [AT_LEFT]; jnz again; cli; mov esp, 40000000h; jmp SHADOW */
static const char shadow_guest[] = "fa 680a000700 eb00 fb c3 ff0c25 10300400 75ed fa bc00000040 ebed";
/* A RET in the shadow of an STI that runs into a page fault: the exit tells of the shadow (SDM "Guest Non-Register State"), and that of the same RET behind an STI that
 * changes nothing does not. */
static void a_fault_in_the_shadow_of_sti(void **state)
{
	for (unsigned n = 0; n < 4; n++) {
		struct vmx_rig r;
		const char *engine = n & 1 ? "jit" : "interp";
		open_with(&r, engine);
		use_vpid(&r);
		set_field(&r, VF_EXCEPTION_BITMAP, BIT(VEC_PF));
		interp_put(&r.core, AT_HOST_CODE, "f4");
		interp_put(&r.core, AT_GUEST_CODE, shadow_guest);
		if (n & 2)
			interp_put(&r.core, AT_GUEST_CODE + 0x13, "fb");
		interp_go(&r.core, AT_CODE);
		assert_int_equal(get_field(&r, VF_EXIT_REASON), EXIT_EXCEPTION_NMI);
		assert_int_equal(get_field(&r, VF_EXIT_QUALIFICATION), 0x40000000);
		assert_int_equal(get_field(&r, VF_GUEST_RIP), AT_GUEST_CODE + 9);
		assert_int_equal(get_field(&r, VF_GUEST_RFLAGS) & FLAG_IF, FLAG_IF);
		assert_int_equal(get_field(&r, VF_GUEST_INTERRUPTIBILITY), n & 2 ? 0 : SHADOW_STI);
		if (n & 1) {
			const struct jit *j = jit_of(r.cpu);
			assert_true(j->prof_left[ZYDIS_MNEMONIC_STI] <= 2); /* the one that changes nothing */
			jit_engine.destroy(r.cpu);
		} else {
			interp_engine.destroy(r.cpu);
		}
		vmx_close(&r);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_loop_of_exits),
		cmocka_unit_test(an_address_space_that_is_emptied_each_time),
		cmocka_unit_test(a_window_that_is_open),
		cmocka_unit_test(single_steps_of_the_guest),
		cmocka_unit_test(an_entry_that_fails),
		cmocka_unit_test(a_program_of_the_guest),
		cmocka_unit_test(vmresume_that_fails),
		cmocka_unit_test(vmresume_that_does_not_exist),
		cmocka_unit_test(cpuid_of_the_hypervisor),
		cmocka_unit_test(a_fault_in_the_shadow_of_sti),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
