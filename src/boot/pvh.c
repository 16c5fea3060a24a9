/* PVH: an ELF kernel with XEN_ELFNOTE_PHYS32_ENTRY, started in 32-bit protected mode with EBX = hvm_start_info
 * (Xen's "x86/HVM direct boot ABI"). */
#include "boot/boot_int.h"

#include <errno.h>

struct hvm_start_info {
	u32 magic, version, flags, nr_modules;
	u64 modlist_paddr, cmdline_paddr, rsdp_paddr, memmap_paddr;
	u32 memmap_entries, reserved;
};
struct hvm_modlist_entry { u64 paddr, size, cmdline_paddr, reserved; };
struct hvm_memmap_entry { u64 addr, size; u32 type, reserved; };

#define HVM_START_MAGIC 0x336ec578

/* All that the kernel gets besides its own segments, in one block of low memory. */
struct pvh_block {
	struct hvm_start_info info;
	struct hvm_modlist_entry module;
	struct hvm_memmap_entry map[E820_MAX];
};

static int place_module(struct boot *b, struct hvm_modlist_entry *mod)
{
	struct boot_file f;
	int r = boot_file_open(b, &f, "initrd", b->rq->initrd);

	if (r)
		return r;
	mod->size = f.size;
	r = boot_find(b, f.size, PAGE_SIZE, MiB, 4 * GiB, true, "initrd", &mod->paddr);
	if (!r)
		r = boot_file_put(b, &f, "initrd", 0, mod->paddr);
	boot_file_free(&f);
	return r;
}

static u32 copy_map(u64 ram, struct hvm_memmap_entry *to)
{
	struct e820_entry map[E820_MAX];
	unsigned n = e820_build(ram, E820_OS, map);

	for (unsigned i = 0; i < n; i++)
		to[i] = (struct hvm_memmap_entry){ map[i].addr, map[i].len, map[i].type, 0 };
	return n;
}

static bool entry_is_loaded(const struct elf *e, u64 entry)
{
	for (unsigned i = 0; i < e->nsegments; i++)
		if (e->seg[i].type == 1 && entry >= e->seg[i].paddr && entry - e->seg[i].paddr < e->seg[i].memsz)
			return true;
	return false;
}

static int place_block(struct boot *b, u64 *info)
{
	const char *text = b->rq->append ? b->rq->append : "";
	struct pvh_block k = { .info = { .magic = HVM_START_MAGIC, .version = 1, .rsdp_paddr = b->rsdp } };
	u64 at, len = strlen(text) + 1;
	int r = 0;

	if (len > 32 * KiB)
		return boot_fail(b, E2BIG, "--append: %llu bytes is more than 32 KiB", (unsigned long long)len);
	if (b->rq->initrd)
		r = place_module(b, &k.module);
	if (!r)
		r = boot_find(b, sizeof(k) + len, 16, 0x1000, BOARD_EBDA, false, "start information", &at);
	if (r)
		return r;
	k.info.nr_modules = b->rq->initrd ? 1 : 0;
	k.info.modlist_paddr = b->rq->initrd ? at + offsetof(struct pvh_block, module) : 0;
	k.info.cmdline_paddr = at + sizeof(k);
	k.info.memmap_paddr = at + offsetof(struct pvh_block, map);
	k.info.memmap_entries = copy_map(b->rq->board.ram, k.map);
	*info = at;
	r = boot_put(b, at, &k, sizeof(k));
	return r ? r : boot_put_string(b, at + sizeof(k), text);
}

int pvh_load(struct boot *b, const struct elf *e, u64 entry)
{
	u64 info = 0;
	int r;

	if (entry > ~0u || !entry_is_loaded(e, entry))
		return boot_fail(b, ENOEXEC, "kernel \"%s\": its PVH entry %llxh is in none of its segments; the file is damaged", b->kernel.path,
				 (unsigned long long)entry);
	r = elf_load(b, &b->kernel, e);
	if (!r)
		r = boot_enter_protected(b, entry);
	if (!r)
		r = place_block(b, &info);
	b->cpu->gpr[3] = info; /* EBX */
	return r;
}
