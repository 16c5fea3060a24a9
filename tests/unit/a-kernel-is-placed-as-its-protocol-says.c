#include "boot_rig.h"

#include <asm/bootparam.h>

enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI };

static void expect_flat_protected(const struct boot_rig *r)
{
	assert_int_equal(r->cpu.cr0 & (CR0_PE | CR0_PG), CR0_PE);
	assert_int_equal(r->cpu.cr4, 0);
	assert_int_equal(r->cpu.efer, 0);
	assert_int_equal(r->cpu.rflags, FLAG_FIXED1);
	assert_int_equal(r->cpu.seg[SEG_CS].attr, 0xc09b);
	for (unsigned s = 0; s < SEG_COUNT; s++) {
		assert_int_equal(r->cpu.seg[s].base, 0);
		assert_int_equal(r->cpu.seg[s].limit, 0xffffffff);
	}
	assert_int_equal(r->cpu.tr.limit, 0x67);
}

/* Walks the boot page tables by hand. */
static u64 walk(struct boot_rig *r, u64 la)
{
	u64 e = rig_read(r, (r->cpu.cr3 & PAGE_MASK) + (la >> 39 & 511) * 8, 8);

	e = rig_read(r, (e & PAGE_MASK) + (la >> 30 & 511) * 8, 8);
	e = rig_read(r, (e & PAGE_MASK) + (la >> 21 & 511) * 8, 8);
	assert_int_equal(e & 0x83, 0x83);
	return (e & ~(u64)0x1fffff) + (la & 0x1fffff);
}

static void bzimage_enters_long_mode_with_the_zero_page_in_rsi(void **state)
{
	static struct boot_rig r;
	static struct image f;
	struct boot_params bp;

	rig_open(&r, 256 * MiB);
	image_bzimage(&f);
	r.append = "console=ttyS0 quiet";
	r.initrd = rig_file("0123456789", 10);
	assert_int_equal(rig_load(&r, f.data, f.size), 0);
	assert_int_equal(r.cpu.rip, 0x1000200);
	assert_int_equal(r.cpu.cr0 & (CR0_PE | CR0_PG), CR0_PE | CR0_PG);
	assert_int_equal(r.cpu.cr4, CR4_PAE);
	assert_int_equal(r.cpu.efer, EFER_LME | EFER_LMA);
	assert_int_equal(r.cpu.seg[SEG_CS].sel, 0x10);
	assert_int_equal(r.cpu.seg[SEG_CS].attr, 0xa09b);
	assert_int_equal(r.cpu.seg[SEG_DS].sel, 0x18);
	assert_int_equal(mem_read(&r.mem, gpa(r.cpu.gpr[RSI]), &bp, sizeof(bp)), 0);
	assert_int_equal(bp.hdr.type_of_loader, 0xff);
	assert_int_equal(bp.hdr.code32_start, 0x1000000);
	assert_int_equal(bp.hdr.ramdisk_size, 10);
	assert_int_equal(bp.hdr.ramdisk_image % 4096, 0);
	assert_true(bp.hdr.ramdisk_image >= 0x1100000);
	assert_int_equal(rig_read(&r, bp.hdr.ramdisk_image, 8), 0x3736353433323130);
	assert_string_equal(mem_ptr(&r.mem, gpa(bp.hdr.cmd_line_ptr), 20), "console=ttyS0 quiet");
	assert_int_equal(bp.acpi_rsdp_addr, BOARD_ACPI_BASE);
	assert_int_equal(rig_read(&r, bp.acpi_rsdp_addr, 8), 0x2052545020445352); /* "RSD PTR " */
	assert_int_equal(bp.e820_entries, 5);
	assert_int_equal(rig_read(&r, 0x1000000, 8), 0x9090909090909090);
	rig_close(&r);
}

static void page_tables_map_the_low_4_gib_to_itself(void **state)
{
	static const u64 at[] = { 0, 0x7000, 0x1000200, 0x3fffffff, 0x40000000, 0xb0000000, 0xfee00000, 0xffffffff };
	static struct boot_rig r;
	static struct image f;

	rig_open(&r, 64 * MiB);
	image_bzimage(&f);
	assert_int_equal(rig_load(&r, f.data, f.size), 0);
	for (unsigned i = 0; i < array_len(at); i++)
		assert_int_equal(walk(&r, at[i]), at[i]);
	rig_close(&r);
}

