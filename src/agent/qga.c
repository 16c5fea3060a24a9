/* The QEMU guest agent's protocol. */
#include "agent/qga.h"
#include "host/time.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_ANSWER (64 * MiB) /* guest-exec-status returns whole outputs, at most 16 MiB each before base64 */
enum { CHUNK = 49152, CALL_MS = 20000 };

/* ---- base64 ---- */
static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

char *base64_encode(const void *data, size_t len)
{
	const u8 *p = data;
	char *out = malloc((len + 2) / 3 * 4 + 1), *o = out;
	for (size_t i = 0; out && i < len; i += 3) {
		size_t n = min_u64(3, len - i);
		u32 v = (u32)p[i] << 16 | (n > 1 ? (u32)p[i + 1] << 8 : 0) | (n > 2 ? p[i + 2] : 0);
		*o++ = digits[v >> 18];
		*o++ = digits[v >> 12 & 63];
		*o++ = n > 1 ? digits[v >> 6 & 63] : '=';
		*o++ = n > 2 ? digits[v & 63] : '=';
	}
	if (out)
		*o = 0;
	return out;
}

void *base64_decode(const char *text, size_t *len)
{
	size_t n = strlen(text);
	u8 *out = n % 4 ? NULL : malloc(n / 4 * 3 + 1), *o = out;
	for (size_t i = 0; out && i < n; i += 4) {
		u32 v = 0;
		unsigned pad = 0;
		for (unsigned k = 0; k < 4; k++) {
			const char *d = text[i + k] ? strchr(digits, text[i + k]) : NULL;
			bool equals = text[i + k] == '=' && i + 4 == n && k >= 2;
			if ((!d && !equals) || (d && pad)) {
				free(out);
				return NULL;
			}
			pad += equals;
			v = v << 6 | (d ? (u32)(d - digits) : 0);
		}
		for (unsigned k = 0; k < 3 - pad; k++)
			*o++ = (u8)(v >> (16 - 8 * k));
	}
	if (out) {
		*o = 0;
		*len = (size_t)(o - out);
	}
	return out;
}

/* ---- lines ---- */
static int fail(struct qga *q, int err, const char *text)
{
	snprintf(q->error, sizeof q->error, "%s", text);
	q->error_class[0] = 0;
	return err;
}

