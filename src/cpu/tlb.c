/* TLB contexts: choosing, filling, invalidating. Not here: what a translation permits (paging.c). A context is one
 * address space: (VPID, nested root, PCID) plus the mode bits that permissions depend on. The manual's invalidations
 * name VPID, PCID or nested root, so each drops entries of every context that matches; dropping more than the manual
 * asks for is always allowed (SDM "Operations that Invalidate TLBs and Paging-Structure Caches"). Surprise: entries
 * of another context's global pages are not shared, only found again by a walk.
 *
 * Invariant: what a bank holds is in the TLB, in one of the two places of its page; or, for its windows, it is a run that the context has had, and they go
 * whenever any of the context's runs may have to. */
#include "cpu/paging.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/random.h>

#define INDEX(la) (((la) >> 12) & (TLB_ENTRIES - 1))
#define OTHER(i) ((i) + TLB_ENTRIES)
#define LARGE_SHIFT 22 /* covers pages of 2 MiB and, with CR4.PSE, 4 MiB */
#define HUGE_SHIFT 30

/* ---- contexts ---- */

static u32 mode_key(const struct cpu *c)
{
	u64 cr4 = c->arch.cr4 & (CR4_PSE | CR4_PAE | CR4_PGE | CR4_SMEP | CR4_SMAP | CR4_PKE); /* bits 4, 5, 7, 20-22 */
	u64 efer = c->arch.efer & (EFER_LMA | EFER_NXE);                                       /* bits 10, 11 */
	u32 cr0 = (u32)(bits(c->arch.cr0, 31, 31) | bits(c->arch.cr0, 16, 16) << 1); /* PG, WP */
	return (u32)cr4 | (u32)efer | cr0 | (u32)c->arch.guest_mode << 30;
}

/* In place: a struct that is copied right after its members were stored waits for them. */
static must_inline void fill_tag(struct cpu *c, struct tlb_tag *t)
{
	u64 pcid = c->arch.cr4 & CR4_PCIDE ? c->arch.cr3 & 0xfff : 0, root = 0;
	u16 vpid = 0;
	if (unlikely(c->arch.guest_mode))
		c->virt->tlb_tag(c, &vpid, &root);
	t->who = vpid | pcid << 16 | (u64)mode_key(c) << 32;
	t->npt_root = root;
	t->valid = true;
	t->lru = 0;
}

static bool same_tag(const struct tlb_tag *a, const struct tlb_tag *b)
{
	return a->valid && a->who == b->who && a->npt_root == b->npt_root;
}

/* ---- banks ---- */
#define BANKS (3 * TLB_CONTEXTS + 1)
#define BANKS_BYTES (BANKS * sizeof(struct tlb_bank))

/* What an empty place holds. Whoever looks there because his page belongs there does not match it, for it belongs to another place; whoever guesses (jit/memory.c)
 * does not match it unless his address is this very one, which is non-canonical and made of 39 random bits; and then he meets `nowhere`. */
static u64 empty_page(const struct tlb *t, unsigned i) { return t->nowhere | (u64)(i ^ 1) << 12; }
static u8 nowhere[PAGE_SIZE] __attribute__((aligned(4096)));

static void bank_entry_clear(const struct tlb *t, struct tlb_bank *b, unsigned i)
{
	b->e[i] = (struct tlb_fast){ .r = empty_page(t, i), .w = empty_page(t, i), .host = nowhere };
}

static void bank_clear_aside(const struct tlb *t, struct tlb_fast *f)
{
	*f = (struct tlb_fast){ .r = t->nowhere, .w = t->nowhere, .host = nowhere };
}

/* What is at place i makes room for another page. It may still be used: whoever drops its TLB entry looks here, too. */
static void bank_put_aside(const struct tlb *t, struct tlb_bank *b, unsigned i, u64 by)
{
	const struct tlb_fast *f = &b->e[i];
	u64 empty = empty_page(t, i), page = f->r != empty ? f->r : f->w;
	if (page != empty && page != by)
		b->aside[mmu_aside_slot(page)] = *f;
}

