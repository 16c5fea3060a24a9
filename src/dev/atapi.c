/* A CD-ROM drive: packet commands ("SCSI Multimedia Commands - 3", "ATA8-ACS" PACKET feature set) over an image of 2,048-byte blocks. The disc is always in;
 * there is no tray to open. */
#include "dev/ahci.h"

enum { BLOCK = 2048, SENSE_BYTES = 18 };
enum { SENSE_ILLEGAL_COMMAND = 0x052000, SENSE_BAD_FIELD = 0x052400, SENSE_BEYOND_END = 0x052100, SENSE_WRITE_PROTECTED = 0x072700 };

static struct ahci_port_regs *regs(const struct ahci_cmd *c) { return &c->port->hba->regs.port[c->port->n]; }
static u32 blocks(const struct ahci_cmd *c) { return (u32)min_u64(disk_size(c->port->disk) / BLOCK, ~(u32)0); }
static u32 be16(const u8 *p) { return (u32)p[0] << 8 | p[1]; }
static u32 be32(const u8 *p) { return be16(p) << 16 | be16(p + 2); }
static void put16(u8 *p, u32 v) { p[0] = (u8)(v >> 8); p[1] = (u8)v; }
static void put32(u8 *p, u32 v) { put16(p, v >> 16); put16(p + 2, v); }

/* The error register's high nibble is the sense key. */
static void fail(struct ahci_cmd *c, u32 sense)
{
	regs(c)->sense = sense;
	ahci_finish(c, ATA_FAILED, (u8)(sense >> 16 << 4));
}

static void good(struct ahci_cmd *c)
{
	regs(c)->sense = 0;
	ahci_finish(c, ATA_OK, 0);
}

/* At most as much as the command allows. */
static void data(struct ahci_cmd *c, const u8 *buf, u32 n, u32 allowed)
{
	regs(c)->sense = 0;
	ahci_to_guest(c, buf, (u32)min_u64(n, allowed));
	ahci_finish(c, ATA_OK, 0);
}

static void do_ready(struct ahci_cmd *c, const u8 *p) { good(c); }

static void do_sense(struct ahci_cmd *c, const u8 *p)
{
	u8 s[SENSE_BYTES] = { 0x70 };
	u32 sense = regs(c)->sense;

	s[2] = sense >> 16 & 15;
	s[7] = SENSE_BYTES - 8;
	s[12] = (u8)(sense >> 8);
	s[13] = (u8)sense;
	data(c, s, sizeof(s), p[4]);
}

static void do_inquiry(struct ahci_cmd *c, const u8 *p)
{
	u8 s[36] = { 5, 0x80, 5, 2, 31 };

	if (p[1] & 1) { /* no vital product data pages */
		fail(c, SENSE_BAD_FIELD);
		return;
	}
	memcpy(s + 8, "nestbox CD-ROM          1   ", 28);
	data(c, s, sizeof(s), be16(p + 3));
}

static void do_capacity(struct ahci_cmd *c, const u8 *p)
{
	u8 s[8];

	put32(s, blocks(c) - 1);
	put32(s + 4, BLOCK);
	data(c, s, sizeof(s), sizeof(s));
}

static void read_blocks(struct ahci_cmd *c, u32 lba, u32 n)
{
	u32 have = blocks(c);

	if (lba > have || n > have - lba)
		fail(c, SENSE_BEYOND_END);
	else if (n == 0)
		good(c);
	else {
		regs(c)->sense = 0;
		ahci_transfer(c, false, (u64)lba * BLOCK, (u64)n * BLOCK);
	}
}

static void do_read10(struct ahci_cmd *c, const u8 *p) { read_blocks(c, be32(p + 2), be16(p + 7)); }
static void do_read12(struct ahci_cmd *c, const u8 *p) { read_blocks(c, be32(p + 2), be32(p + 6)); }

/* READ CD: user data of mode-1 sectors is all that an image has. */
static void do_read_cd(struct ahci_cmd *c, const u8 *p)
{
	if ((p[9] & 0xf8) == 0x10)
		read_blocks(c, be32(p + 2), be32(p + 5) & 0xffffff);
	else if (p[9] & 0xf8)
		fail(c, SENSE_BAD_FIELD);
	else
		good(c);
}

static void put_address(u8 *p, u32 lba, bool msf)
{
	if (!msf) {
		put32(p, lba);
		return;
	}
	lba += 150;
	p[0] = 0;
	p[1] = (u8)(lba / (60 * 75));
	p[2] = (u8)(lba / 75 % 60);
	p[3] = (u8)(lba % 75);
}

/* One data track and the lead-out; or the one session. */
static void do_toc(struct ahci_cmd *c, const u8 *p)
{
	bool msf = p[1] & 2;
	u8 s[20] = { 0, 18, 1, 1 };
	u32 format = p[2] & 15 ? p[2] & 15 : p[9] >> 6, n = sizeof(s);

	if (format > 1) {
		fail(c, SENSE_BAD_FIELD);
		return;
	}
	s[5] = 0x14;
	s[6] = 1;
	put_address(s + 8, 0, msf);
	s[13] = 0x14;
	s[14] = 0xaa;
	put_address(s + 16, blocks(c), msf);
	if (format == 1) {
		n = 12;
		s[1] = 10;
	}
	data(c, s, n, be16(p + 7));
}

