/* The board's tables as firmware takes them from fw_cfg: files, and a script that says where to put them and which numbers to relocate and sum
 * ("QEMU Firmware Configuration", etc/table-loader). Not here: the tables themselves (acpi.c, smbios.c). Surprise: the pointers are found by building
 * the tables for two addresses and looking where they differ, so that no list of them can be forgotten. */
#include "boot/boot.h"

#include <stdlib.h>

enum { CMD_ALLOCATE = 1, CMD_ADD_POINTER = 2, CMD_ADD_CHECKSUM = 3, ZONE_HIGH = 1, ZONE_FSEG = 2 };
enum { RSDP_SIZE = 36, RSDP_SUM = 8, RSDP_SUMMED = 20, RSDP_XSUM = 32, HEADER_LENGTH = 4, HEADER_SUM = 9, HEADER_SIZE = 36 };
#define TABLES "etc/acpi/tables"
#define RSDP "etc/acpi/rsdp"
/* Both differ in one byte of a pointer to the other address only. */
#define BASE_A 0x01000000u
#define BASE_B 0x02000000u

struct command {
	u32 command;
	char file[56];
	union {
		struct { u32 align; u8 zone; } allocate;
		struct { char file[56]; u32 off; u8 size; } __attribute__((packed)) pointer;
		struct { u32 off, start, len; } sum;
		u8 pad[68];
	};
} __attribute__((packed));
_Static_assert(sizeof(struct command) == 128, "etc/table-loader");

struct script { struct command *c; unsigned n, cap; bool full; };

static struct command *add(struct script *s, u32 what, const char *file)
{
	static struct command spare;

	if (s->n == s->cap) {
		s->full = true;
		return &spare;
	}
	struct command *c = &s->c[s->n++];

	memset(c, 0, sizeof(*c));
	c->command = what;
	memcpy(c->file, file, strlen(file));
	return c;
}

static void add_allocate(struct script *s, const char *file, u32 align, u8 zone)
{
	struct command *c = add(s, CMD_ALLOCATE, file);

	c->allocate.align = align;
	c->allocate.zone = zone;
}

static void add_pointer(struct script *s, const char *file, u32 off)
{
	struct command *c = add(s, CMD_ADD_POINTER, file);

	memcpy(c->pointer.file, TABLES, sizeof(TABLES));
	c->pointer.off = off;
	c->pointer.size = 4; /* the high half of a 64-bit one stays 0 */
}

static void add_sum(struct script *s, u8 *data, const char *file, u32 at, u32 start, u32 len)
{
	struct command *c = add(s, CMD_ADD_CHECKSUM, file);

	c->sum.off = at;
	c->sum.start = start;
	c->sum.len = len;
	data[at] = 0;
}

/* Every aligned or unaligned dword that holds BASE_A + x in one build and BASE_B + x in the other becomes x, and a command. */
static void find_pointers(struct script *s, u8 *a, const u8 *b, u32 len, const char *file, u32 blob_bias)
{
	for (u32 i = 0; i < len; i++) {
		if (a[i] == b[i] || i < 3) /* the byte that differs is the pointer's highest */
			continue;
		u32 va = (u32)load_le(a + i - 3, 4), vb = (u32)load_le(b + i - 3, 4);

		if (va - BASE_A != vb - BASE_B) /* a checksum */
			continue;
		store_le(a + i - 3, va - BASE_A - blob_bias, 4);
		add_pointer(s, file, i - 3);
	}
}

static bool is_table(const u8 *p, u32 left)
{
	return left >= HEADER_SIZE && memcmp(p, "FACS", 4) && load_le(p + HEADER_LENGTH, 4) >= HEADER_SIZE && load_le(p + HEADER_LENGTH, 4) <= left &&
	       p[0] >= 'A' && p[0] <= 'Z';
}

/* Tables start at multiples of 16; the FACS has no checksum. */
static void sum_tables(struct script *s, u8 *t, u32 len)
{
	for (u32 at = 0; at + HEADER_SIZE <= len;) {
		u32 size = (u32)load_le(t + at + HEADER_LENGTH, 4);

		if (is_table(t + at, len - at))
			add_sum(s, t, TABLES, at + HEADER_SUM, at, size);
		else if (memcmp(t + at, "FACS", 4))
			size = 16;
		at = (u32)align_up(at + size, 16);
	}
}

int boot_tables_for_firmware(const struct board_info *b, struct boot_tables *t)
{
	enum { SCRIPT = 64, PREFIX = 64 /* RSDP and the gap to the FACS */ };
	u8 *other = malloc(BOARD_ACPI_SIZE), *tables = malloc(BOARD_ACPI_SIZE);
	struct script s = { .c = calloc(SCRIPT, sizeof(struct command)), .cap = SCRIPT };
	size_t len = other && tables ? acpi_build(b, BASE_A, tables, BOARD_ACPI_SIZE) : 0;

	*t = (struct boot_tables){ 0 };
	if (!s.c || !len || acpi_build(b, BASE_B, other, BOARD_ACPI_SIZE) != len) {
		free(other);
		free(tables);
		free(s.c);
		return -1;
	}
	add_allocate(&s, RSDP, 16, ZONE_FSEG);
	add_allocate(&s, TABLES, 64, ZONE_HIGH);
	memcpy(t->rsdp, tables, RSDP_SIZE);
	find_pointers(&s, tables + PREFIX, other + PREFIX, (u32)len - PREFIX, TABLES, PREFIX);
	sum_tables(&s, tables + PREFIX, (u32)len - PREFIX);
	find_pointers(&s, t->rsdp, other, RSDP_SIZE, RSDP, PREFIX);
	add_sum(&s, t->rsdp, RSDP, RSDP_SUM, 0, RSDP_SUMMED);
	add_sum(&s, t->rsdp, RSDP, RSDP_XSUM, 0, RSDP_SIZE);
	bug_if(s.full);
	free(other);
	memmove(tables, tables + PREFIX, len - PREFIX);
	t->tables = tables;
	t->tables_len = len - PREFIX;
	t->loader = (u8 *)s.c;
	t->loader_len = s.n * sizeof(struct command);
	return 0;
}

void boot_tables_free(struct boot_tables *t)
{
	free(t->tables);
	free(t->loader);
	*t = (struct boot_tables){ 0 };
}
