/* Linux bzImage, by the 64-bit boot protocol ("The Linux/x86 Boot Protocol" in the kernel's documentation); a 32-bit kernel by the
 * 32-bit one. The real-mode part of the file is never run. */
#include "boot/boot_int.h"

#include <asm/bootparam.h>
#include <errno.h>

#define HDR_OFFSET   0x1f1
#define HDR_MAGIC    0x53726448 /* "HdrS" */
#define MIN_VERSION  0x020a     /* init_size and pref_address exist from here */
#define XLF_VERSION  0x020c     /* xloadflags from here */
#define ENTRY_64     0x200

struct bzimage {
	struct setup_header hdr;
	u64 code, code_size; /* protected-mode part: place in the file, bytes */
	u64 load;
	u64 footprint;  /* bytes from load that the kernel uses before it reads the memory map */
	bool long_mode;
};

bool bzimage_is(const struct boot_file *f)
{
	return f->size >= 0x206 && load_le(f->data + 0x1fe, 2) == 0xaa55 && load_le(f->data + 0x202, 4) == HDR_MAGIC;
}

static void read_header(const struct boot_file *f, struct setup_header *h)
{
	/* The byte at 201h is a jump's displacement: the header ends where the jump lands. */
	u64 end = 0x202 + f->data[0x201], n = min_u64(end, f->size) - HDR_OFFSET;

	memset(h, 0, sizeof(*h));
	memcpy(h, f->data + HDR_OFFSET, min_u64(n, sizeof(*h)));
}

static int check_header(struct boot *b, struct bzimage *z)
{
	const struct boot_file *f = &b->kernel;
	struct setup_header *h = &z->hdr;
	u64 setup = ((h->setup_sects ? h->setup_sects : 4) + 1) * 512, want = (u64)h->syssize * 16;

	if (h->version < MIN_VERSION)
		return boot_fail(b, ENOEXEC, "kernel \"%s\": boot protocol %u.%02u is too old; 2.10 (Linux 2.6.31) is the least",
				 f->path, h->version >> 8, h->version & 0xff);
	if (!(h->loadflags & LOADED_HIGH))
		return boot_fail(b, ENOEXEC, "kernel \"%s\": is a zImage (loadflags %02xh); build a bzImage", f->path, h->loadflags);
	if (setup >= f->size)
		return boot_fail(b, ENOEXEC, "kernel \"%s\": %zu bytes, but its setup part alone has %llu; the file is truncated",
				 f->path, f->size, (unsigned long long)setup);
	z->code = setup;
	z->code_size = f->size - setup;
	/* syssize counts 16-byte units and may round up past the end. */
	if (want > z->code_size + 15)
		return boot_fail(b, ENOEXEC, "kernel \"%s\": the header promises %llu bytes of kernel, the file has %llu; it is truncated",
				 f->path, (unsigned long long)want, (unsigned long long)z->code_size);
	z->long_mode = h->version >= XLF_VERSION && (h->xloadflags & XLF_KERNEL_64);
	if (z->long_mode && z->code_size <= ENTRY_64)
		return boot_fail(b, ENOEXEC, "kernel \"%s\": no code at its 64-bit entry point; the file is truncated", f->path);
	z->footprint = max_u64(h->init_size, z->code_size);
	return 0;
}

static int place_code(struct boot *b, struct bzimage *z)
{
	const struct setup_header *h = &z->hdr;
	u64 align = h->kernel_alignment, pref = h->pref_address;
	int r;

	if (!h->relocatable_kernel) {
		z->load = z->long_mode && pref ? pref : h->code32_start;
		return boot_take(b, z->load, z->footprint, "the kernel");
	}
	if (align < PAGE_SIZE || align > GiB || (align & (align - 1)))
		return boot_fail(b, ENOEXEC, "kernel \"%s\": alignment %llxh is not a sensible power of two; the file is damaged", b->kernel.path,
				 (unsigned long long)align);
	/* At the preferred address if RAM reaches that far, else as low as it goes. */
	r = boot_find(b, z->footprint, align, pref >= MiB && pref < 4 * GiB ? pref : MiB, 4 * GiB, false, "kernel", &z->load);
	if (r)
		r = boot_find(b, z->footprint, align, MiB, 4 * GiB, false, "kernel", &z->load);
	if (r)
		return boot_fail(b, ENOMEM, "kernel \"%s\": needs %llu MiB of RAM while it starts, the VM has %llu MiB; give more --memory",
				 b->kernel.path, (unsigned long long)(z->footprint + MiB - 1) / MiB + 1, (unsigned long long)(b->rq->board.ram / MiB));
	return 0;
}

