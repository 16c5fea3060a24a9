/* Disks: the queue, its workers, errors, checkpoints. Not here: what --disk says (disk_spec.c), opening an image (disk_open.c), layers.
 * Surprise: workers never stop at an error; a request that is held just lies in another list. */
#include "host/disk_int.h"
#include "base/log.h"
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* ---- lists; d->lock held ---- */
static void list_init(struct disk_list *l)
{
	l->first = NULL;
	l->last = &l->first;
}

static void list_add(struct disk_list *l, struct disk_request *r)
{
	r->next = NULL;
	*l->last = r;
	l->last = &r->next;
}

static struct disk_request *list_take(struct disk_list *l)
{
	struct disk_request *r = l->first;

	if (r) {
		l->first = r->next;
		if (!l->first)
			l->last = &l->first;
	}
	return r;
}

/* Moves owner's requests to the end of `to`. */
static void list_take_owner(struct disk_list *l, void *owner, struct disk_list *to)
{
	struct disk_list rest;
	struct disk_request *r;

	list_init(&rest);
	while ((r = list_take(l)))
		list_add(r->owner == owner ? to : &rest, r);
	list_init(l);
	while ((r = list_take(&rest)))
		list_add(l, r);
}

/* ---- doing one request ---- */
static int transfer(struct disk *d, unsigned worker, struct disk_request *r, struct iovec *iov, int n)
{
	if (r->op == DISK_READ)
		return d->top->ops->read(d->top, worker, iov, n, r->at);
	return d->top->ops->write(d->top, worker, iov, n, r->at, r->fua);
}

/* More pieces than layers take at once go through one piece. */
static int transfer_in_one(struct disk *d, unsigned worker, struct disk_request *r)
{
	u8 *all = malloc(r->len), *p = all;
	struct iovec one = { all, r->len };
	int err;

	if (!all)
		return -ENOMEM;
	for (int i = 0; r->op == DISK_WRITE && i < r->niov; p += r->iov[i++].iov_len)
		memcpy(p, r->iov[i].iov_base, r->iov[i].iov_len);
	err = transfer(d, worker, r, &one, 1);
	for (int i = 0; r->op == DISK_READ && !err && i < r->niov; p += r->iov[i++].iov_len)
		memcpy(r->iov[i].iov_base, p, r->iov[i].iov_len);
	free(all);
	return err;
}

static int perform(struct disk *d, unsigned worker, struct disk_request *r)
{
	struct iovec iov[DISK_MAX_IOV];

	switch (r->op) {
	case DISK_READ:
	case DISK_WRITE:
		if (r->niov > DISK_MAX_IOV)
			return transfer_in_one(d, worker, r);
		memcpy(iov, r->iov, (size_t)r->niov * sizeof(*iov));
		return transfer(d, worker, r, iov, r->niov);
	case DISK_FLUSH:
		return d->top->read_only ? 0 : d->top->ops->flush(d->top, worker);
	case DISK_DISCARD:
		return d->top->ops->discard(d->top, worker, r->at, r->len);
	case DISK_WRITE_ZEROES:
		return d->top->ops->write_zeroes(d->top, worker, r->at, r->len, r->unmap, r->fua);
	}
	return -EINVAL;
}

static bool request_ok(const struct disk *d, const struct disk_request *r)
{
	u64 sum = 0;

	if (r->op == DISK_FLUSH)
		return true;
	for (int i = 0; (r->op == DISK_READ || r->op == DISK_WRITE) && i < r->niov; i++)
		sum += r->iov[i].iov_len;
	if ((r->op == DISK_READ || r->op == DISK_WRITE) && sum != r->len)
		return false;
	return r->at % DISK_SECTOR == 0 && r->len % DISK_SECTOR == 0 && r->at <= d->size && r->len <= d->size - r->at;
}

static int check_and_perform(struct disk *d, unsigned worker, struct disk_request *r)
{
	if (!request_ok(d, r))
		return -EINVAL;
	if (r->op != DISK_READ && r->op != DISK_FLUSH && d->top->read_only)
		return -EROFS;
	return r->op != DISK_FLUSH && r->len == 0 ? 0 : perform(d, worker, r);
}

