/* NVMe admin commands ("Admin Command Set"): queues, Identify, features, logs. */
#include "dev/nvme_int.h"
#include <stdio.h>

/* ---- queues ---- */
/* What the two kinds of queue have in common: "Create I/O Completion Queue command", "Create I/O Submission Queue command". */
static enum nvme_status check_queue(const struct nvme_command *c, bool exists)
{
	unsigned q = c->dw10 & 0xffff, size = (c->dw10 >> 16) + 1;

	if (q == 0 || q >= NVME_QUEUES || exists)
		return NVME_BAD_QUEUE_ID;
	if (size < 2 || size > NVME_QUEUE_MAX)
		return NVME_BAD_QUEUE_SIZE;
	if (!(c->dw11 & 1))
		return NVME_BAD_FIELD; /* not contiguous */
	return c->prp1 & (NVME_PAGE - 1) ? NVME_BAD_PRP_OFFSET : NVME_OK;
}

static enum nvme_status create_cq(struct nvme *n, const struct nvme_command *c, u32 *result)
{
	unsigned q = c->dw10 & 0xffff, size = (c->dw10 >> 16) + 1, vector = c->dw11 >> 16;
	enum nvme_status s = check_queue(c, q < NVME_QUEUES && n->regs.cq[q].exists);

	if (s != NVME_OK)
		return s;
	if (vector >= n->pci.msix_vectors)
		return NVME_BAD_VECTOR;
	n->regs.cq[q] = (struct nvme_cq_regs){ .base = c->prp1, .size = (u16)size, .vector = (u16)vector, .phase = 1,
		.interrupts = c->dw11 >> 1 & 1, .exists = 1 };
	n->of_cq[q] = 0;
	return NVME_OK;
}

static enum nvme_status create_sq(struct nvme *n, const struct nvme_command *c, u32 *result)
{
	unsigned q = c->dw10 & 0xffff, size = (c->dw10 >> 16) + 1, cq = c->dw11 >> 16;
	enum nvme_status s = check_queue(c, q < NVME_QUEUES && n->regs.sq[q].exists);

	if (cq == 0 || cq >= NVME_QUEUES || !n->regs.cq[cq].exists)
		return NVME_BAD_CQ;
	if (s != NVME_OK)
		return s;
	n->regs.sq[q] = (struct nvme_sq_regs){ .base = c->prp1, .size = (u16)size, .cq = (u16)cq, .exists = 1 };
	return NVME_OK;
}

/* Commands in flight are forgotten: "Delete I/O Submission Queue command" lets them be aborted without completion. */
static enum nvme_status delete_sq(struct nvme *n, const struct nvme_command *c, u32 *result)
{
	unsigned q = c->dw10 & 0xffff;

	if (q == 0 || q >= NVME_QUEUES || !n->regs.sq[q].exists)
		return NVME_BAD_QUEUE_ID;
	nvme_forget(n, q);
	n->regs.sq[q] = (struct nvme_sq_regs){ 0 };
	return NVME_OK;
}

static enum nvme_status delete_cq(struct nvme *n, const struct nvme_command *c, u32 *result)
{
	unsigned q = c->dw10 & 0xffff;

	if (q == 0 || q >= NVME_QUEUES || !n->regs.cq[q].exists)
		return NVME_BAD_QUEUE_ID;
	for (unsigned i = 0; i < NVME_QUEUES; i++)
		if (n->regs.sq[i].exists && n->regs.sq[i].cq == q)
			return NVME_BAD_DELETE;
	n->regs.cq[q] = (struct nvme_cq_regs){ 0 };
	nvme_update(n);
	return NVME_OK;
}

/* ---- Identify ---- */
/* Text fields have no terminating zero; they are filled with blanks. */
static void put_text(u8 *at, const char *text, size_t size)
{
	size_t n = strnlen(text, size);

	memset(at, ' ', size);
	memcpy(at, text, n);
}

struct field { u16 at; u8 size; u64 value; };

static void put_fields(u8 *page, const struct field *f, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		store_le(page + f[i].at, f[i].value, f[i].size);
}

