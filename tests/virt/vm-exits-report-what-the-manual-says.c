/* Which instructions and events exit, with what reason, qualification, instruction information and length (SDM "VM
 * Exits"). */
#include "vmx_rig.h"

static const struct event none;

static void enter(struct vmx_rig *r)
{
	vmx_run(r, ZYDIS_MNEMONIC_VMLAUNCH);
	if (!r->cpu->arch.guest_mode) {
		char text[1024];
		print_error("%s\n", vmx_explain_failure(vmx_last_failure(r->cpu, 0), text, sizeof text));
	}
	assert_true(r->cpu->arch.guest_mode);
}

static void use_bitmaps(struct vmx_rig *r)
{
	set_field(r, VF_IO_BITMAP_A, AT_IO_A);
	set_field(r, VF_IO_BITMAP_B, AT_IO_B);
	set_field(r, VF_MSR_BITMAPS, AT_MSR_BITMAP);
}

/* ---- one control, one instruction ---- */

struct row {
	enum icept what;
	enum vmx_control ctl; /* CTL_ALWAYS: unconditional */
	u64 a, b;
	u32 reason;
	u64 qualification;
};
static const struct row rows[] = {
	{ ICEPT_CPUID, CTL_ALWAYS, 0, 0, 10, 0 },
	{ ICEPT_GETSEC, CTL_ALWAYS, 0, 0, 11, 0 },
	{ ICEPT_HLT, CTL_PROC_HLT, 0, 0, 12, 0 },
	{ ICEPT_INVD, CTL_ALWAYS, 0, 0, 13, 0 },
	{ ICEPT_INVLPG, CTL_PROC_INVLPG, 0xffff800012345678, 0, 14, 0xffff800012345678 },
	{ ICEPT_RDPMC, CTL_PROC_RDPMC, 0, 0, 15, 0 },
	{ ICEPT_RDTSC, CTL_PROC_RDTSC, 0, 0, 16, 0 },
	{ ICEPT_CR_READ, CTL_PROC_CR3_STORE, 3, GPR_RSI, 28, 3 | 1 << 4 | GPR_RSI << 8 },
	{ ICEPT_CR_READ, CTL_PROC_CR8_STORE, 8, GPR_R8, 28, 8 | 1 << 4 | GPR_R8 << 8 },
	{ ICEPT_CR_WRITE, CTL_PROC_CR3_LOAD, 3, GPR_RDX, 28, 3 | GPR_RDX << 8 },
	{ ICEPT_CR_WRITE, CTL_PROC_CR8_LOAD, 8, GPR_R15, 28, 8 | GPR_R15 << 8 },
	{ ICEPT_DR, CTL_PROC_MOV_DR, 7, GPR_RBX, 29, 7 | GPR_RBX << 8 },
	{ ICEPT_DR, CTL_PROC_MOV_DR, 6, GPR_R9 | 16, 29, 6 | BIT(4) | GPR_R9 << 8 },
	{ ICEPT_IN, CTL_PROC_IO, 0x3f8, 1, 30, 0 | BIT(3) | 0x3f8 << 16 },
	{ ICEPT_OUT, CTL_PROC_IO, 0xcfc, 4, 30, 3 | 0xcfcull << 16 },
	{ ICEPT_OUT, CTL_PROC_IO, 0x80, 1 | 32, 30, 0 | BIT(6) | 0x80 << 16 },
	{ ICEPT_RDMSR, CTL_ALWAYS, 0x10, 0, 31, 0 },
	{ ICEPT_WRMSR, CTL_ALWAYS, 0x10, 0, 32, 0 },
	{ ICEPT_MWAIT, CTL_PROC_MWAIT, 1, 0, 36, 1 },
	{ ICEPT_MONITOR, CTL_PROC_MONITOR, 0, 0, 39, 0 },
	{ ICEPT_PAUSE, CTL_PROC_PAUSE, 0, 0, 40, 0 },
	{ ICEPT_GDTR_IDTR, CTL_PROC2_DESC_TABLE, 2, 0, 46, 0 },
	{ ICEPT_LDTR_TR, CTL_PROC2_DESC_TABLE, 3, 0, 47, 0 },
	{ ICEPT_WBINVD, CTL_PROC2_WBINVD, 0, 0, 54, 0 },
	{ ICEPT_XSETBV, CTL_ALWAYS, 0, 0, 55, 0 },
	{ ICEPT_RDRAND, CTL_PROC2_RDRAND, 0, 0, 57, 0 },
	{ ICEPT_RDSEED, CTL_PROC2_RDSEED, 0, 0, 61, 0 },
	{ ICEPT_TASK_SWITCH, CTL_ALWAYS, 0x28, 2, 9, 0x28 | (u64)2 << 30 },
};

