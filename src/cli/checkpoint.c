/* `nestbox checkpoint`, `nestbox save`: asks the VM's process, or looks at the folder of a VM that is off. */
#include "base/log.h"
#include "cli/cli.h"
#include "cli/state.h"
#include "cli/table.h"
#include "migrate/store.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define GONE_LIMIT_MS 20000
#define WRITE_LIMIT_MS 3600000 /* a checkpoint of a big machine on a slow disk */

struct subject {
	struct reg_vm vm;
	char folder[PATH_MAX];
	struct store_entry *list;
	unsigned n;
	char parent[STORE_KEY]; /* what the machine stands on */
};

static void forget(struct subject *s)
{
	free(s->list);
	reg_vm_free(&s->vm);
}

static int look(const struct cli_call *call, const char *name, struct subject *s)
{
	*s = (struct subject){ 0 };
	int status = cli_get_vm(call, name, &s->vm);
	if (status)
		return status;
	int err = reg_path(call->state_dir, s->vm.id, NULL, s->folder, sizeof s->folder);
	if (!err)
		err = store_list(s->folder, &s->list, &s->n);
	if (err)
		return cli_fail(call, "host", "the checkpoints of VM \"%s\": %s", name, strerror(-err));
	json_t *current = store_current(s->folder);
	snprintf(s->parent, sizeof s->parent, "%s", json_string_value(json_object_get(current, "parent")));
	json_decref(current);
	return 0;
}

static const struct store_entry *entry(const struct subject *s, const char *key)
{
	for (unsigned i = 0; i < s->n; i++)
		if (!strcmp(s->list[i].key, key))
			return &s->list[i];
	return NULL;
}

/* The nearest checkpoint that is shown, from the one the machine stands on. */
static const char *here(const struct subject *s)
{
	const struct store_entry *e = entry(s, s->parent);
	return e && e->gone ? e->parent : s->parent;
}

static json_t *describe(const struct subject *s, const struct store_entry *e)
{
	const struct store_entry *p = entry(s, e->parent);
	return json_pack("{ss ss ss* sI sI sI sf sb}", "name", e->name, "key", e->key, "parent", p ? p->name : NULL, "created", (json_int_t)e->created, "bytes",
			 (json_int_t)e->bytes, "pages", (json_int_t)e->pages, "guest_s", e->virtual_ns / 1e9, "current", !strcmp(here(s), e->key));
}

static const char *when(i64 t, char *buf, size_t size)
{
	time_t v = t;
	struct tm tm;
	strftime(buf, size, "%Y-%m-%d %H:%M:%S", localtime_r(&v, &tm));
	return buf;
}

static int list(struct cli_call *call, struct subject *s)
{
	if (call->json) {
		json_t *all = json_array();
		for (unsigned i = 0; i < s->n; i++)
			if (!s->list[i].gone)
				json_array_append_new(all, describe(s, &s->list[i]));
		return cli_print_json(json_pack("{so}", "checkpoints", all));
	}
	struct table *t = table_create((const char *const[]){ "NAME", "CREATED", ">SIZE", "AFTER", NULL });
	unsigned shown = 0;
	for (unsigned i = 0; i < s->n; i++) {
		const struct store_entry *e = &s->list[i], *p = entry(s, e->parent);
		char time_[64], size[32];
		if (e->gone)
			continue;
		table_row(t, (const char *const[]){ e->name, when(e->created, time_, sizeof time_), format_size(e->bytes, size, sizeof size), p ? p->name : NULL });
		shown++;
	}
	table_print(t);
	if (!shown)
		printf("%s has no checkpoints\n", s->vm.name);
	return STATUS_OK;
}

static void draw(const struct subject *s, const char *parent, unsigned depth)
{
	for (unsigned i = 0; i < s->n; i++) {
		const struct store_entry *e = &s->list[i];
		if (e->gone || strcmp(e->parent, parent))
			continue;
		printf("%*s%s%s\n", depth * 2, "", e->name, !strcmp(here(s), e->key) ? "  <- the VM stands on this" : "");
		if (depth < 64)
			draw(s, e->key, depth + 1);
	}
}

