/* ACPI tables of the board (ACPI Specification 6.2, "ACPI Software Programming Model"). The DSDT comes from dsdt.asl. One blob, RSDP
 * first; all pointers are absolute, so it must be built for the address where it will lie. */
#include "boot/boot.h"

#include "dsdt.hex" /* dsdt_aml_code[] */
#include "dsdt_ps2.hex" /* dsdt_ps2_aml_code[]: with keyboard and mouse */

struct acpi_blob {
	u8 *out;
	size_t len, cap;
	u32 base;
	u32 tables[16]; /* addresses for RSDT and XSDT */
	unsigned ntables;
	bool full;
};

struct acpi_header {
	char signature[4];
	u32 length;
	u8 revision, checksum;
	char oem_id[6], oem_table_id[8];
	u32 oem_revision;
	char creator_id[4];
	u32 creator_revision;
} __attribute__((packed));

struct acpi_gas { u8 space, width, offset, access; u64 address; } __attribute__((packed));
#define GAS_IO 1
#define GAS_BYTE 1
#define GAS_WORD 2
#define GAS_DWORD 3

struct acpi_fadt {
	struct acpi_header h;
	u32 facs, dsdt;
	u8 reserved0, profile;
	u16 sci_int;
	u32 smi_cmd;
	u8 acpi_enable, acpi_disable, s4bios_req, pstate_cnt;
	u32 pm1a_evt, pm1b_evt, pm1a_cnt, pm1b_cnt, pm2_cnt, pm_tmr, gpe0, gpe1;
	u8 pm1_evt_len, pm1_cnt_len, pm2_cnt_len, pm_tmr_len, gpe0_len, gpe1_len, gpe1_base, cst_cnt;
	u16 lvl2_lat, lvl3_lat, flush_size, flush_stride;
	u8 duty_offset, duty_width, day_alarm, mon_alarm, century;
	u16 boot_arch;
	u8 reserved1;
	u32 flags;
	struct acpi_gas reset_reg;
	u8 reset_value;
	u16 arm_boot_arch;
	u8 minor;
	u64 x_facs, x_dsdt;
	struct acpi_gas x_pm1a_evt, x_pm1b_evt, x_pm1a_cnt, x_pm1b_cnt, x_pm2_cnt, x_pm_tmr, x_gpe0, x_gpe1, sleep_control, sleep_status;
} __attribute__((packed));
_Static_assert(sizeof(struct acpi_fadt) == 268, "FADT revision 5");

#define FADT_WBINVD      BIT(0)
#define FADT_PROC_C1     BIT(2)
#define FADT_SLP_BUTTON  BIT(5)  /* no fixed sleep button */
#define FADT_FIX_RTC     BIT(6)  /* RTC wake status is not in PM1 */
#define FADT_RESET_REG   BIT(10)
#define FADT_PLATFORM_CLOCK BIT(15)
#define BOOT_LEGACY      BIT(0)  /* devices on LPC */
#define BOOT_8042        BIT(1)  /* only with a keyboard: probing an absent one costs seconds */
#define BOOT_NO_VGA      BIT(2)
#define BOOT_NO_ASPM     BIT(4)

struct acpi_facs { char signature[4]; u32 length, hw_signature, waking, lock, flags; u64 x_waking; u8 version, reserved[31]; } __attribute__((packed));
_Static_assert(sizeof(struct acpi_facs) == 64, "FACS");

struct acpi_rsdp {
	char signature[8];
	u8 checksum;
	char oem_id[6];
	u8 revision;
	u32 rsdt, length;
	u64 xsdt;
	u8 ext_checksum, reserved[3];
} __attribute__((packed));
_Static_assert(sizeof(struct acpi_rsdp) == 36, "RSDP");

static u8 checksum(const void *p, size_t n)
{
	const u8 *b = p;
	u8 sum = 0;

	while (n--)
		sum += *b++;
	return -sum;
}

/* Room for n bytes, zeroed; NULL when the blob is full. *at is the guest address. */
static void *blob_add(struct acpi_blob *a, size_t n, size_t align, u32 *at)
{
	size_t off = align_up(a->len, align);

	if (off + n > a->cap) {
		a->full = true;
		return NULL;
	}
	memset(a->out + a->len, 0, off + n - a->len);
	a->len = off + n;
	*at = a->base + off;
	return a->out + off;
}

