#include "boot_rig.h"

#include <elf.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

static int fds[32];
static char names[32][64];
static unsigned nfds;

void rig_open(struct boot_rig *r, u64 ram)
{
	u64 low = board_low_ram(ram), high = board_high_ram(ram);

	memset(r, 0, sizeof(*r));
	r->ram = ram;
	assert_int_equal(mem_init(&r->mem, ram), 0);
	assert_int_equal(mem_add_slot(&r->mem, gpa(0), low, MEM_RAM, "low"), 0);
	if (high)
		assert_int_equal(mem_add_slot(&r->mem, gpa(4 * GiB), high, MEM_RAM, "high"), 0);
}

void rig_forget_files(void)
{
	while (nfds)
		close(fds[--nfds]);
}

void rig_close(struct boot_rig *r)
{
	mem_free(&r->mem);
	rig_forget_files();
}

const char *rig_file(const void *bytes, size_t size)
{
	int fd = memfd_create("kernel", MFD_CLOEXEC);

	assert_true(fd >= 0 && nfds < array_len(fds));
	assert_int_equal(write(fd, bytes, size), size);
	fds[nfds] = fd;
	snprintf(names[nfds], sizeof(names[0]), "/proc/self/fd/%d", fd);
	return names[nfds++];
}

int rig_load(struct boot_rig *r, const void *file, size_t size)
{
	const struct boot_request rq = { .kernel = rig_file(file, size), .initrd = r->initrd, .append = r->append,
					 .board = { .ncpus = 1, .phys_bits = 40, .ram = r->ram } };

	return boot_load(&rq, &r->mem, &r->cpu, r->err, sizeof(r->err));
}

u64 rig_read(struct boot_rig *r, u64 at, unsigned size)
{
	return mem_read_le(&r->mem, gpa(at), size);
}

void rig_expect_refused(struct boot_rig *r, int rc, const char *say)
{
	if (rc >= 0 || !strstr(r->err, say))
		print_message("rc %d, said: %s\n", rc, r->err);
	assert_true(rc < 0);
	assert_non_null(strstr(r->err, say));
	assert_null(strchr(r->err, '\n'));
}

void image_bzimage(struct image *f)
{
	memset(f, 0, sizeof(*f));
	f->size = 1024 + 8192;
	image_set(f, 0x1f1, 1, 1);              /* setup_sects */
	image_set(f, 0x1f4, 8192 / 16, 4);      /* syssize */
	image_set(f, 0x1fe, 0xaa55, 2);
	image_set(f, 0x200, 0x6aeb, 2);         /* jmp +6Ah: header ends at 26Ch */
	image_set(f, 0x202, 0x53726448, 4);
	image_set(f, 0x206, 0x020f, 2);
	image_set(f, 0x211, 1, 1);              /* loadflags: LOADED_HIGH */
	image_set(f, 0x214, 0x100000, 4);
	image_set(f, 0x22c, 0x7fffffff, 4);     /* initrd_addr_max */
	image_set(f, 0x230, 0x200000, 4);       /* alignment */
	image_set(f, 0x234, 1, 1);              /* relocatable */
	image_set(f, 0x236, 0x7f, 2);           /* xloadflags */
	image_set(f, 0x238, 2047, 4);           /* cmdline_size */
	image_set(f, 0x258, 0x1000000, 8);      /* pref_address */
	image_set(f, 0x260, 0x100000, 4);       /* init_size */
	memset(f->data + 1024, 0x90, 8192);
}

void image_elf(struct image *f, bool is64, u64 paddr, u64 filesz, u64 memsz)
{
	memset(f, 0, sizeof(*f));
	if (is64) {
		const Elf64_Ehdr h = { .e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, 1 }, .e_type = ET_EXEC, .e_machine = EM_X86_64,
				       .e_entry = paddr, .e_phoff = 64, .e_phentsize = sizeof(Elf64_Phdr), .e_phnum = 1 };
		const Elf64_Phdr p = { .p_type = PT_LOAD, .p_offset = 0x1000, .p_vaddr = paddr, .p_paddr = paddr, .p_filesz = filesz,
				       .p_memsz = memsz };

		memcpy(f->data, &h, sizeof(h));
		memcpy(f->data + 64, &p, sizeof(p));
	} else {
		const Elf32_Ehdr h = { .e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS32, ELFDATA2LSB, 1 }, .e_type = ET_EXEC, .e_machine = EM_386,
				       .e_entry = paddr, .e_phoff = 64, .e_phentsize = sizeof(Elf32_Phdr), .e_phnum = 1 };
		const Elf32_Phdr p = { .p_type = PT_LOAD, .p_offset = 0x1000, .p_vaddr = paddr, .p_paddr = paddr, .p_filesz = filesz,
				       .p_memsz = memsz };

		memcpy(f->data, &h, sizeof(h));
		memcpy(f->data + 64, &p, sizeof(p));
	}
	f->size = 0x1000 + filesz;
	memset(f->data + 0x1000, 0xf4, filesz);
}

void image_add_pvh_note(struct image *f, u32 entry)
{
	bool is64 = f->data[EI_CLASS] == ELFCLASS64;
	const u32 note[] = { 4, 4, 18, 0x006e6558 /* "Xen" */, entry };

	memcpy(f->data + 0x800, note, sizeof(note));
	if (is64) {
		const Elf64_Phdr p = { .p_type = PT_NOTE, .p_offset = 0x800, .p_filesz = sizeof(note) };

		memcpy(f->data + 64 + sizeof(p), &p, sizeof(p));
		image_set(f, offsetof(Elf64_Ehdr, e_phnum), 2, 2);
	} else {
		const Elf32_Phdr p = { .p_type = PT_NOTE, .p_offset = 0x800, .p_filesz = sizeof(note) };

		memcpy(f->data + 64 + sizeof(p), &p, sizeof(p));
		image_set(f, offsetof(Elf32_Ehdr, e_phnum), 2, 2);
	}
}

void image_add_multiboot(struct image *f, u32 at, u32 flags)
{
	image_set(f, at, 0x1badb002, 4);
	image_set(f, at + 4, flags, 4);
	image_set(f, at + 8, 0u - 0x1badb002 - flags, 4);
}
