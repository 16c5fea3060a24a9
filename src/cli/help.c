/* help, man, version: everything from the rows. */
#include "base/log.h"
#include "cli/cli.h"

/* Up to the end of the first sentence, or to its colon; not to a dot within a word. */
static int first_sentence(const char *text)
{
	size_t n = 0;
	while (text[n] && !((text[n] == '.' || text[n] == ':') && (text[n + 1] == ' ' || !text[n + 1])))
		n++;
	return (int)n;
}

static const char global_text[] = "--state DIR before the command: where VMs are kept (default $XDG_DATA_HOME/nestbox).";

void cli_print_verb_help(FILE *out, const struct cli_verb *v)
{
	fprintf(out, "usage: nestbox %s%s%s\n\n%s\n\n", v->name, *v->args ? " " : "", v->args, v->help);
	if (cli_verb_takes_vm_options(v))
		cli_print_run_options(out);
	for (unsigned i = 0; i < cli_verb_option_count; i++) {
		const struct cli_verb_option *o = &cli_verb_options[i];
		char left[64];
		if (o->verb != v)
			continue;
		snprintf(left, sizeof left, "--%s%s%s", o->name, o->arg ? " " : "", o->arg ? o->arg : "");
		fprintf(out, "  %-32s %s\n", left, o->text);
	}
	if (v->fn != cli_run_command)
		fprintf(out, "  %-32s %s\n  %-32s %s\n", "--json", "Print one JSON document instead of text.", "--help", "Print this help.");
	bool any = false;
	for (unsigned i = 0; i < cli_verb_key_count; i++) {
		const struct cli_verb_key *k = &cli_verb_keys[i];
		if (k->verb != v)
			continue;
		if (!any)
			fprintf(out, "\nKeys of --json:\n");
		any = true;
		fprintf(out, "  %-24s %-7s %s\n", k->key, k->type, k->text);
	}
	if (v->fn == cli_run_command)
		fprintf(out, "\n%s", cli_run_status_text);
}

int cli_help_command(struct cli_call *call)
{
	if (call->argc) {
		const struct cli_verb *v = cli_verb_find(call->argv[0]);
		if (!v)
			return cli_fail(call, "unknown-command", "unknown command \"%s\"; nestbox help lists them", call->argv[0]);
		cli_print_verb_help(stdout, v);
		return STATUS_OK;
	}
	printf("usage: nestbox [--state DIR] COMMAND [ARGUMENTS]\n\nVirtual machines that can host virtual machines, on any x86-64 Linux host, with no hardware virtualization "
	       "and no root.\n\n");
	for (unsigned i = 0; i < cli_verb_count; i++) {
		const struct cli_verb *v = &cli_verbs[i];
		if (!*v->help)
			continue;
		int first = first_sentence(v->help);
		printf("  %-12s %-36s %.*s\n", v->name, v->args, first, v->help);
	}
	printf("\n%s\nnestbox help COMMAND describes one, nestbox man prints the manual page.\n", global_text);
	return STATUS_OK;
}

/* man(7): a hyphen that is one must be \-, a backslash is \e, and a dot or quote may not start a line. */
static void roff(const char *s)
{
	if (*s == '.' || *s == '\'')
		fputs("\\&", stdout);
	for (; *s; s++) {
		if (*s == '\\')
			fputs("\\e", stdout);
		else if (*s == '-')
			fputs("\\-", stdout);
		else
			putchar(*s);
	}
}

static void man_verb(const struct cli_verb *v)
{
	printf(".SS ");
	roff(v->name);
	putchar(' ');
	roff(v->args);
	putchar('\n');
	roff(v->help);
	putchar('\n');
	for (unsigned i = 0; i < cli_verb_option_count; i++) {
		const struct cli_verb_option *o = &cli_verb_options[i];
		if (o->verb != v)
			continue;
		printf(".TP\n.B \\-\\-");
		roff(o->name);
		if (o->arg)
			printf(" \\fI%s\\fP", o->arg);
		putchar('\n');
		roff(o->text);
		putchar('\n');
	}
	bool any = false;
	for (unsigned i = 0; i < cli_verb_key_count; i++) {
		const struct cli_verb_key *k = &cli_verb_keys[i];
		if (k->verb != v)
			continue;
		if (!any)
			printf(".P\nKeys of \\-\\-json:\n");
		any = true;
		printf(".TP\n.B ");
		roff(k->key);
		printf(" \\fR(%s)\n", k->type);
		roff(k->text);
		putchar('\n');
	}
}

static void man_head(const char *title, const char *name, const char *what)
{
	printf(".TH %s 1 \"\" \"nestbox " NESTBOX_VERSION "\" \"User Commands\"\n.SH NAME\n", title);
	roff(name);
	printf(" \\- ");
	roff(what);
	putchar('\n');
}

static void man_one(const struct cli_verb *v)
{
	char name[64], title[64];
	snprintf(name, sizeof name, "nestbox-%s", v->name);
	snprintf(title, sizeof title, "NESTBOX\\-%s", v->name);
	int first = first_sentence(v->help);
	char what[512];
	snprintf(what, sizeof what, "%.*s", first, v->help);
	man_head(title, name, what);
	printf(".SH SYNOPSIS\n.B nestbox ");
	roff(v->name);
	putchar(' ');
	roff(v->args);
	printf("\n.SH DESCRIPTION\n");
	man_verb(v);
	if (cli_verb_takes_vm_options(v)) {
		printf(".SH OPTIONS\n");
		cli_print_run_man(stdout);
		printf(".SH EXIT STATUS\n");
		roff(cli_run_status_text + sizeof "Exit status:");
	}
	printf(".SH SEE ALSO\nnestbox(1)\n");
}

int cli_man_command(struct cli_call *call)
{
	if (call->argc) {
		const struct cli_verb *v = cli_verb_find(call->argv[0]);
		if (!v)
			return cli_fail(call, "unknown-command", "unknown command \"%s\"; nestbox help lists them", call->argv[0]);
		man_one(v);
		return STATUS_OK;
	}
	man_head("NESTBOX", "nestbox", "virtual machines that can host virtual machines, on any x86-64 Linux host");
	printf(".SH SYNOPSIS\n.B nestbox\n[\\-\\-state \\fIDIR\\fP] \\fICOMMAND\\fP [\\fIARGUMENTS\\fP]\n.SH DESCRIPTION\n"
	       "Runs virtual machines. The CPU, its VT\\-x included, is software: neither hardware virtualization nor root is needed. There is no daemon: each\n"
	       "running machine is one process with a control socket.\n.P\n");
	roff(global_text);
	printf("\n.SH COMMANDS\n");
	for (unsigned i = 0; i < cli_verb_count; i++)
		if (*cli_verbs[i].help)
			man_verb(&cli_verbs[i]);
	printf(".SH OPTIONS OF RUN AND CREATE\n");
	cli_print_run_man(stdout);
	printf(".SH EXIT STATUS\n");
	roff(cli_run_status_text + sizeof "Exit status:");
	printf(".P\nOther commands: 0 done, 2 bad usage, something that is not as the command needs it, or a failure of the host: one line says what, and nothing was changed.\n");
	return STATUS_OK;
}

int cli_version_command(struct cli_call *call)
{
	if (call->json)
		return cli_print_json(json_pack("{ss}", "version", NESTBOX_VERSION));
	puts("nestbox " NESTBOX_VERSION);
	return STATUS_OK;
}
