/* virtio-fs. */
#include "virtio/virtio_fs.h"
#include "base/log.h"
#include "share/share.h"

#include <errno.h>
#include "share/fuse_abi.h"
#include <stdlib.h>
#include <unistd.h>

enum { HIGH, REQUEST, QUEUES, QUEUE_SIZE = 128, CONFIG_QUEUES = 36, CONFIG_BYTES = 40 };

static struct virtio_fs *fs_of(struct virtio_device *v) { return container_of(v, struct virtio_fs, v); }

/* ---- to the server ---- */
static bool send_request(struct virtio_fs *f, u32 id, const struct virtq_chain *c)
{
	struct share_request rq;
	unsigned n = (unsigned)c->nout + c->nin;
	rq.id = id;
	rq.nout = c->nout;
	rq.nin = c->nin;
	for (unsigned i = 0; i < n; i++)
		rq.seg[i] = (struct share_seg){ (u64)(uintptr_t)c->seg[i].host, c->seg[i].len };
	size_t len = offsetof(struct share_request, seg) + n * sizeof rq.seg[0];
	ssize_t sent;
	do
		sent = write(f->fd, &rq, len);
	while (sent < 0 && errno == EINTR);
	return sent == (ssize_t)len;
}

/* Without a server every request that wants an answer fails. */
static u32 refuse(struct virtio_fs *f, const struct virtq_chain *c)
{
	struct fuse_in_header in;
	if (virtq_chain_read(c, 0, &in, sizeof in) < sizeof in || c->in_len < sizeof(struct fuse_out_header))
		return 0;
	struct fuse_out_header out = { .len = sizeof out, .error = -EIO, .unique = in.unique };
	return (u32)virtq_chain_write(f->v.bus->mem, c, 0, &out, sizeof out);
}

static struct virtio_fs_slot *free_slot(struct virtio_fs *f)
{
	struct virtio_fs_slot *s = NULL;
	pthread_mutex_lock(&f->lock);
	for (unsigned i = 0; i < VIRTIO_FS_IN_FLIGHT && !s; i++)
		if (!f->slot[i].busy)
			s = &f->slot[i];
	pthread_mutex_unlock(&f->lock);
	return s;
}

static void answered(struct virtio_fs *f, u32 id, u32 written, bool dead);
static void give_back(struct virtio_fs *f);

static void start(struct virtio_fs *f, struct virtio_fs_slot *s, unsigned queue)
{
	pthread_mutex_lock(&f->lock);
	bool dead = f->dead;
	s->busy = !dead;
	s->done = false;
	s->queue = queue;
	f->waiting += !dead;
	pthread_mutex_unlock(&f->lock);
	if (!dead && send_request(f, (u32)(s - f->slot), &s->chain))
		return;
	if (!dead) { /* it has just died: fs_thread sees that too */
		answered(f, 0, 0, true);
		give_back(f);
		return;
	}
	virtio_push(&f->v, queue, s->chain.head, refuse(f, &s->chain));
	virtio_signal(&f->v, queue);
}

static void fs_notify(struct virtio_device *v, unsigned n)
{
	struct virtio_fs *f = fs_of(v);
	struct virtio_fs_slot *s;
	do {
		while ((s = free_slot(f)) && virtio_pop(v, n, &s->chain))
			start(f, s, n);
	} while (s && virtio_arm_notify(v, n));
}

/* ---- from the server ---- */
/* bus->lock held: gives back what is done. */
static void give_back(struct virtio_fs *f)
{
	bool signal[QUEUES] = { false };
	for (unsigned i = 0; i < VIRTIO_FS_IN_FLIGHT; i++) {
		struct virtio_fs_slot *s = &f->slot[i];
		pthread_mutex_lock(&f->lock);
		bool done = s->busy && s->done, dead = f->dead;
		pthread_mutex_unlock(&f->lock);
		if (!done)
			continue;
		u64 left = s->written;
		for (unsigned k = s->chain.nout; k < (unsigned)s->chain.nout + s->chain.nin && left; k++) {
			u64 len = min_u64(left, s->chain.seg[k].len);
			virtq_wrote(f->v.bus->mem, &s->chain.seg[k], len);
			left -= len;
		}
		virtio_push(&f->v, s->queue, s->chain.head, dead && !s->written ? refuse(f, &s->chain) : s->written);
		signal[s->queue] = true;
		pthread_mutex_lock(&f->lock);
		s->busy = false;
		pthread_mutex_unlock(&f->lock);
	}
	for (unsigned n = 0; n < QUEUES; n++)
		if (signal[n])
			virtio_signal(&f->v, n);
	for (unsigned n = 0; n < QUEUES; n++)
		if (virtio_queue_ready(&f->v, n))
			fs_notify(&f->v, n);
}

