/* Firmware images, shadow RAM, fw_cfg items. Data sheet: Intel 3 Series Express Chipset Family, "PAM0—Programmable Attribute Map" and "Legacy Address
 * Range". Surprise: a segment whose reads come from the ROM and whose writes go to RAM is mapped as ROM; its writes arrive at a bus window here. */
#include "vm/firmware.h"
#include "base/log.h"
#include "boot/boot.h"
#include "dev/pflash.h"
#include "vm/vm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define SHADOW_BASE 0xc0000ull
#define SHADOW_END 0x100000ull
#define BIOS_ALIAS 0xe0000ull /* the ROM's last 128 KiB appear here, too */
#define VGA_HOLE 0xa0000ull
#define MAX_IMAGE (8 * MiB)

static const struct image_row {
	enum firmware_kind kind;
	const char *name, *package, *code, *vars;
} images[] = {
	{ FIRMWARE_BIOS, "bios", "seabios", "/usr/share/seabios/bios-256k.bin", NULL },
	{ FIRMWARE_UEFI, "uefi", "ovmf", "/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd" },
};
#define VGA_BIOS "/usr/share/seabios/vgabios-stdvga.bin"

static const struct image_row *row_of(enum firmware_kind kind)
{
	for (unsigned i = 0; i < array_len(images); i++)
		if (images[i].kind == kind)
			return &images[i];
	return NULL;
}

bool firmware_name_ok(const char *name)
{
	return (!strncmp(name, "file:", 5) && name[5]) || !strcmp(name, "auto") || !strcmp(name, "none") || !strcmp(name, "bios") || !strcmp(name, "uefi");
}

/* ---- files ---- */

/* A whole regular file. NULL with errno set; EFBIG: more than MAX_IMAGE. */
static u8 *read_file(const char *path, u64 *size)
{
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	u8 *data = NULL;
	if (fd < 0)
		return NULL;
	if (!fstat(fd, &st)) {
		errno = !S_ISREG(st.st_mode) || !st.st_size ? EINVAL : st.st_size > (off_t)MAX_IMAGE ? EFBIG : 0;
		data = errno ? NULL : malloc((size_t)st.st_size);
		if (data && read(fd, data, (size_t)st.st_size) != st.st_size) {
			free(data);
			data = NULL;
			errno = EIO;
		}
		*size = (u64)st.st_size;
	}
	int err = errno;
	close(fd);
	errno = err;
	return data;
}

static int read_image(const struct image_row *r, const char *path, u8 **data, u64 *size)
{
	*data = read_file(path, size);
	if (!*data) {
		int err = errno ? errno : EIO;
		if (r)
			log_error("firmware \"%s\": %s; it is in Debian's package %s", path, strerror(err), r->package);
		else
			log_error("--firmware file \"%s\": %s", path, err == EINVAL ? "is empty, or not a regular file" : strerror(err));
		return -err;
	}
	if (*size % PAGE_SIZE) {
		free(*data);
		*data = NULL;
		log_error("firmware \"%s\": %llu bytes is not a multiple of 4096", path, (unsigned long long)*size);
		return -EINVAL;
	}
	return 0;
}

/* A new variable store is a copy of the package's empty one. */
static int make_vars(const char *path, const u8 *data, u64 size)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
	if (fd < 0 && errno == EEXIST)
		return 0;
	bool ok = fd >= 0 && write(fd, data, size) == (ssize_t)size;
	int err = errno;
	if (fd >= 0)
		close(fd);
	if (ok)
		return 0;
	log_error("--firmware-vars \"%s\": cannot create it: %s", path, strerror(err));
	return -err;
}

static int refuse_vars(int fd, int err, const char *path, const char *what)
{
	log_error("--firmware-vars \"%s\": %s", path, what);
	if (fd >= 0)
		close(fd);
	return -err;
}

