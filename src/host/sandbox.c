/* seccomp filter. A row per system call with its reason; nothing here opens a file, makes a socket or starts a program unless a back-end of this machine
 * has asked for it. */
#include "host/sandbox.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static const int always[] = {
	/* memory: malloc, thread stacks, decoded-code arenas, guest memory made anew */
	SCMP_SYS(mmap), SCMP_SYS(memfd_create), SCMP_SYS(munmap), SCMP_SYS(mremap), SCMP_SYS(mprotect), SCMP_SYS(madvise), SCMP_SYS(brk),
	/* threads and locks */
	SCMP_SYS(clone), SCMP_SYS(clone3), SCMP_SYS(futex), SCMP_SYS(set_robust_list), SCMP_SYS(rseq), SCMP_SYS(sched_yield), SCMP_SYS(exit),
	SCMP_SYS(exit_group), SCMP_SYS(gettid), SCMP_SYS(getpid), SCMP_SYS(tgkill), SCMP_SYS(sched_getaffinity), SCMP_SYS(restart_syscall),
	SCMP_SYS(membarrier),
	/* qsort of much looks how much memory there is */
	SCMP_SYS(sysinfo),
	/* translated code's GS segment, where the host lacks FSGSBASE */
	SCMP_SYS(arch_prctl),
	/* signals: vector exceptions (SIGFPE), abort */
	SCMP_SYS(rt_sigaction), SCMP_SYS(rt_sigprocmask), SCMP_SYS(rt_sigreturn), SCMP_SYS(sigaltstack),
	/* files that are open already: console, disks, logs */
	SCMP_SYS(read), SCMP_SYS(write), SCMP_SYS(readv), SCMP_SYS(writev), SCMP_SYS(pread64), SCMP_SYS(pwrite64), SCMP_SYS(preadv), SCMP_SYS(pwritev),
	SCMP_SYS(preadv2), SCMP_SYS(pwritev2),
	SCMP_SYS(fsync), SCMP_SYS(fdatasync), SCMP_SYS(fallocate), SCMP_SYS(ftruncate), SCMP_SYS(lseek), SCMP_SYS(close), SCMP_SYS(fstat), SCMP_SYS(fstatfs),
	SCMP_SYS(newfstatat), SCMP_SYS(poll), SCMP_SYS(ppoll), SCMP_SYS(flock), SCMP_SYS(fcntl),
	/* terminal back to its old mode at exit */
	SCMP_SYS(ioctl),
	/* time and random numbers (virtio-rng, RDRAND) */
	SCMP_SYS(clock_gettime), SCMP_SYS(clock_nanosleep), SCMP_SYS(nanosleep), SCMP_SYS(gettimeofday), SCMP_SYS(getrandom), SCMP_SYS(getrusage),
	/* the event loop */
	SCMP_SYS(epoll_create1), SCMP_SYS(epoll_ctl), SCMP_SYS(epoll_wait), SCMP_SYS(epoll_pwait), SCMP_SYS(eventfd2),
};
static const int serve[] = {
	SCMP_SYS(accept4), SCMP_SYS(sendmsg), SCMP_SYS(recvmsg), SCMP_SYS(sendto), SCMP_SYS(recvfrom), SCMP_SYS(shutdown), SCMP_SYS(getsockopt),
	SCMP_SYS(socketpair),
};
static const int connects[] = {
	SCMP_SYS(socket), SCMP_SYS(connect), SCMP_SYS(bind), SCMP_SYS(listen), SCMP_SYS(accept), SCMP_SYS(accept4), SCMP_SYS(sendmsg), SCMP_SYS(recvmsg),
	SCMP_SYS(sendto), SCMP_SYS(recvfrom), SCMP_SYS(shutdown), SCMP_SYS(getsockopt), SCMP_SYS(setsockopt), SCMP_SYS(getsockname),
	SCMP_SYS(getpeername), SCMP_SYS(select), SCMP_SYS(pselect6),
};
/* NBD on connected sockets, and the end of the server, our child */
static const int disk_server[] = {
	SCMP_SYS(sendto), SCMP_SYS(recvfrom), SCMP_SYS(shutdown), SCMP_SYS(pidfd_send_signal), SCMP_SYS(waitid),
};
static const int share[] = { /* a share's server: what FUSE operations become */
	SCMP_SYS(mknodat), SCMP_SYS(symlinkat), SCMP_SYS(readlinkat), SCMP_SYS(fchmodat), SCMP_SYS(fchownat), SCMP_SYS(utimensat), SCMP_SYS(fstatfs),
	SCMP_SYS(setfsuid), SCMP_SYS(setfsgid),
};
static const int files[] = {
	SCMP_SYS(openat), SCMP_SYS(access), SCMP_SYS(unlinkat), SCMP_SYS(unlink), SCMP_SYS(rmdir), SCMP_SYS(renameat), SCMP_SYS(renameat2), SCMP_SYS(rename), SCMP_SYS(mkdirat),
	SCMP_SYS(mkdir), SCMP_SYS(linkat), SCMP_SYS(getdents64), SCMP_SYS(faccessat), SCMP_SYS(faccessat2), SCMP_SYS(copy_file_range), SCMP_SYS(fchmod), SCMP_SYS(dup3), SCMP_SYS(statfs),
};

