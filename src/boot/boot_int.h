/* Inside boot/: one load in progress. */
#ifndef NB_BOOT_INT_H
#define NB_BOOT_INT_H

#include "boot/boot.h"

struct boot_file {
	const char *path;
	u8 *data; /* NULL: not in host memory */
	size_t size, have; /* bytes; of them in data */
	int fd;
	bool keep; /* others close it */
};

struct boot_range { u64 at, size; const char *what; };
#define BOOT_MAX_RANGES 96
#define BOOT_MAX_MODULES 32

struct boot {
	const struct boot_request *rq;
	struct mem *m;
	struct cpu_arch *cpu;
	char *err;
	size_t errlen;
	struct boot_file kernel;
	u64 rsdp;
	struct boot_range used[BOOT_MAX_RANGES]; /* what lies where, in order of placing */
	unsigned nused;
};

/* Fixed low-memory places, all in the first 64 KiB, where every protocol leaves room. */
#define BOOT_GDT        0x500ull
#define BOOT_ZERO_PAGE  0x7000ull
#define BOOT_PAGE_TABLES 0x9000ull /* PML4, PDPT, four page directories */

/* ---- util.c ---- */
/* Writes the message and returns -err. */
int boot_fail(struct boot *b, int err, const char *fmt, ...) printf_like(3, 4);
/* Opens it, and says its size; `what` is "kernel" or "initrd". 0 or a failure. */
int boot_file_open(struct boot *b, struct boot_file *f, const char *what, const char *path);
/* f->data: its first `most` bytes; where there are more they are for the next call. f->size: how many the file turned out to have. */
int boot_file_read(struct boot *b, struct boot_file *f, const char *what, u64 most);
/* Copies what is from `off` on to guest memory that is reserved, without f->data. */
int boot_file_put(struct boot *b, struct boot_file *f, const char *what, u64 off, u64 at);
/* Also of one whose opening failed. */
void boot_file_free(struct boot_file *f);

/* ---- place.c ---- */
/* Reserves [at, at+size): must be RAM and free. */
int boot_take(struct boot *b, u64 at, u64 size, const char *what);
/* Reserves `size` bytes, `align`ed, in RAM within [lo, hi): the lowest, or with `high` the highest free place. */
int boot_find(struct boot *b, u64 size, u64 align, u64 lo, u64 hi, bool high, const char *what, u64 *at);
/* Copies into reserved memory. */
int boot_put(struct boot *b, u64 at, const void *data, u64 size);
int boot_zero(struct boot *b, u64 at, u64 size);
int boot_put_string(struct boot *b, u64 at, const char *s);

/* ---- regs.c ---- */
int boot_enter_long(struct boot *b, u64 rip, u64 boot_params);
int boot_enter_protected(struct boot *b, u32 eip);

/* ---- elf.c ---- */
struct elf_segment { u32 type; u64 off, vaddr, paddr, filesz, memsz; };
#define ELF_MAX_SEGMENTS 64
struct elf {
	bool is64;
	u64 entry;
	unsigned nsegments;
	struct elf_segment seg[ELF_MAX_SEGMENTS];
};
bool elf_is(const struct boot_file *f);
int elf_parse(struct boot *b, const struct boot_file *f, struct elf *e);
int elf_load(struct boot *b, const struct boot_file *f, const struct elf *e);
/* XEN_ELFNOTE_PHYS32_ENTRY. True when there is one. */
bool elf_pvh_entry(const struct boot_file *f, const struct elf *e, u64 *entry);

/* ---- one file per protocol ---- */
#define BZIMAGE_HEAD (64 * KiB) /* more than the setup header and what tells a kernel from other files */
bool bzimage_is(const struct boot_file *f);
int bzimage_load(struct boot *b);
int pvh_load(struct boot *b, const struct elf *e, u64 entry);
/* Offset of the multiboot-1 header in f, or -1. */
i64 multiboot_header(const struct boot_file *f);
int multiboot_load(struct boot *b, u32 header);

#endif
