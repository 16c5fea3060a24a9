/* Seeing the nest: tree, exits, explain. */
#include "cli/cli.h"
#include "cli/table.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define RATE_MS 400
#define WATCH_MS 1000

static void sleep_ms(unsigned ms) { nanosleep(&(struct timespec){ ms / 1000, ms % 1000 * 1000000L }, NULL); }
static json_int_t int_of(json_t *o, const char *key) { return json_integer_value(json_object_get(o, key)); }
static const char *text_of(json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));
	return s ? s : "";
}

/* ---- two samples of one verb, some time apart ---- */
struct sample { json_t *now, *before; double seconds; };

static double monotonic_s(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

/* 0, or the exit status after one error line. The first time it takes two. */
static int take(struct cli_call *call, const char *verb, struct sample *s, double *taken_at)
{
	if (!s->now) {
		s->now = cli_ask(call, call->argv[0], verb, NULL);
		*taken_at = monotonic_s();
		if (!s->now)
			return STATUS_USAGE;
		sleep_ms(RATE_MS);
	}
	json_decref(s->before);
	s->before = s->now;
	s->now = cli_ask(call, call->argv[0], verb, NULL);
	double at = monotonic_s();
	s->seconds = at - *taken_at;
	*taken_at = at;
	return s->now ? 0 : STATUS_USAGE;
}

/* Shows samples of `verb` once, or again and again. */
static int watch(struct cli_call *call, const char *verb, void (*add_rates)(struct sample *s), void (*show)(struct cli_call *call, json_t *now))
{
	struct sample s = { 0 };
	double at = 0;
	bool again = cli_option(call, "watch");
	int status;
	while (!(status = take(call, verb, &s, &at))) {
		add_rates(&s);
		if (call->json) {
			json_dumpf(s.now, stdout, JSON_COMPACT);
			putchar('\n');
		} else {
			if (again && isatty(STDOUT_FILENO))
				fputs("\033[H\033[2J", stdout);
			show(call, s.now);
		}
		fflush(stdout);
		if (!again)
			break;
		sleep_ms(WATCH_MS);
	}
	json_decref(s.now);
	json_decref(s.before);
	return status;
}

/* ---- tree ---- */
static json_t *same_guest(json_t *list, json_t *g)
{
	size_t i;
	json_t *o;
	json_array_foreach(list, i, o)
		if (int_of(o, "level") == int_of(g, "level") && !strcmp(text_of(o, "eptp"), text_of(g, "eptp")) &&
		    !strcmp(text_of(json_array_get(json_object_get(o, "vcpus"), 0), "vmcs"), text_of(json_array_get(json_object_get(g, "vcpus"), 0), "vmcs")))
			return o;
	return NULL;
}

static void tree_rates(struct sample *s)
{
	size_t i;
	json_t *g;
	json_array_foreach(json_object_get(s->now, "guests"), i, g) {
		json_t *old = same_guest(json_object_get(s->before, "guests"), g);
		json_object_set_new(g, "exits_per_s", json_real((int_of(g, "exits") - (old ? int_of(old, "exits") : 0)) / s->seconds));
	}
}

static bool is_child(json_t *g, json_int_t parent)
{
	json_t *p = json_object_get(g, "parent");
	return parent < 0 ? json_is_null(p) : json_is_integer(p) && json_integer_value(p) == parent;
}

static void draw_vcpu(json_t *v, const char *indent)
{
	double idle = json_number_value(json_object_get(v, "idle_s"));
	char when[48] = "";
	if (json_is_true(json_object_get(v, "running")))
		snprintf(when, sizeof when, ", runs now");
	else if (idle >= 1)
		snprintf(when, sizeof when, ", last ran %.0f s ago", idle);
	printf("%s    vCPU on CPU %lld: VMCS %s, VPID %lld, %s, %s at rip %s%s\n", indent, (long long)int_of(v, "cpu"), text_of(v, "vmcs"), (long long)int_of(v, "vpid"),
	       text_of(v, "mode"), text_of(v, "activity"), text_of(v, "rip"), when);
}

static void draw(json_t *guests, json_int_t parent, const char *indent)
{
	size_t i, left = 0;
	json_t *g;
	json_array_foreach(guests, i, g)
		left += is_child(g, parent);
	json_array_foreach(guests, i, g) {
		char deeper[256];
		size_t k;
		json_t *v;
		if (!is_child(g, parent))
			continue;
		left--;
		bool ept = strcmp(text_of(g, "eptp"), "0x0");
		const char *looks = text_of(g, "looks");
		printf("%s%s L%lld  %s%s%s%s, %zu vCPU%s, %lld VM exits, %.0f/s\n", indent, left ? "├─" : "└─", (long long)int_of(g, "level"), looks, *looks ? ", " : "",
		       ept ? "EPT pointer " : "no EPT", ept ? text_of(g, "eptp") : "", json_array_size(json_object_get(g, "vcpus")), json_array_size(json_object_get(g, "vcpus")) == 1 ? "" : "s",
		       (long long)int_of(g, "exits"), json_real_value(json_object_get(g, "exits_per_s")));
		snprintf(deeper, sizeof deeper, "%s%s", indent, left ? "│  " : "   ");
		json_array_foreach(json_object_get(g, "vcpus"), k, v)
			draw_vcpu(v, deeper);
		if (strlen(indent) < sizeof deeper / 2)
			draw(guests, int_of(g, "id"), deeper);
	}
}

static void draw_vm(const char *name, json_t *now)
{
	json_t *guests = json_object_get(now, "guests");
	printf("L1  %s: %lld vCPU%s, VT-x %s\n", name, (long long)int_of(now, "cpus"), int_of(now, "cpus") == 1 ? "" : "s",
	       json_is_true(json_object_get(now, "nested")) ? "on" : "off");
	draw(guests, -1, "");
	if (!json_array_size(guests))
		puts("    no guest has run inside");
}

static void show_tree(struct cli_call *call, json_t *now) { draw_vm(call->argv[0], now); }

/* Trees of all machines that run. One that ends meanwhile is left out; its end is no error of ours. */
static json_t *forest(struct cli_call *call)
{
	size_t i;
	json_t *list = cli_list_vms(call), *vm, *trees = list ? json_array() : NULL;
	json_array_foreach(list, i, vm) {
		struct sample s = { 0 };
		double at;
		char *argv[] = { (char *)text_of(vm, "name"), NULL };
		struct cli_call one = *call;
		one.argv = argv;
		one.argc = 1;
		one.json = false;
		if (strcmp(text_of(vm, "state"), "running") && strcmp(text_of(vm, "state"), "paused"))
			continue;
		if (!take(&one, "tree", &s, &at)) {
			tree_rates(&s);
			json_object_set(s.now, "name", json_object_get(vm, "name"));
			json_array_append(trees, s.now);
		}
		json_decref(s.now);
		json_decref(s.before);
	}
	json_decref(list);
	return trees;
}

static void show_forest(struct cli_call *call, json_t *trees)
{
	size_t i;
	json_t *t;
	if (call->json) {
		json_t *o = json_pack("{s:O}", "vms", trees);
		json_dumpf(o, stdout, JSON_COMPACT);
		putchar('\n');
		json_decref(o);
	} else if (!json_array_size(trees)) {
		puts("no VM is running");
	} else {
		json_array_foreach(trees, i, t)
			draw_vm(text_of(t, "name"), t);
	}
	fflush(stdout);
}

int cli_tree_command(struct cli_call *call)
{
	if (call->argc)
		return watch(call, "tree", tree_rates, show_tree);
	for (;;) {
		json_t *trees = forest(call);
		if (!trees)
			return STATUS_USAGE;
		if (cli_option(call, "watch") && !call->json && isatty(STDOUT_FILENO))
			fputs("\033[H\033[2J", stdout);
		show_forest(call, trees);
		json_decref(trees);
		if (!cli_option(call, "watch"))
			return STATUS_OK;
		sleep_ms(WATCH_MS);
	}
}

/* ---- exits ---- */
static void exits_rates(struct sample *s)
{
	size_t i, k;
	json_t *e, *old;
	json_array_foreach(json_object_get(s->now, "exits"), i, e) {
		json_int_t was = 0;
		json_array_foreach(json_object_get(s->before, "exits"), k, old)
			if (int_of(old, "level") == int_of(e, "level") && int_of(old, "reason") == int_of(e, "reason"))
				was = int_of(old, "exits");
		json_object_set_new(e, "per_s", json_real((int_of(e, "exits") - was) / s->seconds));
	}
}

static int by_level_then_count(const void *a, const void *b)
{
	json_t *x = *(json_t *const *)a, *y = *(json_t *const *)b;
	if (int_of(x, "level") != int_of(y, "level"))
		return int_of(x, "level") < int_of(y, "level") ? -1 : 1;
	return (int_of(x, "exits") < int_of(y, "exits")) - (int_of(x, "exits") > int_of(y, "exits"));
}

static void exits_row(struct table *t, json_t *e, double all)
{
	char text[8][48];
	double n = int_of(e, "exits"), s = json_number_value(json_object_get(e, "handling_s"));
	snprintf(text[0], sizeof text[0], "L%lld", (long long)int_of(e, "level"));
	snprintf(text[1], sizeof text[1], "%s", text_of(e, "name"));
	snprintf(text[2], sizeof text[2], "%.0f", n);
	snprintf(text[3], sizeof text[3], "%.1f", all ? 100 * n / all : 0);
	snprintf(text[4], sizeof text[4], "%.0f", json_number_value(json_object_get(e, "per_s")));
	snprintf(text[5], sizeof text[5], "%.0f", int_of(e, "instructions") / n);
	snprintf(text[6], sizeof text[6], "%.2f", s * 1e6 / n);
	snprintf(text[7], sizeof text[7], "%.3f", s);
	table_row(t, (const char *const[]){ text[0], text[1], text[2], text[3], text[4], text[5], text[6], text[7] });
}

static void show_exits(struct cli_call *call, json_t *now)
{
	static const char *const columns[] = { "LEVEL", "REASON", ">EXITS", ">%", ">PER S", ">INSNS EACH", ">US EACH", ">TOTAL S", NULL };
	json_t *list = json_object_get(now, "exits");
	size_t n = json_array_size(list), i;
	json_t *e, **sorted = calloc(n + 1, sizeof *sorted);
	double all = 0;
	json_array_foreach(list, i, e) {
		all += int_of(e, "exits");
		if (sorted)
			sorted[i] = e;
	}
	if (!n || !sorted) {
		puts(n ? "out of memory" : "no VM exits: no guest has run inside");
		free(sorted);
		return;
	}
	qsort(sorted, n, sizeof *sorted, by_level_then_count);
	struct table *t = table_create(columns);
	for (i = 0; i < n; i++)
		exits_row(t, sorted[i], all);
	table_print(t);
	free(sorted);
}

int cli_exits_command(struct cli_call *call) { return watch(call, "exits", exits_rates, show_exits); }

/* ---- symbols: System.map and kallsyms have the same lines ---- */
struct symbol { unsigned long long at; char name[64]; };
struct symbols { struct symbol *s; size_t n; };

static int by_address(const void *a, const void *b)
{
	const struct symbol *x = a, *y = b;
	return (x->at > y->at) - (x->at < y->at);
}

static int load_symbols(struct cli_call *call, const char *path, struct symbols *m)
{
	char line[512], kind;
	FILE *f = path ? fopen(path, "re") : NULL;
	size_t room = 0;
	if (!path)
		return 0;
	if (!f)
		return cli_fail(call, "no-file", "--system-map \"%s\": %s", path, strerror(errno));
	while (fgets(line, sizeof line, f)) {
		struct symbol s;
		if (sscanf(line, "%llx %c %63s", &s.at, &kind, s.name) != 3 || tolower(kind) != 't')
			continue;
		if (m->n == room) {
			struct symbol *more = realloc(m->s, (room = room ? 2 * room : 4096) * sizeof s);
			if (!more)
				break;
			m->s = more;
		}
		m->s[m->n++] = s;
	}
	fclose(f);
	if (!m->n)
		return cli_fail(call, "no-symbols", "--system-map \"%s\": no line of the form \"ADDRESS t NAME\"", path);
	qsort(m->s, m->n, sizeof *m->s, by_address);
	return 0;
}

/* " (name+0x12)", or nothing. */
static const char *symbol(const struct symbols *m, const char *address, char *buf, size_t size)
{
	unsigned long long at = strtoull(address, NULL, 0);
	size_t low = 0, high = m->n;
	*buf = 0;
	while (low < high) {
		size_t mid = (low + high) / 2;
		if (m->s[mid].at <= at)
			low = mid + 1;
		else
			high = mid;
	}
	if (low && at - m->s[low - 1].at < 0x100000)
		snprintf(buf, size, " (%s+0x%llx)", m->s[low - 1].name, at - m->s[low - 1].at);
	return buf;
}

/* ---- explain ---- */
static void show_failure(json_t *f, const struct symbols *m)
{
	char name[128];
	const char *writer = text_of(f, "writer");
	printf("CPU %lld, VMCS %s, by the instruction at %s%s:\n  %s\n", (long long)int_of(f, "cpu"), text_of(f, "vmcs"), text_of(f, "rip"),
	       symbol(m, text_of(f, "rip"), name, sizeof name), text_of(f, "sentence"));
	if (*writer)
		printf("  %s was last written at %s%s\n", text_of(f, "field"), writer, symbol(m, writer, name, sizeof name));
}

static int explain_address(struct cli_call *call)
{
	long level = cli_number(call, "level", 1, 15, 1), cpu = cli_number(call, "cpu", 0, 1023, 0);
	size_t i;
	json_t *step;
	if (level < 0 || cpu < 0)
		return STATUS_USAGE;
	json_t *r = cli_ask(call, call->argv[0], "explain", json_pack("{s:s,s:I,s:I}", "address", call->argv[1], "level", (json_int_t)level, "cpu", (json_int_t)cpu));
	if (!r)
		return STATUS_USAGE;
	if (call->json)
		return cli_print_json(r);
	json_array_foreach(json_object_get(json_object_get(r, "walk"), "steps"), i, step)
		puts(json_string_value(step));
	json_decref(r);
	return STATUS_OK;
}

int cli_explain_command(struct cli_call *call)
{
	struct symbols m = { 0 };
	size_t i;
	json_t *f;
	if (call->argc > 1)
		return explain_address(call);
	int status = load_symbols(call, cli_option(call, "system-map"), &m);
	json_t *r = status ? NULL : cli_ask(call, call->argv[0], "explain", NULL);
	if (!r)
		return status ? status : STATUS_USAGE;
	if (call->json) {
		free(m.s);
		return cli_print_json(r);
	}
	json_array_foreach(json_object_get(r, "failures"), i, f)
		show_failure(f, &m);
	if (!i)
		puts("no VM entry has failed");
	json_decref(r);
	free(m.s);
	return STATUS_OK;
}