/* d->lock held */
static void count(struct disk *d, const struct disk_request *r, int err)
{
	struct disk_counters *c = &d->counters;

	c->errors += err != 0;
	c->reads += r->op == DISK_READ;
	c->writes += r->op == DISK_WRITE;
	c->flushes += r->op == DISK_FLUSH;
	c->discards += r->op == DISK_DISCARD || r->op == DISK_WRITE_ZEROES;
	c->read_bytes += r->op == DISK_READ ? r->len : 0;
	c->write_bytes += r->op == DISK_WRITE ? r->len : 0;
}

/* ---- errors ---- */
static const char *const op_name[] = { "read", "write", "flush", "discard", "write zeroes" };

static void describe(const struct disk *d, const struct disk_request *r, int err, char *text, size_t size)
{
	if (r->op == DISK_FLUSH)
		snprintf(text, size, "disk \"%s\": the host cannot flush it: %s", d->spec.path, strerror(-err));
	else
		snprintf(text, size, "disk \"%s\": the host cannot %s %llu bytes at %llu: %s", d->spec.path, op_name[r->op],
			 (unsigned long long)r->len, (unsigned long long)r->at, strerror(-err));
}

/* Errors that the guest has earned itself are never held. */
static bool shall_hold(const struct disk *d, int err)
{
	return err && d->pause && d->spec.on_error == DISK_ERROR_PAUSE && err != -EINVAL && err != -EROFS && err != -EPERM;
}

static void hold(struct disk *d, struct disk_request *r, int err)
{
	char text[4608];
	bool first;

	r->error = err;
	describe(d, r, err, text, sizeof(text));
	pthread_mutex_lock(&d->lock);
	list_add(&d->held, r);
	first = !d->paused;
	d->paused = true;
	pthread_mutex_unlock(&d->lock);
	if (first)
		d->pause(d->pause_opaque, d, text);
}

static void finish(struct disk *d, struct disk_request *r, int err)
{
	char text[4608];

	if (err && err != -EINVAL && err != -EROFS && err != -EPERM && !__atomic_exchange_n(&d->complained, true, __ATOMIC_RELAXED)) {
		describe(d, r, err, text, sizeof(text));
		log_warn("%s; the guest gets an I/O error (this is said once)", text);
	}
	r->done(r, err);
}

/* ---- workers ---- */
struct disk_worker {
	struct disk *d;
	unsigned number;
};

static void *worker(void *opaque)
{
	struct disk_worker w = *(struct disk_worker *)opaque;
	struct disk *d = w.d;
	struct disk_request *r;
	int err;

	free(opaque);
	pthread_mutex_lock(&d->lock);
	for (;;) {
		r = d->waits ? NULL : list_take(&d->queue);
		if (!r && d->stop)
			break;
		if (!r) {
			d->idle++;
			pthread_cond_wait(&d->work, &d->lock);
			d->idle--;
			continue;
		}
		pthread_mutex_unlock(&d->lock);
		err = check_and_perform(d, w.number, r);
		pthread_mutex_lock(&d->lock);
		count(d, r, err);
		pthread_mutex_unlock(&d->lock);
		if (shall_hold(d, err))
			hold(d, r, err);
		else
			finish(d, r, err);
		pthread_mutex_lock(&d->lock);
	}
	pthread_mutex_unlock(&d->lock);
	return NULL;
}

/* Signals are for the threads that the rest of the program chooses. */
static int start_workers(struct disk *d)
{
	sigset_t all, old;
	int err = 0;

	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &old);
	while (!err && d->nthreads < DISK_WORKERS) {
		struct disk_worker *w = malloc(sizeof(*w));

		if (!w) {
			err = ENOMEM;
			break;
		}
		*w = (struct disk_worker){ d, d->nthreads };
		err = pthread_create(&d->thread[d->nthreads], NULL, worker, w);
		if (err)
			free(w);
		else
			d->nthreads++;
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return -err;
}

