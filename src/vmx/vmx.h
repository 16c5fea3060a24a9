/* VT-x in software: VMX as CPU semantics behind cpu/virt.h. A VMCS is the page of guest RAM that its hypervisor gave,
 * so saving RAM and vmx_ops.state saves every nested guest, at any depth. */
#ifndef NB_VMX_H
#define NB_VMX_H

#include "cpu/virt.h"

extern const struct virt_ops vmx_ops;

/* Gives vCPU c the VMX unit: sets c->virt and c->virt_state. Call after c->model and c->mem are set. 0 or -ENOMEM. */
int vmx_create(struct cpu *c);
void vmx_destroy(struct cpu *c);

/* ---- explanations ---- */
enum vmx_check_group { VMX_CHECK_CONTROLS, VMX_CHECK_HOST, VMX_CHECK_GUEST, VMX_CHECK_MSR_LIST, VMX_CHECK_GROUPS };

/* One VM entry that failed: which check, the field's value and the bits that were wrong. */
struct vmx_failure {
	u64 serial;        /* 1 = the first failure since power-on; 0 = none */
	u64 vmcs;          /* guest-physical address of the VMCS */
	u64 rip;           /* of the VMLAUNCH or VMRESUME */
	u64 writer;        /* of the VMWRITE that last wrote the field of this VMCS; 0: not known */
	u64 value, bad;    /* bad: offending bits; ~0 when the value as a whole is wrong */
	u64 qualification; /* reported to the guest (guest-state group) */
	u32 check;         /* row of checks.def, enum vmx_check */
	u32 reason;        /* 7, 8: VM-instruction error; 33, 34: exit reason */
	u32 field;         /* encoding */
	u32 detail;        /* MSR lists: the MSR */
};

#define VMX_FAILURES 8
/* The n-th last failure (0 = last), or NULL. */
const struct vmx_failure *vmx_last_failure(const struct cpu *c, unsigned n);
/* One sentence, NUL-terminated: what failed, the value, the bits, why the rule applies, the manual's section. Returns
 * buf. */
char *vmx_explain_failure(const struct vmx_failure *f, char *buf, size_t size);

/* The pieces of that sentence, for programs. what: what is wrong, "it must not be 0" or "bit 13 (VMXE) must be 1". */
struct vmx_failure_text { const char *id, *field, *because, *section, *when; char what[512]; };
void vmx_failure_pieces(const struct vmx_failure *f, struct vmx_failure_text *t);

/* The current VMCS, a field a line, "NAME = 0x...", of those whose name contains `filter`. False: there is none. */
bool vmx_print_vmcs(const struct cpu *c, const char *filter, char *buf, size_t size);

const char *vmx_exit_name(unsigned basic_reason); /* "EPT_VIOLATION"; "reason-N" unknown to us is "?" */
const char *vmx_field_name(u32 encoding);         /* NULL when there is no such field */

#endif
