/* Names of fields, exits and errors, and failed VM entries as sentences. */
#include "vmx/priv.h"
#include <stdio.h>

#define BITS NULL
#define CHECK(group_, id_, field_, when, bad, must_, because_, section_) \
	[CHECK_##id_] = {VMX_CHECK_##group_, #id_, must_, because_, section_},
static const struct check_text {
	enum vmx_check_group group;
	const char *id, *must, *because, *section; /* must NULL: each offending bit must have the opposite value */
} check_text[CHECK_COUNT] = {
#include "vmx/checks.def"
};
#undef CHECK

const char *vmx_exit_name(unsigned reason)
{
	static const char *const names[] = {
#define EXIT(n, name) [n] = #name,
#include "vmx/exits.def"
#undef EXIT
	};
	return reason < array_len(names) && names[reason] ? names[reason] : "?";
}

const char *vmx_error_text(unsigned number)
{
	static const char *const text[] = {
#define VMERR(n, name, text_) [n] = text_,
#include "vmx/errors.def"
#undef VMERR
	};
	return number < array_len(text) && text[number] ? text[number] : "?";
}

static const char *const cr0_bits[32] = {[0] = "PE",  [1] = "MP",  [2] = "EM",	[3] = "TS",  [4] = "ET", [5] = "NE",
					 [16] = "WP", [18] = "AM", [29] = "NW", [30] = "CD", [31] = "PG"};
static const char *const cr4_bits[32] = {
	[0] = "VME",   [1] = "PVI",	  [2] = "TSD",	 [3] = "DE",	    [4] = "PSE",	 [5] = "PAE",
	[6] = "MCE",   [7] = "PGE",	  [8] = "PCE",	 [9] = "OSFXSR",    [10] = "OSXMMEXCPT", [11] = "UMIP",
	[12] = "LA57", [13] = "VMXE", [14] = "SMXE", [16] = "FSGSBASE", [17] = "PCIDE",	 [18] = "OSXSAVE",
	[20] = "SMEP", [21] = "SMAP", [22] = "PKE",	 [23] = "CET",	    [24] = "PKS"};
static const char *const flag_bits[32] = {
	[0] = "CF",	 [1] = "fixed 1", [2] = "PF",	[4] = "AF",   [6] = "ZF",  [7] = "SF",
	[8] = "TF",	 [9] = "IF",	  [10] = "DF",	[11] = "OF",  [14] = "NT", [16] = "RF",
	[17] = "VM", [18] = "AC",	  [19] = "VIF", [20] = "VIP", [21] = "ID"};
static const char *const efer_bits[32] = { [0] = "SCE", [8] = "LME", [10] = "LMA", [11] = "NXE", [12] = "SVME" };
static const char *const ar_bits[32] = {
	[4] = "S", [7] = "P", [12] = "AVL", [13] = "L", [14] = "D/B", [15] = "G", [16] = "unusable"};
static const char *const blocking_bits[32] = {[0] = "blocking by STI",
					      [1] = "blocking by MOV SS",
					      [2] = "blocking by SMI",
					      [3] = "blocking by NMI",
					      [4] = "enclave"};

static const char *bit_name(u32 encoding, unsigned n)
{
	const char *const *names = NULL;

	if (n > 31)
		return NULL;
	switch (vmcs_slot_of(encoding)) {
	case VF_PIN_CONTROLS: return vmx_control_name(GROUP_PIN, n);
	case VF_PROC_CONTROLS: return vmx_control_name(GROUP_PROC, n);
	case VF_PROC2_CONTROLS: return vmx_control_name(GROUP_PROC2, n);
	case VF_EXIT_CONTROLS: return vmx_control_name(GROUP_EXIT, n);
	case VF_ENTRY_CONTROLS: return vmx_control_name(GROUP_ENTRY, n);
	case VF_GUEST_CR0: case VF_HOST_CR0: names = cr0_bits; break;
	case VF_GUEST_CR4: case VF_HOST_CR4: names = cr4_bits; break;
	case VF_GUEST_EFER: case VF_HOST_EFER: names = efer_bits; break;
	case VF_GUEST_RFLAGS: names = flag_bits; break;
	case VF_GUEST_INTERRUPTIBILITY: names = blocking_bits; break;
	case VF_GUEST_ES_AR:
	case VF_GUEST_CS_AR:
	case VF_GUEST_SS_AR:
	case VF_GUEST_DS_AR:
	case VF_GUEST_FS_AR:
	case VF_GUEST_GS_AR:
	case VF_GUEST_LDTR_AR: case VF_GUEST_TR_AR: names = ar_bits; break;
	}
	return names ? names[n] : NULL;
}

/* "bit 13 (VMXE) must be 1" for one bit, ranges for more. */
static size_t say_bits(char *to, size_t room, u64 value, u64 bad, u32 encoding)
{
	size_t used = 0;

	for (unsigned n = 0; n < 64 && used < room; n++) {
		if (!(bad >> n & 1))
			continue;
		unsigned last = n;
		while (last < 63 && (bad >> (last + 1) & 1) && !bit_name(encoding, last + 1) &&
		       !bit_name(encoding, n) && (value >> (last + 1) & 1) == (value >> n & 1))
			last++;
		const char *name = bit_name(encoding, n);
		used += snprintf(to + used, room - used, "%s%s %u", used ? ", " : "", last > n ? "bits" : "bit", last);
		if (last > n && used < room)
			used += snprintf(to + used, room - used, ":%u", n);
		if (name && used < room)
			used += snprintf(to + used, room - used, " (%s)", name);
		if (used < room)
			used += snprintf(to + used, room - used, " must be %u", value >> n & 1 ? 0 : 1);
		n = last;
	}
	return used < room ? used : room;
}

static const char *const group_names[VMX_CHECK_GROUPS] = { "controls, VM-instruction error", "host state, VM-instruction error", "guest state, reason",
							   "MSR loading, reason" };

void vmx_failure_pieces(const struct vmx_failure *f, struct vmx_failure_text *o)
{
	const struct check_text *t = &check_text[f->check < CHECK_COUNT ? f->check : 0];
	const char *field = vmx_field_name(f->field);

	*o = (struct vmx_failure_text){ .id = t->id, .because = t->because, .section = t->section, .when = group_names[t->group] };
	o->field = t->group == VMX_CHECK_MSR_LIST ? "the VM-entry MSR-load area" : field ? field : "?";
	if (t->group == VMX_CHECK_MSR_LIST)
		snprintf(o->what, sizeof o->what, "%s (entry %llu, MSR 0x%x, value 0x%llx)", t->must, (unsigned long long)f->qualification, f->detail,
			 (unsigned long long)f->value);
	else if (t->must)
		snprintf(o->what, sizeof o->what, "it %s", t->must);
	else
		say_bits(o->what, sizeof o->what, f->value, f->bad, f->field);
}

char *vmx_explain_failure(const struct vmx_failure *f, char *buf, size_t size)
{
	struct vmx_failure_text t;

	vmx_failure_pieces(f, &t);
	if (check_text[f->check < CHECK_COUNT ? f->check : 0].group == VMX_CHECK_MSR_LIST)
		snprintf(buf, size, "VM entry failed (%s %u): %s %s, because %s [SDM \"%s\"]", t.when, f->reason, t.field, t.what, t.because, t.section);
	else
		snprintf(buf, size, "VM entry failed (%s %u): %s = 0x%llx: %s, because %s [SDM \"%s\"]", t.when, f->reason, t.field,
			 (unsigned long long)f->value, t.what, t.because, t.section);
	return buf;
}

const struct vmx_failure *vmx_last_failure(const struct cpu *c, unsigned n)
{
	const struct vmx *v = vmx_of(c);

	if (c->virt != &vmx_ops || n >= VMX_FAILURES || n >= v->failures)
		return NULL;
	return &v->failure[(v->failures - 1 - n) % VMX_FAILURES];
}

/* Remember, trace, and say each check's first failure in the log. */
void vmx_report_failure(struct cpu *c, struct vmx_failure *fail, u64 vmcs)
{
	struct vmx *v = vmx_of(c);
	char text[1024];

	fail->vmcs = vmcs;
	fail->rip = c->arch.rip;
	int slot = vmcs_slot_of(fail->field);
	fail->writer = slot >= 0 && v->written[slot].vmcs == vmcs ? v->written[slot].rip : 0;
	fail->serial = ++v->failures;
	v->failure[(v->failures - 1) % VMX_FAILURES] = *fail;
	c->stats.vmentry_failures++;
	bool first = !v->said[fail->check];
	v->said[fail->check] = 1;
	if (!first && !trace_on(TRACE_VMENTRY))
		return;
	vmx_explain_failure(fail, text, sizeof(text));
	if (trace_on(TRACE_VMENTRY))
		trace_line(TRACE_VMENTRY, "cpu%u vmcs %llx rip %llx: %s", c->index, (unsigned long long)vmcs,
			   (unsigned long long)fail->rip, text);
	if (first)
		log_info("%s", text);
}

bool vmx_print_vmcs(const struct cpu *c, const char *filter, char *buf, size_t size)
{
	const struct vmx *v = vmx_of(c);
	size_t used = 0;

	if (c->virt != &vmx_ops || !v->s.on || !v->vmcs)
		return false;
	*buf = 0;
	for (unsigned s = 0; s < VF_COUNT && used < size; s++)
		if (strstr(vmcs_fields[s].name, filter))
			used += snprintf(buf + used, size - used, "%s = 0x%llx\n", vmcs_fields[s].name, (unsigned long long)vmcs_get(v->vmcs, s));
	return true;
}
