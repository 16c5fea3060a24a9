/* What the user writes after --disk: a file's name, then words with commas between. A comma in the name is written twice. */
#include "host/disk.h"
#include "base/log.h"
#include <errno.h>
#include <stdlib.h>

static const char *const formats[] = { "auto", "raw", "qcow2", "qed", "vdi", "vhd", "vhdx", "vmdk" };
static const char *const buses[] = { [DISK_BUS_VIRTIO] = "virtio", [DISK_BUS_NVME] = "nvme", [DISK_BUS_AHCI] = "ahci" };
static const char *const errors[] = { [DISK_ERROR_REPORT] = "report", [DISK_ERROR_PAUSE] = "pause" };
static const char *const on_off[] = { "off", "on" };

static int find(const char *const *list, unsigned n, const char *word)
{
	for (unsigned i = 0; i < n; i++)
		if (!strcmp(list[i], word))
			return (int)i;
	return -1;
}

/* The next part up to a single comma into out; returns where the rest begins (NULL: none), or *bad. */
static const char *part(const char *text, char *out, size_t size, bool *bad)
{
	size_t n = 0;

	for (; *text; text++) {
		if (*text == ',' && text[1] != ',')
			break;
		if (*text == ',')
			text++;
		if (n + 1 >= size) {
			*bad = true;
			return NULL;
		}
		out[n++] = *text;
	}
	out[n] = 0;
	return *text ? text + 1 : NULL;
}

struct parse {
	struct disk_spec *s;
	const char *text;
};

static int wrong(const struct parse *p, const char *key, const char *value, const char *want)
{
	log_error("--disk \"%s\": %s=%s: must be %s", p->text, key, value, want);
	return -EINVAL;
}

static int set_format(struct parse *p, const char *v)
{
	int i = find(formats, array_len(formats), v);

	if (i < 0)
		return wrong(p, "format", v, "auto, raw, qcow2, qed, vdi, vhd, vhdx or vmdk");
	strcpy(p->s->format, !strcmp(v, "vhd") ? "vpc" : v); /* as qemu-storage-daemon calls it */
	return 0;
}

static int set_bus(struct parse *p, const char *v)
{
	int i = find(buses, array_len(buses), v);

	p->s->bus = (enum disk_bus)i;
	return i < 0 ? wrong(p, "bus", v, "virtio, nvme or ahci") : 0;
}

static int set_on_error(struct parse *p, const char *v)
{
	int i = find(errors, array_len(errors), v);

	p->s->on_error = (enum disk_on_error)i;
	return i < 0 ? wrong(p, "on-error", v, "report or pause") : 0;
}

static int set_bool(struct parse *p, const char *key, const char *v, bool *out)
{
	int i = find(on_off, 2, v);

	*out = i == 1;
	return i < 0 ? wrong(p, key, v, "on or off") : 0;
}

static int set_ro(struct parse *p, const char *v) { return set_bool(p, "ro", v, &p->s->read_only); }
static int set_snapshot(struct parse *p, const char *v) { return set_bool(p, "snapshot", v, &p->s->snapshot); }

static int set_serial(struct parse *p, const char *v)
{
	bool ok = *v && strlen(v) <= DISK_SERIAL_MAX;

	for (const char *c = v; *c; c++)
		ok = ok && *c > 32 && *c < 127;
	if (!ok)
		return wrong(p, "serial", v, "1 to 20 printable characters");
	strcpy(p->s->serial, v);
	return 0;
}

static int set_overlay(struct parse *p, const char *v)
{
	if (!*v || p->s->noverlays == DISK_MAX_LAYERS)
		return wrong(p, "overlay", v, "a file's name, at most 64 times");
	p->s->overlays[p->s->noverlays] = strdup(v);
	return p->s->overlays[p->s->noverlays++] ? 0 : -ENOMEM;
}

static const struct {
	const char *key;
	int (*set)(struct parse *p, const char *value);
	const char *alone; /* what the word means without a value; NULL: it needs one */
} words[] = {
	{ "format", set_format }, { "bus", set_bus }, { "on-error", set_on_error }, { "ro", set_ro, "on" }, { "snapshot", set_snapshot, "on" },
	{ "serial", set_serial }, { "overlay", set_overlay },
};

static int one_word(struct parse *p, char *word)
{
	char *eq = strchr(word, '=');

	if (eq)
		*eq++ = 0;
	for (unsigned i = 0; i < array_len(words); i++) {
		if (strcmp(words[i].key, word))
			continue;
		if (eq || words[i].alone)
			return words[i].set(p, eq ? eq : words[i].alone);
		log_error("--disk \"%s\": %s needs a value: %s=...", p->text, word, word);
		return -EINVAL;
	}
	log_error("--disk \"%s\": unknown word \"%s\"; known are format=, bus=, ro, snapshot=on, on-error=, serial= and overlay= (a comma in a "
		  "file's name is written twice)", p->text, word);
	return -EINVAL;
}

int disk_spec_parse(struct disk_spec *s, const char *text)
{
	struct parse p = { s, text };
	char word[4096];
	bool bad = false;
	int err = 0;

	*s = (struct disk_spec){ .format = "auto" };
	const char *rest = part(text, s->path, sizeof(s->path), &bad);
	size_t len = strlen(s->path);

	if (!bad && !rest && len > 3 && !strcmp(s->path + len - 3, ":ro")) {
		s->path[len - 3] = 0;
		s->read_only = true;
	}
	if (bad || !s->path[0]) {
		log_error("--disk \"%.200s\": %s", text, bad ? "the file's name is too long" : "the file's name is missing");
		return -EINVAL;
	}
	while (rest && !err) {
		rest = part(rest, word, sizeof(word), &bad);
		err = bad ? wrong(&p, "word", "...", "shorter than 4096 characters") : one_word(&p, word);
	}
	if (!err && s->read_only && s->snapshot)
		err = wrong(&p, "snapshot", "on", "off for a read-only disk, which takes no writes");
	if (!err && s->noverlays && (s->read_only || s->snapshot))
		err = wrong(&p, "overlay", s->overlays[0], "left out with ro or snapshot=on");
	if (err)
		disk_spec_free(s);
	return err;
}

void disk_spec_free(struct disk_spec *s)
{
	for (unsigned i = 0; i < s->noverlays; i++)
		free(s->overlays[i]);
	s->noverlays = 0;
}
