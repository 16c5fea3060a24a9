/* `nestbox kvm`: one command with a working /dev/kvm, in a machine that lasts as long as the command. The guest's root is the host's, shared read-only
 * under a layer of memory; the current folder is shared for writing. Not here: what the guest does (agent/guest/boot.c). Surprise: the guest has no init, no
 * services and no network: process 1 is our helper. */
#include "agent/session.h"
#include "base/log.h"
#include "cli/cli.h"
#include "cli/guest.h"
#include "host/term.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <sys/wait.h>
#include <unistd.h>

/* BOOT_MS: a guest on a host that has a quarter of a core starts within this. */
enum { BOOT_MS = 120000, MAX_GROUPS = 256, DEFAULT_MIB = 2048, LEAST_MIB = 256 };


struct kvm_run {
	struct cli_call *call;
	char images[PATH_MAX], cwd[PATH_MAX], name[64];
	char kernel[PATH_MAX + 16], initrd[64], serial[64], shares[2][PATH_MAX + 64];
	int initrd_fd, console_fd, session_fd;
	const char *engine;
	long cpus;
	u64 memory; /* bytes */
	pid_t vm;
	u64 started_ns;
};

/* ---- the guest's parts ---- */
/* The cache that tools/guest-images fills: where NESTBOX_CACHE says, else beside the build, else the user's. */
static int find_images(struct kvm_run *k)
{
	char exe[PATH_MAX] = "", tried[3][PATH_MAX], probe[PATH_MAX + PATH_MAX];
	const char *cache = getenv("NESTBOX_CACHE"), *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
	unsigned n = 0;
	ssize_t len = readlink("/proc/self/exe", exe, sizeof exe - 1);
	for (int up = 0; up < 2 && len > 0; up++) {
		exe[len] = 0;
		char *slash = strrchr(exe, '/');
		len = slash ? slash - exe : 0;
	}
	exe[len > 0 ? len : 0] = 0;
	if (cache)
		snprintf(tried[n++], sizeof tried[0], "%s/images", cache);
	snprintf(tried[n++], sizeof tried[0], "%s/.cache/images", exe);
	snprintf(tried[n++], sizeof tried[0], "%s%s/nestbox/images", xdg ? xdg : home ? home : "", xdg ? "" : "/.cache");
	for (unsigned i = 0; i < n; i++) {
		if (snprintf(probe, sizeof probe, "%s/kvm.cpio", tried[i]) < PATH_MAX && !access(probe, R_OK)) {
			memcpy(k->images, tried[i], sizeof k->images);
			return 0;
		}
	}
	return cli_fail(k->call, "no-images", "no guest kernel in %s: tools/guest-images in nestbox's source makes it; NESTBOX_CACHE says where it is", tried[0]);
}

static bool write_all(int fd, const void *data, size_t len)
{
	for (size_t done = 0; done < len;) {
		ssize_t n = write(fd, (const u8 *)data + done, len - done);
		if (n <= 0)
			return false;
		done += (size_t)n;
	}
	return true;
}

