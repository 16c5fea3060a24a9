/* The port's thread: waits for the descriptor and for the guest, moves frames. */
#include "net/port.h"
#include "base/log.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

/* ROUND: messages read before the guest's turn comes, so that a flood from outside does not stop it. */
enum { ROUND = 64, STREAM_LEN_BYTES = 4, IN_BYTES = NET_HDR_BYTES + NET_FRAME_MAX, OUT_BYTES = 4 * NET_FRAME_MAX };

static void set_link(struct net_port *p, bool up)
{
	if (p->up == up)
		return;
	p->up = up;
	p->client.link(p->client.opaque, up);
}

static void hang_up(struct net_port *p, const char *why)
{
	if (p->fd < 0)
		return;
	log_warn("%s: %s %s: the guest's link is down", p->name, p->peer, why);
	pthread_mutex_lock(&p->out_lock);
	close(p->fd);
	p->fd = -1;
	pthread_mutex_unlock(&p->out_lock);
	p->in_len = p->out_len = p->out_at = 0;
	p->full = false;
	set_link(p, false);
}

/* ---- to the guest ---- */

/* True when the guest took it. */
static bool offer(struct net_port *p, const struct net_hdr *h, const u8 *frame, u32 len)
{
	__atomic_store_n(&p->blocked, true, __ATOMIC_SEQ_CST); /* before the guest is asked: its answer may come at once */
	if (!p->client.receive(p->client.opaque, h, frame, len))
		return false;
	__atomic_store_n(&p->blocked, false, __ATOMIC_SEQ_CST);
	return true;
}

/* The end of both framings. */
static void deliver(void *opaque, const struct net_hdr *h, const u8 *frame, u32 len)
{
	struct net_port *p = opaque;
	struct net_waiting *w = &p->waiting[p->nwaiting];

	if (!p->nwaiting && offer(p, h, frame, len))
		return;
	bug_if(p->nwaiting == NET_WAITING);
	memcpy(w->frame, frame, len);
	w->len = len;
	w->hdr = *h;
	p->nwaiting++;
}

static bool deliver_waiting(struct net_port *p)
{
	struct net_waiting *w = p->waiting;

	while (p->nwaiting && offer(p, &w[0].hdr, w[0].frame, w[0].len)) {
		u8 *frame = w[0].frame;

		p->nwaiting--;
		memmove(w, w + 1, p->nwaiting * sizeof(*w));
		w[p->nwaiting].frame = frame;
	}
	return !p->nwaiting;
}

/* A message from a helper or the kernel: still checked like anyone's. */
static bool read_message(struct net_port *p)
{
	struct net_hdr h;
	ssize_t n = read(p->fd, p->in, IN_BYTES);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (n <= 0) {
		hang_up(p, n ? strerror(errno) : "has gone");
		return false;
	}
	if (n < NET_HDR_BYTES + NET_ETH_BYTES)
		return true;
	memcpy(&h, p->in, sizeof(h));
	h.num_buffers = 0;
	if (net_hdr_valid(&h, p->in + NET_HDR_BYTES, (u32)n - NET_HDR_BYTES))
		deliver(p, &h, p->in + NET_HDR_BYTES, (u32)n - NET_HDR_BYTES);
	else
		p->lost_in++;
	return true;
}

/* Takes complete frames out of the bytes that have come. */
static bool unpack_stream(struct net_port *p)
{
	u32 at = 0;

	while (!p->nwaiting && p->in_len - at >= STREAM_LEN_BYTES) {
		u32 len = net_get32(p->in + at);

		if (len > NET_FRAME_MAX) {
			hang_up(p, "sent a frame that is too long");
			return false;
		}
		if (p->in_len - at - STREAM_LEN_BYTES < len)
			break;
		if (len >= NET_ETH_BYTES)
			net_merge_add(&p->merge, p->in + at + STREAM_LEN_BYTES, len);
		else
			p->lost_in++;
		at += STREAM_LEN_BYTES + len;
	}
	p->in_len -= at;
	memmove(p->in, p->in + at, p->in_len);
	return true;
}

static bool read_stream(struct net_port *p)
{
	ssize_t n = read(p->fd, p->in + p->in_len, IN_BYTES - p->in_len);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (n <= 0) {
		hang_up(p, n ? strerror(errno) : "has gone");
		return false;
	}
	p->in_len += (u32)n;
	return unpack_stream(p);
}

