/* Frames over a virtio-serial port. */
#include "agent/guest/helper.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* udev makes links by name; without udev the names stand in sysfs. */
int port_open(unsigned n)
{
	char path[96], want[64], name[64];
	snprintf(want, sizeof want, "org.nestbox.exec.%u", n);
	snprintf(path, sizeof path, "/dev/virtio-ports/%s", want);
	int fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
	for (unsigned i = 0; fd < 0 && i < 256; i++) {
		snprintf(path, sizeof path, "/sys/class/virtio-ports/vport%up%u/name", i / 8, i % 8);
		int f = open(path, O_RDONLY | O_CLOEXEC);
		ssize_t len = f < 0 ? -1 : read(f, name, sizeof name - 1);
		if (f >= 0)
			close(f);
		if (len <= 0)
			continue;
		name[len] = 0;
		name[strcspn(name, "\n")] = 0;
		if (strcmp(name, want))
			continue;
		snprintf(path, sizeof path, "/dev/vport%up%u", i / 8, i % 8);
		fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
		break;
	}
	return fd;
}

bool port_room(const struct port *p) { return sizeof p->out - p->out_len >= 2 * (FRAME_HEAD + FRAME_MAX); }

void port_put(struct port *p, enum frame_type type, const void *data, size_t len)
{
	struct frame_head h = { .type = (uint8_t)type, .len = (uint32_t)len };
	if (p->gone || len > FRAME_MAX)
		return;
	if (sizeof p->out - p->out_len < FRAME_HEAD + len)
		port_finish(p);
	if (p->gone)
		return;
	memcpy(p->out + p->out_len, &h, sizeof h);
	if (len)
		memcpy(p->out + p->out_len + sizeof h, data, len);
	p->out_len += sizeof h + len;
}

void port_flush(struct port *p)
{
	size_t done = 0;
	while (done < p->out_len) {
		ssize_t n = write(p->fd, p->out + done, p->out_len - done);
		if (n > 0) {
			done += (size_t)n;
			continue;
		}
		if (n < 0 && errno == EINTR)
			continue;
		p->gone |= n < 0 && errno != EAGAIN;
		break;
	}
	memmove(p->out, p->out + done, p->out_len - done);
	p->out_len -= done;
}

void port_finish(struct port *p)
{
	while (p->out_len && !p->gone) {
		struct pollfd f = { .fd = p->fd, .events = POLLOUT };
		if (poll(&f, 1, -1) < 0 && errno != EINTR)
			p->gone = true;
		if (f.revents & POLLHUP)
			p->gone = true;
		port_flush(p);
	}
}

void port_read(struct port *p)
{
	if (p->in_len == sizeof p->in)
		return;
	ssize_t n = read(p->fd, p->in + p->in_len, sizeof p->in - p->in_len);
	if (n > 0)
		p->in_len += (size_t)n;
	else if (n == 0 || (errno != EAGAIN && errno != EINTR))
		p->gone = true;
}

const struct frame_head *port_frame(struct port *p, const uint8_t **data)
{
	const struct frame_head *h = (const void *)p->in;
	if (p->in_len < FRAME_HEAD)
		return NULL;
	if (h->len > FRAME_MAX) {
		p->gone = true;
		return NULL;
	}
	*data = p->in + FRAME_HEAD;
	return p->in_len < FRAME_HEAD + h->len ? NULL : h;
}

void port_next(struct port *p)
{
	const struct frame_head *h = (const void *)p->in;
	size_t n = FRAME_HEAD + h->len;
	memmove(p->in, p->in + n, p->in_len - n);
	p->in_len -= n;
}
