/* The table of verbs and the check of arguments against it. */
#include "ctl/ctl.h"
#include "ctl/handlers.h"

#include <errno.h>
#include <stdio.h>

const struct ctl_verb ctl_verbs[] = {
#define V(name, fn, args, results, help) { name, fn, args, results, help },
#include "ctl/verbs.def"
#undef V
};
const unsigned ctl_verb_count = array_len(ctl_verbs);

const struct ctl_verb *ctl_verb_find(const char *name)
{
	for (unsigned i = 0; i < ctl_verb_count; i++)
		if (!strcmp(ctl_verbs[i].name, name))
			return &ctl_verbs[i];
	return NULL;
}

/* One "name:type?" of a spec. */
struct arg {
	char name[32], type[16];
	bool optional;
};

static const char *next_arg(const char *spec, struct arg *a)
{
	size_t name = strcspn(spec, ":"), type = strcspn(spec + name, ",");
	bug_if(!spec[name] || name >= sizeof a->name || type >= sizeof a->type + 1);
	snprintf(a->name, sizeof a->name, "%.*s", (int)name, spec);
	snprintf(a->type, sizeof a->type, "%.*s", (int)type - 1, spec + name + 1);
	size_t len = strlen(a->type);
	a->optional = len && a->type[len - 1] == '?';
	if (a->optional)
		a->type[len - 1] = 0;
	spec += name + type;
	return *spec ? spec + 1 : spec;
}

static bool has_type(const json_t *v, const char *type)
{
	static const struct { const char *name; json_type types[2]; } rows[] = {
		{ "string", { JSON_STRING, JSON_STRING } }, { "int", { JSON_INTEGER, JSON_INTEGER } }, { "bool", { JSON_TRUE, JSON_FALSE } },
		{ "number", { JSON_INTEGER, JSON_REAL } }, { "object", { JSON_OBJECT, JSON_OBJECT } }, { "array", { JSON_ARRAY, JSON_ARRAY } },
	};
	for (unsigned i = 0; i < array_len(rows); i++)
		if (!strcmp(type, rows[i].name))
			return json_typeof(v) == rows[i].types[0] || json_typeof(v) == rows[i].types[1];
	return !strcmp(type, "any");
}

int ctl_check_args(const char *spec, json_t *args, char *why, size_t size)
{
	struct arg a;
	size_t known = 0;
	if (!json_is_object(args)) {
		snprintf(why, size, "args must be an object");
		return -EINVAL;
	}
	for (const char *s = spec; *s;) {
		s = next_arg(s, &a);
		json_t *v = json_object_get(args, a.name);
		known += v != NULL;
		if (v ? has_type(v, a.type) : a.optional)
			continue;
		snprintf(why, size, v ? "argument \"%s\" must be of type %s" : "argument \"%s\" (%s) is missing", a.name, a.type);
		return -EINVAL;
	}
	if (known == json_object_size(args))
		return 0;
	snprintf(why, size, *spec ? "unknown argument; it takes %s" : "it takes no arguments%s", *spec ? spec : "");
	return -EINVAL;
}
