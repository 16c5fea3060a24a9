/* Writing one snapshot file, front to back; the header comes last, so that a file that was cut short is no snapshot. */
#ifndef NB_SNAP_WRITER_H
#define NB_SNAP_WRITER_H

#include "migrate/snap_format.h"

struct snap_writer;

/* fd is taken over. NULL: out of memory. */
struct snap_writer *snap_writer_create(int fd);
/* Closes the file. NULL is fine. */
void snap_writer_free(struct snap_writer *w);

/* The pages of chunk `number`, which must grow from call to call: page n (SNAP_CHUNK_PAGES of them) is saved if bit n of `wanted` is set; pages of
 * zeros are only noted (or, with `base` false, left out). 0 or -errno. */
int snap_writer_chunk(struct snap_writer *w, u32 number, u64 wanted, const u8 *pages, bool base);
/* Everything else; makes the file durable. h has id, parent and memory. meta gets the numbers of pages. 0 or -errno. */
int snap_writer_finish(struct snap_writer *w, struct snap_header *h, struct snap_meta *meta, const struct state_buf *state);

#endif
