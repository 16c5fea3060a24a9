/* REP STOS and REP MOVS of 64-bit code, for the case that kernels have all the time: upwards, within one page that the TLB knows, and no more than that page. Not here: what
 * they do otherwise; that is interp/string.c, which the handler's call behind the short way reaches.
 *
 * Surprise: the flags are in memory, for C may change the host's, but no register of the guest's but RCX, RSI and RDI changes. */
#include "jit/sys.h"
#include "jit/vec.h"

/* Host address of la if the TLB permits the access, else NULL. */
static u8 *at_hand(struct cpu *c, u64 la, u32 need)
{
	const struct tlb_entry *e = mmu_hit(c, la, need);
	if (unlikely(!e && !(e = mmu_recall(c, la, need))))
		return NULL;
	return (u8 *)(la + e->addend);
}

/* Host code behind the handler's call, or NULL: nothing is done. */
u8 *jit_on_string(struct cpu *c, struct site *s)
{
	struct jit *j = jit_of(c);
	const struct insn *i = (const struct insn *)jit_host(j, s->helper);
	u64 *g = c->arch.gpr, n = g[GPR_RCX], di = g[GPR_RDI], si = g[GPR_RSI];
	unsigned size = i->opsize;
	u64 bytes = n * size;
	j->hot->ticks = 0;
	if (!n)
		return jit_host(j, s->retry);
	if (unlikely(n > PAGE_SIZE || (di & 0xfff) + bytes > PAGE_SIZE || (c->arch.rflags & FLAG_DF)))
		return NULL;
	u8 *to = at_hand(c, di, TLB_W(c->acc_class));
	if (unlikely(!to))
		return NULL;
	if (jit_rows[i->op].arg) {
		const u8 *from = (si & 0xfff) + bytes > PAGE_SIZE ? NULL : at_hand(c, si, TLB_R(c->acc_class));
		if (unlikely(!from))
			return NULL;
		string_copy(to, from, size, bytes);
		g[GPR_RSI] = si + bytes;
	} else {
		string_fill(to, g[GPR_RAX] & low_mask(8 * size), size, bytes);
	}
	g[GPR_RDI] = di + bytes;
	g[GPR_RCX] = 0;
	j->hot->ticks = n / (STRING_BYTES_PER_TICK / size);
	j->stats.strings++;
	return jit_host(j, s->retry);
}

bool e_string(struct tr *t, const struct insn *i)
{
	bool movs = jit_rows[i->op].arg;
	if (!(i->flags & (INSN_REP | INSN_REPNE)) || i->asize != 8 || t->width != 8 || t->j->lockstep || t->region ||
	    (movs && (i->seg == SEG_FS || i->seg == SEG_GS)))
		return false;
	tr_flags_save(t);
	tr_vec_flush(t);
	struct site *s = tr_handler_site(t, i);
	as_mov_imm(&t->a, S0, (u64)(uintptr_t)s);
	as_call(&t->a, t->j->way[WAY_STRING]);
	tr_call_handler(t, s, NULL);
	return true;
}
