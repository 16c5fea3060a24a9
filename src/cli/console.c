/* `nestbox console`: this terminal and a VM's serial console, joined by a socket pair whose other end goes to the VM process. */
#include "base/log.h"
#include "cli/cli.h"
#include "host/term.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

static bool write_all(int fd, const u8 *data, size_t n)
{
	while (n) {
		ssize_t done = write(fd, data, n);
		if (done < 0 && errno != EINTR && errno != EAGAIN)
			return false;
		if (done > 0) {
			data += done;
			n -= done;
		}
	}
	return true;
}

/* False: the console has ended. */
static bool copy_output(int fd)
{
	u8 buf[4096];
	ssize_t n = read(fd, buf, sizeof buf);
	return n > 0 && write_all(STDOUT_FILENO, buf, n);
}

/* False: the user leaves. *open: there is still input to come. */
static bool copy_input(int fd, bool *open)
{
	u8 raw[256], typed[256];
	bool quit = false;
	ssize_t n = read(STDIN_FILENO, raw, sizeof raw);
	if (n <= 0) {
		*open = false;
		return true;
	}
	size_t len = host_term_filter(raw, n, typed, &quit);
	return write_all(fd, typed, len) && !quit;
}

static void join(int fd)
{
	bool typing = true;
	for (;;) {
		struct pollfd p[] = { { .fd = fd, .events = POLLIN }, { .fd = typing ? STDIN_FILENO : -1, .events = POLLIN } };
		if (poll(p, array_len(p), -1) < 0 && errno != EINTR)
			return;
		if (p[0].revents && !copy_output(fd))
			return;
		if (p[1].fd >= 0 && p[1].revents && !copy_input(fd, &typing))
			return;
	}
}

static int attach(const struct cli_call *call, struct proto_client *c, int ours, int *theirs)
{
	struct proto_error e;
	json_t *r = proto_call(c, "console", cli_option(call, "dump") ? json_pack("{sb}", "follow", 0) : NULL, theirs, 1, 10000, NULL, NULL, &e);
	close(*theirs);
	*theirs = -1;
	if (!r)
		return cli_fail(call, e.code, "VM \"%s\": %s", call->argv[0], e.message);
	json_decref(r);
	if (cli_option(call, "dump")) {
		while (copy_output(ours))
			;
		return STATUS_OK;
	}
	if (isatty(STDIN_FILENO))
		fprintf(stderr, "Connected to %s; Ctrl-A X leaves.\n", call->argv[0]);
	host_term_raw();
	join(ours);
	host_term_restore();
	return STATUS_OK;
}

int cli_console_command(struct cli_call *call)
{
	struct proto_client c;
	int fds[2], status = cli_connect(call, call->argv[0], &c);
	if (status)
		return status;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds)) {
		status = cli_fail(call, "host", "socketpair: %s", strerror(errno));
	} else {
		int room = 256 * 1024; /* all of the history at once */
		setsockopt(fds[1], SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
		status = attach(call, &c, fds[0], &fds[1]);
		close(fds[0]);
		if (fds[1] >= 0)
			close(fds[1]);
	}
	proto_client_close(&c);
	return status;
}
