/* Overlays: a sparse file that takes the writes while the layer below stays as it is (docs/formats/overlay.md has the format). A bit
 * per cluster says whether the cluster is here. Surprise: the bitmap in the file is only written by a flush, between two
 * fdatasync(): so a bit on stable storage never stands for data that is not, whenever the host dies. */
#include "host/disk_layer.h"
#include "base/log.h"
#include "host/file.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

enum { HEADER_BYTES = 4096, VERSION = 1, VERSION_ABSORBED = 2, CLUSTER_BITS_MIN = 12, CLUSTER_BITS_MAX = 20, MAP_PAGE = 4096 };
#define MAGIC "NBOVERL\n"
/* Smaller clusters copy less, but their bitmap is in memory: 32 MiB for 1 TiB. */
#define SMALL_CLUSTERS_UP_TO (1024 * GiB)

struct overlay_header {
	char magic[8];
	u32 version, cluster_bits;
	u64 disk_bytes, map_at, map_bytes, data_at;
	u8 id[16], parent[16];
	u64 sum; /* FNV-1a of the bytes before */
};
_Static_assert(sizeof(struct overlay_header) == 88, "docs/formats/overlay.md");

/* Version 2: all that the layer below has is here too, so that this one may as well stand on the one below that. */
struct absorbed_header {
	struct overlay_header h;
	u8 also[16];
	u64 sum; /* FNV-1a of the bytes before */
};
_Static_assert(sizeof(struct absorbed_header) == 112, "docs/formats/overlay.md");

struct overlay {
	struct disk_layer l;
	struct file file;
	struct overlay_header h;
	int locked_fd;               /* what held the file's lock before disk_overlay_absorb opened it for writing, or -1 */
	bool anonymous;
	pthread_mutex_t lock;        /* allocation: whoever sets bits holds it */
	pthread_mutex_t flushing;    /* taken before lock */
	u8 *map;                     /* atomic bytes; bits are only ever set */
	u8 *map_dirty;               /* lock; a byte per MAP_PAGE of the map */
	u8 *cluster;                 /* lock; room for one */
};

static struct overlay *overlay_of(struct disk_layer *l) { return container_of(l, struct overlay, l); }
static u64 cluster_bytes(const struct overlay *o) { return bit(o->h.cluster_bits); }

static u64 fnv1a(const void *data, size_t n)
{
	u64 h = 0xcbf29ce484222325ull;

	for (size_t i = 0; i < n; i++)
		h = (h ^ ((const u8 *)data)[i]) * 0x100000001b3ull;
	return h;
}

/* ---- bitmap ---- */
static bool present(const struct overlay *o, u64 cluster)
{
	return __atomic_load_n(&o->map[cluster / 8], __ATOMIC_ACQUIRE) & (1u << (cluster % 8));
}

/* o->lock held; the data is in the file. */
static void set_present(struct overlay *o, u64 first, u64 end)
{
	for (u64 c = first; c < end; c++) {
		__atomic_fetch_or(&o->map[c / 8], (u8)(1u << (c % 8)), __ATOMIC_RELEASE);
		o->map_dirty[c / 8 / MAP_PAGE] = 1;
	}
}

/* How many bytes from `at` on, at most len, are alike: all here (*here) or all below. */
static u64 run_length(const struct overlay *o, u64 at, u64 len, bool *here)
{
	u64 c = at >> o->h.cluster_bits, last = (at + len - 1) >> o->h.cluster_bits;

	*here = present(o, c);
	while (c < last && present(o, c + 1) == *here)
		c++;
	return min_u64(len, ((c + 1) << o->h.cluster_bits) - at);
}

static bool all_here(const struct overlay *o, u64 at, u64 len)
{
	bool here;

	return run_length(o, at, len, &here) == len && here;
}

/* ---- reading and writing ---- */
static u64 iov_bytes(const struct iovec *iov, int n)
{
	u64 sum = 0;

	for (int i = 0; i < n; i++)
		sum += iov[i].iov_len;
	return sum;
}

