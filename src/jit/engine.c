/* The engine: when to translate, how to get into host code, and what happens where it leaves. */
#include "jit/tr.h"
#include "jit/vec.h"
#include "mem/mem.h"
#include <asm/hwcap2.h>
#include <asm/prctl.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <unistd.h>

unsigned jit_hot = 12;

/* Code that is often made anew must have run up to 1 << jit_wary times as often. */
unsigned jit_wary = 8;

/* Host code looks up from its work after so many instructions; a loop's head that is found so often is the head of a region. */
unsigned jit_slice = 65536, jit_samples = 3;
#define NEVER 255

/* So many splits within SPLIT_INSNS instructions each: the block gets a twin without groups (twin.c), as a split costs some hundred. 0: all blocks have one,
 * for tests. */
#define SPLIT_INSNS 16384u
unsigned jit_splits = 32;

/* ---- getting in ---- */
static const struct block *running(const struct cpu *c) { return jit_of(c)->in.cur; }

hot_path u32 jit_vec_ok(struct cpu *c)
{
	u64 cr0 = c->arch.cr0, cr4 = c->arch.cr4;
	u32 ok = !(cr0 & (CR0_EM | CR0_TS)) && (cr4 & CR4_OSFXSR) ? VEC_OK_SSE : 0;
	if (!(cr0 & CR0_TS) && (cr4 & CR4_OSXSAVE) && (c->arch.xcr0 & 6) == 6)
		ok |= VEC_OK_AVX;
	if (!(cr0 & (CR0_EM | CR0_TS)) && vec_x87_open(c))
		ok |= VEC_OK_X87;
	return (ok & (VEC_OK_SSE | VEC_OK_AVX)) && vec_fp_open(c) ? ok | VEC_OK_FP : ok;
}

/* The bank is host code's GS segment. */
static void set_gs(const struct jit *j)
{
	if (likely(j->fsgsbase))
		asm volatile("wrgsbase %0" : : "r"(j->hot->bank));
	else
		syscall(SYS_arch_prctl, ARCH_SET_GS, j->hot->bank);
}

/* The current bank. Jump tables know addresses, not modes: what 64-bit code put there is nothing for 32-bit code. Supervisor code changes between its two
 * banks without asking (STAC). */
static struct tlb_bank *bank_of(struct cpu *c)
{
	struct tlb_bank *b = mmu_bank(c);
	bool flat = !(c->mode & MODE_L);
	if (unlikely(b->flat != flat))
		mmu_bank_mode(c, flat);
	return b;
}

/* All that C may have changed. */
hot_path static void prepare(struct cpu *c)
{
	struct jit *j = jit_of(c);
	struct tlb_bank *bank = bank_of(c);
	j->hot->vec_ok = jit_vec_ok(c);
	j->base = min_u64(c->budget_end, c->icount + jit_slice);
	j->hot->base = j->base;
	j->hot->left = j->base - c->icount;
	if (bank != j->hot->bank) {
		j->hot->bank = bank;
		set_gs(j);
	}
}

static enum step resume(struct cpu *c, const struct insn *i)
{
	const struct block *b = running(c);
	return (i == b->insn ? b->first : i->fn)(c, i);
}

void jit_run_code(struct cpu *c, struct block *b, u64 rip)
{
	struct jit *j = jit_of(c);
	struct code *k = b->code;
	c->icount -= b->n; /* host code counts for itself */
	prepare(c);
	jit_returns_begin(c);
	set_gs(j); /* another vCPU may have run on this thread */
	if (c->acc_class != 3)
		mmu_bank_runs(c, rip);
	j->hot->lazy_op = 0;
	j->resume = NULL;
	j->step = STEP_END;
	j->stats.entries++;
	j->last = NULL;
	((void (*)(void *, u64))j->enter)(k->far, rip);
}

/* The block was entered by a handler that host code had called: back there, which looks for host code itself. */
static enum step back_out(struct cpu *c, const struct block *b)
{
	c->icount -= b->n;
	c->arch.rip = c->arch.gpr[GPR_BLOCK_RIP];
	return STEP_END;
}

