/* Shell completion from the rows. */
#include "cli/cli.h"
#include "cli/options.h"

static void verb_case(const struct cli_verb *v)
{
	const char *arg, *text, *name;
	printf("\t%s) opts=\"--json --help", v->name);
	for (unsigned i = 0; i < cli_verb_option_count; i++)
		if (cli_verb_options[i].verb == v)
			printf(" --%s", cli_verb_options[i].name);
	for (unsigned i = 0; cli_verb_takes_vm_options(v) && (name = cli_option_row(i, &arg, &text)); i++)
		printf(" --%s", name);
	printf("\" names=%d ;;\n", !strncmp(v->args, "NAME", 4) && !cli_verb_takes_vm_options(v));
}

int cli_completion_command(struct cli_call *call)
{
	const char *arg, *text, *name;
	if (strcmp(call->argv[0], "bash"))
		return cli_fail(call, "bad-usage", "completion \"%s\": only bash is known", call->argv[0]);
	printf("# bash completion for nestbox; source <(nestbox completion bash)\n_nestbox()\n{\n\tlocal cur=${COMP_WORDS[COMP_CWORD]} verb= at=1 opts= names=0\n"
	       "\tlocal state=()\n\tif [ \"${COMP_WORDS[1]}\" = --state ]; then state=(--state \"${COMP_WORDS[2]}\"); at=3; fi\n"
	       "\tCOMPREPLY=()\n\tif [ \"$COMP_CWORD\" -le \"$at\" ]; then\n\t\tCOMPREPLY=($(compgen -W \"--state");
	for (unsigned i = 0; i < cli_verb_count; i++)
		if (*cli_verbs[i].help)
			printf(" %s", cli_verbs[i].name);
	printf("\" -- \"$cur\"))\n\t\treturn\n\tfi\n\tverb=${COMP_WORDS[at]}\n\tcase $verb in\n");
	for (unsigned i = 0; i < cli_verb_count; i++)
		if (*cli_verbs[i].help)
			verb_case(&cli_verbs[i]);
	printf("\tesac\n\tcase $cur in\n\t-*) COMPREPLY=($(compgen -W \"$opts\" -- \"$cur\")) ;;\n"
	       "\t*) if [ \"$verb\" = set ] && [ \"$COMP_CWORD\" -gt $((at + 1)) ]; then\n\t\t\tcompopt -o nospace 2>/dev/null\n\t\t\tCOMPREPLY=($(compgen -S = -W \"");
	for (unsigned i = 0; (name = cli_option_row(i, &arg, &text)); i++)
		if (cli_option_exists(name))
			printf("%s ", name);
	printf("\" -- \"$cur\"))\n\t\telif [ \"$names\" = 1 ] && [ \"$COMP_CWORD\" -eq $((at + 1)) ]; then\n"
	       "\t\t\tCOMPREPLY=($(compgen -W \"$(\"${COMP_WORDS[0]}\" \"${state[@]}\" _names 2>/dev/null)\" -- \"$cur\"))\n"
	       "\t\telse\n\t\t\tCOMPREPLY=($(compgen -f -- \"$cur\"))\n\t\tfi ;;\n\tesac\n}\ncomplete -o filenames -o bashdefault -F _nestbox nestbox\n");
	return STATUS_OK;
}
