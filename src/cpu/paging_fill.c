/* A TLB miss: guest walk, permissions, nested walk, A/D flags, new entry. Also the cache of nested paging-structure
 * pages. Surprise: the order. Permissions come before the nested walk of the final page, because a #PF has priority
 * over an EPT violation there (SDM "EPT Violations"), and A/D flags come last, so that an access that faults leaves
 * none behind. */
#include "cpu/core.h"
#include "cpu/paging.h"

/* Host address of an L1-physical page. A write to ROM finds nothing. */
static void find_host(struct cpu *c, u64 page, u32 acc, u8 **host, u32 *frame)
{
	const struct mem_slot *s = mem_find(c->mem, page);
	*host = NULL;
	*frame = TLB_NO_FRAME;
	if (!s || ((acc & ACC_W) && s->kind == MEM_ROM))
		return;
	*host = s->host + (page - s->gpa);
	*frame = (u32)(s->frame + ((page - s->gpa) >> 12));
	mem_fetch(c->mem, *frame);
}

static enum walk_end nested_table(struct cpu *c, u64 at, u64 la, u32 acc, u8 **host, u32 *frame)
{
	u64 page = at & PAGE_MASK, root = c->tlb->cur_tag->npt_root;
	struct ntlb_entry *n = &c->tlb->ntlb[(at >> 12) & (NTLB_ENTRIES - 1)];
	struct npt_page np;
	if (likely(n->at == page && n->root == root && (n->w || !(acc & ACC_W)) && !(acc & ACC_PROBE))) {
		*host = n->host;
		*frame = n->frame;
		return WALK_OK;
	}
	if (!c->virt->npt_walk(c, l2gpa(at), acc, NPT_GUEST_PT, true, gva(la), &np)) {
		n->at = TLB_EMPTY; /* a violation forgets the mapping */
		return WALK_VIRT;
	}
	find_host(c, np.gpa & PAGE_MASK, acc, host, frame);
	if (!(acc & ACC_PROBE) && *host)
		*n = (struct ntlb_entry){ .at = page, .root = root, .host = *host, .frame = *frame,
					  .w = (acc & ACC_W) && np.w && np.dirty_ok };
	return WALK_OK;
}

enum walk_end paging_table(struct cpu *c, u64 at, u64 la, u32 acc, u8 **host, u32 *frame)
{
	if (paging_nested(c))
		return nested_table(c, at, la, acc, host, frame);
	find_host(c, at & PAGE_MASK, acc, host, frame);
	return WALK_OK;
}

static u32 lost_rights(const struct npt_page *np, const struct walk *w)
{
	u32 lost = np->r ? 0 : TLB_OK_R(0) | TLB_OK_R(1) | TLB_OK_R(2);
	if (!np->w || !np->dirty_ok)
		lost |= TLB_W_ALL << TLB_OK_SHIFT;
	if (!(w->u ? np->xu : np->x))
		lost |= TLB_XS | TLB_XU;
	return lost;
}

/* The final page through NPT. perm loses what NPT forbids; size: no more than NPT's page. */
static bool nested_page(struct cpu *c, u64 la, u32 acc, const struct walk *w, u64 *at, u32 *perm, u64 *size)
{
	struct npt_page np;
	u32 use = (acc & (ACC_R | ACC_W | ACC_X)) | (w->u ? ACC_UPAGE : 0); /* without paging every address is a user-mode one */
	if (!c->virt->npt_walk(c, l2gpa(w->gpa), use, NPT_DATA, true, gva(la), &np))
		return false;
	*at = np.gpa;
	*size = min_u64(*size, np.size);
	*perm &= ~lost_rights(&np, w);
	return true;
}

/* ---- pages that are likely to be next ---- */
#define AHEAD 16 /* entries */

/* Misses go up page by page. */
static bool in_sequence(struct tlb *t, u64 page)
{
	for (unsigned n = 0; n < TLB_STREAMS; n++)
		if (t->stream[n] == page) {
			t->stream[n] = page + (AHEAD + 1) * PAGE_SIZE;
			return true;
		}
	t->stream[t->stream_next++ % TLB_STREAMS] = page + PAGE_SIZE;
	return false;
}

