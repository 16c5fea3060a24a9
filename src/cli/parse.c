/* Command lines by the rows of verbs.def. Not here: the options of run and create (options.c). */
#include "cli/parse.h"
#include "base/log.h"
#include "cli/cli.h"

#include <stdarg.h>
#include <stdlib.h>

enum verb_id {
#define C(id, name, args, fn, help) VERB_##id,
#define CO(id, name, arg, text)
#define CK(id, key, type, text)
#include "cli/verbs.def"
#undef C
#undef CO
#undef CK
};

const struct cli_verb cli_verbs[] = {
#define C(id, name, args, fn, help) { name, args, fn, help },
#define CO(id, name, arg, text)
#define CK(id, key, type, text)
#include "cli/verbs.def"
#undef C
#undef CO
#undef CK
};
const unsigned cli_verb_count = array_len(cli_verbs);

const struct cli_verb_option cli_verb_options[] = {
#define C(id, name, args, fn, help)
#define CO(id, name, arg, text) { &cli_verbs[VERB_##id], name, arg, text },
#define CK(id, key, type, text)
#include "cli/verbs.def"
#undef C
#undef CO
#undef CK
	{ NULL },
};
const unsigned cli_verb_option_count = array_len(cli_verb_options) - 1;

const struct cli_verb_key cli_verb_keys[] = {
#define C(id, name, args, fn, help)
#define CO(id, name, arg, text)
#define CK(id, key, type, text) { &cli_verbs[VERB_##id], key, type, text },
#include "cli/verbs.def"
#undef C
#undef CO
#undef CK
	{ NULL },
};
const unsigned cli_verb_key_count = array_len(cli_verb_keys) - 1;

/* run and create read their arguments themselves. */
bool cli_verb_takes_vm_options(const struct cli_verb *v) { return v->fn == cli_run_command || v->fn == cli_create_command; }

const struct cli_verb *cli_verb_find(const char *name)
{
	for (unsigned i = 0; i < cli_verb_count; i++)
		if (!strcmp(cli_verbs[i].name, name))
			return &cli_verbs[i];
	return NULL;
}

/* Index of an option among its verb's, -1: it has no such. */
static int option_index(const struct cli_verb *v, const char *name, size_t len, const struct cli_verb_option **row)
{
	int n = 0;
	for (unsigned i = 0; i < cli_verb_option_count; i++) {
		const struct cli_verb_option *o = &cli_verb_options[i];
		if (o->verb != v)
			continue;
		bug_if(n >= CLI_MAX_OPTIONS);
		if (strlen(o->name) == len && !memcmp(o->name, name, len)) {
			*row = o;
			return n;
		}
		n++;
	}
	return -1;
}

const char *cli_option(const struct cli_call *call, const char *name)
{
	const struct cli_verb_option *row;
	int i = option_index(call->verb, name, strlen(name), &row);
	bug_if(i < 0);
	return call->options[i];
}

long cli_number(const struct cli_call *call, const char *name, long min, long max, long otherwise)
{
	const char *arg = cli_option(call, name);
	char *end;
	if (!arg)
		return otherwise;
	long n = strtol(arg, &end, 10);
	if (end != arg && !*end && n >= min && n <= max)
		return n;
	cli_fail(call, "bad-usage", "--%s \"%s\": must be a number from %ld to %ld", name, arg, min, max);
	return -1;
}

int cli_fail(const struct cli_call *call, const char *code, const char *fmt, ...)
{
	char text[2048];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	log_error("%s", text);
	if (call->json) {
		json_t *message = json_string(text);
		cli_print_json(json_pack("{s{ss so}}", "error", "code", code, "message", message ? message : json_string("?")));
	}
	return STATUS_USAGE;
}

int cli_print_json(json_t *result)
{
	json_dumpf(result, stdout, JSON_INDENT(2) | JSON_ENSURE_ASCII);
	putchar('\n');
	json_decref(result);
	return STATUS_OK;
}

static int bad_usage(const struct cli_call *call, const char *fmt, const char *arg)
{
	cli_fail(call, "bad-usage", fmt, arg);
	fprintf(stderr, "Try: nestbox help %s\n", call->verb->name);
	return STATUS_USAGE;
}

/* One "--option" at argv[*i]. -1 to go on, else a status. */
static int take_option(struct cli_call *call, int argc, char **argv, int *i)
{
	const char *name = argv[*i] + 2;
	size_t len = strcspn(name, "=");
	const struct cli_verb_option *row = NULL;
	if (!strcmp(name, "json")) {
		call->json = true;
		return -1;
	}
	if (!strcmp(name, "help")) {
		cli_print_verb_help(stdout, call->verb);
		return STATUS_OK;
	}
	int n = option_index(call->verb, name, len, &row);
	if (n < 0)
		return bad_usage(call, "unknown option \"%s\"", argv[*i]);
	if (!row->arg && name[len])
		return bad_usage(call, "option \"%s\" takes no argument", argv[*i]);
	if (row->arg && !name[len] && *i + 1 >= argc)
		return bad_usage(call, "option \"%s\" needs an argument", argv[*i]);
	call->options[n] = !row->arg ? "" : name[len] ? name + len + 1 : argv[++*i];
	return -1;
}

/* How many arguments "NAME [KEY=VALUE...]" takes. */
static void count_args(const char *spec, int *min, int *max)
{
	*min = *max = 0;
	for (const char *p = spec; *p; p += strcspn(p, " "), p += strspn(p, " ")) {
		size_t len = strcspn(p, " ");
		if (len == 2 && !memcmp(p, "--", 2))
			continue;
		*min += *p != '[';
		*max += 1;
		if (len > 3 && memmem(p, len, "...", 3))
			*max = 1 << 20;
	}
}

static int parse(struct cli_call *call, int argc, char **argv)
{
	int min, max;
	bool options = true;
	for (int i = 1; i < argc; i++) {
		if (options && !strcmp(argv[i], "--")) {
			options = false;
		} else if (options && !strncmp(argv[i], "--", 2)) {
			int status = take_option(call, argc, argv, &i);
			if (status >= 0)
				return status;
		} else {
			call->argv[call->argc++] = argv[i];
		}
	}
	call->argv[call->argc] = NULL;
	count_args(call->verb->args, &min, &max);
	if (call->argc < min)
		return bad_usage(call, "%s: an argument is missing", call->verb->name);
	if (call->argc > max)
		return bad_usage(call, "unexpected argument \"%s\"", call->argv[max]);
	return -1;
}

int cli_dispatch(const char *state_dir, int argc, char **argv)
{
	static const struct { const char *given, *meant; } aliases[] = { { "--help", "help" }, { "-h", "help" }, { "--version", "version" }, { "", "help" } };
	const char *name = argc > 0 ? argv[0] : "";
	for (unsigned i = 0; i < array_len(aliases); i++)
		if (!strcmp(name, aliases[i].given))
			name = aliases[i].meant;
	struct cli_call call = { .verb = cli_verb_find(name), .state_dir = state_dir };
	if (!call.verb) {
		log_error("unknown command \"%s\"; nestbox help lists them", name);
		return STATUS_USAGE;
	}
	if (cli_verb_takes_vm_options(call.verb)) {
		call.argc = argc;
		call.argv = argv;
		return call.verb->fn(&call);
	}
	call.argv = calloc(argc + 2, sizeof *call.argv);
	if (!call.argv)
		return STATUS_USAGE;
	int status = parse(&call, argc, argv);
	if (status < 0)
		status = call.verb->fn(&call);
	free(call.argv);
	return argc > 0 && *argv[0] ? status : STATUS_USAGE; /* no command at all is bad usage, after the help */
}