/* Locked, so that two VMs cannot write the same variables. */
static int open_vars(struct firmware *f, const struct image_row *r, const char *path)
{
	struct stat st;
	int err = read_image(r, r->vars, &f->vars, &f->vars_size);
	if (err || !path)
		return err;
	err = make_vars(path, f->vars, f->vars_size);
	if (err)
		return err;
	int fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return refuse_vars(fd, errno, path, errno == EACCES || errno == EROFS ? "must be writable: UEFI keeps its variables there" : strerror(errno));
	if (fstat(fd, &st) || !S_ISREG(st.st_mode))
		return refuse_vars(fd, EINVAL, path, "is not a regular file");
	if ((u64)st.st_size != f->vars_size) {
		log_error("--firmware-vars \"%s\": %lld bytes; this firmware's variables take %llu: give a copy of %s", path, (long long)st.st_size,
			  (unsigned long long)f->vars_size, r->vars);
		close(fd);
		return -EINVAL;
	}
	if (flock(fd, LOCK_EX | LOCK_NB))
		return refuse_vars(fd, errno, path, errno == EWOULDBLOCK ? "is in use by another VM" : strerror(errno));
	if (pread(fd, f->vars, f->vars_size, 0) != (ssize_t)f->vars_size)
		return refuse_vars(fd, EIO, path, "cannot be read to its end");
	f->vars_fd = fd;
	return 0;
}

/* ---- which ---- */

/* Microsoft's and GPT's marks of an EFI system partition. */
static const u8 esp_guid[16] = { 0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b };

static bool has_esp(int fd, const u8 *mbr)
{
	u8 entry[128];
	for (unsigned i = 0; i < 4; i++)
		if (mbr[446 + 16 * i + 4] == 0xef)
			return true;
	for (unsigned i = 0; i < 128; i++)
		if (pread(fd, entry, sizeof entry, 1024 + (off_t)(i * sizeof entry)) == (ssize_t)sizeof entry && !memcmp(entry, esp_guid, 16))
			return true;
	return false;
}

static bool all_zero(const u8 *p, size_t n)
{
	while (n--)
		if (*p++)
			return false;
	return true;
}

/* UEFI when there is an EFI system partition and nothing that a BIOS could start. Anything unreadable is judged when the disk is really opened. */
static bool disk_wants_uefi(const char *spec)
{
	char path[4096];
	u8 mbr[512];
	snprintf(path, sizeof path, "%.*s", (int)strcspn(spec, ",:"), spec);
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return false;
	bool uefi = pread(fd, mbr, sizeof mbr, 0) == (ssize_t)sizeof mbr && mbr[510] == 0x55 && mbr[511] == 0xaa && all_zero(mbr, 440) && has_esp(fd, mbr);
	close(fd);
	return uefi;
}

/* "El Torito Bootable CD-ROM Format": a boot catalog whose first, default entry is for EFI; nothing for a BIOS. */
static bool disc_wants_uefi(const char *path)
{
	enum { BLOCK = 2048, RECORD = 17, CATALOG_AT = 0x47, PLATFORM_EFI = 0xef };
	u8 b[BLOCK];
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return false;
	bool uefi = pread(fd, b, sizeof b, RECORD * BLOCK) == BLOCK && !memcmp(b + 1, "CD001\1EL TORITO", 15) &&
		    pread(fd, b, sizeof b, (off_t)load_le(b + CATALOG_AT, 4) * BLOCK) == BLOCK && b[0] == 1 && b[1] == PLATFORM_EFI;
	close(fd);
	return uefi;
}

static enum firmware_kind choose(const struct vm_config *cfg)
{
	const char *name = cfg->firmware ? cfg->firmware : "auto";
	for (unsigned i = 0; i < array_len(images); i++)
		if (!strcmp(name, images[i].name))
			return images[i].kind;
	if (!strncmp(name, "file:", 5))
		return FIRMWARE_BIOS;
	if (!strcmp(name, "none") || cfg->kernel)
		return FIRMWARE_NONE;
	bool uefi = cfg->ndisks ? disk_wants_uefi(cfg->disks[0]) : cfg->cdrom && disc_wants_uefi(cfg->cdrom);
	return uefi ? FIRMWARE_UEFI : FIRMWARE_BIOS;
}

