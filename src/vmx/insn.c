/* The VMX instructions (SDM "VMX Instruction Reference"): #UD, VM exit, #GP and VMfail in the manual's order. */
#include "vmx/priv.h"

static void set_arith(struct cpu *c, u64 flags) { c->arch.cc = cpu_flags_to_cc(flags); }

void vmx_succeed(struct cpu *c) { set_arith(c, 0); }

/* The engine goes on with the next instruction of the block. */
static enum step succeed(struct cpu *c)
{
	vmx_succeed(c);
	return STEP_END;
}

/* e 0 asks for VMfailInvalid. The error number goes to the current VMCS, also in non-root operation (VMCS shadowing).
 */
enum step vmx_fail(struct cpu *c, enum vmx_error e)
{
	struct vmx *v = vmx_of(c);

	if (trace_on(TRACE_VMX))
		trace_line(TRACE_VMX, "cpu%u rip %llx VMfail: %s", c->index, (unsigned long long)c->arch.rip,
			   e && v->vmcs ? vmx_error_text(e) : "VMfailInvalid");
	if (!e || !v->vmcs) {
		set_arith(c, FLAG_CF);
		return STEP_END;
	}
	set_arith(c, FLAG_ZF);
	vmcs_set(v->vmcs, VF_INSN_ERROR, e);
	vmx_page_written(c, v->vmcs_frame, offsetof(struct vmcs, f[VF_INSN_ERROR]), 8);
	return STEP_END;
}

/* CR0.PE = 0, RFLAGS.VM = 1, or compatibility mode. */
static bool wrong_mode(const struct cpu *c)
{
	return !(c->arch.cr0 & CR0_PE) || (c->arch.rflags & FLAG_VM) ||
	       ((c->arch.efer & EFER_LMA) && !(c->mode & MODE_L));
}

static bool long_mode(const struct cpu *c) { return c->mode & MODE_L; }

static bool bad_address(const struct vmx *v, u64 at) { return at & (0xfff | v->phys_mask); }

static enum step do_exit(struct cpu *c, const struct insn *i, u32 reason, u64 qualification, u32 info)
{
	vmx_exit_insn(c, reason, qualification, i, info);
	return STEP_STOP;
}

static enum step do_exit_mem(struct cpu *c, const struct insn *i, u32 reason)
{
	return do_exit(c, i, reason, vmx_info_disp(c, i), vmx_info_mem(i, 0, false));
}

/* ---- VMXON, VMXOFF ---- */

static bool vmxon_allowed(const struct cpu *c)
{
	const struct vmx_caps *k = &vmx_of(c)->caps;
	u64 cr0 = c->arch.cr0, cr4 = c->arch.cr4;

	if (c->arch.cpl)
		return false;
	if ((~cr0 & k->cr0_fixed0) || (cr0 & ~k->cr0_fixed1) || (~cr4 & k->cr4_fixed0) || (cr4 & ~k->cr4_fixed1))
		return false;
	/* IA32_FEATURE_CONTROL: locked, with VMX outside SMX on. */
	return (c->arch.feat_ctl & 5) == 5;
}

static enum step vmxon(struct cpu *c, const struct insn *i)
{
	struct vmx *v = vmx_of(c);
	u64 at;

	if (!(i->flags & INSN_MEM) || !(c->arch.cr4 & CR4_VMXE) || wrong_mode(c))
		return cpu_ud(c);
	if (v->s.on && c->arch.guest_mode)
		return do_exit_mem(c, i, EXIT_VMXON);
	if (v->s.on) {
		if (c->arch.cpl)
			return cpu_gp(c, 0);
		return vmx_fail(c, VMERR_VMXON_IN_ROOT);
	}
	if (!vmxon_allowed(c))
		return cpu_gp(c, 0);
	if (!vmx_read_mem(c, i, &at, 8))
		return STEP_FAULT;
	if (bad_address(v, at) || cpu_phys_read(c, at, 4) != VMCS_REVISION)
		return vmx_fail(c, 0);
	v->s.on = 1;
	v->s.vmxon_ptr = at;
	vmx_set_vmcs(c, VMCS_NONE);
	return succeed(c);
}

static enum step vmxoff(struct cpu *c, const struct insn *i)
{
	struct vmx *v = vmx_of(c);

	v->s.on = 0;
	vmx_set_vmcs(c, VMCS_NONE);
	mmu_flush_all(c);
	if (c->arch.init_pending) /* INIT signals are unblocked */
		cpu_pend(c, PEND_INIT);
	return succeed(c);
}

/* ---- VMCS pointers ---- */

static enum step vmclear(struct cpu *c, const struct insn *i)
{
	struct vmx *v = vmx_of(c);
	u64 at;