static void put_header(void *table, const char *signature, u8 revision, u32 length)
{
	struct acpi_header h = { .length = length, .revision = revision, .oem_id = "NESTBX", .oem_table_id = "NESTBOX ", .oem_revision = 1,
				 .creator_id = "NBOX", .creator_revision = 1 };

	memcpy(h.signature, signature, 4);
	memcpy(table, &h, sizeof(h));
}

/* Copies a finished table in, sums it and lists it in RSDT and XSDT. */
static void add_table(struct acpi_blob *a, void *table, const char *signature, u8 revision, u32 length)
{
	u32 at;
	u8 *to = blob_add(a, length, 16, &at);

	if (!to)
		return;
	put_header(table, signature, revision, length);
	memcpy(to, table, length);
	to[offsetof(struct acpi_header, checksum)] = checksum(to, length);
	bug_if(a->ntables == array_len(a->tables));
	a->tables[a->ntables++] = at;
}

static struct acpi_gas io_gas(u32 port, u8 bytes, u8 access)
{
	return (struct acpi_gas){ GAS_IO, bytes * 8, 0, access, port };
}

static void add_fadt(struct acpi_blob *a, const struct board_info *b, u32 facs, u32 dsdt)
{
	struct acpi_fadt f = {
		.facs = facs, .dsdt = dsdt, .x_dsdt = dsdt, /* X_FIRMWARE_CTRL stays 0: only one of the two may be used */
		.sci_int = BOARD_IRQ_SCI,
		/* SMI_CMD 0: ACPI mode is always on */
		.pm1a_evt = BOARD_PM1_EVT, .pm1_evt_len = 4, .x_pm1a_evt = io_gas(BOARD_PM1_EVT, 4, GAS_WORD),
		.pm1a_cnt = BOARD_PM1_CNT, .pm1_cnt_len = 2, .x_pm1a_cnt = io_gas(BOARD_PM1_CNT, 2, GAS_WORD),
		.pm_tmr = BOARD_PM_TMR, .pm_tmr_len = 4, .x_pm_tmr = io_gas(BOARD_PM_TMR, 4, GAS_DWORD),
		.gpe0 = BOARD_GPE0, .gpe0_len = BOARD_GPE0_LEN, .x_gpe0 = io_gas(BOARD_GPE0, BOARD_GPE0_LEN, GAS_BYTE),
		.lvl2_lat = 0xfff, .lvl3_lat = 0xfff, /* over 100 and 1000 us: no C2, C3 */
		.century = BOARD_CMOS_CENTURY,
		.boot_arch = BOOT_LEGACY | BOOT_NO_ASPM | (b->ps2 ? BOOT_8042 : BOOT_NO_VGA),
		.flags = FADT_WBINVD | FADT_PROC_C1 | FADT_SLP_BUTTON | FADT_FIX_RTC | FADT_RESET_REG | FADT_PLATFORM_CLOCK,
		.reset_reg = io_gas(BOARD_RESET_PORT, 1, GAS_BYTE), .reset_value = BOARD_RESET_VALUE,
		.minor = 1,
	};

	add_table(a, &f, "FACP", 5, sizeof(f));
}

/* MADT: every CPU, the IOAPIC, the two ISA interrupts that are not what ISA says, NMI on LINT1 of all. */
static void add_madt(struct acpi_blob *a, const struct board_info *b)
{
	struct { struct acpi_header h; u32 lapic, flags; u8 rows[8192]; } __attribute__((packed)) m = { .lapic = BOARD_LAPIC_BASE, .flags = 1 };
	const u8 fixed[] = {
		1, 12, b->ioapic_id, 0, BOARD_IOAPIC_BASE & 0xff, BOARD_IOAPIC_BASE >> 8 & 0xff, BOARD_IOAPIC_BASE >> 16 & 0xff,
		BOARD_IOAPIC_BASE >> 24, 0, 0, 0, 0,
		2, 10, 0, 0, 2, 0, 0, 0, 0, 0,                                         /* ISA 0, the timer, is GSI 2 */
		2, 10, 0, BOARD_IRQ_SCI, BOARD_IRQ_SCI, 0, 0, 0, 0x0d, 0,              /* the SCI is level, active high */
		4, 6, 0xff, 0, 0, 1,
	};
	size_t n = 0;

	for (unsigned i = 0; i < b->ncpus && n + 16 + sizeof(fixed) <= sizeof(m.rows); i++) {
		if (i < 255) {
			const u8 row[8] = { 0, 8, i, i, 1 };

			memcpy(m.rows + n, row, sizeof(row));
			n += sizeof(row);
		} else { /* x2APIC */
			const u32 row[4] = { 9 | 16 << 8, i, 1, i };

			memcpy(m.rows + n, row, sizeof(row));
			n += sizeof(row);
		}
	}
	memcpy(m.rows + n, fixed, sizeof(fixed));
	n += sizeof(fixed);
	add_table(a, &m, "APIC", 3, offsetof(__typeof__(m), rows) + n);
}