int firmware_open(struct firmware *f, const struct vm *vm)
{
	const struct vm_config *cfg = &vm->cfg;
	*f = (struct firmware){ .kind = choose(cfg), .vars_fd = -1 };
	const struct image_row *r = row_of(f->kind);
	if (cfg->firmware_vars && f->kind != FIRMWARE_UEFI) {
		log_error("--firmware-vars \"%s\": only UEFI keeps variables; add --firmware uefi", cfg->firmware_vars);
		return -EINVAL;
	}
	if (!r)
		return 0;
	f->vga = true;
	const char *own_code = cfg->firmware && !strncmp(cfg->firmware, "file:", 5) ? cfg->firmware + 5 : NULL;
	int err = read_image(own_code ? NULL : r, own_code ? own_code : r->code, &f->code, &f->code_size);
	char own[4096];
	snprintf(own, sizeof own, "%s/uefi-vars.fd", cfg->folder ? cfg->folder : "");
	const char *vars = cfg->firmware_vars ? cfg->firmware_vars : cfg->folder ? own : NULL;
	return err || !r->vars ? err : open_vars(f, r, vars);
}

void firmware_close(struct firmware *f)
{
	free(f->code);
	free(f->vars);
	if (f->kind != FIRMWARE_NONE && f->vars_fd >= 0)
		close(f->vars_fd);
	f->code = f->vars = NULL;
}

/* ---- memory ---- */

u64 firmware_bytes(const struct firmware *f)
{
	return f->kind == FIRMWARE_NONE ? 0 : align_up(f->code_size, PAGE_SIZE) + align_up(f->vars_size, PAGE_SIZE) + (f->vga ? FIRMWARE_VGA_BYTES : 0);
}

/* The thirteen segments that PAM0..PAM6 govern. */
#define SEGMENTS 13
static const char *const segment_name[SEGMENTS] = { "seg-f0", "seg-c0", "seg-c4", "seg-c8", "seg-cc", "seg-d0", "seg-d4", "seg-d8", "seg-dc",
						    "seg-e0", "seg-e4", "seg-e8", "seg-ec" };
struct segment { u64 base, size; u8 attr; }; /* attr bit 0: reads, bit 1: writes go to RAM */

static struct segment segment_of(unsigned i, const u8 pam[7])
{
	if (i == 0)
		return (struct segment){ 0xf0000, 0x10000, pam[0] >> 4 & 3 };
	return (struct segment){ SHADOW_BASE + (i - 1) * 0x4000, 0x4000, pam[1 + (i - 1) / 2] >> (i - 1) % 2 * 4 & 3 };
}

/* The frame that shows at `at` when reads do not go to RAM, or -1: nothing answers there. */
static i64 rom_frame(const struct firmware *f, u64 at)
{
	u64 from_end = SHADOW_END - at;
	if (at < BIOS_ALIAS || from_end > f->code_size)
		return -1;
	return (i64)(f->code_frame + (f->code_size - from_end) / PAGE_SIZE);
}

