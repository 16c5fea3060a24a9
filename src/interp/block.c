/* The cache of decoded blocks of one vCPU: building, finding and forgetting.
 *
 * Blocks are keyed by frame, offset in the page and mode, so every mapping of a page shares them. They live in an arena that is only
 * emptied as a whole; a block that must go is made dead (each handler replaced by h_dead), so that a running block whose bytes were just
 * overwritten stops before its next instruction, and stale links to it find out.
 *
 * Decoding works on a copy of the bytes. Then the page's code lines are marked, waiting requests of other vCPUs answered, write permission taken
 * from everybody, and only if memory still says the same the block is used: from then on no write goes unseen (see vm/code.c). */
#include "interp/interp.h"
#include "interp/vec.h"
#include "base/log.h"
#include "mem/mem.h"
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#define BLOCK_BYTES(slots) (sizeof(struct block) + (slots) * sizeof(struct insn))
#define MAX_SLOTS (BLOCK_MAX_INSNS + 2)

/* What a write into decoded code costs the guest's clock. Processors clear their pipeline for it; here decoding again takes about this long, and programs
 * that mix code and data (GRUB's calls of the BIOS) would otherwise live in slow motion: their waits of a second took a minute. */
#define CODE_WRITE_NS 2000u

/* ---- lifetime ---- */
/* All vCPUs together stay within what a VM process may hold beside its guest's memory; a full arena is emptied. */
static u64 arena_bytes(const struct cpu *c) { return align_down(max_u64(ARENA_TOTAL / max_u64(c->ncpus, 1), ARENA_MIN), PAGE_SIZE); }

