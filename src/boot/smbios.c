/* SMBIOS 3 (DMTF DSP0134): enough for dmidecode and the kernel's "DMI:" line. */
#include "boot/boot.h"

struct smbios_buf {
	u8 *out;
	size_t len, cap;
	u16 handle;
	bool full;
};

/* One structure: formatted area (type and length filled in here), then its strings. `strings` is a double-NUL-terminated list. */
static void add(struct smbios_buf *s, u8 type, u16 handle, const void *body, size_t n, const char *strings)
{
	size_t text = 0;
	u8 *p = s->out + s->len;

	while (strings[text])
		text += strlen(strings + text) + 1;
	text = text ? text + 1 : 2;
	if (s->len + 4 + n + text > s->cap) {
		s->full = true;
		return;
	}
	p[0] = type;
	p[1] = 4 + n;
	store_le(p + 2, handle, 2);
	memcpy(p + 4, body, n);
	memset(p + 4 + n, 0, text);
	if (text > 2)
		memcpy(p + 4 + n, strings, text);
	s->len += 4 + n + text;
}

struct __attribute__((packed)) smbios_bios { u8 vendor, version; u16 segment; u8 date, rom_size; u64 chars; u8 ext[2], major, minor, ec_major, ec_minor; };
struct __attribute__((packed)) smbios_system { u8 vendor, product, version, serial, uuid[16], wakeup, sku, family; };
struct __attribute__((packed)) smbios_chassis { u8 vendor, type, version, serial, asset, state[4]; u32 oem; u8 height, cords, elements, element_size, sku; };
struct __attribute__((packed)) smbios_cpu {
	u8 socket, type, family, vendor;
	u64 id;
	u8 version, voltage;
	u16 clock, max_mhz, mhz;
	u8 status, upgrade;
	u16 l1, l2, l3;
	u8 serial, asset, part, cores, enabled, threads;
	u16 chars, family2, cores2, enabled2, threads2;
};
struct __attribute__((packed)) smbios_array { u8 location, use, ecc; u32 max_kb; u16 error, devices; u64 max_bytes; };
struct __attribute__((packed)) smbios_dimm {
	u16 array, error, total_width, width, size_mb;
	u8 form, set, locator, bank, type;
	u16 detail, speed;
	u8 vendor, serial, asset, part, attr;
	u32 ext_size_mb;
	u16 configured_speed, min_mv, max_mv, mv;
};
struct __attribute__((packed)) smbios_mapped { u32 start_kb, end_kb; u16 array; u8 width; u64 start, end; };

enum { H_BIOS = 0, H_SYSTEM = 0x100, H_CHASSIS = 0x300, H_CPU = 0x400, H_ARRAY = 0x1000, H_DIMM = 0x1100, H_MAPPED = 0x1300, H_END = 0x7f00 };

static void add_machine(struct smbios_buf *s, unsigned ncpus)
{
	const struct smbios_bios bios = { .vendor = 1, .version = 2, .segment = 0xe000, .date = 3, .chars = BIT(3) /* not supported */,
					  .ext = { 0, BIT(4) | BIT(2) } /* virtual machine; targeted distribution */, .major = 0, .minor = 1,
					  .ec_major = 0xff, .ec_minor = 0xff };
	const struct smbios_system sys = { .vendor = 1, .product = 2, .version = 3, .wakeup = 6 };
	const struct smbios_chassis chassis = { .vendor = 1, .type = 1, .state = { 3, 3, 3, 2 } };
	struct smbios_cpu cpu = { .socket = 1, .type = 3, .family = 1, .vendor = 2, .version = 3, .status = 0x41, .upgrade = 6, .l1 = 0xffff,
				  .l2 = 0xffff, .l3 = 0xffff, .chars = BIT(2), .family2 = 1 };

	cpu.cores = cpu.enabled = cpu.threads = ncpus > 255 ? 255 : ncpus;
	cpu.cores2 = cpu.enabled2 = cpu.threads2 = ncpus;
	add(s, 0, H_BIOS, &bios, sizeof(bios), "nestbox\0" "0.1\0" "01/01/2026\0");
	add(s, 1, H_SYSTEM, &sys, sizeof(sys), "nestbox\0" "nestbox virtual machine\0" "0.1\0");
	add(s, 3, H_CHASSIS, &chassis, sizeof(chassis), "nestbox\0");
	add(s, 4, H_CPU, &cpu, sizeof(cpu), "CPU 0\0" "nestbox\0" "0.1\0");
}

static void add_mapped(struct smbios_buf *s, u16 handle, u64 start, u64 size)
{
	struct smbios_mapped m = { .array = H_ARRAY, .width = 1 };

	if (!size)
		return;
	if (start + size <= (u64)0xffffffff * 1024) {
		m.start_kb = start / 1024;
		m.end_kb = (start + size) / 1024 - 1;
	} else {
		m.start_kb = m.end_kb = ~0u;
		m.start = start;
		m.end = start + size - 1;
	}
	add(s, 19, handle, &m, sizeof(m), "");
}

static void add_memory(struct smbios_buf *s, u64 ram)
{
	struct smbios_array array = { .location = 1, .use = 3, .ecc = 3, .error = 0xfffe, .devices = 1 };
	struct smbios_dimm dimm = { .array = H_ARRAY, .error = 0xfffe, .total_width = 0xffff, .width = 0xffff, .form = 9, .locator = 1, .type = 7,
				    .detail = BIT(1) };
	u64 mb = ram / MiB;

	array.max_kb = ram < 2048 * GiB ? ram / 1024 : 0x80000000;
	array.max_bytes = ram < 2048 * GiB ? 0 : ram;
	dimm.size_mb = mb < 0x7fff ? mb : 0x7fff;
	dimm.ext_size_mb = mb < 0x7fff ? 0 : mb;
	add(s, 16, H_ARRAY, &array, sizeof(array), "");
	add(s, 17, H_DIMM, &dimm, sizeof(dimm), "DIMM 0\0");
	add_mapped(s, H_MAPPED, 0, board_low_ram(ram));
	add_mapped(s, H_MAPPED + 1, 4 * GiB, board_high_ram(ram));
}

size_t smbios_build(const struct board_info *b, u32 base, u8 *out, size_t cap)
{
	enum { ENTRY = 24, FIRST = 32 };
	struct smbios_buf s = { .out = out, .len = FIRST, .cap = cap };
	u8 sum = 0;

	if (cap < FIRST)
		return 0;
	memset(out, 0, FIRST);
	add_machine(&s, b->ncpus);
	add_memory(&s, b->ram);
	add(&s, 127, H_END, "", 0, "");
	if (s.full)
		return 0;
	memcpy(out, "_SM3_", 5);
	out[6] = ENTRY;
	out[7] = 3; /* 3.0.0 */
	out[10] = 1;
	store_le(out + 12, s.len - FIRST, 4);
	store_le(out + 16, base + FIRST, 8);
	for (unsigned i = 0; i < ENTRY; i++)
		sum += out[i];
	out[5] = -sum;
	return s.len;
}