static int send_text(struct qga *q, const char *text, size_t len)
{
	while (len) {
		ssize_t n = send(q->fd, text, len, MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return fail(q, -errno, "the connection to the guest agent was closed");
		text += n;
		len -= (size_t)n;
	}
	return 0;
}

/* More bytes before `until`. */
static int receive(struct qga *q, u64 until)
{
	u64 now = host_now_ns();
	struct pollfd f = { .fd = q->fd, .events = POLLIN };
	if (now >= until || poll(&f, 1, (int)((until - now) / 1000000) + 1) == 0)
		return fail(q, -ETIMEDOUT, "the guest agent does not answer");
	if (q->cap - q->len < 65536) {
		char *bigger = q->cap < MAX_ANSWER ? realloc(q->buf, q->cap * 2 + 131072) : NULL;
		if (!bigger)
			return fail(q, -EMSGSIZE, "the guest agent's answer is too long");
		q->buf = bigger;
		q->cap = q->cap * 2 + 131072;
	}
	ssize_t n = read(q->fd, q->buf + q->len, q->cap - q->len);
	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return 0;
	if (n <= 0)
		return fail(q, -ECONNRESET, "the connection to the guest agent was closed");
	q->len += (size_t)n;
	return 0;
}

static void drop(struct qga *q, size_t n)
{
	memmove(q->buf, q->buf + n, q->len - n);
	q->len -= n;
}

/* The next line as JSON; empty lines and lines that are no objects are skipped. */
static json_t *receive_object(struct qga *q, u64 until)
{
	for (size_t seen = 0;;) {
		char *end = q->len > seen ? memchr(q->buf + seen, '\n', q->len - seen) : NULL;
		if (!end) {
			seen = q->len;
			if (receive(q, until))
				return NULL;
			continue;
		}
		size_t n = (size_t)(end - q->buf);
		json_t *j = json_loadb(q->buf, n, JSON_ALLOW_NUL, NULL);
		drop(q, n + 1);
		if (json_is_object(j))
			return j;
		json_decref(j);
		seen = 0;
	}
}

int qga_open(struct qga *q, int fd, unsigned timeout_ms)
{
	char text[128];
	u64 until = host_now_ns() + timeout_ms * 1000000ull;
	json_int_t id = (json_int_t)(host_now_ns() >> 8 & 0x7fffffff);
	*q = (struct qga){ .fd = fd };
	/* FFh makes the agent forget half a request of somebody before us. */
	int n = snprintf(text, sizeof text, "\xff{\"execute\":\"guest-sync-delimited\",\"arguments\":{\"id\":%lld}}\n", (long long)id);
	int err = send_text(q, text, (size_t)n);
	while (!err) {
		char *mark = q->len ? memchr(q->buf, 0xff, q->len) : NULL;
		if (!mark) {
			q->len = 0;
			err = receive(q, until);
			continue;
		}
		drop(q, (size_t)(mark - q->buf) + 1);
		json_t *j = receive_object(q, until);
		bool ours = json_integer_value(json_object_get(j, "return")) == id;
		err = j ? 0 : -ETIMEDOUT;
		json_decref(j);
		if (ours)
			return 0;
	}
	return err;
}

void qga_close(struct qga *q)
{
	free(q->buf);
	q->buf = NULL;
	q->len = q->cap = 0;
}

json_t *qga_call(struct qga *q, const char *command, json_t *args, unsigned timeout_ms)
{
	json_t *rq = args ? json_pack("{ss so}", "execute", command, "arguments", args) : json_pack("{ss}", "execute", command);
	char *text = json_dumps(rq, JSON_COMPACT);
	json_decref(rq);
	int err = text ? send_text(q, text, strlen(text)) : fail(q, -ENOMEM, "out of memory");
	free(text);
	if (!err)
		err = send_text(q, "\n", 1);
	json_t *answer = err ? NULL : receive_object(q, host_now_ns() + timeout_ms * 1000000ull);
	json_t *result = json_object_get(answer, "return"), *error = json_object_get(answer, "error");
	if (error) {
		const char *desc = json_string_value(json_object_get(error, "desc")), *class = json_string_value(json_object_get(error, "class"));
		snprintf(q->error, sizeof q->error, "the guest agent refuses %s: %s", command, desc ? desc : "it does not say why");
		snprintf(q->error_class, sizeof q->error_class, "%s", class ? class : "GenericError");
	} else if (answer && !result) {
		fail(q, -EPROTO, "the guest agent's answer has neither return nor error");
	}
	json_incref(result);
	json_decref(answer);
	return result;
}

/* ---- commands ---- */
json_int_t qga_exec(struct qga *q, char *const *argv, const void *input, size_t len, bool capture)
{
	json_t *list = json_array(), *args = json_pack("{ss so sb}", "path", argv[0], "arg", list, "capture-output", capture);
	for (unsigned i = 1; argv[i]; i++)
		json_array_append_new(list, json_string(argv[i]));
	char *text = len ? base64_encode(input, len) : NULL;
	if (text)
		json_object_set_new(args, "input-data", json_string(text));
	free(text);
	json_t *r = qga_call(q, "guest-exec", args, CALL_MS);
	json_t *pid = json_object_get(r, "pid");
	json_int_t n = json_is_integer(pid) ? json_integer_value(pid) : -1;
	json_decref(r);
	return n;
}

json_t *qga_exec_status(struct qga *q, json_int_t pid)
{
	return qga_call(q, "guest-exec-status", json_pack("{sI}", "pid", pid), CALL_MS);
}

int qga_get_file(struct qga *q, const char *path, bool (*fn)(void *opaque, const void *data, size_t len), void *opaque)
{
	json_t *handle = qga_call(q, "guest-file-open", json_pack("{ss ss}", "path", path, "mode", "r"), CALL_MS);
	bool ok = handle != NULL, end = false;
	while (ok && !end) {
		json_t *r = qga_call(q, "guest-file-read", json_pack("{sO si}", "handle", handle, "count", (int)CHUNK), CALL_MS);
		const char *text = json_string_value(json_object_get(r, "buf-b64"));
		size_t len = 0;
		void *data = text ? base64_decode(text, &len) : NULL;
		ok = data && fn(opaque, data, len);
		if (r && !data)
			fail(q, -EIO, "the guest agent's answer is not base64");
		end = json_is_true(json_object_get(r, "eof")) || len == 0;
		free(data);
		json_decref(r);
	}
	if (handle)
		json_decref(qga_call(q, "guest-file-close", json_pack("{sO}", "handle", handle), CALL_MS));
	json_decref(handle);
	return ok ? 0 : -EIO;
}

int qga_put_file(struct qga *q, const char *path, const void *data, size_t len)
{
	json_t *handle = qga_call(q, "guest-file-open", json_pack("{ss ss}", "path", path, "mode", "w"), CALL_MS);
	bool ok = handle != NULL;
	for (size_t at = 0; ok && at < len; at += CHUNK) {
		char *text = base64_encode((const u8 *)data + at, min_u64(CHUNK, len - at));
		json_t *r = qga_call(q, "guest-file-write", json_pack("{sO ss}", "handle", handle, "buf-b64", text ? text : ""), CALL_MS);
		json_int_t n = json_integer_value(json_object_get(r, "count"));
		ok = n == (json_int_t)min_u64(CHUNK, len - at);
		if (r && !ok)
			fail(q, -EIO, "the guest agent wrote only a part of a file");
		json_decref(r);
		free(text);
	}
	if (handle) {
		char keep[sizeof q->error];
		memcpy(keep, q->error, sizeof keep);
		json_t *r = qga_call(q, "guest-file-close", json_pack("{sO}", "handle", handle), CALL_MS);
		if (!ok)
			memcpy(q->error, keep, sizeof keep);
		ok = ok && r;
		json_decref(r);
	}
	json_decref(handle);
	return ok ? 0 : -EIO;
}
