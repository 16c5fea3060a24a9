/* Messages that wait for a slow reader. */
#include "net/queue.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <unistd.h>

struct net_message {
	struct net_message *next;
	u32 len;
	struct net_hdr hdr;
	u8 frame[];
};

void net_queue_init(struct net_queue *q) { *q = (struct net_queue){ .last = &q->first }; }

static void drop_first(struct net_queue *q)
{
	struct net_message *m = q->first;

	q->first = m->next;
	if (!q->first)
		q->last = &q->first;
	q->bytes -= sizeof(*m) + m->len;
	free(m);
}

void net_queue_free(struct net_queue *q)
{
	while (q->first)
		drop_first(q);
}

/* 1 sent (or lost: the reader is no reader of such a thing), 0 later, -errno gone. */
static int put(int fd, const struct net_hdr *h, const u8 *frame, u32 len)
{
	struct iovec iov[2] = { { (void *)h, sizeof(*h) }, { (void *)frame, len } };

	if (writev(fd, iov, 2) >= 0)
		return 1;
	if (errno == EAGAIN || errno == EINTR || errno == ENOBUFS)
		return 0;
	return errno == EPIPE || errno == ECONNRESET || errno == ENOTCONN ? -errno : 1;
}

int net_queue_flush(struct net_queue *q, int fd)
{
	while (q->first) {
		int r = put(fd, &q->first->hdr, q->first->frame, q->first->len);

		if (r <= 0)
			return r;
		drop_first(q);
	}
	return 0;
}

int net_queue_send(struct net_queue *q, int fd, const struct net_hdr *h, const u8 *frame, u32 len)
{
	int r = q->first ? 0 : put(fd, h, frame, len);
	struct net_message *m;

	if (r)
		return r < 0 ? r : 0;
	m = q->bytes + sizeof(*m) + len > NET_QUEUE_BYTES ? NULL : malloc(sizeof(*m) + len);
	if (!m) {
		q->lost++;
		return 0;
	}
	m->next = NULL;
	m->len = len;
	m->hdr = *h;
	memcpy(m->frame, frame, len);
	*q->last = m;
	q->last = &m->next;
	q->bytes += sizeof(*m) + len;
	return 0;
}
