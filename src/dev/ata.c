/* An ATA disk: ATA8-ACS commands, a row each. 512-byte sectors, 48-bit addresses, queueing, trim. */
#include "dev/ahci.h"
#include <stdlib.h>

enum { ARG_28, ARG_48, ARG_NCQ };
enum { TRIM_MAX_BLOCKS = 8 };

static u64 lba28(const u8 *f) { return f[4] | (u64)f[5] << 8 | (u64)f[6] << 16 | (u64)(f[7] & 15) << 24; }
static u64 lba48(const u8 *f) { return f[4] | (u64)f[5] << 8 | (u64)f[6] << 16 | (u64)f[8] << 24 | (u64)f[9] << 32 | (u64)f[10] << 40; }

/* Sectors; 0 counts as the most that the field can say and one more. */
static u64 count_of(const u8 *f, unsigned kind)
{
	u64 n = kind == ARG_28 ? f[12] : kind == ARG_48 ? f[12] | f[13] << 8 : f[3] | f[11] << 8;

	return n ? n : kind == ARG_28 ? 256 : 65536;
}

static void abort_command(struct ahci_cmd *c) { ahci_finish(c, ATA_FAILED, ATA_ABRT); }

/* [*at, *at + *n) in bytes. False: beyond the end, the command has been ended. */
static bool range(struct ahci_cmd *c, unsigned kind, u64 *at, u64 *n)
{
	u64 lba = kind == ARG_28 ? lba28(c->fis) : lba48(c->fis), count = count_of(c->fis, kind), sectors = disk_size(c->port->disk) / DISK_SECTOR;

	if (lba > sectors || count > sectors - lba) {
		ahci_finish(c, ATA_FAILED, ATA_IDNF);
		return false;
	}
	*at = lba * DISK_SECTOR;
	*n = count * DISK_SECTOR;
	return true;
}

static void do_read(struct ahci_cmd *c, unsigned kind)
{
	u64 at, n;

	if (range(c, kind, &at, &n))
		ahci_transfer(c, false, at, n);
}

static void do_write(struct ahci_cmd *c, unsigned kind)
{
	u64 at, n;

	c->write = true;
	if (disk_read_only(c->port->disk))
		abort_command(c);
	else if (range(c, kind, &at, &n))
		ahci_transfer(c, true, at, n);
}

static void do_pio_read(struct ahci_cmd *c, unsigned kind)
{
	c->pio = true;
	do_read(c, kind);
}

static void do_verify(struct ahci_cmd *c, unsigned kind)
{
	u64 at, n;

	if (range(c, kind, &at, &n))
		ahci_finish(c, ATA_OK, 0);
}

static void do_flush(struct ahci_cmd *c, unsigned kind) { ahci_request(c, DISK_FLUSH, 0, 0); }
static void do_nothing(struct ahci_cmd *c, unsigned kind) { ahci_finish(c, ATA_OK, 0); }

static void do_power_mode(struct ahci_cmd *c, unsigned kind)
{
	c->fis[12] = 0xff; /* active or idle */
	ahci_finish(c, ATA_OK, 0);
}

/* DATA SET MANAGEMENT with TRIM: entries of 48 bits of address and 16 of count. Nothing is discarded unless all are good. */
static void do_trim(struct ahci_cmd *c, unsigned kind)
{
	u64 blocks = count_of(c->fis, ARG_48), sectors = disk_size(c->port->disk) / DISK_SECTOR;

	c->write = true;
	c->buf = malloc(512 * TRIM_MAX_BLOCKS);
	if (!c->buf || !(c->fis[3] & 1) || disk_read_only(c->port->disk) || blocks > TRIM_MAX_BLOCKS ||
	    ahci_from_guest(c, c->buf, (u32)blocks * 512) < blocks * 512) {
		abort_command(c);
		return;
	}
	for (u64 i = 0; i < blocks * 512 / TRIM_RANGE_BYTES; i++) {
		u64 e = load_le(c->buf + i * TRIM_RANGE_BYTES, 8), lba = e & low_mask(48), n = e >> 48;

		if (lba > sectors || n > sectors - lba) {
			ahci_finish(c, ATA_FAILED, ATA_IDNF);
			return;
		}
	}
	c->at = 0;
	c->left = blocks * 512;
	ahci_trim(c);
}

/* The log page of queued commands' errors, "Log page 10h". */
static void do_read_log(struct ahci_cmd *c, unsigned kind)
{
	struct ahci_port_regs *r = &c->port->hba->regs.port[c->port->n];
	u8 page[512] = { 0 }, sum = 0;

	if (c->fis[4] != 0x10 || count_of(c->fis, ARG_48) != 1) {
		abort_command(c);
		return;
	}
	page[0] = r->ncq_error ? r->ncq_error & 31 : 0x80;
	if (r->ncq_error) {
		page[2] = ATA_FAILED;
		page[3] = ATA_UNC;
	}
	r->ncq_error = 0;
	for (unsigned i = 0; i < 511; i++)
		sum += page[i];
	page[511] = -sum;
	c->pio = true;
	ahci_finish_data(c, page, sizeof(page));
}