static void add_small_tables(struct acpi_blob *a)
{
	struct { struct acpi_header h; u64 reserved, base; u16 segment; u8 first, last; u32 reserved2; } __attribute__((packed)) mcfg = {
		.base = BOARD_ECAM_BASE, .last = BOARD_ECAM_BUS_LAST };
	struct { struct acpi_header h; u32 id; struct acpi_gas base; u8 number; u16 min_tick; u8 attr; } __attribute__((packed)) hpet = {
		.id = BOARD_HPET_ID, .base = { .width = 64, .address = BOARD_HPET_BASE } };
	/* Windows ACPI Emulated Devices Table: RTC and PM timer need not be read twice. */
	struct { struct acpi_header h; u32 flags; } __attribute__((packed)) waet = { .flags = 3 };

	add_table(a, &mcfg, "MCFG", 1, sizeof(mcfg));
	add_table(a, &hpet, "HPET", 1, sizeof(hpet));
	add_table(a, &waet, "WAET", 1, sizeof(waet));
}

/* RSDT and XSDT: the same list in 32 and 64 bits. */
static void add_roots(struct acpi_blob *a, u32 *rsdt, u32 *xsdt)
{
	struct { struct acpi_header h; u32 at[16]; } __attribute__((packed)) r;
	struct { struct acpi_header h; u64 at[16]; } __attribute__((packed)) x;
	unsigned n = a->ntables;

	for (unsigned i = 0; i < n; i++) {
		r.at[i] = a->tables[i];
		x.at[i] = a->tables[i];
	}
	add_table(a, &r, "RSDT", 1, sizeof(r.h) + n * 4);
	add_table(a, &x, "XSDT", 1, sizeof(x.h) + n * 8);
	if (!a->full) {
		*rsdt = a->tables[n];
		*xsdt = a->tables[n + 1];
	}
}

static u32 add_facs(struct acpi_blob *a)
{
	const struct acpi_facs facs = { .signature = "FACS", .length = sizeof(facs), .version = 1 };
	u32 at = 0;
	void *to = blob_add(a, sizeof(facs), 64, &at);

	if (to)
		memcpy(to, &facs, sizeof(facs));
	return at;
}

static u32 add_dsdt(struct acpi_blob *a, const struct board_info *b)
{
	const void *from = b->ps2 ? (const void *)dsdt_ps2_aml_code : dsdt_aml_code;
	size_t n = b->ps2 ? sizeof(dsdt_ps2_aml_code) : sizeof(dsdt_aml_code);
	u32 at = 0;
	void *to = blob_add(a, n, 16, &at);

	if (to)
		memcpy(to, from, n); /* iasl has summed it */
	return at;
}

size_t acpi_build(const struct board_info *b, u32 base, u8 *out, size_t cap)
{
	struct acpi_blob a = { .out = out, .cap = cap, .base = base };
	struct acpi_rsdp rsdp = { .signature = "RSD PTR ", .oem_id = "NESTBX", .revision = 2, .length = sizeof(rsdp) };
	u32 at, facs, dsdt, rsdt = 0, xsdt = 0;
	u8 *to = blob_add(&a, sizeof(rsdp), 16, &at);

	if (!to)
		return 0;
	facs = add_facs(&a);
	dsdt = add_dsdt(&a, b);
	add_fadt(&a, b, facs, dsdt);
	add_madt(&a, b);
	add_small_tables(&a);
	add_roots(&a, &rsdt, &xsdt);
	if (a.full)
		return 0;
	rsdp.rsdt = rsdt;
	rsdp.xsdt = xsdt;
	rsdp.checksum = checksum(&rsdp, 20);
	rsdp.ext_checksum = checksum(&rsdp, sizeof(rsdp));
	memcpy(to, &rsdp, sizeof(rsdp));
	return a.len;
}