/* Guest-physical `at` of a page ahead through NPT, without a trace of it. large: the last page found, which may be one of NPT's large ones. */
static bool nested_ahead(struct cpu *c, u64 la, const struct walk *w, struct npt_page *large, u64 *base, u64 *at, u32 *perm)
{
	if (*at - *base >= large->size) {
		if (!c->virt->npt_walk(c, l2gpa(*at), ACC_R | ACC_PROBE | (w->u ? ACC_UPAGE : 0), NPT_DATA, true, gva(la), large) || !large->accessed_ok)
			return false;
		*base = *at & ~(large->size - 1);
		large->gpa &= ~(large->size - 1);
	}
	*at = large->gpa + (*at - *base);
	*perm &= ~lost_rights(large, w);
	return true;
}

/* The walk of page la found a small page. Entries for the pages after it, as far as the next entries of the same table are like this one: present,
 * accessed, with the same rights. Nothing is written, nothing faults (SDM "Caching Translation Information": a processor may do so at any time). */
static void fill_ahead(struct cpu *c, u64 la, const struct walk *w)
{
	const struct walk_step *leaf = &w->step[w->n - 1];
	u64 high = low_mask(52) & ~low_mask(cpu_maxphyaddr(c)), address = low_mask(52) & PAGE_MASK;
	u32 rights = paging_rights(c, w);
	struct npt_page large = { .size = 0 };
	u64 base = 0;
	if (leaf->level || w->esize != 8 || !leaf->host)
		return;
	for (unsigned k = 1; k <= AHEAD && (leaf->at & 0xfff) + 8 * k < PAGE_SIZE; k++) {
		u64 pte = host_load((const u8 *)leaf->host + 8 * k, 8), at = pte & address, next = la + k * PAGE_SIZE;
		u32 perm = pte & PTE_D ? rights : rights & ~(TLB_W_ALL << TLB_OK_SHIFT);
		if (((pte ^ leaf->value) & ~(address | PTE_D)) || (pte & high))
			return;
		if (mmu_recall(c, next, 0))
			continue;
		if (paging_nested(c) && !nested_ahead(c, next, w, &large, &base, &at, &perm))
			return;
		tlb_insert(c, next, at & PAGE_MASK, perm);
	}
}

/* One try. WALK_OK with *e, or why not; faults are in cpu->fault. */
static enum walk_end fill_once(struct cpu *c, u64 la, u32 acc, unsigned cls, struct tlb_entry **e)
{
	struct walk w;
	enum walk_end end = paging_walk(c, la, acc & (ACC_R | ACC_W | ACC_X), &w);
	if (end == WALK_VIRT)
		return end;
	u32 perm = end == WALK_OK ? paging_rights(c, &w) : 0;
	u32 need = paging_need(acc, cls);
	if (!(perm & need)) {
		w.error |= end == WALK_OK ? PF_P : 0;
		paging_fault(c, la, acc, cls, &w);
		return WALK_PF;
	}
	u64 at = w.gpa, size = bit(w.shift);
	if (paging_nested(c) && !nested_page(c, la, acc, &w, &at, &perm, &size))
		return WALK_VIRT;
	end = paging_set_flags(c, la, acc, &w);
	if (end != WALK_OK)
		return end;
	if (!w.dirty)
		perm &= ~(TLB_W_ALL << TLB_OK_SHIFT); /* the first write walks again and sets D */
	if (in_sequence(c->tlb, la & PAGE_MASK) && w.n && !c->mem->source) {
		struct event saved = c->fault;
		fill_ahead(c, la & PAGE_MASK, &w);
		c->fault = saved;
	}
	if (size >= bit(TLB_RUN_SHIFT))
		tlb_note_run(c, la, at, perm);
	*e = tlb_insert(c, la, at & PAGE_MASK, perm);
	return WALK_OK;
}

struct tlb_entry *mmu_fill(struct cpu *c, u64 la, u32 acc, unsigned cls)
{
	struct tlb_entry *e = NULL;
	enum walk_end end;
	tlb_check_context(c);
	e = mmu_recall(c, la, paging_need(acc, cls));
	if (e)
		return e;
	c->stats.tlb_misses++;
	const struct tlb_run *r = tlb_run(c, la, paging_need(acc, cls));
	if (r)
		return tlb_insert(c, la, r->gpa + (la & low_mask(TLB_RUN_SHIFT) & PAGE_MASK), r->perm);
	do
		end = fill_once(c, la, acc, cls, &e);
	while (end == WALK_AGAIN);
	if (end != WALK_OK)
		tlb_forget_run(c, la); /* a fault, or a violation, makes the next access look again */
	return end == WALK_OK ? e : NULL;
}
