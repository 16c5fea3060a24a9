/* Emitters of system instructions. Private to jit/. */
#ifndef NB_JIT_SYS_H
#define NB_JIT_SYS_H

#include "jit/tr.h"

emit_fn e_cli, e_sti, e_pushf, e_stac, e_clac, e_swapgs, e_rdbase, e_wrbase, e_rdpkru, e_pause, e_mfence, e_serialize, e_cmpxchg16b, e_vmread, e_vmwrite, e_rdtsc, e_rdmsr, e_cld, e_syscall, e_virt, e_string, e_vzeroupper;
/* MOV from a control or a segment register. */
bool tr_mov_special(struct tr *t, const struct insn *i);
/* RDTSC of a machine with several vCPUs: host code before the handler's call, with the place of a jump that wants to be aimed behind that; NULL: nothing. */
u8 *tr_rdtsc_shared(struct tr *t, const struct insn *i);
bool tr_bit_string(struct tr *t, const struct insn *i, unsigned op);

#endif
