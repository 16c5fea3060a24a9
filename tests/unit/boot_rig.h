/* A machine with memory and one set of registers for the loaders, and kernel files made byte by byte. */
#ifndef NB_TEST_BOOT_RIG_H
#define NB_TEST_BOOT_RIG_H

#include "boot/boot.h"

#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>

struct boot_rig {
	struct mem mem;
	struct cpu_arch cpu;
	char err[256];
	u64 ram;
	const char *append, *initrd;
};

void rig_open(struct boot_rig *r, u64 ram);
void rig_close(struct boot_rig *r);
void rig_forget_files(void);
/* Loads the bytes as a kernel file; what boot_load says. */
int rig_load(struct boot_rig *r, const void *file, size_t size);
/* A file name for the bytes, valid until rig_close of any rig. */
const char *rig_file(const void *bytes, size_t size);
u64 rig_read(struct boot_rig *r, u64 at, unsigned size);
/* Loading failed with one line that contains `say`. */
void rig_expect_refused(struct boot_rig *r, int rc, const char *say);

/* ---- files ---- */
struct image { u8 data[64 * 1024]; size_t size; };
/* A bzImage that passes every check: protocol 2.15, 64-bit, relocatable, prefers 16 MiB, needs 1 MiB. */
void image_bzimage(struct image *f);
/* An ELF with one segment of `filesz` bytes at file offset 1000h and memory `paddr`, entry = paddr. */
void image_elf(struct image *f, bool is64, u64 paddr, u64 filesz, u64 memsz);
/* Adds a PT_NOTE with a PVH entry to image_elf's file. */
void image_add_pvh_note(struct image *f, u32 entry);
/* Writes a multiboot header at the offset. */
void image_add_multiboot(struct image *f, u32 at, u32 flags);
static inline void image_set(struct image *f, size_t at, u64 v, unsigned size) { store_le(f->data + at, v, size); }

#endif
