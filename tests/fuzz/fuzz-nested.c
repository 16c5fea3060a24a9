/* A hypervisor of random instructions (L1) on the interpreter, with a VMCS that is legal at first and then changed: fields, controls, MSR lists, bitmaps,
 * EPT tables, pages that lie in holes, at the end of RAM or over each other. Its guest (L2) is a second world of random code that writes wherever it can.
 *
 * Checks: as fuzz-cpu; and outside an exit nothing of the exit under way is left in the VMX unit. */
#include "fuzz_input.h"
#include "machine.h"
#include "vmx/priv.h"

/* Pages at AT_VMX. */
enum { P_VMXON, P_VMCS, P_SHADOW, P_VAPIC, P_APIC, P_MSR_BITMAP, P_IO_A, P_IO_B, P_EPT4, P_EPT3, P_EPT2, P_EPT1, P_LISTS, P_PID, P_PML, P_VE };
static u64 page(unsigned n) { return AT_VMX + (u64)n * PAGE_SIZE; }

/* Where it belongs, or where it does harm. */
static u64 place(struct rng *r, unsigned n)
{
	static const u64 odd[] = { RAM_BYTES - PAGE_SIZE, RAM_BYTES, RAM_BYTES + ROM_BYTES - PAGE_SIZE, RAM_BYTES + ROM_BYTES, 0xfee00000, 0xfec00000, 0,
		AT_CODE, AT_TABLES, WORLD_BYTES + AT_TABLES, WORLD_BYTES + AT_CODE, 0x3ffffffff000 };
	return chance(r, 88) ? page(n) : chance(r, 40) ? page(below(r, VMX_PAGES)) : PICK(r, odd);
}

/* ---- tables ---- */
static u64 ept_rights(struct rng *r) { return chance(r, 93) ? 0x437 : (rng_u64(r) & 0x8000000000000fff & ~(u64)0x80) | (chance(r, 50) ? 0x30 : 0); }

static void put_ept(struct machine *m, struct rng *r)
{
	for (unsigned i = 0; i < 512; i++) {
		put(m, page(P_EPT4) + 8 * i, 8, i < 2 ? page(P_EPT3) | ept_rights(r) : 0);
		put(m, page(P_EPT3) + 8 * i, 8, i < 4 ? page(P_EPT2) | ept_rights(r) : chance(r, 20) ? (u64)i << 30 | 0xb7 : 0);
		put(m, page(P_EPT2) + 8 * i, 8, i == 0 || chance(r, 50) ? page(P_EPT1) | ept_rights(r) : (u64)i << 21 | 0xb7);
		u64 to = chance(r, 97) ? (u64)(i % 272) << 12 : chance(r, 50) ? place(r, below(r, VMX_PAGES)) : (u64)below(r, 512) << 12;
		put(m, page(P_EPT1) + 8 * i, 8, to | ept_rights(r));
	}
}

static void put_lists(struct machine *m, struct rng *r)
{
	static const u32 msrs[] = { 0x174, 0x175, 0x176, 0x277, 0x3b, 0xc0000081, 0xc0000082, 0xc0000084, 0xc0000102, 0xc0000103, 0x10, 0x1b, 0x1d9, 0xc0000080,
		0x808, 0x480, 0xc0000100, 0x8b };
	for (unsigned i = 0; i < 32; i++) {
		u32 msr = chance(r, 95) ? msrs[below(r, 10)] : chance(r, 70) ? PICK(r, msrs) : (u32)interesting(r);
		put(m, page(P_LISTS) + 16 * i, 8, msr | (chance(r, 1) ? rng_u64(r) << 32 : 0));
		put(m, page(P_LISTS) + 16 * i + 8, 8, chance(r, 70) ? AT_DATA : interesting(r));
	}
}

static void put_bitmap(struct machine *m, struct rng *r, unsigned p)
{
	unsigned dense = below(r, 3);
	for (unsigned i = 0; i < 512; i++)
		put(m, page(p) + 8 * i, 8, dense == 0 ? 0 : dense == 1 ? ~(u64)0 : rng_u64(r) & rng_u64(r));
}

