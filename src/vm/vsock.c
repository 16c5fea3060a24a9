/* vsock connections as unix sockets. Everything under bus->lock; sockets are touched on the loop thread only. */
#include "vm/vsock.h"
#include "base/log.h"
#include "host/sandbox.h"
#include "virtio/virtio_vsock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { CONNS = 64, STRAYS = 32, OUT_BYTES = 65536, IN_BYTES = 3072, LINE_BYTES = 32, STREAM = 1, GONE_RCV = 1, GONE_SEND = 2, GONE = 3 };
#define FIRST_HOST_PORT 0x40000000u

enum conn_state { FREE, LINE /* the host's program has not said CONNECT yet */, CALLING /* the guest */, CALLED /* by it; connect() is due */, OPEN };
enum { SAY_REQUEST = 1, SAY_RESPONSE = 2, SAY_CREDIT = 4, SAY_SHUTDOWN = 8, SAY_RST = 16 };

struct conn {
	enum conn_state state;
	int fd;
	struct loop_fd *watch;
	struct vsock *vsock;
	u32 guest_port, host_port;
	u32 peer_alloc, peer_fwd, sent; /* how much the guest can take, has taken, was given: modulo 2^32, as the specification has it */
	u32 fwd, told_fwd;              /* bytes that the host's program has taken; what the guest knows of that */
	unsigned say;
	u8 guest_gone;                  /* GONE_*: what the guest will not do any more */
	bool host_eof, eof_due;          /* the program sends no more; the guest must still hear that */
	bool half_closed, over;         /* the program knows of GONE_SEND; only what is in out is left to do */
	u8 out[OUT_BYTES];              /* from the guest */
	u32 out_len;
	u8 in[IN_BYTES];                /* for the guest */
	u32 in_len;
};

struct stray { u32 guest_port, host_port; };

struct vsock {
	struct vm *vm;
	struct virtio_vsock *dev;
	struct vsock_spec spec;
	int listen_fd;
	struct loop_fd *listen_watch;
	bool posted;
	u32 next_port;
	struct conn conn[CONNS];
	struct stray stray[STRAYS]; /* refused with RST as soon as there is room */
	unsigned nstrays;
};

static void settle(void *opaque);

static void post(struct vsock *s)
{
	if (!s->posted && !loop_post(s->vm->loop, settle, s))
		s->posted = true;
}

/* ---- packets to the guest ---- */
static bool send_packet(struct vsock *s, u32 host_port, u32 guest_port, enum vsock_op op, u32 flags, const struct conn *c, const u8 *data, u32 len)
{
	struct vsock_head h = { .src_cid = VSOCK_HOST_CID, .dst_cid = s->spec.cid, .src_port = host_port, .dst_port = guest_port, .len = len, .type = STREAM,
		.op = (u16)op, .flags = flags, .buf_alloc = c ? OUT_BYTES : 0, .fwd_cnt = c ? c->fwd : 0 };
	return virtio_vsock_send(s->dev, &h, data);
}

/* What the connection has to say, in this order. False: no room. */
static bool speak(struct conn *c)
{
	static const struct { unsigned say; enum vsock_op op; } rows[] = { { SAY_REQUEST, VSOCK_REQUEST }, { SAY_RESPONSE, VSOCK_RESPONSE },
		{ SAY_CREDIT, VSOCK_CREDIT_UPDATE }, { SAY_SHUTDOWN, VSOCK_SHUTDOWN }, { SAY_RST, VSOCK_RST } };
	for (unsigned i = 0; i < array_len(rows); i++) {
		if (!(c->say & rows[i].say))
			continue;
		if (!send_packet(c->vsock, c->host_port, c->guest_port, rows[i].op, rows[i].op == VSOCK_SHUTDOWN ? GONE_SEND : 0, c, NULL, 0))
			return false;
		c->say &= ~rows[i].say;
		c->told_fwd = c->fwd;
	}
	return true;
}

