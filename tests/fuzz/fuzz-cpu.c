/* Random programs on both engines from random legal states of every mode, with and without VMX, under interrupts, NMIs and INITs. Beyond what the
 * sanitizers see: every run ends, what must hold at an instruction boundary holds (machine_check), and a second vCPU made from the saved state in the
 * middle goes on exactly as the first, also when that one translates and the second interprets. */
#include "fuzz_input.h"
#include "machine.h"

static void build(struct machine *m, struct rng *r, const struct world *w)
{
	struct cpu *c = m->cpu;
	world_state(m, r, w, &c->arch);
	world_memory(m, r, w, &c->arch);
	program_fill(m, r, AT_CODE, CODE_PAGES * PAGE_SIZE, world_bits(w));
	for (unsigned i = 0; i < VMX_PAGES; i++)
		put(m, AT_VMX + i * PAGE_SIZE, 4, 0x4e420001);
	machine_adopt(m);
	world_msrs(m, r, w);
	machine_check(m);
}

static struct machine *machine(struct machine **m, bool nested, bool jit)
{
	if (!*m)
		*m = machine_create(nested, jit ? &jit_engine : &interp_engine);
	return *m;
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	static struct machine *machines[2][2], *twins[2];
	struct rng r;
	rng_init(&r, data, size);
	bool nested = chance(&r, 50), jit = chance(&r, 50), quiet = chance(&r, jit ? 80 : 60);
	struct machine *a = machine(&machines[nested][jit], nested, jit), *b = machine(&twins[nested], nested, false);
	jit_hot = below(&r, 4);
	struct world w = { .mode = jit && chance(&r, 85) ? WORLD_LONG : below(&r, WORLDS) }; /* other code is not translated */
	machine_reset(a, rng_u64(&r), quiet ? 0 : 200 + below(&r, 4000));
	build(a, &r, &w);
	for (unsigned slices = 1 + below(&r, 4); slices; slices--) {
		bool alive = machine_run(a, 50 + below(&r, 1500));
		machine_check(a);
		if (!alive)
			return 0;
	}
	if (chance(&r, 50))
		return 0;
	machine_clone(b, a);
	u64 from = clock_now(&a->clock);
	bool lives = machine_run(a, 1 + below(&r, 600));
	machine_check(a);
	if (jit && !quiet) /* host code looks less often, so signals find it in other places */
		return 0;
	/* The twin may have to stop elsewhere; then nothing is said, for a REP that is interrupted counts once more. Shutting down takes no time. */
	bool twin_lives = machine_run(b, (clock_now(&a->clock) - from) / CLOCK_NS_PER_INSN + (lives ? 0 : 50));
	if (lives && clock_now(&a->clock) != clock_now(&b->clock))
		return 0;
	bug_if(lives != twin_lives);
	machines_same(a, b);
	return 0;
}