static void bank_drop(struct tlb *t, struct tlb_ctx *x, struct tlb_entry *e)
{
	u32 in = e->perm >> TLB_BANKED_SHIFT & 7;
	if (likely(!in))
		return;
	struct tlb_bank *b = &t->banks[3 * (x - t->ctx)];
	unsigned i = INDEX(e->tag);
	e->perm &= ~(7u << TLB_BANKED_SHIFT);
	for (unsigned cls = 0; cls < 3; cls++) {
		if (!(in >> cls & 1))
			continue;
		struct tlb_fast *aside = &b[cls].aside[mmu_aside_slot(e->tag)];
		if (b[cls].e[i].r == e->tag || b[cls].e[i].w == e->tag)
			bank_entry_clear(t, &b[cls], i);
		if (aside->r == e->tag || aside->w == e->tag)
			bank_clear_aside(t, aside);
	}
}

/* ---- windows ---- */
/* An empty one has the tag of another place: nobody who looks here is near it. */
static u64 no_window(unsigned i) { return (u64)(i ^ 1) << TLB_RUN_SHIFT; }

static void window_clear(struct tlb_bank *b, unsigned i)
{
	b->window[i] = (struct tlb_fast){ .r = no_window(i), .w = no_window(i), .host = nowhere };
}

static void clear_windows(struct tlb_bank *b)
{
	for (unsigned i = 0; i < TLB_WINDOWS; i++)
		window_clear(b, i);
	b->any_window = false;
}

/* Nobody may write to this frame unseen. */
static void close_windows(const struct mem *m, struct tlb_bank *b, u64 frame)
{
	for (unsigned i = 0; b->any_window && i < TLB_WINDOWS; i++) {
		struct tlb_fast *f = &b->window[i];
		if (f->w != no_window(i) && frame - (u64)(f->host - m->base) / PAGE_SIZE < 1u << (TLB_RUN_SHIFT - 12))
			f->w = no_window(i);
	}
}

/* The next write to the frame has to be seen by the dirty log. */
static bool must_log(const struct mem *m, u64 frame)
{
	return unlikely(m->dirty_log) && !(__atomic_load_n(&m->dirty[frame / 64], __ATOMIC_RELAXED) & bit(frame % 64));
}

/* Which accesses of class cls may go to all pages of the run without being seen: TLB_R(cls), TLB_W(cls). */
static u32 whole_run(struct cpu *c, const struct tlb_run *r, const struct mem_slot *s, unsigned cls)
{
	struct mem *m = c->mem;
	u64 first = s->frame + (r->gpa - s->gpa) / PAGE_SIZE;
	u32 may = (r->perm >> TLB_OK_SHIFT) & (TLB_R(cls) | TLB_W(cls));
	if (s->kind == MEM_ROM)
		may &= ~TLB_W(cls);
	for (u64 n = 0; n < 1u << (TLB_RUN_SHIFT - 12); n++) {
		u64 page = r->gpa + n * PAGE_SIZE;
		if (mmu_is_vapic(c, page) || mmu_is_lapic(c, page))
			return 0;
		if (mem_code_lines(m, first + n) || must_log(m, first + n))
			may &= ~TLB_W(cls);
	}
	return may;
}

bool mmu_bank_window(struct cpu *c, u64 la)
{
	struct tlb *t = c->tlb;
	struct tlb_run *r = &t->cur->run[la >> TLB_RUN_SHIFT & (TLB_RUNS - 1)];
	unsigned cls = c->acc_class, i = mmu_window_slot(la);
	mmu_bank(c)->window[i].left = TLB_WINDOW_ASKS;
	if (r->tag != align_down(la, bit(TLB_RUN_SHIFT)) || ++r->wanted < TLB_WINDOW_MISSES || (r->wanted & (r->wanted - 1)) || cls == 3 || c->mem->source)
		return false;
	const struct mem_slot *s = mem_find(c->mem, r->gpa);
	u32 may = s && r->gpa - s->gpa + bit(TLB_RUN_SHIFT) <= s->size ? whole_run(c, r, s, cls) : 0;
	if (!may)
		return false;
	struct tlb_bank *b = mmu_bank(c);
	u64 frame = s->frame + (r->gpa - s->gpa) / PAGE_SIZE;
	window_clear(b, i);
	b->window[i].host = s->host + (r->gpa - s->gpa);
	b->window[i].left = TLB_WINDOW_ASKS;
	if (may & TLB_R(cls))
		b->window[i].r = r->tag;
	if (may & TLB_W(cls)) {
		b->window[i].w = r->tag;
		for (u64 n = 0; n < 1u << (TLB_RUN_SHIFT - 12); n++)
			t->maybe_written[frame + n] |= 1u << ((t->cur - t->ctx) & 7);
	}
	b->any_window = true;
	return true;
}

