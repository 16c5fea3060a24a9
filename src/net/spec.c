/* --net: KIND[,KEY=VALUE]... A key is a row: which kinds have it, and what it sets. */
#include "net/spec.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

struct reader {
	struct net_spec *s;
	char *err;
	size_t size;
};

static bool bad(struct reader *r, const char *fmt, const char *a, const char *b)
{
	snprintf(r->err, r->size, fmt, a, b);
	return false;
}

static bool on_off(struct reader *r, const char *key, const char *value, bool *out)
{
	if (strcmp(value, "on") && strcmp(value, "off"))
		return bad(r, "%s=%s: must be on or off", key, value);
	*out = !strcmp(value, "on");
	return true;
}

static bool number(const char *text, unsigned min, unsigned max, unsigned *out)
{
	char *end;
	unsigned long n = strtoul(text, &end, 10);

	*out = (unsigned)n;
	return *text >= '0' && *text <= '9' && !*end && n >= min && n <= max;
}

static bool text(struct reader *r, const char *key, const char *value, char *out, size_t max)
{
	char limit[24];

	snprintf(limit, sizeof(limit), "%zu", max);
	if (!*value)
		return bad(r, "%s is empty%s", key, "");
	if (strlen(value) > max)
		return bad(r, "%s is longer than %s bytes", key, limit);
	strcpy(out, value);
	return true;
}

static bool set_mac(struct reader *r, const char *key, const char *value)
{
	u8 *m = r->s->mac;
	int end = 0;

	if (sscanf(value, "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx%n", m, m + 1, m + 2, m + 3, m + 4, m + 5, &end) != 6 || value[end] || end != 17)
		return bad(r, "%s=%s: write it as 02:00:00:12:34:56", key, value);
	if (net_is_multicast(m) || !memcmp(m, "\0\0\0\0\0", 6))
		return bad(r, "%s=%s: not the address of one station (the first byte must be even)", key, value);
	r->s->has_mac = true;
	return true;
}

static bool set_spoofing(struct reader *r, const char *key, const char *value) { return on_off(r, key, value, &r->s->mac_spoofing); }
static bool set_restrict(struct reader *r, const char *key, const char *value) { return on_off(r, key, value, &r->s->restricted); }
static bool set_server(struct reader *r, const char *key, const char *value) { return on_off(r, key, value, &r->s->server); }
static bool set_path(struct reader *r, const char *key, const char *value) { return text(r, key, value, r->s->path, NET_PATH_MAX); }

static bool set_queues(struct reader *r, const char *key, const char *value)
{
	return number(value, 1, 64, &r->s->queues) || bad(r, "%s=%s: must be a number from 1 to 64", key, value);
}

static bool set_mtu(struct reader *r, const char *key, const char *value)
{
	unsigned n;

	if (!number(value, 68, 65535, &n))
		return bad(r, "%s=%s: must be a number from 68 to 65535", key, value);
	r->s->mtu = (u16)n;
	return true;
}

static bool set_ifname(struct reader *r, const char *key, const char *value)
{
	if (strchr(value, '/'))
		return bad(r, "%s=%s: not the name of an interface", key, value);
	return text(r, key, value, r->s->ifname, sizeof(r->s->ifname) - 1);
}

