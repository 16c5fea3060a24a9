/* `nestbox run` options: parser, --help and manual page, all from options.def. */
#include "base/log.h"
#include "cli/cli.h"
#include "cpu/core.h"
#include "proto/rundir.h"

#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <sys/sysinfo.h>

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

static int usage(const char *fmt, const char *a, const char *b)
{
	log_error(fmt, a, b);
	fprintf(stderr, "Try: nestbox run --help\n");
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

static int set_memory(struct vm_config *cfg, const char *arg)
{
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
	cfg->memory = size;
	return -1;
}

static int set_number(const char *option, const char *arg, unsigned min, unsigned max, unsigned *out)
{
	char *end;
	unsigned long n = strtoul(arg, &end, 10);
	if (*end || end == arg || *arg == '-' || n < min || n > max) {
		log_error("--%s \"%s\": must be a number from %u to %u", option, arg, min, max);
		fprintf(stderr, "Try: nestbox run --help\n");
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
	case OPT_TESTDEV: cfg->test_devices = true; break;
	case OPT_NOREBOOT: cfg->no_reboot = true; break;
	case OPT_TIMEOUT: return set_number("timeout", arg, 1, 10000000, &cfg->timeout_s);
	case OPT_STATS: cfg->stats = true; break;
	case OPT_TRACE: return set_trace(arg);
	case OPT_TRACEFILE:
		f = fopen(arg, "w");
		if (!f)
			return usage("--trace-file \"%s\": %s", arg, strerror(errno));
		trace_set_output(f);
		break;
	case OPT_HELP:
		cli_print_verb_help(stdout, cli_verb_find("run"));
		return STATUS_OK;
	case OPT_COUNT: break;
	}
	return -1;
}

int cli_parse_run(int argc, char **argv, struct vm_config *cfg)
{
	struct option longopts[OPT_COUNT + 1] = { 0 };
	for (unsigned i = 0; i < OPT_COUNT; i++)
		longopts[i] = (struct option){ rows[i].name, rows[i].arg ? required_argument : no_argument, NULL, 256 + i };
	*cfg = (struct vm_config){ .memory = 512 * MiB, .cpus = 1, .cpu_model = "fast", .engine = "auto", .append = "" };
	opterr = 0;
	for (int c; (c = getopt_long(argc, argv, ":", longopts, NULL)) != -1;) {
		if (c == '?')
			return usage("unknown option \"%s\"%s", argv[optind - 1], "");
		if (c == ':')
			return usage("option \"%s\" needs an argument%s", argv[optind - 1], "");
		int status = set_option(cfg, c - 256, optarg);
		if (status >= 0)
			return status;
	}
	if (optind < argc)
		return usage("unexpected argument \"%s\"%s", argv[optind], "");
	if (cfg->serial == VM_SERIAL_CONTROL && !cfg->name)
		return usage("--serial control needs --name, by which nestbox console finds the machine%s%s", "", "");
	if (!cfg->kernel)
		return usage("--kernel is missing%s%s", "", "");
	return -1;
}