static void put_pages(struct machine *m, struct rng *r)
{
	put_ept(m, r);
	put_lists(m, r);
	for (unsigned p = P_MSR_BITMAP; p <= P_IO_B; p++)
		put_bitmap(m, r, p);
	for (unsigned i = 0; i < 512; i++) {
		put(m, page(P_VAPIC) + 8 * i, 8, chance(r, 60) ? 0 : interesting(r));
		put(m, page(P_PML) + 8 * i, 8, chance(r, 50) ? place(r, P_EPT4) | 0x1e : interesting(r)); /* EPTP list, too */
	}
	put(m, page(P_PID), 8, interesting(r));
	put(m, page(P_PID) + 32, 8, rng_u64(r) & 3);
	for (unsigned i = 0; i < VMX_POINTERS; i++) {
		static const u16 vpids[] = { 1, 1, 2, 3 };
		u64 what = i < 6 ? page(P_VMCS) : i < 8 ? page(P_VMXON + below(r, 3)) : i < 12 ? page(P_EPT4) | 0x5e : PICK(r, vpids);
		put(m, AT_VMX_POINTERS + 16 * i, 8, what);
		put(m, AT_VMX_POINTERS + 16 * i + 8, 8, i < 12 ? 0 : interesting(r));
	}
	put(m, page(P_VMXON), 4, VMCS_REVISION);
	put(m, page(P_SHADOW), 4, VMCS_REVISION | VMCS_SHADOW);
}

/* ---- the VMCS ---- */
struct maker {
	struct machine *m;
	struct rng *r;
	struct vmcs *v;
	const struct vmx_caps *caps;
	u32 ctl[GROUP_COUNT];
};
static void set(struct maker *k, enum vmcs_slot s, u64 v) { vmcs_set(k->v, s, v & vmcs_mask(s)); }
static bool is_on(const struct maker *k, enum vmx_control c) { return k->ctl[c >> 5] >> (c & 31) & 1; }
static void turn(struct maker *k, enum vmx_control c, bool on)
{
	k->ctl[c >> 5] = (k->ctl[c >> 5] & ~BIT32(c & 31)) | (u32)on << (c & 31);
}
static void only_with(struct maker *k, enum vmx_control c, bool condition)
{
	if (!condition)
		turn(k, c, false);
}

static void turn_apic_on(struct maker *k)
{
	static const enum vmx_control all[] = { CTL_PROC_TPR_SHADOW, CTL_PIN_EXT_INTR, CTL_PROC2_VIRT_INTR, CTL_PROC2_APIC_REGISTERS, CTL_EXIT_ACK_INTR,
		CTL_PIN_POSTED_INTR, CTL_PROC_MSR_BITMAPS };
	for (unsigned i = 0; i < array_len(all); i++)
		turn(k, all[i], chance(k->r, 85));
	bool msrs = chance(k->r, 40);
	turn(k, CTL_PROC2_X2APIC, msrs);
	turn(k, CTL_PROC2_APIC_ACCESSES, !msrs);
}

/* Random controls, then what the manual demands of their combinations. */
static void make_controls(struct maker *k, const struct cpu_arch *l1, const struct cpu_arch *g)
{
	bool plain = !(g->cr0 & CR0_PE) || !(g->cr0 & CR0_PG);
	for (unsigned n = 0; n < GROUP_COUNT; n++) {
		u32 some = (u32)rng_u64(k->r) & (chance(k->r, 50) ? (u32)rng_u64(k->r) : ~0u);
		k->ctl[n] = (some | k->caps->true_allowed0[n]) & k->caps->allowed1[n];
	}
	turn(k, CTL_PROC_SECONDARY, plain || chance(k->r, 85));
	turn(k, CTL_PROC2_EPT, plain || chance(k->r, 65));
	turn(k, CTL_PROC2_UNRESTRICTED, plain || (is_on(k, CTL_PROC2_EPT) && chance(k->r, 50)));
	if (chance(k->r, 40))
		turn_apic_on(k);
	if (!is_on(k, CTL_PROC_SECONDARY))
		k->ctl[GROUP_PROC2] = 0;
	bool ept = is_on(k, CTL_PROC2_EPT);
	only_with(k, CTL_PROC2_PML, ept);
	only_with(k, CTL_PROC2_MBEC, ept);
	only_with(k, CTL_PROC2_VM_FUNCTIONS, ept);
	only_with(k, CTL_PROC2_EPT_VE, ept);
	only_with(k, CTL_PIN_VIRTUAL_NMI, is_on(k, CTL_PIN_NMI));
	only_with(k, CTL_PROC_NMI_WINDOW, is_on(k, CTL_PIN_VIRTUAL_NMI) && chance(k->r, 30));
	only_with(k, CTL_PROC_INTR_WINDOW, chance(k->r, 30));
	only_with(k, CTL_PROC_MTF, chance(k->r, 20));
	only_with(k, CTL_PROC2_VIRT_INTR, is_on(k, CTL_PROC_TPR_SHADOW) && is_on(k, CTL_PIN_EXT_INTR));
	only_with(k, CTL_PROC2_APIC_REGISTERS, is_on(k, CTL_PROC_TPR_SHADOW));
	only_with(k, CTL_PROC2_X2APIC, is_on(k, CTL_PROC_TPR_SHADOW) && !is_on(k, CTL_PROC2_APIC_ACCESSES));
	only_with(k, CTL_PIN_POSTED_INTR, is_on(k, CTL_PROC2_VIRT_INTR) && is_on(k, CTL_EXIT_ACK_INTR));
	only_with(k, CTL_EXIT_SAVE_TIMER, is_on(k, CTL_PIN_PREEMPTION_TIMER));
	turn(k, CTL_EXIT_HOST64, l1->efer & EFER_LMA);
	turn(k, CTL_ENTRY_IA32E, g->efer & EFER_LMA);
	turn(k, CTL_EXIT_SAVE_EFER, chance(k->r, 80));
	turn(k, CTL_EXIT_LOAD_EFER, chance(k->r, 80));
	static const enum vmcs_slot to[GROUP_COUNT] = { VF_PIN_CONTROLS, VF_PROC_CONTROLS, VF_PROC2_CONTROLS, VF_EXIT_CONTROLS, VF_ENTRY_CONTROLS };
	for (unsigned n = 0; n < GROUP_COUNT; n++)
		set(k, to[n], k->ctl[n]);
}