/* Handler of a translated block's first instruction. */
enum step jit_h_enter(struct cpu *c, const struct insn *i)
{
	struct jit *j = jit_of(c);
	struct block *b = j->in.cur;
	u64 rip = c->arch.gpr[GPR_BLOCK_RIP];
	if (unlikely(j->lockstep))
		return lockstep_enter(c, i);
	if (j->inside)
		return back_out(c, b);
	if (unlikely(j->path.on)) {
		jit_record(c, b, rip);
		if (j->path.on)
			return b->first(c, i);
	}
	for (;;) {
		jit_run_code(c, b, rip);
		if (j->step != STEP_END || cpu_must_service(c) || !jit_mode(c->mode))
			return j->step;
		rip = c->arch.rip;
		b = block_peek(c, rip);
		if (!b)
			return STEP_END;
		if (!b->code || j->path.on)
			return block_enter(c, b, rip);
		c->icount += b->n;
	}
}

/* Cold code says where its indirect jumps lead: a guess is all that it is wanted for. */
static void note_next(struct jit *j, struct block *b)
{
	if (j->last && j->last->frame[0] == b->frame[0])
		j->last->next_off = b->off;
	j->last = b;
}

/* Handler of the first instruction of a block that is not hot yet. */
enum step jit_h_count(struct cpu *c, const struct insn *i)
{
	struct block *b = jit_of(c)->in.cur;
	note_next(jit_of(c), b);
	if (likely(++b->heat < jit_hot << min_u64(jit_of(c)->rewritten[b->frame[0]] / 8, jit_wary)))
		return b->first(c, i);
	if (jit_of(c)->inside) { /* translating may throw all code away, and some of it called us */
		b->heat--;
		return back_out(c, b);
	}
	if (jit_translate(c, b)) {
		b->insn[0].fn = jit_h_enter;
		return jit_h_enter(c, i);
	}
	b->insn[0].fn = b->first;
	return b->first(c, i);
}

/* ---- getting out ---- */
static u64 lazy_second(const struct hot *h)
{
	if (h->lazy_op & LAZY_IMM)
		return (u64)(i64)((i32)h->lazy_op >> 16);
	return h->lazy_op & LAZY_SAME ? h->lazy_a : h->lazy_b;
}

hot_path void jit_settle_flags(struct cpu *c, const struct site *s)
{
	struct hot *h = jit_of(c)->hot;
	const struct recipe *r = &s->recipe;
	if (s->live)
		c->arch.cc = jit_flags(r->op, r->size, c->arch.gpr[r->a], r->imm ? (u64)(i64)r->v : c->arch.gpr[r->b], c->arch.cc);
	else if ((u8)h->lazy_op)
		c->arch.cc = jit_flags((u8)h->lazy_op >> 4, 1u << (h->lazy_op & 3), h->lazy_a, lazy_second(h), c->arch.cc);
	h->lazy_op = 0;
}

static void close_fp(struct cpu *c)
{
	struct hot *h = jit_of(c)->hot;
	if (h->mxcsr_used) {
		vec_fp_close(c);
		h->mxcsr_used = 0;
	}
}

/* As the interpreter wants it in the middle of the site's block. */
static void settle(struct cpu *c, struct site *s)
{
	struct jit *j = jit_of(c);
	jit_settle_flags(c, s);
	if (s->vec_dirty)
		jit_vec_write_back(c, s);
	close_fp(c);
	c->icount = j->base - j->hot->left;
	j->in.cur = jit_block(j, s);
	c->arch.gpr[GPR_BLOCK_RIP] = j->hot->page + jit_block(j, s)->off;
}

/* What pends between two blocks; false: the engine's loop has to go on. It asks again for what it has to tell the VM, and begins a single step anew. */
static bool serve(struct cpu *c)
{
	struct exit_record what;
	if ((c->pending & PEND_STEP) || !cpu_service(c, &what))
		return false;
	if (likely(!cpu_must_service(c)))
		return true;
	c->step = 0;
	return false;
}

