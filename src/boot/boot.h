/* What firmware would do: put a kernel into guest memory with the tables it asks for, and set the boot CPU's registers
 * as its boot protocol says. Not here: real firmware (a ROM slot and the reset vector need nothing of this). */
#ifndef NB_BOOT_H
#define NB_BOOT_H

#include "base/base.h"
#include "boot/board_map.h"
#include "cpu/cpu.h"
#include "mem/mem.h"

/* What the tables must know of the machine beyond board_map.h. */
struct board_info {
	unsigned ncpus;      /* APIC ids are 0..ncpus-1 */
	unsigned phys_bits;  /* CPUID 80000008h EAX[7:0]: width of the MTRR masks */
	u64 ram;             /* bytes of RAM; see board_low_ram() */
	u8 ioapic_id;
	bool ps2;            /* keyboard, mouse and display are there */
};

/* RAM below and above 4 GiB. */
u64 board_low_ram(u64 ram);
u64 board_high_ram(u64 ram);
/* Where memory begins that can be plugged. No memory map or table names it: the device does. */
u64 board_plug_base(u64 ram);
/* GSI of a PCI interrupt pin (0 = INTA) of a device on bus 0; the DSDT's _PRT says the same. */
static inline unsigned board_pci_gsi(unsigned device, unsigned pin) { return BOARD_GSI_PCI + ((device + pin) & 7); }

/* ---- memory map ---- */
enum e820_type { E820_RAM = 1, E820_RESERVED = 2 };
struct e820_entry { u64 addr, len; u32 type; } __attribute__((packed));
#define E820_MAX 8
enum e820_view {
	E820_OS,       /* for a kernel: EBDA and the ROM area cut out, ECAM reserved */
	E820_FIRMWARE, /* for fw_cfg "etc/e820": whole RAM blocks */
};
/* Returns the number of entries, ascending and disjoint. */
unsigned e820_build(u64 ram, enum e820_view view, struct e820_entry out[E820_MAX]);

/* ---- tables ---- */
/* Builds all ACPI tables as they must lie at `base` (16-byte aligned; the RSDP comes first). Returns the length, or 0 when `cap` is too small. */
size_t acpi_build(const struct board_info *b, u32 base, u8 *out, size_t cap);
/* SMBIOS 3 entry point and structures, as they must lie at `base`. Returns the length, or 0 when `cap` is too small. */
size_t smbios_build(const struct board_info *b, u32 base, u8 *out, size_t cap);

/* The ACPI tables as fw_cfg files: etc/acpi/rsdp, etc/acpi/tables and etc/table-loader. 0, or -1 when host memory is out. */
struct boot_tables { u8 rsdp[36]; u8 *tables, *loader; size_t tables_len, loader_len; };
int boot_tables_for_firmware(const struct board_info *b, struct boot_tables *t);
void boot_tables_free(struct boot_tables *t);

/* ---- CPU ---- */
/* What firmware sets on every CPU before the OS: MTRRs (RAM write-back, everything from ECAM to 4 GiB uncached). After each power-on or RESET. */
void boot_cpu_setup(struct cpu_arch *cpu, const struct board_info *b);

/* ---- kernels ---- */
/* Files stay open between loads: a RESET loads them again when the process may open nothing any more. Zero-initialise; boot_files_close at the end. */
#define BOOT_MAX_FILES 34
struct boot_files {
	struct { char *path; int fd; } file[BOOT_MAX_FILES];
	unsigned n;
};
void boot_files_close(struct boot_files *f);

struct boot_request {
	const char *kernel;  /* bzImage, ELF with a PVH note, or multiboot-1 image */
	const char *initrd;  /* NULL: none. Multiboot: "file args,file args", a literal comma is ",," */
	const char *append;  /* NULL: empty */
	struct board_info board;
	struct boot_files *files; /* NULL: open and close at each load */
};

/* Writes ACPI, SMBIOS, kernel, modules and parameters into `m` and sets `bsp`, which is in its reset state, to the kernel's entry state
 * (the caller then calls cpu_update_mode). The files are hostile input. Returns 0, or -errno with one line in `err` that names file, value and
 * what to do. */
int boot_load(const struct boot_request *rq, struct mem *m, struct cpu_arch *bsp, char *err, size_t errlen);

#endif
