/* The FUSE server behind virtio-fs, asked as a guest's kernel asks: what it shows, and that there is no way out of the folder. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "share/server.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static char top[64], dir[80];
static struct share_config cfg;
static int fd, theirs;
static pthread_t thread;
static u8 in[65536] __attribute__((aligned(8))); /* what the server writes */
static u32 written;

static void *serve(void *opaque)
{
	share_serve(&cfg, theirs, false);
	close(theirs);
	return NULL;
}

static void start(bool read_only)
{
	int pair[2];
	char path[128];

	strcpy(top, "/tmp/nestbox-share-XXXXXX");
	assert_non_null(mkdtemp(top));
	snprintf(dir, sizeof dir, "%s/inside", top);
	assert_int_equal(mkdir(dir, 0755), 0);
	snprintf(path, sizeof path, "%s/secret", top);
	close(open(path, O_CREAT | O_WRONLY, 0644));
	snprintf(path, sizeof path, "%s/link", dir);
	assert_int_equal(symlink("../secret", path), 0);
	snprintf(path, sizeof path, "%s/up", dir);
	assert_int_equal(symlink("..", path), 0);
	snprintf(path, sizeof path, "%s/pipe", dir);
	assert_int_equal(mkfifo(path, 0644), 0);
	cfg = (struct share_config){ .path = dir, .read_only = read_only };
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
	fd = pair[0];
	theirs = pair[1];
	assert_int_equal(pthread_create(&thread, NULL, serve, NULL), 0);
}

static int setup(void **state)
{
	start(false);
	return 0;
}

static int setup_ro(void **state)
{
	start(true);
	return 0;
}

static int teardown(void **state)
{
	char cmd[128];

	close(fd);
	pthread_join(thread, NULL);
	snprintf(cmd, sizeof cmd, "rm -rf %s", top);
	return system(cmd);
}

/* One request; its error, 0 or negative. The answer after the header is at in + 16. */
static int ask(u32 op, u64 node, const void *arg, size_t len, const void *more, size_t more_len)
{
	u8 out[70000] __attribute__((aligned(8)));
	struct fuse_in_header h = { .len = (u32)(sizeof h + len + more_len), .opcode = op, .unique = 77, .nodeid = node };
	struct fuse_out_header answer;
	struct share_request rq = { .id = 5, .nout = 2, .nin = 2 };
	struct share_reply reply;

	memcpy(out, &h, sizeof h);
	memcpy(out + sizeof h, arg, len);
	memcpy(out + sizeof h + len, more, more_len);
	memset(in, 0xee, sizeof in);
	rq.seg[0] = (struct share_seg){ (u64)(uintptr_t)out, 10 };
	rq.seg[1] = (struct share_seg){ (u64)(uintptr_t)out + 10, h.len - 10 };
	rq.seg[2] = (struct share_seg){ (u64)(uintptr_t)in, 20 };
	rq.seg[3] = (struct share_seg){ (u64)(uintptr_t)in + 20, sizeof in - 20 };
	size_t size = offsetof(struct share_request, seg) + 4 * sizeof rq.seg[0];
	assert_int_equal(write(fd, &rq, size), size);
	assert_int_equal(read(fd, &reply, sizeof reply), sizeof reply);
	assert_int_equal(reply.id, 5);
	written = reply.written;
	if (!written)
		return 1;
	memcpy(&answer, in, sizeof answer);
	assert_int_equal(answer.len, written);
	assert_int_equal(answer.unique, 77);
	return answer.error;
}

static int ask_name(u32 op, u64 node, const char *name) { return ask(op, node, name, strlen(name) + 1, "", 0); }
static const struct fuse_entry_out *entry(void) { return (const void *)(in + sizeof(struct fuse_out_header)); }

static u64 create(const char *name, u64 *fh)
{
	struct fuse_create_in c = { .flags = O_RDWR, .mode = S_IFREG | 04755 };

	assert_int_equal(ask(FUSE_CREATE, 1, &c, sizeof c, name, strlen(name) + 1), 0);
	*fh = ((const struct fuse_open_out *)(const void *)(in + 16 + sizeof(struct fuse_entry_out)))->fh;
	return entry()->nodeid;
}