/* "Identify Controller data structure" */
static void identify_controller(struct nvme *n, u8 *page)
{
	const struct field f[] = {
		{ 0, 2, 0x1af4 }, { 2, 2, 0x1af4 }, /* PCI vendor and subsystem vendor */
		{ 77, 1, NVME_MDTS },
		{ 80, 4, 0x00010400 },              /* version */
		{ 111, 1, 1 },                      /* I/O controller */
		{ 258, 1, 3 }, { 259, 1, NVME_EVENTS - 1 }, /* aborts and events at a time, minus 1 */
		{ 260, 1, 3 },                      /* one firmware slot, read-only */
		{ 262, 1, 0 },                      /* one entry in the error log */
		{ 266, 2, 343 }, { 268, 2, 373 },   /* warning and critical temperature, kelvin */
		{ 512, 1, 0x66 }, { 513, 1, 0x44 }, /* sizes of queue entries: 64 and 16 */
		{ 516, 4, 1 },                      /* namespaces */
		{ 520, 2, 0x0c },                   /* write zeroes, dataset management */
		{ 525, 1, 1 },                      /* there is a volatile write cache */
		{ 2048, 2, 0x09c4 },                /* power state 0: 25 W */
	};
	char nqn[128];

	put_fields(page, f, array_len(f));
	put_text(page + 4, n->serial, 20);
	put_text(page + 24, "nestbox NVMe disk", 40);
	put_text(page + 64, "1", 8);
	snprintf(nqn, sizeof(nqn), "nqn.2014.08.org.nvmexpress:nestbox-%.20s", n->serial);
	memcpy(page + 768, nqn, strlen(nqn));
}

/* "Identify Namespace data structure"; one format: 512 bytes, no metadata. */
static void identify_namespace(struct nvme *n, u8 *page)
{
	u64 blocks = disk_size(n->disk) / DISK_SECTOR;
	const struct field f[] = {
		{ 0, 8, blocks }, { 8, 8, blocks }, { 16, 8, blocks },
		{ 24, 1, 0x04 },                            /* features: deallocated blocks read without errors */
		{ 33, 1, 0x08 },                            /* write zeroes may deallocate */
		{ 99, 1, disk_read_only(n->disk) },         /* write protected now */
		{ 128 + 2, 1, 9 },                          /* format 0: 2^9 bytes */
	};

	put_fields(page, f, array_len(f));
}

/* "Namespace Identification Descriptor": a UUID that the serial number makes. */
static void identify_descriptors(struct nvme *n, u8 *page)
{
	u64 h = 0xcbf29ce484222325ull;

	page[0] = 3;
	page[1] = 16;
	for (unsigned i = 0; i < 16; i++) {
		h = (h ^ (u8)n->serial[i % DISK_SERIAL_MAX] ^ i) * 0x100000001b3ull;
		page[4 + i] = (u8)(h >> 32);
	}
	page[4 + 6] = (page[4 + 6] & 0x0f) | 0x80; /* version 8: our own */
	page[4 + 8] = (page[4 + 8] & 0x3f) | 0x80;
}

static enum nvme_status identify(struct nvme *n, const struct nvme_command *c, u32 *result)
{
	u8 page[NVME_PAGE] = { 0 };
	struct nvme_data d;
	enum nvme_status s = nvme_map(n, c, sizeof(page), true, &d);

	if (s != NVME_OK)
		return s;
	switch (c->dw10 & 0xff) {
	case 0:
		if (c->nsid == 1 || c->nsid == ~0u)
			identify_namespace(n, page);
		else if (c->nsid == 0)
			return NVME_BAD_NAMESPACE;
		break;
	case 1:
		identify_controller(n, page);
		break;
	case 2: /* active namespaces above nsid */
		if (c->nsid >= 0xfffffffeu)
			return NVME_BAD_NAMESPACE;
		page[0] = c->nsid < 1;
		break;
	case 3:
		if (c->nsid != 1)
			return NVME_BAD_NAMESPACE;
		identify_descriptors(n, page);
		break;
	default:
		return NVME_BAD_FIELD;
	}
	nvme_copy(n, &d, page, sizeof(page), true);
	return NVME_OK;
}

/* ---- features ---- */
enum { QUEUES = 7 };

/* "Feature Identifiers": what we remember, and with which bits. */
static const struct { u8 id; bool per_namespace; u32 mask, initial; } feature_row[] = {
	{ 1, false, 0xffffff07, 7 },   /* arbitration: bursts without limit */
	{ 2, false, 0, 0 },            /* power state: there is one */
	{ 4, false, 0x003fffff, 343 }, /* temperature threshold */
	{ 5, true, 0x1ffff, 0 },       /* error recovery */
	{ NVME_FEATURE_WRITE_CACHE, false, 1, 1 },
	{ QUEUES, false, 0, (NVME_QUEUES - 2) << 16 | (NVME_QUEUES - 2) },
	{ 8, false, 0xffff, 0 },       /* interrupt coalescing: never done */
	{ 9, false, 0x1ffff, 0 },      /* interrupt vector configuration */
	{ 10, false, 1, 0 },           /* write atomicity */
	{ 11, false, 0x7fffff, 0 },    /* which asynchronous events; none ever happen */
};

static int find_feature(u32 id)
{
	for (unsigned i = 0; i < array_len(feature_row); i++)
		if (feature_row[i].id == id)
			return (int)i;
	return -1;
}

void nvme_default_features(struct nvme *n)
{
	for (unsigned i = 0; i < array_len(feature_row); i++)
		n->regs.feature[feature_row[i].id] = feature_row[i].initial;
}