/* May host code go on at arch.rip, as far as everything but the code itself goes? */
static bool may_go_on(struct cpu *c)
{
	struct jit *j = jit_of(c);
	if (unlikely(j->lockstep || c->dbg)) /* a debugger is asked in the engine's loop */
		return false;
	if (unlikely(cpu_must_service(c)) && !serve(c))
		return false;
	return likely(jit_mode(c->mode) && c->acc_class != 3);
}

/* Host code at rip, or NULL; then *b is the block, NULL if there is none yet. */
static u8 *code_at(struct cpu *c, u64 rip, struct block **b)
{
	struct jit *j = jit_of(c);
	j->in.xneed = c->arch.cpl == 3 ? TLB_XU : TLB_XS;
	const struct tlb_jump *at = mmu_bank_find_jump(bank_of(c), rip);
	if (likely(at != NULL))
		return at->code;
	*b = block_peek(c, rip);
	if (!*b || !(*b)->code)
		return NULL;
	u8 *code = ((struct code *)(*b)->code)->far;
	mmu_bank_jump(c, rip, code);
	j->stats.jump_fills++;
	return code;
}

/* Has no host code and gets none soon. One that still counts may be translated when it is entered, and must not be while host code waits for us. */
static bool stays_cold(const struct cpu *c, const struct block *b)
{
	const struct jit *j = jit_of(c);
	if (!b || (!(c->mode & MODE_L) && c->arch.rip + b->bytes - 1 > c->arch.seg[SEG_CS].limit))
		return false;
	return !b->code && b->insn[0].fn != jit_h_count && b->insn[0].fn != jit_h_enter && !j->path.on && !(trace_mask & (BIT(TRACE_INSN) | BIT(TRACE_BLOCK)));
}

#define COLD_RUN 16 /* cold blocks in a row until the engine's loop takes over */

/* C has brought the guest to arch.rip. On in host code if nothing else is to be done and there is some, else out. Blocks that cross a page or consist
 * of one handler lie on every kernel's hot ways: they run from here, which is a quarter of the price of leaving and coming back. */
hot_path static u8 *go_on(struct cpu *c)
{
	struct jit *j = jit_of(c);
	for (unsigned n = 0; n < COLD_RUN && may_go_on(c); n++) {
		struct block *b = NULL;
		u64 rip = c->arch.rip;
		u8 *code = code_at(c, rip, &b);
		if (likely(code != NULL)) {
			prepare(c);
			jit_returns_switch(c);
			j->hot->s0 = rip;
			j->stats.stays++;
			return code;
		}
		if (!stays_cold(c, b))
			return NULL;
		j->stats.cold++;
		j->inside = true;
		enum step step = block_enter(c, b, rip);
		j->inside = false;
		if (step == STEP_FAULT) {
			interp_uncount_fault(c);
			cpu_take_fault(c);
		}
	}
	return NULL;
}

/* A handler has ended with step s. */
static u8 *after_handler(struct cpu *c, enum step s)
{
	if (s == STEP_FAULT) {
		interp_uncount_fault(c);
		cpu_take_fault(c);
	}
	return go_on(c);
}

/* Host code has run an STI of a guest's, and is about to leave at the next instruction: now somebody may ask for the shadow (sys.c). */
static bool in_sti_shadow(const struct cpu *c, const struct insn *i)
{
	return c->arch.guest_mode && i->off && jit_sti_shadow(i) && i[-1].op == ZYDIS_MNEMONIC_STI && !jit_of(c)->lockstep;
}

/* The interpreter goes on with this instruction, to the end of its block or of the cold ones that follow. */
hot_path static u8 *leave_to(struct cpu *c, struct site *s)
{
	struct jit *j = jit_of(c);
	const struct insn *i = &jit_block(j, s)->insn[s->slot];
	settle(c, s);
	j->prof_left[i->op]++;
	jit_often(&j->left_often, insn_rip(c, i), 0);
	if (unlikely(in_sti_shadow(c, i))) {
		interp_uncount(c, i, false);
		c->arch.rip = insn_rip(c, i);
		cpu_set_shadow(c, SHADOW_STI); /* a single step ends it */
		return NULL;
	}
	j->resume = i;
	if (j->lockstep)
		return NULL;
	j->inside = true;
	enum step step = resume(c, i);
	j->inside = false;
	return after_handler(c, step);
}