/* One member of a cpio archive ("newc", as the kernel's documentation of the initramfs buffer format has it). */
static bool cpio_member(int fd, const char *name, u32 mode, const void *data, size_t len)
{
	static const char zeros[4];
	char head[111];
	size_t nlen = strlen(name) + 1;
	snprintf(head, sizeof head, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x", 1, mode, 0, 0, 1, 0, (u32)len, 0, 0, 0, 0, (u32)nlen, 0);
	return write_all(fd, head, 110) && write_all(fd, name, nlen) && write_all(fd, zeros, -(110 + nlen) & 3) && write_all(fd, data, len) &&
	       write_all(fd, zeros, -len & 3);
}

/* The modules' archive, then one with this nestbox's own helper as /init: the kernel unpacks both. */
static int make_initrd(struct kvm_run *k)
{
	char path[PATH_MAX + 32];
	snprintf(path, sizeof path, "%s/kvm.cpio", k->images);
	struct stat st;
	int from = open(path, O_RDONLY | O_CLOEXEC);
	k->initrd_fd = memfd_create("nestbox-initrd", 0);
	void *modules = from >= 0 && !fstat(from, &st) ? mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, from, 0) : MAP_FAILED;
	bool ok = k->initrd_fd >= 0 && modules != MAP_FAILED && write_all(k->initrd_fd, modules, (size_t)st.st_size) &&
		  cpio_member(k->initrd_fd, "init", S_IFREG | 0755, session_helper, session_helper_len) && cpio_member(k->initrd_fd, "TRAILER!!!", 0, "", 0);
	int err = errno;
	if (from >= 0)
		close(from);
	if (!ok)
		return cli_fail(k->call, "host-error", "\"%s\": %s", path, strerror(err));
	snprintf(k->initrd, sizeof k->initrd, "/proc/self/fd/%d", k->initrd_fd);
	return 0;
}

/* ---- the machine ---- */
static u64 memory_of(const struct kvm_run *k)
{
	struct sysinfo si;
	u64 half = sysinfo(&si) ? DEFAULT_MIB : (u64)si.totalram * si.mem_unit / MiB / 2;
	long m = cli_number(k->call, "memory", LEAST_MIB, 1 << 20, (long)max_u64(min_u64(DEFAULT_MIB, half), LEAST_MIB));
	return m < 0 ? 0 : (u64)m * MiB;
}

/* The options come first: what is wrong with them does not depend on what this host has. */
static int read_options(struct kvm_run *k)
{
	const char *engine = cli_option(k->call, "engine");
	k->engine = engine ? engine : "auto";
	k->cpus = cli_number(k->call, "cpus", 1, VM_MAX_CPUS, 1);
	if (k->cpus < 0 || !(k->memory = memory_of(k)))
		return STATUS_USAGE;
	return vm_engine(k->engine) ? 0 : cli_fail(k->call, "bad-usage", "--engine \"%s\": must be auto, interp or jit", k->engine);
}

static void configure(struct kvm_run *k, struct vm_config *cfg)
{
	*cfg = (struct vm_config){ .kernel = k->kernel, .initrd = k->initrd, .memory = k->memory, .cpus = (unsigned)k->cpus, .nested = true, .cpu_model = "fast",
		.engine = k->engine, .serial = VM_SERIAL_FILE, .serial_path = k->serial,
		.stats = cli_option(k->call, "stats") != NULL, .exec_socket = k->session_fd,
		.append = "console=ttyS0 quiet panic=-1 random.trust_cpu=on cryptomgr.notests no_timer_check nokaslr" };
	snprintf(k->kernel, sizeof k->kernel, "%s/vmlinuz", k->images);
	snprintf(k->serial, sizeof k->serial, "/proc/self/fd/%d", k->console_fd);
	snprintf(k->shares[0], sizeof k->shares[0], "/:ro,tag=root,cache=86400");
	cfg->shares[cfg->nshares++] = k->shares[0];
	if (strcmp(k->cwd, "/")) {
		snprintf(k->shares[1], sizeof k->shares[1], "%s:rw,tag=cwd", k->cwd);
		cfg->shares[cfg->nshares++] = k->shares[1];
	}
	cfg->vsock = cli_option(k->call, "vsock");
	if (cli_option(k->call, "keep"))
		cfg->name = k->name;
}

/* The VM's process. Signals of the terminal are the command's, not its own. */
static void vm_process(struct kvm_run *k, const struct vm_config *cfg)
{
	int null = open("/dev/null", O_RDWR);
	setsid();
	if (!cfg->name)
		prctl(PR_SET_PDEATHSIG, SIGKILL);
	dup2(null, STDIN_FILENO);
	dup2(null, STDOUT_FILENO);
	_exit(cli_run(cfg, k->call->state_dir));
}