static void make_pages(struct maker *k)
{
	static const struct { u8 slot, page; } at[] = { { VF_IO_BITMAP_A, P_IO_A }, { VF_IO_BITMAP_B, P_IO_B }, { VF_MSR_BITMAPS, P_MSR_BITMAP },
		{ VF_PML_ADDRESS, P_PML }, { VF_VIRTUAL_APIC_ADDR, P_VAPIC }, { VF_APIC_ACCESS_ADDR, P_APIC }, { VF_VMREAD_BITMAP, P_IO_A },
		{ VF_VMWRITE_BITMAP, P_IO_B }, { VF_VE_INFO_ADDR, P_VE }, { VF_EPTP_LIST, P_PML }, { VF_POSTED_INTR_DESC, P_PID } };
	struct rng *r = k->r;
	for (unsigned i = 0; i < array_len(at); i++)
		set(k, at[i].slot, place(r, at[i].page));
	set(k, VF_EXIT_MSR_STORE_ADDR, place(r, P_LISTS));
	set(k, VF_EXIT_MSR_LOAD_ADDR, place(r, P_LISTS) + 0x80);
	set(k, VF_ENTRY_MSR_LOAD_ADDR, place(r, P_LISTS) + 0x100);
	set(k, VF_EXIT_MSR_STORE_COUNT, chance(r, 40) ? below(r, 8) : 0);
	set(k, VF_EXIT_MSR_LOAD_COUNT, chance(r, 30) ? below(r, 4) : 0);
	set(k, VF_ENTRY_MSR_LOAD_COUNT, chance(r, 30) ? below(r, 4) : 0);
	set(k, VF_EPTP, place(r, P_EPT4) | 0x1e | (chance(r, 60) ? 0x40 : 0));
	set(k, VF_PML_INDEX, chance(r, 80) ? below(r, 512) : rng_u64(r));
	set(k, VF_VMCS_LINK, is_on(k, CTL_PROC2_VMCS_SHADOWING) && chance(r, 80) ? page(P_SHADOW) : ~(u64)0);
}

