/* The host's clock. Devices never use it: they know only the virtual clock (bus/clock.h). */
#ifndef NB_HOST_TIME_H
#define NB_HOST_TIME_H

#include "base/base.h"

/* CLOCK_MONOTONIC in ns. */
u64 host_now_ns(void);

#endif
