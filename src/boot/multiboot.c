/* Multiboot 1 ("Multiboot Specification version 0.6.96"): ELF32, ELF64 by the same rules, and the header's own load addresses
 * (flag 16). Started in 32-bit protected mode with EAX = 2BADB002h, EBX = information structure. */
#include "boot/boot_int.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define HEADER_MAGIC 0x1badb002
#define LOADER_MAGIC 0x2badb002
#define SEARCH_BYTES 8192
#define FLAG_MUST_UNDERSTAND 0xffff
#define FLAG_PAGE_ALIGN BIT(0)
#define FLAG_MEMORY     BIT(1)
#define FLAG_VIDEO      BIT(2)  /* a wish: we have no screen, and say so by leaving the video fields out */
#define FLAG_ADDRESSES  BIT(16)
#define MBI_FLAGS       (BIT(0) | BIT(2) | BIT(3) | BIT(6) | BIT(9)) /* memory, command line, modules, map, loader name */

struct mb_header { u32 magic, flags, checksum, header_addr, load_addr, load_end, bss_end, entry; };
struct mb_info {
	u32 flags, mem_lower, mem_upper, boot_device, cmdline, mods_count, mods_addr, syms[4], mmap_length, mmap_addr;
	u32 drives_length, drives_addr, config_table, boot_loader_name, apm_table, vbe[6];
};
struct mb_module { u32 start, end, string, reserved; };
struct mb_mmap { u32 size; u64 addr, len; u32 type; } __attribute__((packed));

/* Kept away from what test kernels use for themselves: page 0, 1000h-3000h, 8000h-E000h. */
#define LOW_FIRST 0x10000
/* kvm-unit-tests images and their stacks end below this. */
#define MODULES_FIRST (20 * MiB)

struct mb_modules {
	char *list;                       /* the --initrd argument, cut into strings */
	char *string[BOOT_MAX_MODULES];   /* "file args" */
	struct mb_module entry[BOOT_MAX_MODULES];
	unsigned n;
};

i64 multiboot_header(const struct boot_file *f)
{
	u64 end = min_u64(f->size, SEARCH_BYTES);

	for (u64 at = 0; at + 12 <= end; at += 4) {
		const u8 *p = f->data + at;

		if (load_le(p, 4) == HEADER_MAGIC && !(u32)(HEADER_MAGIC + load_le(p + 4, 4) + load_le(p + 8, 4)))
			return at;
	}
	return -1;
}

/* ---- the image ---- */
static int load_by_addresses(struct boot *b, u32 at, u32 *entry)
{
	const struct boot_file *f = &b->kernel;
	struct mb_header h;
	u64 off, len, bss;
	int r;

	if (at + sizeof(h) > f->size)
		return boot_fail(b, ENOEXEC, "kernel \"%s\": its multiboot header is cut off at the end of the file", f->path);
	memcpy(&h, f->data + at, sizeof(h));
	if (h.header_addr < h.load_addr || h.header_addr - h.load_addr > at)
		return boot_fail(b, ENOEXEC, "kernel \"%s\": multiboot load address %xh does not fit header address %xh", f->path, h.load_addr,
				 h.header_addr);
	off = at - (h.header_addr - h.load_addr);
	len = h.load_end ? (u64)h.load_end - h.load_addr : f->size - off;
	if ((h.load_end && h.load_end < h.load_addr) || len > f->size - off)
		return boot_fail(b, ENOEXEC, "kernel \"%s\": multiboot load end %xh lies past the end of the file", f->path, h.load_end);
	bss = h.bss_end > h.load_addr + len ? h.bss_end - (h.load_addr + len) : 0;
	*entry = h.entry;
	r = boot_take(b, h.load_addr, len + bss, "the kernel");
	if (!r)
		r = boot_put(b, h.load_addr, f->data + off, len);
	return r ? r : boot_zero(b, h.load_addr + len, bss);
}

/* e_entry is virtual: through the segment that holds it to the physical address where that was loaded. */
static int load_elf(struct boot *b, u32 *entry)
{
	struct elf e;
	int r = elf_parse(b, &b->kernel, &e);
	u64 at;

	if (!r)
		r = elf_load(b, &b->kernel, &e);
	if (r)
		return r;
	at = e.entry;
	for (unsigned i = 0; i < e.nsegments; i++) {
		const struct elf_segment *s = &e.seg[i];

		if (s->type == 1 && e.entry >= s->vaddr && e.entry - s->vaddr < s->memsz) {
			at = e.entry - s->vaddr + s->paddr;
			break;
		}
	}
	if (at > ~0u)
		return boot_fail(b, ENOEXEC, "kernel \"%s\": ELF entry %llxh is above 4 GiB", b->kernel.path, (unsigned long long)at);
	*entry = at;
	return 0;
}

