/* Verbs about the screen and what is typed at it. */
#include "vm/display.h"
#include "ctl/ctl.h"
#include "ctl/handlers.h"

#include "dev/i8042.h"
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* A pipe or socket whose other end does not read would hold the loop. */
static bool is_file(int fd)
{
	struct stat st;
	return !fstat(fd, &st) && S_ISREG(st.st_mode);
}

void ctl_do_screenshot(struct vm *vm, struct ctl_call *call, json_t *args)
{
	const char *format = json_string_value(json_object_get(args, "format"));
	struct display_size size;
	int fd = ctl_take_fd(call), err;
	if (fd < 0 || !is_file(fd)) {
		ctl_fail(call, "bad-args", "screenshot: an open regular file must come with the request");
	} else if (format && strcmp(format, "png") && strcmp(format, "text")) {
		ctl_fail(call, "bad-args", "screenshot: format \"%s\" must be png or text", format);
	} else if (!(err = display_write(vm, fd, format && !strcmp(format, "text") ? DISPLAY_TEXT : DISPLAY_PNG, &size))) {
		ctl_reply(call, json_pack("{si si sb}", "width", (int)size.width, "height", (int)size.height, "blank", (int)size.blank));
	} else if (err == -ENODEV) {
		ctl_fail(call, "no-display", "this machine has no display: it was started with a kernel and no firmware");
	} else if (err == -ENODATA) {
		ctl_fail(call, "no-text", "the screen shows graphics, not text: take a PNG");
	} else {
		ctl_fail(call, "host", "screenshot: %s", strerror(-err));
	}
	if (fd >= 0)
		close(fd);
}

/* A keyboard's buffer is short and the guest may be slow: a chord every KEY_MS. */
#define KEY_MS 30
#define MAX_CHORDS 4096

struct typing {
	struct vm *vm;
	struct ctl_call *call;
	struct loop_timer *timer;
	json_t *keys;
	size_t next;
};

static void press(struct vm *vm, const json_t *chord)
{
	size_t n = json_array_size(chord);
	for (size_t i = 0; i < n; i++)
		i8042_key(board_keyboard(vm), (u16)json_integer_value(json_array_get(chord, i)), true);
	for (size_t i = n; i-- > 0;)
		i8042_key(board_keyboard(vm), (u16)json_integer_value(json_array_get(chord, i)), false);
}

/* All is typed; or the client has gone, or the machine has ended, perhaps because of what was typed. */
static void type_end(void *opaque)
{
	struct typing *t = opaque;
	loop_timer_remove(t->timer);
	ctl_reply(t->call, NULL);
	json_decref(t->keys);
	free(t);
}

static void type_next(void *opaque)
{
	struct typing *t = opaque;
	if (t->next >= json_array_size(t->keys)) {
		type_end(t);
		return;
	}
	press(t->vm, json_array_get(t->keys, t->next++));
	loop_timer_set(t->timer, KEY_MS);
}

static bool is_chord(const json_t *chord)
{
	if (!json_is_array(chord) || json_array_size(chord) > 8)
		return false;
	for (size_t i = 0; i < json_array_size(chord); i++) {
		json_int_t code = json_integer_value(json_array_get(chord, i));
		if (!json_is_integer(json_array_get(chord, i)) || (code & ~0xe07f) || !(code & 0x7f))
			return false;
	}
	return true;
}

void ctl_do_key(struct vm *vm, struct ctl_call *call, json_t *args)
{
	json_t *keys = json_object_get(args, "keys");
	bool ok = json_array_size(keys) <= MAX_CHORDS;
	for (size_t i = 0; ok && i < json_array_size(keys); i++)
		ok = is_chord(json_array_get(keys, i));
	if (!ok || !board_display(vm)) {
		ctl_fail(call, ok ? "no-keyboard" : "bad-args", ok ? "this machine has no keyboard: it was started with a kernel and no firmware" :
			 "key: keys must be at most 4096 arrays of up to 8 scan codes of set 1 (1 to 7Fh, E000h more for extended keys)");
		return;
	}
	struct typing *t = calloc(1, sizeof *t);
	struct loop_timer *timer = t ? loop_timer_add(vm->loop, type_next, t) : NULL;
	if (!timer) {
		free(t);
		ctl_fail(call, "no-memory", "out of memory");
		return;
	}
	*t = (struct typing){ vm, call, timer, json_incref(keys), 0 };
	ctl_on_gone(call, type_end, t);
	type_next(t);
}
