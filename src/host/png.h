/* Writing PNG files, by libpng. */
#ifndef NB_HOST_PNG_H
#define NB_HOST_PNG_H

#include "base/base.h"

/* width x height pixels 00RRGGBBh to an open file descriptor. 0 or -errno, nothing logged. */
int host_write_png(int fd, const u32 *pixel, u32 width, u32 height);

#endif
