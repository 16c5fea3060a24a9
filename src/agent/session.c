/* A session with the helper in the guest. */
#include "agent/session.h"
#include "agent/frames.h"
#include "host/time.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <termios.h>
#include <unistd.h>

struct session {
	int fd;
	const struct session_request *rq;
	struct session_result *result;
	u8 in[FRAME_HEAD + FRAME_MAX];
	size_t in_len;
	u64 window;          /* bytes of standard input that may be sent now */
	bool in_end, over;
	int err;             /* over with this */
};

static const int forwarded[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH };

static void fail(struct session *s, int err, const char *text)
{
	s->over = true;
	s->err = err;
	if (!s->result->error[0])
		snprintf(s->result->error, sizeof s->result->error, "%s", text);
}

static void put(struct session *s, enum frame_type type, const void *data, size_t len)
{
	u8 buf[FRAME_HEAD + FRAME_MAX];
	struct frame_head h = { .type = (u8)type, .len = (u32)len };
	bug_if(len > FRAME_MAX);
	memcpy(buf, &h, sizeof h);
	if (len)
		memcpy(buf + sizeof h, data, len);
	for (size_t done = 0; done < sizeof h + len && !s->over;) {
		ssize_t n = send(s->fd, buf + done, sizeof h + len - done, MSG_NOSIGNAL);
		if (n > 0)
			done += (size_t)n;
		else if (errno != EINTR)
			fail(s, -ECONNRESET, "the connection to the guest was closed");
	}
}

/* A value that fills frames goes on in the next one; one that is not full, perhaps empty, ends it. */
static void set(struct session *s, const char *key, const char *value)
{
	u8 buf[FRAME_MAX];
	size_t at = 0, klen = strlen(key), len = strlen(value);
	memcpy(buf, key, klen);
	buf[klen] = '=';
	size_t used = klen + 1;
	do {
		size_t n = min_u64(len - at, sizeof buf - used);
		memcpy(buf + used, value + at, n);
		at += n;
		used += n;
		put(s, FRAME_SET, buf, used);
		if (used < sizeof buf)
			return;
		used = 0;
	} while (true);
}

static void set_list(struct session *s, const char *key, char *const *list)
{
	for (; list && *list; list++)
		set(s, key, *list);
}

static void set_number(struct session *s, const char *key, const char *format, unsigned n)
{
	char text[32];
	snprintf(text, sizeof text, format, n);
	set(s, key, text);
}

static void set_user(struct session *s)
{
	const struct session_request *rq = s->rq;
	char text[4096] = "";
	size_t len = 0;
	if (!rq->as_user)
		return;
	set_number(s, "uid", "%u", rq->uid);
	set_number(s, "gid", "%u", rq->gid);
	for (unsigned i = 0; i < rq->ngroups && len < sizeof text - 16; i++)
		len += (size_t)snprintf(text + len, sizeof text - len, "%s%u", i ? "," : "", rq->groups[i]);
	set(s, "groups", text);
}

static void send_request(struct session *s)
{
	const struct session_request *rq = s->rq;
	const struct { const char *key, *value; } rows[] = { { "op", rq->op ? rq->op : "exec" }, { "cwd", rq->cwd }, { "path", rq->path },
		{ "host", rq->host }, { "arg", rq->base } };
	for (unsigned i = 0; i < array_len(rows); i++)
		if (rows[i].value)
			set(s, rows[i].key, rows[i].value);
	set_list(s, "arg", rq->argv);
	set_list(s, "env", rq->env);
	set_list(s, "mount", rq->mount);
	set_user(s);
	if (rq->op)
		set_number(s, "mode", "%o", rq->mode);
	if (rq->tty) {
		struct winsize w = { .ws_row = 24, .ws_col = 80 };
		char text[32];
		ioctl(rq->in, TIOCGWINSZ, &w);
		snprintf(text, sizeof text, "%ux%u", w.ws_row, w.ws_col);
		set(s, "tty", text);
	}
	put(s, FRAME_GO, NULL, 0);
}

/* ---- what the guest says ---- */
static void give(struct session *s, int fd, const u8 *data, size_t len)
{
	for (size_t done = 0; done < len;) {
		ssize_t n = write(fd, data + done, len - done);
		if (n > 0) {
			done += (size_t)n;
		} else if (n < 0 && errno == EAGAIN) {
			struct pollfd f = { .fd = fd, .events = POLLOUT };
			poll(&f, 1, -1);
		} else if (n < 0 && errno != EINTR) { /* nobody reads: the command goes the way of a pipe's writer */
			u32 sig = SIGPIPE;
			put(s, FRAME_SIGNAL, &sig, sizeof sig);
			return;
		}
	}
}

static u32 word(const struct frame_head *h, const u8 *data, unsigned at)
{
	return h->len >= at + 4 ? (u32)load_le(data + at, 4) : 0;
}