static void read_frames(struct net_port *p)
{
	if (!deliver_waiting(p))
		return;
	if (p->framing == NET_FRAMING_STREAM && p->fd >= 0)
		unpack_stream(p); /* what was left when the guest had no room */
	for (unsigned i = 0; i < ROUND && p->fd >= 0 && !p->nwaiting; i++)
		if (!(p->framing == NET_FRAMING_HDR ? read_message(p) : read_stream(p)))
			break;
	net_merge_flush(&p->merge);
	p->client.received(p->client.opaque);
}

/* ---- from the guest ---- */

static bool send_message(struct net_port *p, const struct net_hdr *h, u8 *frame, u32 len)
{
	struct iovec iov[2] = { { (void *)h, sizeof(*h) }, { frame, len } };

	if (writev(p->fd, iov, 2) >= 0)
		return true;
	if (errno == EAGAIN || errno == EINTR)
		return false;
	if (errno == EPIPE || errno == ECONNRESET || errno == ENOTCONN)
		hang_up(p, "has gone");
	p->lost_out++; /* a TAP that is down, say: as on a cable that nobody listens to */
	return true;
}

static void stream_frame(void *opaque, const struct net_hdr *h, const u8 *frame, u32 len)
{
	struct net_port *p = opaque;

	if (OUT_BYTES - p->out_len < STREAM_LEN_BYTES + len) {
		p->lost_out++; /* a segmentation into very small pieces */
		return;
	}
	net_put32(p->out + p->out_len, len);
	memcpy(p->out + p->out_len + STREAM_LEN_BYTES, frame, len);
	p->out_len += STREAM_LEN_BYTES + len;
}

static void flush_stream(struct net_port *p)
{
	while (p->fd >= 0 && p->out_at < p->out_len) {
		ssize_t n = write(p->fd, p->out + p->out_at, p->out_len - p->out_at);

		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n < 0)
			hang_up(p, strerror(errno));
		else
			p->out_at += (u32)n;
	}
	p->out_len = p->out_at = 0;
}

static bool send_stream(struct net_port *p, const struct net_hdr *h, u8 *frame, u32 len)
{
	struct net_hdr own = *h;

	if (p->out_at) /* not yet all written */
		return false;
	if (OUT_BYTES - p->out_len < 2 * NET_FRAME_MAX) {
		flush_stream(p);
		return p->out_len ? false : send_stream(p, h, frame, len);
	}
	if (own.gso_type) {
		if (!net_segment(&own, frame, len, stream_frame, p))
			p->lost_out++;
		return true;
	}
	net_finish_csum(&own, frame, len);
	stream_frame(p, &own, frame, len);
	return true;
}

bool net_port_send(struct net_port *p, const struct net_hdr *h, u8 *frame, u32 len)
{
	if (p->fd < 0) {
		p->lost_out++;
		return true;
	}
	bool taken = p->framing == NET_FRAMING_HDR ? send_message(p, h, frame, len) : send_stream(p, h, frame, len);

	p->full = !taken;
	return taken;
}

bool net_port_enter(struct net_port *p)
{
	if (p->framing != NET_FRAMING_HDR || pthread_mutex_trylock(&p->out_lock))
		return false;
	return true;
}

void net_port_leave(struct net_port *p) { pthread_mutex_unlock(&p->out_lock); }

bool net_port_send_now(struct net_port *p, const struct net_hdr *h, u8 *frame, u32 len)
{
	struct iovec iov[2] = { { (void *)h, sizeof(*h) }, { frame, len } };

	return p->fd >= 0 && writev(p->fd, iov, 2) >= 0;
}

/* True: the guest has more to send. */
static bool send_frames(struct net_port *p)
{
	bool more;

	pthread_mutex_lock(&p->out_lock);
	more = p->client.transmit(p->client.opaque);
	pthread_mutex_unlock(&p->out_lock);
	if (p->framing == NET_FRAMING_STREAM && p->out_len) {
		flush_stream(p);
		p->full = p->out_len > 0;
	}
	return more && !p->full;
}

/* ---- the thread ---- */

static void accept_peer(struct net_port *p)
{
	int fd = accept4(p->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0)
		return;
	if (p->fd >= 0) {
		close(fd); /* one cable has two ends */
		return;
	}
	p->fd = fd;
	log_info("%s: %s: a peer has connected", p->name, p->peer);
	set_link(p, true);
}