static void files_are_made_written_and_read(void **state)
{
	u64 fh, node = create("a", &fh);
	struct fuse_write_in w = { .fh = fh, .offset = 3, .size = 5 };
	struct fuse_read_in r = { .fh = fh, .offset = 2, .size = 100 };

	assert_int_equal(ask(FUSE_WRITE, node, &w, sizeof w, "hello", 5), 0);
	assert_int_equal(((const struct fuse_write_out *)(const void *)(in + 16))->size, 5);
	assert_int_equal(ask(FUSE_READ, node, &r, sizeof r, "", 0), 0);
	assert_int_equal(written, 16 + 6);
	assert_memory_equal(in + 16, "\0hello", 6);
	assert_int_equal(ask_name(FUSE_LOOKUP, 1, "a"), 0);
	assert_int_equal(entry()->nodeid, node);
	assert_int_equal(entry()->attr.size, 8);
}

static void no_program_runs_as_its_owner(void **state)
{
	u64 fh, node = create("a", &fh);
	struct fuse_setattr_in s = { .valid = FATTR_MODE, .mode = 06777 };

	assert_int_equal(entry()->attr.mode, S_IFREG | 0755);
	assert_int_equal(ask(FUSE_SETATTR, node, &s, sizeof s, "", 0), 0);
	assert_int_equal(((const struct fuse_attr_out *)(const void *)(in + 16))->attr.mode, S_IFREG | 0777);
}

static void names_do_not_lead_out(void **state)
{
	static const char *const bad[] = { "..", ".", "", "../secret", "/etc/passwd", "link/x", "a/b" };
	struct fuse_open_in o = { 0 };

	for (unsigned i = 0; i < array_len(bad); i++)
		assert_int_equal(ask_name(FUSE_LOOKUP, 1, bad[i]), -EINVAL);
	assert_int_equal(ask_name(FUSE_LOOKUP, 1, "link"), 0);
	u64 link = entry()->nodeid;
	assert_int_equal(entry()->attr.mode & S_IFMT, S_IFLNK);
	assert_int_equal(ask(FUSE_OPEN, link, &o, sizeof o, "", 0), -ENXIO);
	assert_int_equal(ask(FUSE_READLINK, link, "", 0, "", 0), 0);
	assert_memory_equal(in + 16, "../secret", 9);
	assert_int_equal(ask_name(FUSE_LOOKUP, 1, "up"), 0);
	u64 up = entry()->nodeid;
	assert_int_equal(ask_name(FUSE_LOOKUP, up, "secret"), -ENOTDIR);
	assert_int_equal(ask(FUSE_OPENDIR, up, &o, sizeof o, "", 0), -ENOTDIR);
	struct fuse_create_in c = { .flags = O_RDWR, .mode = 0644 };
	assert_int_equal(ask(FUSE_CREATE, 1, &c, sizeof c, "link", 5), -ELOOP);
	struct fuse_setattr_in s = { .valid = FATTR_SIZE };
	assert_int_equal(ask(FUSE_SETATTR, link, &s, sizeof s, "", 0), -EINVAL);
}

static void pipes_and_devices_are_not_opened_or_made(void **state)
{
	struct fuse_open_in o = { 0 };
	struct fuse_mknod_in m = { .mode = S_IFCHR | 0666, .rdev = 0x103 };

	assert_int_equal(ask_name(FUSE_LOOKUP, 1, "pipe"), 0);
	assert_int_equal(ask(FUSE_OPEN, entry()->nodeid, &o, sizeof o, "", 0), -ENXIO);
	assert_int_equal(ask(FUSE_MKNOD, 1, &m, sizeof m, "dev", 4), -EPERM);
}

static void what_the_guest_does_not_know_is_stale(void **state)
{
	struct fuse_getattr_in g = { 0 };
	struct fuse_read_in r = { .fh = 999, .size = 10 };

	assert_int_equal(ask(FUSE_GETATTR, 12345, &g, sizeof g, "", 0), -ESTALE);
	assert_int_equal(ask_name(FUSE_LOOKUP, ~0ull, "a"), -ESTALE);
	assert_int_equal(ask(FUSE_READ, 1, &r, sizeof r, "", 0), -EBADF);
	assert_int_equal(ask(4711, 1, "", 0, "", 0), -ENOSYS);
	assert_int_equal(ask(FUSE_GETXATTR, 1, "12345678x", 10, "", 0), -ENOSYS);
	assert_int_equal(ask(FUSE_READ, 1, "short", 5, "", 0), -EINVAL);
}

static void forgotten_files_are_closed(void **state)
{
	struct fuse_forget_in f = { .nlookup = 1 };
	struct fuse_getattr_in g = { 0 };

	assert_int_equal(ask_name(FUSE_LOOKUP, 1, "link"), 0);
	u64 node = entry()->nodeid;
	assert_int_equal(ask(FUSE_FORGET, node, &f, sizeof f, "", 0), 1);
	assert_int_equal(ask(FUSE_GETATTR, node, &g, sizeof g, "", 0), -ESTALE);
	f.nlookup = 100;
	ask(FUSE_FORGET, 1, &f, sizeof f, "", 0);
	assert_int_equal(ask(FUSE_GETATTR, 1, &g, sizeof g, "", 0), 0);
}

