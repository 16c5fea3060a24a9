/* gdb: a debugger's door into the machine. */
#include "ctl/handlers.h"
#include "debug/gdb.h"

#include <sys/socket.h>
#include <unistd.h>

static struct gdb *server; /* loop thread only */

void ctl_do_gdb(struct vm *vm, struct ctl_call *call, json_t *args)
{
	int fd = ctl_take_fd(call), on = 0;
	socklen_t len = sizeof on;
	if (fd < 0 || getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &on, &len) || !on) {
		if (fd >= 0)
			close(fd);
		ctl_fail(call, "bad-args", "gdb: a listening stream socket must come with the request");
		return;
	}
	gdb_close(server);
	server = gdb_open(vm, fd);
	if (server)
		ctl_reply(call, NULL);
	else
		ctl_fail(call, "no-memory", "gdb: out of memory or descriptors");
}

void ctl_gdb_end(void)
{
	gdb_close(server);
	server = NULL;
}