static void wait_for_work(struct net_port *p, struct pollfd fds[3], int timeout_ms)
{
	u64 n;

	if (poll(fds, 3, timeout_ms) < 0 && errno != EINTR)
		log_once(LOG_ERROR, "%s: poll: %s", p->name, strerror(errno));
	if (fds[0].revents && read(p->wake_fd, &n, sizeof(n)) < 0)
		log_debug("%s: eventfd: %s", p->name, strerror(errno));
}

/* True: there is more to do at once. */
static bool work(struct net_port *p, short frames, short listener)
{
	if (listener)
		accept_peer(p);
	if (frames & POLLOUT && p->framing == NET_FRAMING_STREAM)
		flush_stream(p);
	if (frames & POLLOUT)
		p->full = p->out_len > 0;
	if (frames & (POLLIN | POLLHUP | POLLERR) || p->nwaiting || p->in_len)
		read_frames(p);
	return !p->full && send_frames(p);
}

static bool round_once(struct net_port *p, int timeout_ms)
{
	enum { WAKE, FRAMES, LISTEN };
	short events = (short)((p->nwaiting ? 0 : POLLIN) | (p->full ? POLLOUT : 0));
	struct pollfd fds[3] = { [WAKE] = { p->wake_fd, POLLIN, 0 }, [FRAMES] = { events ? p->fd : -1, events, 0 },
				 [LISTEN] = { p->fd >= 0 ? -1 : p->listen_fd, POLLIN, 0 } };

	wait_for_work(p, fds, timeout_ms);
	return work(p, fds[FRAMES].revents, fds[LISTEN].revents);
}

void net_port_step(struct net_port *p, int timeout_ms) { round_once(p, timeout_ms); }

static void *run(void *opaque)
{
	struct net_port *p = opaque;
	bool more = true;

	while (!__atomic_load_n(&p->stop, __ATOMIC_SEQ_CST))
		more = round_once(p, more ? 0 : -1);
	return NULL;
}

void net_port_wake(struct net_port *p)
{
	u64 one = 1;

	if (write(p->wake_fd, &one, sizeof(one)) < 0)
		log_debug("%s: eventfd: %s", p->name, strerror(errno)); /* the counter is full: it wakes anyway */
}

/* Signals are for the threads that the rest of the program chooses. */
static int start_thread(struct net_port *p)
{
	sigset_t all, old;
	int err;

	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &old);
	err = pthread_create(&p->thread, NULL, run, p);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	p->threaded = !err;
	return -err;
}

int net_port_start(struct net_port *p, const struct net_client *client, bool threaded)
{
	int err = 0;
	bool all = true;
	pthread_mutexattr_t recursive;

	pthread_mutexattr_init(&recursive);
	pthread_mutexattr_settype(&recursive, PTHREAD_MUTEX_RECURSIVE);
	pthread_mutex_init(&p->out_lock, &recursive);
	p->client = *client;
	p->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	p->in = malloc(IN_BYTES);
	p->out = malloc(p->framing == NET_FRAMING_STREAM ? OUT_BYTES : 1);
	for (unsigned i = 0; i < NET_WAITING; i++)
		all &= !!(p->waiting[i].frame = malloc(NET_FRAME_MAX));
	p->merge = (struct net_merge){ .frame = malloc(NET_FRAME_MAX), .trusted = p->trusted, .emit = deliver, .opaque = p };
	if (p->wake_fd < 0)
		err = -errno;
	else if (!p->in || !p->out || !all || !p->merge.frame)
		err = -ENOMEM;
	set_link(p, p->fd >= 0);
	if (!err && threaded)
		err = start_thread(p);
	if (err)
		log_error("%s: cannot start: %s", p->name, strerror(-err));
	return err;
}

void net_port_stop(struct net_port *p)
{
	__atomic_store_n(&p->stop, true, __ATOMIC_SEQ_CST);
	if (p->threaded) {
		net_port_wake(p);
		pthread_join(p->thread, NULL);
	}
	const int fds[] = { p->fd, p->listen_fd, p->wake_fd };

	for (unsigned i = 0; i < array_len(fds); i++)
		if (fds[i] >= 0)
			close(fds[i]);
	pthread_mutex_destroy(&p->out_lock);
	free(p->in);
	free(p->out);
	for (unsigned i = 0; i < NET_WAITING; i++)
		free(p->waiting[i].frame);
	free(p->merge.frame);
}
