/* Inside migrate/: a machine's snapshots, shared by save.c and load.c. */
#ifndef NB_SNAP_PRIV_H
#define NB_SNAP_PRIV_H

#include "migrate/snapshot.h"

struct save_job;
struct lazy_load;

struct snapshots {
	struct vm *vm;
	struct save_job *job;    /* the last one started; freed at the next pause, since a vCPU may still be in its keeper */
	struct lazy_load *load;  /* the same for what is being brought in */
	bool has_base;           /* lock */
	u8 base_id[16];          /* lock */
	char base_file[128];     /* lock */
	unsigned base_chain;     /* lock: how many files it stands on, itself included */
	u64 *ever;               /* memory that is private: frames that may differ from zero; NULL otherwise */
	pthread_mutex_t lock;
};

/* Frames whose content is not zero, or not there yet: bits. */
int snap_nonzero_frames(struct snapshots *s, u64 *bits);
void snap_set_base(struct snapshots *s, const u8 id[16], const char *file, unsigned chain);
/* Waits for the job and frees it. Nobody may be in its keeper: paused or stopped. */
void save_job_free(struct snapshots *s);
void lazy_load_free(struct snapshots *s);
/* The machine's own description, as a snapshot has it. */
void snap_describe(struct vm *vm, struct snap_meta *m);

#endif
