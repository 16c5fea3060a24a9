/* The host's side of the QEMU guest agent's protocol: JSON lines over org.qemu.guest_agent.0 ("QEMU Guest Agent Protocol Reference"). Blocking; for the
 * command line. Surprise: the stream may begin with an answer to somebody else's request, so every conversation starts with guest-sync-delimited. */
#ifndef NB_AGENT_QGA_H
#define NB_AGENT_QGA_H

#include "base/base.h"
#include <jansson.h>

struct qga {
	int fd;          /* a connected stream socket; the caller's */
	char *buf;
	size_t len, cap;
	char error[512]; /* the last failure, a sentence */
	char error_class[64]; /* the agent's own name for it: CommandNotFound, GenericError, ...; "" when the agent did not answer */
};

/* Finds the beginning of the conversation. 0, -ETIMEDOUT: nobody answers, or another -errno. */
int qga_open(struct qga *q, int fd, unsigned timeout_ms);
void qga_close(struct qga *q);
/* One command; args may be NULL and are taken over. Its "return" (caller owns it), or NULL with q->error. */
json_t *qga_call(struct qga *q, const char *command, json_t *args, unsigned timeout_ms);

/* guest-exec; argv[0] is the path. The process's number, or -1 with q->error. input: bytes for its standard input. */
json_int_t qga_exec(struct qga *q, char *const *argv, const void *input, size_t len, bool capture);
/* One guest-exec-status; NULL with q->error. */
json_t *qga_exec_status(struct qga *q, json_int_t pid);
/* Writes a whole file. 0 or -EIO with q->error. */
int qga_put_file(struct qga *q, const char *path, const void *data, size_t len);

/* Reads a whole file, giving its bytes to fn; false from fn ends it. 0 or -EIO with q->error. */
int qga_get_file(struct qga *q, const char *path, bool (*fn)(void *opaque, const void *data, size_t len), void *opaque);

/* Base64 (RFC 4648). The result is malloc'ed and ends with a zero byte; NULL: no memory, or (decode) not base64. */
char *base64_encode(const void *data, size_t len);
void *base64_decode(const char *text, size_t *len);

#endif
