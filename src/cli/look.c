/* Looking at VMs: list, show, log. */
#include "cli/cli.h"
#include "cli/options.h"
#include "cli/registry.h"
#include "cli/state.h"
#include "cli/table.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

/* What list and show say of one VM. vm: NULL for one in the foreground. */
static json_t *describe(const struct cli_call *call, const char *name, const struct reg_vm *vm)
{
	struct vm_now now;
	struct vm_config cfg;
	json_t *o = json_object();
	vm_now(call->state_dir, name, vm ? vm->id : NULL, &now);
	json_object_set_new(o, "name", json_string(name));
	json_object_set_new(o, "state", json_string(now.state));
	json_object_set_new(o, "foreground", json_boolean(!vm));
	if (*now.reason)
		json_object_set_new(o, "reason", json_string(now.reason));
	if (vm && cli_vm_config(name, &vm->options, &cfg) < 0) { /* as it will start; below: as it runs */
		json_object_set_new(o, "cpus", json_integer(cfg.cpus));
		json_object_set_new(o, "memory", json_integer((json_int_t)cfg.memory));
		json_object_set_new(o, "nested", json_boolean(cfg.nested));
	}
	if (now.pid)
		json_object_set_new(o, "pid", json_integer(now.pid));
	static const char *const from_status[] = { "cpus", "memory", "nested", "engine", "engine_reason", "uptime_s" };
	for (unsigned i = 0; now.status && i < array_len(from_status); i++)
		if (json_object_get(now.status, from_status[i]))
			json_object_set(o, from_status[i], json_object_get(now.status, from_status[i]));
	vm_now_free(&now);
	return o;
}

static bool is_known(const struct reg_vm *vms, unsigned n, const char *name)
{
	for (unsigned i = 0; i < n; i++)
		if (!strcmp(vms[i].name, name))
			return true;
	return false;
}

/* Named machines in the foreground: a run folder with life in it and no row. */
static void add_foreground(const struct cli_call *call, const struct reg_vm *vms, unsigned n, json_t *list)
{
	char path[PATH_MAX];
	struct dirent **names;
	snprintf(path, sizeof path, "%.*s/run", PATH_MAX - 8, call->state_dir);
	int count = scandir(path, &names, NULL, alphasort);
	for (int i = 0; i < count; i++) {
		const char *name = names[i]->d_name;
		if (rundir_name_ok(name) && !is_known(vms, n, name) && rundir_alive(call->state_dir, name, NULL, NULL))
			json_array_append_new(list, describe(call, name, NULL));
		free(names[i]);
	}
	if (count >= 0)
		free(names);
}

json_t *cli_list_vms(const struct cli_call *call)
{
	struct reg_vm *vms = NULL;
	unsigned n = 0;
	json_t *list = NULL;
	struct registry *reg = cli_registry(call, false);
	if (reg && !reg_list(reg, &vms, &n)) {
		list = json_array();
		for (unsigned i = 0; i < n; i++)
			json_array_append_new(list, describe(call, vms[i].name, &vms[i]));
		add_foreground(call, vms, n, list);
	}
	for (unsigned i = 0; i < n; i++)
		reg_vm_free(&vms[i]);
	free(vms);
	reg_close(reg);
	return list;
}

static const char *text(json_t *o, const char *key) { return json_string_value(json_object_get(o, key)); }

static void list_row(struct table *t, json_t *vm)
{
	char cpus[16], memory[32], up[32], pid[16];
	snprintf(cpus, sizeof cpus, "%d", (int)json_integer_value(json_object_get(vm, "cpus")));
	snprintf(pid, sizeof pid, "%d", (int)json_integer_value(json_object_get(vm, "pid")));
	json_t *uptime = json_object_get(vm, "uptime_s");
	const char *row[] = { text(vm, "name"), text(vm, "state"), cpus,
			      format_size((u64)json_integer_value(json_object_get(vm, "memory")), memory, sizeof memory),
			      json_is_true(json_object_get(vm, "nested")) ? "on" : "off", text(vm, "engine"),
			      uptime ? format_duration(json_number_value(uptime), up, sizeof up) : NULL, json_object_get(vm, "pid") ? pid : NULL,
			      !strcmp(text(vm, "state"), "crashed") || !strcmp(text(vm, "state"), "not-answering") ? text(vm, "reason") : NULL };
	table_row(t, row);
}