/* SET FEATURES: transfer mode, write cache and look-ahead are what they are. */
static void do_set_features(struct ahci_cmd *c, unsigned kind)
{
	switch (c->fis[3]) {
	case 0x02: case 0x03: case 0x05: case 0x10: case 0x55: case 0x82: case 0x85: case 0x90: case 0xaa: ahci_finish(c, ATA_OK, 0); break;
	default: abort_command(c);
	}
}

/* ATA strings: bytes swapped in each word, padded with blanks. */
void ata_identify_text(u8 *to, unsigned bytes, const char *text)
{
	size_t n = strlen(text);

	for (unsigned i = 0; i < bytes; i++)
		to[i ^ 1] = i < n ? (u8)text[i] : ' ';
}

static void word(u8 *id, unsigned n, u16 v) { store_le(id + 2 * n, v, 2); }

static void do_identify(struct ahci_cmd *c, unsigned kind)
{
	u8 id[512] = { 0 };
	u64 sectors = disk_size(c->port->disk) / DISK_SECTOR, small = min_u64(sectors, 0x0fffffff);
	u32 cylinders = (u32)min_u64(sectors / (16 * 63), 16383);
	const struct { u8 word; u16 value; } row[] = {
		{ 0, 0x0040 }, { 1, (u16)cylinders }, { 3, 16 }, { 6, 63 }, { 47, 0x8000 | 16 }, { 49, 0x0f00 }, { 50, 0x4000 }, { 53, 7 },
		{ 54, (u16)cylinders }, { 55, 16 }, { 56, 63 }, { 60, (u16)small }, { 61, (u16)(small >> 16) }, { 63, 0x0007 }, { 64, 3 }, { 65, 120 },
		{ 66, 120 }, { 67, 120 }, { 68, 120 }, { 69, BIT(14) /* trim reads zero or old */ }, { 75, AHCI_SLOTS - 1 }, { 76, 0x0102 /* NCQ, gen 1 */ },
		{ 80, 0x01f0 }, { 81, 0x0021 }, { 82, 0x4021 }, { 83, 0x7400 }, { 84, 0x4000 | BIT(6) }, { 85, 0x4021 }, { 86, 0x3400 }, { 87, 0x4000 | BIT(6) },
		{ 88, 0x203f }, { 93, 0 }, { 169, 1 /* trim */ }, { 105, TRIM_MAX_BLOCKS }, { 217, 1 /* not rotating */ },
	};

	for (unsigned i = 0; i < array_len(row); i++)
		word(id, row[i].word, row[i].value);
	ata_identify_text(id + 20, 20, c->port->serial);
	ata_identify_text(id + 46, 8, "1");
	ata_identify_text(id + 54, 40, "nestbox disk");
	store_le(id + 200, sectors, 8);
	c->pio = true;
	ahci_finish_data(c, id, sizeof(id));
}

static const struct { u8 command; u8 kind; void (*run)(struct ahci_cmd *c, unsigned kind); } command_row[] = {
	{ 0x06, ARG_48, do_trim },
	{ 0x10, ARG_28, do_nothing },      /* RECALIBRATE */
	{ 0x20, ARG_28, do_pio_read },     /* READ SECTORS */
	{ 0x24, ARG_48, do_pio_read },
	{ 0x25, ARG_48, do_read },         /* READ DMA EXT */
	{ 0x29, ARG_48, do_pio_read },     /* READ MULTIPLE EXT */
	{ 0x2f, ARG_48, do_read_log },
	{ 0x30, ARG_28, do_write },        /* WRITE SECTORS */
	{ 0x34, ARG_48, do_write },
	{ 0x35, ARG_48, do_write },        /* WRITE DMA EXT */
	{ 0x39, ARG_48, do_write },
	{ 0x40, ARG_28, do_verify },
	{ 0x42, ARG_48, do_verify },
	{ 0x60, ARG_NCQ, do_read },        /* READ FPDMA QUEUED */
	{ 0x61, ARG_NCQ, do_write },
	{ 0x91, ARG_28, do_nothing },      /* INITIALIZE DEVICE PARAMETERS */
	{ 0xc4, ARG_28, do_pio_read },
	{ 0xc5, ARG_28, do_write },
	{ 0xc6, ARG_28, do_nothing },      /* SET MULTIPLE MODE */
	{ 0xc8, ARG_28, do_read },         /* READ DMA */
	{ 0xca, ARG_28, do_write },
	{ 0xe0, ARG_28, do_nothing },      /* STANDBY IMMEDIATE and kin */
	{ 0xe1, ARG_28, do_nothing },
	{ 0xe2, ARG_28, do_nothing },
	{ 0xe3, ARG_28, do_nothing },
	{ 0xe5, ARG_28, do_power_mode },
	{ 0xe7, ARG_28, do_flush },
	{ 0xea, ARG_48, do_flush },
	{ 0xec, ARG_28, do_identify },
	{ 0xef, ARG_28, do_set_features },
};

void ata_command(struct ahci_cmd *c)
{
	for (unsigned i = 0; i < array_len(command_row); i++)
		if (command_row[i].command == c->fis[2]) {
			command_row[i].run(c, command_row[i].kind);
			return;
		}
	abort_command(c);
}