static void frame(struct session *s, const struct frame_head *h, const u8 *data)
{
	switch (h->type) {
	case FRAME_HELLO:
		return;
	case FRAME_BEGAN:
		s->result->began = true;
		s->result->began_ns = h->len >= 8 ? load_le(data, 8) : 0;
		s->result->began_host_ns = host_now_ns();
		return;
	case FRAME_OUT:
		if (s->rq->on_out)
			s->rq->on_out(s->rq->opaque, data, h->len);
		else
			give(s, s->rq->out, data, h->len);
		return;
	case FRAME_ERR:
		give(s, s->rq->err, data, h->len);
		return;
	case FRAME_ACK:
		s->window = min_u64(s->window + word(h, data, 0), FRAME_WINDOW);
		return;
	case FRAME_EXIT:
		s->over = true;
		s->err = 0;
		s->result->status = word(h, data, 0) ? 128 + (int)(word(h, data, 4) & 127) : (int)(word(h, data, 4) & 255);
		return;
	case FRAME_FAIL:
		s->result->status = word(h, data, 0) == 127 ? 127 : 126;
		if (h->len > 4)
			snprintf(s->result->error, sizeof s->result->error, "%.*s", (int)(h->len - 4), (const char *)data + 4);
		fail(s, 1, "the guest does not say why");
		return;
	}
	fail(s, -EPROTO, "the guest's helper sent something that is no frame");
}

static void read_guest(struct session *s)
{
	ssize_t n = read(s->fd, s->in + s->in_len, sizeof s->in - s->in_len);
	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	if (n <= 0) {
		fail(s, -ECONNRESET, "the connection to the guest was closed before the command ended");
		return;
	}
	s->in_len += (size_t)n;
	while (!s->over && s->in_len >= FRAME_HEAD) {
		struct frame_head h;
		memcpy(&h, s->in, sizeof h);
		if (h.len > FRAME_MAX) {
			fail(s, -EPROTO, "the guest's helper sent something that is no frame");
			return;
		}
		if (s->in_len < FRAME_HEAD + h.len)
			return;
		frame(s, &h, s->in + FRAME_HEAD);
		s->in_len -= FRAME_HEAD + h.len;
		memmove(s->in, s->in + FRAME_HEAD + h.len, s->in_len);
	}
}

/* ---- what this side says ---- */
static void read_input(struct session *s)
{
	u8 buf[FRAME_MAX];
	ssize_t n = read(s->rq->in, buf, min_u64(sizeof buf, s->window));
	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	s->in_end = n <= 0;
	put(s, FRAME_STDIN, buf, n > 0 ? (size_t)n : 0);
	s->window -= n > 0 ? (u64)n : 0;
}

static void on_signal(struct session *s, int signals)
{
	struct signalfd_siginfo info;
	if (read(signals, &info, sizeof info) != sizeof info)
		return;
	if (info.ssi_signo == SIGWINCH) {
		struct winsize w = { 0 };
		u16 size[2];
		if (s->rq->tty && !ioctl(s->rq->in, TIOCGWINSZ, &w)) {
			size[0] = w.ws_row;
			size[1] = w.ws_col;
			put(s, FRAME_WINSIZE, size, sizeof size);
		}
		return;
	}
	put(s, FRAME_SIGNAL, &info.ssi_signo, 4);
}

static void turn(struct session *s, int signals, int timeout_ms)
{
	enum { GUEST, INPUT, SIGNALS };
	struct pollfd f[] = { [GUEST] = { .fd = s->fd, .events = POLLIN },
		[INPUT] = { .fd = s->result->began && !s->in_end && s->window ? s->rq->in : -1, .events = POLLIN }, [SIGNALS] = { .fd = signals, .events = POLLIN } };
	int n = poll(f, 3, timeout_ms);
	if (n == 0)
		fail(s, -ETIMEDOUT, "nothing in the guest answers");
	if (n <= 0)
		return;
	if (f[SIGNALS].revents)
		on_signal(s, signals);
	if (f[GUEST].revents)
		read_guest(s);
	if (!s->over && f[INPUT].revents)
		read_input(s);
}

/* Until HELLO; the request must not be sent into a port that nobody has opened. */
static void await_helper(struct session *s)
{
	u64 until = host_now_ns() + s->rq->hello_ms * 1000000ull;
	while (!s->over && s->in_len == 0) {
		u64 now = host_now_ns();
		struct pollfd f = { .fd = s->fd, .events = POLLIN };
		if (now >= until || poll(&f, 1, (int)((until - now) / 1000000) + 1) == 0) {
			fail(s, -ETIMEDOUT, "nothing in the guest answers");
			return;
		}
		if (!(f.revents & (POLLIN | POLLHUP)))
			continue;
		ssize_t n = recv(s->fd, s->in, sizeof s->in, MSG_PEEK | MSG_DONTWAIT);
		if (n == 0)
			fail(s, -ECONNRESET, "the connection to the guest was closed");
		if (n >= FRAME_HEAD)
			return;
	}
}

int session_run(int fd, const struct session_request *rq, struct session_result *result)
{
	struct session s = { .fd = fd, .rq = rq, .result = result, .window = FRAME_WINDOW, .in_end = rq->in < 0 };
	sigset_t set_, old;
	*result = (struct session_result){ .status = 126 };
	sigemptyset(&set_);
	for (unsigned i = 0; i < array_len(forwarded); i++)
		sigaddset(&set_, forwarded[i]);
	int signals = -1;
	await_helper(&s);
	if (!s.over)
		send_request(&s);
	if (!rq->quiet_streams) {
		sigprocmask(SIG_BLOCK, &set_, &old);
		signals = signalfd(-1, &set_, SFD_CLOEXEC | SFD_NONBLOCK);
		signal(SIGPIPE, SIG_IGN);
	}
	bool told = false;
	while (!s.over) {
		if (rq->in < 0 && result->began && !told) {
			put(&s, FRAME_STDIN, NULL, 0);
			told = true;
		}
		turn(&s, signals, result->began ? -1 : 30000);
	}
	if (signals >= 0) {
		close(signals);
		sigprocmask(SIG_SETMASK, &old, NULL);
	}
	return s.err;
}
