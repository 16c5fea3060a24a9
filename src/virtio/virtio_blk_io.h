/* One virtio-blk request: taking it apart, and what the disk has to do for it. */
#ifndef NB_VIRTIO_BLK_IO_H
#define NB_VIRTIO_BLK_IO_H

#include "virtio/virtio_blk.h"

enum { BLK_SEG_MAX = VIRTQ_MAX_SEGS - 2, BLK_MAX_RANGES = 16, BLK_MAX_RANGE_SECTORS = 1 << 22 };

/* Reads the header of r->chain once and prepares r. False: the chain cannot even carry a status byte. */
bool virtio_blk_parse(struct virtio_blk *b, struct virtio_blk_request *r);
/* Prepares r->disk for the next thing that the disk shall do. False: nothing is left, r->status stands. */
bool virtio_blk_next(struct virtio_blk *b, struct virtio_blk_request *r);
/* The disk has done it. Touches only r. */
void virtio_blk_result(struct virtio_blk_request *r, int err);
/* Stores the status byte in the guest's memory and notes what was written there; returns the used length. */
u32 virtio_blk_complete(struct virtio_blk *b, struct virtio_blk_request *r);

#endif