static int overlay_read(struct disk_layer *l, unsigned worker, struct iovec *iov, int n, u64 at)
{
	struct overlay *o = overlay_of(l);
	u64 len = iov_bytes(iov, n), done = 0;
	int err = 0;

	while (done < len && !err) {
		struct iovec part[DISK_MAX_IOV];
		bool here;
		u64 bytes = run_length(o, at + done, len - done, &here);
		int m = disk_iov_slice(part, iov, n, done, bytes);

		if (here)
			err = file_read(&o->file, part, m, o->h.data_at + at + done);
		else
			err = l->below->ops->read(l->below, worker, part, m, at + done);
		done += bytes;
	}
	return err;
}

static int overlay_read_at_once(struct disk_layer *l, const struct iovec *iov, int n, u64 at, u64 len)
{
	struct overlay *o = overlay_of(l);
	bool here;

	if (run_length(o, at, len, &here) != len)
		return -EAGAIN;
	if (here)
		return file_read_at_once(&o->file, iov, n, o->h.data_at + at, len);
	return l->below->ops->read_at_once ? l->below->ops->read_at_once(l->below, iov, n, at, len) : -EAGAIN;
}

static int overlay_write_at_once(struct disk_layer *l, const struct iovec *iov, int n, u64 at, u64 len)
{
	struct overlay *o = overlay_of(l);

	return all_here(o, at, len) ? file_write_at_once(&o->file, iov, n, o->h.data_at + at, len) : -EAGAIN;
}

/* o->lock held. Brings the whole cluster from below into the file; its bit is set when the write that needs this is done. */
static int copy_up(struct overlay *o, unsigned worker, u64 cluster)
{
	u64 at = cluster << o->h.cluster_bits;
	struct iovec iov = { o->cluster, min_u64(cluster_bytes(o), o->l.size - at) };
	int err = o->l.below->ops->read(o->l.below, worker, &iov, 1, at);

	iov = (struct iovec){ o->cluster, min_u64(cluster_bytes(o), o->l.size - at) };
	return err ? err : file_write(&o->file, &iov, 1, o->h.data_at + at);
}

/* o->lock held. The clusters at both ends of [at, end) that a write covers only in part. */
static int copy_up_ends(struct overlay *o, unsigned worker, u64 at, u64 end)
{
	u64 mask = cluster_bytes(o) - 1, first = at >> o->h.cluster_bits, last = (end - 1) >> o->h.cluster_bits;
	bool head = at & mask, tail = (end & mask) && end != o->l.size;
	int err = 0;

	if ((head || (tail && first == last)) && !present(o, first))
		err = copy_up(o, worker, first);
	if (!err && tail && last != first && !present(o, last))
		err = copy_up(o, worker, last);
	return err;
}

/* o->lock held */
static int write_and_allocate(struct overlay *o, unsigned worker, struct iovec *iov, int n, u64 at, u64 len)
{
	int err = copy_up_ends(o, worker, at, at + len);

	if (!err)
		err = file_write(&o->file, iov, n, o->h.data_at + at);
	if (!err)
		set_present(o, at >> o->h.cluster_bits, ((at + len - 1) >> o->h.cluster_bits) + 1);
	return err;
}

static int overlay_flush(struct disk_layer *l, unsigned worker);

static int overlay_write(struct disk_layer *l, unsigned worker, struct iovec *iov, int n, u64 at, bool fua)
{
	struct overlay *o = overlay_of(l);
	u64 len = iov_bytes(iov, n);
	int err;

	if (all_here(o, at, len)) {
		err = file_write(&o->file, iov, n, o->h.data_at + at);
	} else {
		pthread_mutex_lock(&o->lock);
		err = write_and_allocate(o, worker, iov, n, at, len);
		pthread_mutex_unlock(&o->lock);
	}
	/* A bit that this write relies on may not be in the file yet, so that writing through would not be enough. */
	return err || !fua ? err : overlay_flush(l, worker);
}

/* o->lock held. Zeros in part of a cluster. */
static int write_zero_bytes(struct overlay *o, unsigned worker, u64 at, u64 len)
{
	static const u8 zeros[1 << CLUSTER_BITS_MAX];
	struct iovec iov = { (void *)zeros, len };

	return len ? write_and_allocate(o, worker, &iov, 1, at, len) : 0;
}

/* Whole clusters become holes of the file, which read as zeros. */
static int zero_clusters(struct overlay *o, u64 at, u64 len, bool unmap)
{
	int err = file_write_zeros(&o->file, o->h.data_at + at, len, unmap);

	if (!err)
		set_present(o, at >> o->h.cluster_bits, (at + len + cluster_bytes(o) - 1) >> o->h.cluster_bits);
	return err;
}