static int start_vm(struct kvm_run *k)
{
	struct vm_config cfg;
	int pair[2];
	k->console_fd = memfd_create("nestbox-console", 0);
	if (k->console_fd < 0 || socketpair(AF_UNIX, SOCK_STREAM, 0, pair))
		return cli_fail(k->call, "host-error", "cannot make a socket: %s", strerror(errno));
	k->session_fd = pair[1];
	configure(k, &cfg);
	k->vm = fork();
	if (k->vm == 0) {
		close(pair[0]);
		vm_process(k, &cfg);
	}
	close(pair[1]);
	k->session_fd = pair[0];
	return k->vm < 0 ? cli_fail(k->call, "host-error", "cannot start a process: %s", strerror(errno)) : 0;
}

static void end_vm(struct kvm_run *k, bool politely)
{
	int status;
	kill(k->vm, politely ? SIGTERM : SIGKILL);
	waitpid(k->vm, &status, 0);
}

/* What the guest's kernel said last, when it did not come up. */
static void print_console(const struct kvm_run *k)
{
	char buf[4097];
	off_t end = lseek(k->console_fd, 0, SEEK_END);
	ssize_t n = pread(k->console_fd, buf, sizeof buf - 1, end > 4096 ? end - 4096 : 0);
	if (n <= 0)
		return;
	buf[n] = 0;
	fprintf(stderr, "the guest's console ends with:\n%s\n", buf);
}

/* ---- the command ---- */
static int run_command(struct kvm_run *k)
{
	char host[65] = "", cwd_mount[PATH_MAX + 8], *mounts[] = { cwd_mount, NULL };
	unsigned groups[MAX_GROUPS];
	int ngroups = getgroups(MAX_GROUPS, groups);
	bool tty = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
	struct session_result result;
	gethostname(host, sizeof host - 1);
	snprintf(cwd_mount, sizeof cwd_mount, "cwd:%s", k->cwd);
	struct session_request rq = { .argv = k->call->argv, .env = environ, .cwd = k->cwd, .host = host, .as_user = true, .uid = getuid(), .gid = getgid(),
		.groups = groups, .ngroups = ngroups > 0 ? (unsigned)ngroups : 0, .tty = tty, .in = STDIN_FILENO, .out = STDOUT_FILENO, .err = STDERR_FILENO,
		.hello_ms = BOOT_MS, .mount = strcmp(k->cwd, "/") ? mounts : NULL };
	if (tty)
		host_term_raw();
	int err = session_run(k->session_fd, &rq, &result);
	host_term_restore();
	if (err)
		cli_fail(k->call, err > 0 ? "cannot-run" : "broken", "%s", result.error);
	if (err < 0)
		print_console(k);
	if (result.began && cli_option(k->call, "stats"))
		fprintf(stderr, "stats: kvm start_s=%.3f guest_s=%.3f\n", (double)(result.began_host_ns - k->started_ns) / NSEC_PER_SEC,
			(double)result.began_ns / NSEC_PER_SEC);
	return err < 0 ? STATUS_NO_WAY : result.status;
}

int cli_kvm_command(struct cli_call *call)
{
	static struct kvm_run k;
	k = (struct kvm_run){ .call = call, .started_ns = host_now_ns() };
	if (!getcwd(k.cwd, sizeof k.cwd))
		return cli_fail(call, "host-error", "the current folder: %s", strerror(errno));
	snprintf(k.name, sizeof k.name, "kvm-%d", (int)getpid());
	int status = read_options(&k);
	if (!status)
		status = find_images(&k);
	if (!status)
		status = make_initrd(&k);
	if (!status)
		status = start_vm(&k);
	if (status)
		return status;
	status = run_command(&k);
	close(k.session_fd);
	if (!cli_option(call, "keep") || status == STATUS_NO_WAY)
		end_vm(&k, cli_option(call, "stats") != NULL);
	else
		log_info("machine %s goes on: nestbox exec %s -- COMMAND runs more in it, nestbox ctl %s quit ends it", k.name, k.name, k.name);
	return status;
}