static void make_execution(struct maker *k)
{
	struct rng *r = k->r;
	set(k, VF_EXCEPTION_BITMAP, chance(r, 40) ? 0x60042 : rng_u64(r) & rng_u64(r));
	set(k, VF_PF_ERROR_MASK, chance(r, 70) ? 0 : rng_u64(r));
	set(k, VF_PF_ERROR_MATCH, chance(r, 70) ? 0 : rng_u64(r));
	set(k, VF_CR3_TARGET_COUNT, below(r, 5));
	set(k, VF_TPR_THRESHOLD, chance(r, 80) ? 0 : below(r, 16));
	set(k, VF_VPID, 1 + below(r, 3));
	set(k, VF_POSTED_INTR_VECTOR, chance(r, 80) ? POSTED_VECTOR : below(r, 256));
	set(k, VF_TSC_OFFSET, interesting(r));
	set(k, VF_TSC_MULTIPLIER, chance(r, 70) ? BIT(48) : rng_u64(r));
	set(k, VF_CR0_MASK, chance(r, 50) ? CR0_NE | CR0_PG : rng_u64(r));
	set(k, VF_CR4_MASK, chance(r, 50) ? CR4_VMXE : rng_u64(r));
	set(k, VF_CR0_SHADOW, rng_u64(r));
	set(k, VF_CR4_SHADOW, rng_u64(r));
	set(k, VF_PLE_GAP, below(r, 128));
	set(k, VF_PLE_WINDOW, below(r, 4096));
	set(k, VF_VM_FUNCTION_CONTROLS, below(r, 2));
	set(k, VF_PREEMPTION_TIMER, chance(r, 50) ? below(r, 100) : rng_u64(r));
	for (unsigned i = 0; i < 4; i++)
		set(k, VF_EOI_EXIT_BITMAP0 + i, chance(r, 50) ? 0 : rng_u64(r));
	set(k, VF_GUEST_INTR_STATUS, chance(r, 60) ? 0 : rng_u64(r));
	if (chance(r, 30)) {
		static const u32 events[] = { 0x80000030, 0x80000202, 0x80000b0d, 0x80000b0e, 0x80000306, 0x80000480, 0x80000501, 0x80000603, 0x80000700 };
		set(k, VF_ENTRY_INTR_INFO, PICK(r, events));
		set(k, VF_ENTRY_INSN_LENGTH, 1 + below(r, 4));
		set(k, VF_ENTRY_EXCEPTION_ERROR, rng_u64(r) & 0x1f);
	}
}

static void make_host(struct maker *k, const struct cpu_arch *a)
{
	set(k, VF_HOST_CR0, a->cr0);
	set(k, VF_HOST_CR3, a->cr3);
	set(k, VF_HOST_CR4, a->cr4);
	for (unsigned i = 0; i < SEG_COUNT; i++)
		set(k, VF_HOST_ES_SELECTOR + i, a->seg[i].sel & ~7u);
	set(k, VF_HOST_TR_SELECTOR, a->tr.sel & ~7u);
	set(k, VF_HOST_PAT, 0x0007040600070406);
	set(k, VF_HOST_EFER, a->efer);
	set(k, VF_HOST_FS_BASE, a->seg[SEG_FS].base);
	set(k, VF_HOST_GS_BASE, a->seg[SEG_GS].base);
	set(k, VF_HOST_TR_BASE, a->tr.base);
	set(k, VF_HOST_GDTR_BASE, a->gdtr.base);
	set(k, VF_HOST_IDTR_BASE, a->idtr.base);
	set(k, VF_HOST_RSP, AT_STACKS + 0x2800);
	set(k, VF_HOST_RIP, AT_CODE);
}

static void make_guest(struct maker *k, const struct cpu_arch *g)
{
	const struct seg *segs[8];
	for (unsigned i = 0; i < SEG_COUNT; i++)
		segs[i] = &g->seg[i];
	segs[6] = &g->ldtr;
	segs[7] = &g->tr;
	for (unsigned i = 0; i < 8; i++) {
		set(k, VF_GUEST_ES_SELECTOR + i, segs[i]->sel);
		set(k, VF_GUEST_ES_BASE + i, segs[i]->base);
		set(k, VF_GUEST_ES_LIMIT + i, segs[i]->limit);
		set(k, VF_GUEST_ES_AR + i, segs[i]->attr);
	}
	set(k, VF_GUEST_GDTR_BASE, g->gdtr.base);
	set(k, VF_GUEST_GDTR_LIMIT, g->gdtr.limit);
	set(k, VF_GUEST_IDTR_BASE, g->idtr.base);
	set(k, VF_GUEST_IDTR_LIMIT, g->idtr.limit);
	set(k, VF_GUEST_CR0, g->cr0 | CR0_NE);
	set(k, VF_GUEST_CR3, g->cr3);
	set(k, VF_GUEST_CR4, g->cr4 | CR4_VMXE);
	set(k, VF_GUEST_DR7, 0x400 | (chance(k->r, 10) ? rng_u64(k->r) & 0xffff03ff : 0));
	set(k, VF_GUEST_RSP, g->gpr[GPR_RSP]);
	set(k, VF_GUEST_RIP, g->rip);
	set(k, VF_GUEST_RFLAGS, (g->rflags | cpu_cc_to_flags(g->cc)) & ~(chance(k->r, 90) ? (u64)FLAG_TF : 0));
	set(k, VF_GUEST_PAT, 0x0007040600070406);
	set(k, VF_GUEST_EFER, g->efer);
	for (unsigned i = 0; i < 4; i++)
		set(k, VF_GUEST_PDPTE0 + i, g->pdpte[i]);
	set(k, VF_GUEST_SYSENTER_EIP, WORLD_BYTES + AT_CODE);
	set(k, VF_GUEST_ACTIVITY, chance(k->r, 95) ? 0 : below(k->r, 4));
	set(k, VF_GUEST_INTERRUPTIBILITY, chance(k->r, 90) ? 0 : below(k->r, 3));
}