/* ---- jump tables ---- */
/* Filters with three bits for each number, from three parts of one hash. A kernel invalidates pages of data by the ten thousand, beside a few hundred pages of
 * code and as many large pages that are known: with one bit for each, some programs' data meet one of them by bad luck, and each INVLPG costs a jump table. */
static unsigned filter_bit(u64 number, unsigned width, unsigned n)
{
	return (unsigned)((number * 0x9e3779b97f4a7c15ull) >> (64 - width * (n + 1))) & ((1u << width) - 1);
}

static void filter_note(u64 *filter, unsigned width, u64 number)
{
	for (unsigned n = 0; n < 3; n++) {
		unsigned k = filter_bit(number, width, n);
		filter[k / 64] |= bit(k % 64);
	}
}

static bool filter_may_know(const u64 *filter, unsigned width, u64 number)
{
	for (unsigned n = 0; n < 3; n++) {
		unsigned k = filter_bit(number, width, n);
		if (!(filter[k / 64] & bit(k % 64)))
			return false;
	}
	return true;
}

/* Its slot is another one: no address that a guest jumps to and that is looked up can match. Nor can one that host code looks for in any slot (jit/flow.c): those are
 * near a canonical one. */
static void jump_clear(const struct tlb *t, struct tlb_bank *b, unsigned i)
{
	b->jump[i].rip = t->nowhere + (mmu_jump_slot(t->nowhere) == i || mmu_jump_aside_slot(t->nowhere) == i ? 2 : 0);
}
static bool jump_is_clear(const struct tlb *t, const struct tlb_bank *b, unsigned i) { return (b->jump[i].rip & ~(u64)2) == t->nowhere; }

static void bank_clear_jumps(const struct tlb *t, struct tlb_bank *b)
{
	for (unsigned i = 0; i < TLB_JUMPS_ALL; i++)
		jump_clear(t, b, i);
	memset(b->jump_pages, 0, sizeof b->jump_pages);
	memset(b->jump_local, 0, sizeof b->jump_local);
	b->any_jump = b->any_local = false;
}

static void bank_clear_local_jumps(const struct tlb *t, struct tlb_bank *b)
{
	for (unsigned k = 0; k < array_len(b->jump_local); k++) {
		for (u64 m = b->jump_local[k]; m; m &= m - 1)
			jump_clear(t, b, 64 * k + (unsigned)__builtin_ctzll(m));
		b->jump_local[k] = 0;
	}
	b->any_local = false;
}

/* Of all pages, but for global ones when those are kept. */
static void drop_jumps(struct tlb *t, struct tlb_ctx *x, bool keep_global)
{
	if (!t->banks)
		return;
	struct tlb_bank *b = &t->banks[3 * (x - t->ctx)];
	t->jump_gen++;
	for (unsigned cls = 0; cls < 3; cls++)
		if (keep_global ? b[cls].any_local : b[cls].any_jump) {
			(keep_global ? bank_clear_local_jumps : bank_clear_jumps)(t, &b[cls]);
			++*(keep_global ? &t->emptied.of_local : &t->emptied.by_flush);
		}
}

static void drop_page_jumps(struct tlb *t, struct tlb_ctx *x, u64 la)
{
	if (!t->banks)
		return;
	struct tlb_bank *b = &t->banks[3 * (x - t->ctx)];
	for (unsigned cls = 0; cls < 3; cls++)
		if (b[cls].any_jump && filter_may_know(b[cls].jump_pages, TLB_PAGE_BITS, la >> 12)) {
			t->jump_gen++;
			t->emptied.by_page++;
			bank_clear_jumps(t, &b[cls]);
		}
}

