/* Verbs and options about the guest's memory. */
#include "ctl/ctl.h"
#include "ctl/handlers.h"
#include "vm/memory_policy.h"

#include <errno.h>
#include <stdlib.h>

#define L(option, fn) void fn(struct vm *vm, struct ctl_call *call, const char *value);
#include "ctl/live.def"
#undef L

void ctl_do_memory(struct vm *vm, struct ctl_call *call, json_t *args)
{
	struct memory_info i;
	memory_policy_info(vm->memory, &i);
	ctl_reply(call, json_pack("{sI sI sI sI sI sI sI sb sb}", "min", (json_int_t)i.min, "wanted", (json_int_t)i.wanted, "max", (json_int_t)i.max, "now",
				  (json_int_t)i.now, "plugged", (json_int_t)i.plugged, "available", (json_int_t)i.available, "resident", (json_int_t)i.resident, "driver", (int)i.driver,
				  "mem_driver", (int)i.mem_driver));
}

/* The registry has checked the text: SIZE with M or G, or MIN:START:MAX, which is for the next start. */
void ctl_live_memory(struct vm *vm, struct ctl_call *call, const char *value)
{
	char *end;
	struct memory_info i;
	u64 n = strtoull(value, &end, 10), bytes = *end == 'G' || *end == 'g' ? n * GiB : n * MiB;
	memory_policy_info(vm->memory, &i);
	if (!*value || strchr(value, ':'))
		ctl_fail(call, "next-start", "a range of memory is for the next start");
	else if (memory_policy_set(vm->memory, bytes))
		ctl_fail(call, "next-start", "this run has from 32 to %llu MiB, so that much is for the next start", (unsigned long long)(i.max / MiB));
	else if (bytes > i.boot && !i.mem_driver)
		ctl_fail(call, "next-start", "the guest has no virtio-mem driver (virtio_mem), so it has %llu MiB until it loads one, or until the next start",
			 (unsigned long long)(i.boot / MiB));
	else if (!i.driver && (bytes < i.boot || i.now - i.plugged < i.boot))
		ctl_fail(call, "next-start", "the guest has no balloon driver (virtio_balloon), so its memory changes when it loads one, or at the next start");
	else
		ctl_reply(call, NULL);
}