	if (!vmx_read_mem(c, i, &at, 8))
		return STEP_FAULT;
	if (bad_address(v, at))
		return vmx_fail(c, VMERR_VMCLEAR_ADDRESS);
	if (at == v->s.vmxon_ptr)
		return vmx_fail(c, VMERR_VMCLEAR_VMXON);
	cpu_phys_write(c, at + offsetof(struct vmcs, launched), 4, 0);
	if (at == v->s.vmcs_ptr)
		vmx_set_vmcs(c, VMCS_NONE);
	return succeed(c);
}

static enum step vmptrld(struct cpu *c, const struct insn *i)
{
	struct vmx *v = vmx_of(c);
	u64 at;

	if (!vmx_read_mem(c, i, &at, 8))
		return STEP_FAULT;
	if (bad_address(v, at))
		return vmx_fail(c, VMERR_VMPTRLD_ADDRESS);
	if (at == v->s.vmxon_ptr)
		return vmx_fail(c, VMERR_VMPTRLD_VMXON);
	u32 word = cpu_phys_read(c, at, 4);
	if ((word & 0x7fffffff) != VMCS_REVISION || ((word & VMCS_SHADOW) && !can(v, CTL_PROC2_VMCS_SHADOWING)))
		return vmx_fail(c, VMERR_VMPTRLD_REVISION);
	vmx_set_vmcs(c, at);
	return succeed(c);
}

static enum step vmptrst(struct cpu *c, const struct insn *i)
{
	u64 at = vmx_of(c)->s.vmcs_ptr;

	return vmx_write_mem(c, i, &at, 8) ? succeed(c) : STEP_FAULT;
}

/* ---- VMREAD, VMWRITE ---- */

/* The VMCS that they access: the current one, or in non-root operation with VMCS shadowing the one at the link pointer.
 */
struct access {
	struct vmcs *m;
	i64 frame;
};

static struct access accessed_vmcs(struct cpu *c)
{
	struct vmx *v = vmx_of(c);
	struct access a = { v->vmcs, v->vmcs_frame };

	if (c->arch.guest_mode) {
		a.m = NULL;
		if (v->f[VF_VMCS_LINK] != VMCS_NONE)
			a.m = (struct vmcs *)vmx_page(c, v->f[VF_VMCS_LINK], &a.frame);
	}
	return a;
}

/* SDM "VMREAD": in non-root operation an exit unless shadowing is on and the bitmap's bit is 0. */
static bool access_exits(const struct cpu *c, const u8 *bitmap, u64 encoding)
{
	const struct vmx *v = vmx_of(c);

	if (!c->arch.guest_mode)
		return false;
	if (!has(v, CTL_PROC2_VMCS_SHADOWING) || encoding >> 15)
		return true;
	return bitmap[encoding >> 3] >> (encoding & 7) & 1;
}

static int usable_slot(const struct vmx *v, u64 encoding)
{
	int slot = encoding >> 32 ? -1 : vmcs_slot_of((u32)encoding);
	return slot >= 0 && can(v, vmcs_fields[slot].gate) ? slot : -1;
}

static u64 operand_mask(const struct cpu *c) { return long_mode(c) ? ~(u64)0 : 0xffffffff; }

static u32 access_info(const struct insn *i, unsigned field_reg, unsigned other_reg)
{
	return vmx_info_vmaccess(i, other_reg, field_reg);
}

static enum step vmread(struct cpu *c, const struct insn *i)
{
	struct vmx *v = vmx_of(c);
	u64 encoding = c->arch.gpr[i->src] & operand_mask(c);

	if (access_exits(c, v->vmread_bitmap, encoding))
		return do_exit(c, i, EXIT_VMREAD, vmx_info_disp(c, i), access_info(i, i->src, i->dst));
	if (c->arch.cpl)
		return cpu_gp(c, 0);
	struct access a = accessed_vmcs(c);
	if (!a.m)
		return vmx_fail(c, 0);
	int slot = usable_slot(v, encoding);
	if (slot < 0)
		return vmx_fail(c, VMERR_UNSUPPORTED_FIELD);
	u64 value = vmcs_get(a.m, slot) & vmcs_mask(slot);
	if (encoding & 1)
		value >>= 32;
	value &= operand_mask(c);
	if (trace_on(TRACE_VMX))
		trace_line(TRACE_VMX, "cpu%u rip %llx VMREAD %s = %llx", c->index, (unsigned long long)c->arch.rip,
			   vmcs_fields[slot].name, (unsigned long long)value);
	if (!(i->flags & INSN_MEM))
		c->arch.gpr[i->dst] = value;
	else if (!vmx_write_mem(c, i, &value, long_mode(c) ? 8 : 4))
		return STEP_FAULT;
	return succeed(c);
}