int mmu_banks_create(struct cpu *c)
{
	void *p = mmap(NULL, BANKS_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED)
		return -errno;
	c->tlb->banks = p;
	return 0;
}

struct tlb_bank *mmu_bank_ready(struct cpu *c)
{
	struct tlb *t = c->tlb;
	struct tlb_bank *b = &t->banks[c->acc_class == 3 ? BANKS - 1 : 3 * (unsigned)(t->cur - t->ctx) + c->acc_class];
	if (!b->ready) {
		for (unsigned i = 0; i < TLB_ENTRIES; i++)
			bank_entry_clear(t, b, i);
		for (unsigned i = 0; i < TLB_ASIDE; i++)
			bank_clear_aside(t, &b->aside[i]);
		clear_windows(b);
		bank_clear_jumps(t, b);
		b->ready = true;
	}
	t->cur_bank[c->acc_class] = b;
	return b;
}

void mmu_bank_fill(struct cpu *c, struct tlb_entry *e)
{
	unsigned cls = c->acc_class, i = INDEX(e->tag);
	if (cls == 3 || e != &c->tlb->cur->e[i])
		return;
	struct tlb_bank *b = mmu_bank(c);
	struct tlb_fast *f = &b->e[i];
	bank_put_aside(c->tlb, b, i, e->tag);
	bank_entry_clear(c->tlb, b, i);
	e->perm |= TLB_BANKED(cls);
	f->host = (u8 *)(e->tag + e->addend);
	if (e->perm & TLB_R(cls))
		f->r = e->tag;
	if (e->perm & TLB_W(cls))
		f->w = e->tag;
}

void mmu_bank_runs(struct cpu *c, u64 rip)
{
	struct tlb_bank *b = mmu_bank(c);
	filter_note(b->jump_pages, TLB_PAGE_BITS, rip >> 12);
	b->any_jump = true;
}

static void set_jump(struct tlb_bank *b, unsigned i, struct tlb_jump to, bool local)
{
	b->jump[i] = to;
	if (local)
		b->jump_local[i / 64] |= bit(i % 64);
	else
		b->jump_local[i / 64] &= ~bit(i % 64);
	b->any_local |= local;
}

/* What is at place i makes room for another. */
static void jump_put_aside(const struct tlb *t, struct tlb_bank *b, unsigned i, u64 by)
{
	if (b->jump[i].rip != by && !jump_is_clear(t, b, i))
		set_jump(b, mmu_jump_aside_slot(b->jump[i].rip), b->jump[i], b->jump_local[i / 64] >> (i % 64) & 1);
}

void mmu_bank_jump(struct cpu *c, u64 rip, void *code)
{
	if (c->acc_class == 3)
		return;
	struct tlb_bank *b = mmu_bank(c);
	unsigned i = mmu_jump_slot(rip), aside = mmu_jump_aside_slot(rip);
	mmu_bank_runs(c, rip);
	if (b->jump[aside].rip == rip)
		jump_clear(c->tlb, b, aside);
	jump_put_aside(c->tlb, b, i, rip);
	set_jump(b, i, (struct tlb_jump){ rip, code }, !mmu_hit(c, rip, TLB_GLOBAL));
}

void mmu_bank_forget_jump(struct cpu *c, u64 rip)
{
	struct tlb_bank *b = mmu_bank(c);
	const unsigned at[2] = { mmu_jump_slot(rip), mmu_jump_aside_slot(rip) };
	for (unsigned n = 0; c->acc_class != 3 && n < 2; n++)
		if (b->jump[at[n]].rip == rip)
			jump_clear(c->tlb, b, at[n]);
}

void mmu_bank_mode(struct cpu *c, bool flat)
{
	unsigned cls = c->acc_class == 2 ? 2 : 0, end = c->acc_class == 2 ? 3 : 2;
	for (; c->acc_class < 3 && cls < end; cls++) {
		struct tlb_bank *b = c->tlb->cur_bank[cls];
		if (b && b->flat != flat) {
			bank_clear_jumps(c->tlb, b);
			b->flat = flat;
		}
	}
}

