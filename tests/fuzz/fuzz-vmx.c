/* VMX from every side at once: instructions with odd operands, VMCSs that L1 scribbles on while its guest runs, random
 * guest code under the interpreter, and the core's calls in any order. Beyond what the sanitizers see: guest mode is
 * left when an exit is reported, a VMfail keeps root operation, and what is saved loads to the same bytes. */
#include "../virt/vmx_rig.h"
#include "base/log.h"
#include "fuzz_input.h"
#include <stdlib.h>

/* Addresses where structures are, or nearly. */
static u64 place(struct fuzz_input *in)
{
	static const u64 at[] = {
		AT_VMXON,	      AT_VMCS,	       AT_SHADOW_VMCS,	AT_OPERAND,   AT_VAPIC,	     AT_MSR_BITMAP, AT_IO_A,
		AT_IO_B,	      AT_MSR_LIST,     AT_PML,		AT_VE,	      AT_POSTED,     AT_EPTP_LIST,  AT_EPT,
		AT_EPT + 0x1000,  AT_EPT + 0x2000, AT_EPT + 0x3000, AT_HOST_CODE, AT_GUEST_CODE, AT_TABLES,	    0,
		2 * MiB - 0x1000, 2 * MiB,	       0xfee00000,	BIT(39),      ~(u64)0xfff};
	u64 how = fuzz_take(in, 1), base = at[how % array_len(at)];
	return how > 240 ? fuzz_take(in, 8) : how > 200 ? base + fuzz_take(in, 2) : base;
}

static u64 value(struct fuzz_input *in)
{
	switch (fuzz_take(in, 1) & 7) {
	case 0: return place(in);
	case 1: return bit(fuzz_take(in, 1) & 63);
	case 2: return ~bit(fuzz_take(in, 1) & 63);
	case 3: return fuzz_take(in, 8);
	case 4: return place(in) | 0x1e;
	default: return fuzz_take(in, 2);
	}
}

static u64 encoding(struct fuzz_input *in)
{
	u64 n = fuzz_take(in, 1);
	return n < 250 ? vmcs_fields[n % VF_COUNT].encoding | (n > 240) : fuzz_take(in, 4);
}

/* Whatever a handler would do with what a helper left in cpu->fault. */
static void settle(struct vmx_rig *r, bool faulted)
{
	if (faulted && r->cpu->fault.kind != EVENT_NONE)
		cpu_take_fault(r->cpu);
	r->cpu->fault.kind = EVENT_NONE;
}

static void op_instruction(struct vmx_rig *r, struct fuzz_input *in)
{
	static const u16 ops[] = {ZYDIS_MNEMONIC_VMXON,	  ZYDIS_MNEMONIC_VMXOFF,   ZYDIS_MNEMONIC_VMCLEAR,
				  ZYDIS_MNEMONIC_VMPTRLD, ZYDIS_MNEMONIC_VMPTRST,  ZYDIS_MNEMONIC_VMREAD,
				  ZYDIS_MNEMONIC_VMWRITE, ZYDIS_MNEMONIC_VMLAUNCH, ZYDIS_MNEMONIC_VMRESUME,
				  ZYDIS_MNEMONIC_VMCALL,  ZYDIS_MNEMONIC_VMFUNC,   ZYDIS_MNEMONIC_INVEPT,
				  ZYDIS_MNEMONIC_INVVPID, ZYDIS_MNEMONIC_NOP};
	struct insn i = vmx_insn_of(ops[fuzz_take(in, 1) % array_len(ops)]);
	i.dst = fuzz_take(in, 1) & 15;
	i.src = fuzz_take(in, 1) & 15;
	if (fuzz_take(in, 1) & 1) {
		i.flags = INSN_MEM;
		i.base = GPR_RAX;
		i.seg = fuzz_take(in, 1) % SEG_COUNT;
		r->cpu->arch.gpr[GPR_RAX] = place(in);
	}
	r->cpu->arch.gpr[i.dst] = value(in);
	r->cpu->fault.kind = EVENT_NONE;
	settle(r, vmx_insn(r->cpu, &i) == STEP_FAULT);
}

static void op_write(struct vmx_rig *r, struct fuzz_input *in)
{
	u64 e = encoding(in);
	settle(r, vmx_run_write(r, e, value(in)) == STEP_FAULT);
}

static void op_scribble(struct vmx_rig *r, struct fuzz_input *in)
{
	u64 at = place(in), v = value(in);
	mem_write(&r->core.mem, gpa(at + fuzz_take(in, 2) % 0x1000), &v, fuzz_size(in));
}

static void op_slot(struct vmx_rig *r, struct fuzz_input *in)
{
	mem_write_le(&r->core.mem, gpa(AT_VMCS + offsetof(struct vmcs, f) + 8 * (fuzz_take(in, 1) % VF_COUNT)),
		     value(in), 8);
}

