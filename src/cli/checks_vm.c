/* What is asked of a VM, and the fixes. */
#include "cli/checks.h"
#include "cli/table.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysinfo.h>

/* ---- state ---- */
/* A guest that sees VT-x already. */
static bool runs_nested(const struct check_subject *s) { return json_is_true(json_object_get(s->now->status, "nested")); }

bool check_off(const struct check_subject *s, char *detail, size_t size)
{
	snprintf(detail, size, "it is %s%s", s->now->state, runs_nested(s) ? " and has VT-x" : "");
	return !s->now->alive || runs_nested(s);
}

static int fix_off(const struct check_subject *s, struct check_plan *plan)
{
	plan->stop = true;
	return 0;
}

static bool has_saved_state(const struct check_subject *s)
{
	char path[PATH_MAX];
	struct stat st;
	return !reg_path(s->state_dir, s->vm->id, REG_SAVED_STATE, path, sizeof path) && !lstat(path, &st);
}

bool check_saved(const struct check_subject *s, char *detail, size_t size)
{
	bool saved = has_saved_state(s) && !s->cfg.nested; /* options cannot change while there is saved state, so with nested=on it has VT-x in it */
	snprintf(detail, size, saved ? "there is saved state; start it and shut it down to keep what runs in it" : "there is none");
	return !saved;
}

static int fix_saved(const struct check_subject *s, struct check_plan *plan)
{
	plan->discard = true;
	return 0;
}

/* ---- options ---- */
static int replace(struct option_list *l, const char *key, const char *value)
{
	for (unsigned i = l->n; i-- > 0;)
		if (!strcmp(l->at[i].key, key))
			option_list_remove(l, i);
	return option_list_add(l, key, value);
}

bool check_shown(const struct check_subject *s, char *detail, size_t size)
{
	snprintf(detail, size, "nested=%s", s->cfg.nested ? "on" : "off");
	return s->cfg.nested;
}

static int fix_shown(const struct check_subject *s, struct check_plan *plan) { return replace(&plan->options, "nested", "on"); }

/* Models whose identity is Intel's; VT-x is the only extension that there is so far. */
static bool is_intel(const char *model)
{
	static const char *const names[] = { "fast", "compat" };
	size_t len = strcspn(model, ",");
	for (unsigned i = 0; i < array_len(names); i++)
		if (strlen(names[i]) == len && !memcmp(names[i], model, len))
			return true;
	return false;
}

/* "-vmx" among the changes to a model. */
static const char *hidden_vmx(const char *model)
{
	for (const char *p = strstr(model, ",-vmx"); p; p = strstr(p + 1, ",-vmx"))
		if (p[5] == ',' || !p[5])
			return p;
	return NULL;
}

bool check_model(const struct check_subject *s, char *detail, size_t size)
{
	snprintf(detail, size, "cpu=%s%s", s->cfg.cpu_model, hidden_vmx(s->cfg.cpu_model) ? " hides VT-x" : is_intel(s->cfg.cpu_model) ? "" : " has no VT-x");
	return is_intel(s->cfg.cpu_model) && !hidden_vmx(s->cfg.cpu_model);
}

static int fix_model(const struct check_subject *s, struct check_plan *plan)
{
	char model[512];
	const char *hidden = hidden_vmx(s->cfg.cpu_model);
	if (!is_intel(s->cfg.cpu_model) || !hidden)
		return replace(&plan->options, "cpu", "fast");
	snprintf(model, sizeof model, "%.*s%s", (int)(hidden - s->cfg.cpu_model), s->cfg.cpu_model, hidden + strlen(",-vmx"));
	return replace(&plan->options, "cpu", model);
}

static int fix_engine(const struct check_subject *s, struct check_plan *plan) { return replace(&plan->options, "engine", "auto"); }

/* ---- network ports ---- */
static bool lacks_spoofing(const struct option_pair *o)
{
	return !strcmp(o->key, "net") && strcmp(o->value, "none") && !strstr(o->value, ",mac-spoofing=on");
}

bool check_spoofing(const struct check_subject *s, char *detail, size_t size)
{
	unsigned ports = 0, closed = 0;
	for (unsigned i = 0; i < s->vm->options.n; i++) {
		const struct option_pair *o = &s->vm->options.at[i];
		ports += !strcmp(o->key, "net") && strcmp(o->value, "none");
		closed += lacks_spoofing(o);
	}
	if (!ports)
		snprintf(detail, size, "it has no network");
	else if (closed)
		snprintf(detail, size, "off on %u of %u: a bridge inside would lose its VMs' frames; address translation inside works all the same", closed, ports);
	else
		snprintf(detail, size, "on on all %u", ports);
	return !closed;
}

static int fix_spoofing(const struct check_subject *s, struct check_plan *plan)
{
	for (unsigned i = 0; i < plan->options.n; i++) {
		struct option_pair *o = &plan->options.at[i];
		char *value = NULL, *off;
		if (!lacks_spoofing(o))
			continue;
		while ((off = strstr(o->value, ",mac-spoofing=off")))
			memmove(off, off + strlen(",mac-spoofing=off"), strlen(off + strlen(",mac-spoofing=off")) + 1);
		if (asprintf(&value, "%s,mac-spoofing=on", o->value) < 0)
			return -ENOMEM;
		free(o->value);
		o->value = value;
	}
	return 0;
}