static void an_instruction_exits_exactly_under_its_control(void **state)
{
	for (unsigned n = 0; n < array_len(rows); n++)
		for (unsigned on = 0; on < 2; on++) {
			struct vmx_rig r;
			struct insn i = vmx_insn_of(0);
			const struct row *w = &rows[n];
			i.len = 2 + n % 5;
			vmx_open_root(&r);
			if (w->ctl != CTL_ALWAYS)
				set_control(&r, w->ctl, on);
			bool want = on || w->ctl == CTL_ALWAYS;
			if (want && !can(r.vmx, w->ctl)) {
				vmx_close(&r);
				continue;
			}
			enter(&r);
			assert_int_equal(vmx_ops.icept(r.cpu, w->what, &i, w->a, w->b), want);
			assert_int_equal(r.cpu->arch.guest_mode, !want);
			if (want) {
				vmx_expect_exit(&r, w->reason);
				assert_int_equal(get_field(&r, VF_EXIT_QUALIFICATION), w->qualification);
				assert_int_equal(get_field(&r, VF_EXIT_INSN_LENGTH), i.len);
				assert_int_equal(get_field(&r, VF_IDT_VECTORING), 0);
			}
			vmx_close(&r);
		}
}

/* ---- bitmaps ---- */

static bool exits(struct vmx_rig *r, enum icept what, u64 a, u64 b)
{
	struct insn i = vmx_insn_of(0);
	vmx_open_root(r);
	use_bitmaps(r);
	set_control(r, CTL_PROC_IO_BITMAPS, true);
	set_control(r, CTL_PROC_MSR_BITMAPS, true);
	core_set(&r->core, AT_IO_A + 0x7f, 1, 0x80);     /* port 3FFh */
	core_set(&r->core, AT_IO_A + 0xfff, 1, 0x80);    /* port 7FFFh */
	core_set(&r->core, AT_IO_B, 1, 0x02);            /* port 8001h */
	core_set(&r->core, AT_MSR_BITMAP + 2, 1, 0x01);  /* read 10h */
	core_set(&r->core, AT_MSR_BITMAP + 0x7ff, 1, 0x80); /* read C0001FFFh */
	core_set(&r->core, AT_MSR_BITMAP + 0x802, 1, 0x02); /* write 11h */
	core_set(&r->core, AT_MSR_BITMAP + 0xc10, 1, 0x01); /* write C0000080h */
	enter(r);
	bool yes = vmx_ops.icept(r->cpu, what, &i, a, b);
	vmx_close(r);
	return yes;
}