static bool set_name(struct reader *r, const char *key, const char *value)
{
	if (value[strspn(value, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")])
		return bad(r, "%s=%s: only letters, digits, - and _ make a switch's name", key, value);
	return text(r, key, value, r->s->name, NET_NAME_MAX);
}

/* "[ADDR]:PORT" */
static bool endpoint(const char *from, size_t len, struct in_addr *addr, u16 *port)
{
	char copy[64], *colon;
	unsigned n;

	if (len >= sizeof(copy))
		return false;
	memcpy(copy, from, len);
	copy[len] = 0;
	colon = strchr(copy, ':');
	if (!colon || !number(colon + 1, 1, 65535, &n))
		return false;
	*colon = 0;
	*port = (u16)n;
	return !*copy || inet_pton(AF_INET, copy, addr) == 1;
}

/* "tcp:[ADDR]:PORT-[ADDR]:PORT" */
static bool set_forward(struct reader *r, const char *key, const char *value)
{
	struct net_forward f = { .host.s_addr = htonl(INADDR_LOOPBACK), .guest.s_addr = htonl(0x0a00020f) };
	const char *dash = strchr(value, '-');

	f.udp = !strncmp(value, "udp:", 4);
	if (!dash || (!f.udp && strncmp(value, "tcp:", 4)) || !endpoint(value + 4, (size_t)(dash - value) - 4, &f.host, &f.host_port) ||
	    !endpoint(dash + 1, strlen(dash + 1), &f.guest, &f.guest_port))
		return bad(r, "%s=%s: write it as tcp:[ADDR]:PORT-[ADDR]:PORT, for example tcp::2222-:22", key, value);
	if (r->s->nforwards == NET_MAX_FORWARDS)
		return bad(r, "%s=%s: too many forwards", key, value);
	r->s->forward[r->s->nforwards++] = f;
	return true;
}

enum { USER = 1 << NET_KIND_USER, TAP = 1 << NET_KIND_TAP, SOCKET = 1 << NET_KIND_SOCKET, SWITCH = 1 << NET_KIND_SWITCH, ANY = 15 };
static const char *const kinds[NET_KINDS] = { "user", "tap", "socket", "switch" };
static const struct { const char *key; unsigned kinds; bool (*set)(struct reader *r, const char *key, const char *value); } rows[] = {
	{ "mac", ANY, set_mac }, { "mac-spoofing", ANY, set_spoofing }, { "queues", ANY, set_queues }, { "mtu", ANY, set_mtu },
	{ "hostfwd", USER, set_forward }, { "restrict", USER, set_restrict }, { "ifname", TAP, set_ifname },
	{ "path", SOCKET | SWITCH, set_path }, { "server", SOCKET, set_server }, { "name", SWITCH, set_name },
};

static bool set(struct reader *r, char *word)
{
	char *value = strchr(word, '=');
	const char *kind = kinds[r->s->kind];

	if (!value)
		return bad(r, "\"%s\" has no value; write %s=...", word, word);
	*value++ = 0;
	for (unsigned i = 0; i < array_len(rows); i++)
		if (!strcmp(rows[i].key, word))
			return rows[i].kinds & (1u << r->s->kind) ? rows[i].set(r, word, value) : bad(r, "\"%s\" is no option of %s", word, kind);
	return bad(r, "unknown option \"%s\"; nestbox run --help and docs/network.md list them%s", word, "");
}

static bool complete(struct reader *r)
{
	const struct net_spec *s = r->s;

	if (s->kind == NET_KIND_TAP && !*s->ifname)
		return bad(r, "ifname=NAME is missing%s%s", "", "");
	if (s->kind == NET_KIND_SOCKET && !*s->path)
		return bad(r, "path=FILE is missing%s%s", "", "");
	if (s->kind == NET_KIND_SWITCH && !*s->path == !*s->name)
		return bad(r, "give either path=FILE or name=NAME%s%s", "", "");
	return true;
}

static bool parse(struct reader *r, char *copy)
{
	char *rest = copy, *word = strsep(&rest, ",");

	while (r->s->kind < NET_KINDS && strcmp(word, kinds[r->s->kind]))
		r->s->kind++;
	if (r->s->kind == NET_KINDS)
		return bad(r, "\"%s\" is no kind of network; user, tap, socket and switch are%s", word, "");
	while ((word = strsep(&rest, ",")))
		if (!set(r, word))
			return false;
	return complete(r);
}

int net_spec_parse(struct net_spec *s, const char *from, char *err, size_t size)
{
	struct reader r = { s, err, size };
	char copy[NET_SPEC_TEXT];

	*s = (struct net_spec){ 0 };
	if (strlen(from) >= sizeof(copy)) {
		bad(&r, "too long%s%s", "", "");
		return -EINVAL;
	}
	strcpy(s->text, from);
	strcpy(copy, from);
	return parse(&r, copy) ? 0 : -EINVAL;
}
