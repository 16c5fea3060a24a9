/* What disk devices have in common between disk_submit() and the guest: counting, the way back, taking back. Not here: locks of the device. Surprise:
 * waits are short and repeated, because a disk that holds a request (on-error=pause) tells nobody. */
#include "host/disk_flight.h"
#include <time.h>

void disk_flight_init(struct disk_flight *f)
{
	*f = (struct disk_flight){ .last = &f->done };
	pthread_mutex_init(&f->lock, NULL);
	pthread_cond_init(&f->idle, NULL);
}

/* lock held */
static void wait_idle(struct disk_flight *f)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_nsec += 10000000;
	until.tv_sec += until.tv_nsec / 1000000000;
	until.tv_nsec %= 1000000000;
	pthread_cond_timedwait(&f->idle, &f->lock, &until);
}

void disk_flight_destroy(struct disk_flight *f)
{
	pthread_mutex_lock(&f->lock);
	while (f->returning)
		wait_idle(f);
	pthread_mutex_unlock(&f->lock);
	pthread_cond_destroy(&f->idle);
	pthread_mutex_destroy(&f->lock);
}

void disk_flight_submit(struct disk_flight *f, struct disk *d, struct disk_request *r)
{
	pthread_mutex_lock(&f->lock);
	f->in_flight++;
	pthread_mutex_unlock(&f->lock);
	disk_submit(d, r);
}

bool disk_flight_land(struct disk_flight *f, struct disk_request *r)
{
	bool mine;

	pthread_mutex_lock(&f->lock);
	r->next = NULL;
	*f->last = r;
	f->last = &r->next;
	f->in_flight--;
	mine = !f->giving;
	f->giving = true;
	f->returning += mine;
	pthread_cond_broadcast(&f->idle);
	pthread_mutex_unlock(&f->lock);
	return mine;
}

struct disk_request *disk_flight_take(struct disk_flight *f)
{
	struct disk_request *r;

	pthread_mutex_lock(&f->lock);
	r = f->done;
	if (r)
		f->done = r->next;
	else
		f->giving = false;
	if (!f->done)
		f->last = &f->done;
	pthread_mutex_unlock(&f->lock);
	return r;
}

void disk_flight_left(struct disk_flight *f)
{
	pthread_mutex_lock(&f->lock);
	f->returning--;
	pthread_cond_broadcast(&f->idle);
	pthread_mutex_unlock(&f->lock);
}

void disk_flight_drop(struct disk_flight *f, unsigned n)
{
	pthread_mutex_lock(&f->lock);
	f->in_flight -= n;
	pthread_cond_broadcast(&f->idle);
	pthread_mutex_unlock(&f->lock);
}

/* lock held. Moves the owner's requests that are done to *list. */
static void take_done(struct disk_flight *f, void *owner, struct disk_request **list)
{
	struct disk_request **at = &f->done, *r;

	while ((r = *at)) {
		if (r->owner != owner) {
			at = &r->next;
			continue;
		}
		*at = r->next;
		r->next = *list;
		*list = r;
	}
	f->last = at;
}

struct disk_request *disk_flight_recall(struct disk_flight *f, struct disk *d, void *owner)
{
	struct disk_request *list;

	pthread_mutex_lock(&f->lock);
	list = disk_cancel(d, owner);
	for (struct disk_request *r = list; r; r = r->next)
		f->in_flight--;
	take_done(f, owner, &list);
	pthread_mutex_unlock(&f->lock);
	return list;
}

bool disk_flight_wait_above(struct disk_flight *f, unsigned held)
{
	bool above;

	pthread_mutex_lock(&f->lock);
	above = f->in_flight > held;
	if (above)
		wait_idle(f);
	pthread_mutex_unlock(&f->lock);
	return above;
}

bool disk_flight_busy(struct disk_flight *f, unsigned held)
{
	bool busy;

	pthread_mutex_lock(&f->lock);
	busy = f->in_flight > held || f->done;
	pthread_mutex_unlock(&f->lock);
	return busy;
}