/* ---- memory ---- */
/* With room to spare. Debian 12's cloud kernel 6.1 with busybox took 75 MiB without its unpacked initial RAM disk, QEMU 7.2 with KVM 25 MiB beside its
 * guest's 128, as tests/ctl/story.py's VM showed after its VM inside had started. A system with systemd on a disk is an estimate. */
enum { L1_BARE_MIB = 128, L1_DISK_MIB = 320, CPU_MIB = 8, VMM_MIB = 96, L2_MIB = 128 };

static u64 file_mib(const char *path)
{
	struct stat st;
	return path && !stat(path, &st) && S_ISREG(st.st_mode) ? ((u64)st.st_size + MiB - 1) / MiB : 0;
}

u64 check_memory_need(const struct check_subject *s, char *words, size_t size)
{
	u64 system = s->cfg.ndisks ? L1_DISK_MIB : L1_BARE_MIB;
	u64 initrd = 2 * file_mib(s->cfg.initrd); /* the file, and its content unpacked */
	u64 cpus = (u64)s->cfg.cpus * CPU_MIB, sum = system + initrd + cpus + VMM_MIB + L2_MIB;
	sum = align_up(sum, 64);
	snprintf(words, size, "%llu MiB: %llu for its system, %llu for its initial RAM disk, %llu for %u vCPUs, %d for the hypervisor's process and %d for a small VM inside",
		 (unsigned long long)sum, (unsigned long long)system, (unsigned long long)initrd, (unsigned long long)cpus, s->cfg.cpus, VMM_MIB, L2_MIB);
	return sum * MiB;
}

bool check_memory(const struct check_subject *s, char *detail, size_t size)
{
	char words[400], has[32];
	u64 need = check_memory_need(s, words, sizeof words);
	snprintf(detail, size, "it has %s and needs %s", format_size(s->cfg.memory, has, sizeof has), words);
	return s->cfg.memory >= need;
}

/* "min:start:max" or one size: the least, the first and the most must be as much. */
static int fix_memory(const struct check_subject *s, struct check_plan *plan)
{
	char words[400], value[128];
	const char *old = option_list_get(&plan->options, "memory"), *min = old ? strchr(old, ':') : NULL;
	unsigned long long mib = check_memory_need(s, words, sizeof words) / MiB;
	if (!min)
		snprintf(value, sizeof value, "%lluM", mib);
	else
		snprintf(value, sizeof value, "%.*s:%lluM:%lluM", (int)(min - old), old, mib, mib);
	return replace(&plan->options, "memory", value);
}

bool check_host_memory(const struct check_subject *s, char *detail, size_t size)
{
	struct sysinfo si;
	char has[32], wants[32];
	u64 total = sysinfo(&si) ? ~(u64)0 : (u64)si.totalram * si.mem_unit;
	u64 most = s->cfg.memory + s->cfg.memory_more;
	snprintf(detail, size, "the host has %s, the VM wants %s", format_size(total, has, sizeof has), format_size(most, wants, sizeof wants));
	return most <= total;
}

/* ---- disks ---- */
#define L2_DISK_BYTES (1 * GiB) /* a small Debian */

/* What the image may still take from its file system: its holes. */
static bool room_for(const char *spec, char *detail, size_t size)
{
	char path[PATH_MAX], free_text[32], wants[32];
	struct stat st;
	struct statvfs fs;
	size_t len = strcspn(spec, ",");
	if (len > 3 && !spec[len] && !strcmp(spec + len - 3, ":ro"))
		return true;
	snprintf(path, sizeof path, "%.*s", (int)len, spec);
	if (strstr(spec + len, ",ro") || strstr(spec + len, ",snapshot=on") || stat(path, &st) || !S_ISREG(st.st_mode) || statvfs(path, &fs))
		return true; /* nothing to say of it */
	u64 used = (u64)st.st_blocks * 512, holes = (u64)st.st_size > used ? (u64)st.st_size - used : 0;
	u64 need = min_u64(holes, L2_DISK_BYTES), free_bytes = (u64)fs.f_bavail * fs.f_frsize;
	if (free_bytes >= need)
		return true;
	snprintf(detail, size, "disk \"%s\" may grow by %s, and its file system has %s left", path, format_size(need, wants, sizeof wants),
		 format_size(free_bytes, free_text, sizeof free_text));
	return false;
}

bool check_disk_space(const struct check_subject *s, char *detail, size_t size)
{
	unsigned disks = 0;
	for (unsigned i = 0; i < s->vm->options.n; i++) {
		if (strcmp(s->vm->options.at[i].key, "disk"))
			continue;
		disks++;
		if (!room_for(s->vm->options.at[i].value, detail, size))
			return false;
	}
	snprintf(detail, size, disks ? "%u disk%s, all with room" : "it has no disk: VMs inside live in its memory", disks, disks == 1 ? "" : "s");
	return true;
}

/* ---- the table ---- */
#define VM SCOPE_VM
#define HOST SCOPE_HOST
#define BOTH SCOPE_BOTH
#define MUST LEVEL_MUST
#define SHOULD LEVEL_SHOULD
#define NOTE LEVEL_NOTE
const struct check_row check_rows[] = {
#define K(code, scope, level, check, fix, what, remedy) { code, scope, level, check, fix, what, remedy },
#include "cli/checks.def"
#undef K
};
const unsigned check_row_count = array_len(check_rows);
