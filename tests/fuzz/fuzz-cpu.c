/* Random programs on the interpreter from random legal states of every mode, with and without VMX, under interrupts, NMIs and INITs. Beyond what the
 * sanitizers see: every run ends, what must hold at an instruction boundary holds (machine_check), and a second vCPU made from the saved state in the
 * middle goes on exactly as the first. */
#include "fuzz_input.h"
#include "machine.h"

static void build(struct machine *m, struct rng *r, enum world w)
{
	static const u8 bits_of[WORLDS] = { 16, 16, 16, 32, 16, 32, 64 };
	struct cpu *c = m->cpu;
	world_state(m, r, w, &c->arch);
	world_memory(m, r, w);
	program_fill(m, r, AT_CODE, CODE_PAGES * PAGE_SIZE, bits_of[w]);
	for (unsigned i = 0; i < VMX_PAGES; i++)
		put(m, AT_VMX + i * PAGE_SIZE, 4, 0x4e420001);
	machine_adopt(m);
	world_msrs(m, r);
	machine_check(m);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	static struct machine *first[2], *second[2];
	struct rng r;
	rng_init(&r, data, size);
	enum world w = below(&r, WORLDS);
	bool nested = chance(&r, 50);
	if (!first[nested]) {
		first[nested] = machine_create(nested);
		second[nested] = machine_create(nested);
	}
	struct machine *a = first[nested], *b = second[nested];
	machine_reset(a, rng_u64(&r), chance(&r, 40) ? 200 + below(&r, 4000) : 0);
	build(a, &r, w);
	for (unsigned slices = 1 + below(&r, 4); slices; slices--) {
		bool alive = machine_run(a, 50 + below(&r, 1500));
		machine_check(a);
		if (!alive)
			return 0;
	}
	if (chance(&r, 50))
		return 0;
	machine_clone(b, a);
	u64 more = 1 + below(&r, 600);
	bool lives = machine_run(a, more), twin_lives = machine_run(b, more);
	machine_check(a);
	bug_if(lives != twin_lives);
	machines_same(a, b);
	return 0;
}