/* [*first, *end) becomes the whole clusters inside [at, at + len); the disk's last cluster may be short. */
static bool whole_clusters(const struct overlay *o, u64 at, u64 len, u64 *first, u64 *end)
{
	*first = align_up(at, cluster_bytes(o));
	*end = at + len == o->l.size ? at + len : align_down(at + len, cluster_bytes(o));
	return *first < *end;
}

static int overlay_write_zeroes(struct disk_layer *l, unsigned worker, u64 at, u64 len, bool unmap, bool fua)
{
	struct overlay *o = overlay_of(l);
	u64 first, end;
	int err;

	pthread_mutex_lock(&o->lock);
	if (whole_clusters(o, at, len, &first, &end)) {
		err = write_zero_bytes(o, worker, at, first - at);
		if (!err)
			err = zero_clusters(o, first, end - first, unmap);
		if (!err)
			err = write_zero_bytes(o, worker, end, at + len - end);
	} else {
		u64 middle = min_u64(align_up(at + 1, cluster_bytes(o)), at + len); /* at most two clusters, each in part */

		err = write_zero_bytes(o, worker, at, middle - at);
		if (!err)
			err = write_zero_bytes(o, worker, middle, at + len - middle);
	}
	pthread_mutex_unlock(&o->lock);
	return err || !fua ? err : overlay_flush(l, worker);
}

static int overlay_discard(struct disk_layer *l, unsigned worker, u64 at, u64 len)
{
	struct overlay *o = overlay_of(l);
	u64 first, end;
	int err;

	if (!whole_clusters(o, at, len, &first, &end))
		return 0;
	pthread_mutex_lock(&o->lock);
	err = zero_clusters(o, first, end - first, true);
	pthread_mutex_unlock(&o->lock);
	return err;
}

/* ---- flush ---- */
struct map_page { u64 at; u32 bytes; u8 data[MAP_PAGE]; };

/* Copies of the bitmap's dirty pages, which are clean then. -ENOMEM: none is. */
static int take_dirty(struct overlay *o, struct map_page **out, u64 *count)
{
	u64 pages = (o->h.map_bytes + MAP_PAGE - 1) / MAP_PAGE, n = 0;

	pthread_mutex_lock(&o->lock);
	for (u64 i = 0; i < pages; i++)
		n += o->map_dirty[i];
	*out = n ? malloc(n * sizeof(**out)) : NULL;
	*count = n;
	if (n && !*out) {
		pthread_mutex_unlock(&o->lock);
		return -ENOMEM;
	}
	for (u64 i = 0, k = 0; i < pages && k < n; i++) {
		if (!o->map_dirty[i])
			continue;
		struct map_page *p = &(*out)[k++];

		p->at = i * MAP_PAGE;
		p->bytes = (u32)min_u64(MAP_PAGE, o->h.map_bytes - p->at);
		memcpy(p->data, o->map + p->at, p->bytes);
		o->map_dirty[i] = 0;
	}
	pthread_mutex_unlock(&o->lock);
	return 0;
}

static void make_dirty(struct overlay *o, const struct map_page *p, u64 n)
{
	pthread_mutex_lock(&o->lock);
	for (u64 i = 0; i < n; i++)
		o->map_dirty[p[i].at / MAP_PAGE] = 1;
	pthread_mutex_unlock(&o->lock);
}

static int write_map(struct overlay *o, struct map_page *p, u64 n)
{
	int err = 0;

	for (u64 i = 0; i < n && !err; i++) {
		struct iovec iov = { p[i].data, p[i].bytes };

		err = file_write(&o->file, &iov, 1, o->h.map_at + p[i].at);
	}
	return err;
}

static int overlay_flush(struct disk_layer *l, unsigned worker)
{
	struct overlay *o = overlay_of(l);
	struct map_page *page = NULL;
	u64 n = 0;
	int err;

	if (o->anonymous || l->read_only)
		return 0;
	pthread_mutex_lock(&o->flushing);
	err = take_dirty(o, &page, &n);
	if (!err)
		err = file_flush(&o->file);
	if (!err)
		err = write_map(o, page, n);
	if (!err && n)
		err = file_flush(&o->file);
	if (err)
		make_dirty(o, page, n);
	free(page);
	pthread_mutex_unlock(&o->flushing);
	return err;
}

