/* Firmware configuration interface. */
#include "dev/fw_cfg.h"
#include "base/log.h"
#include <errno.h>
#include <stdlib.h>

STATE_DESC(fw_cfg_regs, FW_CFG_STATE);

enum { PORT_SELECTOR = 0x510, PORT_DMA = 0x514, ID_TRADITIONAL = 1, ID_DMA = 2 };
enum { DMA_ERROR = 1, DMA_READ = 2, DMA_SKIP = 4, DMA_SELECT = 8, DMA_WRITE = 16 };

/* As it lies in guest memory; all fields big-endian. */
struct dma_descriptor {
	u32 control, length;
	u64 address;
};

static struct fw_cfg_item *item_of_key(struct fw_cfg *f, u16 key)
{
	if (key < FW_CFG_FILE_FIRST)
		return &f->item[key];
	if (key - FW_CFG_FILE_FIRST < f->nfiles)
		return &f->file[key - FW_CFG_FILE_FIRST].item;
	if (key >= FW_CFG_ARCH && key - FW_CFG_ARCH < FW_CFG_ARCH_ITEMS)
		return &f->arch[key - FW_CFG_ARCH];
	return NULL;
}

static void item_set(struct fw_cfg_item *it, const void *data, u32 size)
{
	free(it->data);
	it->data = dev_alloc(size ? size : 1);
	memcpy(it->data, data, size);
	it->size = size;
}

void fw_cfg_set(struct fw_cfg *f, u16 key, const void *data, u32 size)
{
	bug_if(key >= FW_CFG_FILE_FIRST && (key < FW_CFG_ARCH || key >= FW_CFG_ARCH + FW_CFG_ARCH_ITEMS));
	item_set(item_of_key(f, key), data, size);
}

void fw_cfg_set_u16(struct fw_cfg *f, u16 key, u16 v) { fw_cfg_set(f, key, &v, sizeof(v)); }
void fw_cfg_set_u32(struct fw_cfg *f, u16 key, u32 v) { fw_cfg_set(f, key, &v, sizeof(v)); }
void fw_cfg_set_u64(struct fw_cfg *f, u16 key, u64 v) { fw_cfg_set(f, key, &v, sizeof(v)); }

/* Big-endian count, then 64 bytes per file: size, key, reserved, name. */
static void build_directory(struct fw_cfg *f)
{
	u32 size = 4 + f->nfiles * 64;
	u8 *dir = dev_alloc(size);

	store_le(dir, bswap32(f->nfiles), 4);
	for (unsigned i = 0; i < f->nfiles; i++) {
		u8 *e = dir + 4 + i * 64;

		store_le(e, bswap32(f->file[i].item.size), 4);
		store_le(e + 4, bswap16(FW_CFG_FILE_FIRST + i), 2);
		memcpy(e + 8, f->file[i].name, sizeof(f->file[i].name));
	}
	item_set(&f->item[FW_CFG_FILE_DIR], dir, size);
	free(dir);
}

int fw_cfg_add_file(struct fw_cfg *f, const char *name, const void *data, u32 size)
{
	unsigned at = 0;

	if (strlen(name) >= sizeof(f->file[0].name))
		return -ENAMETOOLONG;
	while (at < f->nfiles && strcmp(f->file[at].name, name) < 0)
		at++;
	if (at == f->nfiles || strcmp(f->file[at].name, name) != 0) {
		if (f->nfiles == FW_CFG_FILES)
			return -ENOSPC;
		memmove(&f->file[at + 1], &f->file[at], (f->nfiles - at) * sizeof(f->file[0]));
		memset(&f->file[at], 0, sizeof(f->file[at]));
		memcpy(f->file[at].name, name, strlen(name));
		f->nfiles++;
	}
	item_set(&f->file[at].item, data, size);
	build_directory(f);
	return 0;
}

static void select_key(struct fw_cfg *f, u16 key)
{
	/* Bit 14 is "write"; old clients set it, it selects the same item. */
	f->regs.key = key & ~0x4000u;
	f->regs.offset = 0;
}

/* What is left of the selected item at the offset; *data is then valid for that many bytes. */
static u32 remaining(struct fw_cfg *f, const u8 **data)
{
	const struct fw_cfg_item *it = item_of_key(f, f->regs.key);

	if (!it || f->regs.offset >= it->size)
		return 0;
	*data = it->data + f->regs.offset;
	return it->size - f->regs.offset;
}

static void advance(struct fw_cfg *f, u32 n)
{
	f->regs.offset = (u32)min_u64((u64)f->regs.offset + n, ~(u32)0);
}

