/* The core rig with the interpreter: put bytes somewhere, run them to HLT. */
#ifndef INTERP_RIG_H
#define INTERP_RIG_H

#include "core_rig.h"

void interp_open(struct core *r, enum core_mode mode);
void interp_close(struct core *r);
/* For rigs with more than one vCPU: only the engine that the environment asks for, of a vCPU that core_open made. */
const struct engine_ops *interp_create_engine(struct core *r);
/* Bytes given as hex text, blanks ignored. Returns how many. */
unsigned interp_put(struct core *r, u64 at, const char *hex);
/* Runs from linear address `at` (CS base 0 in protected and long mode) until HLT; fails the test on shutdown. */
void interp_go(struct core *r, u64 at);
/* interp_put and interp_go at AT_CODE, with HLT appended. */
void interp_do(struct core *r, const char *hex);
/* Makes every exception stop the machine: the handlers are HLTs, and the returned value is the vector of the last one, -1 if none. */
void interp_catch(struct core *r);
int interp_caught(struct core *r);

#endif
