/* Which loader a file needs, and what every kernel finds in memory beside itself: BIOS data area, ACPI, SMBIOS. */
#include "boot/boot_int.h"

#include <errno.h>
#include <stdlib.h>

/* Files that people give by mistake. */
static const struct { u16 off; u8 len; char magic[8]; const char *say; } not_kernels[] = {
	{ 0, 2, "\x1f\x8b", "is gzip-compressed; gunzip it first" },
	{ 0, 6, "\xfd" "7zXZ", "is xz-compressed; unxz it first" },
	{ 0, 4, "\x28\xb5\x2f\xfd", "is zstd-compressed; unzstd it first" },
	{ 0, 4, "\x02\x21\x4c\x18", "is lz4-compressed; unlz4 it first" },
	{ 0, 3, "BZh", "is bzip2-compressed; bunzip2 it first" },
	{ 0, 6, "070701", "is a cpio archive; are --kernel and --initrd swapped?" },
	{ 0, 4, "QFI\xfb", "is a qcow2 disk image; give it with --disk" },
	{ 0, 2, "#!", "is a script, not a kernel" },
	{ 0, 8, "!<arch>\n", "is a package or library archive, not a kernel; unpack it first" },
	{ 56, 4, "ARM\x64", "is an arm64 kernel; give an x86-64 one" },
	{ 0, 2, "MZ", "is a PE image without a Linux boot header; EFI programs need firmware" },
};

static int not_a_kernel(struct boot *b)
{
	const struct boot_file *f = &b->kernel;

	for (unsigned i = 0; i < array_len(not_kernels); i++)
		if (f->size >= not_kernels[i].off + not_kernels[i].len &&
		    !memcmp(f->data + not_kernels[i].off, not_kernels[i].magic, not_kernels[i].len))
			return boot_fail(b, ENOEXEC, "kernel \"%s\": %s", f->path, not_kernels[i].say);
	return boot_fail(b, ENOEXEC, "kernel \"%s\": not a kernel (%zu bytes, neither bzImage, ELF nor multiboot); "
			 "give a Linux bzImage, an ELF with a PVH note or a multiboot-1 image", f->path, f->size);
}

static int load_elf(struct boot *b, i64 multiboot)
{
	struct elf e;
	u64 entry;
	int r = elf_parse(b, &b->kernel, &e);

	if (r)
		return r;
	if (elf_pvh_entry(&b->kernel, &e, &entry))
		return pvh_load(b, &e, entry);
	if (multiboot >= 0)
		return multiboot_load(b, multiboot);
	return boot_fail(b, ENOEXEC, "kernel \"%s\": is an ELF file with neither a PVH note nor a multiboot header; it is a program, or a kernel "
			 "built without CONFIG_PVH (give its bzImage)", b->kernel.path);
}

static int load_kernel(struct boot *b)
{
	i64 mb = multiboot_header(&b->kernel);

	if (bzimage_is(&b->kernel))
		return bzimage_load(b);
	if (elf_is(&b->kernel))
		return load_elf(b, mb);
	if (mb >= 0 && load_le(b->kernel.data + mb + 4, 4) & BIT(16))
		return multiboot_load(b, mb);
	return not_a_kernel(b);
}

/* "BIOS Data Area": COM1's port, EBDA segment, KiB of base memory; first byte of the EBDA: its size in KiB. */
static int put_bios_data(struct boot *b)
{
	static const struct { u32 at; u16 value; } words[] = {
		{ 0x400, BOARD_COM1_PORT }, { 0x40e, BOARD_EBDA >> 4 }, { 0x413, BOARD_EBDA / 1024 }, { BOARD_EBDA, 1 },
	};
	int r = 0;

	for (unsigned i = 0; i < array_len(words) && !r; i++)
		r = boot_put(b, words[i].at, &words[i].value, 2);
	return r;
}

static int put_tables(struct boot *b)
{
	static const char *const what = "tables of the board";
	u8 *blob = malloc(BOARD_ACPI_SIZE);
	size_t n;
	int r;

	if (!blob)
		return boot_fail(b, ENOMEM, "%s: no host memory", what);
	n = acpi_build(&b->rq->board, BOARD_ACPI_BASE, blob, BOARD_ACPI_SIZE);
	bug_if(!n);
	r = boot_put(b, BOARD_ACPI_BASE, blob, n);
	b->rsdp = BOARD_ACPI_BASE;
	n = smbios_build(&b->rq->board, BOARD_SMBIOS_BASE, blob, BOARD_SMBIOS_SIZE);
	bug_if(!n);
	if (!r)
		r = boot_put(b, BOARD_SMBIOS_BASE, blob, n);
	free(blob);
	return r;
}

/* Of a bzImage only the header is wanted here. */
static int read_kernel(struct boot *b)
{
	int r = boot_file_read(b, &b->kernel, "kernel", BZIMAGE_HEAD);
	return r || bzimage_is(&b->kernel) ? r : boot_file_read(b, &b->kernel, "kernel", b->kernel.size);
}

int boot_load(const struct boot_request *rq, struct mem *m, struct cpu_arch *bsp, char *err, size_t errlen)
{
	struct boot b = { .rq = rq, .m = m, .cpu = bsp, .err = err, .errlen = errlen };
	int r;

	if (errlen)
		err[0] = 0;
	if (rq->board.ram < 2 * MiB)
		return boot_fail(&b, ENOMEM, "--memory: %llu KiB; a direct boot needs 2 MiB at least", (unsigned long long)rq->board.ram / 1024);
	r = boot_file_open(&b, &b.kernel, "kernel", rq->kernel);
	if (!r)
		r = read_kernel(&b);
	if (!r)
		r = boot_take(&b, 0, BOOT_GDT, "the BIOS data area");
	if (!r)
		r = boot_take(&b, BOARD_EBDA, MiB - BOARD_EBDA, "the BIOS area");
	if (!r)
		r = put_bios_data(&b);
	if (!r)
		r = put_tables(&b);
	if (!r)
		r = load_kernel(&b);
	if (!r)
		boot_cpu_setup(bsp, &rq->board);
	boot_file_free(&b.kernel);
	return r;
}
