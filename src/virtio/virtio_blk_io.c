/* One virtio-blk request. Specification "Block Device", "Device Operation". */
#include "virtio/virtio_blk_io.h"

enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4, T_GET_ID = 8, T_DISCARD = 11, T_WRITE_ZEROES = 13 };
enum { S_OK = 0, S_IOERR = 1, S_UNSUPP = 2 };
enum { HEADER_BYTES = 16, RANGE_BYTES = 16, RANGE_UNMAP = 1 };

struct header {
	u32 type, reserved;
	u64 sector;
};

struct range {
	u64 sector;
	u32 sectors, flags;
};

/* The bytes [skip, skip + len) of n segments as host vectors. */
static int make_iov(struct iovec *iov, const struct virtq_seg *seg, unsigned n, u64 skip, u64 len)
{
	int niov = 0;

	for (unsigned i = 0; i < n && len > 0; i++) {
		if (skip >= seg[i].len) {
			skip -= seg[i].len;
			continue;
		}
		u64 bytes = min_u64(seg[i].len - skip, len);

		iov[niov++] = (struct iovec){ seg[i].host + skip, bytes };
		len -= bytes;
		skip = 0;
	}
	return niov;
}

bool virtio_blk_parse(struct virtio_blk *b, struct virtio_blk_request *r)
{
	struct virtq_chain *c = &r->chain;
	struct header h;

	if (virtq_chain_read(c, 0, &h, sizeof(h)) < sizeof(h) || c->in_len == 0)
		return false;
	bool in = h.type == T_IN || h.type == T_GET_ID;

	r->type = h.type;
	r->status = S_OK;
	r->written = 0;
	r->range = 0;
	r->data_len = in ? c->in_len - 1 : c->out_len - HEADER_BYTES;
	r->disk = (struct disk_request){ .iov = r->iov, .done = r->disk.done, .owner = r->disk.owner };
	r->disk.at = h.sector > ~(u64)0 / DISK_SECTOR ? ~(u64)0 : h.sector * DISK_SECTOR; /* the disk refuses what is beyond its end */
	if (in)
		r->disk.niov = make_iov(r->iov, c->seg + c->nout, c->nin, 0, r->data_len);
	else if (h.type == T_OUT)
		r->disk.niov = make_iov(r->iov, c->seg, c->nout, HEADER_BYTES, r->data_len);
	return true;
}

/* Each returns whether the disk has something to do. */
static bool next_transfer(struct virtio_blk *b, struct virtio_blk_request *r)
{
	r->disk.op = r->type == T_IN ? DISK_READ : DISK_WRITE;
	r->disk.len = r->data_len;
	if (r->type == T_IN)
		r->written = r->data_len; /* even a failed read may have changed part of the buffer */
	return r->range++ == 0;
}

static bool next_flush(struct virtio_blk *b, struct virtio_blk_request *r)
{
	r->disk.op = DISK_FLUSH;
	return r->range++ == 0;
}

static bool next_get_id(struct virtio_blk *b, struct virtio_blk_request *r)
{
	u64 done = 0;

	for (int i = 0; i < r->disk.niov && done < VIRTIO_BLK_ID_BYTES; i++) {
		u64 n = min_u64(r->iov[i].iov_len, VIRTIO_BLK_ID_BYTES - done);

		memcpy(r->iov[i].iov_base, b->id + done, n);
		done += n;
	}
	r->written = done;
	return false;
}

static bool refuse(struct virtio_blk_request *r, u8 status)
{
	r->status = status;
	return false;
}

static bool next_range(struct virtio_blk *b, struct virtio_blk_request *r)
{
	u64 n = r->data_len / RANGE_BYTES;
	bool zeroes = r->type == T_WRITE_ZEROES;
	struct range x;

	if (disk_read_only(b->disk) || r->data_len % RANGE_BYTES || n == 0 || n > BLK_MAX_RANGES)
		return refuse(r, S_IOERR);
	do {
		if (r->range == n)
			return false;
		virtq_chain_read(&r->chain, HEADER_BYTES + r->range++ * RANGE_BYTES, &x, sizeof(x));
		if (x.flags & ~(zeroes ? RANGE_UNMAP : 0))
			return refuse(r, S_UNSUPP);
		if (x.sectors > BLK_MAX_RANGE_SECTORS || x.sector > disk_size(b->disk) / DISK_SECTOR)
			return refuse(r, S_IOERR);
	} while (x.sectors == 0);
	r->disk.op = zeroes ? DISK_WRITE_ZEROES : DISK_DISCARD;
	r->disk.unmap = x.flags & RANGE_UNMAP;
	r->disk.at = x.sector * DISK_SECTOR;
	r->disk.len = (u64)x.sectors * DISK_SECTOR;
	return true;
}

static const struct {
	u32 type;
	bool (*next)(struct virtio_blk *b, struct virtio_blk_request *r);
} type_row[] = {
	{ T_IN, next_transfer },
	{ T_OUT, next_transfer },
	{ T_FLUSH, next_flush },
	{ T_GET_ID, next_get_id },
	{ T_DISCARD, next_range },
	{ T_WRITE_ZEROES, next_range },
};

bool virtio_blk_next(struct virtio_blk *b, struct virtio_blk_request *r)
{
	if (r->status != S_OK)
		return false;
	for (unsigned i = 0; i < array_len(type_row); i++)
		if (type_row[i].type == r->type)
			return type_row[i].next(b, r);
	return refuse(r, S_UNSUPP);
}

void virtio_blk_result(struct virtio_blk_request *r, int err)
{
	if (err)
		r->status = S_IOERR;
}

static void note_written(struct virtio_blk *b, const struct virtio_blk_request *r)
{
	const struct virtq_chain *c = &r->chain;
	u64 left = r->written;

	for (unsigned i = c->nout; i < c->nout + c->nin && left > 0; i++) {
		u64 n = min_u64(left, c->seg[i].len);

		virtq_wrote(b->v.bus->mem, &c->seg[i], n);
		left -= n;
	}
}

u32 virtio_blk_complete(struct virtio_blk *b, struct virtio_blk_request *r)
{
	note_written(b, r);
	virtq_chain_write(b->v.bus->mem, &r->chain, r->chain.in_len - 1, &r->status, 1);
	return (u32)min_u64(r->status == S_OK ? r->written + 1 : r->chain.in_len, ~(u32)0);
}
