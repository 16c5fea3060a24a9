/* Legal CPU states of every mode, with descriptor tables, task segments and page tables that are mostly usable and sometimes rubbish. */
#include "machine.h"

/* ---- descriptors ---- */
static void put_desc(struct machine *m, u64 at, u32 base, u32 limit, u8 access, u8 flags)
{
	put(m, at, 4, (base & 0xffff) << 16 | (limit & 0xffff));
	put(m, at + 4, 4, (base >> 16 & 0xff) | (u32)access << 8 | (limit & 0xf0000) | (u32)(flags & 15) << 20 | (base & 0xff000000));
}

/* Selectors whose descriptors every table has: index = 8 * dpl + kind. */
enum { SEL_CODE32, SEL_DATA, SEL_CODE64, SEL_CODE16, SEL_CONFORMING, SEL_DATA16, SEL_DOWN, SEL_READ_ONLY };
static u16 sel_of(unsigned dpl, unsigned kind) { return (u16)((8 + 8 * dpl + kind) * 8 | dpl); }
enum { SEL_TSS = 0x08, SEL_TSS2 = 0x18, SEL_LDT = 0x28, SEL_GATES = 0x140, GATES = 24 };

static void put_segments(struct machine *m, const struct world *w, u64 table)
{
	static const struct { u8 access, flags; u32 limit; } kinds[8] = {
		[SEL_CODE32] = { 0x9b, 0xc, 0xfffff }, [SEL_DATA] = { 0x93, 0xc, 0xfffff }, [SEL_CODE64] = { 0x9b, 0xa, 0xfffff },
		[SEL_CODE16] = { 0x9b, 0, 0xffff }, [SEL_CONFORMING] = { 0x9f, 0xc, 0xfffff }, [SEL_DATA16] = { 0x93, 0, 0xffff },
		[SEL_DOWN] = { 0x97, 4, 0xfff }, [SEL_READ_ONLY] = { 0x91, 0xc, 0x3f } };
	for (unsigned dpl = 0; dpl < 4; dpl++)
		for (unsigned k = 0; k < 8; k++)
			put_desc(m, table + (sel_of(dpl, k) & ~7u), k == SEL_CODE16 || k == SEL_DATA16 ? (u32)w->base + AT_CODE : 0, kinds[k].limit,
				 (u8)(kinds[k].access | dpl << 5), kinds[k].flags);
}

static u16 random_code_selector(struct rng *r, bool lma)
{
	static const u8 kinds[] = { SEL_CODE32, SEL_CODE32, SEL_CONFORMING, SEL_CODE16 };
	if (chance(r, 4))
		return (u16)rng_u64(r);
	return sel_of(chance(r, 70) ? 0 : below(r, 4), lma ? SEL_CODE64 : PICK(r, kinds));
}

static u64 random_code_address(struct rng *r, const struct world *w) { return w->base + AT_CODE + below(r, CODE_PAGES * 4096); }

/* A call, interrupt or task gate of 8 or 16 bytes. */
static void put_gate(struct machine *m, struct rng *r, const struct world *w, u64 at, const u8 *types, unsigned ntypes)
{
	bool lma = world_lma(w);
	u64 off = chance(r, 95) ? random_code_address(r, w) : rng_u64(r);
	u16 sel = random_code_selector(r, lma);
	u8 type = types[below(r, ntypes)], dpl = chance(r, 50) ? 3 : (u8)below(r, 4);
	if ((type & 15) == 5)
		sel = SEL_TSS2;
	if (sel == sel_of(0, SEL_CODE16))
		off -= w->base + AT_CODE;
	put(m, at, 4, (off & 0xffff) | (u32)sel << 16);
	put(m, at + 4, 4, (off & 0xffff0000) | (u32)(chance(r, 97) ? 0x80 : 0) << 8 | dpl << 13 | (u32)type << 8 | (chance(r, 10) ? below(r, 8) : 0));
	if (lma)
		put(m, at + 8, 8, off >> 32 | (chance(r, 3) ? rng_u64(r) << 32 : 0));
}

