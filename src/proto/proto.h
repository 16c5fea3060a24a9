/* The control channel's messages: one JSON object a line over a unix stream socket, with descriptors beside them (SCM_RIGHTS).
 *
 *   request   {"id":1,"verb":"pause","args":{...},"fds":1}      args and fds may be left out
 *   event     {"id":1,"event":{...}}                            any number of them
 *   answer    {"id":1,"ok":true,"result":{...}}  or  {"id":1,"ok":false,"error":{"code":"...","message":"..."}}
 *
 * Here: framing for both sides, and the client. Not here: what verbs there are (ctl/verbs.def). Surprise: descriptors belong to requests by order:
 * "fds" says how many of those that have arrived are this request's. */
#ifndef NB_PROTO_H
#define NB_PROTO_H

#include "base/base.h"
#include <jansson.h>

#define PROTO_MAX_LINE (4 * MiB) /* a guest-exec's output in one piece, base64, stays below */
#define PROTO_MAX_FDS 8u

/* ---- framing ---- */
struct proto_in {
	char *buf;
	size_t off, len, cap;   /* buf[off .. len) has not been given out */
	int fds[PROTO_MAX_FDS]; /* arrived, and not yet given to a request */
	unsigned nfds;
};

struct proto_out {
	char *buf;
	size_t off, len, cap; /* buf[off .. len) is still to be sent */
};

/* Takes what the socket has now, without blocking. Bytes taken (> 0), 0: the other side has closed, -EAGAIN: nothing there, -EMSGSIZE: a line is too long,
 * -EMFILE: more descriptors than PROTO_MAX_FDS wait, or another -errno. After any but > 0 and -EAGAIN the connection is of no more use. */
int proto_in_read(struct proto_in *in, int fd);
/* The next complete line as an object (caller owns it). NULL with *err = 0: no complete line yet; -EBADMSG: the line, now gone, is not a JSON object. */
json_t *proto_in_next(struct proto_in *in, int *err);
/* Oldest descriptor that has arrived, now the caller's; -1: none. */
int proto_in_take_fd(struct proto_in *in);
/* Frees the buffer and closes descriptors that nobody took. */
void proto_in_free(struct proto_in *in);

/* Appends msg as one line; takes it over. 0 or -ENOMEM. */
int proto_out_put(struct proto_out *out, json_t *msg);
/* Sends without blocking. 1: all is sent, 0: the socket is full, else -errno. */
int proto_out_send(struct proto_out *out, int fd);
static inline size_t proto_out_size(const struct proto_out *out) { return out->len - out->off; }
void proto_out_free(struct proto_out *out);

/* ---- client ---- */
struct proto_client {
	int fd; /* -1: closed */
	json_int_t last_id;
	struct proto_in in;
};

/* What went wrong: a code for programs, a sentence for people. */
struct proto_error {
	char code[32];
	char message[1024];
};

/* Connects to the socket `name` in the folder dir_fd (so that long paths do no harm). 0 or -errno. */
int proto_client_open(struct proto_client *c, int dir_fd, const char *name);
void proto_client_close(struct proto_client *c);
/* Sends a request; takes args (may be NULL); fds stay the caller's. The request's id (> 0) or -errno. */
json_int_t proto_client_send(struct proto_client *c, const char *verb, json_t *args, const int *fds, unsigned nfds);
/* The next message, waiting at most timeout_ms (-1: for ever). NULL with *err: -ETIMEDOUT, -ECONNRESET (the VM process has gone), -EBADMSG. */
json_t *proto_client_receive(struct proto_client *c, int timeout_ms, int *err);
/* A whole request: gives events to on_event (may be NULL) and returns the result (caller owns it), or NULL with *error filled: the other side's code, or
 * "gone", "timeout", "protocol". Takes args. timeout_ms is the longest silence. */
json_t *proto_call(struct proto_client *c, const char *verb, json_t *args, const int *fds, unsigned nfds, int timeout_ms,
		   void (*on_event)(void *opaque, json_t *event), void *opaque, struct proto_error *error);

#endif