void mmu_banks_drop_jumps(struct cpu *c)
{
	for (unsigned i = 0; c->tlb->banks && i < BANKS; i++)
		if (c->tlb->banks[i].any_jump)
			bank_clear_jumps(c->tlb, &c->tlb->banks[i]);
}

static void clear_entry(struct tlb *t, struct tlb_ctx *x, unsigned i)
{
	bank_drop(t, x, &x->e[i]);
	x->e[i].tag = TLB_EMPTY;
	x->e[i].perm = 0;
}

/* ---- large pages ---- */
static struct tlb_bank *banks_of(struct tlb *t, const struct tlb_ctx *x) { return &t->banks[3 * (x - t->ctx)]; }

static void drop_runs(struct tlb *t, struct tlb_ctx *x)
{
	for (unsigned i = 0; i < TLB_RUNS; i++)
		x->run[i].tag = TLB_EMPTY;
	for (unsigned cls = 0; t->banks && cls < 3; cls++)
		if (banks_of(t, x)[cls].any_window)
			clear_windows(&banks_of(t, x)[cls]);
}

/* The filters learn of its size from the entry that tlb_insert makes next. */
void tlb_note_run(struct cpu *c, u64 la, u64 at, u32 perm)
{
	c->tlb->cur->run[la >> TLB_RUN_SHIFT & (TLB_RUNS - 1)] =
		(struct tlb_run){ align_down(la, bit(TLB_RUN_SHIFT)), align_down(at, bit(TLB_RUN_SHIFT)), perm, 0 };
}

void tlb_forget_run(struct cpu *c, u64 la)
{
	struct tlb_run *r = &c->tlb->cur->run[la >> TLB_RUN_SHIFT & (TLB_RUNS - 1)];
	if (r->tag == align_down(la, bit(TLB_RUN_SHIFT)))
		r->tag = TLB_EMPTY;
	for (unsigned cls = 0; c->tlb->banks && cls < 3; cls++)
		if (banks_of(c->tlb, c->tlb->cur)[cls].any_window)
			window_clear(&banks_of(c->tlb, c->tlb->cur)[cls], mmu_window_slot(la));
}

/* Drops the filled entries for which (perm & keep) == 0; keep: 0 or TLB_GLOBAL. */
static void drop(struct tlb *t, struct tlb_ctx *x, u32 keep)
{
	drop_jumps(t, x, keep);
	drop_runs(t, x); /* global ones as well: they are found again */
	for (unsigned i = 0; i < array_len(x->used); i++) {
		u64 left = 0;
		for (u64 m = x->used[i]; m; m &= m - 1) {
			unsigned k = __builtin_ctzll(m);
			if (x->e[64 * i + k].perm & keep)
				left |= bit(k);
			else
				clear_entry(t, x, 64 * i + k);
		}
		x->used[i] = left;
	}
	if (!keep) {
		memset(x->large, 0, sizeof x->large);
		memset(x->huge, 0, sizeof x->huge);
	}
}

/* A context that was never used still has to get its empty tags. */
static void first_use(struct tlb *t, struct tlb_ctx *x)
{
	for (unsigned i = 0; i < array_len(x->e); i++)
		x->e[i].tag = TLB_EMPTY;
	drop_runs(t, x);
}

static void make_current(struct tlb *t, unsigned i)
{
	memcpy(t->before_bank, t->cur_bank, sizeof t->cur_bank);
	memset(t->cur_bank, 0, sizeof t->cur_bank);
	for (unsigned cls = 0; t->banks && cls < 3; cls++)
		if (t->banks[3 * i + cls].ready)
			t->cur_bank[cls] = &t->banks[3 * i + cls];
	t->before = t->cur ? (unsigned)(t->cur - t->ctx) : i;
	t->cur = &t->ctx[i];
	t->cur_tag = &t->tag[i];
	t->cur_tag->lru = ++t->tick;
}

/* Back to the context that was active before. */
static void make_current_again(struct tlb *t)
{
	unsigned i = t->before;
	for (unsigned cls = 0; cls < 4; cls++) {
		struct tlb_bank *b = t->cur_bank[cls];
		t->cur_bank[cls] = t->before_bank[cls];
		t->before_bank[cls] = b;
	}
	t->before = (unsigned)(t->cur_tag - t->tag);
	t->cur = &t->ctx[i];
	t->cur_tag = &t->tag[i];
	t->cur_tag->lru = ++t->tick;
}

