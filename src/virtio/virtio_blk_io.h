/* One virtio-blk request: taking it apart and doing it. */
#ifndef NB_VIRTIO_BLK_IO_H
#define NB_VIRTIO_BLK_IO_H

#include "virtio/virtio_blk.h"

enum { BLK_SEG_MAX = 126, BLK_MAX_RANGES = 16, BLK_MAX_RANGE_SECTORS = 1 << 22 };

/* Reads the header of r->chain once and prepares r->iov. False: the chain cannot even carry a status byte. */
bool virtio_blk_parse(struct virtio_blk *b, struct virtio_blk_request *r);
/* Does it, in the worker thread: sets r->status and r->written. Touches only r, the file and guest RAM. */
void virtio_blk_execute(struct virtio_blk *b, struct virtio_blk_request *r);
/* Stores the status byte in the guest's memory and notes what was written there; returns the used length. */
u32 virtio_blk_complete(struct virtio_blk *b, struct virtio_blk_request *r);

#endif
