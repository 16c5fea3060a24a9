/* The kernel's FUSE protocol header, which has fields of a name that base.h uses up. */
#ifndef NB_SHARE_FUSE_ABI_H
#define NB_SHARE_FUSE_ABI_H

#pragma push_macro("unused")
#undef unused
#include <linux/fuse.h>
#pragma pop_macro("unused")

#endif
