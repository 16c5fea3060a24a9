/* Tables for people. */
#ifndef NB_CLI_TABLE_H
#define NB_CLI_TABLE_H

#include "base/base.h"

struct table;
/* Columns by their headings, NULL-terminated; one that starts with ">" is aligned to the right. NULL: out of memory, which the others take. */
struct table *table_create(const char *const *columns);
/* Adds a row; as many texts as there are columns, copied. A NULL stands for nothing. */
void table_row(struct table *t, const char *const *texts);
/* Prints it on stdout and frees it. */
void table_print(struct table *t);

/* "512 MiB", "1.5 GiB". */
const char *format_size(u64 bytes, char *buf, size_t size);
/* "3 s", "12 min", "5 h", "3 d". */
const char *format_duration(double seconds, char *buf, size_t size);

#endif
