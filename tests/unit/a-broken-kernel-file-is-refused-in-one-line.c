#include "boot_rig.h"

#include <errno.h>

static struct boot_rig r;
static struct image f;

struct bad { const char *name; size_t at; u64 value; unsigned size; const char *say; };

static const struct bad bad_bzimages[] = {
	{ "old protocol", 0x206, 0x0204, 2, "protocol 2.04 is too old" },
	{ "zImage", 0x211, 0, 1, "is a zImage" },
	{ "setup bigger than the file", 0x1f1, 64, 1, "truncated" },
	{ "promises more code than the file has", 0x1f4, 0x100000, 4, "truncated" },
	{ "alignment is no power of two", 0x230, 0x300000, 4, "alignment 300000h" },
	{ "alignment zero", 0x230, 0, 4, "alignment 0h" },
	{ "wants more memory than there is", 0x260, 0xfffffff0, 4, "give more --memory" },
};

static const struct bad bad_elf64s[] = {
	{ "no program headers", 56, 0, 2, "program header count" },
	{ "too many program headers", 56, 0xffff, 2, "program header count" },
	{ "strange program header size", 54, 57, 2, "program header size" },
	{ "program headers past the end", 32, 0xfffffffffffffff0, 8, "program header offset" },
	{ "segment past the end of the file", 64 + 8, 0x2001, 8, "truncated" },
	{ "segment offset wraps", 64 + 8, 0xffffffffffffff00, 8, "truncated" },
	{ "memory size below file size", 64 + 40, 1, 8, "segment memory size" },
	{ "segment address wraps", 64 + 24, 0xffffffffffffff00, 8, "segment address" },
	{ "segment above RAM", 64 + 24, 0x40000000, 8, "is in none of its segments" },
	{ "segment over the BIOS area", 64 + 24, 0xffff0, 8, "is in none of its segments" },
	{ "another machine", 18, 183, 2, "machine 183 is not x86" },
	{ "big-endian", 5, 2, 1, "class or byte order" },
	{ "a shared object's type", 16, 1, 2, "ELF type" },
	{ "PVH entry outside", 0x800 + 16, 0x500000, 4, "PVH entry 500000h" },
};

static void run(const struct bad *b, void (*make)(void))
{
	rig_open(&r, 64 * MiB);
	make();
	image_set(&f, b->at, b->value, b->size);
	rig_expect_refused(&r, rig_load(&r, f.data, f.size), b->say);
	rig_close(&r);
}

static void make_bzimage(void)
{
	image_bzimage(&f);
}

static void make_pvh(void)
{
	image_elf(&f, true, 0x1000000, 0x1000, 0x1000);
	image_add_pvh_note(&f, 0x1000000);
}

static void a_bzimage_with_one_wrong_field(void **state)
{
	for (unsigned i = 0; i < array_len(bad_bzimages); i++)
		run(&bad_bzimages[i], make_bzimage);
}

static void an_elf_with_one_wrong_field(void **state)
{
	for (unsigned i = 0; i < array_len(bad_elf64s); i++)
		run(&bad_elf64s[i], make_pvh);
}

static void what_is_no_kernel_is_named(void **state)
{
	static const struct { const char *bytes; unsigned n; const char *say; } files[] = {
		{ "hello, world", 12, "not a kernel (12 bytes" },
		{ "\x1f\x8b\x08", 3, "gzip" },
		{ "070701", 6, "swapped" },
		{ "#!/bin/sh\n", 10, "script" },
		{ "QFI\xfb", 4, "--disk" },
		{ "\x7f" "ELF", 4, "not a kernel" },
		{ "\x7f" "ELF\2\1\1\0\0\0\0\0\0\0\0\0", 16, "file size" },
		{ "MZ", 2, "PE image" },
	};

	for (unsigned i = 0; i < array_len(files); i++) {
		rig_open(&r, 16 * MiB);
		rig_expect_refused(&r, rig_load(&r, files[i].bytes, files[i].n), files[i].say);
		rig_close(&r);
	}
}

static void an_elf_program_is_no_kernel(void **state)
{
	rig_open(&r, 64 * MiB);
	image_elf(&f, true, 0x400000, 0x1000, 0x1000);
	rig_expect_refused(&r, rig_load(&r, f.data, f.size), "neither a PVH note nor a multiboot header");
	rig_close(&r);
}