static void bitmaps_choose_ports_and_msrs(void **state)
{
	static const struct { enum icept what; u64 a, b; bool yes;
	} cases[] = {
		{ICEPT_IN, 0x3ff, 1, true},		 {ICEPT_IN, 0x3fe, 1, false},
		{ICEPT_IN, 0x3fe, 2, true},		 {ICEPT_OUT, 0x3fc, 4, true},
		{ICEPT_OUT, 0x3fb, 4, false},	 {ICEPT_OUT, 0x7fff, 1, true},
		{ICEPT_IN, 0x7ffe, 2, true},	 {ICEPT_IN, 0x8000, 1, false},
		{ICEPT_IN, 0x8000, 2, true},	 {ICEPT_IN, 0xffff, 1, false},
		{ICEPT_IN, 0xffff, 2, true},	 {ICEPT_IN, 0xfffd, 4, true},
		{ICEPT_IN, 0xfffc, 4, false},	 {ICEPT_RDMSR, 0x10, 0, true},
		{ICEPT_RDMSR, 0x11, 0, false},	 {ICEPT_WRMSR, 0x10, 0, false},
		{ICEPT_WRMSR, 0x11, 0, true},	 {ICEPT_RDMSR, 0x1fff, 0, false},
		{ICEPT_RDMSR, 0x2000, 0, true},	 {ICEPT_RDMSR, 0xc0001fff, 0, true},
		{ICEPT_RDMSR, 0xc0000000, 0, false}, {ICEPT_RDMSR, 0xc0002000, 0, true},
		{ICEPT_RDMSR, 0xbfffffff, 0, true},	 {ICEPT_WRMSR, 0xc0000080, 0, true},
		{ICEPT_WRMSR, 0xc0000081, 0, false},
	};
	for (unsigned n = 0; n < array_len(cases); n++) {
		struct vmx_rig r;
		if (exits(&r, cases[n].what, cases[n].a, cases[n].b) != cases[n].yes)
			print_error("case %u\n", n);
		assert_int_equal(exits(&r, cases[n].what, cases[n].a, cases[n].b), cases[n].yes);
	}
}

static void a_string_port_access_reports_its_operand(void **state)
{
	struct vmx_rig r;
	struct insn i = vmx_insn_of(0);
	vmx_open_root(&r);
	set_control(&r, CTL_PROC_IO, true);
	set_field(&r, VF_GUEST_FS_BASE, 0x1000);
	enter(&r);
	i.flags = INSN_REP;
	i.seg = SEG_FS;
	i.asize = 4;
	r.cpu->arch.gpr[GPR_RSI] = 0xffffffff00000234;
	assert_true(vmx_ops.icept(r.cpu, ICEPT_OUT, &i, 0x1f0, 2 | 16));
	vmx_expect_exit(&r, EXIT_IO);
	assert_int_equal(get_field(&r, VF_EXIT_QUALIFICATION), 1 | BIT(4) | BIT(5) | 0x1f0 << 16);
	assert_int_equal(get_field(&r, VF_GUEST_LINEAR_ADDR), 0x1234);
	assert_int_equal(get_field(&r, VF_EXIT_INSN_INFO), 1 << 7 | SEG_FS << 15);
	vmx_close(&r);
}

/* ---- control registers ---- */

static void masks_and_shadows_decide_about_cr0_and_cr4(void **state)
{
	static const struct { u64 mask, shadow, value; bool yes;
	} cases[] = {
		{0, 0, ~(u64)0 >> 32, false},    {CR0_TS, 0, 0, false},	     {CR0_TS, 0, CR0_TS, true},
		{CR0_TS, CR0_TS, CR0_TS, false}, {CR0_TS, CR0_TS, CR0_PE, true},
	};
	for (unsigned cr = 0; cr <= 4; cr += 4)
		for (unsigned n = 0; n < array_len(cases); n++) {
			struct vmx_rig r;
			struct insn i = vmx_insn_of(0);
			vmx_open_root(&r);
			set_field(&r, cr ? VF_CR4_MASK : VF_CR0_MASK, cases[n].mask);
			set_field(&r, cr ? VF_CR4_SHADOW : VF_CR0_SHADOW, cases[n].shadow);
			enter(&r);
			r.cpu->arch.gpr[GPR_RBX] = cases[n].value;
			u64 real = cr ? r.cpu->arch.cr4 : r.cpu->arch.cr0;
			assert_int_equal(vmx_ops.cr_view(r.cpu, cr, real), (real & ~cases[n].mask) | cases[n].shadow);
			assert_int_equal(vmx_ops.cr_merge(r.cpu, cr, cases[n].value),
					 (cases[n].value & ~cases[n].mask) | (real & cases[n].mask));
			assert_int_equal(vmx_ops.icept(r.cpu, ICEPT_CR_WRITE, &i, cr, GPR_RBX), cases[n].yes);
			vmx_close(&r);
		}
}

