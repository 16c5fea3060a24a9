/* A machine's options: parser, --help and manual page, all from options.def. run takes them from the command line, VMs that stay keep them as
 * key=value pairs in the registry. */
#include "base/log.h"
#include "cli/cli.h"
#include "cli/options.h"
#include "cpu/core.h"
#include "vm/shares.h"
#include "vm/vsock.h"
#include "net/spec.h"
#include "proto/rundir.h"

#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/sysinfo.h>
#include <unistd.h>

enum option_id {
#define O(id, name, arg, text) OPT_##id,
#include "cli/options.def"
#undef O
	OPT_COUNT
};

static const struct { const char *name, *arg, *text; } rows[OPT_COUNT] = {
#define O(id, name, arg, text) { name, arg, text },
#include "cli/options.def"
#undef O
};

const char cli_run_status_text[] =
	"Exit status: 0 the guest powered off (or reset, with --no-reboot), 1 the guest died (triple fault), 2 bad usage or a failure of the host,\n"
	"124 timeout, (v<<1)|1 after the guest wrote v to the debug-exit port.\n";

void cli_print_run_options(FILE *out)
{
	for (unsigned i = 0; i < OPT_COUNT; i++) {
		char left[64];
		snprintf(left, sizeof left, "--%s%s%s", rows[i].name, rows[i].arg ? " " : "", rows[i].arg ? rows[i].arg : "");
		fprintf(out, "  %-32s %s\n", left, rows[i].text);
	}
}

void cli_print_run_man(FILE *out)
{
	for (unsigned i = 0; i < OPT_COUNT; i++)
		fprintf(out, ".TP\n.B \\-\\-%s%s%s%s\n%s\n", rows[i].name, rows[i].arg ? " \\fI" : "", rows[i].arg ? rows[i].arg : "",
			rows[i].arg ? "\\fP" : "", rows[i].text);
}

static const char *verb_name = "run"; /* for "Try: ..." */
static bool only_checking;             /* nothing may be made or changed */

static int usage(const char *fmt, const char *a, const char *b)
{
	log_error(fmt, a, b);
	fprintf(stderr, "Try: nestbox %s --help\n", verb_name);
	return STATUS_USAGE;
}

/* "512M", "2G", "512" (MiB). 0 on error. */
static u64 parse_size(const char *s)
{
	char *end;
	errno = 0;
	unsigned long long n = strtoull(s, &end, 10);
	if (errno || end == s || *s == '-' || n > (1ull << 30))
		return 0;
	if (!strcmp(end, "G") || !strcmp(end, "g"))
		return n * GiB;
	return !*end || !strcmp(end, "M") || !strcmp(end, "m") ? n * MiB : 0;
}

/* "MIN:START:MAX"; the rest is checked as for one size. *start 0: no range. -1: right. */
static int split_memory(struct vm_config *cfg, const char *arg, char *max, size_t size, u64 *start)
{
	char part[3][32];
	unsigned n = sscanf(arg, "%31[^:]:%31[^:]:%31[^:]", part[0], part[1], part[2]);
	cfg->memory_min = 0;
	*start = 0;
	snprintf(max, size, "%s", n == 3 ? part[2] : arg);
	if (!strchr(arg, ':'))
		return -1;
	u64 lo = n == 3 ? parse_size(part[0]) : 0, hi = n == 3 ? parse_size(part[2]) : 0;
	*start = n == 3 ? parse_size(part[1]) : 0;
	if (!lo || !*start || !hi)
		return usage("--memory \"%s\": must be a size or MIN:START:MAX, say 512M:1G:4G%s", arg, "");
	if (lo < 32 * MiB || lo > *start || *start > hi)
		return usage("--memory \"%s\": MIN must be at least 32M, START from MIN to MAX%s", arg, "");
	cfg->memory_min = lo;
	return -1;
}

