/* Screenshots. */
#include "vm/display.h"
#include "dev/vga.h"
#include "host/png.h"
#include "vm/vm.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

enum display_format display_format_of(const char *path)
{
	size_t n = strlen(path);
	return n > 4 && !strcmp(path + n - 4, ".txt") ? DISPLAY_TEXT : DISPLAY_PNG;
}

static int write_text(struct vga *v, int fd)
{
	enum { CAP = 65536 };
	char *text = malloc(CAP);
	size_t n = text ? vga_text(v, text, CAP) : 0;
	ssize_t done = n ? write(fd, text, n) : 0;
	int err = done < 0 ? -errno : done < (ssize_t)n ? -EIO : 0;
	free(text);
	return !text ? -ENOMEM : n ? err : -ENODATA;
}

int display_open(struct vm *vm)
{
	const char *path = vm->cfg.screenshot;
	vm->screenshot_fd = -1;
	if (!path)
		return 0;
	if (vm->firmware.kind == FIRMWARE_NONE) {
		log_error("--screenshot-at-exit \"%s\": a machine without firmware has no display", path);
		return -ENODEV;
	}
	vm->screenshot_fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
	if (vm->screenshot_fd >= 0)
		return 0;
	int err = -errno;
	log_error("--screenshot-at-exit \"%s\": %s", path, strerror(-err));
	return err;
}

void vm_last_screenshot(struct vm *vm)
{
	if (vm->screenshot_fd < 0)
		return;
	int err = display_write(vm, vm->screenshot_fd, display_format_of(vm->cfg.screenshot), NULL);
	if (err)
		log_error("--screenshot-at-exit \"%s\": %s", vm->cfg.screenshot, err == -ENODATA ? "the screen shows graphics, not text" : strerror(-err));
	close(vm->screenshot_fd);
	vm->screenshot_fd = -1;
}

int display_write(struct vm *vm, int fd, enum display_format format, struct display_size *size)
{
	struct vga *v = board_display(vm);
	struct vga_picture p = { 0 };
	if (!v)
		return -ENODEV;
	bool shown = vga_render(v, &p);
	if (size)
		*size = (struct display_size){ p.width, p.height, !shown };
	int err = !p.pixel ? -ENOMEM : format == DISPLAY_TEXT ? write_text(v, fd) : host_write_png(fd, p.pixel, p.width, p.height);
	free(p.pixel);
	return err;
}
