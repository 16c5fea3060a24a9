/* Pictures of the machine's screen. Not here: the adapter (dev/vga.h), viewers that stay connected. */
#ifndef NB_VM_DISPLAY_H
#define NB_VM_DISPLAY_H

#include "base/base.h"

struct vm;

enum display_format { DISPLAY_PNG, DISPLAY_TEXT };
struct display_size { u32 width, height; bool blank; };

/* Opens the file of --screenshot-at-exit. 0 or -errno with one log line. */
int display_open(struct vm *vm);
/* FILE.txt: text; anything else: PNG. */
enum display_format display_format_of(const char *path);
/* Writes what a monitor would show to fd, a regular file that is empty; size (may be NULL) gets its size. Text: only in a text mode, else -ENODATA.
 * -ENODEV: no display. Other -errno: the write. Nothing is logged. Loop thread. */
int display_write(struct vm *vm, int fd, enum display_format format, struct display_size *size);

#endif
