#include "host/term.h"

#include <stdio.h>
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>

static struct termios saved;
static bool is_raw;

void host_term_restore(void)
{
	if (is_raw)
		tcsetattr(STDIN_FILENO, TCSANOW, &saved);
	is_raw = false;
}

void host_term_raw(void)
{
	if (is_raw || !isatty(STDIN_FILENO) || tcgetattr(STDIN_FILENO, &saved))
		return;
	struct termios raw = saved;
	cfmakeraw(&raw);
	raw.c_oflag |= OPOST; /* our own messages keep their line ends */
	is_raw = !tcsetattr(STDIN_FILENO, TCSANOW, &raw);
	atexit(host_term_restore);
}

size_t host_term_filter(const u8 *in, size_t n, u8 *out, bool *quit)
{
	enum { CTRL_A = 1 };
	static bool after_prefix;
	size_t len = 0;
	*quit = false;
	for (size_t i = 0; i < n; i++) {
		if (!after_prefix && in[i] == CTRL_A) {
			after_prefix = true;
			continue;
		}
		if (after_prefix) {
			after_prefix = false;
			if (in[i] == 'x' || in[i] == 'X')
				*quit = true;
			if (in[i] == 'h' || in[i] == 'H')
				fputs("\r\nCtrl-A X quit, Ctrl-A Ctrl-A send Ctrl-A, Ctrl-A H this help\r\n", stderr);
			if (in[i] != CTRL_A)
				continue;
		}
		out[len++] = in[i];
	}
	return len;
}