static int allow(scmp_filter_ctx ctx, const int *calls, unsigned n)
{
	int err = 0;
	for (unsigned i = 0; !err && i < n; i++) {
		err = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, calls[i], 0);
		if (err == -EEXIST) /* stands in two tables */
			err = 0;
	}
	return err;
}

int host_sandbox_enter(unsigned promises)
{
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_KILL_PROCESS);
	int err = ctx ? seccomp_attr_set(ctx, SCMP_FLTATR_CTL_TSYNC, 1) : -ENOMEM; /* workers that run already, too */
	if (!err)
		err = allow(ctx, always, array_len(always));
	if (!err && (promises & SANDBOX_SERVE))
		err = allow(ctx, serve, array_len(serve));
	if (!err && (promises & SANDBOX_CONNECT))
		err = allow(ctx, connects, array_len(connects));
	if (!err && (promises & SANDBOX_DISK_SERVER))
		err = allow(ctx, disk_server, array_len(disk_server));
	if (!err && (promises & SANDBOX_SHARE))
		err = allow(ctx, share, array_len(share));
	if (!err && (promises & SANDBOX_FILES))
		err = allow(ctx, files, array_len(files));
	if (!err)
		err = seccomp_load(ctx);
	if (ctx)
		seccomp_release(ctx);
	if (err)
		log_error("cannot confine the VM process with seccomp: %s", strerror(-err));
	return err;
}

/* Kernels since 5.13; the rights that its first version knows, so that any of them takes the rules. */
#define LANDLOCK_RIGHTS (LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR | LANDLOCK_ACCESS_FS_REMOVE_DIR | \
			 LANDLOCK_ACCESS_FS_REMOVE_FILE | LANDLOCK_ACCESS_FS_MAKE_DIR | LANDLOCK_ACCESS_FS_MAKE_REG)

int host_sandbox_folder(const char *path)
{
	struct landlock_ruleset_attr rules = { .handled_access_fs = LANDLOCK_RIGHTS | LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_MAKE_CHAR |
						LANDLOCK_ACCESS_FS_MAKE_SOCK | LANDLOCK_ACCESS_FS_MAKE_FIFO | LANDLOCK_ACCESS_FS_MAKE_BLOCK |
						LANDLOCK_ACCESS_FS_MAKE_SYM };
	int fd = (int)syscall(SYS_landlock_create_ruleset, &rules, sizeof rules, 0);
	if (fd < 0) {
		log_debug("this kernel has no landlock (%s): the VM process is kept to its folder by its own code only", strerror(errno));
		return 0;
	}
	struct landlock_path_beneath_attr own = { .allowed_access = LANDLOCK_RIGHTS, .parent_fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC) };
	int err = own.parent_fd < 0 || syscall(SYS_landlock_add_rule, fd, LANDLOCK_RULE_PATH_BENEATH, &own, 0) || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
				  syscall(SYS_landlock_restrict_self, fd, 0) ? -errno : 0;
	if (own.parent_fd >= 0)
		close(own.parent_fd);
	close(fd);
	if (err)
		log_error("cannot confine the VM process to \"%s\": %s", path, strerror(-err));
	return err;
}