static void a_relocatable_kernel_moves_down_when_ram_is_small(void **state)
{
	static struct boot_rig r;
	static struct image f;

	rig_open(&r, 8 * MiB);
	image_bzimage(&f);
	assert_int_equal(rig_load(&r, f.data, f.size), 0);
	assert_int_equal(r.cpu.rip, 0x200200);
	rig_close(&r);
}

static void a_32_bit_bzimage_enters_protected_mode(void **state)
{
	static struct boot_rig r;
	static struct image f;

	rig_open(&r, 64 * MiB);
	image_bzimage(&f);
	image_set(&f, 0x236, 0, 2);
	assert_int_equal(rig_load(&r, f.data, f.size), 0);
	expect_flat_protected(&r);
	assert_int_equal(r.cpu.rip, 0x1000000);
	assert_int_equal(rig_read(&r, r.cpu.gpr[RSI] + 0x202, 4), 0x53726448);
	rig_close(&r);
}

static void pvh_gives_start_info_in_ebx(void **state)
{
	static struct boot_rig r;
	static struct image f;
	u64 info, map;

	rig_open(&r, 5 * GiB);
	image_elf(&f, true, 0x1000000, 0x2000, 0x5000);
	image_add_pvh_note(&f, 0x1000100);
	r.append = "hello";
	r.initrd = rig_file("initrd", 6);
	assert_int_equal(mem_write(&r.mem, gpa(0x1003000), "dirty", 5), 0);
	assert_int_equal(rig_load(&r, f.data, f.size), 0);
	expect_flat_protected(&r);
	assert_int_equal(r.cpu.rip, 0x1000100);
	info = r.cpu.gpr[RBX];
	assert_int_equal(rig_read(&r, info, 4), 0x336ec578);
	assert_int_equal(rig_read(&r, info + 4, 4), 1);
	assert_int_equal(rig_read(&r, info + 12, 4), 1);
	assert_string_equal(mem_ptr(&r.mem, gpa(rig_read(&r, rig_read(&r, info + 16, 8), 8)), 6), "initrd");
	assert_int_equal(rig_read(&r, rig_read(&r, info + 16, 8) + 8, 8), 6);
	assert_string_equal(mem_ptr(&r.mem, gpa(rig_read(&r, info + 24, 8)), 6), "hello");
	assert_int_equal(rig_read(&r, info + 32, 8), BOARD_ACPI_BASE);
	map = rig_read(&r, info + 40, 8);
	assert_int_equal(rig_read(&r, info + 48, 4), 6);
	assert_int_equal(rig_read(&r, map + 5 * 24, 8), 4 * GiB);
	assert_int_equal(rig_read(&r, map + 5 * 24 + 8, 8), 5 * GiB - 0xb0000000);
	assert_int_equal(rig_read(&r, 0x1003000, 8), 0); /* bss is zeroed even in used memory */
	rig_close(&r);
}

static void multiboot_gives_the_information_structure(void **state)
{
	static struct boot_rig r;
	static struct image f;
	char list[128];
	u64 info, mods;

	rig_open(&r, 128 * MiB);
	image_elf(&f, false, 0x400000, 0x100, 0xd00000);
	image_add_multiboot(&f, 0x1000, 0);
	r.append = "a b";
	snprintf(list, sizeof(list), "%s env x,%s", rig_file("one", 3), rig_file("second", 6));
	r.initrd = list;
	assert_int_equal(rig_load(&r, f.data, f.size), 0);
	expect_flat_protected(&r);
	assert_int_equal(r.cpu.rip, 0x400000);
	assert_int_equal(r.cpu.gpr[RAX], 0x2badb002);
	info = r.cpu.gpr[RBX];
	assert_int_equal(rig_read(&r, info, 4) & 0x4d, 0x4d);
	assert_int_equal(rig_read(&r, info + 8, 4), 127 * 1024);
	assert_non_null(strstr(mem_ptr(&r.mem, gpa(rig_read(&r, info + 16, 4)), 16), " a b"));
	assert_int_equal(rig_read(&r, info + 20, 4), 2);
	mods = rig_read(&r, info + 24, 4);
	assert_true(rig_read(&r, mods, 4) >= 0x1100000); /* not in the 4-17 MiB that test kernels use */
	assert_int_equal(rig_read(&r, mods, 4) % 4096, 0);
	assert_int_equal(rig_read(&r, mods + 4, 4) - rig_read(&r, mods, 4), 3);
	assert_non_null(strstr(mem_ptr(&r.mem, gpa(rig_read(&r, mods + 8, 4)), 32), " env x"));
	assert_int_equal(rig_read(&r, mods + 16 + 4, 4) - rig_read(&r, mods + 16, 4), 6);
	assert_int_equal(rig_read(&r, info + 44, 4), 5 * 24);
	assert_int_equal(rig_read(&r, rig_read(&r, info + 48, 4), 4), 20);
	rig_close(&r);
}

