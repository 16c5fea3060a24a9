/* virtio-balloon. */
#include "virtio/virtio_balloon.h"
#include <stdlib.h>

STATE_DESC(balloon_regs, BALLOON_STATE);

enum { INFLATE, DEFLATE, STATS, REPORT, REPORT_ALSO, QUEUES, QUEUE_SIZE = 128 };
/* BURST chains are served before others get the bus; a longer list of pages than PFNS in one chain is cut: no driver sends one. */
enum { BURST = 16, PFNS = 1024, CONFIG_NUM_PAGES = 0, CONFIG_ACTUAL = 4, CONFIG_BYTES = 8, STAT_BYTES = 10 };
#define F_STATS_VQ BIT(1)
#define F_DEFLATE_ON_OOM BIT(2)
#define F_REPORTING BIT(5)

static const char *const stat_names[BALLOON_STATS] = { "swap-in", "swap-out", "major-faults", "minor-faults", "free-memory", "total-memory",
	"available-memory", "disk-caches", "hugetlb-allocations", "hugetlb-failures" };

const char *virtio_balloon_stat_name(enum virtio_balloon_stat s) { return s < BALLOON_STATS ? stat_names[s] : "unknown"; }

static struct virtio_balloon *balloon_of(struct virtio_device *v) { return container_of(v, struct virtio_balloon, v); }

static void show_config(struct virtio_balloon *b)
{
	store_le(b->v.config + CONFIG_NUM_PAGES, b->regs.num_pages, 4);
	store_le(b->v.config + CONFIG_ACTUAL, b->regs.actual, 4);
}

/* Page numbers mostly come in runs: one hole for each. */
static void inflate(struct virtio_balloon *b, const struct virtq_chain *c)
{
	u32 pfn[PFNS];
	u64 n = virtq_chain_read(c, 0, pfn, sizeof pfn) / sizeof pfn[0];

	for (u64 i = 0, run; i < n; i += run) {
		/* Linux lists a block's pages upwards, blocks downwards. */
		u64 low = pfn[i];
		int step = i + 1 < n && pfn[i + 1] + 1 == pfn[i] ? -1 : 1;

		for (run = 1; i + run < n && pfn[i + run] == (u32)(pfn[i + run - 1] + step); run++)
			low = min_u64(low, pfn[i + run]);
		mem_discard(b->v.bus->mem, gpa(low * PAGE_SIZE), run * PAGE_SIZE);
	}
}

/* "Free Page Reporting": the chain's writable buffers are the free pages themselves. */
static void report(struct virtio_balloon *b, const struct virtq_chain *c)
{
	for (unsigned i = c->nout; i < c->nout + c->nin; i++)
		b->regs.reported += mem_discard(b->v.bus->mem, gpa(c->seg[i].gpa), c->seg[i].len);
}

static void read_stats(struct virtio_balloon *b, const struct virtq_chain *c)
{
	u8 stat[STAT_BYTES];

	for (u64 at = 0; at < 64 * STAT_BYTES && virtq_chain_read(c, at, stat, STAT_BYTES) == STAT_BYTES; at += STAT_BYTES) {
		u64 tag = load_le(stat, 2);

		if (tag >= BALLOON_STATS)
			continue;
		b->regs.stat[tag] = load_le(stat + 2, 8);
		b->regs.stats_valid |= 1u << tag;
	}
}

/* The driver's one buffer: its coming is the answer, and it stays with us until we want the next one. */
static void serve_stats(struct virtio_balloon *b)
{
	struct virtq_chain c;

	do {
		while (!b->regs.stats_held && virtio_pop(&b->v, STATS, &c)) {
			read_stats(b, &c);
			b->regs.stats_head = c.head;
			b->regs.stats_held = 1;
			if (b->cfg.stats_came)
				b->cfg.stats_came(b->cfg.opaque);
		}
	} while (virtio_arm_notify(&b->v, STATS) && !b->regs.stats_held);
}

