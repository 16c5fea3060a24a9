/* virtio-blk: queues, requests in flight, life. */
#include "virtio/virtio_blk_io.h"
#include <stdlib.h>

STATE_DESC(virtio_blk_regs, VIRTIO_BLK_STATE);

enum { QUEUE_SIZE = 256 };
#define F_SEG_MAX BIT(2)
#define F_RO BIT(5)
#define F_BLK_SIZE BIT(6)
#define F_FLUSH BIT(9)
#define F_MQ BIT(12)
#define F_DISCARD BIT(13)
#define F_WRITE_ZEROES BIT(14)

/* struct virtio_blk_config: offset and size of what we fill in. */
enum { CFG_CAPACITY = 0, CFG_SEG_MAX = 12, CFG_BLK_SIZE = 20, CFG_NUM_QUEUES = 34, CFG_DISCARD_SECTORS = 36, CFG_DISCARD_SEGS = 40,
	CFG_DISCARD_ALIGN = 44, CFG_ZEROES_SECTORS = 48, CFG_ZEROES_SEGS = 52, CFG_ZEROES_UNMAP = 56, CFG_BYTES = 60 };

static struct virtio_blk *blk_of(struct virtio_device *v) { return container_of(v, struct virtio_blk, v); }

static void request_free(struct virtio_blk *b, struct virtio_blk_request *r)
{
	r->next = b->free;
	b->free = r;
}

/* ---- from the queue to the disk; bus->lock held ---- */
static void give_back(struct virtio_blk *b, struct virtio_blk_request *r)
{
	virtio_push(&b->v, r->queue, r->chain.head, virtio_blk_complete(b, r));
	request_free(b, r);
}

/* Whether it has been given back already. */
static bool start_request(struct virtio_blk *b, struct virtio_blk_request *r)
{
	if (!virtio_blk_next(b, r) || disk_at_once(b->disk, &r->disk)) {
		give_back(b, r);
		return true;
	}
	disk_flight_submit(&b->flight, b->disk, &r->disk);
	return false;
}

/* The first free request, whose chain has been filled in, if it is one. */
static struct virtio_blk_request *parse_request(struct virtio_blk *b, unsigned n)
{
	struct virtio_blk_request *r = b->free;

	if (!virtio_blk_parse(b, r)) {
		virtio_broken(&b->v, "block request without header or status");
		return NULL;
	}
	b->free = r->next;
	r->queue = n;
	return r;
}

/* Takes chains while there are free requests; what stays in the ring is taken when one completes. */
static void take_requests(struct virtio_blk *b, unsigned n)
{
	bool signal = false;

	do {
		while (b->free && virtio_pop(&b->v, n, &b->free->chain)) {
			struct virtio_blk_request *r = parse_request(b, n);

			if (!r)
				return;
			signal |= start_request(b, r);
		}
	} while (b->free && virtio_arm_notify(&b->v, n));
	if (signal)
		virtio_signal(&b->v, n);
}

static void blk_notify(struct virtio_device *v, unsigned n) { take_requests(blk_of(v), n); }

/* ---- and back ---- */
/* bus->lock held. Gives finished requests back and takes new ones. */
static void complete_done(struct virtio_blk *b)
{
	struct disk_request *d;
	unsigned touched = 0;

	while ((d = disk_flight_take(&b->flight))) {
		struct virtio_blk_request *r = container_of(d, struct virtio_blk_request, disk);

		touched |= 1u << r->queue;
		give_back(b, r);
	}
	for (unsigned n = 0; n < b->v.nqueues; n++)
		if (touched & (1u << n))
			virtio_signal(&b->v, n);
	for (unsigned n = 0; touched && n < b->v.nqueues; n++)
		take_requests(b, n);
}

/* In a worker's thread, without locks. One worker gives back what several have done. */
static void request_done(struct disk_request *d, int err)
{
	struct virtio_blk_request *r = container_of(d, struct virtio_blk_request, disk);
	struct virtio_blk *b = r->blk;
	struct bus *bus = b->v.bus;

	virtio_blk_result(r, err);
	if (virtio_blk_next(b, r)) {
		disk_submit(b->disk, &r->disk);
		return;
	}
	if (!disk_flight_land(&b->flight, d))
		return;
	pthread_mutex_lock(&bus->lock);
	complete_done(b);
	pthread_mutex_unlock(&bus->lock);
	disk_flight_left(&b->flight);
}

/* ---- reset, saving, loading ---- */
/* bus->lock held. Takes back what has not begun, waits for what has (the workers need no bus->lock to finish it), and gives nothing
 * back: the rings are no longer ours. */
static void forget_all(struct virtio_blk *b)
{
	while (disk_flight_busy(&b->flight, 0)) {
		for (struct disk_request *d = disk_flight_recall(&b->flight, b->disk, b), *next; d; d = next) {
			next = d->next;
			request_free(b, container_of(d, struct virtio_blk_request, disk));
		}
		disk_flight_wait_above(&b->flight, 0);
	}
}

static void blk_reset(struct virtio_device *v)
{
	struct virtio_blk *b = blk_of(v);

	forget_all(b);
	memset(&b->regs, 0, sizeof(b->regs));
}

