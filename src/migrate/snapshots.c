/* A machine's snapshots as a whole: what its memory has evolved from. Saving is in save.c, loading in load.c. */
#include "migrate/snap_priv.h"

#include <errno.h>
#include <stdlib.h>

struct snapshots *snapshots_create(struct vm *vm)
{
	struct snapshots *s = calloc(1, sizeof *s);
	if (!s)
		return NULL;
	s->vm = vm;
	pthread_mutex_init(&s->lock, NULL);
	return s;
}

void snapshots_destroy(struct snapshots *s)
{
	if (!s)
		return;
	save_job_free(s);
	lazy_load_free(s);
	free(s->ever);
	free(s);
}

void snap_set_base(struct snapshots *s, const u8 id[16], const char *file, unsigned chain)
{
	pthread_mutex_lock(&s->lock);
	s->has_base = true;
	memcpy(s->base_id, id, sizeof s->base_id);
	snprintf(s->base_file, sizeof s->base_file, "%s", file);
	s->base_chain = chain;
	pthread_mutex_unlock(&s->lock);
}

bool snapshots_base(struct snapshots *s, u8 id[16], char file[128])
{
	pthread_mutex_lock(&s->lock);
	bool has = s->has_base;
	memcpy(id, s->base_id, sizeof s->base_id);
	memcpy(file, s->base_file, sizeof s->base_file);
	pthread_mutex_unlock(&s->lock);
	return has;
}

void snapshots_forget_base(struct snapshots *s)
{
	pthread_mutex_lock(&s->lock);
	s->has_base = false;
	pthread_mutex_unlock(&s->lock);
}

int snap_nonzero_frames(struct snapshots *s, u64 *bits_)
{
	struct mem *m = &s->vm->mem;
	int err = 0;
	if (!m->is_private)
		err = mem_touched(m, bits_);
	for (u64 i = 0; !err && i < mem_bitmap_words(m); i++) {
		if (m->source)
			bits_[i] |= __atomic_load_n(&m->source->absent[i], __ATOMIC_RELAXED);
		if (s->ever)
			bits_[i] |= s->ever[i];
	}
	return err;
}