static void multiboot_places_nothing_where_test_kernels_live(void **state)
{
	static struct boot_rig r;
	static struct image f;

	rig_open(&r, 128 * MiB);
	image_elf(&f, false, 0x8000, 0x100, 0x5a30); /* realmode.flat's addresses */
	image_add_multiboot(&f, 0x1000, 0);
	assert_int_equal(rig_load(&r, f.data, f.size), 0);
	assert_true(r.cpu.gpr[RBX] >= 0xe000);
	assert_true(r.cpu.gpr[RBX] < 0xa0000);
	rig_close(&r);
}

static void multiboot_elf64_entry_is_virtual(void **state)
{
	static struct boot_rig r;
	static struct image f;

	rig_open(&r, 128 * MiB);
	image_elf(&f, true, 0x400000, 0x100, 0x100);
	image_set(&f, 64 + 16, 0xffffffff80400000, 8); /* p_vaddr */
	image_set(&f, 24, 0xffffffff80400010, 8);      /* e_entry */
	image_add_multiboot(&f, 0x1000, 3);
	assert_int_equal(rig_load(&r, f.data, f.size), 0);
	assert_int_equal(r.cpu.rip, 0x400010);
	rig_close(&r);
}

static void multiboot_header_addresses_load_a_flat_file(void **state)
{
	static struct boot_rig r;
	static struct image f = { .size = 0x3000 };

	rig_open(&r, 32 * MiB);
	memset(f.data, 0xcc, f.size);
	image_add_multiboot(&f, 0x100, BIT(16));
	image_set(&f, 0x10c, 0x200100, 4); /* header_addr */
	image_set(&f, 0x110, 0x200000, 4); /* load_addr */
	image_set(&f, 0x114, 0x201000, 4); /* load_end */
	image_set(&f, 0x118, 0x202000, 4); /* bss_end */
	image_set(&f, 0x11c, 0x200180, 4); /* entry */
	assert_int_equal(mem_write(&r.mem, gpa(0x201000), "x", 1), 0);
	assert_int_equal(rig_load(&r, f.data, f.size), 0);
	assert_int_equal(r.cpu.rip, 0x200180);
	assert_int_equal(rig_read(&r, 0x200ff8, 8), 0xcccccccccccccccc);
	assert_int_equal(rig_read(&r, 0x201000, 8), 0);
	rig_close(&r);
}

static void mtrrs_cover_all_ram_and_only_ram(void **state)
{
	static struct boot_rig r;
	static struct image f;

	rig_open(&r, 64 * MiB);
	image_bzimage(&f);
	assert_int_equal(rig_load(&r, f.data, f.size), 0);
	assert_int_equal(r.cpu.mtrr_def_type, 0xc06);
	assert_int_equal(r.cpu.mtrr_var[0], 0xb0000000);
	assert_int_equal(r.cpu.mtrr_var[1], 0xfff0000800);
	assert_int_equal(r.cpu.mtrr_var[2], 0xc0000000);
	assert_int_equal(r.cpu.mtrr_var[3], 0xffc0000800);
	rig_close(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bzimage_enters_long_mode_with_the_zero_page_in_rsi),
		cmocka_unit_test(page_tables_map_the_low_4_gib_to_itself),
		cmocka_unit_test(a_relocatable_kernel_moves_down_when_ram_is_small),
		cmocka_unit_test(a_32_bit_bzimage_enters_protected_mode),
		cmocka_unit_test(pvh_gives_start_info_in_ebx),
		cmocka_unit_test(multiboot_gives_the_information_structure),
		cmocka_unit_test(multiboot_places_nothing_where_test_kernels_live),
		cmocka_unit_test(multiboot_elf64_entry_is_virtual),
		cmocka_unit_test(multiboot_header_addresses_load_a_flat_file),
		cmocka_unit_test(mtrrs_cover_all_ram_and_only_ram),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
