/* ELF32 and ELF64 executables: checked program headers, loading by physical address, the PVH note. */
#include "boot/boot_int.h"

#include <elf.h>
#include <errno.h>

bool elf_is(const struct boot_file *f)
{
	return f->size >= EI_NIDENT && !memcmp(f->data, ELFMAG, SELFMAG);
}

static int bad(struct boot *b, const struct boot_file *f, const char *what, u64 value)
{
	return boot_fail(b, ENOEXEC, "kernel \"%s\": ELF %s %llxh is not usable; the file is damaged or no x86 kernel", f->path, what,
			 (unsigned long long)value);
}

static struct elf_segment segment32(const u8 *p)
{
	Elf32_Phdr h;

	memcpy(&h, p, sizeof(h));
	return (struct elf_segment){ h.p_type, h.p_offset, h.p_vaddr, h.p_paddr, h.p_filesz, h.p_memsz };
}

static struct elf_segment segment64(const u8 *p)
{
	Elf64_Phdr h;

	memcpy(&h, p, sizeof(h));
	return (struct elf_segment){ h.p_type, h.p_offset, h.p_vaddr, h.p_paddr, h.p_filesz, h.p_memsz };
}

static int parse_segments(struct boot *b, const struct boot_file *f, struct elf *e, u64 phoff, unsigned phnum, unsigned entsize)
{
	unsigned want = e->is64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr);

	if (phnum == 0 || phnum > ELF_MAX_SEGMENTS)
		return bad(b, f, "program header count", phnum);
	if (entsize != want)
		return bad(b, f, "program header size", entsize);
	if (phoff > f->size || (u64)phnum * want > f->size - phoff)
		return bad(b, f, "program header offset", phoff);
	for (unsigned i = 0; i < phnum; i++) {
		const u8 *p = f->data + phoff + (u64)i * want;
		struct elf_segment s = e->is64 ? segment64(p) : segment32(p);

		if (s.type != PT_LOAD && s.type != PT_NOTE)
			continue;
		if (s.off > f->size || s.filesz > f->size - s.off)
			return boot_fail(b, ENOEXEC, "kernel \"%s\": ELF segment %u needs bytes %llx-%llxh of a file of %zxh bytes; it is truncated",
					 f->path, i, (unsigned long long)s.off, (unsigned long long)(s.off + s.filesz), f->size);
		if (s.type == PT_LOAD && s.memsz < s.filesz)
			return bad(b, f, "segment memory size", s.memsz);
		if (s.paddr + s.memsz < s.paddr)
			return bad(b, f, "segment address", s.paddr);
		e->seg[e->nsegments++] = s;
	}
	return 0;
}

int elf_parse(struct boot *b, const struct boot_file *f, struct elf *e)
{
	union { Elf32_Ehdr h32; Elf64_Ehdr h64; } h;

	memset(e, 0, sizeof(*e));
	e->is64 = f->data[EI_CLASS] == ELFCLASS64;
	if ((!e->is64 && f->data[EI_CLASS] != ELFCLASS32) || f->data[EI_DATA] != ELFDATA2LSB)
		return bad(b, f, "class or byte order", f->data[EI_CLASS] << 8 | f->data[EI_DATA]);
	if (f->size < (e->is64 ? sizeof(h.h64) : sizeof(h.h32)))
		return bad(b, f, "file size", f->size);
	memset(&h, 0, sizeof(h));
	memcpy(&h, f->data, e->is64 ? sizeof(h.h64) : sizeof(h.h32));
	if (h.h32.e_machine != EM_386 && h.h32.e_machine != EM_X86_64) /* same place in both classes */
		return boot_fail(b, ENOEXEC, "kernel \"%s\": ELF machine %u is not x86; give an i386 or x86-64 kernel", f->path, h.h32.e_machine);
	if (h.h32.e_type != ET_EXEC && h.h32.e_type != ET_DYN)
		return bad(b, f, "type", h.h32.e_type);
	if (e->is64) {
		e->entry = h.h64.e_entry;
		return parse_segments(b, f, e, h.h64.e_phoff, h.h64.e_phnum, h.h64.e_phentsize);
	}
	e->entry = h.h32.e_entry;
	return parse_segments(b, f, e, h.h32.e_phoff, h.h32.e_phnum, h.h32.e_phentsize);
}

int elf_load(struct boot *b, const struct boot_file *f, const struct elf *e)
{
	unsigned loaded = 0;

	for (unsigned i = 0; i < e->nsegments; i++) {
		const struct elf_segment *s = &e->seg[i];
		int r;

		if (s->type != PT_LOAD || !s->memsz)
			continue;
		r = boot_take(b, s->paddr, s->memsz, "an ELF segment");
		if (!r)
			r = boot_put(b, s->paddr, f->data + s->off, s->filesz);
		if (!r)
			r = boot_zero(b, s->paddr + s->filesz, s->memsz - s->filesz);
		if (r)
			return r;
		loaded++;
	}
	return loaded ? 0 : bad(b, f, "count of loadable segments", 0);
}

/* Notes: {namesz, descsz, type} then name and descriptor, each padded to 4 bytes. */
static bool find_note(const u8 *p, u64 len, u64 *entry)
{
	enum { PHYS32_ENTRY = 18 };

	while (len >= sizeof(Elf64_Nhdr)) {
		Elf64_Nhdr n;
		u64 name, desc, total;

		memcpy(&n, p, sizeof(n));
		name = sizeof(n);
		desc = name + align_up(n.n_namesz, 4);
		total = desc + align_up(n.n_descsz, 4);
		if (desc + n.n_descsz > len)
			return false;
		if (n.n_type == PHYS32_ENTRY && n.n_namesz == 4 && !memcmp(p + name, "Xen", 4) && (n.n_descsz == 4 || n.n_descsz == 8)) {
			*entry = load_le(p + desc, n.n_descsz);
			return true;
		}
		if (total > len)
			return false;
		p += total;
		len -= total;
	}
	return false;
}

bool elf_pvh_entry(const struct boot_file *f, const struct elf *e, u64 *entry)
{
	for (unsigned i = 0; i < e->nsegments; i++)
		if (e->seg[i].type == PT_NOTE && find_note(f->data + e->seg[i].off, e->seg[i].filesz, entry))
			return true;
	return false;
}
