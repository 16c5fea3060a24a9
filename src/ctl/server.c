/* Connections, requests and their answers. Not here: what verbs do (power.c and others), how bytes become messages (proto). Surprise: a call outlives its
 * connection: it is freed by its answer, not by its client. */
#include "ctl/ctl.h"
#include "ctl/handlers.h"
#include "ctl/console.h"
#include "base/log.h"
#include "host/time.h"
#include "proto/proto.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MAX_CONNS = 64, MAX_CALLS = 64 /* a connection's */, MAX_BACKLOG = 64 << 20 };

struct ctl_conn {
	struct ctl_conn *next;
	struct ctl *ctl;
	int fd;
	struct loop_fd *watch;
	struct proto_in in;
	struct proto_out out;
	unsigned ncalls;
	bool closing;  /* nothing more is read; closes when out is empty */
	bool dead;     /* to be freed as soon as nobody is working in it */
	unsigned busy;
};

struct ctl_call {
	struct ctl_call *next;
	struct ctl *ctl;
	struct ctl_conn *conn; /* NULL: the client has gone */
	json_t *id;
	int fds[PROTO_MAX_FDS];
	unsigned nfds;
	bool waits_for_end;
	void (*gone)(void *opaque);
	void *gone_opaque;
};

struct ctl {
	struct vm *vm;
	int listen_fd;
	struct loop_fd *listen;
	struct loop_timer *again; /* accepts again a moment after descriptors ran out */
	struct ctl_conn *conns;
	unsigned nconns;
	struct ctl_call *calls;
	struct ctl_console *console;
};

struct ctl_console *ctl_console_of(struct ctl *ctl) { return ctl->console; }

/* ---- connections ---- */
static void forget_calls(struct ctl_conn *conn)
{
	for (struct ctl_call *c = conn->ctl->calls; c;) {
		struct ctl_call *next = c->next;
		if (c->conn == conn) {
			c->conn = NULL;
			void (*gone)(void *) = c->gone;
			c->gone = NULL;
			if (gone) {
				gone(c->gone_opaque);
				next = conn->ctl->calls; /* anything may have been answered in it: start again */
			}
		}
		c = next;
	}
}

static void free_conn(struct ctl_conn *conn)
{
	struct ctl_conn **p = &conn->ctl->conns;
	while (*p != conn)
		p = &(*p)->next;
	*p = conn->next;
	conn->ctl->nconns--;
	close(conn->fd);
	proto_in_free(&conn->in);
	proto_out_free(&conn->out);
	free(conn);
}

/* The connection is of no more use. Freed when its last user on the stack has returned. */
static void drop(struct ctl_conn *conn)
{
	if (conn->dead)
		return;
	conn->dead = true;
	loop_fd_remove(conn->watch);
	conn->watch = NULL;
	conn->busy++;
	forget_calls(conn);
	conn->busy--;
	if (!conn->busy)
		free_conn(conn);
}

static void leave(struct ctl_conn *conn)
{
	if (!--conn->busy && conn->dead)
		free_conn(conn);
}

static void settle(struct ctl_conn *conn)
{
	if (conn->dead)
		return;
	int r = proto_out_send(&conn->out, conn->fd);
	if (r < 0 || proto_out_size(&conn->out) > MAX_BACKLOG || (r == 1 && conn->closing))
		drop(conn);
	else
		loop_fd_events(conn->watch, (conn->closing || conn->ncalls >= MAX_CALLS ? 0 : LOOP_READ) | (r == 1 ? 0 : LOOP_WRITE));
}

static void put(struct ctl_conn *conn, json_t *msg)
{
	if (conn->dead)
		json_decref(msg);
	else if (!msg || proto_out_put(&conn->out, msg))
		drop(conn);
	else
		settle(conn);
}

static json_t *error_message(json_t *id, const char *code, const char *text)
{
	/* A guest's or file's bytes may stand in the text, and JSON takes only UTF-8. */
	char plain[1024];
	snprintf(plain, sizeof plain, "%s", text);
	json_t *message = json_string(plain);
	if (!message) {
		for (char *p = plain; *p; p++)
			if (*p & 0x80)
				*p = '?';
		message = json_string(plain);
	}
	return json_pack("{sO sb s{ss so}}", "id", id, "ok", 0, "error", "code", code, "message", message);
}

static void refuse(struct ctl_conn *conn, json_t *id, const char *code, const char *text)
{
	json_t *none = json_null();
	put(conn, error_message(id ? id : none, code, text));
}

