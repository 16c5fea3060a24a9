/* Starting and confining helper processes. */
#include "net/helper.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <poll.h>
#include <seccomp.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

extern char **environ;

/* Descriptors go through numbers that nobody uses, so that neither overwrites the other. */
static int spawn(posix_spawn_file_actions_t *a, char *const argv[], int fd, int dir_fd)
{
	pid_t pid;
	int high = fcntl(fd, F_DUPFD_CLOEXEC, 10), high_dir = dir_fd < 0 ? -1 : fcntl(dir_fd, F_DUPFD_CLOEXEC, 10), err;

	posix_spawn_file_actions_adddup2(a, high, NET_HELPER_FD);
	if (high_dir >= 0)
		posix_spawn_file_actions_adddup2(a, high_dir, NET_HELPER_DIR_FD);
	posix_spawn_file_actions_addclosefrom_np(a, high_dir >= 0 ? NET_HELPER_DIR_FD + 1 : NET_HELPER_FD + 1);
	err = high < 0 ? errno : posix_spawn(&pid, "/proc/self/exe", a, NULL, argv, environ);
	if (high >= 0)
		close(high);
	if (high_dir >= 0)
		close(high_dir);
	return -err;
}

int net_helper_spawn(const char *verb, const char *name, const char *text, int fd, int dir_fd)
{
	char *const argv[] = { "nestbox", (char *)verb, (char *)name, (char *)text, NULL };
	posix_spawn_file_actions_t a;
	int err;

	posix_spawn_file_actions_init(&a);
	err = spawn(&a, argv, fd, dir_fd);
	posix_spawn_file_actions_destroy(&a);
	if (err)
		log_error("%s: cannot start its helper process: %s", name, strerror(-err));
	return err;
}

int net_helper_wait(int fd, u8 *answer)
{
	struct pollfd p = { fd, POLLIN, 0 };

	if (poll(&p, 1, 5000) <= 0)
		return -ETIMEDOUT;
	return read(fd, answer, 1) == 1 ? 0 : -EPIPE;
}

void net_helper_detach(bool keep_stderr)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	setsid();
	if (null < 0)
		return;
	dup2(null, STDIN_FILENO);
	dup2(null, STDOUT_FILENO);
	if (!keep_stderr)
		dup2(null, STDERR_FILENO);
	close(null);
}

/* A kernel without Landlock: nothing can be opened at all, which seccomp sees to. */
static bool confine_files(const char *const *readable)
{
	struct landlock_ruleset_attr all = { .handled_access_fs = (LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1 };
	int set = (int)syscall(SYS_landlock_create_ruleset, &all, sizeof(all), 0);
	bool ok = false;

	if (set < 0)
		return false;
	for (; *readable; readable++) {
		struct landlock_path_beneath_attr below = { LANDLOCK_ACCESS_FS_READ_FILE, open(*readable, O_PATH | O_CLOEXEC) };

		if (below.parent_fd >= 0) {
			syscall(SYS_landlock_add_rule, set, LANDLOCK_RULE_PATH_BENEATH, &below, 0);
			close(below.parent_fd);
		}
	}
	ok = !prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) && !syscall(SYS_landlock_restrict_self, set, 0);
	close(set);
	return ok;
}

int net_helper_confine(const int *calls, unsigned n, const char *const *readable)
{
	bool files = readable && confine_files(readable);
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_KILL_PROCESS);
	int err = ctx ? 0 : -ENOMEM;

	for (unsigned i = 0; !err && i < n; i++)
		err = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, calls[i], 0);
	if (!err)
		err = seccomp_rule_add(ctx, files ? SCMP_ACT_ALLOW : SCMP_ACT_ERRNO(EACCES), SCMP_SYS(openat), 0);
	if (!err)
		err = seccomp_load(ctx);
	if (ctx)
		seccomp_release(ctx);
	return err;
}
