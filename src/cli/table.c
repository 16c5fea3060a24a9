#include "cli/table.h"

#include <libsmartcols.h>
#include <stdio.h>
#include <stdlib.h>

struct table {
	struct libscols_table *t;
	unsigned columns;
};

struct table *table_create(const char *const *columns)
{
	struct table *t = calloc(1, sizeof *t);
	if (!t)
		return NULL;
	t->t = scols_new_table();
	if (!t->t) {
		free(t);
		return NULL;
	}
	for (; columns[t->columns]; t->columns++) {
		bool right = columns[t->columns][0] == '>';
		scols_table_new_column(t->t, columns[t->columns] + right, 0, right ? SCOLS_FL_RIGHT : 0);
	}
	return t;
}

void table_row(struct table *t, const char *const *texts)
{
	struct libscols_line *line = t ? scols_table_new_line(t->t, NULL) : NULL;
	for (unsigned i = 0; line && i < t->columns; i++)
		scols_line_set_data(line, i, texts[i] ? texts[i] : "");
}

void table_print(struct table *t)
{
	if (!t)
		return;
	scols_print_table(t->t);
	scols_unref_table(t->t);
	free(t);
}

const char *format_size(u64 bytes, char *buf, size_t size)
{
	if (bytes >= GiB)
		snprintf(buf, size, bytes % GiB ? "%.1f GiB" : "%.0f GiB", (double)bytes / (double)GiB);
	else
		snprintf(buf, size, "%llu MiB", (unsigned long long)(bytes / MiB));
	return buf;
}

const char *format_duration(double s, char *buf, size_t size)
{
	static const struct { double from, unit; const char *name; } rows[] = { { 172800, 86400, "d" }, { 7200, 3600, "h" }, { 120, 60, "min" }, { 0, 1, "s" } };
	for (unsigned i = 0; i < sizeof rows / sizeof rows[0]; i++)
		if (s >= rows[i].from) {
			snprintf(buf, size, "%.0f %s", s / rows[i].unit, rows[i].name);
			return buf;
		}
	snprintf(buf, size, "0 s");
	return buf;
}