static u8 *leave_at(struct cpu *c, struct site *s, u64 rip)
{
	settle(c, s);
	c->arch.rip = rip;
	return go_on(c);
}

/* Host code left at a loop's edge to b, because its time was up. True: let the interpreter run a round and be watched. */
static bool looped(struct cpu *c, struct block *b, struct site *s)
{
	struct jit *j = jit_of(c);
	if ((i64)j->hot->left > 0)
		return false;
	j->stats.samples++;
	if (b->samples == NEVER || ((struct code *)b->code)->loop)
		return false;
	if (++b->samples % jit_samples)
		return false;
	if (b->samples >= 4 * jit_samples) {
		b->samples = NEVER;
		return false;
	}
	j->path.n = 0;
	j->path.head = b;
	j->path.on = true;
	return true;
}

/* A jump table still knows a block that has died. It forgets it, or every jump to that address would come here. */
static u8 *on_gone(struct cpu *c, struct site *s)
{
	struct jit *j = jit_of(c);
	jit_settle_flags(c, s);
	close_fp(c);
	c->icount = j->base - j->hot->left;
	c->arch.rip = j->hot->s0;
	mmu_bank_forget_jump(c, c->arch.rip);
	return go_on(c);
}

/* The registers are stored now, so everything may happen. */
static u8 *on_go_on(struct cpu *c)
{
	struct jit *j = jit_of(c);
	close_fp(c);
	c->icount = j->base - j->hot->left;
	c->arch.rip = j->hot->s0;
	return go_on(c);
}

/* A direct jump within the page. Its target's code is at hand: aimed there, and on. */
static u8 *on_link(struct cpu *c, struct site *s)
{
	struct jit *j = jit_of(c);
	u64 rip = j->hot->page + (u64)(i64)s->link.off;
	if (!(c->mode & MODE_L))
		rip = (u32)rip;
	struct block *b = block_peek(c, rip);
	if (!j->lockstep && b && b->code && s->link.to && looped(c, b, s)) {
		settle(c, s);
		c->arch.rip = rip;
		return NULL;
	}
	if (!j->lockstep && b && b->code && !s->link.to) {
		jit_link(c, s, b);
		j->stats.links++;
	}
	return leave_at(c, s, rip);
}

/* An SSE operand's alignment fault comes before its page fault. */
static bool misaligned(const struct insn *i, u64 la) { return tr_is_vec(i) && (la & i->aux8); }

static void note_miss(struct cpu *c, u64 la)
{
	struct jit *j = jit_of(c);
	const struct tlb_fast *f = &j->hot->bank->e[(la >> 12) & (TLB_ENTRIES - 1)];
	j->stats.misses++;
	jit_often(&j->miss_beside, la & PAGE_MASK, f->r);
}

static void note_jump(struct cpu *c, u64 rip)
{
	struct jit *j = jit_of(c);
	j->stats.jumps++;
	jit_often(&j->jump_beside, rip, j->hot->bank->jump[mmu_jump_slot(rip)].rip);
}

/* ---- guesses (memory.c) ---- */
/* What wrong guesses may cost: one in so many instructions of the guest, of this site, or of all when they are asked about in turn. */
#define WRONG_OWN 1500u
#define WRONG_ALL 250u
#define ASKS_MARK 2    /* so many times in a row that was too much: the next translation does not guess here */
#define GUESSES_HOT 2000 /* but it is not made for the sake of this site before so many more: they cost what it would */

/* The site has been wrong too often again. */
static void scatter(struct cpu *c, struct block *b, struct site *s)
{
	jit_of(c)->stats.scattered += !(b->scattered >> s->slot & 1);
	b->scattered |= 1u << s->slot;
	if (s->probe.asks == ASKS_MARK) {
		s->probe.left = GUESSES_HOT;
		return;
	}
	jit_drop_containing(c, b, false);
	if (b->code)
		jit_drop(c, b);
}

