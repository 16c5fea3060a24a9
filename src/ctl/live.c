/* The verb "set": options that can be changed while the machine runs. */
#include "ctl/ctl.h"
#include "ctl/handlers.h"

#define L(option, fn) void fn(struct vm *vm, struct ctl_call *call, const char *value);
#include "ctl/live.def"
#undef L

static const struct { const char *option; void (*fn)(struct vm *, struct ctl_call *, const char *); } rows[] = {
#define L(option, fn) { option, fn },
#include "ctl/live.def"
#undef L
};

void ctl_do_set(struct vm *vm, struct ctl_call *call, json_t *args)
{
	const char *key = json_string_value(json_object_get(args, "key"));
	for (unsigned i = 0; i < array_len(rows); i++)
		if (!strcmp(rows[i].option, key)) {
			rows[i].fn(vm, call, json_string_value(json_object_get(args, "value")));
			return;
		}
	ctl_fail(call, "next-start", "%s takes effect at the next start", key);
}

/* The limit counts from the machine's start, so it is the next run's. */
void ctl_live_timeout(struct vm *vm, struct ctl_call *call, const char *value)
{
	ctl_fail(call, "next-start", "the time limit counts from the start, so the new one is for the next");
}
