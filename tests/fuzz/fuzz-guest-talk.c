/* What nestbox exec and cp hear from a guest: the helper's frames and the guest agent's JSON, as rubbish. Whatever comes, the call ends. */
#include "fuzz_input.h"
#include "agent/frames.h"
#include "agent/qga.h"
#include "agent/session.h"
#include "base/log.h"
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

/* Not the real one: this program carries none. */
const u8 session_helper[1];
const size_t session_helper_len = 1;

static u64 sum;

static void on_out(void *opaque, const u8 *data, size_t len)
{
	for (size_t i = 0; i < len; i++)
		sum += data[i];
}

static bool on_file(void *opaque, const void *data, size_t len)
{
	on_out(opaque, data, len);
	return true;
}

/* The guest's side: everything is in the socket before we look, then it closes. */
static int guest_says(const u8 *data, size_t size)
{
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair))
		abort();
	if (size && send(pair[1], data, size < 60000 ? size : 60000, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		abort();
	shutdown(pair[1], SHUT_WR);
	close(pair[1]);
	return pair[0];
}

static size_t frames(struct fuzz_input *in, u8 *to, size_t max)
{
	static const u8 types[] = "HBOEAXFSGIKW\0";
	size_t len = 0;

	while (fuzz_more(in) && len + 300 < max) {
		struct frame_head h = { .type = types[fuzz_take(in, 1) % sizeof types], .len = (u32)fuzz_take(in, 1) };
		size_t n = h.len;

		if ((fuzz_take(in, 1) & 31) == 0)
			h.len = (u32)fuzz_take(in, 4);
		memcpy(to + len, &h, sizeof h);
		len += sizeof h;
		for (size_t i = 0; i < n; i++)
			to[len++] = (u8)fuzz_take(in, 1);
	}
	return len;
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	static u8 text[60000];
	struct fuzz_input in = { data, data + size };
	struct session_result result;
	struct session_request rq = { .argv = (char *[]){ "x", NULL }, .in = -1, .out = -1, .err = -1, .on_out = on_out, .hello_ms = 1000, .quiet_streams = true };
	struct qga q;

	signal(SIGPIPE, SIG_IGN);
	log_set_level(LOG_ERROR);
	int fd = guest_says(text, frames(&in, text, sizeof text));
	session_run(fd, &rq, &result);
	close(fd);
	fd = guest_says(data, size);
	if (!qga_open(&q, fd, 100))
		abort(); /* nobody knows our number */
	qga_close(&q);
	q = (struct qga){ .fd = fd };
	close(fd);
	q.fd = guest_says((const u8 *)"{\"return\":7}\n{\"return\":{\"buf-b64\":\"YWJj\",\"count\":3}}\n", 52);
	qga_get_file(&q, "/x", on_file, NULL);
	close(q.fd);
	qga_close(&q);
	q = (struct qga){ .fd = guest_says(data, size) };
	json_decref(qga_call(&q, "guest-info", NULL, 100));
	close(q.fd);
	qga_close(&q);
	return 0;
}