/* The page was in its place: too many guesses of another have been wrong. */
static void on_wrong_guesses(struct cpu *c, struct site *s)
{
	struct jit *j = jit_of(c);
	struct block *b = jit_block(j, s);
	u64 now = j->base - j->hot->left, wrong = s->probe.asks < ASKS_MARK ? GUESSES : GUESSES_HOT;
	j->stats.asks++;
	if (++j->asks.n == 64) {
		j->asks.often = now - j->asks.since < 64ull * GUESSES * WRONG_ALL;
		j->asks.since = now;
		j->asks.n = 0;
	}
	if (s->probe.since && (j->asks.often || (u16)((now >> 8) - s->probe.since) < wrong * WRONG_OWN >> 8))
		s->probe.asks = (u8)min_u64(s->probe.asks + 1u, ASKS_MARK + 1);
	else
		s->probe.asks = 0;
	s->probe.since = (u16)(now >> 8 | 1);
	jit_guess(j, s, (u32)j->hot->s1);
	if (s->probe.asks >= ASKS_MARK && b->key != BLOCK_DEAD_KEY)
		scatter(c, b, s);
}

/* Host code that is written is slow the next time: not for each page that is missed. */
static void guess_after_miss(struct jit *j, struct site *s, u64 la)
{
	if (s->guess && (s->probe.left -= 4) < 0)
		jit_guess(j, s, ((la >> 12) & (TLB_ENTRIES - 1)) * sizeof(struct tlb_fast));
}

/* mmu_span() found nothing at la, which the instruction wants, and says why in c->fault. A fault is delivered from this walk; devices and the like are the interpreter's. */
static u8 *on_fault(struct cpu *c, struct site *s, u64 la)
{
	struct jit *j = jit_of(c);
	if (c->fault.kind == EVENT_NONE || s->twice || j->lockstep || misaligned(&jit_block(j, s)->insn[s->slot], la)) {
		j->stats.slow++;
		return leave_to(c, s);
	}
	j->stats.faults++;
	settle(c, s);
	if (in_sti_shadow(c, &jit_block(j, s)->insn[s->slot]))
		c->arch.shadow |= SHADOW_STI;
	return after_handler(c, STEP_FAULT);
}

/* Behind the probe, or the store. In a region registers have to be put into place first. */
static u8 *behind(const struct jit *j, const struct site *s)
{
	return s->probe.split ? jit_host(j, s->probe.split) : jit_behind_probe(j, s) + s->probe.store;
}

/* A load that goes on in the next page: its bytes from both, put together where the host's address has the alignment of the guest's. NULL: it is not plain memory. */
static u8 *on_border(struct cpu *c, const struct site *s, u64 la)
{
	struct jit *j = jit_of(c);
	u64 first = PAGE_SIZE - (la & 0xfff), one = first, other = s->size - first;
	u8 *to = j->hot->both + (la & 63);
	if (s->size > 64 || !cpu_canonical(la) || !cpu_canonical(la + s->size - 1) || (!(c->mode & MODE_L) && la + s->size > BIT(32)))
		return NULL;
	const void *from = mmu_span(c, la, false, &one);
	if (!from || one != first)
		return NULL;
	memcpy(to, from, first);
	from = mmu_span(c, la + first, false, &other);
	if (!from || first + other != s->size)
		return NULL;
	memcpy(to + first, from, other);
	j->hot->s0 = (uintptr_t)to;
	j->hot->borders++;
	mmu_bank_fill(c, mmu_hit(c, la + first, 0)); /* the thunk will know it */
	return behind(j, s);
}

/* Memory that may be written, if perhaps not unseen. */
static bool plain_page(struct cpu *c, u64 la)
{
	u64 len = 1;
	if (mmu_span(c, la, true, &len))
		return true;
	const struct tlb_entry *e = mmu_hit(c, la, TLB_OK_W(c->acc_class));
	return c->fault.kind == EVENT_NONE && e && !(e->perm & (TLB_IO | TLB_ROM));
}

/* A MOV to memory that goes on in the next page, or to a page with decoded code: done here, and host code goes on behind it, unless it changed code that runs. False:
 * nothing is done. *to: as jit_on_site(). */