static void folders_are_read_to_their_end(void **state)
{
	struct fuse_open_in o = { 0 };
	struct fuse_mkdir_in m = { .mode = 0755 };
	char name[32];
	unsigned found = 0;

	for (unsigned i = 0; i < 300; i++) {
		snprintf(name, sizeof name, "folder-%u", i);
		assert_int_equal(ask(FUSE_MKDIR, 1, &m, sizeof m, name, strlen(name) + 1), 0);
	}
	assert_int_equal(ask(FUSE_OPENDIR, 1, &o, sizeof o, "", 0), 0);
	struct fuse_read_in r = { .fh = ((const struct fuse_open_out *)(const void *)(in + 16))->fh, .size = 4096 };
	for (;;) {
		assert_int_equal(ask(FUSE_READDIRPLUS, 1, &r, sizeof r, "", 0), 0);
		if (written == 16)
			break;
		assert_in_range(written, 16, 16 + 4096);
		for (u32 at = 16; at < written;) {
			const struct fuse_direntplus *p = (const void *)(in + at);

			found += p->dirent.namelen > 7 && !memcmp(p->dirent.name, "folder-", 7) && S_ISDIR(p->entry_out.attr.mode);
			r.offset = p->dirent.off;
			at += (u32)FUSE_DIRENTPLUS_SIZE(p);
		}
	}
	assert_int_equal(found, 300);
}

static void names_are_changed_and_removed(void **state)
{
	u64 fh;
	struct fuse_rename_in r = { .newdir = 1 };
	struct fuse_link_in l = { .oldnodeid = create("a", &fh) };

	assert_int_equal(ask(FUSE_LINK, 1, &l, sizeof l, "b", 2), 0);
	assert_int_equal(entry()->attr.nlink, 2);
	assert_int_equal(ask(FUSE_RENAME, 1, &r, sizeof r, "a\0c", 4), 0);
	assert_int_equal(ask(FUSE_RENAME, 1, &r, sizeof r, "c\0../c", 7), -EINVAL);
	assert_int_equal(ask(FUSE_RENAME, 1, &r, sizeof r, "c", 2), -EINVAL);
	assert_int_equal(ask(FUSE_SYMLINK, 1, "s\0/anywhere", 12, "", 0), 0);
	assert_int_equal(ask(FUSE_SYMLINK, 1, "t", 2, "", 0), -EINVAL);
	assert_int_equal(ask_name(FUSE_UNLINK, 1, "c"), 0);
	assert_int_equal(ask_name(FUSE_UNLINK, 1, "c"), -ENOENT);
	assert_int_equal(ask_name(FUSE_RMDIR, 1, "b"), -ENOTDIR);
}

static void a_read_only_share_changes_nothing(void **state)
{
	struct fuse_create_in c = { .flags = O_RDWR, .mode = 0644 };
	struct fuse_open_in o = { .flags = O_WRONLY };
	char path[128];

	snprintf(path, sizeof path, "%s/file", dir);
	close(open(path, O_CREAT | O_WRONLY, 0644));
	assert_int_equal(ask(FUSE_CREATE, 1, &c, sizeof c, "x", 2), -EROFS);
	assert_int_equal(ask_name(FUSE_UNLINK, 1, "file"), -EROFS);
	assert_int_equal(ask_name(FUSE_LOOKUP, 1, "file"), 0);
	u64 node = entry()->nodeid;
	assert_int_equal(ask(FUSE_OPEN, node, &o, sizeof o, "", 0), -EROFS);
	o.flags = O_RDONLY | O_TRUNC;
	assert_int_equal(ask(FUSE_OPEN, node, &o, sizeof o, "", 0), -EROFS);
	o.flags = O_RDONLY;
	assert_int_equal(ask(FUSE_OPEN, node, &o, sizeof o, "", 0), 0);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(files_are_made_written_and_read), T(no_program_runs_as_its_owner), T(names_do_not_lead_out), T(pipes_and_devices_are_not_opened_or_made),
		T(what_the_guest_does_not_know_is_stale), T(forgotten_files_are_closed), T(folders_are_read_to_their_end), T(names_are_changed_and_removed),
		cmocka_unit_test_setup_teardown(a_read_only_share_changes_nothing, setup_ro, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