static int set_memory(struct vm_config *cfg, const char *text)
{
	char arg[128];
	u64 start;
	int status = split_memory(cfg, text, arg, sizeof arg, &start);
	if (status >= 0)
		return status;
	struct sysinfo si;
	u64 size = parse_size(arg);
	if (!size)
		return usage("--memory \"%s\": not a memory size; say for example 512M or 2G%s", arg, "");
	if (size < 4 * MiB)
		return usage("--memory \"%s\": a PC needs at least 4M%s", arg, "");
	if (!sysinfo(&si) && size > (u64)si.totalram * si.mem_unit) {
		char has[32];
		snprintf(has, sizeof has, "%lluM", (unsigned long long)((u64)si.totalram * si.mem_unit / MiB));
		return usage("--memory \"%s\": more than this host has (%s)", arg, has);
	}
	cfg->memory = start ? start : size;
	cfg->memory_more = align_down(size - cfg->memory, 2 * MiB);
	return -1;
}

static int set_number(const char *option, const char *arg, unsigned min, unsigned max, unsigned *out)
{
	char *end;
	unsigned long n = strtoul(arg, &end, 10);
	if (*end || end == arg || *arg == '-' || n < min || n > max) {
		log_error("--%s \"%s\": must be a number from %u to %u", option, arg, min, max);
		fprintf(stderr, "Try: nestbox %s --help\n", verb_name);
		return STATUS_USAGE;
	}
	*out = n;
	return -1;
}

static int set_serial(struct vm_config *cfg, const char *arg)
{
	if (!strcmp(arg, "stdio")) {
		cfg->serial = VM_SERIAL_STDIO;
	} else if (!strcmp(arg, "null")) {
		cfg->serial = VM_SERIAL_NULL;
	} else if (!strcmp(arg, "control")) {
		cfg->serial = VM_SERIAL_CONTROL;
	} else if (!strncmp(arg, "file:", 5) && arg[5]) {
		cfg->serial = VM_SERIAL_FILE;
		cfg->serial_path = arg + 5;
	} else {
		return usage("--serial \"%s\": must be stdio, null, file:PATH or control%s", arg, "");
	}
	return -1;
}

static int add_net(struct vm_config *cfg, const char *arg)
{
	struct net_spec spec;
	char err[256];
	if (cfg->nnets == VM_MAX_NETS)
		return usage("--net \"%s\": at most 8 network cards%s", arg, "");
	if (net_spec_parse(&spec, arg, err, sizeof err))
		return usage("--net \"%s\": %s", arg, err);
	cfg->nets[cfg->nnets++] = arg;
	return -1;
}

static int add_share(struct vm_config *cfg, const char *arg)
{
	static struct share_spec spec;
	char err[256];
	if (cfg->nshares == VM_MAX_SHARES)
		return usage("--share \"%s\": at most 4 shared folders%s", arg, "");
	if (share_spec_parse(&spec, arg, cfg->nshares, err, sizeof err))
		return usage("--share \"%s\": %s", arg, err);
	cfg->shares[cfg->nshares++] = arg;
	return -1;
}

static int set_vsock(struct vm_config *cfg, const char *arg)
{
	struct vsock_spec spec;
	char err[256];
	if (vsock_spec_parse(&spec, arg, err, sizeof err))
		return usage("--vsock \"%s\": %s", arg, err);
	cfg->vsock = arg;
	return -1;
}

static int set_trace(const char *arg)
{
	const char *bad;
	if (!strcmp(arg, "help")) {
		trace_print_names(stdout);
		return STATUS_OK;
	}
	return trace_enable(arg, &bad) ? usage("--trace \"%s\": unknown name at \"%s\"; --trace help lists them", arg, bad) : -1;
}

