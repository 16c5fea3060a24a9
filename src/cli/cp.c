/* `nestbox cp`: a file between the host and a running machine. Surprise: "a/b:c" is a file of the host: a machine's name has no slash. */
#include "cli/guest.h"
#include "proto/rundir.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { HELLO_MS = 15000, MODE_BYTES = 7 };

/* NAME:PATH taken apart; false: a file of the host. */
static bool in_guest(const char *text, char *name, const char **path)
{
	const char *colon = strchr(text, ':');
	if (!colon || colon - text > RUNDIR_MAX_NAME)
		return false;
	snprintf(name, RUNDIR_MAX_NAME + 1, "%.*s", (int)(colon - text), text);
	*path = colon + 1;
	return rundir_name_ok(name);
}

/* ---- to the guest ---- */
static int put_plain(struct cli_call *call, const char *name, const char *path, int fd, const struct stat *st, unsigned wait_s)
{
	struct qga q;
	char *data = malloc((size_t)st->st_size + 1);
	ssize_t n = data ? pread(fd, data, (size_t)st->st_size, 0) : -1;
	if (n != st->st_size) {
		free(data);
		return cli_fail(call, "host-error", "\"%s\": cannot be read whole", call->argv[0]);
	}
	int status = cli_guest_agent(call, name, wait_s, &q), err = 0;
	if (!status) {
		err = qga_put_file(&q, path, data, (size_t)n);
		if (err)
			cli_fail(call, "agent-refuses", "VM \"%s\", file \"%s\": %s", name, path, q.error);
		cli_guest_agent_close(&q);
	}
	free(data);
	return status ? -status : err ? STATUS_NO_WAY : STATUS_OK;
}

static int finish(struct cli_call *call, const char *name, int err, const struct session_result *result)
{
	if (err)
		cli_fail(call, err > 0 ? "cannot-run" : "broken", "VM \"%s\": %s", name, result->error);
	return err < 0 ? STATUS_NO_WAY : result->status;
}

static int put(struct cli_call *call, const char *name, const char *path, unsigned wait_s)
{
	char copy[PATH_MAX];
	struct stat st;
	struct session_result result;
	int fd = open(call->argv[0], O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st))
		return cli_fail(call, "no-file", "\"%s\": %s", call->argv[0], strerror(errno));
	if (S_ISDIR(st.st_mode))
		return cli_fail(call, "folder", "\"%s\" is a folder: tar -c %s | nestbox exec %s -- tar -x -C FOLDER copies it", call->argv[0], call->argv[0], name);
	if (cli_option(call, "plain"))
		return put_plain(call, name, path, fd, &st, wait_s);
	snprintf(copy, sizeof copy, "%s", call->argv[0]);
	struct session_request rq = { .op = "put", .path = path, .base = basename(copy), .mode = st.st_mode & 0777, .in = fd, .out = STDOUT_FILENO,
				      .err = STDERR_FILENO, .hello_ms = HELLO_MS };
	int s = cli_guest_session(call, name, wait_s);
	if (s < 0)
		return -s;
	int err = session_run(s, &rq, &result);
	close(s);
	close(fd);
	return finish(call, name, err, &result);
}

/* ---- from the guest ---- */
struct sink {
	int fd;
	char mode[MODE_BYTES];
	size_t mode_len;
	int err;
};

static bool sink_write(void *opaque, const void *data, size_t len)
{
	struct sink *s = opaque;
	for (size_t done = 0; done < len && !s->err;) {
		ssize_t n = write(s->fd, (const char *)data + done, len - done);
		if (n < 0 && errno != EINTR)
			s->err = errno;
		done += n > 0 ? (size_t)n : 0;
	}
	return !s->err;
}

/* The helper's stream: the mode's digits, then the content. */
static void sink_stream(void *opaque, const u8 *data, size_t len)
{
	struct sink *s = opaque;
	size_t n = min_u64(MODE_BYTES - s->mode_len, len);
	memcpy(s->mode + s->mode_len, data, n);
	s->mode_len += n;
	sink_write(s, data + n, len - n);
}

static int get_session(struct cli_call *call, const char *name, const char *path, unsigned wait_s, struct sink *sink)
{
	struct session_result result;
	struct session_request rq = { .op = "get", .path = path, .in = -1, .on_out = sink_stream, .opaque = sink, .err = STDERR_FILENO, .hello_ms = HELLO_MS };
	int s = cli_guest_session(call, name, wait_s);
	if (s < 0)
		return -s;
	int err = session_run(s, &rq, &result);
	close(s);
	return finish(call, name, err, &result);
}

static int get_plain(struct cli_call *call, const char *name, const char *path, unsigned wait_s, struct sink *sink)
{
	struct qga q;
	int status = cli_guest_agent(call, name, wait_s, &q);
	if (status)
		return -status;
	int err = qga_get_file(&q, path, sink_write, sink);
	if (err && !sink->err)
		cli_fail(call, "agent-refuses", "VM \"%s\", file \"%s\": %s", name, path, q.error);
	cli_guest_agent_close(&q);
	return err ? STATUS_NO_WAY : STATUS_OK;
}

static int get(struct cli_call *call, const char *name, const char *path, unsigned wait_s)
{
	char target[PATH_MAX], temp[PATH_MAX + 16], copy[PATH_MAX];
	struct stat st;
	snprintf(copy, sizeof copy, "%s", path);
	bool dir = !stat(call->argv[1], &st) && S_ISDIR(st.st_mode);
	snprintf(target, sizeof target, dir ? "%s/%s" : "%s", call->argv[1], basename(copy));
	bool special = !stat(target, &st) && !S_ISREG(st.st_mode);
	snprintf(temp, sizeof temp, special ? "%s" : "%s.XXXXXX", target);
	struct sink sink = { .fd = special ? open(temp, O_WRONLY | O_CLOEXEC) : mkostemp(temp, O_CLOEXEC) };
	if (sink.fd < 0)
		return cli_fail(call, "no-file", "\"%s\": %s", target, strerror(errno));
	int status = cli_option(call, "plain") ? get_plain(call, name, path, wait_s, &sink) : get_session(call, name, path, wait_s, &sink);
	mode_t mask = umask(0);
	mode_t mode = sink.mode_len == MODE_BYTES ? (mode_t)strtoul(sink.mode, NULL, 8) & 0777 : 0666 & ~mask;
	if (!sink.err && status == STATUS_OK && !special && (fchmod(sink.fd, mode) || rename(temp, target)))
		sink.err = errno;
	close(sink.fd);
	if (sink.err)
		status = cli_fail(call, "host-error", "\"%s\": %s", target, strerror(sink.err));
	if (status != STATUS_OK && !special)
		unlink(temp);
	return status;
}

int cli_cp_command(struct cli_call *call)
{
	char from[RUNDIR_MAX_NAME + 1], to[RUNDIR_MAX_NAME + 1];
	const char *from_path = "", *to_path = "";
	bool out = in_guest(call->argv[0], from, &from_path), in = in_guest(call->argv[1], to, &to_path);
	long wait_s = cli_number(call, "wait", 0, 86400, 0);
	if (wait_s < 0)
		return STATUS_USAGE;
	if (in == out)
		return cli_fail(call, "bad-usage", "cp \"%s\" \"%s\": exactly one of the two must be NAME:PATH", call->argv[0], call->argv[1]);
	if (!*(in ? to_path : from_path))
		return cli_fail(call, "bad-usage", "cp: the path in the guest is missing after \"%s:\"", in ? to : from);
	return in ? put(call, to, to_path, (unsigned)wait_s) : get(call, from, from_path, (unsigned)wait_s);
}