/* ---- life ---- */
static void overlay_free(struct overlay *o)
{
	pthread_mutex_destroy(&o->lock);
	pthread_mutex_destroy(&o->flushing);
	free(o->map);
	free(o->map_dirty);
	free(o->cluster);
	free(o);
}

struct disk_layer *disk_overlay_detach(struct disk_layer *l)
{
	struct overlay *o = overlay_of(l);
	struct disk_layer *below = l->below;

	file_close(&o->file);
	if (o->locked_fd >= 0)
		close(o->locked_fd);
	overlay_free(o);
	return below;
}

static void overlay_close(struct disk_layer *l)
{
	struct disk_layer *below = disk_overlay_detach(l);

	below->ops->close(below);
}

static const struct disk_layer_ops overlay_ops = { overlay_read, overlay_write, overlay_flush, overlay_discard, overlay_write_zeroes,
	overlay_read_at_once, overlay_write_at_once, overlay_close };

/* The layer over a header that is known to be sound. */
static struct overlay *overlay_new(struct disk_layer *below, const struct overlay_header *h, int fd)
{
	struct overlay *o = calloc(1, sizeof(*o));

	if (!o)
		return NULL;
	o->h = *h;
	o->locked_fd = -1;
	o->l = (struct disk_layer){ .ops = &overlay_ops, .below = below, .size = h->disk_bytes };
	memcpy(o->l.id, h->id, sizeof(o->l.id));
	o->file = (struct file){ .fd = fd, .size = h->data_at + h->disk_bytes };
	file_learn(&o->file);
	pthread_mutex_init(&o->lock, NULL);
	pthread_mutex_init(&o->flushing, NULL);
	o->map = calloc(1, h->map_bytes);
	o->map_dirty = calloc(1, h->map_bytes / MAP_PAGE + 1);
	o->cluster = malloc(bit(h->cluster_bits));
	if (o->map && o->map_dirty && o->cluster)
		return o;
	overlay_free(o);
	return NULL;
}

static u64 map_bytes_for(u64 disk_bytes, u32 cluster_bits)
{
	u64 clusters = (disk_bytes + bit(cluster_bits) - 1) >> cluster_bits;

	return (clusters + 7) / 8;
}

static void make_header(struct overlay_header *h, const struct disk_layer *below)
{
	*h = (struct overlay_header){ .magic = MAGIC, .version = VERSION, .disk_bytes = below->size, .map_at = HEADER_BYTES,
		.cluster_bits = below->size <= SMALL_CLUSTERS_UP_TO ? 12 : 16 };
	h->map_bytes = map_bytes_for(h->disk_bytes, h->cluster_bits);
	h->data_at = align_up(h->map_at + h->map_bytes, bit(h->cluster_bits));
	if (getrandom(h->id, sizeof(h->id), 0) != sizeof(h->id))
		h->id[0] = 1;
	memcpy(h->parent, below->id, sizeof(h->parent));
	h->sum = fnv1a(h, offsetof(struct overlay_header, sum));
}

static int write_header(struct overlay *o)
{
	u8 page[HEADER_BYTES] = { 0 };
	struct iovec iov = { page, sizeof(page) };
	int err;

	memcpy(page, &o->h, sizeof(o->h));
	err = file_write(&o->file, &iov, 1, 0);
	if (!err && ftruncate(o->file.fd, (off_t)o->file.size) < 0)
		err = -errno;
	return err || o->anonymous ? err : file_flush(&o->file);
}

int disk_overlay_create(struct disk_layer **out, struct disk_layer *below, int fd, bool anonymous)
{
	struct overlay_header h;
	struct overlay *o;
	int err;

	make_header(&h, below);
	o = overlay_new(below, &h, fd);
	err = o ? 0 : -ENOMEM;
	if (o) {
		o->anonymous = anonymous;
		err = write_header(o);
	}
	if (err) {
		log_error("disk: cannot begin an overlay: %s", strerror(-err));
		if (o)
			overlay_free(o);
		return err;
	}
	*out = &o->l;
	return 0;
}

