/* JSON lines and descriptors over a stream socket. Everything that comes in is from a stranger. */
#include "proto/proto.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum { CHUNK = 65536 };

static int make_room(char **buf, size_t *cap, size_t need)
{
	if (*cap >= need)
		return 0;
	size_t cap_new = *cap ? *cap : 4096;
	while (cap_new < need)
		cap_new *= 2;
	char *p = realloc(*buf, cap_new);
	if (!p)
		return -ENOMEM;
	*buf = p;
	*cap = cap_new;
	return 0;
}

/* Takes over the descriptors of one message; all of them are closed when they are too many. */
static int take_fds(struct proto_in *in, struct msghdr *m)
{
	int err = m->msg_flags & MSG_CTRUNC ? -EMFILE : 0;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < n; i++) {
			int fd;
			memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
			if (in->nfds == PROTO_MAX_FDS) {
				close(fd);
				err = -EMFILE;
			} else {
				in->fds[in->nfds++] = fd;
			}
		}
	}
	return err;
}

int proto_in_read(struct proto_in *in, int fd)
{
	union { char bytes[CMSG_SPACE(PROTO_MAX_FDS * sizeof(int))]; struct cmsghdr align; } control;
	/* What has been given out goes here, once a read and not once a line: a client may send millions of empty lines. */
	if (in->off)
		memmove(in->buf, in->buf + in->off, in->len - in->off);
	in->len -= in->off;
	in->off = 0;
	if (in->len > PROTO_MAX_LINE)
		return -EMSGSIZE;
	int err = make_room(&in->buf, &in->cap, in->len + CHUNK);
	if (err)
		return err;
	struct iovec iov = { in->buf + in->len, CHUNK };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes };
	ssize_t n;
	do
		n = recvmsg(fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	in->len += n;
	err = take_fds(in, &m);
	return err ? err : (int)n;
}

json_t *proto_in_next(struct proto_in *in, int *err)
{
	*err = 0;
	char *start = in->buf + in->off, *end = in->off < in->len ? memchr(start, '\n', in->len - in->off) : NULL;
	if (!end)
		return NULL;
	json_error_t why;
	json_t *msg = json_loadb(start, end - start, JSON_REJECT_DUPLICATES, &why);
	in->off += end - start + 1;
	if (!json_is_object(msg)) {
		json_decref(msg);
		*err = -EBADMSG;
		return NULL;
	}
	return msg;
}

int proto_in_take_fd(struct proto_in *in)
{
	if (!in->nfds)
		return -1;
	int fd = in->fds[0];
	memmove(in->fds, in->fds + 1, --in->nfds * sizeof in->fds[0]);
	return fd;
}

void proto_in_free(struct proto_in *in)
{
	for (int fd; (fd = proto_in_take_fd(in)) >= 0;)
		close(fd);
	free(in->buf);
	*in = (struct proto_in){ 0 };
}

int proto_out_put(struct proto_out *out, json_t *msg)
{
	size_t n = json_dumpb(msg, NULL, 0, JSON_COMPACT);
	if (out->off > out->len / 2) {
		memmove(out->buf, out->buf + out->off, out->len - out->off);
		out->len -= out->off;
		out->off = 0;
	}
	int err = n ? make_room(&out->buf, &out->cap, out->len + n + 1) : -ENOMEM;
	if (!err) {
		json_dumpb(msg, out->buf + out->len, n, JSON_COMPACT);
		out->len += n;
		out->buf[out->len++] = '\n';
	}
	json_decref(msg);
	return err;
}

int proto_out_send(struct proto_out *out, int fd)
{
	while (out->off < out->len) {
		ssize_t n = send(fd, out->buf + out->off, out->len - out->off, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN || errno == EWOULDBLOCK ? 0 : -errno;
		out->off += n;
	}
	out->off = out->len = 0;
	return 1;
}

void proto_out_free(struct proto_out *out)
{
	free(out->buf);
	*out = (struct proto_out){ 0 };
}
