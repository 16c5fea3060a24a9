/* Flags that the manual leaves undefined after an instruction: the host's silicon either computes them or leaves them as they were, by vendor and form.
 * The engines run the host's own instructions in different forms, so they must know, or they would not agree. */
#ifndef NB_HOST_FLAGS_H
#define NB_HOST_FLAGS_H

#include "interp/interp.h"

/* Asks the silicon. Before the first instruction is selected; again does no harm. */
void host_flags_probe(void);
/* CC_* bits that i leaves alone on this host, beyond those that the manual says it leaves alone. For shifts and rotates: by a constant other than 0
 * and 1, of a register. */
u16 host_flags_kept(const struct insn *i);

#endif