static enum nvme_status get_feature(struct nvme *n, const struct nvme_command *c, u32 *result)
{
	int i = find_feature(c->dw10 & 0xff);
	unsigned select = c->dw10 >> 8 & 7;

	if (i < 0 || select > 3)
		return NVME_BAD_FIELD;
	switch (select) {
	case 0: *result = n->regs.feature[feature_row[i].id]; break;
	case 3: *result = (feature_row[i].mask ? 4 : 0) | (feature_row[i].per_namespace ? 2 : 0); break;
	default: *result = feature_row[i].initial; break;
	}
	return NVME_OK;
}

static enum nvme_status set_feature(struct nvme *n, const struct nvme_command *c, u32 *result)
{
	int i = find_feature(c->dw10 & 0xff);

	if (c->dw10 >> 31)
		return NVME_NOT_SAVEABLE;
	if (i < 0)
		return NVME_BAD_FIELD;
	if (feature_row[i].id == QUEUES) {
		if ((c->dw11 & 0xffff) == 0xffff || c->dw11 >> 16 == 0xffff)
			return NVME_BAD_FIELD;
		*result = feature_row[i].initial; /* all that we have, whatever was asked for */
		return NVME_OK;
	}
	if (feature_row[i].id == 2 && (c->dw11 & 0x1f))
		return NVME_BAD_FIELD;
	n->regs.feature[feature_row[i].id] = c->dw11 & feature_row[i].mask;
	return NVME_OK;
}

/* ---- logs, events ---- */
static bool fill_log(struct nvme *n, u32 id, u8 *log, u32 *size)
{
	struct disk_counters k;

	switch (id) {
	case 1: /* errors: none is kept */
		*size = 64;
		return true;
	case 2: /* SMART / health */
		*size = 512;
		disk_get_counters(n->disk, &k);
		store_le(log + 1, 313, 2); /* kelvin */
		log[3] = 100;              /* spare */
		log[4] = 10;
		store_le(log + 32, (k.read_bytes / DISK_SECTOR + 999) / 1000, 8);
		store_le(log + 48, (k.write_bytes / DISK_SECTOR + 999) / 1000, 8);
		store_le(log + 64, k.reads, 8);
		store_le(log + 80, k.writes, 8);
		return true;
	case 3: /* firmware slots */
		*size = 512;
		log[0] = 1;
		put_text(log + 8, "1", 8);
		return true;
	}
	return false;
}

static enum nvme_status get_log(struct nvme *n, const struct nvme_command *c, u32 *result)
{
	u8 log[NVME_PAGE] = { 0 }, out[NVME_PAGE];
	u64 bytes = (((u64)(c->dw11 & 0xffff) << 16 | c->dw10 >> 16) + 1) * 4, at = (u64)c->dw13 << 32 | c->dw12;
	u32 size = 0;
	struct nvme_data d;

	if (!fill_log(n, c->dw10 & 0xff, log, &size))
		return NVME_BAD_LOG;
	if (at > size || at % 4)
		return NVME_BAD_FIELD;
	if (bytes > sizeof(out))
		return NVME_BAD_FIELD;
	enum nvme_status s = nvme_map(n, c, (u32)bytes, true, &d);

	if (s != NVME_OK)
		return s;
	memset(out, 0, sizeof(out));
	memcpy(out, log + at, min_u64(bytes, size - at));
	nvme_copy(n, &d, out, (u32)bytes, true);
	return NVME_OK;
}

/* "The controller may not abort": result bit 0 says that it has not. */
static enum nvme_status abort_command(struct nvme *n, const struct nvme_command *c, u32 *result)
{
	*result = 1;
	return NVME_OK;
}

/* Completes when something happens, which is never. */
static enum nvme_status event_request(struct nvme *n, const struct nvme_command *c, u32 *result)
{
	if (n->regs.events == NVME_EVENTS)
		return NVME_TOO_MANY_EVENTS;
	n->regs.event_id[n->regs.events++] = c->id;
	return NVME_LATER;
}

static const struct {
	u8 opcode;
	enum nvme_status (*run)(struct nvme *n, const struct nvme_command *c, u32 *result);
} row[] = {
	{ 0x00, delete_sq }, { 0x01, create_sq }, { 0x02, get_log }, { 0x04, delete_cq }, { 0x05, create_cq }, { 0x06, identify },
	{ 0x08, abort_command }, { 0x09, set_feature }, { 0x0a, get_feature }, { 0x0c, event_request },
};

enum nvme_status nvme_admin(struct nvme *n, const struct nvme_command *c, u32 *result)
{
	if (c->flags & 3)
		return NVME_BAD_FIELD;
	for (unsigned i = 0; i < array_len(row); i++)
		if (row[i].opcode == c->opcode)
			return row[i].run(n, c, result);
	return NVME_BAD_OPCODE;
}
