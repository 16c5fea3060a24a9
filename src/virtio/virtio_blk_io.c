/* One virtio-blk request. Specification "Block Device", "Device Operation". */
#include "virtio/virtio_blk_io.h"
#include "base/log.h"

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
static unsigned make_iov(struct iovec *iov, const struct virtq_seg *seg, unsigned n, u64 skip, u64 len)
{
	unsigned niov = 0;

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
	r->type = h.type;
	r->sector = h.sector;
	r->status = S_IOERR;
	r->written = 0;
	r->niov = 0;
	r->data_len = h.type == T_IN || h.type == T_GET_ID ? c->in_len - 1 : c->out_len - HEADER_BYTES;
	if (h.type == T_IN || h.type == T_GET_ID)
		r->niov = make_iov(r->iov, c->seg + c->nout, c->nin, 0, r->data_len);
	else if (h.type == T_OUT)
		r->niov = make_iov(r->iov, c->seg, c->nout, HEADER_BYTES, r->data_len);
	return true;
}

static bool range_ok(const struct virtio_blk *b, u64 sector, u64 bytes)
{
	u64 sectors = b->file.size / FILE_SECTOR;

	return bytes % FILE_SECTOR == 0 && sector <= sectors && bytes / FILE_SECTOR <= sectors - sector;
}

static u8 result(int err)
{
	if (err)
		log_once(LOG_WARN, "disk: %s; the guest gets an I/O error", strerror(-err));
	return err ? S_IOERR : S_OK;
}

static u8 do_read(struct virtio_blk *b, struct virtio_blk_request *r)
{
	if (!range_ok(b, r->sector, r->data_len))
		return S_IOERR;
	r->written = r->data_len; /* even a failed read may have changed part of the buffer */
	return result(file_read(&b->file, r->iov, (int)r->niov, r->sector * FILE_SECTOR));
}

static u8 do_write(struct virtio_blk *b, struct virtio_blk_request *r)
{
	if (b->file.read_only || !range_ok(b, r->sector, r->data_len))
		return S_IOERR;
	return result(file_write(&b->file, r->iov, (int)r->niov, r->sector * FILE_SECTOR));
}

static u8 do_flush(struct virtio_blk *b, struct virtio_blk_request *r)
{
	return result(file_flush(&b->file));
}

static u8 do_get_id(struct virtio_blk *b, struct virtio_blk_request *r)
{
	u64 done = 0;

	for (unsigned i = 0; i < r->niov && done < VIRTIO_BLK_ID_BYTES; i++) {
		u64 n = min_u64(r->iov[i].iov_len, VIRTIO_BLK_ID_BYTES - done);

		memcpy(r->iov[i].iov_base, b->id + done, n);
		done += n;
	}
	r->written = done;
	return S_OK;
}

static u8 one_range(struct virtio_blk *b, const struct range *x, bool zeroes)
{
	u64 at = x->sector * FILE_SECTOR, len = (u64)x->sectors * FILE_SECTOR;

	if (x->flags & ~(zeroes ? RANGE_UNMAP : 0))
		return S_UNSUPP;
	if (x->sectors > BLK_MAX_RANGE_SECTORS || !range_ok(b, x->sector, len))
		return S_IOERR;
	if (len == 0)
		return S_OK;
	return result(zeroes ? file_write_zeros(&b->file, at, len, x->flags & RANGE_UNMAP) : file_discard(&b->file, at, len));
}

static u8 do_ranges(struct virtio_blk *b, struct virtio_blk_request *r)
{
	struct range x[BLK_MAX_RANGES];
	u64 n = r->data_len / RANGE_BYTES;
	u8 status = S_OK;

	if (b->file.read_only || r->data_len % RANGE_BYTES || n == 0 || n > BLK_MAX_RANGES)
		return S_IOERR;
	virtq_chain_read(&r->chain, HEADER_BYTES, x, r->data_len);
	for (u64 i = 0; i < n && status == S_OK; i++)
		status = one_range(b, &x[i], r->type == T_WRITE_ZEROES);
	return status;
}

static const struct {
	u32 type;
	u8 (*run)(struct virtio_blk *b, struct virtio_blk_request *r);
} type_row[] = {
	{ T_IN, do_read },
	{ T_OUT, do_write },
	{ T_FLUSH, do_flush },
	{ T_GET_ID, do_get_id },
	{ T_DISCARD, do_ranges },
	{ T_WRITE_ZEROES, do_ranges },
};

void virtio_blk_execute(struct virtio_blk *b, struct virtio_blk_request *r)
{
	r->status = S_UNSUPP;
	for (unsigned i = 0; i < array_len(type_row); i++)
		if (type_row[i].type == r->type)
			r->status = type_row[i].run(b, r);
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
