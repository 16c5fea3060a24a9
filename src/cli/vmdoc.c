/* Option lists, and a VM's definition as a document for export and import. A document is a stranger's: sizes and names are checked here, what the options
 * mean by cli_check_options. */
#include "cli/registry.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define DOC_VERSION 1

int option_list_add(struct option_list *l, const char *key, const char *value)
{
	struct option_pair *at = realloc(l->at, (l->n + 1) * sizeof *at);
	if (!at)
		return -ENOMEM;
	l->at = at;
	at[l->n] = (struct option_pair){ strdup(key), strdup(value) };
	if (!at[l->n].key || !at[l->n].value) {
		free(at[l->n].key);
		free(at[l->n].value);
		return -ENOMEM;
	}
	l->n++;
	return 0;
}

void option_list_remove(struct option_list *l, unsigned i)
{
	free(l->at[i].key);
	free(l->at[i].value);
	memmove(l->at + i, l->at + i + 1, (--l->n - i) * sizeof *l->at);
}

const char *option_list_get(const struct option_list *l, const char *key)
{
	for (unsigned i = l->n; i-- > 0;)
		if (!strcmp(l->at[i].key, key))
			return l->at[i].value;
	return NULL;
}

int option_list_copy(struct option_list *to, const struct option_list *from)
{
	int err = 0;
	*to = (struct option_list){ 0 };
	for (unsigned i = 0; !err && i < from->n; i++)
		err = option_list_add(to, from->at[i].key, from->at[i].value);
	return err;
}

void option_list_free(struct option_list *l)
{
	while (l->n)
		option_list_remove(l, l->n - 1);
	free(l->at);
	*l = (struct option_list){ 0 };
}

void reg_vm_free(struct reg_vm *vm)
{
	option_list_free(&vm->options);
	*vm = (struct reg_vm){ 0 };
}

json_t *reg_to_json(const struct reg_vm *vm)
{
	json_t *options = json_array();
	for (unsigned i = 0; i < vm->options.n; i++) {
		/* a path of bytes that are no UTF-8 cannot stand in JSON */
		json_t *pair = json_pack("[ss]", vm->options.at[i].key, vm->options.at[i].value);
		json_array_append_new(options, pair ? pair : json_pack("[ss]", vm->options.at[i].key, "?"));
	}
	return json_pack("{si ss so}", "nestbox", DOC_VERSION, "name", vm->name, "options", options);
}

static int bad(char *why, size_t size, const char *text)
{
	snprintf(why, size, "%s", text);
	return -EINVAL;
}

int reg_from_json(const json_t *doc, struct reg_vm *vm, char *why, size_t size)
{
	const char *name = NULL;
	json_t *options = NULL, *pair;
	int version = 0;
	size_t i;
	*vm = (struct reg_vm){ 0 };
	if (json_unpack((json_t *)doc, "{si ss so !}", "nestbox", &version, "name", &name, "options", &options))
		return bad(why, size, "it must be an object with the keys nestbox, name and options");
	if (version != DOC_VERSION)
		return bad(why, size, "\"nestbox\" must be 1, the version of the format that this nestbox knows");
	if (!rundir_name_ok(name))
		return bad(why, size, "\"name\" is no VM's name: letters, digits, dots, dashes and underscores, at most 64, the first a letter or digit");
	snprintf(vm->name, sizeof vm->name, "%s", name);
	if (!json_is_array(options) || json_array_size(options) > REG_MAX_OPTIONS)
		return bad(why, size, "\"options\" must be an array of at most 256 [KEY, VALUE] pairs");
	json_array_foreach (options, i, pair) {
		const char *k = json_string_value(json_array_get(pair, 0)), *v = json_string_value(json_array_get(pair, 1));
		if (!k || !v || json_array_size(pair) != 2 || strlen(v) > REG_MAX_VALUE || !*k || strlen(k) > 64 || option_list_add(&vm->options, k, v)) {
			reg_vm_free(vm);
			return bad(why, size, "each of \"options\" must be a [KEY, VALUE] pair of texts");
		}
	}
	return 0;
}