static bool on_store(struct cpu *c, struct site *s, u64 la, u8 **to)
{
	struct jit *j = jit_of(c);
	const struct insn *i = &jit_block(j, s)->insn[s->slot];
	u64 last = la + s->size - 1, kills = j->kills;
	if (!s->probe.store || !cpu_canonical(la) || !cpu_canonical(last) || (!(c->mode & MODE_L) && last >> 32) || !plain_page(c, la) || !plain_page(c, last))
		return false;
	if (!mmu_write_slow(c, la, s->size, i->flags & INSN_IMM ? i->imm : rd_size(c, i->src, s->size)))
		return false;
	j->stats.stores++;
	*to = behind(j, s);
	if (likely(j->kills == kills))
		return true;
	settle(c, s);
	interp_uncount(c, i, true);
	c->arch.rip = insn_next_rip(c, i);
	*to = go_on(c);
	return true;
}

static void fill(struct cpu *c, u64 la)
{
	struct jit *j = jit_of(c);
	mmu_bank_fill(c, mmu_hit(c, la, 0));
	if (!j->lockstep)
		j->stats.windows += mmu_bank_window(c, la);
}

static u8 *on_miss(struct cpu *c, struct site *s)
{
	struct jit *j = jit_of(c);
	struct hot *h = j->hot;
	const struct tlb_fast *f = (const struct tlb_fast *)((u8 *)h->bank + h->s1);
	bool write = s->kind == SITE_WRITE;
	u64 la = h->s0 ^ (write ? f->w : f->r), len = s->size;
	if (s->guess && h->s0 <= s->probe.limit) {
		on_wrong_guesses(c, s);
		return jit_host(j, s->retry);
	}
	note_miss(c, la);
	if ((la & 0xfff) + s->size <= PAGE_SIZE && cpu_canonical(la)) {
		c->icount = j->base - h->left;
		c->arch.rip = h->page + jit_block(j, s)->off + jit_block(j, s)->insn[s->slot].off;
		c->fault.kind = EVENT_NONE;
		if (!mmu_span(c, la, write, &len)) {
			u8 *to;
			return write && c->fault.kind == EVENT_NONE && on_store(c, s, la, &to) ? to : on_fault(c, s, la);
		}
		fill(c, la);
		guess_after_miss(j, s, la);
		if (!s->twice)
			return jit_host(j, s->retry);
	}
	if (s->probe.at && (la & 0xfff) + s->size > PAGE_SIZE && !j->lockstep) {
		u8 *to = write ? NULL : on_border(c, s, la);
		if (write ? on_store(c, s, la, &to) : to != NULL)
			return to;
	}
	j->stats.slow++;
	return leave_to(c, s);
}

/* A group missed, and its page cannot do all that its members want. */
static u8 *on_split(struct cpu *c, struct site *s)
{
	struct jit *j = jit_of(c);
	struct block *b = jit_block(j, s);
	u64 now = j->base - j->hot->left;
	j->stats.splits++;
	jit_often(&j->split_at, j->hot->page + b->off + b->insn[s->slot].off, s->probe.split != 0);
	if (now - b->misses_since > (u64)jit_splits * SPLIT_INSNS) {
		b->misses = 0;
		b->misses_since = now;
	}
	if (++b->misses >= jit_splits && !s->probe.split) {
		b->plain = true;
		jit_drop_containing(c, b, true);
		if (b->code)
			jit_drop(c, b);
	}
	return s->probe.split ? jit_host(j, s->probe.split) : leave_to(c, s);
}

/* A group that writes to a page with decoded code, but not to any of it: host code goes on with the page as if it were another one, for with one vCPU nobody else decodes. NULL:
 * it is not that. */
static u8 *on_group_beside_code(struct cpu *c, const struct site *s, u64 la)
{
	struct jit *j = jit_of(c);
	const struct tlb_entry *e = mmu_hit(c, la, TLB_OK_W(c->acc_class));
	unsigned first = (unsigned)(la & 0xfff) / 64, last = (unsigned)((la & 0xfff) + s->size - 1) / 64;
	if (c->ncpus > 1 || s->kind != SITE_WRITE || s->host || s->probe.split || s->vec || !e || (e->perm & (TLB_IO | TLB_ROM)) || c->mem->dirty_log)
		return NULL;
	if (mem_code_lines(c->mem, e->frame) & low_mask(last + 1) & ~low_mask(first))
		return NULL;
	mem_will_write(c->mem, e->frame);
	j->hot->host = la + e->addend;
	j->stats.stores++;
	return jit_behind_probe(j, s);
}