/* The answer to slot `id`, or, with dead, to all that wait. */
static void answered(struct virtio_fs *f, u32 id, u32 written, bool dead)
{
	pthread_mutex_lock(&f->lock);
	f->dead |= dead;
	for (unsigned i = 0; i < VIRTIO_FS_IN_FLIGHT; i++) {
		struct virtio_fs_slot *s = &f->slot[i];
		if ((i != id && !dead) || !s->busy || s->done)
			continue;
		s->done = true;
		s->written = dead ? 0 : (u32)min_u64(written, s->chain.in_len);
		f->waiting--;
	}
	if (!f->waiting)
		pthread_cond_broadcast(&f->idle);
	pthread_mutex_unlock(&f->lock);
}

/* Waits for an answer. False: the server has ended. */
static bool take_answer(struct virtio_fs *f)
{
	struct share_reply r = { 0 };
	ssize_t n;
	do
		n = read(f->fd, &r, sizeof r);
	while (n < 0 && errno == EINTR);
	answered(f, r.id, r.written, n != sizeof r);
	return n == sizeof r;
}

static void *fs_thread(void *opaque)
{
	struct virtio_fs *f = opaque;
	for (bool dead = false; !dead;) {
		dead = !take_answer(f);
		pthread_mutex_lock(&f->lock);
		bool stop = f->stop;
		f->returning = !stop;
		pthread_cond_broadcast(&f->idle);
		pthread_mutex_unlock(&f->lock);
		if (stop)
			return NULL;
		if (dead)
			log_error("share \"%s\": its server has ended; the guest gets I/O errors from now on", f->share);
		bus_lock(f->v.bus);
		give_back(f);
		pthread_mutex_lock(&f->lock);
		f->returning = false;
		pthread_mutex_unlock(&f->lock);
		bus_unlock(f->v.bus);
	}
	return NULL;
}

/* ---- the device ---- */
static void wait_idle(struct virtio_fs *f)
{
	pthread_mutex_lock(&f->lock);
	while (f->waiting)
		pthread_cond_wait(&f->idle, &f->lock);
	pthread_mutex_unlock(&f->lock);
}

/* bus->lock held. When the thread waits for that lock, nobody else takes the answers. */
static void wait_idle_in_its_place(struct virtio_fs *f)
{
	pthread_mutex_lock(&f->lock);
	while (f->waiting) {
		if (!f->returning) {
			pthread_cond_wait(&f->idle, &f->lock);
			continue;
		}
		pthread_mutex_unlock(&f->lock);
		take_answer(f);
		pthread_mutex_lock(&f->lock);
	}
	pthread_mutex_unlock(&f->lock);
}

/* What is done, and not yet given back, belongs to nobody any more. */
static void fs_reset(struct virtio_device *v)
{
	struct virtio_fs *f = fs_of(v);
	if (!f->slot)
		return;
	wait_idle_in_its_place(f);
	pthread_mutex_lock(&f->lock);
	for (unsigned i = 0; i < VIRTIO_FS_IN_FLIGHT; i++)
		f->slot[i].busy = f->slot[i].done = false;
	pthread_mutex_unlock(&f->lock);
}

/* Giving back may start what waited in the ring. */
static void fs_quiesce(struct virtio_device *v)
{
	struct virtio_fs *f = fs_of(v);
	bool more = true;
	while (more) {
		wait_idle(f);
		bus_lock(v->bus);
		give_back(f);
		bus_unlock(v->bus);
		pthread_mutex_lock(&f->lock);
		more = f->waiting > 0;
		pthread_mutex_unlock(&f->lock);
	}
}

static void fs_destroy(struct virtio_device *v)
{
	struct virtio_fs *f = fs_of(v);
	pthread_mutex_lock(&f->lock);
	f->stop = true;
	pthread_mutex_unlock(&f->lock);
	send_request(f, ~0u, &(struct virtq_chain){ 0 }); /* its answer, or the server's end, wakes the thread */
	pthread_join(f->thread, NULL);
	close(f->fd);
	free(f->slot);
	free(f);
}

static const struct virtio_class fs_class = { .name = "virtio-fs", .id = 26, .class_code = 0x018000, .notify = fs_notify, .reset = fs_reset,
	.quiesce = fs_quiesce, .destroy = fs_destroy };

struct virtio_fs *virtio_fs_create(struct pci_host *h, unsigned slot, const char *tag, int fd, const char *share)
{
	struct virtio_fs *f = dev_alloc(sizeof *f);
	f->fd = fd;
	f->slot = dev_alloc(VIRTIO_FS_IN_FLIGHT * sizeof *f->slot);
	pthread_mutex_init(&f->lock, NULL);
	pthread_cond_init(&f->idle, NULL);
	strncpy(f->share, share, sizeof f->share - 1);
	f->v.bus = h->bus;
	int err = pthread_create(&f->thread, NULL, fs_thread, f);
	if (err) {
		log_error("share \"%s\": cannot start a thread: %s", share, strerror(err));
		close(fd);
		free(f->slot);
		free(f);
		return NULL;
	}
	virtio_device_init(&f->v, h, slot, &fs_class, 0, QUEUES, QUEUE_SIZE, CONFIG_BYTES);
	memcpy(f->v.config, tag, strnlen(tag, VIRTIO_FS_TAG));
	store_le(f->v.config + CONFIG_QUEUES, 1, 4);
	return f;
}
