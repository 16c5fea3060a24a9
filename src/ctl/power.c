/* Verbs about the machine as a whole: what it is doing, pause, reset, power; and what verbs there are. */
#include "ctl/ctl.h"
#include "ctl/handlers.h"

#include <unistd.h>

static const char *state_name(const struct vm *vm) { return vm->user_paused ? "paused" : "running"; }

void ctl_do_status(struct vm *vm, struct ctl_call *call, json_t *args)
{
	double uptime = (double)(host_now_ns() - vm->start_host_ns) / NSEC_PER_SEC;
	ctl_reply(call, json_pack("{ss si sf ss ss si sI sb}", "state", state_name(vm), "pid", (int)getpid(), "uptime_s", uptime, "engine", vm->engine->name,
				  "engine_reason", vm_engine_reason(vm->cfg.engine), "cpus", (int)vm->ncpus, "memory", (json_int_t)vm->cfg.memory,
				  "nested", (int)vm->cfg.nested));
}

void ctl_do_pause(struct vm *vm, struct ctl_call *call, json_t *args)
{
	vm_user_pause(vm, true);
	ctl_reply(call, json_pack("{ss}", "state", state_name(vm)));
}

void ctl_do_resume(struct vm *vm, struct ctl_call *call, json_t *args)
{
	vm_user_pause(vm, false);
	ctl_reply(call, json_pack("{ss}", "state", state_name(vm)));
}

void ctl_do_reset(struct vm *vm, struct ctl_call *call, json_t *args)
{
	vm_reset(vm);
	ctl_reply(call, NULL);
}

void ctl_do_power_button(struct vm *vm, struct ctl_call *call, json_t *args)
{
	if (vm->user_paused) {
		ctl_fail(call, "paused", "a paused machine does not feel its power button: resume it first");
		return;
	}
	board_power_button(vm);
	ctl_reply(call, NULL);
}

void ctl_do_wait(struct vm *vm, struct ctl_call *call, json_t *args) { ctl_wait_end(call); }

void ctl_do_quit(struct vm *vm, struct ctl_call *call, json_t *args)
{
	ctl_wait_end(call);
	vm_end(vm, VM_QUIT);
}

void ctl_do_verbs(struct vm *vm, struct ctl_call *call, json_t *args)
{
	json_t *list = json_array();
	for (unsigned i = 0; i < ctl_verb_count; i++) {
		const struct ctl_verb *v = &ctl_verbs[i];
		json_array_append_new(list, json_pack("{ss ss ss ss}", "name", v->name, "args", v->args, "results", v->results, "help", v->help));
	}
	ctl_reply(call, json_pack("{so}", "verbs", list));
}
