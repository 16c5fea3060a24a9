/* Verbs that join a client's socket to one of the guest's ports (vm/guest_ports.h). What is said over it is the client's and the guest's business. */
#include "ctl/ctl.h"
#include "ctl/handlers.h"
#include "vm/guest_ports.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

/* The stream socket that came with the request, or -1 after the answer. */
static int take_socket(struct ctl_call *call, const char *verb)
{
	int fd = ctl_take_fd(call), type = 0;
	socklen_t len = sizeof type;
	if (fd >= 0 && !getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) && type == SOCK_STREAM)
		return fd;
	if (fd >= 0)
		close(fd);
	ctl_fail(call, "bad-args", "%s: a stream socket must come with the request", verb);
	return -1;
}

static void answer(struct vm *vm, struct ctl_call *call, int fd, int port, const char *busy)
{
	struct guest_port_info info;
	if (port < 0) {
		close(fd);
		ctl_fail(call, port == -EBUSY ? "busy" : "host-error", "%s", port == -EBUSY ? busy : "the host has no memory for it");
		return;
	}
	guest_ports_info(board_guest_ports(vm), (unsigned)port, &info);
	ctl_reply(call, json_pack("{ss si sb sb}", "port", info.name, "number", port - GUEST_PORT_EXEC, "driver", (int)info.known, "open", (int)info.open));
}

void ctl_do_agent(struct vm *vm, struct ctl_call *call, json_t *args)
{
	int fd = take_socket(call, "agent");
	if (fd < 0)
		return;
	int err = guest_ports_attach(board_guest_ports(vm), GUEST_PORT_AGENT, fd);
	answer(vm, call, fd, err ? err : GUEST_PORT_AGENT, "somebody else is talking to the guest agent; try again in a moment");
}

void ctl_do_exec_port(struct vm *vm, struct ctl_call *call, json_t *args)
{
	int fd = take_socket(call, "exec-port");
	if (fd < 0)
		return;
	int n = guest_ports_attach_exec(board_guest_ports(vm), fd);
	answer(vm, call, fd, n < 0 ? n : GUEST_PORT_EXEC + n, "as many commands as there are ports run in this machine already");
}

void ctl_do_ports(struct vm *vm, struct ctl_call *call, json_t *args)
{
	json_t *list = json_array();
	for (unsigned i = 0; i <= GUEST_PORT_EXECS; i++) {
		struct guest_port_info info;
		guest_ports_info(board_guest_ports(vm), i, &info);
		json_array_append_new(list, json_pack("{ss sb sb sb}", "port", info.name, "driver", (int)info.known, "open", (int)info.open, "attached",
						      (int)info.attached));
	}
	ctl_reply(call, json_pack("{so}", "ports", list));
}
