/* NVMe I/O commands ("NVM Command Set"), on their way to the disk and back. */
#include "dev/nvme_int.h"
#include <errno.h>
#include <stdlib.h>

enum { OP_FLUSH = 0, OP_WRITE = 1, OP_READ = 2, OP_WRITE_ZEROES = 8, OP_DATASET = 9 };
enum { DSM_DEALLOCATE = 4, DSM_RANGE_BYTES = 16, DSM_MAX_RANGES = 256 };
#define DW12_FUA BIT32(30)
#define DW12_DEALLOCATE BIT32(25)
#define CSTS_SHUTDOWN_MASK 0xcu
#define CSTS_SHUTDOWN_DONE 0x8u

/* ---- making the disk's request ---- */
static enum nvme_status set_range(struct nvme *n, struct nvme_request *r, u64 lba, u64 blocks)
{
	u64 all = disk_size(n->disk) / DISK_SECTOR;

	if (lba > all || blocks > all - lba)
		return NVME_LBA_RANGE;
	r->disk.at = lba * DISK_SECTOR;
	r->disk.len = blocks * DISK_SECTOR;
	return NVME_OK;
}

static u64 first_block(const struct nvme_command *c) { return (u64)c->dw11 << 32 | c->dw10; }

static bool write_through(const struct nvme *n, const struct nvme_command *c)
{
	return (c->dw12 & DW12_FUA) || !(n->regs.feature[NVME_FEATURE_WRITE_CACHE] & 1);
}

static enum nvme_status begin_transfer(struct nvme *n, struct nvme_request *r)
{
	const struct nvme_command *c = &r->cmd;
	bool read = c->opcode == OP_READ;
	u32 blocks = (c->dw12 & 0xffff) + 1;
	enum nvme_status s = set_range(n, r, first_block(c), blocks);

	if (s != NVME_OK)
		return s;
	if (blocks * DISK_SECTOR > NVME_MAX_BYTES)
		return NVME_BAD_FIELD; /* more than MDTS */
	if (!read && disk_read_only(n->disk))
		return NVME_WRITE_PROTECTED;
	s = nvme_map(n, c, blocks * DISK_SECTOR, read, &r->data);
	for (unsigned i = 0; i < r->data.n; i++)
		r->iov[i] = (struct iovec){ r->data.piece[i].host, r->data.piece[i].len };
	r->disk.niov = (int)r->data.n;
	r->disk.op = read ? DISK_READ : DISK_WRITE;
	r->disk.fua = !read && write_through(n, c);
	return s == NVME_OK ? NVME_LATER : s;
}

static enum nvme_status begin_flush(struct nvme *n, struct nvme_request *r)
{
	r->disk.op = DISK_FLUSH;
	return NVME_LATER;
}

static enum nvme_status begin_zeroes(struct nvme *n, struct nvme_request *r)
{
	enum nvme_status s = set_range(n, r, first_block(&r->cmd), (r->cmd.dw12 & 0xffff) + 1);

	if (s == NVME_OK && disk_read_only(n->disk))
		s = NVME_WRITE_PROTECTED;
	r->disk.op = DISK_WRITE_ZEROES;
	r->disk.unmap = r->cmd.dw12 & DW12_DEALLOCATE;
	r->disk.fua = write_through(n, &r->cmd);
	return s == NVME_OK ? NVME_LATER : s;
}

/* The next range to deallocate; NVME_OK after the last. */
static enum nvme_status next_range(struct nvme *n, struct nvme_request *r)
{
	u32 count = (r->cmd.dw10 & 0xff) + 1;

	while (r->range < count) {
		const u8 *x = r->ranges + DSM_RANGE_BYTES * r->range++;
		u64 blocks = load_le(x + 4, 4);
		enum nvme_status s = set_range(n, r, load_le(x + 8, 8), blocks);

		if (s != NVME_OK)
			return s;
		if (blocks)
			return NVME_LATER;
	}
	return NVME_OK;
}

static enum nvme_status begin_dataset(struct nvme *n, struct nvme_request *r)
{
	u32 bytes = ((r->cmd.dw10 & 0xff) + 1) * DSM_RANGE_BYTES;
	enum nvme_status s;

	if (!(r->cmd.dw11 & DSM_DEALLOCATE))
		return NVME_OK; /* hints */
	if (disk_read_only(n->disk))
		return NVME_WRITE_PROTECTED;
	if (!r->ranges && !(r->ranges = malloc(DSM_MAX_RANGES * DSM_RANGE_BYTES)))
		return NVME_INTERNAL;
	s = nvme_map(n, &r->cmd, bytes, false, &r->data);
	if (s != NVME_OK)
		return s;
	nvme_copy(n, &r->data, r->ranges, bytes, false);
	r->data.n = 0;
	r->disk.op = DISK_DISCARD;
	return next_range(n, r);
}

