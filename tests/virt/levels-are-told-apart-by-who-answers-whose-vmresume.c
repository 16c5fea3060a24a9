/* vmx/nest.c: the entries and exits that L1 makes for guests of guests, as a hypervisor like KVM makes them, give the right tree. */
#include "vmx_rig.h"

static struct vmx_rig r;

/* One VMCS per vCPU of the own guest, one that serves all deeper guests, each with its own EPT root. */
enum { VMCS_L2 = 0x100000, VMCS_DEEP = 0x200000, EPT_L2 = 0x1000, EPT_L3 = 0x2000, EPT_L4 = 0x3000, EPT_OTHER = 0x4000 };

static void enter(u64 vmcs, u64 eptp)
{
	r.vmx->s.vmcs_ptr = vmcs;
	r.vmx->ept = true;
	r.vmx->f[VF_EPTP] = eptp;
	nest_entered(r.cpu);
}
static void leave(u32 reason) { nest_exited(r.cpu, reason); }

static const struct nest_guest *guest(u64 vmcs, u64 eptp)
{
	const struct nest *n = vmx_nest(r.cpu);
	for (unsigned i = 0; i < n->n; i++)
		if (n->guest[i].vmcs == vmcs && n->guest[i].eptp == eptp)
			return &n->guest[i];
	fail_msg("no guest %llx %llx", (unsigned long long)vmcs, (unsigned long long)eptp);
	return NULL;
}
static const struct nest_guest *parent(const struct nest_guest *g) { return g->parent < 0 ? NULL : &vmx_nest(r.cpu)->guest[g->parent]; }

static void run_l2(void)
{
	enter(VMCS_L2, EPT_L2);
	leave(EXIT_CPUID);
	enter(VMCS_L2, EPT_L2);
}

static void an_own_guest_is_at_level_2(void **state)
{
	run_l2();
	assert_int_equal(guest(VMCS_L2, EPT_L2)->level, 2);
	assert_null(parent(guest(VMCS_L2, EPT_L2)));
	assert_int_equal(guest(VMCS_L2, EPT_L2)->entries, 2);
	assert_int_equal(guest(VMCS_L2, EPT_L2)->reason[EXIT_CPUID].exits, 1);
}

static void what_a_guests_vmresume_enters_is_its_guest(void **state)
{
	run_l2();
	leave(EXIT_VMLAUNCH);
	enter(VMCS_DEEP, EPT_L3);
	assert_int_equal(guest(VMCS_DEEP, EPT_L3)->level, 3);
	assert_ptr_equal(parent(guest(VMCS_DEEP, EPT_L3)), guest(VMCS_L2, EPT_L2));
}

/* L3 runs VMRESUME: L1 tells L2, L2 prepares and runs VMRESUME itself, and L1 enters what is L3's guest. */
static void a_guest_of_a_guest_of_a_guest_is_at_level_4(void **state)
{
	what_a_guests_vmresume_enters_is_its_guest(state);
	leave(EXIT_VMLAUNCH);
	enter(VMCS_L2, EPT_L2);
	leave(EXIT_VMREAD);
	enter(VMCS_L2, EPT_L2);
	leave(EXIT_VMRESUME);
	enter(VMCS_DEEP, EPT_L4);
	assert_int_equal(guest(VMCS_DEEP, EPT_L4)->level, 4);
	assert_ptr_equal(parent(guest(VMCS_DEEP, EPT_L4)), guest(VMCS_DEEP, EPT_L3));
	/* And L2's next guest, with nothing of L3's pending, is L2's. */
	leave(EXIT_EPT_VIOLATION);
	enter(VMCS_L2, EPT_L2);
	leave(EXIT_VMRESUME);
	enter(VMCS_DEEP, EPT_OTHER);
	assert_int_equal(guest(VMCS_DEEP, EPT_OTHER)->level, 3);
}

static void a_second_guest_of_the_machine_is_not_the_firsts(void **state)
{
	run_l2();
	leave(EXIT_EXTERNAL_INTERRUPT);
	enter(VMCS_DEEP, EPT_OTHER);
	assert_int_equal(guest(VMCS_DEEP, EPT_OTHER)->level, 2);
}

static void handling_is_charged_to_the_exit(void **state)
{
	run_l2();
	leave(EXIT_IO);
	r.cpu->icount += 1234;
	enter(VMCS_L2, EPT_L2);
	assert_int_equal(guest(VMCS_L2, EPT_L2)->reason[EXIT_IO].insns, 1234);
	assert_int_equal(guest(VMCS_L2, EPT_L2)->reason[EXIT_CPUID].insns, 0);
}

static void more_guests_than_places_push_out_the_oldest(void **state)
{
	run_l2();
	for (unsigned i = 0; i < 3 * NEST_GUESTS; i++) {
		leave(EXIT_VMRESUME);
		enter(VMCS_DEEP + i, EPT_L3);
	}
	const struct nest *n = vmx_nest(r.cpu);
	assert_int_equal(n->n, NEST_GUESTS);
	guest(VMCS_DEEP + 3 * NEST_GUESTS - 1, EPT_L3);
	for (unsigned i = 0; i < NEST_GUESTS; i++)
		assert_in_range(n->guest[i].parent + 1, 0, NEST_GUESTS);
}

static int setup(void **state)
{
	memset(&r, 0, sizeof r);
	vmx_open_root(&r);
	return 0;
}
static int teardown(void **state)
{
	vmx_close(&r);
	return 0;
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(an_own_guest_is_at_level_2), T(what_a_guests_vmresume_enters_is_its_guest), T(a_guest_of_a_guest_of_a_guest_is_at_level_4),
		T(a_second_guest_of_the_machine_is_not_the_firsts), T(handling_is_charged_to_the_exit), T(more_guests_than_places_push_out_the_oldest),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