static void mutate(struct maker *k)
{
	for (unsigned n = chance(k->r, 50) ? 0 : 1 + below(k->r, 3); n; n--) {
		unsigned s = below(k->r, VF_COUNT);
		u64 old = vmcs_get(k->v, s);
		set(k, s, chance(k->r, 50) ? old ^ bit(below(k->r, 64)) : chance(k->r, 50) ? interesting(k->r) : rng_u64(k->r));
	}
}

static void make_vmcs(struct machine *m, struct rng *r, const struct cpu_arch *l1, const struct cpu_arch *g)
{
	struct maker k = { .m = m, .r = r, .v = mem_ptr(&m->mem, gpa(page(P_VMCS)), PAGE_SIZE), .caps = &vmx_of(m->cpu)->caps };
	k.v->revision = VMCS_REVISION;
	make_controls(&k, l1, g);
	make_pages(&k);
	make_execution(&k);
	make_host(&k, l1);
	make_guest(&k, g);
	mutate(&k);
}

/* ---- L1's code ---- */
struct text { struct machine *m; u64 at; };
static void emit(struct text *t, u64 v, unsigned n) { put(t->m, t->at, n, v); t->at += n; }
static void emit_mov(struct text *t, unsigned reg, u32 v) { emit(t, 0xb8 + reg, 1); emit(t, v, 4); }
static void emit_vmwrite(struct text *t, u32 field, u32 v) /* edx := field, eax := value, VMWRITE */
{
	emit_mov(t, 2, field);
	emit_mov(t, 0, v);
	emit(t, 0xd0790f, 3);
}

static u32 random_field(struct rng *r)
{
	u32 e = vmcs_fields[below(r, VF_COUNT)].encoding;
	return chance(r, 90) ? e : chance(r, 50) ? e | 1 : (u32)rng_u64(r);
}

/* L2 starts and restarts here mostly: with what its virtual APIC and VM functions are for, when they are on. */
enum { ENTRIES = 32, ENTRY_BYTES = CODE_PAGES * 4096 / ENTRIES };
static u32 random_entry(struct rng *r) { return WORLD_BYTES + AT_CODE + (chance(r, 70) ? below(r, ENTRIES) * ENTRY_BYTES : below(r, CODE_PAGES * 4096)); }

static void put_entries(struct machine *m, struct rng *r, unsigned bits_)
{
	unsigned snippets = below(r, 8);
	for (unsigned e = 0; e < ENTRIES; e++)
		for (unsigned n = 0; n < snippets; n++)
			program_sprinkle(m, r, WORLD_BYTES + AT_CODE + e * ENTRY_BYTES + n * 16, 16, bits_, 1, false);
}

/* Skip what exited, sometimes start elsewhere, change something, go on. The next exit comes to the next handler. */
/* offset: what L2's RIP is less than the address of its code (segment base). */
static void emit_handler(struct text *t, struct rng *r, u32 next, u32 offset)
{
	emit_vmwrite(t, 0x6c16, next);
	if (chance(r, 65)) {
		emit_mov(t, 2, 0x440c);
		emit(t, 0xd1780f, 3); /* vmread ecx, edx */
		emit_mov(t, 2, 0x681e);
		emit(t, 0xd0780f, 3); /* vmread eax, edx */
		emit(t, 0xd0790fc801, 5); /* add eax, ecx; vmwrite edx, eax */
	} else {
		emit_vmwrite(t, 0x681e, random_entry(r) - offset);
	}
	for (unsigned n = chance(r, 50) ? 0 : below(r, 3); n; n--)
		emit_vmwrite(t, random_field(r), (u32)interesting(r));
	if (chance(r, 25)) {
		program_sprinkle(t->m, r, t->at, 16, 64, 1, true);
		t->at += 16;
	}
	emit(t, 0xc3010f, 3);
	emit(t, 0xc2010f, 3);
}