static void say_data(struct conn *c)
{
	u32 credit = c->peer_alloc - (c->sent - c->peer_fwd);
	while (c->in_len && credit && credit <= c->peer_alloc) {
		u32 n = (u32)min_u64(c->in_len, credit);
		if (!send_packet(c->vsock, c->host_port, c->guest_port, VSOCK_RW, 0, c, c->in, n))
			return;
		c->told_fwd = c->fwd;
		c->sent += n;
		credit -= n;
		c->in_len -= n;
		memmove(c->in, c->in + n, c->in_len);
	}
}

/* ---- packets from the guest, under bus->lock ---- */
static struct conn *find(struct vsock *s, u32 guest_port, u32 host_port)
{
	for (unsigned i = 0; i < CONNS; i++) {
		struct conn *c = &s->conn[i];
		if (c->state > LINE && !c->over && c->guest_port == guest_port && c->host_port == host_port)
			return c;
	}
	return NULL;
}

static struct conn *new_conn(struct vsock *s, enum conn_state state, int fd)
{
	for (unsigned i = 0; i < CONNS; i++)
		if (s->conn[i].state == FREE) {
			s->conn[i] = (struct conn){ .state = state, .fd = fd, .vsock = s };
			return &s->conn[i];
		}
	return NULL;
}

static void stray(struct vsock *s, const struct vsock_head *h)
{
	if (h->op != VSOCK_RST && s->nstrays < STRAYS)
		s->stray[s->nstrays++] = (struct stray){ h->src_port, h->dst_port };
}

static void data_came(struct conn *c, const u8 *data, u32 len)
{
	if (c->state != OPEN || len > OUT_BYTES - c->out_len) { /* more than we ever allowed */
		c->say = SAY_RST;
		c->over = true;
		return;
	}
	memcpy(c->out + c->out_len, data, len);
	c->out_len += len;
}

static void accepted(struct conn *c)
{
	if (c->state != CALLING)
		return;
	c->state = OPEN;
	c->out_len = (u32)snprintf((char *)c->out, OUT_BYTES, "OK %u\n", c->host_port);
	c->fwd = -c->out_len; /* this line is not the guest's */
	c->told_fwd = 0;
}

static void packet(void *opaque, const struct vsock_head *h, const u8 *data)
{
	struct vsock *s = opaque;
	struct conn *c = h->type == STREAM && h->dst_cid == VSOCK_HOST_CID ? find(s, h->src_port, h->dst_port) : NULL;
	if (!c && h->op == VSOCK_REQUEST && h->type == STREAM && h->dst_cid == VSOCK_HOST_CID && (c = new_conn(s, CALLED, -1))) {
		c->guest_port = h->src_port;
		c->host_port = h->dst_port;
	} else if (!c || h->op == VSOCK_REQUEST) {
		stray(s, h);
	}
	if (c) {
		c->peer_alloc = h->buf_alloc;
		c->peer_fwd = h->fwd_cnt;
		switch (h->op) {
		case VSOCK_RESPONSE: accepted(c); break;
		case VSOCK_RST: c->over = true; break;
		case VSOCK_RW: data_came(c, data, h->len); break;
		case VSOCK_SHUTDOWN: c->guest_gone |= h->flags & GONE; break;
		case VSOCK_CREDIT_REQUEST: c->say |= SAY_CREDIT; break;
		}
	}
	post(s);
}

static void room(void *opaque) { post(opaque); }

static void driver_reset(void *opaque)
{
	struct vsock *s = opaque;
	s->nstrays = 0;
	for (unsigned i = 0; i < CONNS; i++)
		if (s->conn[i].state > LINE) {
			s->conn[i].over = true;
			s->conn[i].say = 0;
		}
	post(s);
}

/* ---- the loop thread ---- */
static void drop(struct conn *c)
{
	loop_fd_remove(c->watch);
	if (c->fd >= 0)
		close(c->fd);
	*c = (struct conn){ .fd = -1 };
}

static void end_with_rst(struct conn *c)
{
	c->say = SAY_RST;
	c->over = true;
}

