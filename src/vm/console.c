/* Console output, gathered so that a guest's polled byte does not cost a system call. */
#include "vm/console.h"
#include "host/time.h"

#include <errno.h>
#include <poll.h>
#include <unistd.h>

/* A pipe or terminal that polls writable takes this much without blocking (POSIX: PIPE_BUF). */
#define CHUNK 4096

void console_init(struct console *c, int fd, int event_fd)
{
	pthread_mutex_init(&c->lock, NULL);
	pthread_cond_init(&c->room, NULL);
	c->fd = fd;
	c->event_fd = event_fd;
	c->len = 0;
	c->abandoned = false;
}

/* One chunk, if the reader is ready within timeout_ms. False: it is not. */
static bool write_chunk(struct console *c, int timeout_ms)
{
	struct pollfd p = { .fd = c->fd, .events = POLLOUT };
	if (poll(&p, 1, timeout_ms) <= 0)
		return false;
	pthread_mutex_lock(&c->lock);
	ssize_t n = write(c->fd, c->buf, min_u64(c->len, CHUNK));
	if (n < 0 && errno != EINTR && errno != EAGAIN)
		n = c->len; /* the reader is gone: the guest talks on into nothing */
	if (n > 0) {
		c->len -= n;
		memmove(c->buf, c->buf + n, c->len);
		pthread_cond_broadcast(&c->room);
	}
	pthread_mutex_unlock(&c->lock);
	return true;
}

static bool waiting(struct console *c) { return c->fd >= 0 && __atomic_load_n(&c->len, __ATOMIC_RELAXED); }

void console_put(struct console *c, const u8 *data, size_t len)
{
	if (c->fd < 0)
		return;
	bool first = false;
	pthread_mutex_lock(&c->lock);
	for (size_t i = 0; i < len; i++) {
		while (c->len == sizeof c->buf && !c->abandoned)
			pthread_cond_wait(&c->room, &c->lock);
		if (c->len == sizeof c->buf)
			break;
		first |= !c->len;
		c->buf[c->len++] = data[i];
	}
	pthread_mutex_unlock(&c->lock);
	u64 one = 1;
	if (first && write(c->event_fd, &one, sizeof one) < 0)
		return; /* the counter is full, so the loop will wake anyway */
}

bool console_drain(struct console *c)
{
	while (waiting(c))
		if (!write_chunk(c, 0))
			return true;
	return false;
}

void console_abandon(struct console *c, bool on)
{
	pthread_mutex_lock(&c->lock);
	c->abandoned = on;
	pthread_cond_broadcast(&c->room);
	pthread_mutex_unlock(&c->lock);
}

void console_finish(struct console *c, int limit_ms)
{
	u64 until = host_now_ns() + (u64)limit_ms * 1000000;
	while (waiting(c)) {
		u64 now = host_now_ns();
		if (limit_ms >= 0 && now >= until)
			return;
		write_chunk(c, limit_ms < 0 ? -1 : (int)((until - now) / 1000000) + 1);
	}
}