static int set_option(struct vm_config *cfg, enum option_id id, const char *arg)
{
	FILE *f;
	switch (id) {
	case OPT_NAME:
		if (!rundir_name_ok(arg))
			return usage("--name \"%s\": must be letters, digits, dots, dashes and underscores, at most 64, the first a letter or digit%s", arg, "");
		cfg->name = arg;
		break;
	case OPT_KERNEL: cfg->kernel = arg; break;
	case OPT_FIRMWARE:
		if (!firmware_name_ok(arg))
			return usage("--firmware \"%s\": must be auto, bios, uefi, none or file:PATH%s", arg, "");
		cfg->firmware = arg;
		break;
	case OPT_CDROM:
		if (cfg->cdrom)
			return usage("--cdrom \"%s\": the machine has one drive, and \"%s\" is in it already", arg, cfg->cdrom);
		cfg->cdrom = arg;
		break;
	case OPT_VNC: cfg->vnc = arg; break;
	case OPT_SCREENSHOT: cfg->screenshot = arg; break;
	case OPT_FIRMWAREVARS: cfg->firmware_vars = arg; break;
	case OPT_INITRD: cfg->initrd = arg; break;
	case OPT_APPEND: cfg->append = arg; break;
	case OPT_MEMORY: return set_memory(cfg, arg);
	case OPT_CPUS: return set_number("cpus", arg, 1, VM_MAX_CPUS, &cfg->cpus);
	case OPT_NESTED:
		if (strcmp(arg, "on") && strcmp(arg, "off"))
			return usage("--nested \"%s\": must be on or off%s", arg, "");
		cfg->nested = !strcmp(arg, "on");
		break;
	case OPT_CPU:
		if (!strcmp(arg, "help")) {
			cpu_model_print_names(stdout);
			return STATUS_OK;
		}
		cfg->cpu_model = arg;
		break;
	case OPT_ENGINE:
		if (!vm_engine(arg))
			return usage("--engine \"%s\": must be auto, interp, jit or lockstep%s", arg, "");
		cfg->engine = arg;
		break;
	case OPT_SERIAL: return set_serial(cfg, arg);
	case OPT_DISK:
		if (cfg->ndisks == VM_MAX_DISKS)
			return usage("--disk \"%s\": at most 8 disks%s", arg, "");
		cfg->disks[cfg->ndisks++] = arg;
		break;
	case OPT_NET: return add_net(cfg, arg);
	case OPT_VSOCK: return set_vsock(cfg, arg);
	case OPT_FOLDER: return add_share(cfg, arg);
	case OPT_TESTDEV: cfg->test_devices = true; break;
	case OPT_RESTORE: cfg->restore = arg; break;
	case OPT_SHARE: cfg->share = arg; break;
	case OPT_NOREBOOT: cfg->no_reboot = true; break;
	case OPT_TIMEOUT: return set_number("timeout", arg, 1, 10000000, &cfg->timeout_s);
	case OPT_STATS: cfg->stats = true; break;
	case OPT_TRACE: return set_trace(arg);
	case OPT_TRACEFILE:
		if (only_checking)
			break;
		f = fopen(arg, "w");
		if (!f)
			return usage("--trace-file \"%s\": %s", arg, strerror(errno));
		trace_set_output(f);
		break;
	case OPT_HELP:
		cli_print_verb_help(stdout, cli_verb_find(verb_name));
		return STATUS_OK;
	case OPT_COUNT: break;
	}
	return -1;
}

/* What must hold of the options together. */
static int check_config(const struct vm_config *cfg)
{
	if (cfg->serial == VM_SERIAL_CONTROL && !cfg->name)
		return usage("--serial control needs --name, by which nestbox console finds the machine%s%s", "", "");
	bool none = cfg->firmware && !strcmp(cfg->firmware, "none"), asked = cfg->firmware && !none && strcmp(cfg->firmware, "auto");
	if (!cfg->kernel && (none || (!asked && !cfg->ndisks && !cfg->cdrom)))
		return usage("nothing to boot: give --kernel FILE, --disk FILE or --cdrom FILE%s%s", "", "");
	if (cfg->kernel && asked)
		return usage("--kernel \"%s\" and --firmware %s: a kernel is started without firmware; leave one of them out", cfg->kernel, cfg->firmware);
	if (cfg->share && !cfg->restore)
		return usage("--share-memory \"%s\": only together with --restore%s", cfg->share, "");
	return -1;
}

static const struct vm_config defaults = { .memory = 512 * MiB, .cpus = 1, .cpu_model = "fast", .engine = "auto", .append = "" };

