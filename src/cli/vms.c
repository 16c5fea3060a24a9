/* VMs that stay: create, set, delete, export, import. Not here: running them (life.c), looking at them (look.c). */
#include "base/log.h"
#include "cli/cli.h"
#include "cli/clone.h"
#include "cli/options.h"
#include "cli/registry.h"
#include "cli/state.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static int bad_name(const struct cli_call *call, const char *name)
{
	return cli_fail(call, "bad-name", "\"%s\" cannot be a VM's name: letters, digits, dots, dashes and underscores, at most 64, the first a letter or digit", name);
}

int cli_insert_vm(const struct cli_call *call, struct registry *reg, struct reg_vm *vm)
{
	if (!rundir_name_ok(vm->name))
		return bad_name(call, vm->name);
	struct reg_vm there;
	bool known = !reg_get(reg, vm->name, &there);
	reg_vm_free(&there);
	if (!known && rundir_alive(call->state_dir, vm->name, NULL, NULL))
		return cli_fail(call, "name-taken", "\"%s\" is running in the foreground: choose another name", vm->name);
	vm->created = time(NULL);
	int err = reg_begin(reg);
	if (err)
		return STATUS_USAGE;
	err = reg_insert(reg, vm);
	if (!err)
		err = reg_commit(reg);
	if (err)
		reg_rollback(reg);
	if (err == -EEXIST)
		return cli_fail(call, "name-taken", "there is a VM \"%s\" already: choose another name, or nestbox delete %s", vm->name, vm->name);
	return err ? STATUS_USAGE : 0;
}

/* Checked options into the registry, with the VM's folder. */
static int add_vm(struct cli_call *call, struct reg_vm *vm)
{
	struct registry *reg = cli_registry(call, true);
	if (!reg)
		return STATUS_USAGE;
	reg_tidy(reg);
	reg_new_id(vm->id);
	int making = reg_make_folder(call->state_dir, vm->id);
	int status = making < 0 ? STATUS_USAGE : cli_insert_vm(call, reg, vm);
	if (status && making >= 0)
		reg_remove_folder(call->state_dir, vm->id);
	if (making >= 0)
		close(making);
	reg_close(reg);
	if (status)
		return status;
	rundir_remove(call->state_dir, vm->name); /* what a foreground VM of this name left says nothing about this one */
	if (call->json)
		return cli_print_json(json_pack("{ss ss}", "name", vm->name, "id", vm->id));
	printf("created %s\n", vm->name);
	return STATUS_OK;
}

static int make_absolute(struct option_list *l)
{
	for (unsigned i = 0; i < l->n; i++) {
		char *v = cli_absolute_value(l->at[i].key, l->at[i].value);
		if (!v)
			return STATUS_USAGE;
		free(l->at[i].value);
		l->at[i].value = v;
	}
	return -1;
}

/* --json belongs to the command, not to the machine. */
static int take_json(struct cli_call *call)
{
	int n = 0;
	for (int i = 0; i < call->argc; i++)
		if (!strcmp(call->argv[i], "--json"))
			call->json = true;
		else
			call->argv[n++] = call->argv[i];
	call->argv[n] = NULL;
	return n;
}

int cli_create_command(struct cli_call *call)
{
	const char *words[2] = { NULL };
	struct reg_vm vm = { 0 };
	int argc = take_json(call);
	int status = cli_parse_create(argc, call->argv, &vm.options, words, 1);
	if (status < 0 && !words[0])
		status = cli_fail(call, "bad-usage", "create: the new VM's name is missing: nestbox create NAME [OPTIONS]");
	if (status < 0 && !rundir_name_ok(words[0]))
		status = bad_name(call, words[0]);
	if (status < 0)
		status = make_absolute(&vm.options);
	if (status < 0)
		status = cli_check_options("create", words[0], &vm.options);
	if (status < 0) {
		snprintf(vm.name, sizeof vm.name, "%s", words[0]);
		status = add_vm(call, &vm);
	}
	reg_vm_free(&vm);
	return status;
}

/* ---- set ---- */
enum change { CHANGE_SET, CHANGE_ADD, CHANGE_TAKE };

/* "key=value", "key+=value", "key-=value". False: none of these. */
static bool split(char *word, char **value, enum change *how)
{
	char *eq = strchr(word, '=');
	if (!eq || eq == word)
		return false;
	*how = eq[-1] == '+' ? CHANGE_ADD : eq[-1] == '-' ? CHANGE_TAKE : CHANGE_SET;
	*value = eq + 1;
	*(*how == CHANGE_SET ? eq : eq - 1) = 0;
	return *word;
}