static u8 *on_group_miss(struct cpu *c, struct site *s)
{
	struct jit *j = jit_of(c);
	struct hot *h = j->hot;
	const struct tlb_fast *f = (const struct tlb_fast *)((u8 *)h->bank + h->s1);
	bool write = s->kind == SITE_WRITE;
	u64 at = s->host || s->probe.split ? h->keep[s->host] : h->host, la = at ^ (write ? f->w : f->r), len = s->size;
	if (s->guess && at <= s->probe.limit) {
		on_wrong_guesses(c, s);
		return jit_host(j, s->retry);
	}
	note_miss(c, la);
	if ((la & 0xfff) + s->size > PAGE_SIZE || !cpu_canonical(la))
		return on_split(c, s);
	c->icount = j->base - h->left;
	c->arch.rip = h->page + jit_block(j, s)->off + jit_block(j, s)->insn[s->slot].off;
	if (!mmu_span(c, la + s->first, s->writes, &len)) { /* what the instruction itself wants: its fault is exact */
		u8 *to = c->fault.kind == EVENT_NONE ? on_group_beside_code(c, s, la) : NULL;
		return to ? to : on_fault(c, s, la + s->first);
	}
	fill(c, la);
	guess_after_miss(j, s, la);
	f = &h->bank->e[(la >> 12) & (TLB_ENTRIES - 1)];
	return (write ? f->w : f->r) == (la & PAGE_MASK) ? jit_host(j, s->retry) : on_split(c, s);
}

/* A CALL that found no host code has put the guest's return address on the host's stack, and none of the host to go with it. It goes: the next RET would take
 * it for one of the host. In its place is what a new stretch's bottom must hold (returns.c). */
static void take_back_return(struct jit *j)
{
	struct hot *h = j->hot;
	*(u8 **)(uintptr_t)h->rsp = h->ret_empty;
	h->rsp += 8;
}

static u8 *on_jump(struct cpu *c, struct site *s)
{
	struct jit *j = jit_of(c);
	u64 rip = j->hot->s0;
	note_jump(c, rip);
	if (j->lockstep && !s->far && cpu_canonical(rip) && c->acc_class != 3) {
		mmu_bank_jump(c, rip, j->gone);
		return jit_host(j, s->retry);
	}
	if (cpu_canonical(rip) && c->acc_class != 3 && !j->lockstep) {
		const struct tlb_jump *at = mmu_bank_find_jump(j->hot->bank, rip);
		struct block *b = at ? NULL : block_peek(c, rip);
		if (b && b->code) {
			j->stats.jump_fills++;
			mmu_bank_jump(c, rip, ((struct code *)b->code)->far);
			at = mmu_bank_find_jump(j->hot->bank, rip);
		}
		if (at && s->guess)
			jit_guess_jump(j, s, (unsigned)(at - j->hot->bank->jump));
		if (at)
			return jit_host(j, s->retry);
	}
	if (!s->far)
		return leave_to(c, s);
	if (s->call)
		take_back_return(j);
	if (cpu_canonical(rip) || !jit_block(j, s)->insn[s->slot].disp)
		return leave_at(c, s, rip);
	if (s->call) /* faults before RSP moves */
		c->arch.gpr[GPR_RSP] += 8;
	return leave_to(c, s);
}

/* A RET whose target the host's stack did not know. */
static u8 *on_ret(struct cpu *c)
{
	struct jit *j = jit_of(c);
	struct site *s = (struct site *)j->hot->ret;
	u64 rip = j->hot->s0;
	note_jump(c, rip);
	if (!cpu_canonical(rip)) { /* faults before RSP moves */
		c->arch.gpr[GPR_RSP] -= 8 + (u16)jit_block(j, s)->insn[s->slot].imm;
		return leave_to(c, s);
	}
	struct block *b = c->acc_class == 3 || j->lockstep ? NULL : block_peek(c, rip);
	if (!b || !b->code || (i64)j->hot->left <= 0)
		return leave_at(c, s, rip);
	j->stats.jump_fills++;
	mmu_bank_jump(c, rip, ((struct code *)b->code)->far);
	return ((struct code *)b->code)->far;
}