static int tree(struct cli_call *call, struct subject *s)
{
	if (call->json)
		return list(call, s);
	draw(s, "", 0);
	return STATUS_OK;
}

static int no_such(const struct cli_call *call, const struct subject *s, const char *name)
{
	return cli_fail(call, "no-such-checkpoint", "VM \"%s\" has no checkpoint \"%s\"; nestbox checkpoint %s list shows those that there are", s->vm.name, name,
			s->vm.name);
}

static int show(struct cli_call *call, struct subject *s)
{
	const struct store_entry *e = store_find(s->list, s->n, call->argv[2]);
	if (!e)
		return no_such(call, s, call->argv[2]);
	if (call->json)
		return cli_print_json(describe(s, e));
	const struct store_entry *p = entry(s, e->parent);
	char buf[64];
	printf("name      %s\ncreated   %s\n", e->name, when(e->created, buf, sizeof buf));
	printf("after     %s\nsize      %s\n", p ? p->name : "-", format_size(e->bytes, buf, sizeof buf));
	printf("memory    %s in this file\n", format_size(e->pages * PAGE_SIZE, buf, sizeof buf));
	printf("guest     %s after its power-on\n", format_duration(e->virtual_ns / 1e9, buf, sizeof buf));
	return STATUS_OK;
}

/* ---- verbs of the running machine ---- */

static json_t *ask(const struct cli_call *call, const char *vm, const char *verb, json_t *args)
{
	struct proto_client c;
	struct proto_error e;
	if (cli_connect(call, vm, &c)) {
		json_decref(args);
		return NULL;
	}
	json_t *result = proto_call(&c, verb, args, NULL, 0, WRITE_LIMIT_MS, NULL, NULL, &e);
	proto_client_close(&c);
	if (!result)
		cli_fail(call, e.code, "VM \"%s\": %s", vm, e.message);
	return result;
}

static int create(struct cli_call *call)
{
	char size[32];
	json_t *r = ask(call, call->argv[0], "checkpoint-create", json_pack("{ss}", "name", call->argv[2]));
	if (!r)
		return STATUS_USAGE;
	if (call->json)
		return cli_print_json(r);
	printf("checkpoint %s of %s: %s, the VM stood still for %.0f ms\n", call->argv[2], call->argv[0],
	       format_size(json_integer_value(json_object_get(r, "bytes")), size, sizeof size), json_number_value(json_object_get(r, "pause_ms")));
	json_decref(r);
	return STATUS_OK;
}

/* Of a VM that is off: the next start goes on from there. Its disks get new overlays then, whose names `current` holds already. */
static int apply_off(struct cli_call *call, struct subject *s, const struct store_entry *e)
{
	char file[64], key[STORE_KEY];
	size_t i;
	json_t *layers;
	snprintf(file, sizeof file, "checkpoints/%s.disks", e->key);
	json_t *then = store_get(s->folder, file), *disks = json_deep_copy(json_object_get(then, "disks"));
	json_decref(then);
	if (!disks)
		return cli_fail(call, "damaged", "checkpoint \"%s\": \"%s\" is missing or damaged", e->name, file);
	store_new_key(key);
	json_array_foreach(disks, i, layers) {
		snprintf(file, sizeof file, "disk%zu-%s.overlay", i, key);
		json_array_append_new(layers, json_string(file));
	}
	store_remove(s->folder, REG_STARTED); /* this state is of another run: it wants the options that the VM has now */
	int err = store_put(s->folder, "checkpoints/current", json_pack("{ss so}", "parent", e->key, "disks", disks));
	if (!err)
		err = store_put(s->folder, REG_SAVED_STATE, json_pack("{ss sn}", "snapshot", e->key, "share"));
	if (err)
		return cli_fail(call, "host", "checkpoint \"%s\": %s", e->name, strerror(-err));
	if (call->json)
		return cli_print_json(json_pack("{ss}", "name", e->name));
	printf("%s starts from checkpoint %s\n", s->vm.name, e->name);
	return STATUS_OK;
}