static void put_tables(struct machine *m, struct rng *r, const struct world *w)
{
	static const u8 calls[] = { 4, 12, 12, 12, 5 }, calls64[] = { 12, 12, 12, 4 };
	static const u8 ints[] = { 14, 14, 14, 15, 15, 6, 7, 5 }, ints64[] = { 14, 14, 15, 6 };
	bool lma = world_lma(w);
	u64 gdt = w->base + AT_GDT, idt = w->base + AT_IDT;
	put_segments(m, w, gdt);
	put_segments(m, w, w->base + AT_LDT);
	put_desc(m, gdt + SEL_TSS, (u32)w->base + AT_TSS, 0x2200, 0x8b, 0);
	put_desc(m, gdt + SEL_TSS2, (u32)w->base + AT_TSS2, chance(r, 95) ? 0x68 : below(r, 0x70), PICK(r, ((const u8[]){ 0x89, 0x89, 0x81, 0x8b, 0xe9 })), 0);
	put_desc(m, gdt + SEL_LDT, (u32)w->base + AT_LDT, 0x3ff, 0x82, 0);
	for (unsigned g = 0; g < GATES; g++) {
		if (lma)
			put_gate(m, r, w, gdt + SEL_GATES + 16 * g, calls64, array_len(calls64));
		else
			put_gate(m, r, w, gdt + SEL_GATES + 8 * g, calls, array_len(calls));
	}
	for (unsigned v = 0; v < 256; v++) {
		if (lma)
			put_gate(m, r, w, idt + 16 * v, ints64, chance(r, 95) ? 3 : 4);
		else
			put_gate(m, r, w, idt + 8 * v, ints, array_len(ints) - (chance(r, 80) ? 3 : 0));
	}
	for (unsigned n = chance(r, 20) ? below(r, 8) : 0; n; n--) /* rubbish */
		put(m, gdt + 8 * below(r, 128), 8, rng_u64(r));
}

static u64 random_stack(struct rng *r, const struct world *w) { return w->base + AT_STACKS + 0x1000 + (below(r, 0x2000) & ~(chance(r, 90) ? 7u : 0u)); }

static void put_tss32(struct machine *m, struct rng *r, const struct world *w, u64 at)
{
	for (unsigned n = 0; n < 3; n++) {
		put(m, at + 4 + 8 * n, 4, random_stack(r, w));
		put(m, at + 8 + 8 * n, 4, sel_of(n, SEL_DATA));
	}
	put(m, at + 0x1c, 4, chance(r, 90) ? w->base + AT_TABLES : rng_u64(r)); /* CR3 */
	put(m, at + 0x20, 4, random_code_address(r, w));
	put(m, at + 0x24, 4, chance(r, 80) ? 2 : rng_u64(r));
	for (unsigned n = 0; n < 8; n++)
		put(m, at + 0x28 + 4 * n, 4, interesting(r));
	put(m, at + 0x38, 4, random_stack(r, w));
	unsigned dpl = chance(r, 70) ? 0 : below(r, 4);
	for (unsigned s = 0; s < 6; s++)
		put(m, at + 0x48 + 4 * s, 4, chance(r, 97) ? sel_of(dpl, s == SEG_CS ? SEL_CODE32 : SEL_DATA) : rng_u64(r));
	put(m, at + 0x60, 4, chance(r, 50) ? SEL_LDT : 0);
	put(m, at + 0x64, 4, 0x680000 | (chance(r, 5) ? 1 : 0));
	put(m, at, 2, SEL_TSS2); /* back link */
}

static void put_tss64(struct machine *m, struct rng *r, const struct world *w, u64 at)
{
	for (unsigned n = 0; n < 3; n++)
		put(m, at + 4 + 8 * n, 8, chance(r, 97) ? random_stack(r, w) : interesting(r));
	for (unsigned n = 0; n < 7; n++)
		put(m, at + 0x24 + 8 * n, 8, chance(r, 97) ? random_stack(r, w) : interesting(r));
	put(m, at + 0x64, 4, 0x680000);
}

/* ---- page tables ---- */
static u64 page_flags(struct rng *r)
{
	u64 f = 7; /* present, writable, user */
	if (chance(r, 85))
		return f | 0x60;
	return (rng_u64(r) & 0xfff & ~(u64)0x80) | (chance(r, 70) ? 1 : 0) | (chance(r, 20) ? BIT(63) : 0) | (rng_u64(r) & 0xf) << 59;
}

static u64 page_target(struct rng *r, u64 identity)
{
	static const u64 others[] = { 0xfee00000, 0xfec00000, RAM_BYTES, RAM_BYTES + ROM_BYTES, 0x7ffffffff000, AT_TABLES, 0xffffffffff000 };
	return chance(r, 96) ? identity : chance(r, 50) ? (u64)below(r, RAM_BYTES / 4096) << 12 : PICK(r, others);
}