/* Why the file cannot be an overlay on `below`; NULL: it can. Every number is checked before it is used. */
static const char *header_fault(const struct absorbed_header *a, const struct disk_layer *below, u64 file_bytes)
{
	const struct overlay_header *h = &a->h;
	bool absorbed = h->version == VERSION_ABSORBED;

	if (memcmp(h->magic, MAGIC, sizeof(h->magic)))
		return "is no overlay file";
	if (h->version != VERSION && !absorbed)
		return "is an overlay of a version that this program does not know";
	if (h->sum != fnv1a(h, offsetof(struct overlay_header, sum)) || (absorbed && a->sum != fnv1a(a, offsetof(struct absorbed_header, sum))))
		return "has a damaged header";
	if (h->cluster_bits < CLUSTER_BITS_MIN || h->cluster_bits > CLUSTER_BITS_MAX)
		return "has a cluster size out of range";
	if (h->disk_bytes != below->size)
		return "belongs to a disk of another size";
	if (memcmp(h->parent, below->id, sizeof(h->parent)) && !(absorbed && !memcmp(a->also, below->id, sizeof(a->also))))
		return "was made on another layer than the one below it";
	if (h->map_bytes != map_bytes_for(h->disk_bytes, h->cluster_bits) || h->map_at != HEADER_BYTES ||
	    h->data_at != align_up(h->map_at + h->map_bytes, bit(h->cluster_bits)))
		return "has a header that contradicts itself";
	return file_bytes < h->data_at + h->disk_bytes ? "is truncated" : NULL;
}

static bool read_header(int fd, struct absorbed_header *a, u64 *file_bytes)
{
	struct stat st;

	if (fstat(fd, &st) || pread(fd, a, sizeof(*a), 0) != sizeof(*a))
		return false;
	*file_bytes = (u64)st.st_size;
	return true;
}

int disk_overlay_open(struct disk_layer **out, struct disk_layer *below, int fd, const char *name, bool read_only)
{
	struct absorbed_header a;
	const char *fault = "is no overlay file";
	struct overlay *o;
	u64 file_bytes;
	int err;

	if (read_header(fd, &a, &file_bytes))
		fault = header_fault(&a, below, file_bytes);
	if (fault) {
		log_error("overlay \"%s\": %s", name, fault);
		return -EINVAL;
	}
	o = overlay_new(below, &a.h, fd);
	if (!o)
		return -ENOMEM;
	struct iovec iov = { o->map, a.h.map_bytes };

	err = file_read(&o->file, &iov, 1, a.h.map_at);
	if (err) {
		log_error("overlay \"%s\": %s", name, strerror(-err));
		overlay_free(o);
		return err;
	}
	o->l.read_only = o->file.read_only = read_only;
	*out = &o->l;
	return 0;
}

/* ---- absorbing the layer below ---- */
enum { ABSORB_CLUSTERS = 16 }; /* at a time: so long does a write wait */

/* o->lock held. What of [first, end) is below and not here comes here. */
static int absorb_run(struct overlay *o, struct overlay *below, u64 first, u64 end, u8 *buf)
{
	u64 at = first << o->h.cluster_bits, len = min_u64(end << o->h.cluster_bits, o->l.size) - at;
	struct iovec iov = { buf, len };
	int err = file_read(&below->file, &iov, 1, below->h.data_at + at);

	iov = (struct iovec){ buf, len };
	if (!err && buf[0] == 0 && !memcmp(buf, buf + 1, len - 1))
		err = file_write_zeros(&o->file, o->h.data_at + at, len, true);
	else if (!err)
		err = file_write(&o->file, &iov, 1, o->h.data_at + at);
	if (!err)
		set_present(o, first, end);
	return err;
}

static int absorb_some(struct overlay *o, struct overlay *below, u64 first, u64 end, u8 *buf)
{
	int err = 0;

	pthread_mutex_lock(&o->lock);
	for (u64 c = first, n; c < end && !err; c += n) {
		for (n = 0; c + n < end && present(below, c + n) && !present(o, c + n);)
			n++;
		if (n)
			err = absorb_run(o, below, c, c + n, buf);
		n = max_u64(n, 1);
	}
	pthread_mutex_unlock(&o->lock);
	return err;
}