static u8 next_byte(struct fw_cfg *f)
{
	const u8 *p;
	u8 v = remaining(f, &p) ? *p : 0;

	advance(f, 1);
	return v;
}

/* Past its end an item reads as zeros. */
static int dma_read(struct fw_cfg *f, u64 to, u32 len)
{
	static const u8 zeros[4096];
	int err = 0;

	while (len > 0 && !err) {
		const u8 *p = zeros;
		u32 n = remaining(f, &p);

		n = (u32)min_u64(n ? n : sizeof(zeros), len);
		err = mem_write(f->bus->mem, gpa(to), p, n);
		advance(f, n);
		to += n;
		len -= n;
	}
	return err;
}

static u32 dma_execute(struct fw_cfg *f, const struct dma_descriptor *d)
{
	u32 control = bswap32(d->control), len = bswap32(d->length);

	if (control & DMA_SELECT)
		select_key(f, control >> 16);
	if (control & DMA_READ)
		return dma_read(f, bswap64(d->address), len) ? DMA_ERROR : 0;
	if (control & DMA_WRITE)
		return DMA_ERROR; /* no item is writable */
	if (control & DMA_SKIP)
		advance(f, len);
	return 0;
}

/* The descriptor is read once; its control word is written last and tells the guest that we are done. */
static void dma_run(struct fw_cfg *f)
{
	u64 at = f->regs.dma_address;
	struct dma_descriptor d;

	f->regs.dma_address = 0;
	if (mem_read(f->bus->mem, gpa(at), &d, sizeof(d))) {
		log_once(LOG_WARN, "fw_cfg: DMA descriptor at %#llx is outside of memory", (unsigned long long)at);
		return;
	}
	u32 result = bswap32(dma_execute(f, &d));

	mem_write(f->bus->mem, gpa(at), &result, sizeof(result));
}

/* Offset 0: 16-bit selector; offset 1: data bytes. */
static u64 port_read(void *dev, u64 off, unsigned size)
{
	struct fw_cfg *f = dev;

	if (size == 1)
		return off == 1 ? next_byte(f) : 0xff;
	return f->regs.key;
}

static void port_write(void *dev, u64 off, u64 value, unsigned size)
{
	if (off == 0 && size == 2)
		select_key(dev, (u16)value);
}

static u64 dma_port_read(void *dev, u64 off, unsigned size)
{
	return load_le("QEMU CFG" + off, size);
}

static void dma_port_write(void *dev, u64 off, u64 value, unsigned size)
{
	struct fw_cfg *f = dev;

	if (size != 4 || off % 4)
		return;
	if (off == 0) {
		f->regs.dma_address = (u64)bswap32((u32)value) << 32 | (u32)f->regs.dma_address;
		return;
	}
	f->regs.dma_address = (f->regs.dma_address & ~(u64)0xffffffff) | bswap32((u32)value);
	dma_run(f);
}

static const struct bus_ops port_ops = { port_read, port_write };
static const struct bus_ops dma_ops = { dma_port_read, dma_port_write };

static void fw_cfg_reset(void *dev)
{
	struct fw_cfg *f = dev;

	memset(&f->regs, 0, sizeof(f->regs));
}

static void fw_cfg_destroy(void *dev)
{
	struct fw_cfg *f = dev;

	for (unsigned i = 0; i < array_len(f->item); i++)
		free(f->item[i].data);
	for (unsigned i = 0; i < array_len(f->arch); i++)
		free(f->arch[i].data);
	for (unsigned i = 0; i < f->nfiles; i++)
		free(f->file[i].item.data);
	free(f);
}

struct fw_cfg *fw_cfg_create(struct bus *bus, struct dev_list *devs)
{
	struct fw_cfg *f = dev_alloc(sizeof(*f));

	f->bus = bus;
	fw_cfg_set(f, FW_CFG_SIGNATURE, "QEMU", 4);
	fw_cfg_set_u32(f, FW_CFG_ID, ID_TRADITIONAL | ID_DMA);
	build_directory(f);
	bus_add_port(bus, PORT_SELECTOR, 2, &port_ops, f, "fw_cfg");
	bus_add_port(bus, PORT_DMA, 8, &dma_ops, f, "fw_cfg-dma");
	dev_list_add(devs, &(struct dev_instance){ .name = "fw_cfg", .desc = &fw_cfg_regs_state, .regs = &f->regs, .dev = f,
		.reset = fw_cfg_reset, .destroy = fw_cfg_destroy });
	return f;
}