static void op_control(struct vmx_rig *r, struct fuzz_input *in)
{
	enum vmx_control ctl = fuzz_take(in, 1) % (GROUP_COUNT * 32);
	if (vmx_control_name(ctl >> 5, ctl & 31))
		set_control(r, ctl, fuzz_take(in, 1) & 1);
}

static void op_enter(struct vmx_rig *r, struct fuzz_input *in)
{
	if (fuzz_take(in, 1) & 1)
		vmx_baseline(r);
	settle(r, vmx_run(r, r->vmcs->launched ? ZYDIS_MNEMONIC_VMRESUME : ZYDIS_MNEMONIC_VMLAUNCH) == STEP_FAULT);
}

static struct event some_event(struct fuzz_input *in)
{
	static const u8 kinds[] = { EVENT_FAULT, EVENT_TRAP, EVENT_SOFT_INT, EVENT_SOFT_EXC, EVENT_ICEBP, EVENT_FAULT };
	u8 kind = kinds[fuzz_take(in, 1) % array_len(kinds)], vector = fuzz_take(in, 1);
	return (struct event){.kind = kind,
			      .vector = kind == EVENT_SOFT_INT ? vector : vector & 31,
			      .has_error = fuzz_take(in, 1) & 1,
			      .error = fuzz_take(in, 2),
			      .payload = value(in),
			      .insn_len = fuzz_take(in, 1) & 15};
}

static void guest_access(struct vmx_rig *r, struct fuzz_input *in)
{
	u64 la = value(in), v = value(in);
	unsigned size = fuzz_size(in), how = fuzz_take(in, 1) % 3;
	settle(r, how == 0   ? !mmu_read(r->cpu, la, size, &v)
		  : how == 1 ? !mmu_write(r->cpu, la, size, v)
			     : !mmu_fetch(r->cpu, la));
}

static void guest_apic(struct vmx_rig *r, struct fuzz_input *in)
{
	struct cpu *c = r->cpu;
	u64 v = value(in);
	bool ok = true, write = fuzz_take(in, 1) & 1;
	unsigned size = fuzz_size(in);
	switch (fuzz_take(in, 1) % 3) {
	case 0:
		c->mode ^= fuzz_take(in, 1) & 1 ? MODE_ONE : 0;
		settle(r, !c->virt->virtual_apic(c, (fuzz_take(in, 2) % 0x1000) & ~(u32)(size - 1), size, write, false,
						 &v, gva(0)));
		break;
	case 1: c->virt->x2apic(c, 0x800 + fuzz_take(in, 1), write, &v, &ok); break;
	case 2:
		v &= 15;
		c->virt->cr8(c, write, &v);
		break;
	}
}

static void guest_icept(struct vmx_rig *r, struct fuzz_input *in)
{
	enum icept what = fuzz_take(in, 1) % ICEPT_COUNT;
	struct insn i = vmx_insn_of(0);
	u64 a = value(in), b = fuzz_take(in, 1) & 63;
	if (what == ICEPT_CR_READ || what == ICEPT_CR_WRITE)
		a &= 15;
	if (what == ICEPT_IN || what == ICEPT_OUT)
		b = (b & 48) | 1u << b % 3;
	if (what == ICEPT_GDTR_IDTR || what == ICEPT_LDTR_TR || what == ICEPT_TASK_SWITCH)
		a &= 3, b &= 3;
	r->cpu->virt->icept(r->cpu, what, &i, a, b);
}

static void op_guest(struct vmx_rig *r, struct fuzz_input *in)
{
	struct cpu *c = r->cpu;
	unsigned what = fuzz_take(in, 1) % 10;
	if (!c->arch.guest_mode)
		return;
	switch (what) {
	case 0: guest_access(r, in); break;
	case 1: guest_apic(r, in); break;
	case 2: guest_icept(r, in); break;
	case 3: cpu_deliver(c, some_event(in)); break;
	case 4: c->virt->triple_fault(c); break;
	case 5: c->virt->init_signal(c); break;
	case 6: c->virt->sipi(c, fuzz_take(in, 1)); break;
	case 7: c->virt->poll(c); break;
	case 8: c->virt->nmi_unblock(c); break;
	case 9: cpu_set_rflags(c, fuzz_take(in, 3)); break;
	}
}

static void stop(void *cpu) { cpu_pend(cpu, PEND_KICK); }

