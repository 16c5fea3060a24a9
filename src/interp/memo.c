/* Instructions that were decoded before, by their bytes. Programs say the same over and over (saves of registers, moves, tests, calls' frames), and a kernel that starts inside
 * another is the other's code again: more than half of what is decoded has been decoded lately, and to find it here takes a tenth of the time.
 *
 * Surprise: nothing says how long the next instruction is. But no instruction is the beginning of another, so it is looked for by each length, the frequent ones first. */
#include "interp/interp.h"
#include <stdlib.h>

#define MEMO_SIZE 8192
#define LONGEST 8

struct memo {
	u64 bytes;  /* of the instruction, zeros behind them */
	u32 mode;
	struct insn insn;
};

int memo_create(struct interp *e)
{
	e->memo = calloc(MEMO_SIZE, sizeof *e->memo);
	return e->memo ? 0 : -1;
}

void memo_destroy(struct interp *e) { free(e->memo); }

static struct memo *place(const struct interp *e, u64 bytes, unsigned len, u32 mode)
{
	return &e->memo[(bytes * 8 + len + ((u64)mode << 32)) * 0x9e3779b97f4a7c15ull >> 51];
}

const struct insn *memo_find(const struct interp *e, u32 mode, const u8 *bytes, unsigned avail)
{
	static const u8 lengths[] = { 3, 4, 2, 5, 7, 1, 6, 8 };
	_Static_assert(MEMO_SIZE == 1 << (64 - 51), "place() has as many bits");
	u64 all = 0;
	memcpy(&all, bytes, min_u64(avail, sizeof all));
	for (unsigned n = 0; n < array_len(lengths); n++) {
		unsigned len = lengths[n];
		u64 first = all & low_mask(8 * len);
		const struct memo *m = place(e, first, len, mode);
		if (m->bytes == first && m->insn.len == len && m->mode == mode && len <= avail)
			return &m->insn;
	}
	return NULL;
}

/* What depends on the bytes and the mode alone: not where it is, not what else there is. */
void memo_keep(struct interp *e, u32 mode, const u8 *bytes, const struct insn *i)
{
	u64 first = 0;
	if (i->len > LONGEST || i->aux || (i->flags & INSN_RIPREL) || i->base == GPR_BLOCK_RIP)
		return;
	memcpy(&first, bytes, i->len);
	struct memo *m = place(e, first, i->len, mode);
	*m = (struct memo){ .bytes = first, .mode = mode, .insn = *i };
}
