/* Messages and trace points. Surprise: both write with one fwrite per line, so lines of several vCPU threads never mix. */
#include "base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

u32 trace_mask;
static enum log_level max_level = LOG_INFO;
static FILE *trace_file;

static const struct { const char *name, *text; } rows[TRACE_COUNT] = {
#define R(id, name, text) { name, text },
	TRACE_ROWS(R)
#undef R
};

static void put_line(FILE *f, const char *prefix, const char *fmt, va_list ap)
{
	char line[2048];
	int n = snprintf(line, sizeof line, "%s: ", prefix);
	int m = vsnprintf(line + n, sizeof line - n - 1, fmt, ap);
	size_t len = n + (m < 0 ? 0 : m);
	if (len > sizeof line - 2)
		len = sizeof line - 2;
	line[len++] = '\n';
	fwrite(line, 1, len, f);
	fflush(f);
}

void log_set_level(enum log_level level) { max_level = level; }

void log_line(enum log_level level, const char *fmt, ...)
{
	if (level > max_level)
		return;
	va_list ap;
	va_start(ap, fmt);
	put_line(stderr, level == LOG_WARN ? "nestbox: warning" : "nestbox", fmt, ap);
	va_end(ap);
}

void trace_line(enum trace_id id, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	put_line(trace_file ? trace_file : stderr, rows[id].name, fmt, ap);
	va_end(ap);
}

int trace_enable(const char *names, const char **bad)
{
	while (*names) {
		size_t len = strcspn(names, ",");
		unsigned i;
		for (i = 0; i < TRACE_COUNT; i++)
			if (strlen(rows[i].name) == len && !memcmp(rows[i].name, names, len))
				break;
		if (i == TRACE_COUNT) {
			*bad = names;
			return -EINVAL;
		}
		trace_mask |= 1u << i;
		names += len + (names[len] == ',');
	}
	return 0;
}

void trace_set_output(void *file) { trace_file = file; }

void trace_print_names(void *file)
{
	for (unsigned i = 0; i < TRACE_COUNT; i++)
		fprintf(file, "  %-10s %s\n", rows[i].name, rows[i].text);
}

void base_bug(const char *file, int line, const char *cond)
{
	fprintf(stderr, "nestbox: bug at %s:%d: %s\n", file, line, cond);
	abort();
}