static void serve_pages(struct virtio_balloon *b, unsigned n)
{
	struct virtq_chain c;
	unsigned served = 0;

	do {
		while (served < BURST && virtio_pop(&b->v, n, &c)) {
			if (n == INFLATE)
				inflate(b, &c);
			else if (n != DEFLATE) /* pages that come back are zeros until the guest writes to them */
				report(b, &c);
			virtio_push(&b->v, n, c.head, 0);
			served++;
		}
	} while (virtio_arm_notify(&b->v, n) && served < BURST);
	virtio_signal(&b->v, n);
	if (served >= BURST)
		virtio_notify_later(&b->v, n);
}

static void balloon_notify(struct virtio_device *v, unsigned n)
{
	if (n == STATS)
		serve_stats(balloon_of(v));
	else
		serve_pages(balloon_of(v), n);
}

static void balloon_config_written(struct virtio_device *v, unsigned off, unsigned size, u32 value)
{
	struct virtio_balloon *b = balloon_of(v);

	if (off != CONFIG_ACTUAL || size != 4)
		return;
	b->regs.actual = value;
	show_config(b);
	if (b->cfg.actual_changed)
		b->cfg.actual_changed(b->cfg.opaque, value * PAGE_SIZE);
}

/* The wish outlives the driver. */
static void balloon_reset(struct virtio_device *v)
{
	struct virtio_balloon *b = balloon_of(v);

	b->regs = (struct balloon_regs){ .num_pages = b->regs.num_pages, .reported = b->regs.reported };
	show_config(b);
}

static void balloon_loaded(void *dev) { show_config(dev); }

static void balloon_destroy(struct virtio_device *v) { free(balloon_of(v)); }

static const struct virtio_class balloon_class = { .name = "virtio-balloon", .id = 5, .class_code = 0x00ff00,
	.features = F_STATS_VQ | F_DEFLATE_ON_OOM | F_REPORTING, .notify = balloon_notify, .reset = balloon_reset,
	.config_written = balloon_config_written, .destroy = balloon_destroy };

struct virtio_balloon *virtio_balloon_create(struct pci_host *h, unsigned slot, const struct virtio_balloon_config *cfg)
{
	struct virtio_balloon *b = dev_alloc(sizeof *b);
	struct dev_instance inst = { .desc = &balloon_regs_state, .regs = &b->regs, .dev = b, .loaded = balloon_loaded };

	b->cfg = *cfg;
	virtio_device_init(&b->v, h, slot, &balloon_class, 0, QUEUES, QUEUE_SIZE, CONFIG_BYTES);
	dev_list_unique_name(h->devs, "balloon", inst.name, sizeof inst.name);
	dev_list_add(h->devs, &inst);
	return b;
}

void virtio_balloon_set_target(struct virtio_balloon *b, u64 bytes)
{
	bus_lock(b->v.bus);
	u32 pages = (u32)min_u64(bytes / PAGE_SIZE, 0xffffffff);
	if (pages != b->regs.num_pages) {
		b->regs.num_pages = pages;
		show_config(b);
		virtio_config_changed(&b->v);
	}
	bus_unlock(b->v.bus);
}

void virtio_balloon_info(struct virtio_balloon *b, struct virtio_balloon_info *info)
{
	bus_lock(b->v.bus);
	*info = (struct virtio_balloon_info){ .target = b->regs.num_pages * PAGE_SIZE, .actual = b->regs.actual * PAGE_SIZE,
		.reported = b->regs.reported, .driver = virtio_queue_ready(&b->v, INFLATE), .stats_valid = b->regs.stats_valid, .answered = b->regs.stats_held };
	memcpy(info->stat, b->regs.stat, sizeof info->stat);
	bus_unlock(b->v.bus);
}

bool virtio_balloon_ask_stats(struct virtio_balloon *b)
{
	bus_lock(b->v.bus);
	bool held = b->regs.stats_held && virtio_queue_ready(&b->v, STATS);
	if (held) {
		b->regs.stats_held = 0;
		virtio_push(&b->v, STATS, b->regs.stats_head, 0);
		virtio_signal(&b->v, STATS);
		serve_stats(b);
	}
	bus_unlock(b->v.bus);
	return held;
}
