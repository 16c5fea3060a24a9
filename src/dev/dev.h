/* The list of all devices of one machine: what snapshots, resets and tests walk. Not here: wiring (bus/) and the
 * board table (vm/). A device may register several instances (a PCI function, then its own registers); each has one
 * padding-free register struct. */
#ifndef NB_DEV_H
#define NB_DEV_H

#include "base/base.h"
#include "state/state.h"

struct dev_instance {
	char name[32];                 /* unique in the machine, as it stands in snapshots */
	const struct state_desc *desc; /* NULL: has no state */
	void *regs;                    /* what desc describes */
	void *dev;                     /* argument of the calls below; each of them may be NULL */
	void (*reset)(void *dev);      /* to power-on values; bus->lock held */
	void (*quiesce)(void *dev);    /* before saving: wait until no work is in flight; bus->lock NOT held, vCPUs stopped */
	void (*loaded)(void *dev);     /* after all registers of the machine were loaded: derive windows, lines and timers */
	void (*destroy)(void *dev);    /* stop threads, free memory; bus->lock NOT held */
};

#define DEV_MAX_INSTANCES 128

struct dev_list {
	struct dev_instance item[DEV_MAX_INSTANCES];
	unsigned count;
};

/* Copies the row; a second instance of the same name or one too many is our bug. */
void dev_list_add(struct dev_list *l, const struct dev_instance *i);
/* "base" or "base.N" for the Nth of its kind, N >= 1, so that every instance name is unique. */
void dev_list_unique_name(const struct dev_list *l, const char *base, char *out, size_t size);

void dev_list_reset(struct dev_list *l);
void dev_list_quiesce(struct dev_list *l);
/* Appends one section per instance with state, in order of registration. */
void dev_list_save(const struct dev_list *l, struct state_buf *b);
/* Loads all sections, then calls every loaded(). 0, or -EINVAL (logged); devices are then in an undefined but safe
 * state. */
int dev_list_load(struct dev_list *l, const struct state_buf *b, size_t *pos);
/* Whether dev_list_load would take it; changes no device. */
int dev_list_check(const struct dev_list *l, const struct state_buf *b, size_t *pos);
/* Destroys in reverse order. */
void dev_list_free(struct dev_list *l);

/* For 8-bit chips: a wider access reaches consecutive registers, lowest first. */
static inline u64 dev_read_bytes(void *dev, u64 off, unsigned size, u8 (*read8)(void *dev, u64 off))
{
	u64 v = 0;

	for (unsigned i = 0; i < size; i++)
		v |= (u64)read8(dev, off + i) << (8 * i);
	return v;
}

static inline void dev_write_bytes(void *dev, u64 off, u64 value, unsigned size, void (*write8)(void *dev, u64 off, u8 v))
{
	for (unsigned i = 0; i < size; i++)
		write8(dev, off + i, (u8)(value >> (8 * i)));
}

/* calloc that cannot fail (a machine is built at start, where memory for it must exist). */
void *dev_alloc(size_t size);

#endif