static void cr3_targets_do_not_exit(void **state)
{
	for (unsigned count = 0; count <= 2; count++) {
		struct vmx_rig r;
		struct insn i = vmx_insn_of(0);
		vmx_open_root(&r);
		set_control(&r, CTL_PROC_CR3_LOAD, true);
		set_field(&r, VF_CR3_TARGET_COUNT, count);
		set_field(&r, VF_CR3_TARGET1, 0x5000);
		enter(&r);
		r.cpu->arch.gpr[GPR_RBX] = 0x5000;
		assert_int_equal(vmx_ops.icept(r.cpu, ICEPT_CR_WRITE, &i, 3, GPR_RBX), count < 2);
		vmx_close(&r);
	}
}

static void clts_and_lmsw_follow_the_mask(void **state)
{
	static const struct { enum icept what; u64 mask, shadow, source; bool yes;
	} cases[] = {
		{ICEPT_CLTS, CR0_TS, CR0_TS, 0, true},  {ICEPT_CLTS, CR0_TS, 0, 0, false},
		{ICEPT_CLTS, 0, CR0_TS, 0, false},	    {ICEPT_LMSW, CR0_PE, 0, 1, true},
		{ICEPT_LMSW, CR0_PE, CR0_PE, 0, false}, {ICEPT_LMSW, CR0_MP, 0, 2, true},
		{ICEPT_LMSW, CR0_MP, CR0_MP, 0, true},  {ICEPT_LMSW, CR0_NE, 0, 0xffff, false},
	};
	for (unsigned n = 0; n < array_len(cases); n++) {
		struct vmx_rig r;
		struct insn i = vmx_insn_of(0);
		vmx_open_root(&r);
		set_field(&r, VF_CR0_MASK, cases[n].mask);
		set_field(&r, VF_CR0_SHADOW, cases[n].shadow);
		enter(&r);
		assert_int_equal(vmx_ops.icept(r.cpu, cases[n].what, &i, cases[n].source, 0), cases[n].yes);
		if (cases[n].yes)
			assert_int_equal(get_field(&r, VF_EXIT_QUALIFICATION),
					 cases[n].what == ICEPT_CLTS ? 2 << 4 : 3 << 4 | cases[n].source << 16);
		vmx_close(&r);
	}
}

/* ---- instruction information ---- */

static void memory_operands_are_described(void **state)
{
	struct vmx_rig r;
	struct insn i = vmx_insn_of(ZYDIS_MNEMONIC_VMPTRLD);
	vmx_open_root(&r);
	enter(&r);
	i.flags = INSN_MEM;
	i.base = GPR_RBP;
	i.index = GPR_R12;
	i.scale = 3;
	i.seg = SEG_SS;
	i.asize = 4;
	i.disp = -8;
	vmx_insn(r.cpu, &i);
	vmx_expect_exit(&r, EXIT_VMPTRLD);
	assert_int_equal(get_field(&r, VF_EXIT_INSN_INFO), 3 | 1 << 7 | SEG_SS << 15 | GPR_R12 << 18 | GPR_RBP << 23);
	assert_int_equal(get_field(&r, VF_EXIT_QUALIFICATION), -8ull);
	vmx_close(&r);
}

static void a_rip_relative_operand_reports_its_address(void **state)
{
	struct vmx_rig r;
	struct insn i = vmx_insn_of(ZYDIS_MNEMONIC_INVEPT);
	vmx_open_root(&r);
	enter(&r);
	i.flags = INSN_MEM | INSN_RIPREL;
	i.base = GPR_BLOCK_RIP;
	i.disp = 0x100;
	i.dst = GPR_R10;
	r.cpu->arch.gpr[GPR_BLOCK_RIP] = AT_GUEST_CODE;
	vmx_insn(r.cpu, &i);
	vmx_expect_exit(&r, EXIT_INVEPT);
	assert_int_equal(get_field(&r, VF_EXIT_INSN_INFO),
			 2 << 7 | SEG_DS << 15 | BIT(22) | BIT(27) | (u64)GPR_R10 << 28);
	assert_int_equal(get_field(&r, VF_EXIT_QUALIFICATION), AT_GUEST_CODE + 0x100);
	vmx_close(&r);
}

/* ---- exceptions ---- */