int disk_start(struct disk **out, struct disk_layer *top, const struct disk_spec *s)
{
	struct disk *d = calloc(1, sizeof(*d));
	int err;

	if (!d)
		return -ENOMEM;
	d->top = top;
	d->size = top->size;
	d->spec = *s;
	d->spec.noverlays = 0; /* the strings are the caller's */
	list_init(&d->queue);
	list_init(&d->held);
	pthread_mutex_init(&d->lock, NULL);
	pthread_cond_init(&d->work, NULL);
	err = start_workers(d);
	if (err) {
		log_error("disk \"%s\": cannot start its threads: %s", s->path, strerror(-err));
		disk_close(d);
		return err;
	}
	*out = d;
	return 0;
}

void disk_close(struct disk *d)
{
	if (!d)
		return;
	pthread_mutex_lock(&d->lock);
	d->stop = true;
	pthread_cond_broadcast(&d->work);
	pthread_mutex_unlock(&d->lock);
	for (unsigned i = 0; i < d->nthreads; i++)
		pthread_join(d->thread[i], NULL);
	if (!d->top->read_only && d->top->ops->flush(d->top, 0))
		log_warn("disk \"%s\": could not be flushed at the end", d->spec.path);
	d->top->ops->close(d->top);
	pthread_cond_destroy(&d->work);
	pthread_mutex_destroy(&d->lock);
	free(d);
}

u64 disk_size(const struct disk *d) { return d->size; }
bool disk_read_only(const struct disk *d) { return d->top->read_only; }

bool disk_needs_server(const struct disk *d)
{
	const struct disk_layer *l = d->top;

	while (l->below)
		l = l->below;
	return l->server;
}

const struct disk_spec *disk_get_spec(const struct disk *d) { return &d->spec; }

void disk_submit(struct disk *d, struct disk_request *r)
{
	pthread_mutex_lock(&d->lock);
	list_add(&d->queue, r);
	if (d->idle)
		pthread_cond_signal(&d->work);
	pthread_mutex_unlock(&d->lock);
}

void disk_wait(struct disk *d, bool on)
{
	pthread_mutex_lock(&d->lock);
	__atomic_store_n(&d->waits, on, __ATOMIC_RELEASE);
	pthread_cond_broadcast(&d->work);
	pthread_mutex_unlock(&d->lock);
}

/* Limits by bench/blk: about 0.1 ms in the caller's locks, and a worker costs more than it saves. Errors are for the worker that does it again. */
bool disk_at_once(struct disk *d, struct disk_request *r)
{
	const struct disk_layer_ops *ops = d->top->ops;
	const struct {
		int (*fn)(struct disk_layer *l, const struct iovec *iov, int n, u64 at, u64 len);
		u64 most;
		struct disk_at_once *counted;
	} way[] = { [DISK_READ] = { ops->read_at_once, 1 << 20, &d->read_at_once }, [DISK_WRITE] = { ops->write_at_once, 64 << 10, &d->written_at_once } };

	if (__atomic_load_n(&d->waits, __ATOMIC_ACQUIRE) || r->op >= array_len(way) || !way[r->op].fn || r->len == 0 || r->len > way[r->op].most || r->niov > DISK_MAX_IOV || r->fua || !request_ok(d, r) ||
	    (r->op == DISK_WRITE && d->top->read_only))
		return false;
	if (way[r->op].fn(d->top, r->iov, r->niov, r->at, r->len))
		return false;
	__atomic_fetch_add(&way[r->op].counted->requests, 1, __ATOMIC_RELAXED);
	__atomic_fetch_add(&way[r->op].counted->bytes, r->len, __ATOMIC_RELAXED);
	return true;
}

struct disk_request *disk_cancel(struct disk *d, void *owner)
{
	struct disk_list taken;

	list_init(&taken);
	pthread_mutex_lock(&d->lock);
	list_take_owner(&d->queue, owner, &taken);
	list_take_owner(&d->held, owner, &taken);
	if (!d->held.first)
		d->paused = false;
	pthread_mutex_unlock(&d->lock);
	return taken.first;
}