/* ---- modules ---- */
/* "a x,b" -> "a x" "b"; ",," is one comma of a name. */
static int split_modules(struct boot *b, struct mb_modules *m)
{
	const char *from = b->rq->initrd;
	char *to;

	if (!from)
		return 0;
	m->list = malloc(strlen(from) + 1);
	if (!m->list)
		return boot_fail(b, ENOMEM, "--initrd: no host memory");
	to = m->list;
	while (*from) {
		if (m->n == BOOT_MAX_MODULES)
			return boot_fail(b, E2BIG, "--initrd: more than %d modules", BOOT_MAX_MODULES);
		m->string[m->n++] = to;
		while (*from && (*from != ',' || from[1] == ',')) {
			from += *from == ',';
			*to++ = *from++;
		}
		*to++ = 0;
		if (*from && !*++from)
			break;
	}
	return 0;
}

static int load_module(struct boot *b, struct mb_modules *m, unsigned i)
{
	char *name = strndup(m->string[i], strcspn(m->string[i], " "));
	struct boot_file f;
	u64 at = 0, lo = MODULES_FIRST;
	int r;

	if (!name)
		return boot_fail(b, ENOMEM, "--initrd: no host memory");
	r = boot_file_open(b, &f, "module", name);
	if (!r) {
		if (boot_find(b, f.size, PAGE_SIZE, lo, 4 * GiB, false, "module", &at))
			r = boot_find(b, f.size, PAGE_SIZE, MiB, 4 * GiB, false, "module", &at);
		if (!r)
			r = boot_file_put(b, &f, "module", 0, at);
		m->entry[i].start = at;
		m->entry[i].end = at + f.size;
		boot_file_free(&f);
	}
	free(name);
	return r;
}

/* ---- the information structure ---- */
static int put_low_string(struct boot *b, const char *s, u32 *at)
{
	u64 where = 0;
	int r = boot_find(b, strlen(s) + 1, 4, LOW_FIRST, BOARD_EBDA, false, "command line", &where);

	*at = where;
	return r ? r : boot_put_string(b, where, s);
}

static int put_low(struct boot *b, const void *data, u64 size, u32 *at)
{
	u64 where = 0;
	int r = boot_find(b, size, 16, LOW_FIRST, BOARD_EBDA, false, "multiboot information", &where);

	*at = where;
	return r ? r : boot_put(b, where, data, size);
}

static int put_cmdline(struct boot *b, u32 *at)
{
	const char *name = strrchr(b->kernel.path, '/'), *args = b->rq->append ? b->rq->append : "";
	char *text;
	int r;

	name = name ? name + 1 : b->kernel.path;
	if (asprintf(&text, "%s%s%s", name, *args ? " " : "", args) < 0)
		return boot_fail(b, ENOMEM, "--append: no host memory");
	r = put_low_string(b, text, at);
	free(text);
	return r;
}

static int put_mmap(struct boot *b, struct mb_info *info)
{
	struct e820_entry map[E820_MAX];
	struct mb_mmap mm[E820_MAX];
	unsigned n = e820_build(b->rq->board.ram, E820_OS, map);

	for (unsigned i = 0; i < n; i++)
		mm[i] = (struct mb_mmap){ sizeof(mm[i]) - 4, map[i].addr, map[i].len, map[i].type };
	info->mmap_length = n * sizeof(mm[0]);
	return put_low(b, mm, info->mmap_length, &info->mmap_addr);
}

static int put_info(struct boot *b, struct mb_modules *m, u32 *at)
{
	struct mb_info info = { .flags = MBI_FLAGS, .mem_lower = BOARD_EBDA / 1024 };
	int r = 0;

	info.mem_upper = board_low_ram(b->rq->board.ram) / 1024 - 1024;
	info.mods_count = m->n;
	for (unsigned i = 0; i < m->n && !r; i++)
		r = load_module(b, m, i);
	for (unsigned i = 0; i < m->n && !r; i++)
		r = put_low_string(b, m->string[i], &m->entry[i].string);
	if (!r && m->n)
		r = put_low(b, m->entry, m->n * sizeof(m->entry[0]), &info.mods_addr);
	if (!r)
		r = put_cmdline(b, &info.cmdline);
	if (!r)
		r = put_low_string(b, "nestbox", &info.boot_loader_name);
	if (!r)
		r = put_mmap(b, &info);
	return r ? r : put_low(b, &info, sizeof(info), at);
}

int multiboot_load(struct boot *b, u32 header)
{
	u32 flags = load_le(b->kernel.data + header + 4, 4), entry = 0, info = 0;
	u32 unknown = flags & FLAG_MUST_UNDERSTAND & ~(u32)(FLAG_PAGE_ALIGN | FLAG_MEMORY | FLAG_VIDEO);
	struct mb_modules m = { 0 };
	int r;

	if (unknown)
		return boot_fail(b, ENOEXEC, "kernel \"%s\": asks for multiboot features %xh that we do not have", b->kernel.path, unknown);
	r = flags & FLAG_ADDRESSES && !elf_is(&b->kernel) ? load_by_addresses(b, header, &entry) : load_elf(b, &entry);
	if (!r)
		r = split_modules(b, &m);
	if (!r)
		r = put_info(b, &m, &info);
	free(m.list);
	if (!r)
		r = boot_enter_protected(b, entry);
	b->cpu->gpr[0] = LOADER_MAGIC;
	b->cpu->gpr[3] = info;
	return r;
}