static int change(const struct cli_call *call, struct option_list *l, const char *key, const char *given, enum change how)
{
	unsigned removed = 0;
	char *value = cli_absolute_value(key, given);
	if (!value)
		return STATUS_USAGE;
	for (unsigned i = l->n; how != CHANGE_ADD && i-- > 0;)
		if (!strcmp(l->at[i].key, key) && (how == CHANGE_SET || !strcmp(l->at[i].value, value) || !strcmp(l->at[i].value, given))) {
			option_list_remove(l, i);
			removed++;
		}
	int status = 0;
	if (how == CHANGE_TAKE && !removed)
		status = cli_fail(call, "no-such-value", "%s: there is no %s=%s to take away", call->argv[0], key, given);
	if (how != CHANGE_TAKE && *given && option_list_add(l, key, value))
		status = STATUS_USAGE;
	free(value);
	return status;
}

/* All KEY=VALUE words applied to l; keys[] gets the names. */
static int change_all(struct cli_call *call, struct option_list *l, json_t *keys)
{
	for (int i = 1; i < call->argc; i++) {
		char *value, *word = call->argv[i];
		enum change how;
		if (!split(word, &value, &how))
			return cli_fail(call, "bad-usage", "\"%s\" is not KEY=VALUE", word);
		bool takes_away = how == CHANGE_SET && !*value && option_list_get(l, word); /* one that an older nestbox knew can always go */
		if (!cli_option_exists(word) && !takes_away)
			return cli_fail(call, "unknown-key", "\"%s\" is no option of a VM; nestbox help create lists them", word);
		int status = change(call, l, word, value, how);
		if (status)
			return status;
		json_array_append_new(keys, json_pack("[ss]", word, value));
	}
	return 0;
}

/* Tells a running VM; sorts the keys into those that took effect and those that wait. */
static void make_live(struct cli_call *call, const char *name, json_t *keys, json_t *live, json_t *later)
{
	struct proto_client c;
	struct proto_error e;
	json_t *pair;
	size_t i;
	int dir = rundir_alive(call->state_dir, name, NULL, NULL) ? rundir_open(call->state_dir, name) : -1;
	bool connected = dir >= 0 && !proto_client_open(&c, dir, "ctl");
	json_array_foreach (keys, i, pair) {
		json_t *key = json_array_get(pair, 0);
		if (!connected)
			continue;
		json_t *done = proto_call(&c, "set", json_pack("{sO sO}", "key", key, "value", json_array_get(pair, 1)), NULL, 0, 60000, NULL, NULL, &e);
		if (!done && strcmp(e.code, "next-start"))
			log_warn("%s: %s", json_string_value(key), e.message);
		json_array_append(done ? live : later, key);
		json_decref(done);
	}
	if (connected)
		proto_client_close(&c);
	if (dir >= 0)
		close(dir);
}

static int report_set(const struct cli_call *call, const struct reg_vm *vm, json_t *live, json_t *later)
{
	json_t *doc = reg_to_json(vm), *key;
	size_t i;
	if (call->json) {
		cli_print_json(json_pack("{sO so so}", "options", json_object_get(doc, "options"), "live", live, "next_start", later));
	} else {
		json_array_foreach (later, i, key)
			printf("%s: takes effect when %s is started next\n", json_string_value(key), vm->name);
		json_decref(live);
		json_decref(later);
	}
	json_decref(doc);
	return STATUS_OK;
}

/* Reads, changes, checks and writes in one transaction. */
static int set_in_registry(struct cli_call *call, struct registry *reg, struct reg_vm *vm, json_t *keys)
{
	if (reg_begin(reg))
		return STATUS_USAGE;
	int err = reg_get(reg, call->argv[0], vm), status = STATUS_USAGE;
	if (err == -ENOENT)
		cli_fail(call, "no-such-vm", "there is no VM \"%s\"; nestbox list shows those that there are", call->argv[0]);
	else if (!err && cli_vm_has(call, vm, REG_SAVED_STATE))
		cli_fail(call, "saved-state", "VM \"%s\" has saved state that only fits the options it was saved with: start it and shut it down first", vm->name);
	else if (!err)
		status = change_all(call, &vm->options, keys);
	if (!err && !status && (status = cli_check_options("set", vm->name, &vm->options)) < 0)
		status = reg_set_options(reg, vm) || reg_commit(reg) ? STATUS_USAGE : 0;
	if (status)
		reg_rollback(reg);
	return status;
}

int cli_set_command(struct cli_call *call)
{
	struct reg_vm vm = { 0 };
	if (!rundir_name_ok(call->argv[0]))
		return cli_fail(call, "bad-name", "\"%s\" is no VM's name", call->argv[0]);
	if (call->argc < 2)
		return cli_fail(call, "bad-usage", "set: KEY=VALUE is missing");
	struct reg_vm there;
	int status = cli_get_vm(call, call->argv[0], &there);
	reg_vm_free(&there);
	if (status)
		return status;
	struct registry *reg = cli_registry(call, true);
	if (!reg)
		return STATUS_USAGE;
	json_t *keys = json_array(), *live = json_array(), *later = json_array();
	status = set_in_registry(call, reg, &vm, keys);
	reg_close(reg);
	if (!status) {
		make_live(call, vm.name, keys, live, later);
		status = report_set(call, &vm, json_incref(live), json_incref(later));
	}
	json_decref(keys);
	json_decref(live);
	json_decref(later);
	reg_vm_free(&vm);
	return status;
}

