/* Verbs about the screen and what is typed at it. */
#include "vm/display.h"
#include "ctl/ctl.h"
#include "ctl/handlers.h"

#include <errno.h>
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