int cli_list_command(struct cli_call *call)
{
	static const char *const columns[] = { "NAME", "STATE", ">CPUS", ">MEMORY", "NESTED", "ENGINE", ">UP", ">PID", "WHY", NULL };
	json_t *list = cli_list_vms(call), *vm;
	size_t i;
	if (!list)
		return STATUS_USAGE;
	if (call->json)
		return cli_print_json(json_pack("{so}", "vms", list));
	if (!json_array_size(list)) {
		printf("There are no VMs. nestbox help create says how to make one.\n");
	} else {
		struct table *t = table_create(columns);
		json_array_foreach (list, i, vm)
			list_row(t, vm);
		table_print(t);
	}
	json_decref(list);
	return STATUS_OK;
}

/* ---- show ---- */
static void print_show(json_t *o, const struct reg_vm *vm)
{
	char buf[64];
	time_t created = (time_t)vm->created;
	struct tm tm;
	strftime(buf, sizeof buf, "%Y-%m-%d %H:%M:%S", localtime_r(&created, &tm));
	printf("name      %s\nstate     %s%s%s\n", vm->name, text(o, "state"), text(o, "reason") ? ": " : "", text(o, "reason") ? text(o, "reason") : "");
	if (text(o, "engine"))
		printf("engine    %s: %s\n", text(o, "engine"), text(o, "engine_reason") ? text(o, "engine_reason") : "");
	printf("created   %s\nfolder    %s\n", buf, text(o, "folder"));
	printf("memory    %s\n", format_size((u64)json_integer_value(json_object_get(o, "memory")), buf, sizeof buf));
	printf("cpus      %d\n", (int)json_integer_value(json_object_get(o, "cpus")));
	printf("nested    %s\n", json_is_true(json_object_get(o, "nested")) ? "on" : "off");
	printf("options   %s\n", vm->options.n ? "" : "none");
	for (unsigned i = 0; i < vm->options.n; i++)
		printf("  %s=%s\n", vm->options.at[i].key, vm->options.at[i].value);
}

int cli_show_command(struct cli_call *call)
{
	struct reg_vm vm;
	char folder[PATH_MAX];
	int status = cli_get_vm(call, call->argv[0], &vm);
	if (status)
		return status;
	json_t *o = describe(call, vm.name, &vm), *doc = reg_to_json(&vm);
	reg_path(call->state_dir, vm.id, NULL, folder, sizeof folder);
	json_object_del(o, "foreground");
	json_object_set_new(o, "id", json_string(vm.id));
	json_object_set_new(o, "folder", json_string(folder));
	json_object_set_new(o, "created", json_integer(vm.created));
	json_object_set(o, "options", json_object_get(doc, "options"));
	if (call->json)
		cli_print_json(json_incref(o));
	else
		print_show(o, &vm);
	json_decref(o);
	json_decref(doc);
	reg_vm_free(&vm);
	return STATUS_OK;
}

/* ---- log ---- */
int cli_log_command(struct cli_call *call)
{
	struct reg_vm vm;
	char path[PATH_MAX], buf[4096];
	int status = cli_get_vm(call, call->argv[0], &vm);
	if (status)
		return status;
	int fd = reg_path(call->state_dir, vm.id, "log", path, sizeof path) ? -1 : open(path, O_RDONLY | O_CLOEXEC);
	reg_vm_free(&vm);
	if (fd < 0)
		return cli_fail(call, "no-log", "VM \"%s\" has not been started yet", call->argv[0]);
	for (ssize_t n; (n = read(fd, buf, sizeof buf)) > 0;)
		fwrite(buf, 1, n, stdout);
	close(fd);
	return STATUS_OK;
}

/* Names for shell completion: never an error. */
int cli_names_command(struct cli_call *call)
{
	struct reg_vm *vms = NULL;
	unsigned n = 0;
	struct registry *reg = NULL;
	if (!reg_open(call->state_dir, false, &reg) && !reg_list(reg, &vms, &n))
		for (unsigned i = 0; i < n; i++)
			printf("%s\n", vms[i].name);
	json_t *running = json_array();
	add_foreground(call, vms, n, running);
	for (size_t i = 0; i < json_array_size(running); i++)
		printf("%s\n", text(json_array_get(running, i), "name"));
	json_decref(running);
	for (unsigned i = 0; i < n; i++)
		reg_vm_free(&vms[i]);
	free(vms);
	reg_close(reg);
	return STATUS_OK;
}
