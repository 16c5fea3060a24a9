/* Entry states of the boot protocols, and what firmware leaves in every CPU's MTRRs. */
#include "boot/boot_int.h"

#define SEG_CODE64 0xa09b /* present, code, readable, accessed; L, G */
#define SEG_CODE32 0xc09b /* D, G */
#define SEG_DATA   0xc093 /* present, data, writable, accessed; B, G */
#define SEG_TSS    0x008b /* busy 32/64-bit TSS */
#define SEL_CODE 0x10
#define SEL_DATA 0x18
#define SEL_TSS  0x20

/* GDT descriptor of a flat segment with VMCS-format attributes. */
static u64 flat_descriptor(u32 attr)
{
	return 0xffff | (u64)(attr & 0xff) << 40 | 0xfull << 48 | (u64)(attr >> 12 & 0xf) << 52;
}

static int put_gdt(struct boot *b, u32 code_attr)
{
	const u64 gdt[] = { 0, 0, flat_descriptor(code_attr), flat_descriptor(SEG_DATA), 0x67 | (u64)SEG_TSS << 40, 0 };
	int r = boot_take(b, BOOT_GDT, sizeof(gdt), "the boot GDT");

	if (r)
		return r;
	b->cpu->gdtr = (struct dtable){ .base = BOOT_GDT, .limit = sizeof(gdt) - 1 };
	return boot_put(b, BOOT_GDT, gdt, sizeof(gdt));
}

static void set_common(struct cpu_arch *a, u32 code_attr, u64 rip)
{
	static const u8 data_segs[] = { SEG_DS, SEG_ES, SEG_SS, SEG_FS, SEG_GS };

	memset(a->gpr, 0, sizeof(a->gpr));
	a->rip = rip;
	a->rflags = FLAG_FIXED1;
	a->cc = cpu_flags_to_cc(0);
	a->cpl = 0;
	a->activity = ACT_ACTIVE;
	a->seg[SEG_CS] = (struct seg){ .limit = ~0u, .attr = code_attr, .sel = SEL_CODE };
	for (unsigned i = 0; i < array_len(data_segs); i++)
		a->seg[data_segs[i]] = (struct seg){ .limit = ~0u, .attr = SEG_DATA, .sel = SEL_DATA };
	a->tr = (struct seg){ .limit = 0x67, .attr = SEG_TSS, .sel = SEL_TSS };
	a->idtr = (struct dtable){ 0 };
}

/* PML4 -> PDPT -> four page directories of 2 MiB pages: the low 4 GiB, identity-mapped. */
static int put_page_tables(struct boot *b)
{
	enum { PRESENT_RW = 3, LARGE = 0x80 };
	static const u64 npages = 6;
	u64 table[512], pml4 = BOOT_PAGE_TABLES, pdpt = pml4 + PAGE_SIZE, pd = pdpt + PAGE_SIZE;
	int r = boot_take(b, pml4, npages * PAGE_SIZE, "the boot page tables");

	memset(table, 0, sizeof(table));
	table[0] = pdpt | PRESENT_RW;
	if (!r)
		r = boot_put(b, pml4, table, sizeof(table));
	for (unsigned i = 0; i < 4; i++)
		table[i] = (pd + i * PAGE_SIZE) | PRESENT_RW;
	if (!r)
		r = boot_put(b, pdpt, table, sizeof(table));
	for (unsigned d = 0; d < 4 && !r; d++) {
		for (unsigned i = 0; i < 512; i++)
			table[i] = (d * GiB + i * 2 * MiB) | PRESENT_RW | LARGE;
		r = boot_put(b, pd + d * PAGE_SIZE, table, sizeof(table));
	}
	return r;
}

int boot_enter_long(struct boot *b, u64 rip, u64 boot_params)
{
	struct cpu_arch *a = b->cpu;
	int r = put_gdt(b, SEG_CODE64);

	if (!r)
		r = put_page_tables(b);
	if (r)
		return r;
	set_common(a, SEG_CODE64, rip);
	a->gpr[6] = boot_params;           /* RSI */
	a->gpr[4] = BOOT_PAGE_TABLES;      /* RSP: grows down into the free kilobytes after the zero page */
	a->cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_PG;
	a->cr3 = BOOT_PAGE_TABLES;
	a->cr4 = CR4_PAE;
	a->efer = EFER_LME | EFER_LMA;
	return 0;
}

int boot_enter_protected(struct boot *b, u32 eip)
{
	struct cpu_arch *a = b->cpu;
	int r = put_gdt(b, SEG_CODE32);

	if (r)
		return r;
	set_common(a, SEG_CODE32, eip);
	a->gpr[4] = BOOT_PAGE_TABLES;
	a->cr0 = CR0_PE | CR0_ET;
	a->cr3 = 0;
	a->cr4 = 0;
	a->efer = 0;
	return 0;
}

/* SDM "Memory Type Range Registers": default write-back, two variable ranges make ECAM and everything up to 4 GiB uncached. */
void boot_cpu_setup(struct cpu_arch *a, const struct board_info *b)
{
	enum { TYPE_UC = 0, TYPE_WB = 6, FIXED_ENABLE = 1 << 10, ENABLE = 1 << 11, MASK_VALID = 1 << 11 };
	static const struct { u64 base, size; } uncached[] = {
		{ BOARD_ECAM_BASE, BOARD_ECAM_SIZE },
		{ BOARD_PCI32_BASE, 4 * GiB - BOARD_PCI32_BASE },
	};
	static const u64 wb8 = 0x0606060606060606;
	u64 phys = low_mask(b->phys_bits ? b->phys_bits : 36);

	memset(a->mtrr_var, 0, sizeof(a->mtrr_var));
	for (unsigned i = 0; i < array_len(uncached); i++) {
		a->mtrr_var[2 * i] = uncached[i].base | TYPE_UC;
		a->mtrr_var[2 * i + 1] = (phys & ~(uncached[i].size - 1)) | MASK_VALID;
	}
	/* 64K_00000, 16K_80000, 16K_A0000 (the VGA window, uncached), 4K_C0000 ... 4K_F8000 */
	for (unsigned i = 0; i < array_len(a->mtrr_fixed); i++)
		a->mtrr_fixed[i] = i == 2 ? 0 : wb8;
	a->mtrr_def_type = TYPE_WB | FIXED_ENABLE | ENABLE;
}