static void put_l1_code(struct machine *m, struct rng *r, unsigned bits_, u32 offset)
{
	struct text t = { m, AT_CODE };
	program_fill(m, r, AT_CODE, CODE_PAGES * PAGE_SIZE, bits_);
	program_sprinkle(m, r, AT_CODE, CODE_PAGES * PAGE_SIZE, bits_, 100, true);
	for (unsigned h = 0; h < 16; h++) {
		u64 start = AT_CODE + h * 0x200;
		t.at = start;
		emit_handler(&t, r, h == 15 ? AT_CODE : (u32)(start + 0x200), offset);
	}
	t.at = AT_CODE + 0x2000; /* where L1 starts */
	emit(&t, 0xc2010f, 3);
}

/* ---- a run ---- */
static void build(struct machine *m, struct rng *r)
{
	static const enum world_mode hosts[] = { WORLD_LONG, WORLD_LONG, WORLD_LONG, WORLD_PROT32 };
	struct world l1 = { .mode = PICK(r, hosts), .kernel = true }, l2 = { .mode = below(r, WORLDS), .base = WORLD_BYTES };
	struct cpu *c = m->cpu;
	struct cpu_arch g = { 0 };
	if (!world_lma(&l1) && world_lma(&l2))
		l2.mode = WORLD_PROT32;
	world_state(m, r, &l1, &c->arch);
	c->arch.cr0 |= CR0_PG | CR0_NE;
	c->arch.cr4 |= CR4_VMXE;
	if (!world_lma(&l1))
		c->arch.cr4 &= ~(u64)CR4_PAE;
	c->arch.rflags &= ~(u64)(FLAG_TF | FLAG_RF);
	c->arch.rip = AT_CODE + 0x2000;
	world_memory(m, r, &l1, &c->arch);
	world_state(m, r, &l2, &g);
	world_memory(m, r, &l2, &g);
	program_fill(m, r, WORLD_BYTES + AT_CODE, CODE_PAGES * PAGE_SIZE, world_bits(&l2));
	put_entries(m, r, world_bits(&l2));
	u32 offset = world_bits(&l2) == 16 ? WORLD_BYTES + AT_CODE : 0;
	if (chance(r, 80))
		g.rip = random_entry(r) - offset;
	put_l1_code(m, r, world_bits(&l1), offset);
	put_pages(m, r);
	machine_adopt(m);
	world_msrs(m, r, &l1);
	make_vmcs(m, r, &c->arch, &g);
	struct vmx *v = vmx_of(c);
	v->s.on = 1;
	v->s.vmxon_ptr = page(P_VMXON);
	vmx_set_vmcs(c, page(P_VMCS));
	machine_check(m);
}

static void check_vmx(struct machine *m)
{
	static const struct exit_info none;
	const struct vmx *v = vmx_of(m->cpu);
	bug_if(memcmp(&v->x, &none, sizeof none));
	bug_if(m->cpu->arch.guest_mode && (!v->s.on || !v->vmcs));
	bug_if(!m->cpu->arch.guest_mode && m->cpu->mtf != MTF_OFF);
	bug_if(v->s.on && v->s.vmcs_ptr != VMCS_NONE && !v->vmcs);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	static struct machine *a, *b;
	struct rng r;
	rng_init(&r, data, size);
	if (!a) {
		log_set_level(LOG_WARN); /* each failed entry would be a line */
		a = machine_create(true, &interp_engine);
		b = machine_create(true, &interp_engine);
	}
	machine_reset(a, rng_u64(&r), chance(&r, 40) ? 200 + below(&r, 4000) : 0);
	build(a, &r);
	for (unsigned slices = 1 + below(&r, 4); slices; slices--) {
		bool alive = machine_run(a, 20 + below(&r, 1000));
		machine_check(a);
		check_vmx(a);
		if (!alive)
			return 0;
	}
	if (chance(&r, 50))
		return 0;
	machine_clone(b, a);
	/* A guest that runs on a VMCS whose page was written since its entry goes on with what VM entry read; that is nowhere in the saved state. */
	bool alike = !a->cpu->arch.guest_mode || !memcmp(vmx_of(a->cpu)->f, vmx_of(b->cpu)->f, sizeof vmx_of(a->cpu)->f);
	u64 more = 1 + below(&r, 500);
	bool lives = machine_run(a, more), twin_lives = machine_run(b, more);
	machine_check(a);
	check_vmx(a);
	machine_check(b);
	check_vmx(b);
	if (!alike)
		return 0;
	bug_if(lives != twin_lives);
	machines_same(a, b);
	return 0;
}
