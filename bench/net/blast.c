/* The guest's side of the network benchmark and of the tests: moves bytes over TCP and says what they were. A static program.
 *
 *	blast send ADDRESS PORT BYTES SEED	sends BYTES pseudo-random bytes
 *	blast recv ADDRESS PORT			receives until the end
 *	blast serve PORT			waits for one connection and receives
 *	blast echo PORT				sends each UDP datagram back, its bytes complemented, until one says "end"
 *
 * Prints "blast: KIND bytes=N sum=XXXXXXXX": the sum is over the bytes as 64-bit words, so that swapped, lost or changed ones are noticed. */
#include <errno.h>
#include <arpa/inet.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { CHUNK = 1 << 18 };

static uint64_t buf[CHUNK / 8];

/* Words are weighted by their place. */
struct sum { uint64_t value, place, tail, ntail; };

static void add_word(struct sum *s, uint64_t w)
{
	s->value += (w ^ s->place) * 0x9e3779b97f4a7c15ull;
	s->place++;
}

static void add(struct sum *s, const uint8_t *p, size_t n)
{
	while (n && s->ntail) {
		s->tail |= (uint64_t)*p++ << (8 * s->ntail);
		n--;
		if (++s->ntail == 8) {
			add_word(s, s->tail);
			s->tail = s->ntail = 0;
		}
	}
	for (; n >= 8; n -= 8, p += 8) {
		uint64_t w;

		memcpy(&w, p, 8);
		add_word(s, w);
	}
	for (; n; n--)
		s->tail |= (uint64_t)*p++ << (8 * s->ntail++);
}

static void report(const char *kind, uint64_t bytes, struct sum *s)
{
	add_word(s, s->tail);
	printf("blast: %s bytes=%llu sum=%016llx\n", kind, (unsigned long long)bytes, (unsigned long long)s->value);
}

static int die(const char *what)
{
	perror(what);
	return 1;
}

static int receive(int fd)
{
	struct sum s = { 0 };
	uint64_t total = 0;
	ssize_t n;

	while ((n = read(fd, buf, sizeof(buf))) > 0) {
		add(&s, (const uint8_t *)buf, n);
		total += n;
	}
	if (n < 0)
		return die("blast: read");
	report("received", total, &s);
	return 0;
}

static int send_all(int fd, uint64_t bytes, uint64_t seed)
{
	uint64_t left = bytes, x = seed | 1;
	struct sum s = { 0 };

	for (unsigned i = 0; i < CHUNK / 8; i++)
		buf[i] = x = x * 6364136223846793005ull + 1442695040888963407ull;
	while (left) {
		size_t n = left < CHUNK ? left : CHUNK, at = 0;

		buf[0]++;
		add(&s, (const uint8_t *)buf, n);
		while (at < n) {
			ssize_t w = write(fd, (const uint8_t *)buf + at, n - at);

			if (w < 0)
				return die("blast: write");
			at += w;
		}
		left -= n;
	}
	shutdown(fd, SHUT_WR);
	read(fd, buf, 1); /* until the other side has all of it */
	report("sent", bytes, &s);
	return 0;
}

static int dial(const char *address, const char *port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(atoi(port)) };

	if (inet_pton(AF_INET, address, &a.sin_addr) != 1)
		return -1;
	for (int tries = 0; tries < 300; tries++) { /* the other side may not be listening yet */
		int fd = socket(AF_INET, SOCK_STREAM, 0);

		if (!connect(fd, (struct sockaddr *)&a, sizeof(a)))
			return fd;
		if (errno != ECONNREFUSED)
			return -1;
		close(fd);
		usleep(200000);
	}
	return -1;
}

static int serve(const char *port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(atoi(port)) };
	int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, (struct sockaddr *)&a, sizeof(a)) || listen(fd, 1))
		return -1;
	printf("blast: listening\n");
	fflush(stdout);
	return accept(fd, NULL, NULL);
}

static int echo(const char *port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(atoi(port)) };
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	uint8_t *p = (uint8_t *)buf;
	uint64_t total = 0;

	if (bind(fd, (struct sockaddr *)&a, sizeof(a)))
		return die("blast: bind");
	printf("blast: listening\n");
	fflush(stdout);
	for (;;) {
		socklen_t len = sizeof(a);
		ssize_t n = recvfrom(fd, buf, sizeof(buf), 0, (struct sockaddr *)&a, &len);

		if (n < 0)
			return die("blast: recvfrom");
		if (n == 3 && !memcmp(buf, "end", 3))
			break;
		for (ssize_t i = 0; i < n; i++)
			p[i] = ~p[i];
		sendto(fd, buf, n, 0, (struct sockaddr *)&a, len);
		total += n;
	}
	printf("blast: echoed bytes=%llu\n", (unsigned long long)total);
	return 0;
}

int main(int argc, char **argv)
{
	const char *verb = argc > 1 ? argv[1] : "";
	int fd;

	if (!strcmp(verb, "send") && argc == 6)
		return (fd = dial(argv[2], argv[3])) < 0 ? die("blast: connect") : send_all(fd, strtoull(argv[4], NULL, 10), strtoull(argv[5], NULL, 10));
	if (!strcmp(verb, "recv") && argc == 4)
		return (fd = dial(argv[2], argv[3])) < 0 ? die("blast: connect") : receive(fd);
	if (!strcmp(verb, "serve") && argc == 3)
		return (fd = serve(argv[2])) < 0 ? die("blast: listen") : receive(fd);
	if (!strcmp(verb, "echo") && argc == 3)
		return echo(argv[2]);
	fprintf(stderr, "usage: blast send ADDRESS PORT BYTES SEED | recv ADDRESS PORT | serve PORT | echo PORT\n");
	return 2;
}
