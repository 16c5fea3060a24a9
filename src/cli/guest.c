/* Ways into a running machine's guest. */
#include "cli/guest.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

/* AGENT_MS: a guest that has just resumed or is busy answers within this. */
enum { AGENT_MS = 8000, RETRY_US = 100000 };

static const char install[] = "install it there: apt-get install qemu-guest-agent (Debian, Ubuntu), dnf install qemu-guest-agent (Fedora, RHEL), "
			      "zypper install qemu-guest-agent (SUSE); then start the service qemu-guest-agent";

/* Why an attempt failed; `again` when waiting may help. */
struct attempt {
	const char *name; /* the machine's */
	char code[32], text[1200];
	bool again;
};

static int refuse(struct attempt *a, bool again, const char *code, const char *fmt, const char *arg)
{
	a->again = again;
	snprintf(a->code, sizeof a->code, "%s", code);
	snprintf(a->text, sizeof a->text, fmt, a->name, arg);
	return -1;
}

/* Joins a port by the control socket's verb. Our end of the socket, or -1. */
static int join(struct proto_client *c, const char *verb, json_t **info, struct attempt *a)
{
	struct proto_error e;
	int pair[2];
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
		return refuse(a, false, "host-error", "VM \"%s\": cannot make a socket: %s", strerror(errno));
	*info = proto_call(c, verb, NULL, &pair[1], 1, 20000, NULL, NULL, &e);
	close(pair[1]);
	if (*info)
		return pair[0];
	close(pair[0]);
	return refuse(a, !strcmp(e.code, "busy"), e.code, "VM \"%s\": %s", e.message);
}

static int open_agent(struct proto_client *c, struct qga *q, struct attempt *a)
{
	json_t *info;
	int fd = join(c, "agent", &info, a);
	if (fd < 0)
		return -1;
	bool driver = json_is_true(json_object_get(info, "driver")), open = json_is_true(json_object_get(info, "open"));
	json_decref(info);
	int err = driver && open ? qga_open(q, fd, AGENT_MS) : -ENOENT;
	if (!err)
		return 0;
	if (!driver)
		refuse(a, true, "no-driver", "the guest of VM \"%s\" has no driver for virtio-serial ports, or has not started so far yet (--wait SECONDS waits). "
					     "Linux needs the module virtio_console.%s", "");
	else if (!open)
		refuse(a, true, "no-agent", "no guest agent runs in VM \"%s\": %s", install);
	else
		refuse(a, true, "agent-silent", "the guest agent of VM \"%s\" does not answer: %s", q->error);
	if (driver && open)
		qga_close(q);
	close(fd);
	return -1;
}

/* Where the helper may lie: /run is gone with the guest's next start, but Debian mounts it noexec. Only root can write to these. */
static const char *const folders[] = { "/run", "/var/lib" };

/* Puts the helper into the first folder where it can run, and starts it. A name of our own at first: two who do this at once must not write into one
 * file. */
static int bring_helper(struct qga *q, const char *name, unsigned port, struct attempt *a)
{
	char fresh[80], script[1200];
	snprintf(fresh, sizeof fresh, "%s.%d", name, (int)getpid());
	char path[96];
	snprintf(path, sizeof path, "%s/%s", folders[0], fresh);
	if (!q->error_class[0] || qga_put_file(q, path, session_helper, session_helper_len))
		return refuse(a, false, "agent-refuses", "VM \"%s\": %s", q->error);
	snprintf(script, sizeof script, "cd %s; chmod 700 %s; for d in %s %s; do [ $d = %s ] || cp %s $d/; "
		 "if $d/%s probe; then mv -f $d/%s $d/%s; rm -f %s; exec $d/%s %u; fi; done; rm -f %s",
		 folders[0], fresh, folders[0], folders[1], folders[0], fresh, fresh, fresh, name, fresh, name, port, fresh);
	if (qga_exec(q, (char *[]){ "/bin/sh", "-c", script, NULL }, NULL, 0, false) < 0)
		return refuse(a, false, "agent-refuses", "VM \"%s\": %s", q->error);
	return 0;
}

/* Starts `helper N`, putting it into the guest first if it is not there. */
static int start_helper(struct qga *q, unsigned port, struct attempt *a)
{
	char name[32], path[64], number[16];
	u32 hash = 2166136261u;
	for (size_t i = 0; i < session_helper_len; i++)
		hash = (hash ^ session_helper[i]) * 16777619u; /* FNV-1a: another version gets another name */
	snprintf(name, sizeof name, "nestbox-helper-%08x", hash);
	snprintf(number, sizeof number, "%u", port);
	for (unsigned i = 0; i < array_len(folders); i++) {
		snprintf(path, sizeof path, "%s/%s", folders[i], name);
		if (qga_exec(q, (char *[]){ path, number, NULL }, NULL, 0, false) >= 0)
			return 0;
	}
	return bring_helper(q, name, port, a);
}

static int try_session(struct proto_client *c, struct attempt *a)
{
	json_t *info;
	struct qga q;
	int fd = join(c, "exec-port", &info, a);
	if (fd < 0)
		return -1;
	bool waiting = json_is_true(json_object_get(info, "open"));
	unsigned port = (unsigned)json_integer_value(json_object_get(info, "number"));
	json_decref(info);
	int err = waiting ? 0 : open_agent(c, &q, a);
	if (!err && !waiting) {
		err = start_helper(&q, port, a);
		cli_guest_agent_close(&q);
	}
	if (!err)
		return fd;
	close(fd);
	return -1;
}

/* Calls fn until it succeeds, cannot, or the time is over. */
static int insist(const struct cli_call *call, const char *name, unsigned wait_s, int (*fn)(struct proto_client *, void *, struct attempt *), void *arg)
{
	struct proto_client c;
	struct attempt a = { .name = name };
	u64 start = host_now_ns(), until = start + wait_s * NSEC_PER_SEC;
	int r;
	if (cli_connect(call, name, &c))
		return -STATUS_USAGE;
	while ((r = fn(&c, arg, &a)) < 0) {
		/* A neighbour's talk with the agent is short. */
		u64 limit = !strcmp(a.code, "busy") ? max_u64(until, start + 5 * NSEC_PER_SEC) : until;
		if (!a.again || host_now_ns() >= limit)
			break;
		usleep(RETRY_US);
	}
	proto_client_close(&c);
	if (r >= 0)
		return r;
	cli_fail(call, a.code, "%s", a.text);
	return -STATUS_NO_WAY;
}

static int session_fn(struct proto_client *c, void *arg, struct attempt *a) { return try_session(c, a); }
static int agent_fn(struct proto_client *c, void *arg, struct attempt *a) { return open_agent(c, arg, a); }

int cli_guest_session(const struct cli_call *call, const char *name, unsigned wait_s) { return insist(call, name, wait_s, session_fn, NULL); }

int cli_guest_agent(const struct cli_call *call, const char *name, unsigned wait_s, struct qga *q) { return insist(call, name, wait_s, agent_fn, q); }

void cli_guest_agent_close(struct qga *q)
{
	close(q->fd);
	qga_close(q);
}
