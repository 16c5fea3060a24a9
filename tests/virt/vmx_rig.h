/* A vCPU with VMX in VMX root operation, 64-bit, and a VMCS that enters a 64-bit guest. No engine: tests execute VMX
 * instructions by hand. */
#ifndef VMX_RIG_H
#define VMX_RIG_H

#include "../unit/core_rig.h"
#include "vmx/priv.h"

/* Beside the core rig's places. */
enum {
	AT_VMXON = 0x40000,
	AT_VMCS = 0x41000,
	AT_SHADOW_VMCS = 0x42000,
	AT_OPERAND = 0x43000,
	AT_VAPIC = 0x44000,
	AT_MSR_BITMAP = 0x45000,
	AT_IO_A = 0x46000,
	AT_IO_B = 0x47000,
	AT_MSR_LIST = 0x48000,
	AT_PML = 0x49000,
	AT_VE = 0x4a000,
	AT_POSTED = 0x4b000,
	AT_EPTP_LIST = 0x4c000,
	AT_EPT = 0x50000,
	/* PML4, PDPT, PD, PT */ AT_HOST_CODE = 0x60000,
	AT_GUEST_CODE = 0x70000
};

struct vmx_rig {
	struct core core;
	struct cpu *cpu;
	struct vmx *vmx;
	struct vmcs *vmcs;
	u64 beyond; /* lowest bit beyond the physical-address width */
};

void vmx_open(struct vmx_rig *r);
void vmx_close(struct vmx_rig *r);
/* In VMX operation with a current VMCS that holds the baseline guest. */
void vmx_open_root(struct vmx_rig *r);
/* Fills the VMCS with the baseline: 64-bit host and guest, no secondary controls. */
void vmx_baseline(struct vmx_rig *r);

/* Executes a VMX instruction; memory operands are at AT_OPERAND (RAX). */
enum step vmx_run(struct vmx_rig *r, u16 op);
enum step vmx_run_pointer(struct vmx_rig *r, u16 op, u64 pointer);
enum step vmx_run_desc(struct vmx_rig *r, u16 op, u64 type, u64 low, u64 high);
enum step vmx_run_read(struct vmx_rig *r, u64 encoding, u64 *value);
enum step vmx_run_write(struct vmx_rig *r, u64 encoding, u64 value);
/* An instruction as an engine hands it over: 3 bytes, registers only. */
struct insn vmx_insn_of(u16 op);

void vmx_expect_success(struct vmx_rig *r);
void vmx_expect_invalid(struct vmx_rig *r);           /* VMfailInvalid */
void vmx_expect_error(struct vmx_rig *r, u32 number); /* VMfailValid */
void vmx_expect_exit(struct vmx_rig *r, u32 reason);  /* back in root operation at HOST_RIP */

static inline u64 get_field(struct vmx_rig *r, enum vmcs_slot s) { return vmcs_get(r->vmcs, s); }
/* As VMWRITE does it. */
static inline void set_field(struct vmx_rig *r, enum vmcs_slot s, u64 v)
{
	vmcs_set(r->vmcs, s, v & vmcs_mask(s));
	r->cpu->vm_written_part[r->cpu->vm_field_part[s]] = 1;
}
/* Sets or clears a control in its field; secondary controls are activated with it. */
void set_control(struct vmx_rig *r, enum vmx_control ctl, bool on);

#endif
