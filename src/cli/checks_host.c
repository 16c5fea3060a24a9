/* What is asked of the host. */
#include "cli/checks.h"
#include "cli/table.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

/* Translated code, decoded code and stacks, beside the guest's memory. */
#define OWN_BYTES (1 * GiB)
#define OWN_BYTES_PER_CPU (80 * MiB)

bool check_engine(const struct check_subject *s, char *detail, size_t size)
{
	const struct engine_ops *e = vm_engine(s->cfg.engine);
	snprintf(detail, size, "engine %s: VT-x in software, on any host", e ? e->name : "none");
	return e;
}

bool check_address_space(const struct check_subject *s, char *detail, size_t size)
{
	struct rlimit r;
	char has[32], wants[32];
	u64 need = (s->vm ? s->cfg.memory + s->cfg.memory_more : GiB) + OWN_BYTES + s->cfg.cpus * OWN_BYTES_PER_CPU;
	if (getrlimit(RLIMIT_AS, &r) || r.rlim_cur == RLIM_INFINITY) {
		snprintf(detail, size, "unlimited");
		return true;
	}
	snprintf(detail, size, "limited to %s, and the VM process takes %s", format_size(r.rlim_cur, has, sizeof has), format_size(need, wants, sizeof wants));
	return r.rlim_cur >= need;
}

bool check_memory_lock(const struct check_subject *s, char *detail, size_t size)
{
	struct rlimit r;
	char has[32];
	bool limited = !getrlimit(RLIMIT_MEMLOCK, &r) && r.rlim_cur != RLIM_INFINITY;
	snprintf(detail, size, "limit %s; nestbox locks none", limited ? format_size(r.rlim_cur, has, sizeof has) : "none");
	return true;
}

bool check_open_files(const struct check_subject *s, char *detail, size_t size)
{
	struct rlimit r;
	u64 need = 256;
	if (getrlimit(RLIMIT_NOFILE, &r))
		r.rlim_cur = RLIM_INFINITY;
	if (r.rlim_cur == RLIM_INFINITY)
		snprintf(detail, size, "unlimited");
	else
		snprintf(detail, size, "%llu allowed, %llu needed", (unsigned long long)r.rlim_cur, (unsigned long long)need);
	return r.rlim_cur >= need;
}

bool check_processor(const struct check_subject *s, char *detail, size_t size)
{
	bool v2 = __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt"), v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2");
	snprintf(detail, size, v3 ? "x86-64-v3" : v2 ? "x86-64-v2: guests see no AVX" : "older than x86-64-v2");
	return v2;
}

bool check_seccomp(const struct check_subject *s, char *detail, size_t size)
{
	unsigned action = SECCOMP_RET_KILL_PROCESS;
	bool yes = !syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action);
	snprintf(detail, size, "%s", yes ? "filters work" : strerror(errno));
	return yes;
}

bool check_memfd(const struct check_subject *s, char *detail, size_t size)
{
	int fd = memfd_create("doctor", MFD_CLOEXEC);
	int err = fd < 0 ? errno : ftruncate(fd, 1 << 20) ? errno : 0;
	void *p = err ? MAP_FAILED : mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED && !err)
		err = errno;
	if (p != MAP_FAILED)
		munmap(p, 1 << 20);
	if (fd >= 0)
		close(fd);
	snprintf(detail, size, "%s", err ? strerror(err) : "works");
	return !err;
}

bool check_state_folder(const struct check_subject *s, char *detail, size_t size)
{
	int err = rundir_make_folders(s->state_dir);
	if (!err && access(s->state_dir, W_OK | X_OK))
		err = -errno;
	snprintf(detail, size, "%s%s%s", s->state_dir, err ? ": " : "", err ? strerror(-err) : "");
	return !err;
}