static u8 *on_helper(struct cpu *c, struct site *s)
{
	struct jit *j = jit_of(c);
	const struct insn *i = (const struct insn *)jit_host(j, s->helper);
	j->stats.helper_calls++;
	j->prof_helper[i->op]++;
	u64 kills = j->kills;
	settle(c, s);
	enum step step = i->fn(c, i);
	if (step != STEP_GO)
		return after_handler(c, step);
	if (unlikely(cpu_must_service(c) || j->kills != kills)) { /* what died may be what comes next: in this block, or joined to it */
		interp_uncount(c, i, true);
		c->arch.rip = insn_next_rip(c, i);
		return go_on(c);
	}
	prepare(c);
	jit_returns_switch(c);
	return jit_host(j, s->retry);
}

enum step jit_h_return(struct cpu *c, const struct insn *i) { return STEP_GO; }

hot_path u8 *jit_on_site(struct cpu *c, struct site *s)
{
	struct jit *j = jit_of(c);
	switch ((enum site_kind)s->kind) {
	case SITE_READ:
	case SITE_WRITE: return s->group ? on_group_miss(c, s) : on_miss(c, s);
	case SITE_JUMP: return on_jump(c, s);
	case SITE_RESUME: return leave_to(c, s);
	case SITE_LINK: return on_link(c, s);
	case SITE_HELPER: return j->lockstep ? leave_to(c, s) : on_helper(c, s);
	case SITE_FLAGS: jit_settle_flags(c, s); return jit_host(j, s->retry);
	case SITE_LOG: lockstep_log(c, s); return jit_host(j, s->retry);
	case SITE_RET: return on_ret(c);
	case SITE_GONE: return on_gone(c, s);
	case SITE_GO_ON: return on_go_on(c);
	}
	return NULL;
}

/* ---- lifetime ---- */
/* For tests: NESTBOX_TEST_HOST_LACKS=avx2,bmi2,fsgsbase makes an old host of this one. */
static bool lacks(const char *feature)
{
	const char *list = getenv("NESTBOX_TEST_HOST_LACKS");
	return list && strstr(list, feature);
}

static int create(struct cpu *c, bool lockstep)
{
	struct jit *j = calloc(1, sizeof *j);
	if (!j)
		return -ENOMEM;
	j->lockstep = lockstep;
	__builtin_cpu_init();
	j->avx = __builtin_cpu_supports("avx2") && !lacks("avx2");
	j->bmi2 = __builtin_cpu_supports("bmi2") && !lacks("bmi2");
	j->fsgsbase = (getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE) && !lacks("fsgsbase");
	j->in.arena_bytes = jit_blocks_bytes(c);
	int err = interp_init(c, &j->in);
	if (!err)
		err = mmu_banks_create(c);
	if (!err)
		err = jit_cache_create(c);
	if (!err && !(j->rewritten = calloc(c->mem->frames, 1)))
		err = -ENOMEM;
	if (!err)
		j->in.hooks = &jit_hooks;
	return err;
}

static int jit_create(struct cpu *c) { return create(c, false); }
static int lockstep_create(struct cpu *c) { return create(c, true); }

static void jit_destroy(struct cpu *c)
{
	if (!c->engine)
		return;
	interp_fini(c);
	jit_cache_destroy(c);
	free(jit_of(c)->rewritten);
	free(c->engine);
	c->engine = NULL;
}

const struct engine_ops jit_engine = {
	.name = "jit",
	.create = jit_create,
	.destroy = jit_destroy,
	.run = interp_run,
	.forget = block_forget,
	.forget_all = block_forget_all,
	.sync = vec_sync,
	.print_stats = jit_print_stats,
};

const struct engine_ops lockstep_engine = {
	.name = "lockstep",
	.create = lockstep_create,
	.destroy = jit_destroy,
	.run = interp_run,
	.forget = block_forget,
	.forget_all = block_forget_all,
	.sync = vec_sync,
	.print_stats = jit_print_stats,
};
