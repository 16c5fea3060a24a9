/* Console output, gathered so that a guest's polled byte does not cost a system call. */
#include "vm/console.h"

#include <errno.h>
#include <poll.h>
#include <unistd.h>

void console_init(struct console *c, int fd, int event_fd)
{
	pthread_mutex_init(&c->lock, NULL);
	c->fd = fd;
	c->event_fd = event_fd;
	c->len = 0;
}

static void drain_locked(struct console *c)
{
	size_t done = 0;
	while (c->fd >= 0 && done < c->len) {
		ssize_t n = write(c->fd, c->buf + done, c->len - done);
		if (n >= 0) {
			done += n;
		} else if (errno == EAGAIN) {
			struct pollfd p = { .fd = c->fd, .events = POLLOUT };
			poll(&p, 1, -1);
		} else if (errno != EINTR) {
			break; /* the reader is gone: the guest talks on into nothing */
		}
	}
	c->len = 0;
}

void console_put(struct console *c, const u8 *data, size_t len)
{
	if (c->fd < 0)
		return;
	pthread_mutex_lock(&c->lock);
	for (size_t i = 0; i < len; i++) {
		if (c->len == sizeof c->buf)
			drain_locked(c);
		c->buf[c->len++] = data[i];
	}
	bool first = c->len == len;
	pthread_mutex_unlock(&c->lock);
	u64 one = 1;
	if (first && write(c->event_fd, &one, sizeof one) < 0)
		console_drain(c);
}

void console_drain(struct console *c)
{
	pthread_mutex_lock(&c->lock);
	drain_locked(c);
	pthread_mutex_unlock(&c->lock);
}
