/* trace: VM entries and exits of some seconds as Chrome trace events ("Trace Event Format"): a process a level, a thread a vCPU. Level 1's slices are the handling of
 * an exit, named after its reason; deeper ones are the times in which that level runs. */
#include "ctl/handlers.h"
#include "vmx/nest.h"
#include "vmx/vmx.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define EVENTS_TOTAL (1u << 20) /* 16 MiB for all vCPUs together */

static struct tracing { /* loop thread only; one at a time */
	struct vm *vm;
	struct ctl_call *call;
	struct loop_timer *timer;
	int fd;
	u64 began;
	double rate; /* ticks per second, one for all: it is measured anew each time it is asked for, and slices are short */
} now;

static double us(u64 ticks) { return (double)(ticks - now.began) * 1e6 / now.rate; }

static void slice(FILE *f, unsigned level, unsigned cpu, const char *name, u64 from, u64 to, const struct nest_guest *g)
{
	fprintf(f, ",\n{\"ph\":\"X\",\"pid\":%u,\"tid\":%u,\"name\":\"%s\",\"ts\":%.3f,\"dur\":%.3f,\"args\":{\"level\":%u,\"vmcs\":\"0x%llx\",\"eptp\":\"0x%llx\"}}", level, cpu,
		name, us(from), us(to) - us(from), g->level, (unsigned long long)g->vmcs, (unsigned long long)g->eptp);
}

static void write_vcpu(FILE *f, unsigned cpu, const struct nest *n, const struct nest_recording *r)
{
	char name[16];
	for (unsigned i = 1; i < r->n; i++) {
		const struct nest_event *a = &r->event[i - 1], *b = &r->event[i];
		const struct nest_guest *g = &n->guest[a->guest];
		if (a->entry) {
			snprintf(name, sizeof name, "L%u runs", g->level);
			slice(f, g->level, cpu, name, a->ticks, b->ticks, g);
		} else {
			slice(f, 1, cpu, vmx_exit_name(a->reason), a->ticks, b->ticks, g);
		}
	}
}

static void write_names(FILE *f, const struct vm *vm)
{
	fprintf(f, "{\"traceEvents\":[\n{\"ph\":\"M\",\"pid\":1,\"name\":\"process_name\",\"args\":{\"name\":\"L1: handles exits\"}}");
	for (unsigned l = 2; l <= 4; l++)
		fprintf(f, ",\n{\"ph\":\"M\",\"pid\":%u,\"name\":\"process_name\",\"args\":{\"name\":\"L%u\"}}", l, l);
	for (unsigned l = 1; l <= 4; l++)
		for (unsigned i = 0; i < vm->ncpus; i++)
			fprintf(f, ",\n{\"ph\":\"M\",\"pid\":%u,\"tid\":%u,\"name\":\"thread_name\",\"args\":{\"name\":\"vCPU %u\"}}", l, i, i);
}

/* Takes the recordings away and writes them to f, which may be NULL. */
static void collect(FILE *f, u64 *events, u64 *lost)
{
	struct vm *vm = now.vm;
	vm_pause(vm);
	now.rate = vm_ticks_per_s(vm);
	if (f)
		write_names(f, vm);
	for (unsigned i = 0; i < vm->ncpus; i++) {
		struct nest_recording *r = vmx_nest_record(vm->vcpus[i].cpu, NULL);
		if (!r)
			continue;
		*events += r->n;
		*lost += r->lost;
		if (f)
			write_vcpu(f, i, vmx_nest(vm->vcpus[i].cpu), r);
		free(r);
	}
	vm_resume(vm);
	if (f)
		fprintf(f, "\n]}\n");
}

static void done(void *opaque)
{
	u64 events = 0, lost = 0;
	FILE *f = fdopen(now.fd, "w");
	collect(f, &events, &lost);
	bool ok = f && !ferror(f);
	ok &= f && !fclose(f);
	if (!f)
		close(now.fd);
	loop_timer_remove(now.timer);
	struct ctl_call *call = now.call;
	now = (struct tracing){ 0 };
	if (ok)
		ctl_reply(call, json_pack("{s:I,s:I}", "events", (json_int_t)events, "lost", (json_int_t)lost));
	else
		ctl_fail(call, "write-failed", "the trace could not be written: %s", strerror(errno));
}

static bool begin(struct vm *vm)
{
	unsigned room = EVENTS_TOTAL / vm->ncpus;
	bool ok = true;
	vm_pause(vm);
	for (unsigned i = 0; i < vm->ncpus && ok; i++) {
		struct nest_recording *r = malloc(sizeof *r + room * sizeof r->event[0]);
		ok = r != NULL;
		if (ok) {
			*r = (struct nest_recording){ .room = room };
			free(vmx_nest_record(vm->vcpus[i].cpu, r));
		}
	}
	vm_resume(vm);
	return ok;
}

void ctl_do_trace(struct vm *vm, struct ctl_call *call, json_t *args)
{
	double seconds = json_number_value(json_object_get(args, "seconds"));
	struct stat st;
	int fd = ctl_take_fd(call);
	const char *code = NULL, *why = NULL;
	if (fd < 0 || fstat(fd, &st) || !S_ISREG(st.st_mode))
		code = "bad-args", why = "trace: a regular file, open for writing, must come with the request";
	else if (!(seconds > 0 && seconds <= 60))
		code = "bad-args", why = "trace: seconds must be more than 0 and at most 60";
	else if (now.vm)
		code = "busy", why = "trace: another recording is under way; wait until it is done";
	else if (!vm->cfg.nested)
		code = "not-nested", why = "trace: this VM has no VT-x (nested=off), so there are no VM entries to record";
	if (!code) {
		now = (struct tracing){ vm, call, loop_timer_add(vm->loop, done, NULL), fd, __builtin_ia32_rdtsc(), 0 };
		if (now.timer && begin(vm)) {
			loop_timer_set(now.timer, (u64)(seconds * 1000));
			return;
		}
		u64 events = 0, lost = 0;
		collect(NULL, &events, &lost);
		loop_timer_remove(now.timer);
		now = (struct tracing){ 0 };
		code = "no-memory", why = "trace: out of memory";
	}
	if (fd >= 0)
		close(fd);
	ctl_fail(call, code, "%s", why);
}

void ctl_trace_end(void)
{
	if (now.vm) /* the machine has ended: what there is, is written */
		done(NULL);
}