void firmware_pam_written(void *opaque, const u8 pam[7])
{
	struct vm *vm = opaque;
	struct firmware *f = &vm->firmware;
	memcpy(f->pam, pam, sizeof f->pam);
	for (unsigned i = 0; i < SEGMENTS; i++) {
		struct segment s = segment_of(i, pam);
		i64 rom = rom_frame(f, s.base);
		if (s.attr & 1)
			mem_remap(&vm->mem, segment_name[i], s.base, s.size, s.base / PAGE_SIZE, s.attr & 2 ? MEM_RAM : MEM_ROM);
		else if (rom >= 0)
			mem_remap(&vm->mem, segment_name[i], s.base, s.size, (u64)rom, MEM_ROM);
		else
			mem_remap(&vm->mem, segment_name[i], s.base, 0, 0, MEM_ROM);
	}
	mem_remap_done(&vm->mem);
	if (trace_on(TRACE_FIRMWARE))
		trace_line(TRACE_FIRMWARE, "PAM %02x %02x %02x %02x %02x %02x %02x", pam[0], pam[1], pam[2], pam[3], pam[4], pam[5], pam[6]);
}

/* Writes that no RAM slot took: with write enable alone they go to the RAM below the ROM, else nowhere. */
static void shadow_write(void *opaque, u64 off, u64 value, unsigned size)
{
	struct vm *vm = opaque;
	for (unsigned i = 0; i < size; i++) {
		u64 at = SHADOW_BASE + off + i;
		unsigned n = at >= 0xf0000 ? 0 : 1 + (unsigned)((at - SHADOW_BASE) / 0x4000);
		if (segment_of(n, vm->firmware.pam).attr != 2)
			continue;
		vm->mem.base[at] = (u8)(value >> (8 * i));
		mem_note_write(&vm->mem, at / PAGE_SIZE, at % PAGE_SIZE, 1);
	}
}

static const struct bus_ops shadow_ops = { NULL, shadow_write };

static int map_ram(struct firmware *f, struct mem *m, u64 ram)
{
	u64 low = board_low_ram(ram);
	static const u8 pam[7] = { 0 };
	int err = mem_add_view(m, gpa(0), min_u64(low, VGA_HOLE), 0, MEM_RAM, "ram-base");
	if (!err && low > SHADOW_END)
		err = mem_add_view(m, gpa(SHADOW_END), low - SHADOW_END, SHADOW_END / PAGE_SIZE, MEM_RAM, "ram-low");
	if (!err && ram > low)
		err = mem_add_view(m, gpa(4 * GiB), ram - low, low / PAGE_SIZE, MEM_RAM, "ram-high");
	for (unsigned i = 0; i < SEGMENTS && !err; i++) {
		struct segment s = segment_of(i, pam);
		err = mem_add_view(m, gpa(s.base), s.size, s.base / PAGE_SIZE, MEM_RAM, segment_name[i]);
	}
	return err;
}

int firmware_map(struct firmware *f, struct mem *m, u64 ram)
{
	u64 code = 4 * GiB - f->code_size;
	f->code_frame = ram / PAGE_SIZE;
	f->vars_frame = f->code_frame + f->code_size / PAGE_SIZE;
	f->vga_frame = f->vars_frame + f->vars_size / PAGE_SIZE;
	int err = map_ram(f, m, ram);
	if (!err)
		err = mem_add_view(m, gpa(code), f->code_size, f->code_frame, MEM_ROM, "firmware");
	if (!err && f->vars_size)
		err = mem_add_view(m, gpa(code - f->vars_size), f->vars_size, f->vars_frame, MEM_ROM, "firmware-vars");
	if (!err && f->vga) /* where it shows is for the display adapter to say */
		err = mem_add_view(m, gpa(0), 0, f->vga_frame, MEM_RAM, "vga");
	if (err)
		return err;
	memcpy(m->base + f->code_frame * PAGE_SIZE, f->code, f->code_size);
	if (f->vars_size)
		memcpy(m->base + f->vars_frame * PAGE_SIZE, f->vars, f->vars_size);
	return 0;
}

/* ---- devices ---- */

static int store_vars(void *opaque, u64 at, const u8 *data, u64 len)
{
	struct firmware *f = opaque;
	while (f->vars_fd >= 0 && len) {
		ssize_t n = pwrite(f->vars_fd, data, len, (off_t)at);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		at += (u64)n;
		data += n;
		len -= (u64)n;
	}
	return f->vars_fd >= 0 && fdatasync(f->vars_fd) ? -errno : 0;
}

