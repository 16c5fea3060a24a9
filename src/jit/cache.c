/* Memory for host code, and the links between blocks.
 *
 *   arena: | struct hot | thunks | code ...>      free      <... sites |
 *
 * It lies within 2 GiB of the vCPU, so that code reaches all state RIP-relative. When it is full everything is thrown away: what is still hot comes
 * back after a few more runs in the interpreter. A block that dies leaves its bytes behind until then; jumps to it are aimed at their stubs again,
 * and its far entry, which jump tables may still hold, at one that leaves. */
#include "jit/jit.h"
#include <errno.h>
#include <sys/mman.h>

#define ARENA (40 * MiB)
#define REACH (GiB + GiB / 2)

/* ---- memory ---- */
static void *map_near(const void *p)
{
	u64 at = align_down((uintptr_t)p, 2 * MiB);
	for (u64 step = 64 * MiB; step < REACH; step += 64 * MiB)
		for (unsigned up = 0; up < 2; up++) {
			u64 want = up ? at + step : at - step;
			if (want > at + REACH || (!up && at < step + MiB))
				continue;
			void *m = mmap((void *)(uintptr_t)want, ARENA, PROT_READ | PROT_WRITE | PROT_EXEC,
				       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
			if (m == (void *)(uintptr_t)want)
				return m;
			if (m != MAP_FAILED)
				munmap(m, ARENA);
		}
	return NULL;
}

int jit_cache_create(struct cpu *c)
{
	struct jit *j = jit_of(c);
	j->arena = map_near(c);
	if (!j->arena) {
		log_error("no executable memory for vCPU %u's code (mmap: %s)", c->index, strerror(errno));
		return -ENOMEM;
	}
	j->arena_end = j->arena + ARENA;
	j->hot = (struct hot *)j->arena;
	j->first = (u8 *)align_up((uintptr_t)(j->hot + 1), 64);
	jit_make_thunks(c);
	j->next = j->first;
	j->sites = j->arena_end;
	return 0;
}

void jit_cache_destroy(struct cpu *c)
{
	struct jit *j = jit_of(c);
	if (j->arena)
		munmap(j->arena, ARENA);
}

/* Not from within host code. */
void jit_cache_flush(struct cpu *c)
{
	struct jit *j = jit_of(c);
	for (struct code *k = j->all; k; k = k->next) {
		struct block *b = k->block;
		if (!b)
			continue;
		b->code = NULL;
		b->heat = 0;
		b->insn[0].fn = jit_h_count;
	}
	j->all = NULL;
	j->next = j->first;
	j->sites = j->arena_end;
	j->link = NULL;
	mmu_banks_drop_jumps(c);
	j->stats.flushes++;
}

/* ---- links ---- */
void jit_link(struct site *s, struct block *to)
{
	struct code *k = to->code;
	if (!s->link.at || s->link.to || !k || s->block->key == BLOCK_DEAD_KEY)
		return;
	as_aim(s->link.at, k->near);
	s->link.to = to;
	s->link.next = k->in;
	k->in = s;
}

static void unlink_out(struct site *s)
{
	struct code *k = s->link.to ? s->link.to->code : NULL;
	if (!k)
		return;
	struct site **p = &k->in;
	while (*p && *p != s)
		p = &(*p)->link.next;
	if (*p)
		*p = s->link.next;
	s->link.to = NULL;
}

static void killed(struct cpu *c, struct block *b)
{
	struct jit *j = jit_of(c);
	struct code *k = b->code;
	if (!k)
		return;
	for (unsigned n = 0; n < k->nlinks; n++)
		unlink_out(k->link[n]);
	while (k->in) {
		struct site *s = k->in;
		k->in = s->link.next;
		as_aim(s->link.at, s->link.stub);
		s->link.to = NULL;
	}
	struct as a = { k->far, k->near };
	as_jmp(&a, j->gone);
	k->block = NULL;
	b->code = NULL;
	j->stats.killed++;
}

static void built(struct cpu *c, struct block *b)
{
	u32 mode = b->key & 0xff;
	if (!(mode & MODE_L) || (mode & MODE_ONE) || b->frame[1] != NO_FRAME)
		return;
	b->first = b->insn[0].fn;
	b->insn[0].fn = jit_h_count;
}

static void reset(struct cpu *c)
{
	jit_of(c)->all = NULL;
	jit_cache_flush(c);
}

const struct interp_hooks jit_hooks = { .built = built, .killed = killed, .reset = reset };
