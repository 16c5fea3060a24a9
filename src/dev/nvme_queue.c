/* NVMe queues: fetching commands, completions, interrupts, and the guest's memory ("Queues", "Physical Region Page Entry and List"). */
#include "dev/nvme_int.h"

/* ---- interrupts ---- */
/* Pin-based interrupts: the level is that of all completion queues with entries that the driver has not taken ("Pin Based, Single MSI,
 * Multiple MSI Behavior"). */
void nvme_update(struct nvme *n)
{
	bool level = false;

	for (unsigned q = 0; q < NVME_QUEUES; q++) {
		const struct nvme_cq_regs *c = &n->regs.cq[q];

		level |= c->exists && c->interrupts && c->head != c->tail && !(n->regs.intm & (1u << (c->vector & 31)));
	}
	pci_intx_set(&n->pci, level && !pci_msix_enabled(&n->pci));
}

void nvme_interrupt(struct nvme *n, unsigned cq)
{
	if (pci_msix_enabled(&n->pci) && n->regs.cq[cq].interrupts)
		pci_msix_notify(&n->pci, n->regs.cq[cq].vector);
	nvme_update(n);
}

/* ---- completion ---- */
static unsigned used_entries(const struct nvme_cq_regs *c)
{
	return c->tail >= c->head ? c->tail - c->head : c->tail + c->size - c->head;
}

void nvme_complete(struct nvme *n, unsigned sq, u16 id, enum nvme_status status, u32 result)
{
	struct nvme_sq_regs *s = &n->regs.sq[sq];
	struct nvme_cq_regs *c = &n->regs.cq[s->cq];
	u32 entry[4] = { result, 0, s->head | (u32)sq << 16, id | (u32)status << 17 | (u32)c->phase << 16 };
	u64 at = c->base + (u64)c->tail * NVME_CQE_BYTES;

	/* The phase tag makes the entry valid, so it comes last. */
	mem_write(n->bus->mem, gpa(at), entry, 12);
	__atomic_thread_fence(__ATOMIC_RELEASE);
	mem_write_le(n->bus->mem, gpa(at + 12), entry[3], 4);
	if (++c->tail == c->size) {
		c->tail = 0;
		c->phase ^= 1;
	}
	nvme_interrupt(n, s->cq);
}

/* ---- the guest's memory ---- */
static bool add_piece(struct nvme *n, struct nvme_data *d, u64 at, u32 len, bool to_guest)
{
	const struct mem_slot *slot = mem_slot_at(n->bus->mem, gpa(at));

	if (!slot || len > slot->size - (at - slot->gpa) || (to_guest && slot->kind != MEM_RAM) || d->n == NVME_MAX_PIECES)
		return false;
	d->piece[d->n++] = (struct nvme_piece){ slot->host + (at - slot->gpa), at, len };
	return true;
}

/* The list of `at`; its last entry in a page points to the next page of the list if more is to come. Entries are read one by one, each
 * once. Terminates: every step but one in 511 uses up a page of the transfer. */
static enum nvme_status map_list(struct nvme *n, u64 at, u32 len, bool to_guest, struct nvme_data *d)
{
	while (len > 0) {
		u64 entry;

		if (at & 7)
			return NVME_BAD_PRP_OFFSET;
		if (mem_read(n->bus->mem, gpa(at), &entry, 8))
			return NVME_TRANSFER_ERROR;
		if (at % NVME_PAGE == NVME_PAGE - 8 && len > NVME_PAGE) {
			if (entry & (NVME_PAGE - 1))
				return NVME_BAD_PRP_OFFSET;
			at = entry;
			if (mem_read(n->bus->mem, gpa(at), &entry, 8))
				return NVME_TRANSFER_ERROR;
		}
		u32 bytes = (u32)min_u64(NVME_PAGE, len);

		if (entry & (NVME_PAGE - 1))
			return NVME_BAD_PRP_OFFSET;
		if (!add_piece(n, d, entry, bytes, to_guest))
			return NVME_TRANSFER_ERROR;
		len -= bytes;
		at += 8;
	}
	return NVME_OK;
}

enum nvme_status nvme_map(struct nvme *n, const struct nvme_command *c, u32 len, bool to_guest, struct nvme_data *d)
{
	u32 first = (u32)min_u64(len, NVME_PAGE - c->prp1 % NVME_PAGE);

	d->n = 0;
	if (c->flags & 0xc0) /* PSDT: scatter-gather lists, which Identify does not offer */
		return NVME_BAD_FIELD;
	if (c->prp1 & 3)
		return NVME_BAD_PRP_OFFSET;
	if (first && !add_piece(n, d, c->prp1, first, to_guest))
		return NVME_TRANSFER_ERROR;
	len -= first;
	if (len == 0)
		return NVME_OK;
	if (len > NVME_PAGE)
		return map_list(n, c->prp2, len, to_guest, d);
	if (c->prp2 & (NVME_PAGE - 1))
		return NVME_BAD_PRP_OFFSET;
	return add_piece(n, d, c->prp2, len, to_guest) ? NVME_OK : NVME_TRANSFER_ERROR;
}

void nvme_note_written(struct nvme *n, const struct nvme_data *d)
{
	for (unsigned i = 0; i < d->n; i++) {
		i64 frame = mem_frame(n->bus->mem, gpa(d->piece[i].gpa));

		if (frame >= 0)
			mem_note_write(n->bus->mem, (u64)frame, (unsigned)(d->piece[i].gpa % NVME_PAGE), d->piece[i].len);
	}
}

void nvme_copy(struct nvme *n, struct nvme_data *d, void *buf, u32 len, bool to_guest)
{
	u8 *p = buf;

	for (unsigned i = 0; i < d->n && len > 0; i++) {
		u32 bytes = (u32)min_u64(len, d->piece[i].len);

		memcpy(to_guest ? d->piece[i].host : p, to_guest ? p : d->piece[i].host, bytes);
		p += bytes;
		len -= bytes;
	}
	if (to_guest)
		nvme_note_written(n, d);
}

/* ---- submission ---- */
bool nvme_can_complete(const struct nvme *n, unsigned sq)
{
	unsigned cq = n->regs.sq[sq].cq;
	const struct nvme_cq_regs *c = &n->regs.cq[cq];

	return n->regs.sq[sq].exists && c->exists && used_entries(c) + n->of_cq[cq] + 1 < c->size;
}

/* False: nothing was fetched. */
static bool run_one(struct nvme *n, unsigned sq)
{
	struct nvme_sq_regs *s = &n->regs.sq[sq];
	struct nvme_command c;
	enum nvme_status status = NVME_TRANSFER_ERROR;
	u32 result = 0;

	if (s->head == s->tail || !nvme_can_complete(n, sq) || (sq && !n->free))
		return false;
	int err = mem_read(n->bus->mem, gpa(s->base + (u64)s->head * NVME_SQE_BYTES), &c, sizeof(c));

	if (++s->head >= s->size)
		s->head = 0;
	if (err)
		memset(&c, 0, sizeof(c));
	else
		status = sq ? nvme_io(n, sq, &c) : nvme_admin(n, &c, &result);
	if (status != NVME_LATER)
		nvme_complete(n, sq, c.id, status, result);
	return true;
}

void nvme_run(struct nvme *n)
{
	for (unsigned q = 0; q < NVME_QUEUES; q++)
		/* A driver cannot ring meanwhile, so this ends with the queue's entries. */
		while ((n->regs.csts & 1) && run_one(n, q))
			;
}
