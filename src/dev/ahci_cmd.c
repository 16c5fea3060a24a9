/* AHCI: fetching commands, moving data, ending commands. Specification chapter 4, "System Memory Structures", and "Serial ATA Revision 3", "Frame
 * Information Structures". Everything in guest memory is hostile: each structure is read once, by mem_read, which refuses what is no memory. */
#include "dev/ahci.h"
#include "base/log.h"
#include <stdlib.h>

enum { FIS_H2D = 0x27, FIS_D2H = 0x34, FIS_PIO_SETUP = 0x5f, FIS_SDB = 0xa1, FIS_INTERRUPT = 0x40, FIS_COMMAND = 0x80 };
enum { RX_PIO = 0x20, RX_D2H = 0x40, RX_SDB = 0x58, HEADER_BYTES = 32, TABLE_PACKET = 0x40, TABLE_PRDT = 0x80, PRD_BYTES = 16 };
enum { FIS_CMD = 2, FIS_CONTROL = 15, CONTROL_SRST = 4, CMD_READ_FPDMA = 0x60, CMD_WRITE_FPDMA = 0x61 };
#define PRD_COUNT 0x3fffffu

static struct ahci_port_regs *regs(const struct ahci_port *p) { return &p->hba->regs.port[p->n]; }

/* ---- FISes to the guest ---- */

static void post_fis(struct ahci_port *p, unsigned at, const u8 *fis, unsigned len)
{
	if (regs(p)->cmd & PORT_CMD_FRE)
		mem_write(p->hba->bus->mem, gpa(regs(p)->fb + at), fis, len);
}

static void set_tfd(struct ahci_port *p, u8 status, u8 error) { regs(p)->tfd = (u32)error << 8 | status; }

/* Command's LBA and count are given back as they came, but for a packet device's interrupt reason and byte count. */
static void post_d2h(struct ahci_port *p, const struct ahci_cmd *c, u8 status, u8 error)
{
	u8 fis[20] = { FIS_D2H, FIS_INTERRUPT, status, error };

	if (c) {
		memcpy(fis + 4, c->fis + 4, 4);
		memcpy(fis + 8, c->fis + 8, 3);
		memcpy(fis + 12, c->fis + 12, 2);
		if (c->atapi)
			fis[12] = 3; /* command completed, device to host */
	} else { /* the signature */
		fis[4] = fis[12] = 1;
		fis[5] = p->cdrom ? 0x14 : 0;
		fis[6] = p->cdrom ? 0xeb : 0;
	}
	set_tfd(p, status, error);
	post_fis(p, RX_D2H, fis, sizeof(fis));
	regs(p)->is |= PORT_IS_DHRS;
}

void ahci_signature(struct ahci_port *p)
{
	regs(p)->sig = p->cdrom ? 0xeb140101 : 0x00000101;
	regs(p)->in_reset = 0;
	regs(p)->ncq_error = 0;
	post_d2h(p, NULL, p->cdrom ? 0 : ATA_OK, 1);
}

static void post_pio_setup(struct ahci_port *p, const struct ahci_cmd *c, u8 status)
{
	u8 fis[20] = { FIS_PIO_SETUP, FIS_INTERRUPT | (c->write ? 0 : 0x20), ATA_DRDY | ATA_DRQ, 0 };

	memcpy(fis + 4, c->fis + 4, 4);
	fis[15] = status; /* E_Status */
	store_le(fis + 16, c->moved & 0xffff, 2);
	set_tfd(p, status, 0);
	post_fis(p, RX_PIO, fis, sizeof(fis));
	regs(p)->is |= PORT_IS_PSS;
}

static void post_sdb(struct ahci_port *p, u32 done, u8 status, u8 error)
{
	u8 fis[8] = { FIS_SDB, FIS_INTERRUPT, status & 0x77, error };

	store_le(fis + 4, done, 4);
	regs(p)->sact &= ~done;
	set_tfd(p, status, error);
	post_fis(p, RX_SDB, fis, sizeof(fis));
	regs(p)->is |= PORT_IS_SDBS;
}