void firmware_create_devices(struct vm *vm, struct dev_list *devs)
{
	struct firmware *f = &vm->firmware;
	if (f->kind == FIRMWARE_NONE)
		return;
	bus_add_mmio(&vm->bus, SHADOW_BASE, SHADOW_END - SHADOW_BASE, &shadow_ops, vm, "shadow-ram");
	if (!f->vars_size)
		return;
	struct pflash_config cfg = { .slot = "firmware-vars", .base = 4 * GiB - f->code_size - f->vars_size, .size = f->vars_size,
				     .frame = f->vars_frame, .store = store_vars, .opaque = f };
	pflash_create(&vm->bus, devs, &cfg);
}

/* ---- fw_cfg ---- */

static int add_tables(struct vm *vm, struct fw_cfg *cfg)
{
	struct boot_tables t;
	enum { ANCHOR = 24, FIRST = 32 };
	struct board_info info = { .ncpus = vm->ncpus, .ram = vm->cfg.memory, .ps2 = true };
	u8 *smbios = malloc(BOARD_SMBIOS_SIZE);
	if (!smbios || boot_tables_for_firmware(&info, &t)) {
		free(smbios);
		return -ENOMEM;
	}
	fw_cfg_add_file(cfg, "etc/acpi/rsdp", t.rsdp, sizeof t.rsdp);
	fw_cfg_add_file(cfg, "etc/acpi/tables", t.tables, (u32)t.tables_len);
	fw_cfg_add_file(cfg, "etc/table-loader", t.loader, (u32)t.loader_len);
	boot_tables_free(&t);
	size_t n = smbios_build(&info, 0, smbios, BOARD_SMBIOS_SIZE);
	bug_if(n <= FIRST);
	fw_cfg_add_file(cfg, "etc/smbios/smbios-anchor", smbios, ANCHOR);
	fw_cfg_add_file(cfg, "etc/smbios/smbios-tables", smbios + FIRST, (u32)(n - FIRST));
	free(smbios);
	return 0;
}

/* The display's BIOS is a file, not a PCI ROM: SeaBIOS runs what lies in vgaroms/. */
static int add_vga_bios(struct fw_cfg *cfg)
{
	u64 size;
	u8 *data = read_file(VGA_BIOS, &size);
	if (!data) {
		int err = errno ? errno : EIO;
		log_error("firmware \"%s\": %s; it is in Debian's package seabios", VGA_BIOS, strerror(err));
		return -err;
	}
	fw_cfg_add_file(cfg, "vgaroms/vgabios-stdvga.bin", data, (u32)size);
	free(data);
	return 0;
}

int firmware_fw_cfg(struct vm *vm, struct firmware *f, struct fw_cfg *cfg)
{
	/* S0 and S5 with SLP_TYP 0, as the DSDT says; nothing else. */
	static const u8 states[6] = { 0x80, 0, 0, 0, 0, 0x80 };
	static const u64 feature_control = 5; /* VMX outside SMX, locked */
	static const u32 irq0_override = 1;
	if (f->kind == FIRMWARE_NONE)
		return 0;
	fw_cfg_add_file(cfg, "etc/system-states", states, sizeof states);
	fw_cfg_set(cfg, FW_CFG_ARCH + 2, &irq0_override, sizeof irq0_override);
	if (vm->cfg.nested)
		fw_cfg_add_file(cfg, "etc/msr_feature_control", &feature_control, sizeof feature_control);
	if (!f->vga) {
		static const u16 com1 = BOARD_COM1_PORT;
		fw_cfg_add_file(cfg, "etc/sercon-port", &com1, sizeof com1);
	}
	int err = add_tables(vm, cfg);
	return err || !f->vga || f->kind != FIRMWARE_BIOS ? err : add_vga_bios(cfg);
}