/* ---- calls ---- */
static void free_call(struct ctl_call *call)
{
	struct ctl_call **p = &call->ctl->calls;
	while (*p != call)
		p = &(*p)->next;
	*p = call->next;
	if (call->conn && call->conn->ncalls-- == MAX_CALLS)
		settle(call->conn); /* it may ask again */
	for (unsigned i = 0; i < call->nfds; i++)
		close(call->fds[i]);
	json_decref(call->id);
	free(call);
}

static void finish(struct ctl_call *call, json_t *msg)
{
	struct ctl_conn *conn = call->conn;
	if (!conn) {
		json_decref(msg);
		free_call(call);
		return;
	}
	conn->busy++;
	call->conn = NULL; /* so that a connection that breaks now does not come back to this call */
	conn->ncalls--;
	put(conn, msg);
	free_call(call);
	leave(conn);
}

void ctl_reply(struct ctl_call *call, json_t *result)
{
	finish(call, json_pack("{sO sb so}", "id", call->id, "ok", 1, "result", result ? result : json_object()));
}

void ctl_fail(struct ctl_call *call, const char *code, const char *fmt, ...)
{
	char text[1024];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	finish(call, error_message(call->id, code, text));
}

void ctl_event(struct ctl_call *call, json_t *event)
{
	if (!call->conn) {
		json_decref(event);
		return;
	}
	struct ctl_conn *conn = call->conn;
	conn->busy++;
	put(conn, json_pack("{sO so}", "id", call->id, "event", event));
	leave(conn);
}

bool ctl_alive(const struct ctl_call *call) { return call->conn; }
size_t ctl_backlog(const struct ctl_call *call) { return call->conn ? proto_out_size(&call->conn->out) : 0; }
struct ctl *ctl_of(const struct ctl_call *call) { return call->ctl; }
struct loop *ctl_loop(struct ctl_call *call) { return call->ctl->vm->loop; }
void ctl_wait_end(struct ctl_call *call) { call->waits_for_end = true; }

void ctl_on_gone(struct ctl_call *call, void (*fn)(void *), void *opaque)
{
	call->gone = fn;
	call->gone_opaque = opaque;
}

int ctl_take_fd(struct ctl_call *call)
{
	if (!call->nfds)
		return -1;
	int fd = call->fds[0];
	memmove(call->fds, call->fds + 1, --call->nfds * sizeof call->fds[0]);
	return fd;
}

static struct ctl_call *new_call(struct ctl_conn *conn, json_t *id, unsigned nfds)
{
	struct ctl_call *call = calloc(1, sizeof *call);
	if (!call)
		return NULL;
	*call = (struct ctl_call){ .next = conn->ctl->calls, .ctl = conn->ctl, .conn = conn, .id = json_incref(id) };
	for (unsigned i = 0; i < nfds; i++)
		call->fds[call->nfds++] = proto_in_take_fd(&conn->in);
	conn->ctl->calls = call;
	conn->ncalls++;
	return call;
}

/* ---- requests ---- */
static void request(struct ctl_conn *conn, json_t *msg)
{
	const char *verb = NULL;
	json_t *id = NULL, *args = NULL, *empty = NULL;
	json_int_t nfds = 0;
	char why[256];
	if (json_unpack(msg, "{so ss s?o s?I !}", "id", &id, "verb", &verb, "args", &args, "fds", &nfds) || !json_is_integer(id) ||
	    nfds < 0 || nfds > conn->in.nfds) {
		refuse(conn, json_is_integer(id) ? id : NULL, "bad-request",
		       "a request is {\"id\":NUMBER,\"verb\":TEXT,\"args\":{...},\"fds\":NUMBER}, and as many descriptors must have come with it");
		return;
	}
	if (!args)
		args = empty = json_object();
	struct ctl_call *call = new_call(conn, id, (unsigned)nfds);
	const struct ctl_verb *v = ctl_verb_find(verb);
	if (!call)
		refuse(conn, id, "no-memory", "out of memory");
	else if (!v)
		ctl_fail(call, "unknown-verb", "\"%.64s\" is no verb; the verb \"verbs\" lists them", verb);
	else if (ctl_check_args(v->args, args, why, sizeof why))
		ctl_fail(call, "bad-args", "%s: %s", v->name, why);
	else
		v->fn(conn->ctl->vm, call, args);
	json_decref(empty);
}

static void serve_lines(struct ctl_conn *conn)
{
	int err;
	while (!conn->dead && !conn->closing && conn->ncalls < MAX_CALLS) {
		json_t *msg = proto_in_next(&conn->in, &err);
		if (!msg && !err)
			return;
		if (msg)
			request(conn, msg);
		else
			refuse(conn, NULL, "bad-json", "each line must be one JSON object");
		json_decref(msg);
	}
}