static void on_conn(void *opaque, unsigned ready);

static bool watch(struct conn *c)
{
	c->watch = loop_fd_add(c->vsock->vm->loop, c->fd, LOOP_READ, on_conn, c);
	return c->watch != NULL;
}

static void connect_to_program(struct conn *c)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	snprintf(a.sun_path, sizeof a.sun_path, "%s_%u", c->vsock->spec.path, c->host_port);
	c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (c->fd >= 0 && !connect(c->fd, (struct sockaddr *)&a, sizeof a) && watch(c)) {
		c->state = OPEN;
		c->say |= SAY_RESPONSE;
		return;
	}
	end_with_rst(c);
}

static void write_out(struct conn *c)
{
	while (c->out_len && c->fd >= 0) {
		ssize_t n = send(c->fd, c->out, c->out_len, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n <= 0) { /* nobody reads any more */
			c->out_len = 0;
			if (!c->over)
				end_with_rst(c);
			return;
		}
		c->out_len -= (u32)n;
		c->fwd += (u32)n;
		memmove(c->out, c->out + n, c->out_len);
	}
	if (c->state == OPEN && c->fwd - c->told_fwd >= OUT_BYTES / 2 && c->fwd - c->told_fwd < 1u << 31)
		c->say |= SAY_CREDIT;
}

/* The rest of a connection's life after data has moved. */
static void settle_conn(struct conn *c)
{
	if (c->state == CALLED && !c->over)
		connect_to_program(c);
	write_out(c);
	if (!c->over && !c->out_len && (c->guest_gone & GONE_SEND) && !c->half_closed) {
		shutdown(c->fd, SHUT_WR);
		c->half_closed = true;
	}
	if (!c->over && !c->out_len && c->guest_gone == GONE)
		end_with_rst(c);
	bool said = speak(c);
	if (said && c->state == OPEN && !c->over) {
		say_data(c);
		if (c->eof_due && !c->in_len) {
			c->eof_due = false;
			c->say |= SAY_SHUTDOWN;
			said = speak(c);
		}
	}
	if (c->over && !c->out_len && said) {
		drop(c);
		return;
	}
	if (c->watch)
		loop_fd_events(c->watch, (c->out_len ? LOOP_WRITE : 0) | (!c->in_len && !c->over && c->state != CALLING && !c->host_eof ? LOOP_READ : 0));
}

static void settle(void *opaque)
{
	struct vsock *s = opaque;
	bus_lock(&s->vm->bus);
	s->posted = false;
	while (s->nstrays && send_packet(s, s->stray[s->nstrays - 1].host_port, s->stray[s->nstrays - 1].guest_port, VSOCK_RST, 0, NULL, NULL, 0))
		s->nstrays--;
	for (unsigned i = 0; i < CONNS; i++)
		if (s->conn[i].state != FREE)
			settle_conn(&s->conn[i]);
	bus_unlock(&s->vm->bus);
}

/* "CONNECT PORT\n", then data for the guest may follow at once. */
static void read_line(struct conn *c)
{
	unsigned port;
	u8 *end = memchr(c->in, '\n', c->in_len);
	char line[LINE_BYTES];
	if (!end && c->in_len < LINE_BYTES)
		return;
	snprintf(line, sizeof line, "%.*s", end ? (int)min_u64((u64)(end - c->in), sizeof line - 1) : 0, (const char *)c->in);
	if (sscanf(line, "CONNECT %u", &port) != 1) {
		drop(c);
		return;
	}
	u32 used = (u32)(end - c->in) + 1;
	c->in_len -= used;
	memmove(c->in, c->in + used, c->in_len);
	c->guest_port = port;
	c->host_port = c->vsock->next_port++;
	c->vsock->next_port |= FIRST_HOST_PORT;
	c->state = CALLING;
	c->say |= SAY_REQUEST;
}

