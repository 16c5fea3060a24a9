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

/* The final page through NPT. perm loses what NPT forbids. */
static bool nested_page(struct cpu *c, u64 la, u32 acc, const struct walk *w, u64 *at, u32 *perm)
{
	struct npt_page np;
	u32 use = (acc & (ACC_R | ACC_W | ACC_X)) | (w->u ? ACC_UPAGE : 0); /* without paging every address is a user-mode one */
	if (!c->virt->npt_walk(c, l2gpa(w->gpa), use, NPT_DATA, true, gva(la), &np))
		return false;
	*at = np.gpa;
	u32 lost = np.r ? 0 : TLB_OK_R(0) | TLB_OK_R(1) | TLB_OK_R(2);
	if (!np.w || !np.dirty_ok)
		lost |= TLB_W_ALL << TLB_OK_SHIFT;
	if (!(w->u ? np.xu : np.x))
		lost |= TLB_XS | TLB_XU;
	*perm &= ~lost;
	return true;
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
	u64 at = w.gpa;
	if (paging_nested(c) && !nested_page(c, la, acc, &w, &at, &perm))
		return WALK_VIRT;
	end = paging_set_flags(c, la, acc, &w);
	if (end != WALK_OK)
		return end;
	if (!w.dirty)
		perm &= ~(TLB_W_ALL << TLB_OK_SHIFT); /* the first write walks again and sets D */
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
	do
		end = fill_once(c, la, acc, cls, &e);
	while (end == WALK_AGAIN);
	return end == WALK_OK ? e : NULL;
}