/* The low 2 or 4 MiB page by page; the rest of the table large pages, copies of the first entry and rubbish. */
static void put_low(struct machine *m, struct rng *r, u64 dir, u64 pt, unsigned esize)
{
	u64 first = pt | 7;
	put(m, dir, esize, first);
	for (unsigned i = 1; i < 4096 / esize; i++) {
		u64 e = chance(r, 60) ? first : chance(r, 50) ? ((u64)i << (esize == 8 ? 21 : 22)) | 0xe7 : chance(r, 50) ? 0 : rng_u64(r);
		if (i < 16 || i > 4096 / esize - 16)
			put(m, dir + i * esize, esize, e);
	}
	for (unsigned i = 0; i < 4096 / esize; i++)
		put(m, pt + i * esize, esize, page_target(r, (u64)(i % 272) << 12) | page_flags(r));
}

static void put_page_tables(struct machine *m, struct rng *r, const struct world *w, unsigned levels)
{
	u64 top = w->base + AT_TABLES;
	if (levels == 2) {
		put_low(m, r, top, top + 0x1000, 4);
		return;
	}
	if (levels == 3) {
		for (unsigned i = 0; i < 4; i++)
			put(m, top + 8 * i, 8, i && chance(r, 20) ? 0 : i && chance(r, 3) ? rng_u64(r) : (top + 0x1000) | 1);
		put_low(m, r, top + 0x1000, top + 0x2000, 8);
		return;
	}
	static const u16 aliases[] = { 0, 255, 256, 511, 1 };
	for (unsigned i = 0; i < array_len(aliases); i++)
		put(m, top + 8 * aliases[i], 8, (top + 0x1000) | 7 | (i && chance(r, 5) ? rng_u64(r) & 0xfff0000000000ffe : 0));
	put(m, top + 8 * 3, 8, top | 7); /* the tables themselves */
	for (unsigned i = 0; i < 512; i++)
		put(m, top + 0x1000 + 8 * i, 8, (i < 4 || i > 508) ? (top + 0x2000) | 7 : chance(r, 30) ? (u64)i << 30 | 0xe7 : 0);
	put_low(m, r, top + 0x2000, top + 0x3000, 8);
}

/* ---- memory of a world ---- */
void world_memory(struct machine *m, struct rng *r, const struct world *w, const struct cpu_arch *a)
{
	bool lma = world_lma(w);
	put_tables(m, r, w);
	if (lma)
		put_tss64(m, r, w, w->base + AT_TSS);
	else
		put_tss32(m, r, w, w->base + AT_TSS);
	put_tss32(m, r, w, w->base + AT_TSS2);
	for (unsigned i = 0x68; i < 0x2200; i += 8) /* I/O permissions */
		put(m, w->base + AT_TSS + i, 8, chance(r, 80) ? 0 : rng_u64(r));
	put(m, w->base + AT_TSS + 0x2200, 1, 0xff);
	put_page_tables(m, r, w, lma ? 4 : a->cr4 & CR4_PAE ? 3 : 2);
	if (!lma) /* interrupt vectors of real mode */
		for (unsigned v = 0; v < 256; v++)
			put(m, w->base + AT_IVT + 4 * v, 4, (u32)((w->base + AT_CODE) >> 4) << 16 | (below(r, CODE_PAGES * 4096) & 0xffff));
	for (unsigned i = 0; i < DATA_BYTES / 16; i += 8)
		put(m, w->base + AT_DATA + i, 8, interesting(r));
	for (unsigned i = 0; i < 0x3000; i += 8)
		put(m, w->base + AT_STACKS + i, 8,
		    chance(r, 50) ? random_code_address(r, w) : chance(r, 50) ? random_code_selector(r, lma) : interesting(r));
}

/* ---- registers ---- */
static struct seg make_seg(u16 sel, u64 base, u32 limit, u32 attr) { return (struct seg){ .base = base, .limit = limit, .attr = attr, .sel = sel }; }

static void real_segments(const struct world *w, struct cpu_arch *a, bool vm86)
{
	u16 at = (u16)(w->base >> 4);
	for (unsigned i = 0; i < SEG_COUNT; i++) {
		u16 sel = (u16)(at + (i == SEG_CS ? AT_CODE >> 4 : i == SEG_SS ? 0x500 : AT_DATA >> 4));
		a->seg[i] = make_seg(sel, (u64)sel << 4, 0xffff, vm86 ? 0xf3 : i == SEG_CS ? 0x9b : 0x93);
	}
}

