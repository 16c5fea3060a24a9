/* Instructions that were decoded before, by their bytes up to the displacement and the immediate. Programs say the same over and over (saves of registers, moves, tests,
 * calls' frames), and without those values there are only some ten thousand things to say: nearly all that is decoded is found here, in a tenth of the time. What is
 * looked at shall stay in the host's second-level cache, so it is packed: two instructions in a line, both of which are looked at.
 *
 * Surprise: this is no decoder. Where an instruction's values begin is guessed by a rule of thumb; nothing is kept that Zydis sees otherwise, nor anything that
 * does not come out the same when it is put together again. */
#include "interp/interp.h"
#include <sys/mman.h>

#define BITS_MOST 13 /* lines: half a MiB for a machine with one vCPU; several share that */
#define BITS_LEAST 11
#define HEAD_MOST 6
#define WHAT offsetof(struct insn, base)
#define WHAT_BYTES (offsetof(struct insn, op) - WHAT)

struct known {
	u64 key;           /* head | mode << 48 | bytes of the head << 56; 0: nothing */
	i32 fn, aux;       /* from anchor(); aux 0: none */
	u8 what[WHAT_BYTES]; /* of struct insn, base to aux8 */
	u16 op;
	u8 disp_bytes : 3, imm_bytes : 3, imm_signed : 1;
	u8 direct : 1;     /* a chained direct branch: fix_direct() in branch.c */
	u8 end : 1, last : 1;
	u8 imm : 6;        /* when it is part of the head */
};
struct line { struct known known[2]; };
_Static_assert(sizeof(struct line) == 64, "one line of the host's cache");

struct memo {
	u8 modrm[3 * 256]; /* by map and opcode: there is a ModRM byte */
	unsigned shift;
	struct line line[] __attribute__((aligned(64)));
};

static size_t memo_bytes(unsigned bits) { return sizeof(struct memo) + (sizeof(struct line) << bits); }

