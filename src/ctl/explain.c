/* explain: failed VM entries in sentences, and page walks through both levels. The machine stands still while it is looked at. */
#include "ctl/handlers.h"
#include "debug/space.h"
#include "vmx/vmx.h"

#include <stdlib.h>

static json_t *hex(u64 v) { return json_sprintf("0x%llx", (unsigned long long)v); }

static json_t *failure_json(const struct cpu *c, const struct vmx_failure *f)
{
	struct vmx_failure_text t;
	char sentence[1024];
	vmx_failure_pieces(f, &t);
	vmx_explain_failure(f, sentence, sizeof sentence);
	json_t *o = json_pack("{s:i,s:I,s:s,s:s,s:s,s:o,s:o,s:s,s:s,s:s,s:i,s:o,s:o}", "cpu", c->index, "serial", (json_int_t)f->serial, "check", t.id, "kind", t.when,
			      "field", t.field, "value", hex(f->value), "wrong_bits", hex(f->bad), "rule", t.what, "because", t.because, "section", t.section,
			      "number", f->reason, "vmcs", hex(f->vmcs), "rip", hex(f->rip));
	json_object_set_new(o, "writer", f->writer ? hex(f->writer) : json_null());
	json_object_set_new(o, "sentence", json_string(sentence));
	return o;
}

static json_t *failures_of(struct vm *vm)
{
	json_t *list = json_array();
	for (unsigned i = 0; i < vm->ncpus; i++)
		for (unsigned n = 0; n < VMX_FAILURES; n++) {
			const struct vmx_failure *f = vmx_last_failure(vm->vcpus[i].cpu, n);
			if (f)
				json_array_append_new(list, failure_json(vm->vcpus[i].cpu, f));
		}
	return list;
}

/* A text's lines as strings. */
static json_t *lines_of(char *text)
{
	json_t *list = json_array();
	char *rest = text, *line;
	while ((line = strsep(&rest, "\n")))
		if (*line)
			json_array_append_new(list, json_string(line));
	return list;
}

static json_t *walk_json(const struct vm *vm, const struct debug_space *s, u64 la)
{
	char *text = NULL;
	size_t len;
	u64 at = 0;
	FILE *out = open_memstream(&text, &len);
	if (!out)
		return NULL;
	bool ok = debug_translate(&vm->mem, s, la, &at, out);
	fclose(out);
	json_t *o = json_pack("{s:o,s:b,s:o,s:o}", "address", hex(la), "mapped", ok, "physical", ok ? hex(at) : json_null(), "steps", lines_of(text));
	free(text);
	return o;
}

static bool number_of(json_t *args, const char *key, u64 *v)
{
	const char *text = json_string_value(json_object_get(args, key));
	char *end;
	if (!text)
		return false;
	*v = strtoull(text, &end, 0);
	return *text && !*end;
}

static void explain_address(struct vm *vm, struct ctl_call *call, json_t *args)
{
	struct debug_space s;
	u64 la;
	json_t *cpu = json_object_get(args, "cpu"), *level = json_object_get(args, "level");
	unsigned n = cpu ? (unsigned)json_integer_value(cpu) : 0, l = level ? (unsigned)json_integer_value(level) : 1;
	if (!number_of(args, "address", &la)) {
		ctl_fail(call, "bad-address", "address \"%s\": give a number, as in 0xffffffff81000000", json_string_value(json_object_get(args, "address")));
		return;
	}
	vm_pause(vm);
	int err = debug_space_of(vm, n, l, &s);
	json_t *o = err ? NULL : walk_json(vm, &s, la);
	vm_resume(vm);
	if (err)
		ctl_fail(call, "no-level", "level %u on vCPU %u: nothing has run there (nestbox tree shows what there is)", l, n);
	else if (!o)
		ctl_fail(call, "no-memory", "out of memory");
	else
		ctl_reply(call, json_pack("{s:o}", "walk", o));
}

void ctl_do_explain(struct vm *vm, struct ctl_call *call, json_t *args)
{
	if (json_object_get(args, "address")) {
		explain_address(vm, call, args);
		return;
	}
	ctl_reply(call, json_pack("{s:o}", "failures", failures_of(vm)));
}
