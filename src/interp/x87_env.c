/* x87 environments in memory: FNSTENV, FLDENV, FNSAVE, FRSTOR in the four formats of SDM "x87 FPU Control and Operand
 * Pointers" figures (protected and real mode, 16- and 32-bit). The host produces and consumes the 32-bit protected format;
 * instruction and data pointers, which are the guest's own, are put in and taken out here. */
#include "interp/x87.h"

struct env {
	u32 fcw, fsw, ftw; /* upper halves reserved: the host writes ones */
	u32 fip;
	u16 fcs, fop;
	u32 fdp;
	u16 fds, reserved;
};
struct save { struct env env; u8 st[80]; };
_Static_assert(sizeof(struct env) == 28 && sizeof(struct save) == 108, "x87 image");

static bool real_format(const struct cpu *c) { return !(c->mode & MODE_PE) || (c->mode & MODE_VM86); }
static unsigned env_size(const struct insn *i) { return i->opsize == 2 ? 14 : 28; }

static bool readable(struct cpu *c, const struct insn *i, u8 *image, unsigned size)
{
	u64 la;

	return vec_la(c, i, 0, size, false, &la) && interp_aligned(c, la, i->opsize) && vec_read(c, i, 0, image, size);
}

static bool writable(struct cpu *c, const struct insn *i, unsigned size)
{
	u64 la;

	return vec_la(c, i, 0, size, true, &la) && interp_aligned(c, la, i->opsize) && vec_probe_write(c, i, 0, size);
}

/* FCS and FDS are deprecated, so the linear pointers of the real formats are the offsets. */
static void pack(const struct cpu *c, const struct insn *i, const struct env *e, u8 *to)
{
	u32 fip = (u32)load_le(c->arch.x87 + X87_FIP, 4), fdp = (u32)load_le(c->arch.x87 + X87_FDP, 4);
	u16 fop = (u16)load_le(c->arch.x87 + X87_FOP, 2) & 0x7ff;

	if (i->opsize == 2) {
		u16 w[7] = { (u16)e->fcw, (u16)e->fsw, (u16)e->ftw, (u16)fip, 0, (u16)fdp, 0 };

		if (real_format(c)) {
			w[4] = (u16)((fip >> 16 & 15) << 12 | fop);
			w[6] = (u16)((fdp >> 16 & 15) << 12);
		}
		memcpy(to, w, sizeof(w));
		return;
	}
	struct env out = *e;

	out.fip = fip;
	out.fdp = fdp;
	out.fcs = 0;
	out.fop = fop;
	out.fds = 0;
	if (real_format(c)) {
		u32 w[4] = { 0xffff0000u | (u16)fip, (fip >> 16) << 12 | fop, 0xffff0000u | (u16)fdp, (fdp >> 16) << 12 };

		memcpy(&out.fip, w, sizeof(w));
	}
	memcpy(to, &out, sizeof(out));
}

static void unpack(struct cpu *c, const struct insn *i, const u8 *from, struct env *e)
{
	u32 fip, fdp, fop;

	memset(e, 0, sizeof(*e));
	if (i->opsize == 2) {
		u16 w[7];

		memcpy(w, from, sizeof(w));
		e->fcw = w[0];
		e->fsw = w[1];
		e->ftw = w[2];
		fip = w[3] | (real_format(c) ? (u32)(w[4] >> 12) << 16 : 0);
		fdp = w[5] | (real_format(c) ? (u32)(w[6] >> 12) << 16 : 0);
		fop = real_format(c) ? w[4] : 0; /* this format has no opcode */
	} else {
		u32 w[7];

		memcpy(w, from, sizeof(w));
		e->fcw = w[0];
		e->fsw = w[1];
		e->ftw = w[2];
		fip = real_format(c) ? (u16)w[3] | (w[4] >> 12 & 0xffff) << 16 : w[3];
		fdp = real_format(c) ? (u16)w[5] | (w[6] >> 12 & 0xffff) << 16 : w[5];
		fop = real_format(c) ? w[4] : w[4] >> 16;
	}
	store_le(c->arch.x87 + X87_FOP, fop & 0x7ff, 2);
	store_le(c->arch.x87 + X87_FIP, fip, 8);
	store_le(c->arch.x87 + X87_FDP, fdp, 8);
}

enum step x87_fnstenv(struct cpu *c, const struct insn *i)
{
	struct env e;
	u8 image[28];

	if (!writable(c, i, env_size(i)))
		return STEP_FAULT;
	x87_touch(c);
	__asm__ volatile("fnstenv %0" : "=m"(e)); /* and masks every exception */
	pack(c, i, &e, image);
	if (!vec_write(c, i, 0, image, env_size(i)))
		return STEP_FAULT;
	x87_note_fcw(c, 0x3f);
	return STEP_END;
}

enum step x87_fldenv(struct cpu *c, const struct insn *i)
{
	struct env e;
	u8 image[28];

	if (x87_ready(c, i) != STEP_END || !readable(c, i, image, env_size(i)))
		return STEP_FAULT;
	unpack(c, i, image, &e);
	__asm__ volatile("fldenv %0" : : "m"(e));
	x87_note_fcw(c, (u16)e.fcw);
	return STEP_END;
}

enum step x87_fnsave(struct cpu *c, const struct insn *i)
{
	unsigned n = env_size(i);
	struct save s;
	u8 image[108];

	if (!writable(c, i, n + 80))
		return STEP_FAULT;
	x87_touch(c);
	__asm__ volatile("fnsave %0" : "=m"(s)); /* and initialises */
	pack(c, i, &s.env, image);
	memcpy(image + n, s.st, 80);
	if (!vec_write(c, i, 0, image, n + 80))
		return STEP_FAULT;
	memset(c->arch.x87 + X87_FOP, 0, X87_MXCSR - X87_FOP);
	x87_note_fcw(c, 0x37f);
	return STEP_END;
}

enum step x87_frstor(struct cpu *c, const struct insn *i)
{
	unsigned n = env_size(i);
	struct save s;
	u8 image[108];

	if (x87_ready(c, i) != STEP_END || !readable(c, i, image, n + 80))
		return STEP_FAULT;
	unpack(c, i, image, &s.env);
	memcpy(s.st, image + n, 80);
	__asm__ volatile("frstor %0" : : "m"(s));
	x87_note_fcw(c, (u16)s.env.fcw);
	return STEP_END;
}
