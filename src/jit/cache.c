/* Memory for host code, and the links between blocks.
 *
 *   arena: | struct hot | thunks | code ...>      free      <... sites |
 *
 * It lies within 2 GiB of the vCPU, so that code reaches all state RIP-relative. When it is full everything is thrown away: what is still hot comes
 * back after a few more runs in the interpreter. A block that dies leaves its bytes behind until then; jumps to it are aimed at their stubs again,
 * and its far entry, which jump tables may still hold, at one that leaves. */
#include "jit/tr.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

/* All vCPUs together; with the interpreter's share the VM process stays within 64 MiB beside its guest's memory. */
#define CODE_TOTAL (16 * MiB)
#define CODE_MIN (2 * MiB)
#define BLOCKS_TOTAL (19 * MiB)
#define BLOCKS_MIN (3 * MiB)
#define TEST_LEAST (256 * KiB) /* several of the biggest blocks */
#define REACH (GiB + GiB / 2)

/* ---- memory ---- */
static u64 share(const struct cpu *c, u64 total, u64 least) { return align_down(max_u64(total / max_u64(c->ncpus, 1), least), PAGE_SIZE); }

/* For tests: NESTBOX_TEST_CODE_KIB=CODE,BLOCKS makes a vCPU's memory for host code and for decoded blocks this small. 0: no such wish. */
static u64 test_bytes(unsigned which)
{
	const char *list = getenv("NESTBOX_TEST_CODE_KIB");
	unsigned kib[2] = { 0, 0 };
	if (!list || sscanf(list, "%u,%u", &kib[0], &kib[1]) < 1 || !kib[which])
		return 0;
	return align_up(max_u64(kib[which] * KiB, TEST_LEAST), PAGE_SIZE);
}

u64 jit_blocks_bytes(const struct cpu *c)
{
	u64 bytes = test_bytes(1);
	return bytes ? bytes : share(c, BLOCKS_TOTAL, BLOCKS_MIN);
}

static void *map_near(const void *p, u64 bytes)
{
	u64 at = align_down((uintptr_t)p, 2 * MiB);
	for (u64 step = 64 * MiB; step < REACH; step += 64 * MiB)
		for (unsigned up = 0; up < 2; up++) {
			u64 want = up ? at + step : at - step;
			if (want > at + REACH || (!up && at < step + MiB))
				continue;
			void *m = mmap((void *)(uintptr_t)want, bytes, PROT_READ | PROT_WRITE | PROT_EXEC,
				       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
			if (m == (void *)(uintptr_t)want)
				return m;
			if (m != MAP_FAILED)
				munmap(m, bytes);
		}
	return NULL;
}

int jit_cache_create(struct cpu *c)
{
	struct jit *j = jit_of(c);
	u64 bytes = test_bytes(0);
	bytes = bytes ? bytes : share(c, CODE_TOTAL, CODE_MIN);
	j->arena = map_near(c, bytes);
	if (!j->arena) {
		log_error("no executable memory for vCPU %u's code (mmap: %s)", c->index, strerror(errno));
		return -ENOMEM;
	}
	j->arena_end = j->arena + bytes;
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
		munmap(j->arena, (size_t)(j->arena_end - j->arena));
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
	memset(j->many, 0, sizeof j->many);
	j->path.on = false;
	j->next = j->first;
	j->sites = j->arena_end;
	mmu_banks_drop_jumps(c);
	j->stats.flushes++;
}

/* ---- links ---- */
void jit_link(struct cpu *c, struct site *s, struct block *to)
{
	struct jit *j = jit_of(c);
	struct code *k = to->code;
	if (!s->link.at || s->link.to || !k || jit_block(j, s)->key == BLOCK_DEAD_KEY)
		return;
	as_aim(jit_host(j, s->link.at), k->near);
	s->link.to = jit_off(j, k);
	s->link.next = k->in;
	k->in = jit_off(j, s);
}

static struct site *site_at(struct jit *j, u32 off) { return (struct site *)jit_host(j, off); }

static void unlink_out(struct jit *j, struct site *s)
{
	if (!s->link.to)
		return;
	struct code *k = (struct code *)jit_host(j, s->link.to);
	u32 me = jit_off(j, s), at = k->in;
	s->link.to = 0;
	if (at == me) {
		k->in = s->link.next;
		return;
	}
	while (at && site_at(j, at)->link.next != me)
		at = site_at(j, at)->link.next;
	if (at)
		site_at(j, at)->link.next = s->link.next;
}

static void aim_at_stub(struct jit *j, const struct site *s) { as_aim(jit_host(j, s->link.at), jit_host(j, s->link.stub)); }

static struct code **list_of(struct jit *j, const struct block *b) { return &j->many[b->frame[0] % MANY_LISTS]; }

void jit_know_blocks(struct jit *j, struct code *k)
{
	struct code **list = list_of(j, k->block);
	if (!k->nblocks)
		return;
	k->next_many = *list;
	*list = k;
}

static void drop_code(struct jit *j, struct block *b)
{
	struct code *k = b->code;
	for (u32 at = k->own; at; at = site_at(j, at)->link.own) {
		unlink_out(j, site_at(j, at));
		aim_at_stub(j, site_at(j, at)); /* a RET may still come back to behind our CALL */
	}
	while (k->in) {
		struct site *s = site_at(j, k->in);
		k->in = s->link.next;
		aim_at_stub(j, s);
		s->link.to = 0;
	}
	struct as a = { k->far, k->near };
	as_jmp(&a, j->gone);
	k->block = NULL;
	b->code = NULL;
	struct code **p = list_of(j, b);
	while (k->nblocks && *p && *p != k)
		p = &(*p)->next_many;
	if (k->nblocks && *p)
		*p = k->next_many;
}

void jit_replace(struct cpu *c, struct block *b, struct code *k)
{
	struct jit *j = jit_of(c);
	struct code *old = b->code;
	if (old) {
		drop_code(j, b);
		struct as a = { old->far, old->near };
		as_jmp(&a, k->far);
	}
	b->code = k;
}

void jit_drop(struct cpu *c, struct block *b)
{
	drop_code(jit_of(c), b);
	b->heat = 0;
	b->insn[0].fn = jit_h_count;
}

void jit_drop_containing(struct cpu *c, const struct block *b, bool splits)
{
	struct jit *j = jit_of(c);
	for (struct code *k = *list_of(j, b), *next; k && b->in_region; k = next) {
		next = k->next_many;
		for (unsigned n = 0; n < k->nblocks; n++)
			if (k->blocks[n] == b && k->block != b) {
				k->block->plain |= splits;
				jit_drop(c, k->block);
				break;
			}
	}
}

static void killed(struct cpu *c, struct block *b)
{
	struct jit *j = jit_of(c);
	jit_drop_containing(c, b, false);
	j->path.on = false;
	j->kills += b->code || b->in_region;
	if (!b->code)
		return;
	drop_code(j, b);
	if (j->rewritten[b->frame[0]] < 255)
		j->rewritten[b->frame[0]]++;
	j->stats.killed++;
}

static void built(struct cpu *c, struct block *b)
{
	u32 mode = b->key & 0xff;
	if (!jit_mode(mode) || (b->frame[1] != NO_FRAME && !tr_suits_crossing(c, b)))
		return;
	b->first = b->insn[0].fn;
	b->insn[0].fn = jit_h_count;
	b->next_off = NO_NEXT;
}

static void reset(struct cpu *c)
{
	jit_of(c)->last = NULL;
	jit_of(c)->all = NULL;
	jit_cache_flush(c);
}

const struct interp_hooks jit_hooks = { .built = built, .killed = killed, .reset = reset };
