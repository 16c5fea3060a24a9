/* One session: pumps bytes between the port and the child until the child has ended. */
#include "agent/guest/helper.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct session {
	struct port *port;
	struct child child;
	uint8_t in[FRAME_WINDOW]; /* standard input that the child has not taken yet */
	size_t in_len;
	bool in_end, ended;
	int status;               /* of waitpid, once ended */
};

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static void close_in(struct session *s)
{
	if (s->child.tty) {
		if (s->child.in >= 0)
			write(s->child.in, "\4", 1); /* end of input on a terminal */
		s->child.in = -1;
	} else {
		close_fd(&s->child.in);
	}
}

/* Gives the child what it takes, and the host leave for as much more. */
static void feed(struct session *s)
{
	ssize_t n = s->child.in < 0 ? (ssize_t)s->in_len : s->in_len ? write(s->child.in, s->in, s->in_len) : 0;
	if (n < 0 && errno != EAGAIN && errno != EINTR) {
		close_fd(&s->child.in); /* it has closed its standard input: the rest is for nobody */
		n = (ssize_t)s->in_len;
	}
	if (n > 0) {
		uint32_t taken = (uint32_t)n;
		memmove(s->in, s->in + n, s->in_len - (size_t)n);
		s->in_len -= (size_t)n;
		port_put(s->port, FRAME_ACK, &taken, sizeof taken);
	}
	if (s->in_end && !s->in_len && s->child.in >= 0)
		close_in(s);
}

static void frame(struct session *s, const struct frame_head *h, const uint8_t *data)
{
	uint32_t number;
	struct winsize w = { 0 };
	switch (h->type) {
	case FRAME_STDIN:
		if (h->len > sizeof s->in - s->in_len) { /* beyond the window */
			s->port->gone = true;
			return;
		}
		memcpy(s->in + s->in_len, data, h->len);
		s->in_len += h->len;
		s->in_end |= h->len == 0;
		feed(s);
		return;
	case FRAME_SIGNAL:
		if (h->len == 4 && !s->ended) {
			memcpy(&number, data, 4);
			kill(-s->child.pid, (int)(number & 63));
		}
		return;
	case FRAME_WINSIZE:
		if (h->len == 4 && s->child.tty && s->child.out >= 0) {
			memcpy(&w.ws_row, data, 2);
			memcpy(&w.ws_col, data + 2, 2);
			ioctl(s->child.out, TIOCSWINSZ, &w);
		}
		return;
	}
}

/* One piece of the child's output. False: nothing there now. */
static bool pump(struct session *s, int *fd, enum frame_type type)
{
	uint8_t buf[FRAME_MAX];
	if (*fd < 0)
		return false;
	ssize_t n = read(*fd, buf, sizeof buf);
	if (n > 0)
		port_put(s->port, type, buf, (size_t)n);
	else if (n == 0 || (errno != EAGAIN && errno != EINTR)) /* a terminal without a child reads as EIO */
		close_fd(fd);
	return n > 0;
}

static void reap(struct session *s, int signals, bool init)
{
	struct signalfd_siginfo info[16];
	int status;
	while (read(signals, info, sizeof info) > 0)
		;
	for (int pid; (pid = waitpid(init ? -1 : s->child.pid, &status, WNOHANG)) > 0;)
		if (pid == s->child.pid) {
			s->ended = true;
			s->status = status;
		}
}

static void turn(struct session *s, int signals, bool init)
{
	enum { PORT, OUT, ERR, IN, SIGNALS };
	bool room = port_room(s->port);
	struct pollfd f[] = {
		[PORT] = { .fd = s->port->fd, .events = POLLIN | (s->port->out_len ? POLLOUT : 0) },
		[OUT] = { .fd = room ? s->child.out : -1, .events = POLLIN }, [ERR] = { .fd = room ? s->child.err : -1, .events = POLLIN },
		[IN] = { .fd = s->in_len ? s->child.in : -1, .events = POLLOUT }, [SIGNALS] = { .fd = signals, .events = POLLIN },
	};
	if (poll(f, 5, -1) < 0)
		return;
	if (f[PORT].revents & (POLLIN | POLLHUP))
		port_read(s->port);
	if (f[PORT].revents & POLLHUP)
		s->port->gone = true;
	const struct frame_head *h;
	for (const uint8_t *data; (h = port_frame(s->port, &data)); port_next(s->port))
		frame(s, h, data);
	if (f[IN].revents)
		feed(s);
	if (f[OUT].revents)
		pump(s, &s->child.out, FRAME_OUT);
	if (f[ERR].revents)
		pump(s, &s->child.err, FRAME_ERR);
	if (f[SIGNALS].revents)
		reap(s, signals, init);
	port_flush(s->port);
}

/* What the child wrote before it ended is in the pipes; what its own children still write is not waited for. */
static void finish(struct session *s)
{
	uint32_t end[2] = { WIFSIGNALED(s->status), WIFSIGNALED(s->status) ? WTERMSIG(s->status) : WEXITSTATUS(s->status) };
	while (!s->port->gone && (pump(s, &s->child.out, FRAME_OUT) || pump(s, &s->child.err, FRAME_ERR)))
		;
	if (s->child.pid > 0 && getpid() == 1)
		sync();
	port_put(s->port, FRAME_EXIT, end, sizeof end);
	port_finish(s->port);
}

void session_run(struct port *p, const struct request *r, bool init)
{
	static struct session s;
	char why[512];
	sigset_t chld;
	struct timespec up;
	s = (struct session){ .port = p };
	sigemptyset(&chld);
	sigaddset(&chld, SIGCHLD);
	sigprocmask(SIG_BLOCK, &chld, NULL);
	int signals = signalfd(-1, &chld, SFD_NONBLOCK | SFD_CLOEXEC);
	uint32_t status = (uint32_t)child_start(r, &s.child, why + 4, sizeof why - 4);
	if (status) {
		memcpy(why, &status, 4);
		port_put(p, FRAME_FAIL, why, 4 + strlen(why + 4));
		port_finish(p);
		close(signals);
		return;
	}
	clock_gettime(CLOCK_BOOTTIME, &up);
	uint64_t ns = (uint64_t)up.tv_sec * 1000000000 + (uint64_t)up.tv_nsec;
	port_put(p, FRAME_BEGAN, &ns, sizeof ns);
	while (!s.ended && !p->gone)
		turn(&s, signals, init);
	if (s.ended)
		finish(&s);
	else
		kill(-s.child.pid, SIGHUP);
	close_fd(&s.child.err);
	if (s.child.in != s.child.out)
		close_fd(&s.child.in);
	close_fd(&s.child.out);
	close(signals);
}