int block_cache_create(struct cpu *c)
{
	struct interp *e = interp_of(c);
	if (!e->arena_bytes)
		e->arena_bytes = arena_bytes(c);
	e->nframes = c->mem->frames;
	e->hash = calloc(HASH_SIZE, sizeof *e->hash);
	e->frame_blocks = calloc(e->nframes, sizeof *e->frame_blocks);
	e->scratch = calloc(1, BLOCK_BYTES(MAX_SLOTS));
	e->arena = mmap(NULL, e->arena_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (memo_create(e, c->ncpus) || !e->hash || !e->frame_blocks || !e->scratch || e->arena == MAP_FAILED) {
		log_error("cannot get memory for decoded blocks of vCPU %u", c->index);
		return -ENOMEM;
	}
	madvise(e->arena, e->arena_bytes, MADV_HUGEPAGE);
	isa_decoder_init(&e->dec, cpu_has(c, FEAT_BMI1), cpu_has(c, FEAT_LZCNT));
	return 0;
}

void block_cache_destroy(struct cpu *c)
{
	struct interp *e = interp_of(c);
	free(e->hash);
	free(e->frame_blocks);
	free(e->scratch);
	memo_destroy(e);
	if (e->arena && e->arena != MAP_FAILED)
		munmap(e->arena, e->arena_bytes);
}

static void reset(struct cpu *c)
{
	struct interp *e = interp_of(c);
	memset(e->hash, 0, HASH_SIZE * sizeof *e->hash);
	memset(e->frame_blocks, 0, e->nframes * sizeof *e->frame_blocks);
	memset(e->jump, 0, sizeof e->jump);
	e->arena_used = 0;
	e->reset_wanted = false;
	vec_reset(c);
	if (e->hooks)
		e->hooks->reset(c);
}

/* ---- hash ---- */
static unsigned hash_slot(u64 key) { return (unsigned)((key * 0x9e3779b97f4a7c15ull) >> 48) & (HASH_SIZE - 1); }

static struct block *hash_find(struct interp *e, u64 key)
{
	struct block *b = e->hash[hash_slot(key)];
	while (b && b->key != key)
		b = b->hash_next;
	return b;
}

static void note_recent(struct interp *e, const struct block *b)
{
	e->jump[jump_slot(b->key)] = (struct recent){ .tag = (u32)(b->key >> 8), .at = (u32)(((const u8 *)b - e->arena) / 8 + 1) };
}

static void insert(struct interp *e, struct block *b)
{
	unsigned slot = hash_slot(b->key);
	b->hash_next = e->hash[slot];
	e->hash[slot] = b;
	b->frame_next[0] = e->frame_blocks[b->frame[0]];
	e->frame_blocks[b->frame[0]] = b;
	if (b->frame[1] != NO_FRAME && b->frame[1] != b->frame[0]) {
		b->frame_next[1] = e->frame_blocks[b->frame[1]];
		e->frame_blocks[b->frame[1]] = b;
	}
}

/* ---- death ---- */
static struct block **frame_link(struct block *b, u32 frame) { return &b->frame_next[b->frame[0] == frame ? 0 : 1]; }

static void unlink_frame(struct interp *e, struct block *b, u32 frame)
{
	struct block **p = &e->frame_blocks[frame];
	while (*p && *p != b)
		p = frame_link(*p, frame);
	if (*p)
		*p = *frame_link(b, frame);
}

/* A frame without live blocks must have an empty list: claim() relies on it. */
static void kill_block(struct cpu *c, struct block *b)
{
	struct interp *e = interp_of(c);
	struct block **p = &e->hash[hash_slot(b->key)];
	while (*p && *p != b)
		p = &(*p)->hash_next;
	if (*p)
		*p = b->hash_next;
	unlink_frame(e, b, b->frame[0]);
	if (b->frame[1] != NO_FRAME && b->frame[1] != b->frame[0])
		unlink_frame(e, b, b->frame[1]);
	b->key = BLOCK_DEAD_KEY;
	b->first = h_dead;
	for (unsigned k = 0; k < b->slots; k++)
		b->insn[k].fn = h_dead;
	if (e->hooks)
		e->hooks->killed(c, b);
}

static bool overlaps(const struct block *b, u32 frame, unsigned first, unsigned last)
{
	unsigned from = b->off, to = b->off + b->bytes - 1; /* page offsets, to may lie in the second page */
	if (b->frame[0] == frame && from / 64 <= last && min_u64(to, PAGE_SIZE - 1) / 64 >= first)
		return true;
	return b->frame[1] == frame && first * 64 <= to - PAGE_SIZE;
}

void block_forget(struct cpu *c, u64 frame, unsigned first, unsigned last)
{
	struct interp *e = interp_of(c);
	if (frame >= e->nframes)
		return;
	for (struct block *b = e->frame_blocks[frame], *after; b; b = after) {
		after = *frame_link(b, (u32)frame);
		if (overlaps(b, (u32)frame, first, last)) {
			kill_block(c, b);
			c->stats.code_invalidations++;
			c->v_base += CODE_WRITE_NS;
		}
	}
}

/* May be called in the middle of a block: memory is only reused at the next block_find(). */
void block_forget_all(struct cpu *c)
{
	struct interp *e = interp_of(c);
	for (unsigned s = 0; s < HASH_SIZE; s++)
		while (e->hash[s])
			kill_block(c, e->hash[s]);
	e->reset_wanted = true;
}

/* ---- leaving early ---- */

void interp_uncount(struct cpu *c, const struct insn *i, bool done)
{
	const struct block *b = interp_of(c)->cur;
	unsigned ran = done;
	for (unsigned k = block_first_slot(b); k < b->slots && b->insn[k].off < i->off; k++) /* i may be a copy */
		ran++;
	if (ran < b->n)
		c->icount -= b->n - ran;
}

enum step h_dead(struct cpu *c, const struct insn *i)
{
	interp_uncount(c, i, false);
	c->arch.rip = insn_rip(c, i);
	return STEP_END;
}

/* ---- building ---- */
static enum isa_mode isa_mode_of(u32 mode) { return mode & MODE_L ? ISA_64 : mode & MODE_D ? ISA_32 : ISA_16; }

/* True when the frame had no code at all: then nobody has taken write permission away. */
static bool mark_lines(struct cpu *c, u32 frame, unsigned from, unsigned to)
{
	u64 mask = low_mask(to / 64 + 1) & ~low_mask(from / 64), *lines = &c->mem->code_lines[frame];
	u64 old = __atomic_load_n(lines, __ATOMIC_RELAXED);
	if ((old & mask) != mask)
		old = __atomic_fetch_or(lines, mask, __ATOMIC_SEQ_CST);
	return old == 0;
}

/* Page offsets from..to of the frame are about to be trusted. Requests that other vCPUs posted before our mark are answered first: one of them may
 * say that the blocks which we believe to have claimed the page are gone. */
static void claim(struct cpu *c, u32 frame, unsigned from, unsigned to)
{
	struct interp *e = interp_of(c);
	bool fresh = mark_lines(c, frame, from, to);
	if ((__atomic_load_n(&c->pending, __ATOMIC_SEQ_CST) & PEND_CODE) && c->io && c->io->service_code)
		c->io->service_code(c->io->vm, c);
	if (!fresh && e->frame_blocks[frame])
		return;
	if (c->io && c->io->claim_code)
		c->io->claim_code(c->io->vm, c, frame);
	else
		mmu_write_protect(c, frame);
}

static void add_special(struct block *b, insn_fn *fn, unsigned off)
{
	struct insn *o = &b->insn[b->slots++];
	memset(o, 0, sizeof *o);
	o->base = o->index = GPR_ZERO;
	o->fn = fn;
	o->off = off;
}

/* Appends what `r` says about the bytes. Returns true when the block ends here; *last as interp_select. keep: the bytes, to know them again, or NULL. */
static bool add_insn(struct cpu *c, struct block *b, enum isa_result r, const struct isa_insn *in, u32 mode, unsigned off, const u8 *keep, bool *last)
{
	b->n++;
	if (r == ISA_OK && isa_fill(in, off, &b->insn[b->slots])) {
		struct insn *o = &b->insn[b->slots++];
		bool end = interp_select(c, in, mode, o, last);
		if (keep)
			memo_keep(interp_of(c), mode, keep, in, o, end, *last);
		if (*last && !o->aux)
			o->aux = b;
		return end;
	}
	if (r == ISA_OK)
		todo("RIP-relative displacement at the edge of 2 GiB: answered with #UD");
	add_special(b, r == ISA_LONG ? h_too_long : h_ud, off);
	*last = true;
	return true;
}

static void finish_block(struct block *b, u32 mode, bool last)
{
	if (!last) {
		add_special(b, block_chains(mode) ? h_sentinel_chain : h_sentinel, b->bytes);
		b->insn[b->slots - 1].aux = b;
	}
}

static void start_block(struct block *b, u64 key, u32 frame, unsigned off)
{
	memset(b, 0, sizeof *b);
	b->key = key;
	b->frame[0] = frame;
	b->frame[1] = NO_FRAME;
	b->off = off;
}

static struct block *arena_room(struct cpu *c)
{
	struct interp *e = interp_of(c);
	if (e->arena_used + BLOCK_BYTES(MAX_SLOTS) > e->arena_bytes)
		return NULL;
	return (struct block *)(e->arena + e->arena_used);
}

static struct block *commit(struct cpu *c, struct block *b)
{
	struct interp *e = interp_of(c);
	e->arena_used += BLOCK_BYTES(b->slots);
	insert(e, b);
	c->stats.decodes += b->n;
	if (e->hooks)
		e->hooks->built(c, b);
	return b;
}

/* One instruction that is not cached: outside RAM, or cut by the CS limit. NULL: cpu->fault is set. */
static struct block *one_shot(struct cpu *c, u64 la)
{
	struct interp *e = interp_of(c);
	struct block *b = e->scratch;
	struct isa_insn in;
	u8 bytes[ISA_MAX_LEN];
	u64 fault_la = la;
	unsigned want = ISA_MAX_LEN;
	bool last = false;
	if (!(c->mode & MODE_L))
		want = (unsigned)min_u64(want, (u64)c->arch.seg[SEG_CS].limit - c->arch.rip + 1);
	unsigned n = mmu_fetch_bytes(c, la, bytes, want, &fault_la);
	if (!n)
		return NULL;
	enum isa_result r = isa_decode(&e->dec, isa_mode_of(c->mode), bytes, n, &in);
	if (r == ISA_MORE) {
		if (n == want || mmu_fetch(c, fault_la)) /* cut by the limit; or mapped behind our back: start over */
			cpu_gp(c, 0);
		return NULL;
	}
	start_block(b, BLOCK_DEAD_KEY, NO_FRAME, 0);
	add_insn(c, b, r, &in, c->mode | MODE_ONE, 0, NULL, &last);
	b->bytes = r == ISA_OK ? in.zi.length : 1;
	finish_block(b, c->mode | MODE_ONE, last);
	return b;
}

static u64 next_page(const struct cpu *c, u64 la)
{
	u64 next_la = (la & PAGE_MASK) + PAGE_SIZE;
	return c->mode & MODE_L ? next_la : (u32)next_la;
}

static const struct tlb_entry *exec_entry(struct cpu *c, u64 la)
{
	const struct tlb_entry *t = mmu_hit(c, la, interp_of(c)->xneed);
	return t ? t : mmu_fetch(c, la);
}

/* A single instruction that goes on in the next page. */
static struct block *build_crossing(struct cpu *c, u64 key, u64 la, u32 frame, const u8 *page)
{
	struct interp *e = interp_of(c);
	u32 mode = key & 0xff;
	unsigned off = la & 0xfff, here = PAGE_SIZE - off;
	u64 la2 = next_page(c, la);
	const struct tlb_entry *t2 = exec_entry(c, la2);
	if (!t2)
		return NULL;
	if (t2->perm & TLB_IO)
		return one_shot(c, la);
	u32 frame2 = t2->frame;
	const u8 *page2 = (const u8 *)(la2 + t2->addend);
	u8 bytes[ISA_MAX_LEN];
	struct isa_insn in;
	bool last = false;
	memcpy(bytes, page + off, here);
	memcpy(bytes + here, page2, ISA_MAX_LEN - here);
	enum isa_result r = isa_decode(&e->dec, isa_mode_of(mode), bytes, ISA_MAX_LEN, &in);
	unsigned len = r == ISA_OK ? in.zi.length : ISA_MAX_LEN;
	struct block *b = arena_room(c);
	if (len <= here || !b) /* changed since the caller looked */
		return one_shot(c, la);
	start_block(b, key, frame, off);
	b->frame[1] = frame2;
	b->bytes = len;
	add_special(b, h_cross, 0);
	add_insn(c, b, r, &in, mode | MODE_ONE, 0, NULL, &last);
	finish_block(b, mode | MODE_ONE, last);
	claim(c, frame, off, PAGE_SIZE - 1);
	claim(c, frame2, 0, len - here - 1);
	if (memcmp(bytes, page + off, here) || memcmp(bytes + here, page2, len - here))
		return one_shot(c, la);
	return commit(c, b);
}

/* First slot of a crossing block: is the second page still the one that was decoded? */
enum step h_cross(struct cpu *c, const struct insn *i)
{
	struct block *b = interp_of(c)->cur;
	c->arch.rip = insn_rip(c, i);
	const struct tlb_entry *t = exec_entry(c, next_page(c, c->seg_base[SEG_CS] + c->arch.rip));
	if (!t)
		return STEP_FAULT;
	if (likely(t->frame == b->frame[1]))
		return next(c, i);
	kill_block(c, b);
	interp_uncount(c, i, false);
	return STEP_END;
}

#define CODE_PIECE 64

/* The next piece of code that may still change; returns how much there is now. */
static unsigned copy_piece(u8 *bytes, const u8 *code, unsigned have, unsigned avail)
{
	unsigned n = (unsigned)min_u64(avail - have, CODE_PIECE);
	if (n == CODE_PIECE)
		memcpy(bytes + have, code + have, CODE_PIECE);
	else
		memcpy(bytes + have, code + have, n);
	return have + n;
}

/* Decodes what is at `code`, up to `avail` bytes, from a copy in `bytes`. False: its first instruction goes on in the next page. */
static bool decode_block(struct cpu *c, struct block *b, u32 mode, const u8 *code, u8 *bytes, unsigned avail)
{
	struct interp *e = interp_of(c);
	unsigned pos = 0, have = 0, max = mode & MODE_ONE ? 1 : BLOCK_MAX_INSNS;
	bool last = false, end = false;
	while (!end && b->n < max && pos < avail) {
		struct isa_insn in;
		if (have < pos + ISA_MAX_LEN && have < avail)
			have = copy_piece(bytes, code, have, avail);
		unsigned take = (unsigned)min_u64(ISA_MAX_LEN, avail - pos);
		struct insn *o = &b->insn[b->slots];
		if (memo_find(e, mode, bytes + pos, take, pos, o, &end, &last)) {
			if (last && !o->aux)
				o->aux = b;
			b->slots++;
			b->n++;
			pos += o->len;
			continue;
		}
		enum isa_result r = isa_decode(&e->dec, isa_mode_of(mode), bytes + pos, take, &in);
		if (r == ISA_MORE && b->n == 0)
			return false;
		if (r == ISA_MORE)
			break;
		end = add_insn(c, b, r, &in, mode, pos, bytes + pos, &last);
		pos += r == ISA_OK ? in.zi.length : take;
	}
	b->bytes = pos;
	finish_block(b, mode, last);
	return true;
}

static struct block *build(struct cpu *c, u64 key, u64 la, const struct tlb_entry *t)
{
	u32 mode = key & 0xff, frame = t->frame;
	unsigned off = la & 0xfff;
	const u8 *page = (const u8 *)((la & PAGE_MASK) + t->addend);
	u8 bytes[BLOCK_MAX_INSNS * ISA_MAX_LEN];
	unsigned avail = (unsigned)min_u64(sizeof bytes, PAGE_SIZE - off);
	if (!arena_room(c))
		reset(c);
	__builtin_prefetch(&interp_of(c)->frame_blocks[frame]); /* for claim() and insert(), behind the decoding */
	__builtin_prefetch(&c->mem->code_lines[frame]);
	for (unsigned tries = 0; tries < 4; tries++) {
		struct block *b = arena_room(c);
		bug_if(!b);
		start_block(b, key, frame, off);
		if (!decode_block(c, b, mode, page + off, bytes, avail))
			return build_crossing(c, key, la, frame, page);
		claim(c, frame, off, off + b->bytes - 1);
		if (memcmp(bytes, page + off, b->bytes) == 0)
			return commit(c, b);
	}
	return one_shot(c, la); /* another vCPU keeps writing here */
}

/* ---- finding ---- */
hot_path struct block *block_peek(struct cpu *c, u64 rip)
{
	struct interp *e = interp_of(c);
	const struct tlb_entry *t = mmu_recall(c, rip, e->xneed);
	if (!t)
		return NULL;
	u64 key = block_key(t->frame, rip, c->mode);
	struct block *b = block_recent(e, key);
	if (likely(b != NULL))
		return b;
	b = hash_find(e, key); /* two that share a place must not send each other out of host code for ever */
	if (b)
		note_recent(e, b);
	return b;
}

noinline struct block *block_find(struct cpu *c)
{
	struct interp *e = interp_of(c);
	bool l = c->mode & MODE_L;
	u64 la = c->seg_base[SEG_CS] + c->arch.rip;
	if (!l) {
		la = (u32)la;
		if (unlikely(c->arch.rip > c->arch.seg[SEG_CS].limit)) {
			cpu_gp(c, 0);
			return NULL;
		}
	}
	if (unlikely(e->reset_wanted))
		reset(c);
	const struct tlb_entry *t = exec_entry(c, la);
	if (!t)
		return NULL;
	if (unlikely(t->perm & TLB_IO))
		return one_shot(c, la);
	u64 key = block_key(t->frame, la, c->mode | (trace_on(TRACE_INSN) || (unlikely(c->dbg) && cpu_debug_page(c, la)) ? MODE_ONE : 0));
	__builtin_prefetch(&e->hash[hash_slot(key)]); /* mostly it is a new one: the places that are looked at one after the other are fetched together */
	__builtin_prefetch((const u8 *)(la + t->addend));
	struct block *b = block_recent(e, key);
	c->stats.block_lookups++;
	if (!b) {
		b = hash_find(e, key);
		if (!b)
			b = build(c, key, la, t);
		if (!b)
			return NULL;
		if (b != e->scratch)
			note_recent(e, b);
	}
	if (unlikely(!l && c->arch.rip + b->bytes - 1 > c->arch.seg[SEG_CS].limit))
		return one_shot(c, la);
	return b;
}