static cold_path void switch_to(struct tlb *t, const struct tlb_tag *want)
{
	unsigned victim = 0;
	for (unsigned i = 0; i < TLB_CONTEXTS; i++) {
		if (same_tag(&t->tag[i], want)) {
			make_current(t, i);
			return;
		}
		if (t->tag[i].lru < t->tag[victim].lru)
			victim = i;
	}
	if (t->tag[victim].lru)
		drop(t, &t->ctx[victim], 0);
	else
		first_use(t, &t->ctx[victim]);
	t->tag[victim] = *want;
	make_current(t, victim);
}

hot_path void mmu_switch(struct cpu *c)
{
	struct tlb *t = c->tlb;
	struct tlb_tag want;
	fill_tag(c, &want);
	if (same_tag(t->cur_tag, &want))
		return;
	if (likely(same_tag(&t->tag[t->before], &want))) /* a guest's exit, or the entry after it */
		make_current_again(t);
	else
		switch_to(t, &want);
}

void tlb_check_context(struct cpu *c)
{
	if (unlikely(c->tlb->cur_tag->key != mode_key(c)))
		mmu_switch(c);
}

int mmu_create(struct cpu *c)
{
	struct tlb *t = mmap(NULL, sizeof *t, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (t == MAP_FAILED)
		return -errno;
	if (getrandom(&t->nowhere, sizeof t->nowhere, 0) != (ssize_t)sizeof t->nowhere) {
		munmap(t, sizeof *t);
		return -EIO;
	}
	t->nowhere = bit(63) | (t->nowhere & (bit(62) - bit(23)));
	t->maybe_written = calloc(c->mem->frames, 1);
	if (!t->maybe_written) {
		munmap(t, sizeof *t);
		return -ENOMEM;
	}
	for (unsigned i = 0; i < NTLB_ENTRIES; i++)
		t->ntlb[i].at = TLB_EMPTY;
	first_use(t, &t->ctx[0]);
	make_current(t, 0);
	c->tlb = t;
	return 0;
}

void mmu_destroy(struct cpu *c)
{
	if (!c->tlb)
		return;
	free(c->tlb->maybe_written);
	if (c->tlb->banks)
		munmap(c->tlb->banks, BANKS_BYTES);
	munmap(c->tlb, sizeof *c->tlb);
	c->tlb = NULL;
}

/* ---- filling ---- */

u32 tlb_direct(struct cpu *c, u32 perm, u32 frame)
{
	u32 direct = (perm >> TLB_OK_SHIFT) & TLB_RW_ALL; /* above are the banks' marks */
	struct mem *m = c->mem;
	if (unlikely(perm & TLB_IO))
		return 0;
	if (unlikely((perm & TLB_ROM) || mem_code_lines(m, frame)))
		return direct & ~TLB_W_ALL;
	if (must_log(m, frame))
		return direct & ~TLB_W_ALL;
	return direct;
}

void tlb_open(struct cpu *c, struct tlb_entry *e, u32 direct)
{
	struct tlb *t = c->tlb;
	if (direct & TLB_W_ALL)
		t->maybe_written[e->frame] |= 1u << ((t->cur - t->ctx) & 7);
	e->perm |= direct;
}

static void note_large(struct tlb_ctx *x, u64 la, u32 perm)
{
	if (perm & TLB_LARGE)
		filter_note(x->large, TLB_REGION_BITS, la >> LARGE_SHIFT);
	if (perm & TLB_HUGE)
		filter_note(x->huge, TLB_REGION_BITS, la >> HUGE_SHIFT);
}

static void swap_entries(struct tlb_ctx *x, unsigned i)
{
	struct tlb_entry was = x->e[i];
	x->e[i] = x->e[OTHER(i)];
	x->e[OTHER(i)] = was;
	x->used[i / 64] |= bit(i % 64);
	x->used[OTHER(i) / 64] |= bit(i % 64);
}

hot_path struct tlb_entry *mmu_recall(struct cpu *c, u64 la, u32 need)
{
	struct tlb_ctx *x = c->tlb->cur;
	unsigned i = INDEX(la);
	struct tlb_entry *e = &x->e[i], *o = &x->e[OTHER(i)];
	if (e->tag == (la & PAGE_MASK))
		return (e->perm & need) == need ? e : NULL;
	if (o->tag != (la & PAGE_MASK) || (o->perm & need) != need)
		return NULL;
	swap_entries(x, i);
	return e;
}

/* Makes room at i for page la. What is there moves aside, unless it is the same page; that page's other copy, or what had moved aside, is gone. */
static void make_room(struct tlb *t, unsigned i, u64 la)
{
	struct tlb_ctx *x = t->cur;
	if (x->e[i].tag == la) {
		bank_drop(t, x, &x->e[i]);
		return;
	}
	clear_entry(t, x, OTHER(i));
	if (x->e[i].tag != TLB_EMPTY)
		swap_entries(x, i);
}

/* perm: TLB_OK_*, TLB_X* and attributes; what host memory allows is added here. page: L1-physical. */
struct tlb_entry *tlb_insert(struct cpu *c, u64 la, u64 page, u32 perm)
{
	struct tlb *t = c->tlb;
	unsigned i = INDEX(la);
	struct tlb_entry *e = &t->cur->e[i];
	const struct mem_slot *s = mem_find(c->mem, page);
	bool vapic = mmu_is_vapic(c, page);
	la &= PAGE_MASK;
	make_room(t, i, la);
	e->tag = la;
	e->gpa = page;
	if (likely(s && !vapic && !mmu_is_lapic(c, page))) {
		u64 off = page - s->gpa;
		e->frame = (u32)(s->frame + (off >> 12));
		mem_fetch(c->mem, e->frame);
		mem_ahead_touch(c->mem, e->frame);
		e->addend = (u64)(uintptr_t)(s->host + off) - la;
		perm |= s->kind == MEM_ROM ? TLB_ROM : 0;
	} else {
		e->frame = TLB_NO_FRAME;
		e->addend = 0;
		perm = (vapic ? perm & ~(TLB_XS | TLB_XU) : perm) | TLB_IO;
	}
	u32 direct = tlb_direct(c, perm, e->frame);
	e->perm = perm;
	tlb_open(c, e, direct);
	t->cur->used[i / 64] |= bit(i % 64);
	note_large(t->cur, la, perm);
	return e;
}

/* ---- invalidation ---- */

static void drop_ntlb(struct tlb *t, bool all, u64 root)
{
	for (unsigned i = 0; i < NTLB_ENTRIES; i++)
		if (all || t->ntlb[i].root == root)
			t->ntlb[i].at = TLB_EMPTY;
}

void mmu_flush_all(struct cpu *c)
{
	for (unsigned i = 0; i < TLB_CONTEXTS; i++)
		if (c->tlb->tag[i].lru)
			drop(c->tlb, &c->tlb->ctx[i], 0);
	drop_ntlb(c->tlb, true, 0);
}

void mmu_flush_vpid(struct cpu *c, u16 vpid, bool globals)
{
	struct tlb *t = c->tlb;
	for (unsigned i = 0; i < TLB_CONTEXTS; i++)
		if (t->tag[i].valid && t->tag[i].vpid == vpid)
			drop(t, &t->ctx[i], globals ? 0 : TLB_GLOBAL);
}

void mmu_flush_pcid(struct cpu *c, u16 vpid, u16 pcid)
{
	struct tlb *t = c->tlb;
	for (unsigned i = 0; i < TLB_CONTEXTS; i++)
		if (t->tag[i].valid && t->tag[i].vpid == vpid && t->tag[i].pcid == pcid)
			drop(t, &t->ctx[i], TLB_GLOBAL);
}

void mmu_flush_current(struct cpu *c, bool globals)
{
	struct tlb_tag now;
	fill_tag(c, &now);
	if (globals)
		mmu_flush_vpid(c, now.vpid, true);
	else
		mmu_flush_pcid(c, now.vpid, now.pcid);
}

void mmu_flush_npt(struct cpu *c, u64 npt_root)
{
	struct tlb *t = c->tlb;
	for (unsigned i = 0; i < TLB_CONTEXTS; i++)
		if (t->tag[i].valid && t->tag[i].npt_root == npt_root)
			drop(t, &t->ctx[i], 0);
	drop_ntlb(t, false, npt_root);
}

/* Drops every entry whose address agrees with la above `shift` and that has one of the bits in `perm`. */
static void drop_region(struct tlb *t, struct tlb_ctx *x, u64 la, unsigned shift, u32 perm)
{
	drop_jumps(t, x, false);
	drop_runs(t, x);
	for (unsigned i = 0; i < array_len(x->used); i++)
		for (u64 m = x->used[i]; m; m &= m - 1) {
			struct tlb_entry *e = &x->e[64 * i + __builtin_ctzll(m)];
			if (!((e->tag ^ la) >> shift) && (e->perm & perm)) {
				clear_entry(t, x, (unsigned)(e - x->e));
				x->used[i] &= ~(m & -m);
			}
		}
}

static void drop_page(struct tlb *t, struct tlb_ctx *x, u64 la)
{
	unsigned i = INDEX(la);
	drop_page_jumps(t, x, la);
	for (unsigned way = 0; way < 2; way++, i += TLB_ENTRIES)
		if (x->e[i].tag == (la & PAGE_MASK)) {
			clear_entry(t, x, i);
			x->used[i / 64] &= ~bit(i % 64);
		}
	if (unlikely(filter_may_know(x->large, TLB_REGION_BITS, la >> LARGE_SHIFT)))
		drop_region(t, x, la, LARGE_SHIFT, TLB_LARGE);
	if (unlikely(filter_may_know(x->huge, TLB_REGION_BITS, la >> HUGE_SHIFT)))
		drop_region(t, x, la, HUGE_SHIFT, TLB_HUGE);
}

/* Of all PCIDs: the manual asks for the current one and for global entries of the others. */
void mmu_invlpg_vpid(struct cpu *c, u16 vpid, gva_t la)
{
	struct tlb *t = c->tlb;
	for (unsigned i = 0; i < TLB_CONTEXTS; i++)
		if (t->tag[i].valid && t->tag[i].vpid == vpid)
			drop_page(t, &t->ctx[i], la.v);
}

void mmu_invlpg(struct cpu *c, gva_t la)
{
	struct tlb_tag now;
	fill_tag(c, &now);
	mmu_invlpg_vpid(c, now.vpid, la);
}

void mmu_flush_pkeys(struct cpu *c)
{
	struct tlb *t = c->tlb;
	for (unsigned i = 0; i < TLB_CONTEXTS; i++) {
		struct tlb_ctx *x = &t->ctx[i];
		if (!t->tag[i].valid || !(t->tag[i].key & CR4_PKE))
			continue;
		drop_runs(t, x);
		for (unsigned k = 0; k < array_len(x->used); k++)
			for (u64 m = x->used[k]; m; m &= m - 1) {
				struct tlb_entry *e = &x->e[64 * k + __builtin_ctzll(m)];
				if (e->perm & TLB_PKEY) {
					clear_entry(t, x, (unsigned)(e - x->e));
					x->used[k] &= ~(m & -m);
				}
			}
	}
}

static void write_protect(const struct mem *mem, struct tlb *t, struct tlb_ctx *x, u64 frame)
{
	for (unsigned cls = 0; t->banks && cls < 3; cls++)
		close_windows(mem, &banks_of(t, x)[cls], frame);
	for (unsigned k = 0; k < array_len(x->used); k++)
		for (u64 m = x->used[k]; m; m &= m - 1) {
			struct tlb_entry *e = &x->e[64 * k + __builtin_ctzll(m)];
			if (e->frame == frame) {
				e->perm &= ~TLB_W_ALL;
				bank_drop(t, x, e);
			}
		}
}

void mmu_write_protect(struct cpu *c, u64 frame)
{
	struct tlb *t = c->tlb;
	if (frame >= c->mem->frames || !t->maybe_written[frame])
		return;
	for (unsigned i = 0; i < TLB_CONTEXTS; i++)
		if (t->maybe_written[frame] & (1u << (i & 7)))
			write_protect(c->mem, t, &t->ctx[i], frame);
	t->maybe_written[frame] = 0;
}
