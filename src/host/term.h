/* The user's terminal as a serial console. */
#ifndef NB_HOST_TERM_H
#define NB_HOST_TERM_H

#include "base/base.h"

/* Puts stdin into raw mode if it is a terminal; restored at exit and by host_term_restore(). Idempotent. */
void host_term_raw(void);
void host_term_restore(void);

/* Filters typed bytes through the Ctrl-A prefix: Ctrl-A X quits, Ctrl-A Ctrl-A sends one Ctrl-A, Ctrl-A H prints help. Returns how many
 * bytes of out are for the guest; *quit is set on Ctrl-A X. out needs room for n bytes. Keeps its state between calls. */
size_t host_term_filter(const u8 *in, size_t n, u8 *out, bool *quit);

#endif
