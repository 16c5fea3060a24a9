#include "vmx_rig.h"

void vmx_open(struct vmx_rig *r)
{
	memset(r, 0, sizeof *r);
	core_open(&r->core, CORE_LONG);
	struct cpu *c = r->cpu = r->core.cpu;
	cpu_model_free((struct cpu_model *)c->model);
	c->model = cpu_model_make("fast", true, 1, c->tsc_khz);
	assert_non_null(c->model);
	assert_int_equal(vmx_create(c), 0);
	r->vmx = c->virt_state;
	r->beyond = bit(cpu_maxphyaddr(c));
	c->arch.feat_ctl = 5;
	core_set(&r->core, AT_VMXON, 4, VMCS_REVISION);
	core_set(&r->core, AT_VMCS, 4, VMCS_REVISION);
	core_set(&r->core, AT_SHADOW_VMCS, 4, VMCS_REVISION | VMCS_SHADOW);
	c->arch.rip = AT_HOST_CODE;
}

void vmx_close(struct vmx_rig *r)
{
	vmx_destroy(r->cpu);
	core_close(&r->core);
}

struct insn vmx_insn_of(u16 op)
{
	return (struct insn){
		.op = op, .len = 3, .opsize = 8, .asize = 8, .seg = SEG_DS, .base = GPR_ZERO, .index = GPR_ZERO};
}

static struct insn memory(u16 op, u8 reg)
{
	struct insn i = vmx_insn_of(op);
	i.flags = INSN_MEM;
	i.base = GPR_RAX;
	i.dst = reg;
	return i;
}

static enum step execute(struct vmx_rig *r, const struct insn *i)
{
	r->cpu->fault.kind = EVENT_NONE;
	return vmx_insn(r->cpu, i);
}

enum step vmx_run(struct vmx_rig *r, u16 op)
{
	struct insn i = vmx_insn_of(op);
	return execute(r, &i);
}

enum step vmx_run_pointer(struct vmx_rig *r, u16 op, u64 pointer)
{
	struct insn i = memory(op, 0);
	core_set(&r->core, AT_OPERAND, 8, pointer);
	r->cpu->arch.gpr[GPR_RAX] = AT_OPERAND;
	return execute(r, &i);
}

enum step vmx_run_desc(struct vmx_rig *r, u16 op, u64 type, u64 low, u64 high)
{
	struct insn i = memory(op, GPR_RCX);
	core_set(&r->core, AT_OPERAND, 8, low);
	core_set(&r->core, AT_OPERAND + 8, 8, high);
	r->cpu->arch.gpr[GPR_RAX] = AT_OPERAND;
	r->cpu->arch.gpr[GPR_RCX] = type;
	return execute(r, &i);
}

enum step vmx_run_read(struct vmx_rig *r, u64 encoding, u64 *value)
{
	struct insn i = vmx_insn_of(ZYDIS_MNEMONIC_VMREAD);
	i.dst = GPR_RBX;
	i.src = GPR_RCX;
	r->cpu->arch.gpr[GPR_RCX] = encoding;
	r->cpu->arch.gpr[GPR_RBX] = 0x5555555555555555;
	enum step s = execute(r, &i);
	*value = r->cpu->arch.gpr[GPR_RBX];
	return s;
}

enum step vmx_run_write(struct vmx_rig *r, u64 encoding, u64 value)
{
	struct insn i = vmx_insn_of(ZYDIS_MNEMONIC_VMWRITE);
	i.dst = GPR_RCX;
	i.src = GPR_RBX;
	r->cpu->arch.gpr[GPR_RCX] = encoding;
	r->cpu->arch.gpr[GPR_RBX] = value;
	return execute(r, &i);
}

static u64 arith(struct vmx_rig *r) { return cpu_rflags(r->cpu) & FLAG_ARITH; }

void vmx_expect_success(struct vmx_rig *r) { assert_int_equal(arith(r), 0); }
void vmx_expect_invalid(struct vmx_rig *r) { assert_int_equal(arith(r), FLAG_CF); }

void vmx_expect_error(struct vmx_rig *r, u32 number)
{
	assert_int_equal(arith(r), FLAG_ZF);
	assert_int_equal(get_field(r, VF_INSN_ERROR), number);
}

void vmx_expect_exit(struct vmx_rig *r, u32 reason)
{
	assert_false(r->cpu->arch.guest_mode);
	assert_int_equal(get_field(r, VF_EXIT_REASON), reason);
	assert_int_equal(r->cpu->arch.rip, AT_HOST_CODE);
}

void set_control(struct vmx_rig *r, enum vmx_control ctl, bool on)
{
	static const enum vmcs_slot field[GROUP_COUNT] = {VF_PIN_CONTROLS, VF_PROC_CONTROLS, VF_PROC2_CONTROLS,
							  VF_EXIT_CONTROLS, VF_ENTRY_CONTROLS};
	enum vmcs_slot s = field[ctl >> 5];
	u64 now = get_field(r, s);
	set_field(r, s, on ? now | bit(ctl & 31) : now & ~bit(ctl & 31));
	if (on && ctl >> 5 == GROUP_PROC2)
		set_control(r, CTL_PROC_SECONDARY, true);
}