static int absorb_data(struct overlay *o, struct overlay *below, const bool *cancel)
{
	u64 clusters = (o->l.size + cluster_bytes(o) - 1) >> o->h.cluster_bits;
	u8 *buf = malloc(ABSORB_CLUSTERS * cluster_bytes(o));
	int err = buf ? 0 : -ENOMEM;

	for (u64 c = 0; c < clusters && !err; c += ABSORB_CLUSTERS) {
		if (!(c % 64) && c + 64 <= clusters && !*(u64 *)(below->map + c / 8)) { /* the next 64 are not below; calloc aligns the map */
			c += 64 - ABSORB_CLUSTERS;
			continue;
		}
		err = __atomic_load_n(cancel, __ATOMIC_RELAXED) ? -ECANCELED : absorb_some(o, below, c, min_u64(c + ABSORB_CLUSTERS, clusters), buf);
	}
	free(buf);
	return err;
}

/* One write inside one sector: it is there, or it is not. */
static int write_absorbed(struct overlay *o)
{
	const struct disk_layer *below = o->l.below;
	struct absorbed_header a = { .h = o->h };
	struct iovec iov = { &a, sizeof(a) };
	int err;

	a.h.version = VERSION_ABSORBED;
	memcpy(a.h.parent, below->id, sizeof(a.h.parent));
	memcpy(a.also, below->below->id, sizeof(a.also));
	a.h.sum = fnv1a(&a.h, offsetof(struct overlay_header, sum));
	a.sum = fnv1a(&a, offsetof(struct absorbed_header, sum));
	err = file_write(&o->file, &iov, 1, 0);
	if (!err)
		o->h = a.h;
	return err ? err : file_flush(&o->file);
}

int disk_overlay_absorb(struct disk_layer *l, int fd, const bool *cancel)
{
	struct overlay *o = overlay_of(l);
	int err = 0;

	if (l->ops != &overlay_ops || !l->below || l->below->ops != &overlay_ops || overlay_of(l->below)->h.cluster_bits != o->h.cluster_bits)
		err = -EINVAL;
	if (!err && l->read_only) { /* the same file under the same number: others are reading */
		o->locked_fd = o->locked_fd < 0 ? fcntl(o->file.fd, F_DUPFD_CLOEXEC, 0) : o->locked_fd;
		err = o->locked_fd < 0 || dup3(fd, o->file.fd, O_CLOEXEC) < 0 ? -errno : 0;
	}
	close(fd);
	if (err)
		return err;
	l->read_only = o->file.read_only = false;
	err = absorb_data(o, overlay_of(l->below), cancel);
	if (!err)
		err = overlay_flush(l, 0);
	return err ? err : write_absorbed(o);
}

void disk_overlay_skip(struct disk_layer *l)
{
	l->below = disk_overlay_detach(l->below);
}

/* The layer that the overlay in fd stands on, as far as size and id go; base: that layer's file, or -1 for what is no overlay of the caller's. */
static int stand_in(struct disk_layer *l, int base, int fd)
{
	struct absorbed_header a, b;
	u64 file_bytes;

	if (!read_header(fd, &a, &file_bytes) || (base >= 0 && !read_header(base, &b, &file_bytes)))
		return -EINVAL;
	*l = (struct disk_layer){ .size = a.h.disk_bytes };
	memcpy(l->id, base >= 0 ? b.h.id : a.h.version == VERSION_ABSORBED ? a.also : a.h.parent, sizeof(l->id));
	return 0;
}

static int another(int fd) { return fcntl(fd, F_DUPFD_CLOEXEC, 0); }

static int open_stand_alone(struct disk_layer **out, struct disk_layer *below, int fd, const char *name, bool read_only)
{
	int own = another(fd), err = own < 0 ? -errno : disk_overlay_open(out, below, own, name, read_only);

	if (err && own >= 0)
		close(own);
	return err;
}

int disk_overlay_absorb_files(int base, int below, int upper, const bool *cancel)
{
	struct disk_layer ground, *l = NULL, *u = NULL;
	int err = stand_in(&ground, base, below);

	if (!err)
		err = open_stand_alone(&l, &ground, below, "the lower of two", true);
	if (!err)
		err = open_stand_alone(&u, l, upper, "the upper of two", false);
	if (!err)
		err = disk_overlay_absorb(u, another(upper), cancel);
	if (u)
		disk_overlay_detach(u);
	if (l)
		disk_overlay_detach(l);
	return err;
}