static enum step vmwrite(struct cpu *c, const struct insn *i)
{
	struct vmx *v = vmx_of(c);
	u64 encoding = c->arch.gpr[i->dst] & operand_mask(c), value = 0;

	if (access_exits(c, v->vmwrite_bitmap, encoding))
		return do_exit(c, i, EXIT_VMWRITE, vmx_info_disp(c, i), access_info(i, i->dst, i->src));
	if (c->arch.cpl)
		return cpu_gp(c, 0);
	struct access a = accessed_vmcs(c);
	if (!a.m)
		return vmx_fail(c, 0);
	if (!(i->flags & INSN_MEM))
		value = c->arch.gpr[i->src];
	else if (!vmx_read_mem(c, i, &value, long_mode(c) ? 8 : 4))
		return STEP_FAULT;
	value &= operand_mask(c);
	int slot = usable_slot(v, encoding);
	if (slot < 0)
		return vmx_fail(c, VMERR_UNSUPPORTED_FIELD);
	/* IA32_VMX_MISC[29]: exit-information fields may be written too. */
	if (encoding & 1)
		value = (vmcs_get(a.m, slot) & 0xffffffff) | value << 32;
	vmcs_set(a.m, slot, value & vmcs_mask(slot));
	if (!c->arch.guest_mode)
		c->vm_written_part[c->vm_field_part[slot]] = 1;
	vmx_page_written(c, a.frame, offsetof(struct vmcs, f) + slot * 8, 8);
	v->written[slot].vmcs = c->arch.guest_mode ? v->f[VF_VMCS_LINK] : v->s.vmcs_ptr;
	v->written[slot].rip = c->arch.rip;
	if (trace_on(TRACE_VMX))
		trace_line(TRACE_VMX, "cpu%u rip %llx VMWRITE %s := %llx", c->index, (unsigned long long)c->arch.rip,
			   vmcs_fields[slot].name, (unsigned long long)value);
	return succeed(c);
}

/* ---- INVEPT, INVVPID ---- */

static enum step invept(struct cpu *c, const struct insn *i)
{
	struct vmx *v = vmx_of(c);
	u64 type = c->arch.gpr[i->dst] & operand_mask(c), desc[2];

	if (type != 1 && type != 2)
		return vmx_fail(c, VMERR_INVALID_OPERAND);
	if (!vmx_read_mem(c, i, desc, 16))
		return STEP_FAULT;
	if (type == 1 && !vmx_eptp_ok(v, desc[0]))
		return vmx_fail(c, VMERR_INVALID_OPERAND);
	if (type == 2)
		mmu_flush_all(c);
	else
		vmx_flush_eptp(c, desc[0]);
	return succeed(c);
}

static enum step invvpid(struct cpu *c, const struct insn *i)
{
	u64 type = c->arch.gpr[i->dst] & operand_mask(c), desc[2];

	if (type > 3)
		return vmx_fail(c, VMERR_INVALID_OPERAND);
	if (!vmx_read_mem(c, i, desc, 16))
		return STEP_FAULT;
	u16 vpid = (u16)desc[0];
	if (desc[0] >> 16 || (type != 2 && !vpid) || (type == 0 && !cpu_canonical(desc[1])))
		return vmx_fail(c, VMERR_INVALID_OPERAND);
	switch (type) {
	case 0: mmu_invlpg_vpid(c, vpid, gva(desc[1])); break;
	case 1: mmu_flush_vpid(c, vpid, true); break;
	case 2: mmu_flush_all(c); break;
	case 3: mmu_flush_vpid(c, vpid, false); break;
	}
	return succeed(c);
}

/* ---- VMCALL, VMFUNC ---- */

/* SDM "EPTP Switching". ECX >= 512 or a bad entry: VM exit. */
static enum step vmfunc(struct cpu *c, const struct insn *i)
{
	struct vmx *v = vmx_of(c);
	u32 leaf = c->arch.gpr[GPR_RAX], index = c->arch.gpr[GPR_RCX];

	if (!c->arch.guest_mode || !has(v, CTL_PROC2_VM_FUNCTIONS) || leaf > 63)
		return cpu_ud(c);
	if (!(v->f[VF_VM_FUNCTION_CONTROLS] >> leaf & 1) || index >= 512)
		return do_exit(c, i, EXIT_VMFUNC, 0, 0);
	u64 eptp = cpu_phys_read(c, v->f[VF_EPTP_LIST] + index * 8, 8);
	if (!vmx_eptp_ok(v, eptp))
		return do_exit(c, i, EXIT_VMFUNC, 0, 0);
	vmcs_put(c, VF_EPTP, eptp);
	if (has(v, CTL_PROC2_EPT_VE))
		vmcs_put(c, VF_EPTP_INDEX, index);
	v->ept_ad = eptp & BIT(6);
	v->npt_tag = vmx_npt_tag(v, eptp);
	if (!has(v, CTL_PROC2_VPID))
		mmu_flush_vpid(c, 0, true);
	mmu_switch(c);
	c->arch.rip += i->len; /* leave the block: what follows may be another page now */
	if (!(c->mode & MODE_L))
		c->arch.rip = (u32)c->arch.rip;
	return STEP_STOP;
}