static void read_more(struct ctl_conn *conn)
{
	int n = proto_in_read(&conn->in, conn->fd);
	if (n > 0 || n == -EAGAIN)
		return;
	if (n == -EMSGSIZE || n == -EMFILE) {
		conn->closing = true;
		refuse(conn, NULL, "too-much", n == -EMFILE ? "more descriptors than requests ask for" : "a line is longer than 4 MiB");
	} else {
		drop(conn);
	}
}

static void on_conn(void *opaque, unsigned ready)
{
	struct ctl_conn *conn = opaque;
	conn->busy++;
	if ((ready & LOOP_READ) && !conn->closing && conn->ncalls < MAX_CALLS)
		read_more(conn);
	serve_lines(conn);
	settle(conn);
	leave(conn);
}

static void on_accept(void *opaque, unsigned ready)
{
	struct ctl *ctl = opaque;
	int fd = accept4(ctl->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0 && errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
		loop_fd_events(ctl->listen, 0); /* else we would be called again at once, for ever */
		loop_timer_set(ctl->again, 200);
	}
	if (fd < 0)
		return;
	struct ctl_conn *conn = ctl->nconns < MAX_CONNS ? calloc(1, sizeof *conn) : NULL;
	if (conn) {
		*conn = (struct ctl_conn){ .next = ctl->conns, .ctl = ctl, .fd = fd };
		conn->watch = loop_fd_add(ctl->vm->loop, fd, LOOP_READ, on_conn, conn);
	}
	if (!conn || !conn->watch) {
		free(conn);
		close(fd);
		return;
	}
	ctl->conns = conn;
	ctl->nconns++;
}

/* ---- the server ---- */
static void listen_again(void *opaque)
{
	struct ctl *ctl = opaque;
	loop_fd_events(ctl->listen, LOOP_READ);
}

struct ctl *ctl_open(struct vm *vm, int listen_fd)
{
	struct ctl *ctl = calloc(1, sizeof *ctl);
	if (!ctl) {
		log_error("control socket: out of memory");
		return NULL;
	}
	*ctl = (struct ctl){ .vm = vm, .listen_fd = listen_fd };
	ctl->listen = loop_fd_add(vm->loop, listen_fd, LOOP_READ, on_accept, ctl);
	ctl->again = loop_timer_add(vm->loop, listen_again, ctl);
	if (!ctl->listen || !ctl->again) {
		loop_fd_remove(ctl->listen);
		loop_timer_remove(ctl->again);
		free(ctl);
		return NULL;
	}
	if (vm->cfg.serial == VM_SERIAL_CONTROL)
		ctl->console = ctl_console_create(vm);
	vm->promises |= SANDBOX_SERVE;
	return ctl;
}

/* Gives every client what it is still owed, as far as it takes it in time. */
static void flush(struct ctl *ctl, int limit_ms)
{
	u64 until = host_now_ns() + (u64)limit_ms * 1000000;
	struct ctl_conn *next;
	for (struct ctl_conn *conn = ctl->conns; conn; conn = next) {
		next = conn->next;
		while (proto_out_size(&conn->out)) {
			u64 now = host_now_ns();
			struct pollfd p = { .fd = conn->fd, .events = POLLOUT };
			if (now >= until || poll(&p, 1, (int)((until - now) / 1000000) + 1) <= 0 || proto_out_send(&conn->out, conn->fd) < 0)
				break;
		}
		drop(conn);
	}
}

void ctl_close(struct ctl *ctl, json_t *end, int limit_ms)
{
	if (!ctl) {
		json_decref(end);
		return;
	}
	loop_timer_remove(ctl->again);
	ctl_trace_end();
	ctl_gdb_end();
	loop_fd_remove(ctl->listen);
	close(ctl->listen_fd);
	for (struct ctl_call *c = ctl->calls; c; c = ctl->calls) {
		void (*gone)(void *) = c->gone;
		c->gone = NULL;
		if (c->waits_for_end) {
			ctl_reply(c, json_incref(end));
			continue;
		}
		/* Whoever works on the call hears that nobody waits any more; it may answer the call in turn. */
		struct ctl_conn *conn = c->conn;
		if (conn) {
			conn->ncalls--;
			c->conn = NULL;
			refuse(conn, c->id, "gone", "the machine has ended");
		}
		if (gone)
			gone(c->gone_opaque);
		if (ctl->calls == c)
			free_call(c);
	}
	ctl_console_destroy(ctl->console);
	flush(ctl, limit_ms);
	json_decref(end);
	free(ctl);
}