static int delete_off(struct cli_call *call, struct subject *s, const struct store_entry *e)
{
	int err = store_mark_gone(s->folder, e->key);
	if (err)
		return cli_fail(call, "host", "checkpoint \"%s\": %s", e->name, strerror(-err));
	store_tidy(s->folder);
	store_merge_all(s->folder);
	if (call->json)
		return cli_print_json(json_pack("{ss}", "name", e->name));
	printf("deleted checkpoint %s of %s\n", e->name, s->vm.name);
	return STATUS_OK;
}

static int change(struct cli_call *call, struct subject *s, const char *verb, const char *did, int (*off)(struct cli_call *, struct subject *, const struct store_entry *))
{
	const char *vm = call->argv[0], *name = call->argv[2];
	struct rundir r;
	const struct store_entry *e = store_find(s->list, s->n, name);
	if (!e)
		return no_such(call, s, name);
	int err = rundir_claim(&r, call->state_dir, vm);
	if (!err) {
		int status = off(call, s, e);
		rundir_close(&r);
		return status;
	}
	if (err != -EBUSY)
		return cli_fail(call, "host", "%s/run/%s: %s", call->state_dir, vm, strerror(-err));
	json_t *result = ask(call, vm, verb, json_pack("{ss}", "name", name));
	if (!result)
		return STATUS_USAGE;
	if (call->json)
		return cli_print_json(result);
	printf(did, name, vm);
	json_decref(result);
	return STATUS_OK;
}

int cli_checkpoint_command(struct cli_call *call)
{
	static const struct { const char *what; int args; } rows[] = { { "create", 3 }, { "list", 2 }, { "show", 3 }, { "apply", 3 }, { "delete", 3 }, { "tree", 2 } };
	const char *what = call->argv[1];
	unsigned i = 0;
	while (i < array_len(rows) && strcmp(rows[i].what, what))
		i++;
	if (i == array_len(rows))
		return cli_fail(call, "bad-usage", "\"%s\": must be create, list, show, apply, delete or tree", what);
	if (call->argc != rows[i].args)
		return cli_fail(call, "bad-usage", rows[i].args == 3 ? "checkpoint NAME %s: the checkpoint's name is missing" : "checkpoint NAME %s takes nothing more", what);
	struct subject s;
	int status = look(call, call->argv[0], &s);
	if (!status)
		status = i == 0 ? create(call) : i == 1 ? list(call, &s) : i == 2 ? show(call, &s) : i == 5 ? tree(call, &s) :
			 i == 3 ? change(call, &s, "checkpoint-apply", "applied checkpoint %s to %s\n", apply_off) :
				  change(call, &s, "checkpoint-delete", "deleted checkpoint %s of %s\n", delete_off);
	forget(&s);
	return status;
}

int cli_save_command(struct cli_call *call)
{
	const char *name = call->argv[0];
	struct reg_vm vm;
	char size[32];
	int status = cli_get_vm(call, name, &vm);
	reg_vm_free(&vm);
	json_t *r = status ? NULL : ask(call, name, "save", NULL);
	if (!r)
		return STATUS_USAGE;
	if (!rundir_wait_gone(call->state_dir, name, GONE_LIMIT_MS)) {
		json_decref(r);
		return cli_fail(call, "no-answer", "VM \"%s\" is saved, but its process has not ended: nestbox stop --force %s", name, name);
	}
	if (call->json)
		return cli_print_json(r);
	printf("%s is saved (%s); start goes on where it was\n", name, format_size(json_integer_value(json_object_get(r, "bytes")), size, sizeof size));
	json_decref(r);
	return STATUS_OK;
}