void disk_set_pause(struct disk *d, void (*pause)(void *opaque, struct disk *d, const char *text), void *opaque)
{
	d->pause_opaque = opaque;
	d->pause = pause;
}

void disk_retry(struct disk *d)
{
	struct disk_request *r;

	pthread_mutex_lock(&d->lock);
	d->paused = false;
	while ((r = list_take(&d->held)))
		list_add(&d->queue, r);
	pthread_cond_broadcast(&d->work);
	pthread_mutex_unlock(&d->lock);
}

unsigned disk_held(struct disk *d, void *owner)
{
	unsigned n = 0;

	pthread_mutex_lock(&d->lock);
	for (struct disk_request *r = d->held.first; r; r = r->next)
		n += r->owner == owner;
	pthread_mutex_unlock(&d->lock);
	return n;
}

void disk_get_counters(struct disk *d, struct disk_counters *c)
{
	pthread_mutex_lock(&d->lock);
	*c = d->counters;
	pthread_mutex_unlock(&d->lock);
	c->reads += __atomic_load_n(&d->read_at_once.requests, __ATOMIC_RELAXED);
	c->read_bytes += __atomic_load_n(&d->read_at_once.bytes, __ATOMIC_RELAXED);
	c->writes += __atomic_load_n(&d->written_at_once.requests, __ATOMIC_RELAXED);
	c->write_bytes += __atomic_load_n(&d->written_at_once.bytes, __ATOMIC_RELAXED);
}

/* ---- checkpoints ---- */
unsigned disk_overlays(const struct disk *d)
{
	unsigned n = 0;

	for (const struct disk_layer *l = d->top; l->below; l = l->below)
		n++;
	return n;
}

static int refuse(struct disk *d, int err, const char *why)
{
	log_error("disk \"%s\": %s", d->spec.path, why);
	return err;
}

static int can_stack(struct disk *d)
{
	if (d->spec.snapshot)
		return refuse(d, -EINVAL, "its writes are thrown away (snapshot=on), so it has no checkpoints");
	if (d->spec.read_only)
		return refuse(d, -EROFS, "is read-only, so it needs no checkpoint");
	return 0;
}

int disk_freeze(struct disk *d, int fd)
{
	struct disk_layer *l;
	int err = can_stack(d);

	if (err)
		return err;
	err = d->top->ops->flush(d->top, 0);
	if (err)
		return refuse(d, err, "cannot be flushed for a checkpoint");
	err = disk_overlay_create(&l, d->top, fd, false);
	if (err)
		return err;
	d->top = l;
	return 0;
}

static void drop_overlays(struct disk_layer *top)
{
	while (top && top->below)
		top = disk_overlay_detach(top);
}

int disk_set_overlays(struct disk *d, const int *fd, unsigned n)
{
	struct disk_layer *image = d->top, *top, *l;
	int err = n ? can_stack(d) : 0;

	while (image->below)
		image = image->below;
	top = image;
	unsigned i = 0;
	while (i < n && !err) {
		char name[32];

		snprintf(name, sizeof(name), "overlay %u", i);
		err = disk_overlay_open(&l, top, fd[i], name, false);
		if (!err) {
			top = l;
			i++;
		}
	}
	if (err) {
		for (; i < n; i++)
			close(fd[i]);
		drop_overlays(top);
		return err;
	}
	drop_overlays(d->top);
	d->top = top;
	return 0;
}

struct disk_layer *disk_overlay_number(struct disk *d, unsigned n)
{
	struct disk_layer *l = d->top;
	unsigned above = disk_overlays(d);

	if (n >= above)
		return NULL;
	while (--above > n)
		l = l->below;
	return l;
}

int disk_absorb(struct disk_layer *upper, int fd, const bool *cancel) { return disk_overlay_absorb(upper, fd, cancel); }

void disk_skip(struct disk *d, unsigned upper)
{
	struct disk_layer *l = upper ? disk_overlay_number(d, upper) : NULL;

	if (l)
		disk_overlay_skip(l);
}
