/* Asking a running machine through its control socket. */
#include "base/log.h"
#include "cli/cli.h"
#include "cli/state.h"
#include "ctl/ctl.h"
#include "proto/rundir.h"

#include <errno.h>
#include <unistd.h>

/* A VM process that has just been started makes its socket within this time. */
#define CONNECT_LIMIT_MS 5000

int cli_connect(const struct cli_call *call, const char *name, struct proto_client *c)
{
	if (!rundir_name_ok(name))
		return cli_fail(call, "bad-name", "\"%s\" is no VM's name", name);
	u64 until = host_now_ns() + CONNECT_LIMIT_MS * 1000000ull;
	int err = -ENOENT;
	while (rundir_alive(call->state_dir, name, NULL, NULL)) {
		int dir = rundir_open(call->state_dir, name);
		err = dir < 0 ? dir : proto_client_open(c, dir, "ctl");
		if (dir >= 0)
			close(dir);
		if (!err)
			return 0;
		if (host_now_ns() > until)
			return cli_fail(call, "no-answer", "VM \"%s\" is running, but its control socket cannot be reached: %s", name, strerror(-err));
		usleep(5000);
	}
	struct reg_vm vm;
	int status = cli_get_vm(call, name, &vm);
	reg_vm_free(&vm);
	return status ? status : cli_fail(call, "not-running", "VM \"%s\" is not running", name);
}

json_t *cli_ask(const struct cli_call *call, const char *name, const char *verb, json_t *args)
{
	struct proto_client c;
	struct proto_error e;
	if (cli_connect(call, name, &c)) {
		json_decref(args);
		return NULL;
	}
	json_t *result = proto_call(&c, verb, args, NULL, 0, 60000, NULL, NULL, &e);
	proto_client_close(&c);
	if (!result)
		cli_fail(call, e.code, "VM \"%s\": %s", name, e.message);
	return result;
}

/* The verb's row says that this argument is a text, which then need not be quoted as JSON is. */
static bool is_text(const char *verb, const char *key)
{
	const struct ctl_verb *v = ctl_verb_find(verb);
	char want[160];
	const char *at;
	snprintf(want, sizeof want, "%s:string", key);
	return v && (at = strstr(v->args, want)) && (at == v->args || at[-1] == ',');
}

/* KEY=VALUE words as an object; NULL after an error line. */
static json_t *args_of(const struct cli_call *call, const char *verb, char **words)
{
	json_t *args = json_object();
	for (; *words; words++) {
		char *eq = strchr(*words, '=');
		if (!eq || eq == *words) {
			cli_fail(call, "bad-usage", "\"%s\" is not KEY=VALUE", *words);
			json_decref(args);
			return NULL;
		}
		char key[128];
		snprintf(key, sizeof key, "%.*s", (int)(eq - *words), *words);
		json_t *v = is_text(verb, key) ? NULL : json_loads(eq + 1, JSON_DECODE_ANY, NULL);
		json_object_set_new(args, key, v ? v : json_string(eq + 1));
	}
	return args;
}

int cli_ctl_command(struct cli_call *call)
{
	json_t *args = args_of(call, call->argv[1], call->argv + 2);
	json_t *result = args ? cli_ask(call, call->argv[0], call->argv[1], args) : NULL;
	return result ? cli_print_json(result) : STATUS_USAGE;
}