static bool event_exits(struct vmx_rig *r, u64 bitmap, u32 mask, u32 match, struct event ev, const struct event *during)
{
	vmx_open_root(r);
	set_field(r, VF_EXCEPTION_BITMAP, bitmap);
	set_field(r, VF_PF_ERROR_MASK, mask);
	set_field(r, VF_PF_ERROR_MATCH, match);
	enter(r);
	return vmx_ops.event(r->cpu, &ev, during);
}

static void the_exception_bitmap_chooses_vectors(void **state)
{
	for (unsigned vector = 0; vector < 32; vector++)
		for (unsigned set = 0; set < 2; set++) {
			struct vmx_rig r;
			struct event ev = {
				.kind = EVENT_FAULT, .vector = vector, .has_error = 1, .error = 0x55, .payload = 0x4000};
			bool yes = event_exits(&r, set ? bit(vector) : ~bit(vector), 0, 0, ev, &none);
			assert_int_equal(yes, set);
			if (yes) {
				vmx_expect_exit(&r, EXIT_EXCEPTION_NMI);
				assert_int_equal(get_field(&r, VF_EXIT_INTR_INFO), BIT(31) | BIT(11) | 3 << 8 | vector);
				assert_int_equal(get_field(&r, VF_EXIT_INTR_ERROR), 0x55);
				assert_int_equal(get_field(&r, VF_EXIT_QUALIFICATION),
						 vector == VEC_PF || vector == VEC_DB ? 0x4000 : 0);
				assert_int_equal(!!(get_field(&r, VF_GUEST_RFLAGS) & FLAG_RF), vector != VEC_DB);
			}
			vmx_close(&r);
		}
}

static void page_faults_are_filtered_by_error_code(void **state)
{
	static const struct { bool set; u32 mask, match, error; bool yes;
	} cases[] = {
		{true, 0, 0, 7, true},  {false, 0, 0, 7, false}, {true, 1, 1, 7, true},
		{true, 1, 1, 6, false}, {false, 1, 1, 7, false}, {false, 1, 1, 6, true},
		{true, 0, 1, 7, false}, {false, 0, 1, 7, true}, /* the match that never holds */
	};
	for (unsigned n = 0; n < array_len(cases); n++) {
		struct vmx_rig r;
		struct event ev = { .kind = EVENT_FAULT, .vector = VEC_PF, .has_error = 1, .error = cases[n].error };
		assert_int_equal(event_exits(&r, cases[n].set ? BIT(14) : 0, cases[n].mask, cases[n].match, ev, &none),
				 cases[n].yes);
		vmx_close(&r);
	}
}

static void software_events_exit_by_their_type(void **state)
{
	static const struct { struct event ev; u64 bitmap; u32 info; bool yes; } cases[] = {
		{ { .kind = EVENT_SOFT_EXC, .vector = 3, .insn_len = 1 }, BIT(3), BIT(31) | 6 << 8 | 3, true },
		{ { .kind = EVENT_ICEBP, .vector = 1, .insn_len = 1 }, BIT(1), BIT(31) | 5 << 8 | 1, true },
		{ { .kind = EVENT_SOFT_INT, .vector = 3, .insn_len = 2 }, 0xffffffff, 0, false },
		{ { .kind = EVENT_TRAP, .vector = 1, .payload = BIT(14) }, BIT(1), BIT(31) | 3 << 8 | 1, true },
	};
	for (unsigned n = 0; n < array_len(cases); n++) {
		struct vmx_rig r;
		assert_int_equal(event_exits(&r, cases[n].bitmap, 0, 0, cases[n].ev, &none), cases[n].yes);
		if (cases[n].yes) {
			assert_int_equal(get_field(&r, VF_EXIT_INTR_INFO), cases[n].info);
			assert_int_equal(get_field(&r, VF_EXIT_INSN_LENGTH), cases[n].ev.insn_len);
			assert_int_equal(get_field(&r, VF_GUEST_RFLAGS) & FLAG_RF, 0);
		}
		vmx_close(&r);
	}
}

