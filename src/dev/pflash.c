/* NOR flash. */
#include "dev/pflash.h"
#include "base/log.h"
#include <stdlib.h>

STATE_DESC(pflash_regs, PFLASH_STATE);

enum { CMD_PROGRAM = 0x10, CMD_PROGRAM_ALT = 0x40, CMD_ERASE = 0x20, CMD_CONFIRM = 0xd0, CMD_CLEAR_STATUS = 0x50, CMD_READ_STATUS = 0x70,
	CMD_READ_ID = 0x90, CMD_CFI = 0x98, CMD_READ_ARRAY = 0xff };
enum { STATUS_READY = 0x80, STATUS_ERASE_ERROR = 0x20, STATUS_PROGRAM_ERROR = 0x10 };
enum { MODE_ARRAY, MODE_STATUS, MODE_ID, MODE_CFI, MODES };
enum { ID_MAKER = 0x89, ID_DEVICE = 0x18, CFI_FIRST = 0x10, CFI_SIZE = 0x27 };

/* The array is shown by its memory slot exactly in array mode. */
static void pflash_update(struct pflash *p)
{
	struct mem *m = p->bus->mem;

	mem_remap(m, p->cfg.slot, p->cfg.base, p->regs.mode == MODE_ARRAY ? p->cfg.size : 0, p->cfg.frame, MEM_ROM);
	mem_remap_done(m);
}

static void set_mode(struct pflash *p, u8 mode)
{
	if (p->regs.mode == mode)
		return;
	bool moves = mode == MODE_ARRAY || p->regs.mode == MODE_ARRAY;

	p->regs.mode = mode;
	if (moves)
		pflash_update(p);
}

static void note_dirty(struct pflash *p, u32 off, u32 len)
{
	struct pflash_regs *r = &p->regs;

	if (r->dirty_end == 0)
		r->dirty_first = off;
	r->dirty_first = (u32)min_u64(r->dirty_first, off);
	r->dirty_end = (u32)max_u64(r->dirty_end, off + len);
	for (u32 at = off; at < off + len; at = align_down(at, PAGE_SIZE) + PAGE_SIZE)
		mem_note_write(p->bus->mem, p->cfg.frame + at / PAGE_SIZE, at % PAGE_SIZE, (unsigned)min_u64(off + len - at, PAGE_SIZE - at % PAGE_SIZE));
}

/* Whole blocks go to the file when the guest turns back to reading: a variable's update is a few such turns. */
static void store(struct pflash *p)
{
	struct pflash_regs *r = &p->regs;
	u64 first = align_down(r->dirty_first, PFLASH_BLOCK), end = min_u64(align_up(r->dirty_end, PFLASH_BLOCK), p->cfg.size);

	r->dirty_first = r->dirty_end = 0;
	if (end <= first || !p->cfg.store)
		return;
	int err = p->cfg.store(p->cfg.opaque, first, p->data + first, end - first);

	if (err) {
		log_once(LOG_WARN, "flash: %s; the guest gets a program error", strerror(-err));
		r->status |= STATUS_PROGRAM_ERROR;
	}
}

/* Programming clears bits, erasing sets them. */
static void program(struct pflash *p, u64 off, u64 value, unsigned size)
{
	mem_will_write_bytes(p->bus->mem, p->cfg.frame, off, size);
	for (unsigned i = 0; i < size; i++)
		p->data[off + i] &= (u8)(value >> (8 * i));
	note_dirty(p, (u32)off, size);
}

static void erase(struct pflash *p, u64 off)
{
	off = align_down(off, PFLASH_BLOCK);
	mem_will_write_bytes(p->bus->mem, p->cfg.frame, off, PFLASH_BLOCK);
	memset(p->data + off, 0xff, PFLASH_BLOCK);
	note_dirty(p, (u32)off, PFLASH_BLOCK);
}

static void command(struct pflash *p, u8 c)
{
	switch (c) {
	case CMD_PROGRAM: case CMD_PROGRAM_ALT: case CMD_ERASE:
		p->regs.pending = c;
		set_mode(p, MODE_STATUS);
		break;
	case CMD_CLEAR_STATUS: p->regs.status = 0; break; /* with the ready bit: OVMF takes a chip for flash only when the status then reads 0 */
	case CMD_READ_STATUS: set_mode(p, MODE_STATUS); break;
	case CMD_READ_ID: set_mode(p, MODE_ID); break;
	case CMD_CFI: set_mode(p, MODE_CFI); break;
	case CMD_READ_ARRAY:
		store(p);
		set_mode(p, MODE_ARRAY);
		break;
	default:
		log_once(LOG_WARN, "flash: command %02xh is not one of this chip's; ignored", c);
		break;
	}
}

