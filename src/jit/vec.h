/* The translator's vector half: vec.c. */
#ifndef NB_JIT_VEC_H
#define NB_JIT_VEC_H

#include "jit/tr.h"
#include "interp/vec.h"

#define VEC_F_FP 1u /* as interp/vec_priv.h */
#define VEC_F_STORE 2u

/* Does b use instructions that write registers whole? */
bool vec_is_vex(const struct block *b);
bool tr_is_vec(const struct insn *i);
bool tr_is_x87(const struct insn *i);
bool tr_x87(struct tr *t, const struct insn *i);
/* As an emitter. */
bool tr_vec(struct tr *t, const struct insn *i);
/* Changed registers back to arch.ymm; host flags survive. */
void tr_vec_flush(struct tr *t);

#endif