/* A few hundred instructions of whatever is at RIP. */
static void op_run(struct vmx_rig *r, struct fuzz_input *in)
{
	struct exit_record what;
	u64 code = fuzz_take(in, 8);
	if (fuzz_take(in, 1) & 1)
		mem_write(&r->core.mem, gpa(AT_GUEST_CODE + (fuzz_take(in, 1) & 0x3f)), &code, 8);
	r->core.irq = fuzz_take(in, 1) & 1 ? 0x20 + (int)fuzz_take(in, 1) % 0xe0 : -1;
	cpu_pend(r->cpu, fuzz_take(in, 1) & (PEND_INTR | PEND_NMI | PEND_INIT));
	struct clock_timer t = { .deadline = CLOCK_NEVER, .fire = stop, .opaque = r->cpu, .name = "fuzz" };
	r->core.clock.ntimers = 0;
	clock_add_timer(&r->core.clock, &t);
	clock_arm(&r->core.clock, &t, cpu_now(r->cpu) + 1000);
	interp_engine.run(r->cpu, &what);
	cpu_unpend(r->cpu, PEND_KICK);
	r->core.clock.ntimers = 0;
	r->core.clock.next = CLOCK_NEVER;
}

static void save_and_load(struct vmx_rig *r)
{
	struct state_buf b = { 0 };
	size_t pos = 0;
	struct vmx_state before = r->vmx->s;
	state_save(&b, &vmx_state_state, "vmx", &r->vmx->s);
	bug_if(state_load(&b, &pos, &vmx_state_state, "vmx", &r->vmx->s));
	bug_if(memcmp(&before, &r->vmx->s, sizeof before));
	r->cpu->virt->loaded(r->cpu);
	mmu_switch(r->cpu);
	state_buf_free(&b);
}

static void check(struct vmx_rig *r)
{
	bug_if(r->cpu->arch.guest_mode > 1);
	bug_if(r->cpu->arch.guest_mode && !r->vmx->s.on);
	bug_if(r->vmx->s.vmcs_ptr != VMCS_NONE && !r->vmx->vmcs);
	for (size_t n = 0; n < sizeof(r->vmx->x); n++)
		bug_if(((const u8 *)&r->vmx->x)[n] && !r->cpu->arch.guest_mode);
}

static u64 no_port_read(void *vm, u16 port, unsigned size) { return ~(u64)0; }
static void no_port_write(void *vm, u16 port, u64 value, unsigned size) {}
static u64 no_mmio_read(void *vm, u64 addr, unsigned size) { return ~(u64)0; }
static void no_mmio_write(void *vm, u64 addr, u64 value, unsigned size) {}
static void claim_code(void *vm, struct cpu *c, u64 frame)
{
	mmu_write_protect(c, frame);
}
static u64 apic_read(void *intc, u32 off, unsigned size) { return 0; }
static void apic_write(void *intc, u32 off, u64 value, unsigned size) {}
static void code_written(void *cpu, u64 frame, unsigned first, unsigned last)
{
	interp_engine.forget(cpu, frame, first, last);
}

/* What the board and the APIC would be. */
static void add_surroundings(struct vmx_rig *r)
{
	static struct intc_ops intc;
	struct cpu_io *io = &r->core.io;
	io->port_read = no_port_read;
	io->port_write = no_port_write;
	io->mmio_read = no_mmio_read;
	io->mmio_write = no_mmio_write;
	io->claim_code = claim_code;
	intc = *r->cpu->intc;
	intc.mmio_read = apic_read;
	intc.mmio_write = apic_write;
	r->cpu->intc = &intc;
	mem_add_listener(&r->core.mem, (struct mem_listener){ code_written, r->cpu });
}

static void prepare(struct vmx_rig *r)
{
	static const u8 host[] = { 0x0f, 0x01, 0xc3, 0xf4 }; /* VMRESUME; HLT */
	static const u8 handler[] = { 0x48, 0xcf };
	vmx_open_root(r);
	add_surroundings(r);
	bug_if(interp_engine.create(r->cpu));
	mem_write(&r->core.mem, gpa(AT_HOST_CODE), host, sizeof host);
	mem_write(&r->core.mem, gpa(AT_HANDLER), handler, sizeof handler);
	for (unsigned v = 0; v < 256; v++)
		core_idt(&r->core, v, CODE64, AT_HANDLER, 0x8e, 0);
	core_set(&r->core, AT_EPT, 8, (AT_EPT + 0x1000) | 0x407);
	core_set(&r->core, AT_EPT + 0x1000, 8, 0x4b7); /* the first gigabyte, write-back */
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	static void (*const ops[])(struct vmx_rig *, struct fuzz_input *) = {
		op_instruction, op_write, op_write, op_scribble, op_slot,  op_control, op_control,
		op_enter,	    op_enter, op_guest, op_guest,    op_guest, op_run,	   op_run};
	struct fuzz_input in = { data, data + size };
	struct vmx_rig r;
	log_set_level(LOG_ERROR);
	prepare(&r);
	while (fuzz_more(&in)) {
		unsigned n = fuzz_take(&in, 1);
		if (n == 255)
			save_and_load(&r);
		else
			ops[n % array_len(ops)](&r, &in);
		check(&r);
		if (r.cpu->arch.activity == ACT_SHUTDOWN && !r.cpu->arch.guest_mode)
			break;
	}
	interp_engine.destroy(r.cpu);
	vmx_close(&r);
	return 0;
}