static int add(struct option_list *list, enum option_id id, const char *value)
{
	if (list->n == REG_MAX_OPTIONS || strlen(value) > REG_MAX_VALUE)
		return usage("--%s: too many options, or one that is too long%s", rows[id].name, "");
	return option_list_add(list, rows[id].name, value) ? STATUS_USAGE : -1;
}

/* argv's options into list, what is no option into words (at most max, NULL-terminated). */
static int collect(int argc, char **argv, struct option_list *list, const char **words, int max)
{
	struct option longopts[OPT_COUNT + 1] = { 0 };
	int status = -1;
	for (unsigned i = 0; i < OPT_COUNT; i++)
		longopts[i] = (struct option){ rows[i].name, rows[i].arg ? required_argument : no_argument, NULL, 256 + i };
	opterr = 0;
	optind = 0;
	for (int c; status < 0 && (c = getopt_long(argc, argv, ":", longopts, NULL)) != -1;) {
		if (c == '?')
			return usage("unknown option \"%s\"%s", argv[optind - 1], "");
		if (c == ':')
			return usage("option \"%s\" needs an argument%s", argv[optind - 1], "");
		status = c - 256 == OPT_HELP ? set_option(NULL, OPT_HELP, NULL) : add(list, c - 256, optarg ? optarg : "on");
	}
	for (int n = 0; status < 0 && optind < argc; optind++) {
		if (n == max)
			return usage("unexpected argument \"%s\"%s", argv[optind], "");
		words[n++] = argv[optind];
		words[n] = NULL;
	}
	return status;
}

static int find_option(const char *key)
{
	for (int i = 0; i < OPT_COUNT; i++)
		if (!strcmp(rows[i].name, key))
			return i;
	return -1;
}

static int apply_one(struct vm_config *cfg, const struct option_pair *o)
{
	int id = find_option(o->key);
	if (id < 0)
		return usage("\"%s\" is no option of a machine; nestbox run --help lists them%s", o->key, "");
	if (rows[id].arg)
		return set_option(cfg, id, o->value);
	if (!strcmp(o->value, "off"))
		return -1;
	return strcmp(o->value, "on") ? usage("%s=\"%s\": must be on or off", o->key, o->value) : set_option(cfg, id, NULL);
}

static int apply(const struct option_list *list, struct vm_config *cfg)
{
	int status = -1;
	*cfg = defaults;
	for (unsigned i = 0; status < 0 && i < list->n; i++)
		status = apply_one(cfg, &list->at[i]);
	return status;
}

int cli_parse_run(int argc, char **argv, struct vm_config *cfg)
{
	static struct option_list list; /* cfg points into it */
	const char *none[1];
	verb_name = "run";
	int status = collect(argc, argv, &list, none, 0);
	if (status < 0)
		status = apply(&list, cfg);
	return status < 0 ? check_config(cfg) : status;
}

/* ---- VMs that stay ---- */
int cli_parse_create(int argc, char **argv, struct option_list *list, const char **words, int max)
{
	verb_name = argv[0];
	return collect(argc, argv, list, words, max);
}

/* Options that only make sense for a process in the foreground, or that the command itself gives. */
static bool is_kept(int id) { return id != OPT_NAME && id != OPT_HELP; }

int cli_vm_config(const char *name, const struct option_list *list, struct vm_config *cfg)
{
	int status = apply(list, cfg);
	cfg->name = name;
	if (!option_list_get(list, "serial"))
		cfg->serial = VM_SERIAL_CONTROL;
	return status < 0 ? check_config(cfg) : status;
}

/* A named file that must be there: "FILE", "FILE:ro" or "FILE,key=value". */
static int check_file(const char *key, const char *value)
{
	char path[REG_MAX_VALUE + 1];
	size_t len = strlen(value);
	if (!access(value, R_OK))
		return -1;
	if (len > 3 && !strcmp(value + len - 3, ":ro"))
		len -= 3;
	snprintf(path, sizeof path, "%.*s", (int)len, value);
	if (!access(path, R_OK))
		return -1;
	path[strcspn(path, ",")] = 0;
	return access(path, R_OK) ? usage("%s \"%s\" cannot be read: no such file, or no permission", key, path) : -1;
}