static enum step vmcall(struct cpu *c, const struct insn *i)
{
	if (c->arch.guest_mode)
		return do_exit(c, i, EXIT_VMCALL, 0, 0);
	if (wrong_mode(c))
		return cpu_ud(c);
	return c->arch.cpl ? cpu_gp(c, 0) : vmx_fail(c, VMERR_VMCALL_IN_ROOT);
}

static enum step vmlaunch(struct cpu *c, const struct insn *i) { return vmx_enter(c, true); }
static enum step vmresume(struct cpu *c, const struct insn *i) { return vmx_enter(c, false); }

/* Instructions of the usual shape: #UD outside VMX operation or in the wrong mode, VM exit in non-root operation, #GP
 * above CPL 0, then the work. */
enum shape { SHAPE_PLAIN, SHAPE_MEM, SHAPE_MEM_REG };
static const struct vmx_row {
	u16 op;
	u8 exit, shape;
	enum step (*fn)(struct cpu *c, const struct insn *i);
} rows[] = {
	{ ZYDIS_MNEMONIC_VMXOFF, EXIT_VMXOFF, SHAPE_PLAIN, vmxoff },
	{ ZYDIS_MNEMONIC_VMLAUNCH, EXIT_VMLAUNCH, SHAPE_PLAIN, vmlaunch },
	{ ZYDIS_MNEMONIC_VMRESUME, EXIT_VMRESUME, SHAPE_PLAIN, vmresume },
	{ ZYDIS_MNEMONIC_VMCLEAR, EXIT_VMCLEAR, SHAPE_MEM, vmclear },
	{ ZYDIS_MNEMONIC_VMPTRLD, EXIT_VMPTRLD, SHAPE_MEM, vmptrld },
	{ ZYDIS_MNEMONIC_VMPTRST, EXIT_VMPTRST, SHAPE_MEM, vmptrst },
	{ ZYDIS_MNEMONIC_INVEPT, EXIT_INVEPT, SHAPE_MEM_REG, invept },
	{ ZYDIS_MNEMONIC_INVVPID, EXIT_INVVPID, SHAPE_MEM_REG, invvpid },
};

static enum step run_row(struct cpu *c, const struct insn *i, const struct vmx_row *r)
{
	if (r->shape != SHAPE_PLAIN && !(i->flags & INSN_MEM))
		return cpu_ud(c);
	if (c->arch.guest_mode) {
		if (r->shape == SHAPE_PLAIN)
			return do_exit(c, i, r->exit, 0, 0);
		return do_exit(c, i, r->exit, vmx_info_disp(c, i), vmx_info_mem(i, i->dst, r->shape == SHAPE_MEM_REG));
	}
	return c->arch.cpl ? cpu_gp(c, 0) : r->fn(c, i);
}

static noinline enum step any_insn(struct cpu *c, const struct insn *i)
{
	struct vmx *v = vmx_fresh(c);

	if (!cpu_has(c, FEAT_VMX))
		return cpu_ud(c);
	if (i->op == ZYDIS_MNEMONIC_VMXON)
		return vmxon(c, i);
	if (!v->s.on)
		return cpu_ud(c);
	if (i->op == ZYDIS_MNEMONIC_VMCALL)
		return vmcall(c, i);
	if (i->op == ZYDIS_MNEMONIC_VMFUNC)
		return vmfunc(c, i);
	if (wrong_mode(c))
		return cpu_ud(c);
	if (i->op == ZYDIS_MNEMONIC_VMREAD)
		return vmread(c, i);
	if (i->op == ZYDIS_MNEMONIC_VMWRITE)
		return vmwrite(c, i);
	for (unsigned n = 0; n < array_len(rows); n++)
		if (rows[n].op == i->op)
			return run_row(c, i, &rows[n]);
	return cpu_ud(c);
}

/* VMRESUME of a hypervisor in 64-bit mode is by far the most frequent. */
hot_path enum step vmx_insn(struct cpu *c, const struct insn *i)
{
	const struct vmx *v = vmx_of(c);

	if (likely(i->op == ZYDIS_MNEMONIC_VMRESUME && v->fresh && v->s.on && !c->arch.guest_mode && (c->mode & MODE_L) && !c->arch.cpl))
		return vmx_enter(c, false);
	return any_insn(c, i);
}
