/* A snapshot file as bytes: docs/formats/snapshot.md. All numbers little-endian. Not here: what the state section holds (state/state.h). Surprise:
 * parts follow each other without gaps and each has a checksum, so no bit of a file can change unseen. */
#ifndef NB_SNAP_FORMAT_H
#define NB_SNAP_FORMAT_H

#include "base/base.h"
#include "state/state.h"

#define SNAP_MAGIC "NBSNAP\r\n"
#define SNAP_VERSION 1
#define SNAP_CHUNK_PAGES 16      /* 64 KiB: what a lazy load brings in at once (bench/snapshot) */
#define SNAP_MAX_CHUNK_PAGES 64  /* a mask is 64 bits */

struct snap_header {
	u8 magic[8];
	u32 version, header_bytes;
	u64 file_bytes, table_at;
	u32 sections, page_bytes, chunk_pages, flags;
	u8 id[16], parent[16];   /* parent: zeros, or the id of the snapshot that has the pages which are not here */
	u64 memory;              /* bytes */
	u64 table_xxh;
	u8 reserved[24];
	u64 xxh;                 /* of the bytes before it */
};
_Static_assert(sizeof(struct snap_header) == 128, "snap_header");

enum snap_section_type { SNAP_PAGES, SNAP_META, SNAP_STATE, SNAP_INDEX, SNAP_SECTIONS };

struct snap_section {
	u32 type, flags;
	u64 at, stored, raw; /* stored != raw: one zstd frame */
	u64 xxh;             /* of the stored bytes; 0 for SNAP_PAGES, whose chunks have their own */
};
_Static_assert(sizeof(struct snap_section) == 40, "snap_section");

struct snap_chunk {
	u64 at;
	u32 stored, number;  /* number: first frame / chunk_pages; grows from chunk to chunk */
	u64 data, zero;      /* bit n: page n of the chunk is here; has become zero. Neither: as in the parent, or zero if there is none */
	u64 xxh;             /* of the stored bytes */
};
_Static_assert(sizeof(struct snap_chunk) == 40, "snap_chunk");

/* The META section, by state rows: what the machine must be like, and what people want to know. Strings end with a zero byte. */
#define SNAP_META_STATE(F, A) \
	F(u64, memory) F(u64, created_s) F(u64, data_pages) F(u64, zero_pages) F(u64, virtual_ns) \
	F(u32, cpus) F(u32, nested) \
	A(u8, cpu_model, 256) A(u8, name, 128) A(u8, parent_file, 128)
STATE_STRUCT(snap_meta, SNAP_META_STATE);
extern const struct state_desc snap_meta_state;

/* XXH3, 64 bits. */
u64 snap_checksum(const void *p, u64 len);

#endif