/* Profiles "CD-ROM" and "DVD-ROM"; the current one by size. */
static void do_configuration(struct ahci_cmd *c, const u8 *p)
{
	u8 s[40] = { 0 };
	bool dvd = blocks(c) > 400000;

	put32(s, sizeof(s) - 4);
	put16(s + 6, dvd ? 0x10 : 0x08);
	s[10] = 3;                         /* feature 0, "Profile List", persistent, current */
	s[11] = 8;
	put16(s + 12, 0x10);
	s[14] = dvd;
	put16(s + 16, 0x08);
	s[18] = !dvd;
	put16(s + 20, 1);                  /* feature 1, "Core" */
	s[22] = 0x0b;
	s[23] = 8;
	put32(s + 24, 8);                  /* Serial ATA */
	put16(s + 32, 3);                  /* feature 3, "Removable Medium" */
	s[34] = 3;
	s[35] = 4;
	s[36] = 0x20;                      /* a tray, which stays locked */
	data(c, s, sizeof(s), be16(p + 7));
}

static void do_event(struct ahci_cmd *c, const u8 *p)
{
	u8 s[8] = { 0, 6, 4, 0x10, 0, 2 };  /* media class: no change, disc present */

	if (!(p[1] & 1))
		fail(c, SENSE_BAD_FIELD);   /* only polled operation */
	else if (p[4] & 0x10)
		data(c, s, sizeof(s), be16(p + 7));
	else {
		s[1] = 2;
		s[2] = 0x80;
		data(c, s, 4, be16(p + 7));
	}
}

static void do_disc_info(struct ahci_cmd *c, const u8 *p)
{
	const u8 s[34] = { 0, 32, 0x0e, 1, 1, 1, 1, 0x20 };

	data(c, s, sizeof(s), be16(p + 7));
}

static void do_mechanism(struct ahci_cmd *c, const u8 *p)
{
	const u8 s[8] = { 0 };

	data(c, s, sizeof(s), be16(p + 8));
}

/* Pages 1, 2Ah or all of them. */
static void do_mode_sense(struct ahci_cmd *c, const u8 *p)
{
	static const u8 recovery[] = { 0x01, 6, 0, 5 }, capabilities[22] = { 0x2a, 20, 0x3b, 0, 0x71, 0x20, 0x29, 0, 0x08, 0x40, 0, 0, 0, 0x40, 0x08, 0x40 };
	u8 s[8 + 8 + 22] = { 0 }, page = p[2] & 0x3f;
	u32 n = 8;

	if (page == 0x01 || page == 0x3f) {
		memcpy(s + n, recovery, sizeof(recovery));
		n += 8;
	}
	if (page == 0x2a || page == 0x3f) {
		memcpy(s + n, capabilities, sizeof(capabilities));
		n += sizeof(capabilities);
	}
	if (n == 8 || p[2] >> 6 == 3) {
		fail(c, SENSE_BAD_FIELD);
		return;
	}
	put16(s, n - 2);
	s[2] = 0x01;                        /* data disc */
	data(c, s, n, be16(p + 7));
}

static const struct { u8 command; void (*run)(struct ahci_cmd *c, const u8 *packet); } packet_row[] = {
	{ 0x00, do_ready },         /* TEST UNIT READY */
	{ 0x03, do_sense },
	{ 0x12, do_inquiry },
	{ 0x1b, do_ready },         /* START STOP UNIT */
	{ 0x1e, do_ready },         /* PREVENT ALLOW MEDIUM REMOVAL */
	{ 0x25, do_capacity },
	{ 0x28, do_read10 },
	{ 0x2b, do_ready },         /* SEEK */
	{ 0x43, do_toc },
	{ 0x46, do_configuration },
	{ 0x4a, do_event },
	{ 0x51, do_disc_info },
	{ 0x5a, do_mode_sense },
	{ 0xa8, do_read12 },
	{ 0xbb, do_ready },         /* SET CD SPEED */
	{ 0xbd, do_mechanism },
	{ 0xbe, do_read_cd },
};

static void packet(struct ahci_cmd *c)
{
	for (unsigned i = 0; i < array_len(packet_row); i++)
		if (packet_row[i].command == c->packet[0]) {
			packet_row[i].run(c, c->packet);
			return;
		}
	fail(c, SENSE_ILLEGAL_COMMAND);
}

static void identify(struct ahci_cmd *c)
{
	u8 id[512] = { 0 };
	static const struct { u8 word; u16 value; } row[] = {
		{ 0, 0x8580 /* packet device, CD-ROM, removable, 12-byte packets */ }, { 49, 0x0f00 }, { 53, 6 }, { 63, 7 }, { 64, 3 }, { 65, 120 }, { 66, 120 },
		{ 67, 120 }, { 68, 120 }, { 76, 2 }, { 80, 0x01f0 }, { 82, 0x0210 }, { 83, 0x4000 }, { 84, 0x4000 }, { 85, 0x0210 }, { 87, 0x4000 }, { 88, 0x203f },
	};

	for (unsigned i = 0; i < array_len(row); i++)
		store_le(id + 2 * row[i].word, row[i].value, 2);
	ata_identify_text(id + 20, 20, c->port->serial);
	ata_identify_text(id + 46, 8, "1");
	ata_identify_text(id + 54, 40, "nestbox CD-ROM");
	c->pio = true;
	ahci_finish_data(c, id, sizeof(id));
}

void atapi_command(struct ahci_cmd *c)
{
	switch (c->fis[2]) {
	case 0xa0:
		c->atapi = true;
		packet(c);
		break;
	case 0xa1: identify(c); break;
	case 0xef: case 0xe0: case 0xe1: case 0xe2: case 0xe3: ahci_finish(c, ATA_OK, 0); break; /* SET FEATURES, power management */
	case 0xec: /* IDENTIFY DEVICE: the signature tells what we are */
		c->fis[5] = 0x14;
		c->fis[6] = 0xeb;
		ahci_finish(c, ATA_FAILED, ATA_ABRT);
		break;
	default: ahci_finish(c, ATA_FAILED, ATA_ABRT); break;
	}
}
