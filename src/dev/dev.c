/* The list of all devices of one machine. */
#include "dev/dev.h"
#include <stdio.h>
#include <stdlib.h>

static const struct dev_instance *find(const struct dev_list *l, const char *name)
{
	for (unsigned i = 0; i < l->count; i++)
		if (strcmp(l->item[i].name, name) == 0)
			return &l->item[i];
	return NULL;
}

void dev_list_add(struct dev_list *l, const struct dev_instance *i)
{
	bug_if(l->count == DEV_MAX_INSTANCES);
	bug_if(find(l, i->name));
	l->item[l->count++] = *i;
}

void dev_list_unique_name(const struct dev_list *l, const char *base, char *out, size_t size)
{
	snprintf(out, size, "%s", base);
	for (unsigned n = 1; find(l, out); n++)
		snprintf(out, size, "%s.%u", base, n);
}

void dev_list_reset(struct dev_list *l)
{
	for (unsigned i = 0; i < l->count; i++)
		if (l->item[i].reset)
			l->item[i].reset(l->item[i].dev);
}

void dev_list_quiesce(struct dev_list *l)
{
	for (unsigned i = 0; i < l->count; i++)
		if (l->item[i].quiesce)
			l->item[i].quiesce(l->item[i].dev);
}

void dev_list_save(const struct dev_list *l, struct state_buf *b)
{
	for (unsigned i = 0; i < l->count; i++)
		if (l->item[i].desc)
			state_save(b, l->item[i].desc, l->item[i].name, l->item[i].regs);
}

int dev_list_load(struct dev_list *l, const struct state_buf *b, size_t *pos)
{
	for (unsigned i = 0; i < l->count; i++) {
		int err = l->item[i].desc ? state_load(b, pos, l->item[i].desc, l->item[i].name, l->item[i].regs) : 0;

		if (err)
			return err;
	}
	for (unsigned i = 0; i < l->count; i++)
		if (l->item[i].loaded)
			l->item[i].loaded(l->item[i].dev);
	return 0;
}

int dev_list_check(const struct dev_list *l, const struct state_buf *b, size_t *pos)
{
	int err = 0;

	for (unsigned i = 0; i < l->count && !err; i++) {
		void *scratch = l->item[i].desc ? dev_alloc(l->item[i].desc->size) : NULL;

		if (scratch)
			err = state_load(b, pos, l->item[i].desc, l->item[i].name, scratch);
		free(scratch);
	}
	return err;
}

void dev_list_free(struct dev_list *l)
{
	while (l->count > 0) {
		struct dev_instance *i = &l->item[--l->count];

		if (i->destroy)
			i->destroy(i->dev);
	}
}

void *dev_alloc(size_t size)
{
	void *p = calloc(1, size);

	bug_if(!p);
	return p;
}