static void a_fault_during_delivery_reports_both_events(void **state)
{
	struct vmx_rig r;
	const struct event during = { .kind = EVENT_SOFT_INT, .vector = 0x80, .insn_len = 2 };
	struct event ev = { .kind = EVENT_FAULT, .vector = VEC_GP, .has_error = 1, .error = 0x402 };
	assert_true(event_exits(&r, BIT(VEC_GP), 0, 0, ev, &during));
	assert_int_equal(get_field(&r, VF_IDT_VECTORING), BIT(31) | 4 << 8 | 0x80);
	assert_int_equal(get_field(&r, VF_EXIT_INSN_LENGTH), 2);
	vmx_close(&r);
	/* A double fault is no event "during delivery". */
	ev = (struct event){ .kind = EVENT_FAULT, .vector = VEC_DF, .has_error = 1 };
	assert_true(event_exits(&r, BIT(VEC_DF), 0, 0, ev, &during));
	assert_int_equal(get_field(&r, VF_IDT_VECTORING), 0);
	vmx_close(&r);
}

static void a_fault_of_iret_tells_that_nmis_were_unblocked(void **state)
{
	for (unsigned blocked = 0; blocked < 2; blocked++) {
		struct vmx_rig r;
		struct event ev = { .kind = EVENT_FAULT, .vector = VEC_GP, .has_error = 1 };
		struct insn i = vmx_insn_of(0);
		vmx_open_root(&r);
		set_control(&r, CTL_PIN_NMI, true);
		set_control(&r, CTL_PIN_VIRTUAL_NMI, true);
		set_field(&r, VF_EXCEPTION_BITMAP, BIT(VEC_GP));
		set_field(&r, VF_GUEST_INTERRUPTIBILITY, blocked ? SHADOW_NMI : 0);
		enter(&r);
		assert_false(vmx_ops.icept(r.cpu, ICEPT_IRET, &i, 0, 0));
		vmx_ops.nmi_unblock(r.cpu);
		assert_true(vmx_ops.event(r.cpu, &ev, &none));
		assert_int_equal(!!(get_field(&r, VF_EXIT_INTR_INFO) & BIT(12)), blocked);
		assert_int_equal(get_field(&r, VF_GUEST_INTERRUPTIBILITY), 0);
		vmx_close(&r);
	}
}

/* ---- boundaries ---- */

static void windows_timer_and_trap_flag_exit_at_boundaries(void **state)
{
	static const struct { enum vmx_control ctl[3]; u64 flags; u32 shadow, reason; } cases[] = {
		{ { CTL_PROC_INTR_WINDOW }, 0x202, 0, EXIT_INTERRUPT_WINDOW },
		{ { CTL_PROC_INTR_WINDOW }, 0x002, 0, 0 },
		{ { CTL_PROC_INTR_WINDOW }, 0x202, SHADOW_STI, 0 },
		{ { CTL_PROC_INTR_WINDOW }, 0x202, SHADOW_MOVSS, 0 },
		{ { CTL_PIN_NMI, CTL_PIN_VIRTUAL_NMI, CTL_PROC_NMI_WINDOW }, 0x002, 0, EXIT_NMI_WINDOW },
		{ { CTL_PIN_NMI, CTL_PIN_VIRTUAL_NMI, CTL_PROC_NMI_WINDOW }, 0x002, SHADOW_NMI, 0 },
		{ { CTL_PIN_PREEMPTION_TIMER }, 0x002, 0, EXIT_PREEMPTION_TIMER },
		{ { CTL_PIN_PREEMPTION_TIMER, CTL_PROC_INTR_WINDOW }, 0x202, 0, EXIT_PREEMPTION_TIMER },
		{ { CTL_PROC_TSC_OFFSET }, 0x202, 0, 0 },
	};
	for (unsigned n = 0; n < array_len(cases); n++) {
		struct vmx_rig r;
		vmx_open_root(&r);
		for (unsigned k = 0; k < 3 && (k == 0 || cases[n].ctl[k]); k++)
			set_control(&r, cases[n].ctl[k], true);
		set_field(&r, VF_GUEST_RFLAGS, cases[n].flags);
		set_field(&r, VF_GUEST_INTERRUPTIBILITY, cases[n].shadow);
		enter(&r);
		assert_int_equal(vmx_ops.poll(r.cpu), cases[n].reason != 0);
		if (cases[n].reason)
			vmx_expect_exit(&r, cases[n].reason);
		vmx_close(&r);
	}
}