/* bus->lock held, nothing moves: those that the disk has are held. */
static void note_held(struct virtio_blk *b)
{
	memset(&b->regs, 0, sizeof(b->regs));
	for (unsigned i = 0; i < VIRTIO_BLK_REQUESTS; i++) {
		struct virtio_blk_request *r = &b->requests[i];
		bool free = false;

		for (struct virtio_blk_request *f = b->free; f && !free; f = f->next)
			free = f == r;
		if (!free)
			b->regs.held[b->regs.held_count++] = r->queue << 16 | r->chain.head;
	}
}

/* bus->lock not held. Afterwards everything taken from the rings has been given back, or is held and stands in the registers. */
static void blk_quiesce(struct virtio_device *v)
{
	struct virtio_blk *b = blk_of(v);
	bool busy = true;

	while (busy) {
		while (disk_flight_wait_above(&b->flight, disk_held(b->disk, b)))
			;
		pthread_mutex_lock(&b->v.bus->lock);
		complete_done(b);
		busy = disk_flight_busy(&b->flight, disk_held(b->disk, b));
		if (!busy)
			note_held(b);
		pthread_mutex_unlock(&b->v.bus->lock);
	}
}

/* Requests that were held when the state was saved are done again. */
static void blk_loaded(void *dev)
{
	struct virtio_blk *b = dev;

	forget_all(b);
	if (b->regs.held_count > VIRTIO_BLK_REQUESTS)
		b->regs.held_count = 0;
	for (unsigned i = 0; i < b->regs.held_count && b->free; i++) {
		unsigned n = b->regs.held[i] >> 16;
		struct virtio_blk_request *r = NULL;

		if (virtio_pop_again(&b->v, n, (u16)b->regs.held[i], &b->free->chain))
			r = parse_request(b, n);
		if (r && start_request(b, r))
			virtio_signal(&b->v, n);
	}
	memset(&b->regs, 0, sizeof(b->regs));
}

static void blk_destroy(struct virtio_device *v)
{
	struct virtio_blk *b = blk_of(v);

	pthread_mutex_lock(&v->bus->lock);
	forget_all(b);
	pthread_mutex_unlock(&v->bus->lock);
	disk_flight_destroy(&b->flight);
	free(b->requests);
	free(b);
}

/* ---- construction ---- */
static void fill_config(struct virtio_blk *b)
{
	const struct { u8 off, size; u64 value; } row[] = {
		{ CFG_CAPACITY, 8, disk_size(b->disk) / DISK_SECTOR },
		{ CFG_SEG_MAX, 4, BLK_SEG_MAX },
		{ CFG_BLK_SIZE, 4, DISK_SECTOR },
		{ CFG_NUM_QUEUES, 2, b->v.nqueues },
		{ CFG_DISCARD_SECTORS, 4, BLK_MAX_RANGE_SECTORS },
		{ CFG_DISCARD_SEGS, 4, BLK_MAX_RANGES },
		{ CFG_DISCARD_ALIGN, 4, 8 },
		{ CFG_ZEROES_SECTORS, 4, BLK_MAX_RANGE_SECTORS },
		{ CFG_ZEROES_SEGS, 4, BLK_MAX_RANGES },
		{ CFG_ZEROES_UNMAP, 1, 1 },
	};

	for (unsigned i = 0; i < array_len(row); i++)
		store_le(b->v.config + row[i].off, row[i].value, row[i].size);
}

static const struct virtio_class blk_class = { .name = "virtio-blk", .id = 2, .class_code = 0x010000,
	.features = F_SEG_MAX | F_BLK_SIZE | F_FLUSH, .notify = blk_notify, .reset = blk_reset,
	.quiesce = blk_quiesce, .destroy = blk_destroy };

struct virtio_blk *virtio_blk_create(struct pci_host *h, unsigned slot, const struct virtio_blk_config *cfg)
{
	struct virtio_blk *b = dev_alloc(sizeof(*b));
	struct dev_instance inst = { .desc = &virtio_blk_regs_state, .regs = &b->regs, .dev = b, .loaded = blk_loaded };
	u64 more = disk_read_only(cfg->disk) ? F_RO : F_DISCARD | F_WRITE_ZEROES;

	b->disk = cfg->disk;
	b->requests = dev_alloc(VIRTIO_BLK_REQUESTS * sizeof(*b->requests));
	for (unsigned i = 0; i < VIRTIO_BLK_REQUESTS; i++) {
		b->requests[i].blk = b;
		b->requests[i].disk.done = request_done;
		b->requests[i].disk.owner = b;
		request_free(b, &b->requests[i]);
	}
	memcpy(b->id, cfg->id, strnlen(cfg->id, sizeof(b->id)));
	disk_flight_init(&b->flight);
	virtio_device_init(&b->v, h, slot, &blk_class, more | (cfg->queues > 1 ? F_MQ : 0), cfg->queues, QUEUE_SIZE, CFG_BYTES);
	fill_config(b);
	dev_list_unique_name(h->devs, "virtio-blk-held", inst.name, sizeof(inst.name));
	dev_list_add(h->devs, &inst);
	return b;
}