static const struct {
	u8 opcode;
	enum nvme_status (*begin)(struct nvme *n, struct nvme_request *r);
} row[] = {
	{ OP_FLUSH, begin_flush },
	{ OP_WRITE, begin_transfer },
	{ OP_READ, begin_transfer },
	{ OP_WRITE_ZEROES, begin_zeroes },
	{ OP_DATASET, begin_dataset },
};

static enum nvme_status begin(struct nvme *n, struct nvme_request *r)
{
	const struct nvme_command *c = &r->cmd;

	for (unsigned i = 0; i < array_len(row); i++) {
		if (row[i].opcode != c->opcode)
			continue;
		if (c->nsid != 1 && !(c->opcode == OP_FLUSH && c->nsid == ~0u))
			return NVME_BAD_NAMESPACE;
		if (c->flags & 3)
			return NVME_BAD_FIELD; /* fused operations */
		return row[i].begin(n, r);
	}
	return NVME_BAD_OPCODE;
}

/* ---- requests ---- */
static void request_free(struct nvme *n, struct nvme_request *r)
{
	r->busy = false;
	r->next = n->free;
	n->free = r;
}

static enum nvme_status disk_status(const struct nvme_request *r, int err)
{
	if (!err)
		return NVME_OK;
	if (err == -EROFS)
		return NVME_WRITE_PROTECTED;
	return r->disk.op == DISK_READ ? NVME_READ_ERROR : NVME_WRITE_FAULT;
}

static void request_done(struct disk_request *d, int err);

static bool done_at_once(struct nvme *n, struct nvme_request *r)
{
	if (!disk_at_once(n->disk, &r->disk))
		return false;
	if (r->disk.op == DISK_READ)
		nvme_note_written(n, &r->data);
	return true;
}

enum nvme_status nvme_io(struct nvme *n, unsigned sq, const struct nvme_command *c)
{
	struct nvme_request *r = n->free;
	enum nvme_status status;

	r->cmd = *c;
	r->sq = sq;
	r->cq = n->regs.sq[sq].cq;
	r->range = 0;
	r->data.n = 0;
	r->status = NVME_OK;
	r->disk = (struct disk_request){ .iov = r->iov, .done = request_done, .owner = &n->owner[sq] };
	status = begin(n, r);
	if (status != NVME_LATER)
		return status;
	if (done_at_once(n, r))
		return NVME_OK;
	n->free = r->next;
	r->busy = true;
	n->of_cq[r->cq]++;
	disk_flight_submit(&n->flight, n->disk, &r->disk);
	return NVME_LATER;
}

/* bus->lock held */
static void give_back(struct nvme *n, struct nvme_request *r)
{
	if (r->sq == 0) {
		n->regs.csts = (n->regs.csts & ~CSTS_SHUTDOWN_MASK) | CSTS_SHUTDOWN_DONE;
		r->busy = false;
		return;
	}
	n->of_cq[r->cq]--;
	if (r->disk.op == DISK_READ)
		nvme_note_written(n, &r->data);
	nvme_complete(n, r->sq, r->cmd.id, r->status, 0);
	request_free(n, r);
}

static void complete_done(struct nvme *n)
{
	struct disk_request *d;

	while ((d = disk_flight_take(&n->flight)))
		give_back(n, container_of(d, struct nvme_request, disk));
	nvme_run(n);
}

/* In a worker's thread, without locks. */
static void request_done(struct disk_request *d, int err)
{
	struct nvme_request *r = container_of(d, struct nvme_request, disk);
	struct nvme *n = r->nvme;
	struct bus *bus = n->bus;

	r->status = disk_status(r, err);
	if (r->sq && r->cmd.opcode == OP_DATASET && r->status == NVME_OK) {
		r->status = next_range(n, r);
		if (r->status == NVME_LATER) {
			disk_submit(n->disk, &r->disk);
			return;
		}
	}
	if (!disk_flight_land(&n->flight, d))
		return;
	pthread_mutex_lock(&bus->lock);
	complete_done(n);
	pthread_mutex_unlock(&bus->lock);
	disk_flight_left(&n->flight);
}