static void external_interrupts_and_nmis_exit_whatever_if_says(void **state)
{
	for (unsigned ack = 0; ack < 2; ack++) {
		struct vmx_rig r;
		vmx_open_root(&r);
		set_control(&r, CTL_PIN_EXT_INTR, true);
		set_control(&r, CTL_PIN_NMI, true);
		set_control(&r, CTL_EXIT_ACK_INTR, ack);
		enter(&r);
		r.core.irq = 0x41;
		r.cpu->arch.nmi_pending = 1;
		assert_true(vmx_ops.poll(r.cpu)); /* the NMI first */
		vmx_expect_exit(&r, EXIT_EXCEPTION_NMI);
		assert_int_equal(get_field(&r, VF_EXIT_INTR_INFO), BIT(31) | 2 << 8 | 2);
		assert_int_equal(r.cpu->arch.shadow, SHADOW_NMI);
		vmx_run(&r, ZYDIS_MNEMONIC_VMRESUME);
		assert_true(vmx_ops.poll(r.cpu));
		vmx_expect_exit(&r, EXIT_EXTERNAL_INTERRUPT);
		assert_int_equal(get_field(&r, VF_EXIT_INTR_INFO), ack ? BIT(31) | 0x41 : 0);
		assert_int_equal(r.core.irq, ack ? -1 : 0x41);
		vmx_close(&r);
	}
}

static void the_timer_counts_the_tsc_divided_by_32(void **state)
{
	struct vmx_rig r;
	vmx_open_root(&r);
	set_control(&r, CTL_PIN_PREEMPTION_TIMER, true);
	set_control(&r, CTL_EXIT_SAVE_TIMER, true);
	set_field(&r, VF_PREEMPTION_TIMER, 1000);
	enter(&r);
	u64 due = vmx_ops.deadline(r.cpu), start = cpu_now(r.cpu), ticks = 1000 * 32;
	assert_in_range(due - start, (ticks - 32) * 1000000 / r.cpu->tsc_khz, (ticks + 32) * 1000000 / r.cpu->tsc_khz);
	r.cpu->icount += (due - start) / 2 - 100; /* CLOCK_NS_PER_INSN */
	assert_false(vmx_ops.poll(r.cpu));
	r.cpu->icount += 101;
	assert_true(vmx_ops.poll(r.cpu));
	vmx_expect_exit(&r, EXIT_PREEMPTION_TIMER);
	assert_int_equal(get_field(&r, VF_PREEMPTION_TIMER), 0);
	vmx_close(&r);
}

static void the_tsc_is_scaled_then_offset(void **state)
{
	struct vmx_rig r;
	vmx_open_root(&r);
	set_control(&r, CTL_PROC_TSC_OFFSET, true);
	set_control(&r, CTL_PROC2_TSC_SCALING, true);
	set_field(&r, VF_TSC_OFFSET, -5ull);
	set_field(&r, VF_TSC_MULTIPLIER, BIT(48) + BIT(47));
	enter(&r);
	assert_int_equal(vmx_ops.tsc(r.cpu, 1000), 1495);
	vmx_close(&r);
}

/* ---- other events ---- */

static void init_sipi_and_triple_fault_exit(void **state)
{
	struct vmx_rig r;
	vmx_open_root(&r);
	assert_true(vmx_ops.init_blocked(r.cpu));
	enter(&r);
	assert_false(vmx_ops.init_blocked(r.cpu));
	vmx_ops.triple_fault(r.cpu);
	vmx_expect_exit(&r, EXIT_TRIPLE_FAULT);
	vmx_run(&r, ZYDIS_MNEMONIC_VMRESUME);
	assert_true(vmx_ops.init_signal(r.cpu));
	vmx_expect_exit(&r, EXIT_INIT);
	set_field(&r, VF_GUEST_ACTIVITY, ACT_WAIT_SIPI);
	vmx_run(&r, ZYDIS_MNEMONIC_VMRESUME);
	vmx_ops.init_signal(r.cpu); /* blocked in wait-for-SIPI */
	assert_true(r.cpu->arch.guest_mode);
	assert_true(vmx_ops.sipi(r.cpu, 0x9a));
	vmx_expect_exit(&r, EXIT_SIPI);
	assert_int_equal(get_field(&r, VF_EXIT_QUALIFICATION), 0x9a);
	vmx_close(&r);
}

