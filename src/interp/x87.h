/* x87 inside: the layout of arch.x87 and the control instructions that move whole environments. */
#ifndef NB_X87_H
#define NB_X87_H

#include "interp/vec_priv.h"

/* Byte offsets in arch.x87, which is the start of an FXSAVE64 image. */
enum { X87_FCW = 0, X87_FSW = 2, X87_FTW = 4, X87_FOP = 6, X87_FIP = 8, X87_FDP = 16, X87_MXCSR = 24, X87_ST = 32 };

/* Resident, without the wait for pending exceptions. */
static inline void x87_touch(struct cpu *c)
{
	if (!c->x87_resident)
		x87_load(c);
}
void x87_note_fcw(struct cpu *c, u16 fcw);
enum step x87_nm(struct cpu *c, const struct insn *i);

/* Bodies: #NM is checked. insn.opsize is the operand size, 2 or 4. */
enum step x87_fnstenv(struct cpu *c, const struct insn *i);
enum step x87_fldenv(struct cpu *c, const struct insn *i);
enum step x87_fnsave(struct cpu *c, const struct insn *i);
enum step x87_frstor(struct cpu *c, const struct insn *i);

#endif