/* ---- data ---- */

/* The next piece of the PRD table: at most n bytes at *at. 0: the table ends here. */
static u32 prd_piece(struct ahci_cmd *c, u32 n, u64 *at)
{
	while (c->prd < c->prds) {
		u8 e[PRD_BYTES];

		if (mem_read(c->port->hba->bus->mem, gpa(c->table + TABLE_PRDT + (u64)c->prd * PRD_BYTES), e, sizeof(e)))
			return 0;
		u32 bytes = ((u32)load_le(e + 12, 4) & PRD_COUNT & ~1u) + 2;

		if (c->prd_off < bytes) {
			*at = load_le(e, 8) + c->prd_off;
			return (u32)min_u64(n, bytes - c->prd_off);
		}
		c->prd++;
		c->prd_off = 0;
	}
	return 0;
}

static u32 move(struct ahci_cmd *c, u8 *buf, u32 n, bool to_guest)
{
	struct mem *m = c->port->hba->bus->mem;
	u32 done = 0;

	while (done < n) {
		u64 at;
		u32 piece = prd_piece(c, n - done, &at);

		if (!piece || (to_guest ? mem_write(m, gpa(at), buf + done, piece) : mem_read(m, gpa(at), buf + done, piece)))
			break;
		c->prd_off += piece;
		done += piece;
	}
	c->moved += done;
	return done;
}

u32 ahci_to_guest(struct ahci_cmd *c, const void *buf, u32 n) { return move(c, (u8 *)buf, n, true); }
u32 ahci_from_guest(struct ahci_cmd *c, void *buf, u32 n) { return move(c, buf, n, false); }

/* ---- lists ---- */

static void unlink_cmd(struct ahci_cmd *c)
{
	struct ahci_port *p = c->port;
	struct ahci_cmd **at = &p->active;

	while (*at != c)
		at = &(*at)->next;
	*at = c->next;
	p->running &= ~(1u << c->slot);
	regs(p)->active = p->running;
	if (!p->running)
		p->ncq_running = false;
}

static void free_cmd(struct ahci_cmd *c)
{
	free(c->buf);
	free(c);
}

/* What the disk has not begun comes back at once; the rest finds out when it is done that nobody waits. */
void ahci_abort(struct ahci_port *p)
{
	for (struct ahci_cmd *c = p->active, *next; c; c = next) {
		next = c->next;
		c->orphan = true;
		c->next = NULL;
	}
	p->active = NULL;
	regs(p)->active = p->running = 0;
	p->ncq_running = false;
	if (!p->disk)
		return;
	for (struct disk_request *r = disk_cancel(p->disk, p), *next; r; r = next) {
		next = r->next;
		free_cmd(container_of(r, struct ahci_cmd, rq));
		disk_flight_drop(&p->hba->flight, 1);
	}
}

/* ---- the end of a command ---- */

/* An error leaves the slot's CI bit set and stops the port until software has looked: "Software Error Recovery". */
void ahci_finish(struct ahci_cmd *c, u8 status, u8 error)
{
	struct ahci_port *p = c->port;
	struct ahci_port_regs *r = regs(p);
	u32 slot = 1u << c->slot, moved = c->moved;
	bool bad = status & ATA_ERR;

	unlink_cmd(c);
	if (!c->ncq)
		mem_write(p->hba->bus->mem, gpa(c->header + 4), &moved, 4);
	if (bad)
		r->is |= PORT_IS_TFES;
	if (c->ncq) {
		if (bad)
			r->ncq_error = BIT32(31) | c->slot;
		post_sdb(p, bad ? 0 : slot, status, error);
	} else if (c->pio && !bad && !c->write) {
		post_pio_setup(p, c, status);
	} else {
		post_d2h(p, c, status, error);
	}
	if (!bad && !c->ncq)
		r->ci &= ~slot;
	free_cmd(c);
	ahci_issue(p);
	ahci_update(p->hba);
}