static void on_conn(void *opaque, unsigned ready)
{
	struct conn *c = opaque;
	struct vsock *s = c->vsock;
	bus_lock(&s->vm->bus);
	bool line = c->state == LINE;
	if ((ready & (LOOP_READ | LOOP_HUP)) && (line || !c->in_len) && !c->over) {
		ssize_t n = read(c->fd, c->in + c->in_len, (line ? LINE_BYTES * 2 : IN_BYTES) - c->in_len);
		if (n > 0)
			c->in_len += (u32)n;
		else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
			c->host_eof = c->eof_due = true;
			if (c->state != OPEN)
				end_with_rst(c);
			if (line)
				drop(c);
		}
		if (c->state == LINE && n > 0)
			read_line(c);
	}
	if (c->state != FREE)
		settle_conn(c);
	bus_unlock(&s->vm->bus);
}

static void on_listen(void *opaque, unsigned ready)
{
	struct vsock *s = opaque;
	int fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0)
		return;
	bus_lock(&s->vm->bus);
	struct conn *c = new_conn(s, LINE, fd);
	if (!c)
		close(fd); /* as many as there can be */
	else if (!watch(c))
		drop(c);
	bus_unlock(&s->vm->bus);
}

/* ---- making it ---- */
int vsock_spec_parse(struct vsock_spec *spec, const char *text, char *err, size_t size)
{
	char *end;
	unsigned long cid = strtoul(text, &end, 10);
	if (end == text || *text == '-' || cid < 3 || cid > 0xfffffffe) {
		snprintf(err, size, "the CID must be a number from 3 to 4294967294");
		return -EINVAL;
	}
	if (strncmp(end, ",path=", 6) || !end[6] || strlen(end + 6) >= sizeof spec->path) {
		snprintf(err, size, "say CID,path=FILE with a file name of at most %d characters for the socket", (int)sizeof spec->path - 1);
		return -EINVAL;
	}
	spec->cid = (u32)cid;
	snprintf(spec->path, sizeof spec->path, "%s", end + 6);
	return 0;
}

/* A socket that a machine before us left there goes away; one that somebody listens on does not. */
static int listen_at(const char *path)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	snprintf(a.sun_path, sizeof a.sun_path, "%s", path);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd >= 0 && probe >= 0 && connect(probe, (struct sockaddr *)&a, sizeof a) && errno == ECONNREFUSED)
		unlink(path);
	int err = fd < 0 || probe < 0 || bind(fd, (struct sockaddr *)&a, sizeof a) || listen(fd, 16) ? -errno : 0;
	if (probe >= 0)
		close(probe);
	if (err && fd >= 0)
		close(fd);
	return err ? err : fd;
}

int vsock_create(struct vm *vm, struct pci_host *h, unsigned slot, const char *text, struct vsock **out)
{
	char why[256];
	struct vsock *s = calloc(1, sizeof *s);
	int err = !s ? -ENOMEM : vsock_spec_parse(&s->spec, text, why, sizeof why);
	if (err) {
		log_error("--vsock \"%s\": %s", text, s ? why : "out of memory");
		free(s);
		return err;
	}
	s->vm = vm;
	s->next_port = FIRST_HOST_PORT;
	s->listen_fd = listen_at(s->spec.path);
	if (s->listen_fd < 0) {
		err = s->listen_fd;
		log_error("--vsock \"%s\": %s: %s", text, s->spec.path, strerror(-err));
		free(s);
		return err;
	}
	s->listen_watch = loop_fd_add(vm->loop, s->listen_fd, LOOP_READ, on_listen, s);
	s->dev = virtio_vsock_create(h, slot, &(struct virtio_vsock_config){ s->spec.cid, packet, room, driver_reset, s });
	vm->promises |= SANDBOX_SERVE | SANDBOX_CONNECT;
	*out = s;
	return 0;
}

void vsock_free(struct vsock *s)
{
	if (!s)
		return;
	for (unsigned i = 0; i < CONNS; i++)
		if (s->conn[i].state != FREE)
			drop(&s->conn[i]);
	loop_fd_remove(s->listen_watch);
	close(s->listen_fd);
	free(s);
}
