/* The control socket with rubbish, requests that are almost right, descriptors, and clients that come and go; handlers that answer at once, later, or from
 * within another call. Not here: what verbs do. */
#include "fuzz_input.h"
#include "tokens.h"
#include "base/log.h"
#include "ctl/console.h"
#include "ctl/ctl.h"
#include "ctl/handlers.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { CLIENTS = 4, KEPT = 16 };

static struct vm vm;
static struct ctl *ctl;
static int listener_name;
static int clients[CLIENTS];
static struct ctl_call *kept[KEPT]; /* to be answered later */
static u32 dice;

static const char *const dict[] = {
	"{", "}", "[", "]", ":", ",", "\"", "\\", "\n", "\n", "\"id\":", "\"verb\":", "\"args\":", "\"fds\":", "1", "-1", "0", "9999999999999999999999",
	"true", "null", "1.5e300", "\"pause\"", "\"status\"", "\"set\"", "\"key\":\"memory\"", "\"value\":\"1\"", "{\"id\":1,\"verb\":\"status\"}\n",
	"{\"id\":2,\"verb\":\"set\",\"args\":{\"key\":\"a\",\"value\":\"b\"}}\n", "{\"id\":3,\"verb\":\"console\",\"fds\":1}\n", "{\"id\":4,\"verb\":\"", "\"}\n",
	"{\"id\":5,\"verb\":\"wait\"}\n", "{\"id\":6,\"verb\":\"console\",\"args\":{\"history\":false}}\n", "\\u0000", "\\ud800", "\xc3\xa9",
};

static u32 roll(void) { return dice = dice * 1664525u + 1013904223u; }

static void on_gone(void *opaque)
{
	struct ctl_call **slot = opaque;

	if (*slot && roll() & 0x100) {
		struct ctl_call *call = *slot;

		*slot = NULL;
		ctl_reply(call, NULL);
	}
}

/* Whatever the verb, any legal behaviour. */
static void handle(struct ctl_call *call)
{
	u32 how = roll() >> 8;
	struct ctl_call **slot = &kept[how % KEPT];

	for (unsigned i = 0; i < (how >> 4) % 3; i++)
		ctl_event(call, json_pack("{si}", "n", i));
	if (how & 1) {
		int fd = ctl_take_fd(call);

		if (fd >= 0)
			close(fd);
	}
	if ((how & 0x1000) && *slot) {
		struct ctl_call *old = *slot;

		*slot = NULL;
		ctl_fail(old, "late", "as late as %s", "that");
	}
	switch (how >> 16 & 3) {
	case 0:
		ctl_reply(call, json_pack("{ss}", "state", "running"));
		break;
	case 1:
		ctl_fail(call, "no", "not \xff today");
		break;
	case 2:
		if (*slot)
			ctl_reply(call, NULL);
		else {
			*slot = call;
			ctl_on_gone(call, on_gone, slot);
		}
		break;
	default:
		ctl_wait_end(call);
		break;
	}
}

#define V(name, fn, args, results, help) void fn(struct vm *v, struct ctl_call *call, json_t *a) { handle(call); }
#include "ctl/verbs.def"
#undef V
void ctl_gdb_end(void) {}
void ctl_trace_end(void) {}

struct ctl_console *ctl_console_create(struct vm *v) { return NULL; }
void ctl_console_destroy(struct ctl_console *c) {}

static int listen_somewhere(void)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	/* An abstract name of our own. */
	snprintf(a.sun_path + 1, sizeof a.sun_path - 1, "nestbox-fuzz-%d-%d", (int)getpid(), ++listener_name);
	bug_if(bind(fd, (struct sockaddr *)&a, sizeof a) || listen(fd, 8));
	for (unsigned i = 0; i < CLIENTS; i++) {
		clients[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		bug_if(connect(clients[i], (struct sockaddr *)&a, sizeof a));
	}
	return fd;
}

static void stop(void *opaque) { loop_stop(opaque); }

/* A few turns of the loop. */
static void turn(void)
{
	for (unsigned i = 0; i < 3; i++) {
		bug_if(loop_post(vm.loop, stop, vm.loop));
		loop_run(vm.loop);
	}
}

static void send_text(int fd, const char *text, size_t n, bool with_fd)
{
	union { char bytes[CMSG_SPACE(sizeof(int))]; struct cmsghdr align; } control = { { 0 } };
	struct iovec iov = { (char *)text, n };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (with_fd) {
		m.msg_control = control.bytes;
		m.msg_controllen = sizeof control.bytes;
		struct cmsghdr *h = CMSG_FIRSTHDR(&m);
		*h = (struct cmsghdr){ .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int)) };
		memcpy(CMSG_DATA(h), &fd, sizeof fd);
	}
	if (n && sendmsg(fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		return; /* it has been dropped */
}

static void one_client(struct fuzz_input *in)
{
	static char text[16384];
	int *fd = &clients[fuzz_take(in, 1) % CLIENTS];
	u8 how = (u8)fuzz_take(in, 1);
	size_t n = fuzz_text(in, dict, array_len(dict), text, sizeof text, 1 + how % 64);

	if (*fd < 0)
		return;
	send_text(*fd, text, n, how & 0x40);
	if (how == 0x8f) {
		close(*fd);
		*fd = -1;
	} else if (how & 0x20) {
		while (recv(*fd, text, sizeof text, MSG_DONTWAIT) > 0)
			;
	}
	turn();
}

static void answer_late(void)
{
	struct ctl_call **slot = &kept[roll() % KEPT];
	struct ctl_call *call = *slot;

	if (!call)
		return;
	*slot = NULL;
	if (ctl_alive(call) && (roll() & 0x100))
		ctl_event(call, json_object());
	ctl_reply(call, json_pack("{sI}", "backlog", (json_int_t)ctl_backlog(call)));
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	struct fuzz_input in = { data, data + size };

	log_set_level(LOG_ERROR);
	dice = (u32)fuzz_take(&in, 4);
	vm.loop = loop_create();
	ctl = ctl_open(&vm, listen_somewhere());
	bug_if(!ctl);
	turn();
	while (fuzz_more(&in)) {
		one_client(&in);
		answer_late();
	}
	/* The end: calls that wait are told, the others are taken back. */
	ctl_close(ctl, json_pack("{ss}", "end", "quit"), 10);
	memset(kept, 0, sizeof kept);
	for (unsigned i = 0; i < CLIENTS; i++)
		if (clients[i] >= 0)
			close(clients[i]);
	turn();
	loop_destroy(vm.loop);
	return 0;
}
