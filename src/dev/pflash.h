/* Parallel NOR flash with the Intel command set (Common Flash Memory Interface "Intel/Sharp Extended Command Set"; Intel StrataFlash data sheet
 * "Device Operations"): the chip that holds UEFI's variables. Byte wide, 4 KiB blocks. Surprise: in array mode reads do not come here, the chip's
 * pages are mapped like memory; the first command takes the mapping away, FFh puts it back. */
#ifndef NB_DEV_PFLASH_H
#define NB_DEV_PFLASH_H

#include "bus/bus.h"
#include "dev/dev.h"

enum { PFLASH_BLOCK = 4096 };

#define PFLASH_STATE(F, A) F(u8, mode) F(u8, pending) F(u8, status) F(u8, pad_) F(u32, dirty_first) F(u32, dirty_end)
STATE_STRUCT(pflash_regs, PFLASH_STATE);

struct pflash_config {
	const char *slot;    /* mem slot that shows the array; stays the caller's string */
	u64 base, size;      /* bytes, multiples of PFLASH_BLOCK */
	u64 frame;           /* first page in the memfd; holds the contents already */
	/* Blocks [at, at + len) have changed: keep them. 0 or -errno (a failure sets the status register's error bits). NULL: contents live with the VM. */
	int (*store)(void *opaque, u64 at, const u8 *data, u64 len);
	void *opaque;
};

struct pflash {
	struct bus *bus;
	struct pflash_config cfg;
	u8 *data;
	struct pflash_regs regs; /* bus->lock; dirty_*: bytes programmed since the last store */
};

struct pflash *pflash_create(struct bus *bus, struct dev_list *devs, const struct pflash_config *cfg);

#endif
