/* The side that asks. Blocking: the command has nothing else to do. */
#include "proto/proto.h"
#include "host/time.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

int proto_client_open(struct proto_client *c, int dir_fd, const char *name)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	*c = (struct proto_client){ .fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0) };
	if (c->fd < 0)
		return -errno;
	/* A path of any length by way of the folder's descriptor. */
	int n = snprintf(a.sun_path, sizeof a.sun_path, "/proc/self/fd/%d/%s", dir_fd, name);
	int err = n >= (int)sizeof a.sun_path ? -ENAMETOOLONG : connect(c->fd, (struct sockaddr *)&a, sizeof a) ? -errno : 0;
	if (err)
		proto_client_close(c);
	return err;
}

void proto_client_close(struct proto_client *c)
{
	if (c->fd >= 0)
		close(c->fd);
	c->fd = -1;
	proto_in_free(&c->in);
}

static int send_all(int fd, const char *data, size_t len, const int *fds, unsigned nfds)
{
	union { char bytes[CMSG_SPACE(PROTO_MAX_FDS * sizeof(int))]; struct cmsghdr align; } control = { { 0 } };
	struct iovec iov = { (char *)data, len };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
	if (nfds) {
		m.msg_control = control.bytes;
		m.msg_controllen = CMSG_SPACE(nfds * sizeof(int));
		struct cmsghdr *h = CMSG_FIRSTHDR(&m);
		*h = (struct cmsghdr){ .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(nfds * sizeof(int)) };
		memcpy(CMSG_DATA(h), fds, nfds * sizeof(int));
	}
	while (iov.iov_len) {
		ssize_t n = sendmsg(fd, &m, MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		iov.iov_base = (char *)iov.iov_base + n;
		iov.iov_len -= n;
		m.msg_control = NULL; /* descriptors went with the first byte */
		m.msg_controllen = 0;
	}
	return 0;
}

json_int_t proto_client_send(struct proto_client *c, const char *verb, json_t *args, const int *fds, unsigned nfds)
{
	struct proto_out line = { 0 };
	bug_if(nfds > PROTO_MAX_FDS);
	json_t *msg = json_pack("{sI ss so*}", "id", ++c->last_id, "verb", verb, "args", args);
	if (msg && nfds)
		json_object_set_new(msg, "fds", json_integer(nfds));
	int err = msg ? proto_out_put(&line, msg) : -ENOMEM;
	if (!err)
		err = send_all(c->fd, line.buf, line.len, fds, nfds);
	proto_out_free(&line);
	return err ? err : c->last_id;
}

json_t *proto_client_receive(struct proto_client *c, int timeout_ms, int *err)
{
	u64 until = timeout_ms < 0 ? ~(u64)0 : host_now_ns() + (u64)timeout_ms * 1000000;
	for (;;) {
		json_t *msg = proto_in_next(&c->in, err);
		if (msg || *err)
			return msg;
		u64 now = host_now_ns();
		struct pollfd p = { .fd = c->fd, .events = POLLIN };
		int n = poll(&p, 1, timeout_ms < 0 ? -1 : now >= until ? 0 : (int)((until - now) / 1000000) + 1);
		if (!n) {
			*err = -ETIMEDOUT;
			return NULL;
		}
		int got = n < 0 ? -errno : proto_in_read(&c->in, c->fd);
		if (got == -EINTR || got == -EAGAIN)
			continue;
		if (got <= 0) {
			*err = got ? got : -ECONNRESET;
			return NULL;
		}
	}
}

static void fill(struct proto_error *e, const char *code, const char *message)
{
	snprintf(e->code, sizeof e->code, "%s", code);
	snprintf(e->message, sizeof e->message, "%s", message);
}

static void fill_errno(struct proto_error *e, int err)
{
	if (err == -ETIMEDOUT)
		fill(e, "timeout", "the VM process does not answer");
	else if (err == -ECONNRESET || err == -EPIPE)
		fill(e, "gone", "the VM process has ended");
	else
		fill(e, "protocol", strerror(-err));
}

/* The final answer: its result, or NULL with *e filled. */
static json_t *answer(json_t *msg, struct proto_error *e)
{
	const char *code = "protocol", *message = "the VM process gave an answer that is none";
	json_t *result = NULL;
	if (json_is_true(json_object_get(msg, "ok"))) {
		result = json_incref(json_object_get(msg, "result"));
		if (!result)
			result = json_object();
	} else {
		json_unpack(msg, "{s{s?s s?s}}", "error", "code", &code, "message", &message);
	}
	if (!result)
		fill(e, code, message);
	json_decref(msg);
	return result;
}

json_t *proto_call(struct proto_client *c, const char *verb, json_t *args, const int *fds, unsigned nfds, int timeout_ms,
		   void (*on_event)(void *, json_t *), void *opaque, struct proto_error *error)
{
	int err = 0;
	json_int_t id = proto_client_send(c, verb, args, fds, nfds);
	if (id < 0) {
		fill_errno(error, (int)id);
		return NULL;
	}
	for (;;) {
		json_t *msg = proto_client_receive(c, timeout_ms, &err);
		if (!msg) {
			fill_errno(error, err);
			return NULL;
		}
		json_t *event = json_object_get(msg, "event");
		if (json_integer_value(json_object_get(msg, "id")) == id && !event)
			return answer(msg, error);
		if (event && on_event)
			on_event(opaque, event);
		json_decref(msg);
	}
}