static void pflash_write(void *dev, u64 off, u64 value, unsigned size)
{
	struct pflash *p = dev;
	u8 pending = p->regs.pending;

	if (trace_on(TRACE_FIRMWARE))
		trace_line(TRACE_FIRMWARE, "flash %llx <- %llx (mode %u, pending %02x)", (unsigned long long)off, (unsigned long long)value, p->regs.mode, pending);
	p->regs.pending = 0;
	p->regs.status |= pending ? STATUS_READY : 0;
	switch (pending) {
	case CMD_PROGRAM: case CMD_PROGRAM_ALT: program(p, off, value, size); break;
	case CMD_ERASE:
		if ((u8)value == CMD_CONFIRM)
			erase(p, off);
		else
			p->regs.status |= STATUS_ERASE_ERROR | STATUS_PROGRAM_ERROR; /* data sheet "Status Register": command sequence error */
		break;
	default: command(p, (u8)value); break;
	}
}

/* CFI "Query Structure": magic, primary command set, size as a power of two. */
static u8 cfi_byte(const struct pflash *p, u64 off)
{
	static const u8 magic[] = { 'Q', 'R', 'Y', 1, 0, 0x31 };

	if (off >= CFI_FIRST && off < CFI_FIRST + sizeof(magic))
		return magic[off - CFI_FIRST];
	return off == CFI_SIZE ? (u8)(63 - __builtin_clzll(p->cfg.size)) : 0;
}

static u8 pflash_read8(void *dev, u64 off)
{
	const struct pflash *p = dev;

	switch (p->regs.mode) {
	case MODE_STATUS: return p->regs.status;
	case MODE_ID: return (off & 0xff) == 0 ? ID_MAKER : (off & 0xff) == 1 ? ID_DEVICE : 0;
	case MODE_CFI: return cfi_byte(p, off & 0xff);
	}
	return p->data[off];
}

static u64 pflash_read(void *dev, u64 off, unsigned size)
{
	return dev_read_bytes(dev, off, size, pflash_read8);
}

static const struct bus_ops pflash_ops = { pflash_read, pflash_write };

static void pflash_reset(void *dev)
{
	struct pflash *p = dev;

	if (p->regs.dirty_end)
		store(p);
	p->regs = (struct pflash_regs){ .mode = MODE_ARRAY, .status = STATUS_READY };
	pflash_update(p);
}

static void pflash_loaded(void *dev)
{
	struct pflash *p = dev;

	mem_fetch_bytes(p->bus->mem, p->cfg.frame, 0, p->cfg.size);
	p->regs.mode %= MODES;
	p->regs.dirty_end = (u32)min_u64(p->regs.dirty_end, p->cfg.size);
	p->regs.dirty_first = (u32)min_u64(p->regs.dirty_first, p->regs.dirty_end);
	pflash_update(p);
	/* The file has the variables of another moment. No program error for the guest: it has programmed nothing. */
	int err = p->cfg.store ? p->cfg.store(p->cfg.opaque, 0, p->data, p->cfg.size) : 0;
	if (err)
		log_warn("flash: the restored contents cannot be kept: %s", strerror(-err));
}

static void pflash_destroy(void *dev)
{
	store(dev);
	free(dev);
}

struct pflash *pflash_create(struct bus *bus, struct dev_list *devs, const struct pflash_config *cfg)
{
	struct pflash *p = dev_alloc(sizeof(*p));

	bug_if(cfg->size % PFLASH_BLOCK || !cfg->size);
	p->bus = bus;
	p->cfg = *cfg;
	p->data = bus->mem->base + cfg->frame * PAGE_SIZE;
	bus_add_mmio(bus, cfg->base, cfg->size, &pflash_ops, p, "pflash");
	dev_list_add(devs, &(struct dev_instance){ .name = "pflash", .desc = &pflash_regs_state, .regs = &p->regs, .dev = p,
		.reset = pflash_reset, .loaded = pflash_loaded, .destroy = pflash_destroy });
	pflash_reset(p);
	return p;
}