static void missing_empty_and_special_files(void **state)
{
	static const struct { const char *path, *say; } files[] = {
		{ "/nonexistent/kernel", "No such file" }, { "/", "is a directory" }, { "/dev/null", "regular file" },
	};
	struct boot_request rq = { .board = { .ncpus = 1, .ram = 16 * MiB } };

	rig_open(&r, 16 * MiB);
	for (unsigned i = 0; i < array_len(files); i++) {
		rq.kernel = files[i].path;
		rig_expect_refused(&r, boot_load(&rq, &r.mem, &r.cpu, r.err, sizeof(r.err)), files[i].say);
	}
	rq.kernel = rig_file("", 0);
	rig_expect_refused(&r, boot_load(&rq, &r.mem, &r.cpu, r.err, sizeof(r.err)), "empty");
	rig_close(&r);
}

static void an_initrd_that_is_missing_or_too_big(void **state)
{
	static u8 big[20 * 1024 * 1024];

	rig_open(&r, 32 * MiB);
	make_bzimage();
	r.initrd = "/nonexistent/initrd";
	rig_expect_refused(&r, rig_load(&r, f.data, f.size), "No such file");
	r.initrd = rig_file(big, sizeof(big));
	rig_expect_refused(&r, rig_load(&r, f.data, f.size), "do not fit");
	rig_close(&r);
}

static void a_command_line_longer_than_the_kernel_takes(void **state)
{
	static char text[5000];

	rig_open(&r, 32 * MiB);
	make_bzimage();
	memset(text, 'x', sizeof(text) - 1);
	r.append = text;
	rig_expect_refused(&r, rig_load(&r, f.data, f.size), "takes at most 2047");
	rig_close(&r);
}

static void a_multiboot_kernel_may_not_overwrite_our_tables(void **state)
{
	static const u64 at[] = { 0x0, 0x500, 0x9fc00, 0xe0000, 0xfffff };

	for (unsigned i = 0; i < array_len(at); i++) {
		rig_open(&r, 32 * MiB);
		image_elf(&f, false, at[i], 0x100, 0x100);
		image_add_multiboot(&f, 0x1000, 0);
		rig_expect_refused(&r, rig_load(&r, f.data, f.size), "would overwrite");
		rig_close(&r);
	}
}

static void two_segments_may_not_overlap(void **state)
{
	rig_open(&r, 32 * MiB);
	make_pvh();
	memcpy(f.data + 64 + 56, f.data + 64, 56); /* the note's header becomes a second copy of the segment */
	image_add_multiboot(&f, 0x1000, 0);
	rig_expect_refused(&r, rig_load(&r, f.data, f.size), "would overwrite an ELF segment");
	rig_close(&r);
}

static void multiboot_features_that_we_lack(void **state)
{
	rig_open(&r, 32 * MiB);
	image_elf(&f, false, 0x400000, 0x100, 0x100);
	image_add_multiboot(&f, 0x1000, BIT(9));
	rig_expect_refused(&r, rig_load(&r, f.data, f.size), "features 200h");
	rig_close(&r);
}

/* Any byte of the headers set to anything: a load or one line, never a crash (run under sanitizers too). */
static void random_header_bytes_never_crash(void **state)
{
	static void (*const make[])(void) = { make_bzimage, make_pvh };
	u64 seed = 88172645463325252;

	rig_open(&r, 32 * MiB);
	for (unsigned i = 0; i < 20000; i++) {
		int rc;

		make[i & 1]();
		for (unsigned n = 0; n < 1 + i % 3; n++) {
			seed ^= seed << 13;
			seed ^= seed >> 7;
			seed ^= seed << 17;
			f.data[(i & 1 ? 0 : 0x1f1) + seed % 0x90 + (seed >> 20 & 1 && i & 1 ? 0x7f0 : 0)] = seed >> 32;
		}
		rc = rig_load(&r, f.data, f.size);
		assert_true(rc <= 0);
		assert_true(rc == 0 || r.err[0]);
		rig_forget_files();
	}
	rig_close(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_bzimage_with_one_wrong_field),
		cmocka_unit_test(an_elf_with_one_wrong_field),
		cmocka_unit_test(what_is_no_kernel_is_named),
		cmocka_unit_test(an_elf_program_is_no_kernel),
		cmocka_unit_test(missing_empty_and_special_files),
		cmocka_unit_test(an_initrd_that_is_missing_or_too_big),
		cmocka_unit_test(a_command_line_longer_than_the_kernel_takes),
		cmocka_unit_test(a_multiboot_kernel_may_not_overwrite_our_tables),
		cmocka_unit_test(two_segments_may_not_overlap),
		cmocka_unit_test(multiboot_features_that_we_lack),
		cmocka_unit_test(random_header_bytes_never_crash),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
