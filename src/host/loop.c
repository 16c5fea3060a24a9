#include <uv.h> /* first: it has members named like our macros */

#include "host/loop.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>

struct posted {
	struct posted *next;
	void (*fn)(void *);
	void *opaque;
};

struct loop {
	uv_loop_t uv;
	uv_async_t wake;
	pthread_mutex_t lock;
	struct posted *first, **last; /* lock */
};

struct loop_fd {
	uv_poll_t poll;
	uv_idle_t idle;   /* in its place when the kernel cannot poll it */
	bool always;
	unsigned events;
	void (*fn)(void *, unsigned);
	void *opaque;
};

struct loop_timer {
	uv_timer_t timer;
	void (*fn)(void *);
	void *opaque;
};

/* ---- posted calls ---- */
static struct posted *take(struct loop *l)
{
	pthread_mutex_lock(&l->lock);
	struct posted *p = l->first;
	l->first = NULL;
	l->last = &l->first;
	pthread_mutex_unlock(&l->lock);
	return p;
}

static void on_wake(uv_async_t *a)
{
	struct posted *next;
	for (struct posted *p = take(a->data); p; p = next) {
		next = p->next;
		p->fn(p->opaque);
		free(p);
	}
}

int loop_post(struct loop *l, void (*fn)(void *), void *opaque)
{
	struct posted *p = malloc(sizeof *p);
	if (!p)
		return -ENOMEM;
	*p = (struct posted){ .fn = fn, .opaque = opaque };
	pthread_mutex_lock(&l->lock);
	*l->last = p;
	l->last = &p->next;
	pthread_mutex_unlock(&l->lock);
	uv_async_send(&l->wake);
	return 0;
}

/* ---- lifetime ---- */
struct loop *loop_create(void)
{
	struct loop *l = calloc(1, sizeof *l);
	int err = l ? uv_loop_init(&l->uv) : UV_ENOMEM;
	if (!err)
		err = uv_async_init(&l->uv, &l->wake, on_wake);
	if (err) {
		log_error("event loop: %s", uv_strerror(err));
		free(l);
		return NULL;
	}
	l->wake.data = l;
	l->last = &l->first;
	pthread_mutex_init(&l->lock, NULL);
	return l;
}

void loop_destroy(struct loop *l)
{
	if (!l)
		return;
	uv_close((uv_handle_t *)&l->wake, NULL);
	uv_run(&l->uv, UV_RUN_NOWAIT); /* close callbacks */
	int err = uv_loop_close(&l->uv);
	if (err)
		log_debug("event loop: %s", uv_strerror(err));
	struct posted *next;
	for (struct posted *p = take(l); p; p = next) {
		next = p->next;
		free(p);
	}
	pthread_mutex_destroy(&l->lock);
	if (!err)
		free(l);
}

void loop_run(struct loop *l) { uv_run(&l->uv, UV_RUN_DEFAULT); }
void loop_stop(struct loop *l) { uv_stop(&l->uv); }

/* ---- descriptors ---- */
static void on_poll(uv_poll_t *p, int status, int events)
{
	struct loop_fd *f = p->data;
	unsigned ready = events & UV_READABLE ? LOOP_READ : 0;
	if (events & UV_WRITABLE)
		ready |= LOOP_WRITE;
	if (status < 0 || (events & UV_DISCONNECT))
		ready |= LOOP_HUP | (f->events & (LOOP_READ | LOOP_WRITE)); /* the next read or write says what is wrong */
	if (ready & (f->events | LOOP_HUP))
		f->fn(f->opaque, ready);
}

static void on_idle(uv_idle_t *i)
{
	struct loop_fd *f = i->data;
	f->fn(f->opaque, f->events);
}

void loop_fd_events(struct loop_fd *f, unsigned events)
{
	f->events = events;
	if (f->always) {
		if (events)
			uv_idle_start(&f->idle, on_idle);
		else
			uv_idle_stop(&f->idle);
		return;
	}
	if (events)
		uv_poll_start(&f->poll, (events & LOOP_READ ? UV_READABLE | UV_DISCONNECT : 0) | (events & LOOP_WRITE ? UV_WRITABLE : 0), on_poll);
	else
		uv_poll_stop(&f->poll);
}

struct loop_fd *loop_fd_add(struct loop *l, int fd, unsigned events, void (*fn)(void *, unsigned), void *opaque)
{
	struct loop_fd *f = calloc(1, sizeof *f);
	int flags = fcntl(fd, F_GETFL);
	int err = f ? uv_poll_init(&l->uv, &f->poll, fd) : UV_ENOMEM;
	if (!err && flags >= 0) /* libuv switches to non-blocking, which every process with our terminal would feel */
		fcntl(fd, F_SETFL, flags);
	if (err == UV_EPERM) { /* epoll's word for "always ready" */
		f->always = true;
		err = uv_idle_init(&l->uv, &f->idle);
	}
	if (err) {
		log_error("event loop, descriptor %d: %s", fd, uv_strerror(err));
		free(f);
		return NULL;
	}
	f->poll.data = f->idle.data = f;
	f->fn = fn;
	f->opaque = opaque;
	loop_fd_events(f, events);
	return f;
}

static void free_fd(uv_handle_t *h) { free(h->data); }

void loop_fd_remove(struct loop_fd *f)
{
	if (!f)
		return;
	loop_fd_events(f, 0);
	uv_close(f->always ? (uv_handle_t *)&f->idle : (uv_handle_t *)&f->poll, free_fd);
}

/* ---- timers ---- */
static void on_timer(uv_timer_t *u)
{
	struct loop_timer *t = u->data;
	t->fn(t->opaque);
}

struct loop_timer *loop_timer_add(struct loop *l, void (*fn)(void *), void *opaque)
{
	struct loop_timer *t = calloc(1, sizeof *t);
	if (!t) {
		log_error("event loop: out of memory");
		return NULL;
	}
	uv_timer_init(&l->uv, &t->timer);
	t->timer.data = t;
	t->fn = fn;
	t->opaque = opaque;
	return t;
}

void loop_timer_set(struct loop_timer *t, u64 in_ms)
{
	uv_update_time(t->timer.loop);
	uv_timer_start(&t->timer, on_timer, in_ms, 0);
}

void loop_timer_cancel(struct loop_timer *t) { uv_timer_stop(&t->timer); }

void loop_timer_remove(struct loop_timer *t)
{
	if (t)
		uv_close((uv_handle_t *)&t->timer, free_fd);
}
