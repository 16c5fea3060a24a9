/* nestbox's helper in the guest: see helper.h. */
#include "agent/guest/helper.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	static struct port p;
	struct request r;
	uint32_t version = FRAME_VERSION;
	signal(SIGPIPE, SIG_IGN);
	if (getpid() == 1)
		boot_main();
	if (argc == 2 && !strcmp(argv[1], "probe")) /* can it run where it lies? */
		return 0;
	if (argc != 2) {
		fprintf(stderr, "usage: %s N    (serves nestbox on the port org.nestbox.exec.N; started by nestbox exec)\n", argv[0]);
		return 2;
	}
	p.fd = port_open((unsigned)atoi(argv[1]));
	if (p.fd < 0) {
		perror("org.nestbox.exec");
		return 1;
	}
	port_put(&p, FRAME_HELLO, &version, sizeof version);
	port_flush(&p);
	if (request_read(&p, &r))
		session_run(&p, &r, false);
	return 0;
}