static void protected_segments(struct rng *r, struct cpu_arch *a, const struct world *w)
{
	unsigned dpl = a->cpl;
	bool narrow = w->mode == WORLD_PROT16 || w->mode == WORLD_COMPAT16;
	unsigned code = w->mode == WORLD_LONG ? SEL_CODE64 : narrow ? SEL_CODE16 : SEL_CODE32;
	u32 wide = SEG_G | SEG_DB;
	a->seg[SEG_CS] = make_seg(sel_of(dpl, code), narrow ? w->base + AT_CODE : 0, narrow ? 0xffff : 0xffffffff,
				  0x9b | dpl << 5 | (w->mode == WORLD_LONG ? SEG_L | SEG_G : narrow ? 0 : wide));
	for (unsigned i = 0; i < SEG_COUNT; i++) {
		if (i == SEG_CS)
			continue;
		a->seg[i] = make_seg(sel_of(dpl, SEL_DATA), 0, 0xffffffff, 0x93 | dpl << 5 | wide);
		if (i != SEG_SS && chance(r, 10))
			a->seg[i] = make_seg(sel_of(dpl, SEL_DOWN), 0, 0xfff, 0x97 | dpl << 5 | SEG_DB);
		else if (i != SEG_SS && chance(r, 10))
			a->seg[i] = make_seg(0, 0, 0, SEG_UNUSABLE);
		if ((i == SEG_FS || i == SEG_GS) && chance(r, 50))
			a->seg[i].base = w->base + AT_DATA + (w->mode == WORLD_LONG && chance(r, 20) ? 0xffff800000000000 : 0);
	}
}

static void control_registers(struct machine *m, struct rng *r, const struct world *w, struct cpu_arch *a)
{
	const struct cpu *c = m->cpu;
	u64 cr4 = rng_u64(r) & cpu_cr4_supported(c) & ~(u64)(CR4_PAE | CR4_PCIDE | CR4_VMXE);
	bool paging = world_lma(w) || (w->mode != WORLD_REAL && chance(r, 65));
	if (chance(r, 70))
		cr4 |= CR4_OSFXSR | CR4_OSXSAVE | CR4_OSXMMEXCPT;
	if (chance(r, 70))
		cr4 &= ~(u64)(CR4_SMEP | CR4_SMAP);
	a->efer = rng_u64(r) & (EFER_SCE | EFER_NXE);
	a->cr0 = CR0_ET | CR0_NE | (rng_u64(r) & (CR0_WP | CR0_AM)) | (w->mode == WORLD_REAL ? 0 : CR0_PE) | (paging ? CR0_PG : 0);
	if (chance(r, 10))
		a->cr0 = (a->cr0 & ~(u64)CR0_NE) | (rng_u64(r) & (CR0_NE | CR0_TS | CR0_MP | CR0_EM));
	if (world_lma(w)) {
		a->efer |= EFER_LME | EFER_LMA;
		cr4 |= CR4_PAE | (rng_u64(r) & CR4_PCIDE);
	} else if (w->mode != WORLD_REAL && chance(r, 50)) {
		cr4 |= CR4_PAE;
	}
	if (cpu_has(c, FEAT_VMX) && chance(r, 70))
		cr4 |= CR4_VMXE;
	a->cr4 = cr4;
	a->cr3 = w->base + AT_TABLES;
	a->xcr0 = chance(r, 80) ? 7 : 3;
	if (paging && (cr4 & CR4_PAE) && !world_lma(w)) /* never rubbish in the latched copy */
		for (unsigned i = 0; i < 4; i++)
			a->pdpte[i] = i && chance(r, 20) ? 0 : (w->base + AT_TABLES + 0x1000) | 1;
}

