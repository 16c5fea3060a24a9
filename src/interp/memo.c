/* Instructions that were decoded before, by their bytes. Programs say the same over and over (saves of registers, moves, tests, calls' frames), and a kernel that starts inside
 * another is the other's code again: more than half of what is decoded has been decoded lately, and to find it here takes a tenth of the time.
 *
 * Surprise: nothing says how long the next instruction is. But no instruction is the beginning of another, so it is looked for by each length, the frequent ones first. */
#include "interp/interp.h"
#include <stdlib.h>

#define BITS_MOST 15 /* 2 MiB for a machine with one vCPU; several share that */
#define BITS_LEAST 12
#define LONGEST 8

struct memo {
	u64 bytes;  /* of the instruction, zeros behind them */
	u16 mode;
	bool end, last;
	struct insn insn; /* RIP-relative: disp as encoded; a chained direct branch: imm as encoded */
};

int memo_create(struct interp *e, unsigned ncpus)
{
	unsigned bits = BITS_MOST;
	while (bits > BITS_LEAST && ncpus > 1u << (BITS_MOST - bits))
		bits--;
	e->memo_shift = 64 - bits;
	e->memo = calloc(1u << bits, sizeof *e->memo);
	return e->memo ? 0 : -1;
}

void memo_destroy(struct interp *e) { free(e->memo); }

static struct memo *place(const struct interp *e, u64 bytes, unsigned len, u32 mode)
{
	return &e->memo[(bytes * 8 + len + ((u64)mode << 32)) * 0x9e3779b97f4a7c15ull >> e->memo_shift];
}

static const struct memo *find(const struct interp *e, u32 mode, const u8 *bytes, unsigned avail)
{
	static const u8 lengths[] = { 3, 4, 2, 5, 7, 1, 6, 8 };
	u64 all = 0;
	memcpy(&all, bytes, min_u64(avail, sizeof all));
	for (unsigned n = 0; n < array_len(lengths); n++) {
		unsigned len = lengths[n];
		u64 first = all & low_mask(8 * len);
		const struct memo *m = place(e, first, len, mode);
		if (m->bytes == first && m->insn.len == len && m->mode == mode && len <= avail)
			return m;
	}
	return NULL;
}

/* One whose offsets count from its block's start (fix_direct() in branch.c): no other instruction without a memory operand has a displacement. */
static bool is_direct(const struct insn *i) { return i->disp && !(i->flags & INSN_MEM); }

bool memo_find(const struct interp *e, u32 mode, const u8 *bytes, unsigned avail, unsigned off, struct insn *to, bool *end, bool *last)
{
	const struct memo *m = find(e, mode, bytes, avail);
	if (!m)
		return false;
	*to = m->insn;
	to->off = (u16)off;
	*end = m->end;
	*last = m->last;
	if (is_direct(to)) {
		to->disp = (i32)off + to->len;
		to->imm += (u64)to->disp;
	}
	if (!(to->flags & INSN_RIPREL))
		return true;
	i64 disp = (i64)to->disp + off + to->len;
	to->disp = (i32)disp;
	return to->disp == disp || to->asize == 4;
}

/* What depends on the bytes and the mode alone; the caller sees to aux, which may be more. */
void memo_keep(struct interp *e, u32 mode, const u8 *bytes, const struct insn *i, bool end, bool last)
{
	u64 first = 0;
	if (!i->len || i->len > LONGEST)
		return;
	memcpy(&first, bytes, i->len);
	struct memo *m = place(e, first, i->len, mode);
	*m = (struct memo){ .bytes = first, .mode = (u16)mode, .end = end, .last = last, .insn = *i };
	if (is_direct(i))
		m->insn.imm -= (u64)i->disp;
	if (i->flags & INSN_RIPREL)
		m->insn.disp = (i32)((u32)i->disp - i->off - i->len);
}