static int check_files(const struct option_list *list)
{
	static const char *const keys[] = { "kernel", "disk", "cdrom" };
	int status = -1;
	for (unsigned i = 0; status < 0 && i < list->n; i++)
		for (unsigned k = 0; status < 0 && k < array_len(keys); k++)
			if (!strcmp(list->at[i].key, keys[k]))
				status = check_file(keys[k], list->at[i].value);
	return status;
}

int cli_check_options(const char *verb, const char *name, const struct option_list *list)
{
	struct vm_config cfg;
	verb_name = verb;
	only_checking = true;
	int status = -1;
	for (unsigned i = 0; status < 0 && i < list->n; i++)
		if (!is_kept(find_option(list->at[i].key)))
			status = usage("\"%s\" cannot be kept: it belongs to nestbox run%s", list->at[i].key, "");
	if (status < 0)
		status = cli_vm_config(name, list, &cfg);
	if (status < 0 && cfg.serial == VM_SERIAL_STDIO)
		status = usage("serial \"stdio\": a machine that stays has no terminal; say control (nestbox console attaches to it), null or file:PATH%s%s", "", "");
	if (status < 0)
		status = check_files(list);
	if (status < 0) {
		struct cpu_model *m = cpu_model_make(cfg.cpu_model, cfg.nested, cfg.cpus, VM_TSC_KHZ);
		status = m ? -1 : STATUS_USAGE;
		cpu_model_free(m);
	}
	only_checking = false;
	return status;
}

/* Where in `value` a file name starts that is not absolute, from `at` on; NULL: none. */
static const char *relative_path(const char *value, const char *at, enum option_id id)
{
	static const char *const first[] = { "file:", "unix:" }, *const later[] = { "path=", "file=", "vars=" };
	bool plain = rows[id].arg && (!strncmp(rows[id].arg, "FILE", 4) || !strncmp(rows[id].arg, "PATH", 4) || !strncmp(rows[id].arg, "DIR", 3));
	if (!plain && (!rows[id].arg || (!strstr(rows[id].arg, "PATH") && !strstr(rows[id].arg, "FILE") && !strstr(rows[id].arg, "path="))))
		return NULL;
	for (const char *p = at; *p; p += strcspn(p, ","), p += *p == ',') {
		if (p != value && p[-1] != ',')
			continue;
		const char *path = (p == value || id == OPT_INITRD) && plain ? p : NULL;
		for (unsigned i = 0; p == value && i < array_len(first); i++)
			if (!strncmp(p, first[i], strlen(first[i])))
				path = p + strlen(first[i]);
		for (unsigned i = 0; i < array_len(later); i++)
			if (!strncmp(p, later[i], strlen(later[i])))
				path = p + strlen(later[i]);
		if (path && *path && *path != '/' && *path != ',')
			return path;
	}
	return NULL;
}

char *cli_absolute_value(const char *key, const char *value)
{
	char cwd[PATH_MAX], *made = strdup(value);
	int id = find_option(key);
	const char *p;
	size_t from = 0;
	if (id < 0 || !getcwd(cwd, sizeof cwd))
		return made;
	while (made && from <= strlen(made) && (p = relative_path(made, made + from, id))) {
		size_t before = p - made;
		char *longer = NULL;
		if (asprintf(&longer, "%.*s%s/%s", (int)before, made, cwd, p) < 0)
			return made;
		from = before + strlen(cwd) + 1;
		free(made);
		made = longer;
	}
	return made;
}

bool cli_option_exists(const char *key) { return find_option(key) >= 0 && is_kept(find_option(key)); }

const char *cli_option_row(unsigned i, const char **arg, const char **text)
{
	if (i >= OPT_COUNT)
		return NULL;
	*arg = rows[i].arg;
	*text = rows[i].text;
	return rows[i].name;
}