static int place_initrd(struct boot *b, const struct bzimage *z, struct boot_params *bp)
{
	struct boot_file f;
	u64 at, top = (u64)z->hdr.initrd_addr_max + 1;
	int r;

	if (!b->rq->initrd)
		return 0;
	r = boot_file_open(b, &f, "initrd", b->rq->initrd);
	if (r)
		return r;
	if (z->hdr.version >= XLF_VERSION && (z->hdr.xloadflags & XLF_CAN_BE_LOADED_ABOVE_4G))
		top = 4 * GiB;
	r = boot_find(b, f.size, PAGE_SIZE, MiB, top, true, "initrd", &at);
	if (!r)
		r = boot_file_put(b, &f, "initrd", 0, at);
	bp->hdr.ramdisk_image = at;
	bp->hdr.ramdisk_size = f.size;
	boot_file_free(&f);
	return r;
}

static int place_cmdline(struct boot *b, const struct bzimage *z, struct boot_params *bp)
{
	const char *text = b->rq->append ? b->rq->append : "";
	u64 at, len = strlen(text), max = z->hdr.cmdline_size ? z->hdr.cmdline_size : 255;
	int r;

	if (len > max)
		return boot_fail(b, E2BIG, "--append: %llu bytes, but kernel \"%s\" takes at most %llu", (unsigned long long)len, b->kernel.path,
				 (unsigned long long)max);
	r = boot_find(b, len + 1, 16, 0x10000, BOARD_EBDA, false, "command line", &at);
	bp->hdr.cmd_line_ptr = at;
	return r ? r : boot_put_string(b, at, text);
}

static void fill_memory_map(const struct boot *b, struct boot_params *bp)
{
	struct e820_entry map[E820_MAX];

	bp->e820_entries = e820_build(b->rq->board.ram, E820_OS, map);
	memcpy(bp->e820_table, map, bp->e820_entries * sizeof(map[0]));
	bp->acpi_rsdp_addr = b->rsdp;
}

int bzimage_load(struct boot *b)
{
	struct boot_params bp;
	struct bzimage z;
	int r;

	read_header(&b->kernel, &z.hdr);
	r = check_header(b, &z);
	if (!r)
		r = boot_take(b, BOOT_ZERO_PAGE, PAGE_SIZE, "the zero page");
	/* Taken before the kernel so that a hostile load address hits them and not the other way round. */
	if (!r)
		r = place_code(b, &z);
	if (!r)
		r = boot_file_put(b, &b->kernel, "kernel", z.code, z.load);
	memset(&bp, 0, sizeof(bp));
	bp.hdr = z.hdr;
	if (!r)
		r = place_initrd(b, &z, &bp);
	if (!r)
		r = place_cmdline(b, &z, &bp);
	if (r)
		return r;
	bp.hdr.type_of_loader = 0xff;
	bp.hdr.code32_start = z.load;
	fill_memory_map(b, &bp);
	r = boot_put(b, BOOT_ZERO_PAGE, &bp, sizeof(bp));
	if (r)
		return r;
	if (z.long_mode)
		return boot_enter_long(b, z.load + ENTRY_64, BOOT_ZERO_PAGE);
	r = boot_enter_protected(b, z.load);
	b->cpu->gpr[6] = BOOT_ZERO_PAGE; /* ESI */
	return r;
}