void nvme_start_shutdown(struct nvme *n)
{
	struct nvme_request *r = &n->requests[NVME_REQUESTS];

	if (r->busy)
		return;
	n->regs.csts = (n->regs.csts & ~CSTS_SHUTDOWN_MASK) | 4;
	*r = (struct nvme_request){ .nvme = n, .busy = true, .disk = { .op = DISK_FLUSH, .done = request_done, .owner = &n->owner[0] } };
	disk_flight_submit(&n->flight, n->disk, &r->disk);
}

/* ---- reset, saving, loading ---- */
static void drop(struct nvme *n, struct nvme_request *r)
{
	if (r->sq == 0) {
		r->busy = false;
		return;
	}
	n->of_cq[r->cq]--;
	request_free(n, r);
}

static void recall(struct nvme *n, unsigned sq)
{
	for (struct disk_request *d = disk_flight_recall(&n->flight, n->disk, &n->owner[sq]), *next; d; d = next) {
		next = d->next;
		drop(n, container_of(d, struct nvme_request, disk));
	}
}

/* Requests of this queue have not been given back. */
static bool any_busy(const struct nvme *n, unsigned sq)
{
	for (unsigned i = 0; i <= NVME_REQUESTS; i++)
		if (n->requests[i].busy && (!sq || n->requests[i].sq == sq))
			return true;
	return false;
}

void nvme_forget(struct nvme *n, unsigned sq)
{
	while (any_busy(n, sq)) {
		for (unsigned q = 0; q < NVME_QUEUES; q++)
			if (!sq || q == sq)
				recall(n, q);
		if (any_busy(n, sq))
			disk_flight_wait_above(&n->flight, 0);
	}
}

static unsigned held_by_disk(struct nvme *n)
{
	unsigned sum = 0;

	for (unsigned q = 0; q < NVME_QUEUES; q++)
		sum += disk_held(n->disk, &n->owner[q]);
	return sum;
}

static void note_held(struct nvme *n)
{
	n->regs.held_count = 0;
	memset(n->regs.held, 0, sizeof(n->regs.held));
	for (unsigned i = 0; i < NVME_REQUESTS; i++) {
		const struct nvme_request *r = &n->requests[i];
		struct nvme_held *h = &n->regs.held[n->regs.held_count];

		if (!r->busy)
			continue;
		h->sq = (u16)r->sq;
		memcpy(h->command, &r->cmd, sizeof(r->cmd));
		n->regs.held_count++;
	}
}

void nvme_quiesce(void *opaque)
{
	struct nvme *n = opaque;
	bool busy = true;

	while (busy) {
		while (disk_flight_wait_above(&n->flight, held_by_disk(n)))
			;
		pthread_mutex_lock(&n->bus->lock);
		complete_done(n);
		busy = disk_flight_busy(&n->flight, held_by_disk(n));
		if (!busy)
			note_held(n);
		pthread_mutex_unlock(&n->bus->lock);
	}
}

void nvme_restart_held(struct nvme *n)
{
	unsigned count = (unsigned)min_u64(n->regs.held_count, NVME_REQUESTS);

	for (unsigned i = 0; i < count && n->free; i++) {
		const struct nvme_held *h = &n->regs.held[i];
		struct nvme_command c;
		enum nvme_status s;

		if (!h->sq || h->sq >= NVME_QUEUES || !nvme_can_complete(n, h->sq))
			continue;
		memcpy(&c, h->command, sizeof(c));
		s = nvme_io(n, h->sq, &c);
		if (s != NVME_LATER)
			nvme_complete(n, h->sq, c.id, s, 0);
	}
	n->regs.held_count = 0;
	memset(n->regs.held, 0, sizeof(n->regs.held));
	if ((n->regs.csts & CSTS_SHUTDOWN_MASK) == 4) /* the flush of the shutdown was in flight */
		nvme_start_shutdown(n);
}

void nvme_io_init(struct nvme *n)
{
	n->requests = dev_alloc((NVME_REQUESTS + 1) * sizeof(*n->requests));
	for (unsigned i = 0; i < NVME_REQUESTS; i++) {
		n->requests[i].nvme = n;
		request_free(n, &n->requests[i]);
	}
	disk_flight_init(&n->flight);
}

void nvme_io_free(struct nvme *n)
{
	pthread_mutex_lock(&n->bus->lock);
	nvme_forget(n, 0);
	pthread_mutex_unlock(&n->bus->lock);
	disk_flight_destroy(&n->flight);
	for (unsigned i = 0; i < NVME_REQUESTS; i++)
		free(n->requests[i].ranges);
	free(n->requests);
}