/* MemAvailable, and what the container's limit leaves (cgroup v2). */
static u64 number_from(const char *path, const char *key)
{
	char line[256];
	u64 value = ~(u64)0;
	FILE *f = fopen(path, "re");
	size_t len = strlen(key);
	while (f && fgets(line, sizeof line, f))
		if (!strncmp(line, key, len) && strspn(line + len, " \t0123456789") > 0 && strncmp(line, "max", 3)) {
			value = strtoull(line + len, NULL, 10);
			break;
		}
	if (f)
		fclose(f);
	return value;
}

bool check_free_memory(const struct check_subject *s, char *detail, size_t size)
{
	char has[32], limit_text[32];
	u64 kib = number_from("/proc/meminfo", "MemAvailable:"), free_bytes = kib == ~(u64)0 ? kib : kib * KiB;
	u64 limit = number_from("/sys/fs/cgroup/memory.max", ""), used = number_from("/sys/fs/cgroup/memory.current", "");
	u64 left = limit == ~(u64)0 || used == ~(u64)0 ? ~(u64)0 : limit > used ? limit - used : 0;
	snprintf(detail, size, "%s available%s%s", format_size(free_bytes, has, sizeof has), left == ~(u64)0 ? "" : ", the container's limit leaves ",
		 left == ~(u64)0 ? "" : format_size(left, limit_text, sizeof limit_text));
	return min_u64(free_bytes, left) >= GiB;
}

bool check_state_space(const struct check_subject *s, char *detail, size_t size)
{
	struct statvfs fs;
	char has[32];
	if (statvfs(s->state_dir, &fs)) {
		snprintf(detail, size, "%s: %s", s->state_dir, strerror(errno));
		return false;
	}
	u64 free_bytes = (u64)fs.f_bavail * fs.f_frsize;
	snprintf(detail, size, "%s free", format_size(free_bytes, has, sizeof has));
	return free_bytes >= 2 * GiB;
}

bool check_firmware(const struct check_subject *s, char *detail, size_t size)
{
	bool bios = !access("/usr/share/seabios/bios-256k.bin", R_OK), uefi = !access("/usr/share/OVMF/OVMF_CODE_4M.fd", R_OK);
	snprintf(detail, size, "SeaBIOS %s, OVMF %s", bios ? "is there" : "is missing", uefi ? "is there" : "is missing");
	return bios && uefi;
}

bool check_storage_daemon(const struct check_subject *s, char *detail, size_t size)
{
	bool there = !access("/usr/bin/qemu-storage-daemon", X_OK);
	snprintf(detail, size, there ? "is there" : "is missing: raw images work all the same");
	return there;
}

/* The host module's word on nesting; "" when it is not loaded. */
static void nested_parameter(char *to, size_t size)
{
	static const char *const files[] = { "/sys/module/kvm_intel/parameters/nested", "/sys/module/kvm_amd/parameters/nested" };
	*to = 0;
	for (unsigned i = 0; i < array_len(files); i++) {
		FILE *f = fopen(files[i], "re");
		if (!f)
			continue;
		if (fgets(to, (int)size, f))
			to[strcspn(to, "\n")] = 0;
		fclose(f);
	}
}

/* A device file says little: only a VM that it makes is proof. */
static bool usable_kvm(void)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), vm = kvm < 0 ? -1 : ioctl(kvm, KVM_CREATE_VM, 0);
	if (vm >= 0)
		close(vm);
	if (kvm >= 0)
		close(kvm);
	return vm >= 0;
}

bool check_host_kvm(const struct check_subject *s, char *detail, size_t size)
{
	char nested[16];
	nested_parameter(nested, sizeof nested);
	if (access("/dev/kvm", F_OK))
		snprintf(detail, size, "no /dev/kvm; not needed");
	else
		snprintf(detail, size, "/dev/kvm is there (%s%s%s); this version does not use it", usable_kvm() ? "it makes VMs" : "it makes none: no permission, or no VT-x or AMD-V",
			 *nested ? ", nested=" : "", nested);
	return true;
}