static void guest_segment(struct vmx_rig *r, unsigned n, u16 sel, u64 base, u32 limit, u32 ar)
{
	set_field(r, VF_GUEST_ES_SELECTOR + n, sel);
	set_field(r, VF_GUEST_ES_BASE + n, base);
	set_field(r, VF_GUEST_ES_LIMIT + n, limit);
	set_field(r, VF_GUEST_ES_AR + n, ar);
}

static void baseline_host(struct vmx_rig *r)
{
	struct cpu *c = r->cpu;
	set_field(r, VF_HOST_CR0, c->arch.cr0);
	set_field(r, VF_HOST_CR3, c->arch.cr3);
	set_field(r, VF_HOST_CR4, c->arch.cr4);
	set_field(r, VF_HOST_CS_SELECTOR, CODE64);
	set_field(r, VF_HOST_SS_SELECTOR, DATA0);
	set_field(r, VF_HOST_DS_SELECTOR, DATA0);
	set_field(r, VF_HOST_ES_SELECTOR, DATA0);
	set_field(r, VF_HOST_FS_SELECTOR, DATA0);
	set_field(r, VF_HOST_GS_SELECTOR, DATA0);
	set_field(r, VF_HOST_TR_SELECTOR, TSS);
	set_field(r, VF_HOST_TR_BASE, AT_TSS);
	set_field(r, VF_HOST_GDTR_BASE, AT_GDT);
	set_field(r, VF_HOST_IDTR_BASE, AT_IDT);
	set_field(r, VF_HOST_RSP, AT_STACK0);
	set_field(r, VF_HOST_RIP, AT_HOST_CODE);
	set_field(r, VF_HOST_EFER, EFER_LMA | EFER_LME | EFER_NXE | EFER_SCE);
	set_field(r, VF_HOST_PAT, 0x0007040600070406);
}

static void baseline_guest(struct vmx_rig *r)
{
	struct cpu *c = r->cpu;
	const u32 data = 3 | SEG_S | SEG_P | SEG_DB | SEG_G;
	for (unsigned n = 0; n < SEG_COUNT; n++)
		guest_segment(r, n, DATA0, 0, 0xffffffff, data);
	guest_segment(r, SEG_CS, CODE64, 0, 0xffffffff, 11 | SEG_S | SEG_P | SEG_L | SEG_G);
	guest_segment(r, 6, 0, 0, 0, SEG_UNUSABLE);
	guest_segment(r, 7, TSS, AT_TSS, 0x67, 11 | SEG_P);
	set_field(r, VF_GUEST_GDTR_BASE, AT_GDT);
	set_field(r, VF_GUEST_GDTR_LIMIT, GDT_END - 1);
	set_field(r, VF_GUEST_IDTR_BASE, AT_IDT);
	set_field(r, VF_GUEST_IDTR_LIMIT, 0xfff);
	set_field(r, VF_GUEST_CR0, c->arch.cr0);
	set_field(r, VF_GUEST_CR3, c->arch.cr3);
	set_field(r, VF_GUEST_CR4, c->arch.cr4);
	set_field(r, VF_GUEST_DR7, 0x400);
	set_field(r, VF_GUEST_RSP, AT_STACK3);
	set_field(r, VF_GUEST_RIP, AT_GUEST_CODE);
	set_field(r, VF_GUEST_RFLAGS, FLAG_FIXED1);
	set_field(r, VF_GUEST_EFER, EFER_LMA | EFER_LME | EFER_NXE | EFER_SCE);
	set_field(r, VF_GUEST_PAT, 0x0007040600070406);
	set_field(r, VF_VMCS_LINK, VMCS_NONE);
}

void vmx_baseline(struct vmx_rig *r)
{
	const struct vmx_caps *k = &r->vmx->caps;
	memset(r->vmcs->f, 0, sizeof r->vmcs->f);
	vmcs_changed(r->cpu);
	r->vmcs->launched = 0;
	set_field(r, VF_PIN_CONTROLS, k->true_allowed0[GROUP_PIN]);
	set_field(r, VF_PROC_CONTROLS, k->true_allowed0[GROUP_PROC]);
	set_field(r, VF_EXIT_CONTROLS, k->true_allowed0[GROUP_EXIT]);
	set_field(r, VF_ENTRY_CONTROLS, k->true_allowed0[GROUP_ENTRY]);
	set_control(r, CTL_EXIT_HOST64, true);
	set_control(r, CTL_ENTRY_IA32E, true);
	baseline_host(r);
	baseline_guest(r);
}

void vmx_open_root(struct vmx_rig *r)
{
	vmx_open(r);
	assert_int_not_equal(cpu_set_cr4(r->cpu, r->cpu->arch.cr4 | CR4_VMXE), STEP_FAULT);
	assert_int_equal(vmx_run_pointer(r, ZYDIS_MNEMONIC_VMXON, AT_VMXON), STEP_END);
	vmx_expect_success(r);
	assert_int_equal(vmx_run_pointer(r, ZYDIS_MNEMONIC_VMPTRLD, AT_VMCS), STEP_END);
	vmx_expect_success(r);
	r->vmcs = r->vmx->vmcs;
	vmx_baseline(r);
}
