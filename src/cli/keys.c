/* `nestbox key`: keys of a US keyboard by name, as scan codes of set 1 (E000h more for the extended ones). */
#include "base/log.h"
#include "cli/cli.h"

static const struct { const char *name; u16 code; } named[] = {
	{ "esc", 0x01 }, { "backspace", 0x0e }, { "tab", 0x0f }, { "enter", 0x1c }, { "ctrl", 0x1d }, { "shift", 0x2a }, { "alt", 0x38 }, { "space", 0x39 },
	{ "capslock", 0x3a }, { "f1", 0x3b }, { "f2", 0x3c }, { "f3", 0x3d }, { "f4", 0x3e }, { "f5", 0x3f }, { "f6", 0x40 }, { "f7", 0x41 }, { "f8", 0x42 },
	{ "f9", 0x43 }, { "f10", 0x44 }, { "f11", 0x57 }, { "f12", 0x58 }, { "home", 0xe047 }, { "up", 0xe048 }, { "pageup", 0xe049 }, { "left", 0xe04b },
	{ "right", 0xe04d }, { "end", 0xe04f }, { "down", 0xe050 }, { "pagedown", 0xe051 }, { "insert", 0xe052 }, { "delete", 0xe053 }, { "super", 0xe05b },
};

/* The keys in the order of their codes from 02h on; a blank is no key of a character. */
static const char plain[] = "1234567890-=  qwertyuiop[]  asdfghjkl;'` \\zxcvbnm,./";
static const char shifted[] = "!@#$%^&*()_+  QWERTYUIOP{}  ASDFGHJKL:\"~ |ZXCVBNM<>?";

/* 0: no such character. */
static u16 character(char c, bool *shift)
{
	const char *p = c == ' ' ? NULL : strchr(plain, c), *s = c == ' ' ? NULL : strchr(shifted, c);
	*shift = !p && s;
	if (c == ' ' || c == '\n')
		return c == ' ' ? 0x39 : 0x1c;
	return !c ? 0 : p ? (u16)(2 + (p - plain)) : s ? (u16)(2 + (s - shifted)) : 0;
}

static void add_character(json_t *keys, u16 code, bool shift)
{
	json_array_append_new(keys, shift ? json_pack("[ii]", 0x2a, (int)code) : json_pack("[i]", (int)code));
}

static u16 key_code(const char *name, size_t len, bool *shift)
{
	*shift = false;
	for (unsigned i = 0; i < array_len(named); i++)
		if (strlen(named[i].name) == len && !strncmp(named[i].name, name, len))
			return named[i].code;
	return len == 1 ? character(*name, shift) : 0;
}

/* "ctrl+alt+delete" */
static bool add_chord(json_t *keys, const char *word)
{
	json_t *chord = json_array();
	for (const char *p = word; *p;) {
		size_t len = strcspn(p + 1, "+") + 1;
		bool shift;
		u16 code = key_code(p, len, &shift);
		if (!code) {
			json_decref(chord);
			return false;
		}
		if (shift)
			json_array_append_new(chord, json_integer(0x2a));
		json_array_append_new(chord, json_integer(code));
		p += len + (p[len] == '+');
	}
	json_array_append_new(keys, chord);
	return true;
}

int cli_key_command(struct cli_call *call)
{
	json_t *keys = json_array();
	const char *text = cli_option(call, "text");
	for (const char *p = text; p && *p; p++) {
		bool shift;
		u16 code = character(*p, &shift);
		if (!code) {
			json_decref(keys);
			return cli_fail(call, "bad-usage", "--text \"%s\": no key types byte %02xh", text, (u8)*p);
		}
		add_character(keys, code, shift);
	}
	for (char **w = call->argv + 1; *w; w++)
		if (!add_chord(keys, *w)) {
			json_decref(keys);
			return cli_fail(call, "bad-usage", "\"%s\" names no key; say a character, enter, esc, tab, up, f1 ... or several joined by +", *w);
		}
	json_t *r = cli_ask(call, call->argv[0], "key", json_pack("{so}", "keys", keys));
	json_decref(r);
	return r ? STATUS_OK : STATUS_USAGE;
}