void ahci_finish_data(struct ahci_cmd *c, const void *buf, u32 n)
{
	if (ahci_to_guest(c, buf, n) < n)
		regs(c->port)->is |= PORT_IS_OFS;
	ahci_finish(c, ATA_OK, 0);
}

/* ---- disk requests ---- */

static void next_chunk(struct ahci_cmd *c);

static void finish_failed(struct ahci_cmd *c)
{
	if (c->atapi) {
		regs(c->port)->sense = 0x031100; /* medium error, unrecovered read error */
		ahci_finish(c, ATA_FAILED, 0x30);
	} else {
		ahci_finish(c, ATA_FAILED | (c->write ? ATA_DF : 0), c->write ? ATA_ABRT : ATA_UNC);
	}
}

/* bus->lock held. */
static void chunk_done(struct ahci_cmd *c)
{
	if (c->err) {
		finish_failed(c);
		return;
	}
	if (c->rq.op == DISK_DISCARD) {
		ahci_trim(c);
		return;
	}
	if (c->rq.op == DISK_READ && ahci_to_guest(c, c->buf, c->buf_len) < c->buf_len) {
		regs(c->port)->is |= PORT_IS_OFS; /* the guest's memory is too small for what it asked */
		c->left = c->buf_len;
	}
	c->at += c->buf_len;
	c->left -= c->buf_len;
	if (c->left)
		next_chunk(c);
	else
		ahci_finish(c, ATA_OK, 0);
}

/* A worker's thread, no lock held. */
static void request_done(struct disk_request *r, int err)
{
	struct ahci_cmd *c = container_of(r, struct ahci_cmd, rq);
	struct ahci *a = c->port->hba;

	bus_lock(a->bus);
	c->err = err;
	if (c->orphan)
		free_cmd(c);
	else
		chunk_done(c);
	bus_unlock(a->bus);
	disk_flight_drop(&a->flight, 1);
}

static void submit(struct ahci_cmd *c)
{
	c->rq.owner = c->port;
	c->rq.done = request_done;
	disk_flight_submit(&c->port->hba->flight, c->port->disk, &c->rq);
}

static void next_chunk(struct ahci_cmd *c)
{
	c->buf_len = (u32)min_u64(c->left, AHCI_CHUNK);
	if (c->write && ahci_from_guest(c, c->buf, c->buf_len) < c->buf_len) {
		finish_failed(c);
		return;
	}
	c->iov = (struct iovec){ c->buf, c->buf_len };
	c->rq = (struct disk_request){ .op = c->write ? DISK_WRITE : DISK_READ, .at = c->at, .len = c->buf_len, .iov = &c->iov, .niov = 1 };
	submit(c);
}

void ahci_transfer(struct ahci_cmd *c, bool write, u64 at, u64 bytes)
{
	c->write = write;
	c->at = at;
	c->left = bytes;
	c->buf = malloc(AHCI_CHUNK);
	if (!c->buf || !bytes)
		finish_failed(c);
	else
		next_chunk(c);
}

void ahci_request(struct ahci_cmd *c, enum disk_op op, u64 at, u64 bytes)
{
	c->write = true;
	c->left = c->buf_len = 0;
	c->rq = (struct disk_request){ .op = op, .at = at, .len = bytes };
	submit(c);
}

void ahci_trim(struct ahci_cmd *c)
{
	while (c->left) {
		u64 e = load_le(c->buf + c->at, TRIM_RANGE_BYTES), sectors = e >> 48;

		c->at += TRIM_RANGE_BYTES;
		c->left -= TRIM_RANGE_BYTES;
		if (sectors) {
			c->rq = (struct disk_request){ .op = DISK_DISCARD, .at = (e & low_mask(48)) * DISK_SECTOR, .len = sectors * DISK_SECTOR };
			submit(c);
			return;
		}
	}
	ahci_finish(c, ATA_OK, 0);
}

static unsigned held_by_disks(const struct ahci *a)
{
	unsigned held = 0;

	for (unsigned i = 0; i < AHCI_PORTS; i++)
		held += a->port[i].disk ? disk_held(a->port[i].disk, (void *)&a->port[i]) : 0;
	return held;
}

