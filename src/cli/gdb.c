/* gdb NAME: makes the place where gdb connects, and hands it to the machine. */
#include "cli/cli.h"
#include "proto/rundir.h"

#include <errno.h>
#include <limits.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int listen_unix(const struct cli_call *call, const char *path, int *fd)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	if (strlen(path) >= sizeof a.sun_path)
		return cli_fail(call, "path-too-long", "socket path \"%s\" is longer than %zu bytes: use --socket with a shorter one, or --port", path, sizeof a.sun_path - 1);
	strcpy(a.sun_path, path);
	unlink(path);
	*fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (*fd < 0 || bind(*fd, (struct sockaddr *)&a, sizeof a) || listen(*fd, 1))
		return cli_fail(call, "host", "socket \"%s\": %s", path, strerror(errno));
	return 0;
}

static int listen_port(const struct cli_call *call, long port, int *fd)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((u16)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int on = 1;
	*fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (*fd >= 0)
		setsockopt(*fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	if (*fd < 0 || bind(*fd, (struct sockaddr *)&a, sizeof a) || listen(*fd, 1))
		return cli_fail(call, "host", "port %ld on 127.0.0.1: %s; choose another with --port", port, strerror(errno));
	return 0;
}

int cli_gdb_command(struct cli_call *call)
{
	struct proto_client c;
	struct proto_error e;
	char where[PATH_MAX];
	int fd = -1, status;
	long port = cli_number(call, "port", 1, 65535, 0);
	const char *path = cli_option(call, "socket");
	if (port < 0)
		return STATUS_USAGE;
	status = cli_connect(call, call->argv[0], &c);
	if (status)
		return status;
	if (port) {
		snprintf(where, sizeof where, "127.0.0.1:%ld", port);
		status = listen_port(call, port, &fd);
	} else {
		snprintf(where, sizeof where, "%s", path ? path : "");
		if (!path)
			snprintf(where, sizeof where, "%.3000s/run/%s/gdb", call->state_dir, call->argv[0]);
		status = listen_unix(call, where, &fd);
	}
	json_t *r = status ? NULL : proto_call(&c, "gdb", NULL, &fd, 1, 10000, NULL, NULL, &e);
	if (!status && !r)
		status = cli_fail(call, e.code, "VM \"%s\": %s", call->argv[0], e.message);
	if (fd >= 0)
		close(fd);
	proto_client_close(&c);
	if (status)
		return status;
	json_decref(r);
	if (call->json)
		return cli_print_json(json_pack("{s:s}", "target", where));
	printf("gdb -ex 'target remote %s'\n", where);
	return STATUS_OK;
}
