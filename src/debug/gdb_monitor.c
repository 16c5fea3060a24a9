/* "monitor ...": what gdb has no words for. */
#include "debug/gdb_priv.h"
#include "vmx/vmx.h"

#include <stdlib.h>

#define ULL(x) ((unsigned long long)(x))

static void help(struct gdb *g, const char *args, struct gdb_text *t);

static void level(struct gdb *g, const char *args, struct gdb_text *t)
{
	struct debug_space s;
	char *end;
	unsigned long l = strtoul(args, &end, 10);
	if (!*args) {
		gdb_put(t, "level %u\n", g->level);
	} else if (*end || l < 1 || l > 15) {
		gdb_put(t, "level \"%s\": give a number from 1\n", args);
	} else if (debug_space_of(g->vm, g->cpu, (unsigned)l, &s)) {
		gdb_put(t, "nothing has run at level %lu on vCPU %u\n", l, g->cpu);
	} else {
		g->level = (unsigned)l;
		gdb_put(t, "level %lu, CR3 0x%llx%s; %s\n", l, ULL(s.cr3), s.eptp ? ", through EPT" : "",
			gdb_in_view(g, g->vm->vcpus[g->cpu].cpu) ? "it is what the vCPU runs now"
								 : "another level runs now: rip, rsp, eflags and cr3 are from the VMCS, the other registers are not known");
		gdb_put(t, "(gdb keeps registers: use \"maintenance flush register-cache\" after this)\n");
	}
}

static void vmcs(struct gdb *g, const char *args, struct gdb_text *t)
{
	const struct cpu *c = g->vm->vcpus[g->cpu].cpu;
	if (!vmx_print_vmcs(c, args, t->s + t->n, sizeof t->s - t->n))
		gdb_put(t, "vCPU %u has no current VMCS\n", g->cpu);
	else
		t->n += strlen(t->s + t->n);
}

static void guests(struct gdb *g, const char *args, struct gdb_text *t)
{
	const struct nest *n = vmx_nest(g->vm->vcpus[g->cpu].cpu);
	for (unsigned i = 0; n && i < n->n; i++)
		gdb_put(t, "%c L%u  VMCS 0x%llx  EPT pointer 0x%llx  VPID %u  %llu entries\n", i == n->cur ? '*' : ' ', n->guest[i].level, ULL(n->guest[i].vmcs),
			ULL(n->guest[i].eptp), n->guest[i].vpid, ULL(n->guest[i].entries));
	if (!n || !n->n)
		gdb_put(t, "no guest has run on vCPU %u\n", g->cpu);
}

static void walk(struct gdb *g, const char *args, struct gdb_text *t)
{
	struct debug_space s;
	char *end;
	u64 la = strtoull(args, &end, 0), at;
	if (!*args || *end || debug_space_of(g->vm, g->cpu, g->level, &s)) {
		gdb_put(t, "walk \"%s\": give a linear address\n", args);
		return;
	}
	FILE *out = fmemopen(t->s + t->n, sizeof t->s - t->n, "w");
	if (!out)
		return;
	debug_translate(&g->vm->mem, &s, la, &at, out);
	fclose(out);
	t->n += strnlen(t->s + t->n, sizeof t->s - t->n);
}

static const struct { const char *name, *help; void (*fn)(struct gdb *g, const char *args, struct gdb_text *t); } commands[] = {
	{ "help", "lists these", help },
	{ "level", "[N]: shows registers and memory of level N: 1 the machine's own software, 2 its guest, 3 that one's guest", level },
	{ "guests", "lists the guests of this vCPU", guests },
	{ "vmcs", "[TEXT]: prints the current VMCS, or the fields whose name contains TEXT", vmcs },
	{ "walk", "ADDRESS: tells how the level that is shown translates it, step by step", walk },
};

static void help(struct gdb *g, const char *args, struct gdb_text *t)
{
	for (unsigned i = 0; i < array_len(commands); i++)
		gdb_put(t, "monitor %s %s\n", commands[i].name, commands[i].help);
}

void gdb_monitor(struct gdb *g, const char *command, struct gdb_text *answer)
{
	for (unsigned i = 0; i < array_len(commands); i++) {
		size_t n = strlen(commands[i].name);
		if (!strncmp(command, commands[i].name, n) && (!command[n] || command[n] == ' ')) {
			command += n;
			commands[i].fn(g, command + strspn(command, " "), answer);
			return;
		}
	}
	gdb_put(answer, "unknown command \"%s\"; monitor help lists them\n", command);
}