void world_state(struct machine *m, struct rng *r, const struct world *w, struct cpu_arch *a)
{
	control_registers(m, r, w, a);
	a->cpl = w->mode == WORLD_VM86 ? 3 : w->mode == WORLD_REAL || w->kernel || chance(r, 65) ? 0 : (u8)below(r, 4);
	if (w->mode == WORLD_REAL || w->mode == WORLD_VM86)
		real_segments(w, a, w->mode == WORLD_VM86);
	else
		protected_segments(r, a, w);
	bool lma = world_lma(w), narrow = w->mode == WORLD_REAL || w->mode == WORLD_VM86 || w->mode == WORLD_PROT16 || w->mode == WORLD_COMPAT16;
	a->gdtr = (struct dtable){ .base = w->base + AT_GDT, .limit = chance(r, 95) ? 0x7ff : below(r, 0x800) };
	a->idtr = (struct dtable){ .base = w->base + (w->mode == WORLD_REAL ? AT_IVT : AT_IDT), .limit = chance(r, 95) ? (lma ? 0xfff : 0x7ff) : below(r, 0x800) };
	a->ldtr = chance(r, 70) ? make_seg(SEL_LDT, w->base + AT_LDT, 0x3ff, 0x82) : make_seg(0, 0, 0, SEG_UNUSABLE);
	a->tr = make_seg(SEL_TSS, w->base + AT_TSS, 0x2200, 0x8b);
	u64 flags = FLAG_FIXED1 | (rng_u64(r) & (FLAG_ARITH | FLAG_DF | FLAG_IF | FLAG_AC | FLAG_ID | FLAG_IOPL | FLAG_NT));
	if (chance(r, 5))
		flags |= rng_u64(r) & (FLAG_TF | FLAG_RF);
	if (w->mode == WORLD_VM86)
		flags = (flags & ~(u64)FLAG_NT) | FLAG_VM;
	a->cc = cpu_flags_to_cc(flags);
	a->rflags = flags & ~(u64)FLAG_ARITH;
	for (unsigned i = 0; i < 16; i++)
		a->gpr[i] = interesting(r);
	u64 rip = random_code_address(r, w);
	a->rip = narrow ? rip - w->base - AT_CODE : rip;
	if (w->mode == WORLD_LONG && chance(r, 10))
		a->rip |= 0xffff800000000000;
	a->gpr[GPR_RSP] = narrow ? 0x1000 + below(r, 0xe000) : random_stack(r, w);
	if (!lma)
		for (unsigned i = 0; i < 16; i++)
			a->gpr[i] = (u32)a->gpr[i];
	a->activity = ACT_ACTIVE;
}

/* ---- MSRs ---- */
void world_msrs(struct machine *m, struct rng *r, const struct world *w)
{
	static const u32 msrs[] = { 0x174, 0x175, 0x176, 0x1a0, 0x1d9, 0x277, 0x2ff, 0x200, 0x201, 0x250, 0x268, 0x3b, 0x48, 0xc0000081, 0xc0000082,
		0xc0000083, 0xc0000084, 0xc0000102, 0xc0000103, 0x10, 0x6e0, 0x400, 0x17a };
	struct cpu *c = m->cpu;
	if (cpu_has(c, FEAT_VMX))
		c->arch.feat_ctl = 5;
	for (unsigned i = 0; i < array_len(msrs); i++)
		if (chance(r, 50))
			cpu_wrmsr(c, msrs[i], interesting(r));
	if (chance(r, 80)) {
		cpu_wrmsr(c, 0x174, sel_of(0, SEL_CODE32));
		cpu_wrmsr(c, 0x175, random_stack(r, w));
		cpu_wrmsr(c, 0x176, random_code_address(r, w));
		cpu_wrmsr(c, 0xc0000081, (u64)sel_of(3, SEL_CODE32) << 48 | (u64)sel_of(0, SEL_CODE32) << 32 | (u32)random_code_address(r, w));
		cpu_wrmsr(c, 0xc0000082, random_code_address(r, w));
	}
	c->arch.pkru = chance(r, 20) ? (u32)rng_u64(r) : 0;
	c->arch.mxcsr = chance(r, 80) ? 0x1f80 : (u32)rng_u64(r) & 0xffff;
	for (unsigned i = 0; i < sizeof c->arch.ymm; i += 8)
		store_le(c->arch.ymm + i, chance(r, 50) ? interesting(r) : rng_u64(r), 8);
	for (unsigned i = 32; i < sizeof c->arch.x87; i += 16)
		store_le(c->arch.x87 + i, rng_u64(r), 8);
	store_le(c->arch.x87, chance(r, 70) ? 0x37f : rng_u64(r) & 0x1f7f, 2);
	store_le(c->arch.x87 + 2, chance(r, 70) ? 0 : rng_u64(r) & 0x7f00, 2);
	store_le(c->arch.x87 + 4, rng_u64(r) & 0xff, 1);
	for (unsigned i = 0; i < 4 && chance(r, 10); i++) {
		cpu_mov_to_dr(c, i, chance(r, 50) ? random_code_address(r, w) : w->base + AT_DATA + below(r, 64) * 8);
		cpu_mov_to_dr(c, 7, (rng_u64(r) & 0xffff07ff) | 0x400);
	}
}
