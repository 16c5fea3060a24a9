/* The console of a machine whose serial port is "control": what the guest wrote last, and the readers who are attached now. Surprise: the guest never waits
 * for a reader; one who is slow misses bytes. */
#include "ctl/ctl.h"
#include "ctl/console.h"
#include "ctl/handlers.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum { HISTORY = 65536, CHUNK = 4096, MAX_READERS = 32 };

struct reader {
	struct reader *next;
	struct ctl_console *console;
	int fd;
	bool deaf; /* has gone, but what it typed before may still have to be read */
	struct loop_fd *watch;
};

struct ctl_console {
	struct vm *vm;
	struct loop_fd *pipe;
	struct loop_timer *retry; /* typed bytes wait until the guest has room */
	struct reader *readers;
	unsigned nreaders;
	u8 history[HISTORY];
	u64 total; /* bytes written so far: history is a ring */
};

static void remove_reader(struct reader *r)
{
	struct reader **p = &r->console->readers;
	while (*p != r)
		p = &(*p)->next;
	*p = r->next;
	r->console->nreaders--;
	loop_fd_remove(r->watch);
	close(r->fd);
	free(r);
}

/* Never waits. False: the reader has gone. */
static bool give(struct reader *r, const u8 *data, size_t n)
{
	ssize_t sent = send(r->fd, data, n, MSG_DONTWAIT | MSG_NOSIGNAL);
	return sent >= 0 || errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
}

static void remember(struct ctl_console *c, const u8 *data, size_t n)
{
	for (size_t i = 0; i < n; i++)
		c->history[c->total++ % HISTORY] = data[i];
}

static bool read_pipe(struct ctl_console *c)
{
	u8 buf[CHUNK];
	ssize_t n = read(board_console_pipe(c->vm), buf, sizeof buf);
	if (n <= 0)
		return false;
	remember(c, buf, n);
	for (struct reader *r = c->readers; r; r = r->next)
		r->deaf = r->deaf || !give(r, buf, n);
	return true;
}

static void on_pipe(void *opaque, unsigned ready) { read_pipe(opaque); }

static void listen_again(void *opaque)
{
	struct ctl_console *c = opaque;
	for (struct reader *r = c->readers; r; r = r->next)
		loop_fd_events(r->watch, LOOP_READ);
}

static void on_typed(void *opaque, unsigned ready)
{
	struct reader *r = opaque;
	struct ctl_console *c = r->console;
	u8 buf[256];
	size_t room = board_input_room(c->vm);
	if (!room) { /* what is typed stays in the socket for now */
		loop_fd_events(r->watch, 0);
		loop_timer_set(c->retry, 20);
		return;
	}
	ssize_t n = recv(r->fd, buf, min_u64(sizeof buf, room), MSG_DONTWAIT);
	if (n > 0)
		board_serial_input(c->vm, buf, n);
	else if (!n || (errno != EAGAIN && errno != EINTR))
		remove_reader(r);
}

static bool give_history(struct reader *r)
{
	struct ctl_console *c = r->console;
	u64 from = c->total > HISTORY ? c->total - HISTORY : 0;
	while (from < c->total) {
		size_t at = from % HISTORY, n = min_u64(c->total - from, HISTORY - at);
		if (!give(r, c->history + at, n))
			return false;
		from += n;
	}
	return true;
}

void ctl_do_console(struct vm *vm, struct ctl_call *call, json_t *args)
{
	struct ctl_console *c = ctl_console_of(ctl_of(call));
	int fd = ctl_take_fd(call), one;
	socklen_t len = sizeof one;
	if (!c || fd < 0 || getsockopt(fd, SOL_SOCKET, SO_TYPE, &one, &len)) {
		if (fd >= 0)
			close(fd);
		if (c)
			ctl_fail(call, "bad-args", "console: a stream socket must come with the request");
		else
			ctl_fail(call, "console-elsewhere", "this machine's console is not on its control socket: it was started with another serial= than control");
		return;
	}
	struct reader *r = c->nreaders < MAX_READERS ? calloc(1, sizeof *r) : NULL;
	if (r) {
		*r = (struct reader){ .next = c->readers, .console = c, .fd = fd };
		r->watch = loop_fd_add(vm->loop, fd, LOOP_READ, on_typed, r);
	}
	if (!r || !r->watch) {
		free(r);
		close(fd);
		ctl_fail(call, "too-many", "the console has %u readers, or there is no memory for another", c->nreaders);
		return;
	}
	c->readers = r;
	c->nreaders++;
	bool follow = !json_is_false(json_object_get(args, "follow")), history = !json_is_false(json_object_get(args, "history"));
	ctl_reply(call, NULL);
	r->deaf = history && !give_history(r);
	if (!follow)
		remove_reader(r);
}

struct ctl_console *ctl_console_create(struct vm *vm)
{
	struct ctl_console *c = calloc(1, sizeof *c);
	if (!c)
		return NULL;
	c->vm = vm;
	c->pipe = loop_fd_add(vm->loop, board_console_pipe(vm), LOOP_READ, on_pipe, c);
	c->retry = loop_timer_add(vm->loop, listen_again, c);
	return c;
}

void ctl_console_destroy(struct ctl_console *c)
{
	if (!c)
		return;
	/* The vCPUs have stopped: what they wrote last lies in the console's buffer and in the pipe. */
	bool more;
	do
		more = board_console_drain(c->vm);
	while (read_pipe(c) || more);
	while (c->readers)
		remove_reader(c->readers);
	loop_fd_remove(c->pipe);
	loop_timer_remove(c->retry);
	free(c);
}
