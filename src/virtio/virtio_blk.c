/* virtio-blk: queues, worker thread, life. */
#include "virtio/virtio_blk_io.h"
#include "base/log.h"
#include <signal.h>
#include <stdlib.h>

enum { QUEUE_SIZE = 128 };
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

static struct virtio_blk *blk_of(struct virtio_device *v)
{
	return container_of(v, struct virtio_blk, v);
}

static void list_init(struct virtio_blk_list *l)
{
	l->first = NULL;
	l->last = &l->first;
}

static void list_add(struct virtio_blk_list *l, struct virtio_blk_request *r)
{
	r->next = NULL;
	*l->last = r;
	l->last = &r->next;
}

static struct virtio_blk_request *list_take(struct virtio_blk_list *l)
{
	struct virtio_blk_request *r = l->first;

	if (r) {
		l->first = r->next;
		if (!l->first)
			l->last = &l->first;
	}
	return r;
}

static void request_free(struct virtio_blk *b, struct virtio_blk_request *r)
{
	r->next = b->free;
	b->free = r;
}

/* Takes chains while there are free requests; what stays in the ring is taken when one completes. */
static void take_requests(struct virtio_blk *b, unsigned n)
{
	do {
		while (b->free && virtio_pop(&b->v, n, &b->free->chain)) {
			struct virtio_blk_request *r = b->free;

			if (!virtio_blk_parse(b, r)) {
				virtio_broken(&b->v, "block request without header or status");
				return;
			}
			b->free = r->next;
			r->queue = n;
			pthread_mutex_lock(&b->lock);
			list_add(&b->todo, r);
			pthread_cond_signal(&b->work);
			pthread_mutex_unlock(&b->lock);
		}
	} while (b->free && virtio_arm_notify(&b->v, n));
}

static void blk_notify(struct virtio_device *v, unsigned n)
{
	take_requests(blk_of(v), n);
}

/* bus->lock held. Gives finished requests back and takes new ones. */
static void complete_done(struct virtio_blk *b)
{
	unsigned touched = 0;

	for (;;) {
		pthread_mutex_lock(&b->lock);
		struct virtio_blk_request *r = list_take(&b->done);
		pthread_mutex_unlock(&b->lock);

		if (!r)
			break;
		virtio_push(&b->v, r->queue, r->chain.head, virtio_blk_complete(b, r));
		touched |= 1u << r->queue;
		request_free(b, r);
	}
	for (unsigned n = 0; n < b->v.nqueues; n++)
		if (touched & (1u << n))
			virtio_signal(&b->v, n);
	for (unsigned n = 0; touched && n < b->v.nqueues; n++)
		take_requests(b, n);
}

/* b->lock held; drops it meanwhile. */
static void work_one(struct virtio_blk *b, struct virtio_blk_request *r)
{
	b->active = true;
	pthread_mutex_unlock(&b->lock);
	virtio_blk_execute(b, r);
	pthread_mutex_lock(&b->lock);
	list_add(&b->done, r);
	b->active = false;
	pthread_cond_broadcast(&b->idle);
}

static void *worker(void *opaque)
{
	struct virtio_blk *b = opaque;

	pthread_mutex_lock(&b->lock);
	while (!b->stop) {
		struct virtio_blk_request *r = list_take(&b->todo);

		if (!r) {
			pthread_cond_wait(&b->work, &b->lock);
			continue;
		}
		work_one(b, r);
		pthread_mutex_unlock(&b->lock);
		pthread_mutex_lock(&b->v.bus->lock);
		complete_done(b);
		pthread_mutex_unlock(&b->v.bus->lock);
		pthread_mutex_lock(&b->lock);
	}
	pthread_mutex_unlock(&b->lock);
	return NULL;
}

/* bus->lock held. Requests not yet begun are dropped, one being done is waited for (the worker needs no bus->lock to
 * finish it), and none is given back: the rings are no longer ours. */
static void blk_reset(struct virtio_device *v)
{
	struct virtio_blk *b = blk_of(v);
	struct virtio_blk_request *r;

	pthread_mutex_lock(&b->lock);
	while ((r = list_take(&b->todo)))
		request_free(b, r);
	while (b->active)
		pthread_cond_wait(&b->idle, &b->lock);
	while ((r = list_take(&b->done)))
		request_free(b, r);
	pthread_mutex_unlock(&b->lock);
}

/* bus->lock not held. Afterwards everything taken from the rings has been given back. */
static void blk_quiesce(struct virtio_device *v)
{
	struct virtio_blk *b = blk_of(v);
	bool busy = true;

	while (busy) {
		pthread_mutex_lock(&b->lock);
		while (b->active || b->todo.first)
			pthread_cond_wait(&b->idle, &b->lock);
		pthread_mutex_unlock(&b->lock);
		pthread_mutex_lock(&b->v.bus->lock);
		complete_done(b);
		pthread_mutex_lock(&b->lock);
		busy = b->active || b->todo.first || b->done.first;
		pthread_mutex_unlock(&b->lock);
		pthread_mutex_unlock(&b->v.bus->lock);
	}
}

static void blk_destroy(struct virtio_device *v)
{
	struct virtio_blk *b = blk_of(v);

	pthread_mutex_lock(&b->lock);
	b->stop = true;
	pthread_cond_signal(&b->work);
	pthread_mutex_unlock(&b->lock);
	pthread_join(b->thread, NULL);
	pthread_cond_destroy(&b->work);
	pthread_cond_destroy(&b->idle);
	pthread_mutex_destroy(&b->lock);
	file_close(&b->file);
	free(b->requests);
	free(b);
}

static void fill_config(struct virtio_blk *b)
{
	const struct { u8 off, size; u64 value; } row[] = {
		{ CFG_CAPACITY, 8, b->file.size / FILE_SECTOR },
		{ CFG_SEG_MAX, 4, BLK_SEG_MAX },
		{ CFG_BLK_SIZE, 4, FILE_SECTOR },
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

/* Signals are for the threads that the rest of the program chooses. */
static int start_worker(struct virtio_blk *b)
{
	sigset_t all, old;
	int err;

	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &old);
	err = pthread_create(&b->thread, NULL, worker, b);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return err;
}

struct virtio_blk *virtio_blk_create(struct pci_host *h, unsigned slot, const struct virtio_blk_config *cfg)
{
	struct virtio_blk *b = dev_alloc(sizeof(*b));
	u64 more = cfg->file.read_only ? F_RO : F_DISCARD | F_WRITE_ZEROES;
	int err;

	b->file = cfg->file;
	b->requests = dev_alloc(VIRTIO_BLK_REQUESTS * sizeof(*b->requests));
	for (unsigned i = 0; i < VIRTIO_BLK_REQUESTS; i++)
		request_free(b, &b->requests[i]);
	memcpy(b->id, cfg->id, strnlen(cfg->id, sizeof(b->id)));
	list_init(&b->todo);
	list_init(&b->done);
	pthread_mutex_init(&b->lock, NULL);
	pthread_cond_init(&b->work, NULL);
	pthread_cond_init(&b->idle, NULL);
	err = start_worker(b);
	if (err) {
		log_error("disk: cannot start its thread: %s", strerror(err));
		file_close(&b->file);
		free(b->requests);
		free(b);
		return NULL;
	}
	virtio_device_init(&b->v, h, slot, &blk_class, more | (cfg->queues > 1 ? F_MQ : 0), cfg->queues, QUEUE_SIZE, CFG_BYTES);
	fill_config(b);
	return b;
}
