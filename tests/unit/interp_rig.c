#include "interp_rig.h"

#include <ctype.h>
#include <stdlib.h>

/* NESTBOX_TEST_ENGINE=jit runs the same tests on translated code, lockstep on both with a comparison after each block. */
static const struct engine_ops *engine;

static void code_written(void *o, u64 frame, unsigned first, unsigned last)
{
	struct core *r = o;
	engine->forget(r->cpu, frame, first, last);
}

const struct engine_ops *interp_create_engine(struct core *r)
{
	const char *name = getenv("NESTBOX_TEST_ENGINE");
	engine = name && !strcmp(name, "jit") ? &jit_engine : name && !strcmp(name, "lockstep") ? &lockstep_engine : &interp_engine;
	jit_hot = 0;
	assert_int_equal(engine->create(r->cpu), 0);
	return engine;
}

void interp_open(struct core *r, enum core_mode mode)
{
	core_open(r, mode);
	interp_create_engine(r);
	assert_int_equal(mem_add_listener(&r->mem, (struct mem_listener){ code_written, r }), 0);
}

void interp_close(struct core *r)
{
	engine->destroy(r->cpu);
	core_close(r);
}

static unsigned nibble(char ch) { return isdigit((unsigned char)ch) ? ch - '0' : tolower((unsigned char)ch) - 'a' + 10; }

unsigned interp_put(struct core *r, u64 at, const char *hex)
{
	unsigned n = 0;
	for (; *hex; hex++) {
		if (isspace((unsigned char)*hex))
			continue;
		core_set(r, at + n++, 1, nibble(hex[0]) << 4 | nibble(hex[1]));
		hex++;
	}
	return n;
}

void interp_go(struct core *r, u64 at)
{
	struct exit_record out = { 0 };
	r->cpu->arch.activity = ACT_ACTIVE;
	r->cpu->arch.rip = at - r->cpu->arch.seg[SEG_CS].base;
	engine->run(r->cpu, &out);
	if (out.kind != EXIT_HALT)
		print_message("death: %s\n", r->cpu->death);
	assert_int_equal(out.kind, EXIT_HALT);
	engine->sync(r->cpu);
}

void interp_do(struct core *r, const char *hex)
{
	unsigned n = interp_put(r, AT_CODE, hex);
	interp_put(r, AT_CODE + n, "f4");
	interp_go(r, AT_CODE);
}

/* Handler n: HLT at AT_HANDLER + 16 * n. */
void interp_catch(struct core *r)
{
	for (unsigned v = 0; v < 32; v++) {
		interp_put(r, AT_HANDLER + 16 * v, "f4");
		core_idt(r, v, r->cpu->lma ? CODE64 : CODE0, AT_HANDLER + 16 * v, 0x8e, 0);
	}
	r->cpu->arch.idtr = (struct dtable){ .base = AT_IDT, .limit = 0xfff };
}

int interp_caught(struct core *r)
{
	u64 at = r->cpu->arch.rip;
	return at > AT_HANDLER && at <= AT_HANDLER + 16 * 31 + 1 ? (int)((at - AT_HANDLER) / 16) : -1;
}