void ahci_quiesce(void *dev)
{
	struct ahci *a = dev;

	while (disk_flight_wait_above(&a->flight, held_by_disks(a)))
		;
}

/* ---- the beginning ---- */

/* A control FIS: SRST 1, then 0, then the signature ("Software Reset"). */
static void control(struct ahci_cmd *c)
{
	struct ahci_port *p = c->port;
	struct ahci_port_regs *r = regs(p);
	bool srst = c->fis[FIS_CONTROL] & CONTROL_SRST, ended = r->in_reset && !srst;

	r->ci &= ~(1u << c->slot);
	unlink_cmd(c);
	free_cmd(c);
	r->in_reset = srst;
	if (ended)
		ahci_signature(p);
}

static struct ahci_cmd *fetch(struct ahci_port *p, unsigned slot)
{
	struct mem *m = p->hba->bus->mem;
	struct ahci_cmd *c = calloc(1, sizeof(*c));
	u8 header[HEADER_BYTES];

	if (!c)
		return NULL;
	c->port = p;
	c->slot = slot;
	c->header = regs(p)->clb + slot * HEADER_BYTES;
	if (mem_read(m, gpa(c->header), header, sizeof(header)))
		goto bad;
	c->table = load_le(header + 8, 8) & ~(u64)0x7f;
	c->prds = (u32)load_le(header + 2, 2);
	c->write = header[0] & 0x40;
	if (mem_read(m, gpa(c->table), c->fis, sizeof(c->fis)) || mem_read(m, gpa(c->table + TABLE_PACKET), c->packet, sizeof(c->packet)))
		goto bad;
	if (c->fis[0] != FIS_H2D)
		goto bad;
	c->ncq = !p->cdrom && (c->fis[1] & FIS_COMMAND) && (c->fis[FIS_CMD] == CMD_READ_FPDMA || c->fis[FIS_CMD] == CMD_WRITE_FPDMA);
	return c;
bad:
	free(c);
	return NULL;
}

static void start(struct ahci_port *p, struct ahci_cmd *c)
{
	c->next = p->active;
	p->active = c;
	p->running |= 1u << c->slot;
	regs(p)->active = p->running;
	p->ncq_running = c->ncq;
	if (c->ncq) {
		regs(p)->ci &= ~(1u << c->slot);
		regs(p)->sact |= 1u << c->slot;
	}
	if (!(c->fis[1] & FIS_COMMAND))
		control(c);
	else if (p->cdrom)
		atapi_command(c);
	else
		ata_command(c);
}

/* A command list that is no memory is a fatal error of the host bus ("HBFS"). */
static void fetch_failed(struct ahci_port *p)
{
	regs(p)->is |= PORT_IS_HBFS;
	regs(p)->cmd &= ~(u32)PORT_CMD_CR;
	regs(p)->ci = 0;
	log_once(LOG_WARN, "ahci: a command list or table is outside of the guest's memory");
}

void ahci_resume(struct ahci_port *p, u32 slots)
{
	for (unsigned slot = 0; p->disk && slot < AHCI_SLOTS; slot++) {
		struct ahci_cmd *c = slots & (1u << slot) & ~p->running ? fetch(p, slot) : NULL;

		if (c)
			start(p, c);
	}
}

void ahci_issue(struct ahci_port *p)
{
	struct ahci_port_regs *r = regs(p);

	if (!p->disk)
		return;
	for (unsigned slot = 0; slot < AHCI_SLOTS; slot++) {
		if (!(r->cmd & PORT_CMD_CR) || (r->is & (PORT_IS_TFES | PORT_IS_HBFS)))
			return;
		if (!(r->ci & ~p->running & (1u << slot)) || (p->running && !p->ncq_running))
			continue;
		struct ahci_cmd *c = fetch(p, slot);

		if (!c)
			fetch_failed(p);
		else if (p->running && !c->ncq)
			free_cmd(c); /* after the queued ones */
		else
			start(p, c);
	}
}