/* ---- delete ---- */
/* Another VM that uses a file of this one's folder (made by clone or import): its name into user. */
static bool used_by_another(const struct cli_call *call, struct registry *reg, const struct reg_vm *vm, char *user, size_t size)
{
	struct reg_vm *all = NULL;
	unsigned n = 0;
	char folder[PATH_MAX];
	*user = 0;
	if (reg_path(call->state_dir, vm->id, "", folder, sizeof folder) || reg_list(reg, &all, &n))
		return false;
	for (unsigned i = 0; i < n; i++) {
		for (unsigned k = 0; k < all[i].options.n && strcmp(all[i].id, vm->id); k++)
			if (strstr(all[i].options.at[k].value, folder))
				snprintf(user, size, "%s", all[i].name);
		reg_vm_free(&all[i]);
	}
	free(all);
	return *user;
}

static int delete_locked(struct cli_call *call, struct registry *reg)
{
	struct reg_vm vm;
	int status = cli_get_vm(call, call->argv[0], &vm); /* again: it may have gone while we waited */
	if (status)
		return status;
	char user[RUNDIR_MAX_NAME + 1];
	bool keeps = cli_vm_has(call, &vm, REG_SAVED_STATE) || cli_vm_has(call, &vm, REG_CHECKPOINTS);
	if (keeps && !cli_option(call, "force"))
		status = cli_fail(call, "has-state", "VM \"%s\" has saved state or checkpoints, which would be lost: delete --force deletes them too", vm.name);
	else if (used_by_another(call, reg, &vm, user, sizeof user))
		status = cli_fail(call, "in-use", "VM \"%s\" has files in its folder that VM \"%s\" uses: delete that first, or give it other files", vm.name, user);
	else if (reg_begin(reg))
		status = STATUS_USAGE;
	else if (reg_delete(reg, vm.id) || reg_commit(reg)) {
		reg_rollback(reg);
		status = STATUS_USAGE;
	} else {
		reg_remove_folder(call->state_dir, vm.id); /* killed before or in this: reg_tidy does it later */
	}
	reg_vm_free(&vm);
	return status;
}

int cli_delete_command(struct cli_call *call)
{
	struct reg_vm vm;
	struct rundir r;
	int status = cli_get_vm(call, call->argv[0], &vm);
	reg_vm_free(&vm);
	if (status)
		return status;
	int err = rundir_claim(&r, call->state_dir, call->argv[0]); /* nobody starts it meanwhile */
	if (err == -EBUSY)
		return cli_fail(call, "running", "VM \"%s\" is running: stop it first", call->argv[0]);
	if (err)
		return cli_fail(call, "host", "%s/run/%s: %s", call->state_dir, call->argv[0], strerror(-err));
	struct registry *reg = cli_registry(call, true);
	status = reg ? delete_locked(call, reg) : STATUS_USAGE;
	if (reg) {
		reg_tidy(reg);
		reg_close(reg);
	}
	rundir_close(&r);
	if (status)
		return status;
	rundir_remove(call->state_dir, call->argv[0]);
	if (call->json)
		return cli_print_json(json_object());
	printf("deleted %s\n", call->argv[0]);
	return STATUS_OK;
}

/* ---- export, import ---- */
int cli_export_command(struct cli_call *call)
{
	struct reg_vm vm;
	int status = cli_get_vm(call, call->argv[0], &vm);
	if (!status)
		cli_print_json(reg_to_json(&vm));
	reg_vm_free(&vm);
	return status;
}

int cli_import_command(struct cli_call *call)
{
	const char *file = call->argv[0], *name = cli_option(call, "name");
	char why[256];
	json_error_t e;
	struct reg_vm vm = { 0 };
	json_t *doc = !strcmp(file, "-") ? json_loadf(stdin, JSON_REJECT_DUPLICATES, &e) : json_load_file(file, JSON_REJECT_DUPLICATES, &e);
	if (!doc)
		return cli_fail(call, "bad-document", "\"%s\": line %d: %s", file, e.line, e.text);
	int status = reg_from_json(doc, &vm, why, sizeof why) ? cli_fail(call, "bad-document", "\"%s\": not a VM's definition: %s", file, why) : -1;
	json_decref(doc);
	if (status < 0 && name && !rundir_name_ok(name))
		status = bad_name(call, name);
	if (status < 0 && name)
		snprintf(vm.name, sizeof vm.name, "%s", name);
	if (status < 0)
		status = cli_check_options("import", vm.name, &vm.options);
	if (status < 0)
		status = add_vm(call, &vm);
	reg_vm_free(&vm);
	return status;
}
