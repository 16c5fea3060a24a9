/* The FUSE server with rubbish of every operation, cut into pieces anywhere. It must neither crash nor touch anything outside its folder. */
#include "fuzz_input.h"
#include "share/server.h"
#include "base/log.h"
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static struct share_config cfg;
static char top[64], dir[80], canary[96];
static int fd, theirs;

static void *serve(void *opaque)
{
	share_serve(&cfg, theirs, false);
	return NULL;
}

static void write_file(const char *path, const char *text)
{
	int f = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0644);
	if (f < 0 || write(f, text, strlen(text)) < 0)
		abort();
	close(f);
}

static void create(void)
{
	int pair[2];
	pthread_t thread;
	char path[128];

	log_set_level(LOG_ERROR);
	strcpy(top, "/tmp/nestbox-fuzz-XXXXXX");
	if (!mkdtemp(top) || socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair))
		abort();
	snprintf(dir, sizeof dir, "%s/in", top);
	snprintf(canary, sizeof canary, "%s/canary", top);
	mkdir(dir, 0755);
	write_file(canary, "untouched");
	snprintf(path, sizeof path, "%s/out", dir);
	if (symlink("../canary", path))
		abort();
	cfg.path = dir;
	fd = pair[0];
	theirs = pair[1];
	pthread_create(&thread, NULL, serve, NULL);
	pthread_detach(thread);
}

/* Mostly short names, some of which are not allowed. */
static size_t put_name(struct fuzz_input *in, u8 *to)
{
	static const char *const names[] = { "a", "b", "out", "..", "../canary", "d", ".", "long-name-of-a-file", "", "a/b" };
	const char *n = names[fuzz_take(in, 1) % array_len(names)];

	strcpy((char *)to, n);
	return strlen(n) + (fuzz_take(in, 1) & 7 ? 1 : 0);
}

static void one_request(struct fuzz_input *in)
{
	static u8 out[4096] __attribute__((aligned(8))), back[8192];
	struct fuse_in_header h = { .opcode = (u32)fuzz_take(in, 1) % 56, .unique = 1, .nodeid = fuzz_take(in, 1) % 12 };
	size_t len = sizeof h, args = fuzz_take(in, 1) % 120;

	for (size_t i = 0; i < args; i++)
		out[len++] = fuzz_take(in, 1) & 1 ? (u8)fuzz_take(in, 1) & 7 : 0;
	/* Calls for real space would fill the host's disk. */
	if (h.opcode == FUSE_FALLOCATE || h.opcode == FUSE_SETATTR || h.opcode == FUSE_WRITE)
		for (size_t i = sizeof h + 10; i < len; i++)
			out[i] &= i % 8 < 2 ? 7 : 0;
	len += put_name(in, out + len);
	len += put_name(in, out + len);
	h.len = (u32)len;
	memcpy(out, &h, sizeof h);
	size_t cut = fuzz_take(in, 1) % (len + 1), room = fuzz_take(in, 2) % sizeof back;
	struct share_request rq = { .id = 1, .nout = 2, .nin = 2, .seg = { { (u64)(uintptr_t)out, cut }, { (u64)(uintptr_t)out + cut, len - cut },
		{ (u64)(uintptr_t)back, room / 3 }, { (u64)(uintptr_t)back + room / 3, room - room / 3 } } };
	struct share_reply reply;
	size_t size = offsetof(struct share_request, seg) + 4 * sizeof rq.seg[0];

	if (write(fd, &rq, size) != (ssize_t)size || read(fd, &reply, sizeof reply) != sizeof reply || reply.written > room)
		abort();
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	struct fuzz_input in = { data, data + size };
	char text[16] = "", cmd[128];
	static unsigned runs;

	if (!fd)
		create();
	while (fuzz_more(&in))
		one_request(&in);
	int f = open(canary, O_RDONLY);
	if (f < 0 || read(f, text, sizeof text) != 9 || memcmp(text, "untouched", 9))
		abort();
	close(f);
	snprintf(cmd, sizeof cmd, "rm -rf %s/*", dir);
	if (++runs % 256 == 0 && system(cmd))
		abort();
	return 0;
}

static void __attribute__((destructor)) clean(void)
{
	char cmd[128];

	snprintf(cmd, sizeof cmd, "rm -rf %s", top);
	if (top[0] && system(cmd))
		return;
}