static void switched_off_instructions_are_undefined_in_the_guest(void **state)
{
	static const enum icept what[] = { ICEPT_RDTSCP, ICEPT_RDPID, ICEPT_INVPCID, ICEPT_XSAVES, ICEPT_XRSTORS };
	for (unsigned n = 0; n < array_len(what); n++) {
		struct vmx_rig r;
		struct insn i = vmx_insn_of(0);
		vmx_open_root(&r);
		set_field(&r, VF_EXCEPTION_BITMAP, BIT(VEC_UD));
		enter(&r);
		assert_true(vmx_ops.icept(r.cpu, what[n], &i, 0, 0));
		vmx_expect_exit(&r, EXIT_EXCEPTION_NMI);
		assert_int_equal(get_field(&r, VF_EXIT_INTR_INFO), BIT(31) | 3 << 8 | VEC_UD);
		vmx_close(&r);
	}
}

static void eptp_switching_changes_the_root_or_exits(void **state)
{
	for (unsigned good = 0; good < 2; good++) {
		struct vmx_rig r;
		struct insn i = vmx_insn_of(ZYDIS_MNEMONIC_VMFUNC);
		vmx_open_root(&r);
		set_control(&r, CTL_PROC2_EPT, true);
		set_control(&r, CTL_PROC2_VM_FUNCTIONS, true);
		set_field(&r, VF_EPTP, AT_EPT | 0x1e);
		set_field(&r, VF_VM_FUNCTION_CONTROLS, 1);
		set_field(&r, VF_EPTP_LIST, AT_EPTP_LIST);
		core_set(&r.core, AT_EPTP_LIST + 8 * 511, 8, (AT_EPT + 0x1000) | (good ? 0x1e : 0x1f));
		enter(&r);
		r.cpu->arch.gpr[GPR_RAX] = 0;
		r.cpu->arch.gpr[GPR_RCX] = 511;
		assert_int_equal(vmx_insn(r.cpu, &i), STEP_STOP);
		if (good)
			assert_int_equal(get_field(&r, VF_EPTP), (AT_EPT + 0x1000) | 0x1e);
		else
			vmx_expect_exit(&r, EXIT_VMFUNC);
		vmx_close(&r);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_instruction_exits_exactly_under_its_control),
		cmocka_unit_test(bitmaps_choose_ports_and_msrs),
		cmocka_unit_test(a_string_port_access_reports_its_operand),
		cmocka_unit_test(masks_and_shadows_decide_about_cr0_and_cr4),
		cmocka_unit_test(cr3_targets_do_not_exit),
		cmocka_unit_test(clts_and_lmsw_follow_the_mask),
		cmocka_unit_test(memory_operands_are_described),
		cmocka_unit_test(a_rip_relative_operand_reports_its_address),
		cmocka_unit_test(the_exception_bitmap_chooses_vectors),
		cmocka_unit_test(page_faults_are_filtered_by_error_code),
		cmocka_unit_test(software_events_exit_by_their_type),
		cmocka_unit_test(a_fault_during_delivery_reports_both_events),
		cmocka_unit_test(a_fault_of_iret_tells_that_nmis_were_unblocked),
		cmocka_unit_test(windows_timer_and_trap_flag_exit_at_boundaries),
		cmocka_unit_test(external_interrupts_and_nmis_exit_whatever_if_says),
		cmocka_unit_test(the_timer_counts_the_tsc_divided_by_32),
		cmocka_unit_test(the_tsc_is_scaled_then_offset),
		cmocka_unit_test(init_sipi_and_triple_fault_exit),
		cmocka_unit_test(switched_off_instructions_are_undefined_in_the_guest),
		cmocka_unit_test(eptp_switching_changes_the_root_or_exits),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
