/* Rows of checks.def against the vectors of vectors.def, through VMLAUNCH itself: the guest inside enters (or is
 * stopped by nothing that this row says), the one outside fails with the row's own error number and sentence. */
#include "vmx_rig.h"

static const char *const names[CHECK_COUNT] = {
#define CHECK(group, id, field, when, bad, must, because, section) [CHECK_##id] = #id,
#include "vmx/checks.def"
#undef CHECK
};
static const u8 groups[CHECK_COUNT] = {
#define CHECK(group, id, field, when, bad, must, because, section) [CHECK_##id] = VMX_CHECK_##group,
#include "vmx/checks.def"
#undef CHECK
};

#define F(field, value) set_field(r, VF_##field, (value));
#define G(field) get_field(r, VF_##field)
#define ON(ctl) set_control(r, CTL_##ctl, true);
#define OFF(ctl) set_control(r, CTL_##ctl, false);
#define MEM(at, value) core_set(&r->core, at, 8, value);
#define AR(seg, clear, set) \
	set_field(r, VF_GUEST_##seg##_AR, (get_field(r, VF_GUEST_##seg##_AR) & ~(u64)(clear)) | (set));
#define HOST32 host32(r);

/* A 32-bit host: what VM entry sees as the current mode, and the controls that go with it. */
static void host32(struct vmx_rig *r)
{
	struct cpu *c = r->cpu;
	c->arch.efer = 0;
	c->arch.seg[SEG_CS].attr = (c->arch.seg[SEG_CS].attr & ~(u32)SEG_L) | SEG_DB;
	cpu_update_mode(c);
	OFF(EXIT_HOST64)
	OFF(ENTRY_IA32E)
	F(GUEST_CS_AR, 11 | SEG_S | SEG_P | SEG_DB | SEG_G)
	F(HOST_CR4, CR4_VMXE)
	F(GUEST_CR4, CR4_VMXE)
	F(GUEST_EFER, 0)
}

struct check_vector {
	enum vmx_check row;
	void (*inside)(struct vmx_rig *r), (*outside)(struct vmx_rig *r);
};

#define CAT_(a, b) a##b
#define CAT(a, b) CAT_(a, b)
#define VECTOR(id, prepare, in, out) \
	static void CAT(inside_, __LINE__)(struct vmx_rig *r) { prepare in } \
	static void CAT(outside_, __LINE__)(struct vmx_rig *r) { prepare out }
#include "vectors.def"
#undef VECTOR
#define VECTOR(id, prepare, in, out) { CHECK_##id, CAT(inside_, __LINE__), CAT(outside_, __LINE__) },
static const struct check_vector vectors[] = {
#include "vectors.def"
};
#undef VECTOR

static void launch(struct vmx_rig *r, void (*setup)(struct vmx_rig *))
{
	vmx_open_root(r);
	setup(r);
	vmx_run(r, ZYDIS_MNEMONIC_VMLAUNCH);
}

static void say(const struct check_vector *v, const char *side, const struct vmx_failure *f)
{
	char text[1024];
	print_error("%s, %s: %s\n", names[v->row], side,
		    f ? vmx_explain_failure(f, text, sizeof text) : "VM entry succeeded");
}

static void the_guest_inside_enters(void **state)
{
	for (unsigned n = 0; n < array_len(vectors); n++) {
		struct vmx_rig r;
		launch(&r, vectors[n].inside);
		const struct vmx_failure *f = vmx_last_failure(r.cpu, 0);
		if (f)
			say(&vectors[n], "inside", f);
		assert_null(f);
		assert_true(r.cpu->arch.guest_mode);
		assert_int_equal(r.vmcs->launched, 1);
		vmx_close(&r);
	}
}

static void expect_failure(struct vmx_rig *r, unsigned group, const struct vmx_failure *f)
{
	assert_false(r->cpu->arch.guest_mode);
	assert_int_equal(r->vmcs->launched, 0);
	switch (group) {
	case VMX_CHECK_CONTROLS:
		vmx_expect_error(r, 7);
		break;
	case VMX_CHECK_HOST:
		vmx_expect_error(r, 8);
		break;
	default:
		vmx_expect_exit(r, (group == VMX_CHECK_GUEST ? 33 : 34) | EXIT_ENTRY_FAILURE);
		assert_int_equal(get_field(r, VF_EXIT_QUALIFICATION), f->qualification);
	}
}

static void the_guest_outside_fails_by_that_row(void **state)
{
	for (unsigned n = 0; n < array_len(vectors); n++) {
		struct vmx_rig r;
		launch(&r, vectors[n].outside);
		const struct vmx_failure *f = vmx_last_failure(r.cpu, 0);
		if (!f || f->check != vectors[n].row)
			say(&vectors[n], "outside", f);
		assert_non_null(f);
		assert_string_equal(names[f->check], names[vectors[n].row]);
		assert_int_not_equal(f->bad, 0);
		expect_failure(&r, groups[f->check], f);
		vmx_close(&r);
	}
}

/* Of a VMCS that is launched. */
static void set_up(struct vmx_rig *r, void (*setup)(struct vmx_rig *))
{
	vmx_baseline(r);
	setup(r);
	r->vmcs->launched = 1;
}

/* The guest inside has run and exited; then its hypervisor makes it the one outside. VM entry looks only at what may have changed since it last looked: what is
 * outside must be among that, however it got there. */
static void the_guest_outside_fails_after_the_one_inside_has_run(void **state)
{
	for (unsigned n = 0; n < array_len(vectors); n++) {
		struct vmx_rig r;
		launch(&r, vectors[n].inside);
		assert_true(r.cpu->arch.guest_mode);
		for (unsigned again = 0; again < 2; again++) {
			vmx_exit(r.cpu, EXIT_CPUID, 0);
			set_up(&r, vectors[n].inside);
			vmx_run(&r, ZYDIS_MNEMONIC_VMRESUME);
			assert_true(r.cpu->arch.guest_mode);
		}
		vmx_exit(r.cpu, EXIT_CPUID, 0);
		set_up(&r, vectors[n].outside);
		vmx_run(&r, ZYDIS_MNEMONIC_VMRESUME);
		const struct vmx_failure *f = vmx_last_failure(r.cpu, 0);
		if (!f || f->check != vectors[n].row)
			say(&vectors[n], "outside after inside", f);
		assert_non_null(f);
		assert_string_equal(names[f->check], names[vectors[n].row]);
		r.vmcs->launched = 0;
		expect_failure(&r, groups[f->check], f);
		vmx_close(&r);
	}
}

static void no_row_is_without_a_vector(void **state)
{
	for (unsigned row = 0; row < CHECK_COUNT; row++) {
		unsigned found = 0;
		for (unsigned n = 0; n < array_len(vectors); n++)
			found += vectors[n].row == row;
		if (!found)
			print_error("%s has no vector\n", names[row]);
		assert_int_not_equal(found, 0);
	}
}

static void a_failure_is_one_sentence_with_field_value_bit_reason_and_title(void **state)
{
	struct vmx_rig r;
	char text[1024];
	vmx_open_root(&r);
	set_field(&r, VF_GUEST_CR4, 0x20);
	vmx_run(&r, ZYDIS_MNEMONIC_VMLAUNCH);
	vmx_explain_failure(vmx_last_failure(r.cpu, 0), text, sizeof text);
	assert_string_equal(text, "VM entry failed (guest state, reason 33): GUEST_CR4 = 0x20: bit 13 (VMXE) must be "
				  "1, because IA32_VMX_CR4_FIXED0/1 fix it "
				  "[SDM \"Checks on Guest Control Registers, Debug Registers, and MSRs\"]");
	assert_null(vmx_last_failure(r.cpu, 1));
	assert_int_equal(r.cpu->stats.vmentry_failures, 1);
	vmx_close(&r);
}

static void every_sentence_fits_and_names_its_field(void **state)
{
	for (unsigned n = 0; n < array_len(vectors); n++) {
		struct vmx_rig r;
		char text[1024];
		launch(&r, vectors[n].outside);
		const struct vmx_failure *f = vmx_last_failure(r.cpu, 0);
		vmx_explain_failure(f, text, sizeof text);
		assert_true(strlen(text) < sizeof text - 1);
		assert_non_null(strstr(text, " must ") ? text : strstr(text, " has "));
		assert_non_null(strstr(text, "because "));
		assert_non_null(strstr(text, "[SDM \""));
		vmx_close(&r);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_row_is_without_a_vector),
		cmocka_unit_test(the_guest_inside_enters),
		cmocka_unit_test(the_guest_outside_fails_by_that_row),
		cmocka_unit_test(the_guest_outside_fails_after_the_one_inside_has_run),
		cmocka_unit_test(a_failure_is_one_sentence_with_field_value_bit_reason_and_title),
		cmocka_unit_test(every_sentence_fits_and_names_its_field),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
