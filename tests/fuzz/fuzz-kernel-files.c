/* Kernel loaders on files that were good once: bzImage, ELF32 and ELF64 with PVH note or multiboot header, images with load addresses, modules with
 * arguments. A load works or is refused with one line; when it works, the tables of the board are as they were and the boot CPU is in the state that
 * the protocol names. */
#include "../unit/boot_rig.h"
#include "fuzz_input.h"

static void make(struct fuzz_input *in, struct image *f)
{
	u32 paddr = 0x100000 + ((u32)fuzz_take(in, 1) << 12);
	unsigned bytes = 64 + (unsigned)fuzz_take(in, 1) * 16;
	switch (fuzz_take(in, 1) % 7) {
	case 0: image_bzimage(f); break;
	case 1:
		image_bzimage(f);
		image_set(f, 0x236, 0, 2); /* 32-bit */
		break;
	case 2: image_elf(f, true, paddr, bytes, bytes + 4096); image_add_pvh_note(f, paddr); break;
	case 3: image_elf(f, false, paddr, bytes, bytes); image_add_pvh_note(f, paddr); break;
	case 4: image_elf(f, fuzz_take(in, 1) & 1, paddr, bytes, bytes); image_add_multiboot(f, 0x1000, 3); break;
	case 5: /* rubbish */
		memset(f, 0, sizeof *f);
		f->size = min_u64((u64)(in->end - in->p), sizeof f->data);
		memcpy(f->data, in->p, f->size);
		break;
	default:
		memset(f, 0, sizeof *f);
		f->size = 4096;
		image_add_multiboot(f, 0, 0x10003);
		for (unsigned i = 0; i < 5; i++)
			image_set(f, 12 + 4 * i, paddr + (i == 2 ? bytes : i == 3 ? 2 * bytes : 0), 4);
	}
}

/* Headers get most of it. */
static void mutate(struct fuzz_input *in, struct image *f)
{
	static const u64 edges[] = { 0, 1, 0x7f, 0xff, 0x1000, 0xffff, 0x9fc00, 0x100000, 0x7fffffff, 0x80000000, 0xfffffff0, 0xffffffff, 0x7fffffffffffffff, ~(u64)0 };
	for (unsigned n = (unsigned)fuzz_take(in, 1) % 6; n; n--) {
		unsigned how = (unsigned)fuzz_take(in, 1), size = fuzz_size(in);
		size_t at = how & 3 ? (how & 4 ? 0x1f0 : how & 8 ? 0x800 : 0) + fuzz_take(in, 1) : fuzz_take(in, 2) % sizeof f->data;
		u64 v = how & 16 ? edges[fuzz_take(in, 1) % array_len(edges)] : fuzz_take(in, size);
		if (at + size <= sizeof f->data)
			image_set(f, at, v, size);
	}
	unsigned cut = (unsigned)fuzz_take(in, 1);
	if (cut > 240)
		f->size = fuzz_take(in, 2) % (f->size + 1);
	if (!f->size)
		f->size = 1;
}

static void check_checksum(struct boot_rig *r, u64 at, unsigned n)
{
	u8 sum = 0;
	for (unsigned i = 0; i < n; i++)
		sum = (u8)(sum + rig_read(r, at + i, 1));
	bug_if(sum);
}

static void check_loaded(struct boot_rig *r)
{
	check_checksum(r, BOARD_ACPI_BASE, 36);
	u64 xsdt = rig_read(r, BOARD_ACPI_BASE + 24, 8);
	check_checksum(r, xsdt, (unsigned)rig_read(r, xsdt + 4, 4));
	bug_if(!(r->cpu.cr0 & CR0_PE) || r->cpu.cpl || r->cpu.rip >> 32);
	bug_if(!(r->cpu.efer & EFER_LMA) != !(r->cpu.cr0 & CR0_PG) || r->cpu.gpr[GPR_ZERO]);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	static struct image f;
	struct fuzz_input in = { data, data + size };
	static const u8 megabytes[] = { 2, 8, 20, 33 };
	struct boot_rig r;
	char modules[512], append[64];
	rig_open(&r, megabytes[fuzz_take(&in, 1) % array_len(megabytes)] * MiB);
	unsigned with = (unsigned)fuzz_take(&in, 1);
	if (with & 3) {
		const char *a = rig_file(data, size ? size : 1), *b = with & 4 ? a : "/nonexistent";
		snprintf(modules, sizeof modules, with & 8 ? "%s x y,%s,,z,%s" : "%s", a, with & 16 ? a : "", b);
		r.initrd = modules;
	}
	for (unsigned i = 0; i < sizeof append; i++)
		append[i] = (char)(fuzz_take(&in, 1) | 1);
	append[sizeof append - 1 - (with >> 2)] = 0;
	r.append = with & 32 ? append : NULL;
	make(&in, &f);
	mutate(&in, &f);
	int rc = rig_load(&r, f.data, f.size);
	bug_if(rc > 0 || (rc < 0 && !r.err[0]) || strchr(r.err, '\n'));
	if (!rc)
		check_loaded(&r);
	rig_close(&r);
	return 0;
}