int memo_create(struct interp *e, unsigned ncpus)
{
	unsigned bits = BITS_MOST;
	while (bits > BITS_LEAST && ncpus > 1u << (BITS_MOST - bits))
		bits--;
	struct memo *m = mmap(NULL, memo_bytes(bits), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (m == MAP_FAILED)
		return -1;
	m->shift = 64 - bits;
	e->memo = m;
	return 0;
}

void memo_destroy(struct interp *e)
{
	if (e->memo)
		munmap(e->memo, memo_bytes(64 - e->memo->shift));
}

/* ---- heads ---- */
static bool is_prefix(unsigned b, u32 mode)
{
	return ((mode & MODE_L) && (b & 0xf0) == 0x40) || b == 0x66 || (b & 0xe7) == 0x26 || (b & 0xfe) == 0x64 || b == 0x67 || b == 0xf0 || (b & 0xfe) == 0xf2;
}

/* Prefixes, opcode, ModRM and SIB of the instruction at the lowest byte, and the count of a shift, whose handler depends on it (interp_by_imm). *where: its place in
 * memo.modrm. The maps behind 0F 38 and 0F 3A, which have ModRM always, are one. */
static unsigned head_bytes(const struct memo *m, u64 all, u32 mode, unsigned *where)
{
	unsigned n = 0, map = 0;
	while (n < HEAD_MOST && is_prefix((u8)(all >> 8 * n), mode))
		n++;
	if ((u8)(all >> 8 * n) == 0x0f) {
		unsigned second = (u8)(all >> 8 * ++n);
		map = 1;
		if (second == 0x38 || second == 0x3a) {
			map = 2;
			n++;
		}
	}
	if (n > HEAD_MOST) { /* prefixes all over */
		*where = 0;
		return n;
	}
	*where = map << 8 | (u8)(all >> 8 * n++);
	if (n >= HEAD_MOST || !m->modrm[*where])
		return n;
	unsigned modrm = (u8)(all >> 8 * n++);
	return n + ((modrm & 7) == 4 && modrm < 0xc0) + (*where >> 1 == 0xc0 >> 1);
}

static struct line *line_of(struct memo *m, u64 key) { return &m->line[key * 0x9e3779b97f4a7c15ull >> m->shift]; }

/* 0: too long to be here. */
static u64 key_of(const struct memo *m, const u8 *bytes, unsigned avail, u32 mode, unsigned *where)
{
	u64 all = 0;
	if (likely(avail >= sizeof all))
		memcpy(&all, bytes, sizeof all);
	else
		memcpy(&all, bytes, avail);
	unsigned n = head_bytes(m, all, mode, where);
	return n > HEAD_MOST ? 0 : (all & low_mask(8 * n)) | (u64)(u8)mode << 48 | (u64)n << 56;
}

/* ---- instructions ---- */
static const u8 *anchor(void) { return (const u8 *)(uintptr_t)h_ud; }

static i64 signed_value(const u8 *bytes, unsigned n)
{
	i32 v4;
	i16 v2;
	if (n == 1)
		return (i8)*bytes;
	if (n == 2) {
		memcpy(&v2, bytes, sizeof v2);
		return v2;
	}
	memcpy(&v4, bytes, sizeof v4);
	return v4;
}

/* The instruction at bytes, whose head is k's. False: as from isa_fill. */
static bool unpack(const struct known *k, const u8 *bytes, unsigned off, struct insn *to)
{
	const u8 *disp = bytes + (k->key >> 56), *imm = disp + k->disp_bytes;
	to->fn = (insn_fn *)(uintptr_t)(anchor() + k->fn);
	to->aux = k->aux ? (void *)(uintptr_t)(anchor() + k->aux) : NULL;
	memcpy(&to->base, k->what, sizeof k->what);
	to->op = k->op;
	to->off = (u16)off;
	to->imm2 = 0;
	to->imm = k->imm;
	to->disp = 0;
	if (k->imm_bytes) {
		i64 v = signed_value(imm, k->imm_bytes);
		to->imm = k->imm_signed ? (u64)v : (u64)v & low_mask(8 * k->imm_bytes);
	}
	if (k->direct) {
		to->disp = (i32)off + to->len;
		to->imm += (u64)to->disp;
	}
	if (!k->disp_bytes)
		return true;
	i64 v = signed_value(disp, k->disp_bytes) + (to->flags & INSN_RIPREL ? (i64)off + to->len : 0);
	to->disp = (i32)v;
	return to->disp == v || to->asize == 4;
}

bool memo_find(const struct interp *e, u32 mode, const u8 *bytes, unsigned avail, unsigned off, struct insn *to, bool *end, bool *last)
{
	unsigned where;
	u64 key = key_of(e->memo, bytes, avail, mode, &where);
	const struct known *k = line_of(e->memo, key)->known;
	k += k->key != key;
	if (k->key != key || !key || k->what[offsetof(struct insn, len) - WHAT] > avail || !unpack(k, bytes, off, to))
		return false;
	*end = k->end;
	*last = k->last;
	return true;
}

/* ---- learning ---- */
static bool pack(struct known *k, const struct isa_insn *in, const struct insn *i)
{
	const ZydisDecodedInstruction *zi = &in->zi;
	unsigned head = (unsigned)(k->key >> 56), disp = zi->raw.disp.size / 8, imm = interp_by_imm(in) ? 0 : zi->raw.imm[0].size / 8;
	if (disp && zi->raw.imm[0].size && !imm) /* a shift's count behind a displacement is not in the head */
		return false;
	if (disp > 4 || imm > 4 || head + disp + imm != i->len)
		return false;
	k->disp_bytes = disp & 7;
	k->imm_bytes = imm & 7;
	k->imm_signed = zi->raw.imm[0].is_signed;
	k->imm = imm ? 0 : i->imm & 63;
	k->direct = i->disp && !(i->flags & INSN_MEM); /* no other instruction without a memory operand has one */
	k->fn = (i32)((const u8 *)(uintptr_t)i->fn - anchor());
	k->aux = i->aux ? (i32)((const u8 *)i->aux - anchor()) : 0;
	memcpy(k->what, &i->base, sizeof k->what);
	k->op = i->op;
	return true;
}

void memo_keep(struct interp *e, u32 mode, const u8 *bytes, const struct isa_insn *in, const struct insn *i, bool end, bool last)
{
	struct memo *m = e->memo;
	struct known k = { .end = end, .last = last };
	struct insn again;
	unsigned where;
	key_of(m, bytes, i->len, mode, &where);
	m->modrm[where] = !!(in->zi.attributes & ZYDIS_ATTRIB_HAS_MODRM);
	k.key = key_of(m, bytes, i->len, mode, &where);
	if (!interp_is_row(in) && (i->aux || i->fn == h_ud)) /* a stub, which may go; or there was no room for one */
		return;
	if (!k.key || !pack(&k, in, i))
		return;
	if (!unpack(&k, bytes, i->off, &again) || memcmp(&again, i, sizeof again))
		return;
	struct line *l = line_of(m, k.key);
	l->known[1] = l->known[0];
	l->known[0] = k;
}
