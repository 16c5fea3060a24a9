/* A machine whose guest runs a guest is stopped again and again; everything that the state rows hold is saved and loaded into a machine made
 * anew, which goes on in its place. Both machines' saves must be equal to the byte, and the guests must reach their end none the wiser.
 * Arguments: KERNEL INITRD MEMORY_MIB CPUS APPEND */
#include "base/log.h"
#include "vm/vm.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* The first boot of the new machine left a kernel in its memory: that goes, then come the pages that the old one touched. */
static void copy_memory(struct vm *from, struct vm *to)
{
	if (ftruncate(to->mem.memfd, 0) || ftruncate(to->mem.memfd, to->mem.bytes))
		abort();
	off_t at = 0, end;
	while ((at = lseek(from->mem.memfd, at, SEEK_DATA)) >= 0) {
		end = lseek(from->mem.memfd, at, SEEK_HOLE);
		memcpy(to->mem.base + at, from->mem.base + at, end - at);
		at = end;
	}
}

static bool same(const struct state_buf *a, const struct state_buf *b, unsigned round)
{
	size_t at = 0;
	while (at < a->len && at < b->len && a->data[at] == b->data[at])
		at++;
	if (at == a->len && at == b->len)
		return true;
	fprintf(stderr, "round %u: saves of %zu and %zu bytes differ at %zu\n", round, a->len, b->len, at);
	return false;
}

/* The machine that goes on, or NULL. */
static struct vm *replace(struct vm *old, const struct vm_config *cfg, unsigned round)
{
	struct state_buf a = { 0 }, b = { 0 };
	struct vm *new = calloc(1, sizeof *new);
	vm_pause(old);
	vm_save_state(old, &a);
	bool ok = new && !vm_create(new, cfg);
	if (ok) {
		copy_memory(old, new);
		ok = !vm_load_state(new, &a, VM_TIME_LOADED);
		vm_save_state(new, &b);
		ok = ok && same(&a, &b, round);
	}
	vm_stop(old);
	board_console_finish(old, -1);
	vm_destroy(old);
	free(old);
	state_buf_free(&a);
	state_buf_free(&b);
	return ok && !vm_start(new) ? new : NULL;
}

int main(int argc, char **argv)
{
	if (argc != 6)
		return 2;
	struct vm_config cfg = { .kernel = argv[1], .initrd = argv[2], .memory = strtoull(argv[3], NULL, 10) * MiB, .cpus = atoi(argv[4]),
				 .append = argv[5], .nested = true, .cpu_model = "fast", .engine = "auto", .serial = VM_SERIAL_STDIO };
	struct vm *vm = calloc(1, sizeof *vm);
	if (!vm || vm_create(vm, &cfg) || vm_start(vm))
		return 2;
	unsigned rounds = 0;
	for (bool on = true; on && vm;) {
		struct pollfd fd = { .fd = vm->event_fd, .events = POLLIN };
		u64 until = clock_now(&vm->clock) + 250 * 1000000ull; /* the guest's time: a busy host gets as few machines as an idle one */
		while (on && clock_now(&vm->clock) < until) {
			board_console_drain(vm);
			if (poll(&fd, 1, 20) > 0)
				on = vm_handle_events(vm);
		}
		if (on)
			vm = replace(vm, &cfg, ++rounds);
	}
	if (!vm)
		return 1;
	vm_stop(vm);
	board_console_finish(vm, -1);
	printf("%u machines, one after the other; end %d\n", rounds + 1, vm->end);
	int status = vm->end != VM_POWERED_OFF || rounds < 3;
	vm_destroy(vm);
	free(vm);
	return status;
}
