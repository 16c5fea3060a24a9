/* The connection, packets and commands. Surprise: a machine that gdb has stopped is paused as "nestbox pause" does it, so other commands see it that way. */
#include "base/log.h"
#include "debug/gdb_priv.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static const char digits[] = "0123456789abcdef";

/* ---- text ---- */
void gdb_put(struct gdb_text *t, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	int n = vsnprintf(t->s + t->n, sizeof t->s - t->n, fmt, ap);
	va_end(ap);
	t->n = min_u64(t->n + (n > 0 ? n : 0), sizeof t->s - 1);
}

void gdb_put_hex(struct gdb_text *t, const void *bytes, size_t n)
{
	for (const u8 *p = bytes; n-- && t->n + 2 < sizeof t->s; p++) {
		t->s[t->n++] = digits[*p >> 4];
		t->s[t->n++] = digits[*p & 15];
	}
	t->s[t->n] = 0;
}

static int nibble(char c)
{
	const char *p = c ? strchr(digits, c | 0x20) : NULL;
	return p ? (int)(p - digits) : -1;
}

bool gdb_get_hex(const char **s, void *bytes, size_t n)
{
	u8 *to = bytes;
	for (size_t i = 0; i < n; i++) {
		int h = nibble((*s)[0]), l = h < 0 ? -1 : nibble((*s)[1]);
		if (l < 0)
			return false;
		to[i] = (u8)(h << 4 | l);
		*s += 2;
	}
	return true;
}

/* ---- sending ---- */
static void drop(struct gdb *g);

static void flush(struct gdb *g)
{
	while (g->out_len) {
		ssize_t n = send(g->fd, g->out, g->out_len, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n <= 0)
			break;
		g->out_len -= n;
		memmove(g->out, g->out + n, g->out_len);
	}
	loop_fd_events(g->conn, LOOP_READ | (g->out_len ? LOOP_WRITE : 0));
}

static void send_bytes(struct gdb *g, const char *s, size_t n)
{
	if (g->out_len + n > g->out_room) {
		size_t room = 2 * (g->out_len + n);
		char *more = realloc(g->out, room);
		if (!more)
			return;
		g->out = more;
		g->out_room = room;
	}
	memcpy(g->out + g->out_len, s, n);
	g->out_len += n;
}

static void reply(struct gdb *g, const char *s, size_t n)
{
	u8 sum = 0;
	for (size_t i = 0; i < n; i++)
		sum += (u8)s[i];
	char end[3] = { '#', digits[sum >> 4], digits[sum & 15] };
	send_bytes(g, "$", 1);
	send_bytes(g, s, n);
	send_bytes(g, end, 3);
	flush(g);
}
static void reply_text(struct gdb *g, const char *s) { reply(g, s, strlen(s)); }

/* ---- stop and go ---- */
static void reply_stop(struct gdb *g, unsigned cpu, const char *signal, const char *why)
{
	struct gdb_text t = { .n = 0 };
	gdb_put(&t, "T%sthread:%x;%s", signal, cpu + 1, why);
	g->cpu = cpu;
	g->running = false;
	reply(g, t.s, t.n);
}

/* vm->debug_stopped: some vCPU hit something; all are parked or about to be. */
static void on_stopped(void *opaque)
{
	struct gdb *g = opaque;
	if (g->fd < 0 || !g->running)
		return;
	vm_user_pause(g->vm, true);
	for (unsigned i = 0; i < g->vm->ncpus; i++) {
		struct cpu_debug *d = &g->debug[i];
		static const char *const watch[] = { "", "watch", "rwatch", "awatch" };
		char why[64] = "";
		if (d->hit == DEBUG_HIT_NONE)
			continue;
		if (d->hit == DEBUG_HIT_WATCH)
			snprintf(why, sizeof why, "%s:%llx;", watch[d->hit_kind], (unsigned long long)d->hit_la);
		else if (d->hit == DEBUG_HIT_BREAK)
			snprintf(why, sizeof why, "hwbreak:;");
		reply_stop(g, i, "05", why);
		return;
	}
}

static void let_go(struct gdb *g, int step_cpu)
{
	for (unsigned i = 0; i < g->vm->ncpus; i++) {
		struct cpu *c = g->vm->vcpus[i].cpu;
		g->debug[i].hit = DEBUG_HIT_NONE;
		g->debug[i].step = (int)i == step_cpu;
		g->debug[i].began = c->icount;
		cpu_debug_changed(c);
	}
	g->running = true;
	vm_user_pause(g->vm, false);
}

static void interrupt(struct gdb *g)
{
	if (!g->running)
		return;
	vm_user_pause(g->vm, true);
	reply_stop(g, g->cpu, "02", "");
}

/* ---- points ---- */
static void points_changed(struct gdb *g)
{
	for (unsigned i = 0; i < g->vm->ncpus; i++) {
		g->vm->engine->forget_all(g->vm->vcpus[i].cpu);
		cpu_debug_changed(g->vm->vcpus[i].cpu);
	}
}

/* "Z1,ADDRESS,LENGTH": 0, 1 execute, 2 write, 3 read, 4 any access. */
static void change_point(struct gdb *g, const char *p, bool add)
{
	static const enum cpu_debug_kind kinds[] = { DEBUG_EXECUTE, DEBUG_EXECUTE, DEBUG_WRITE, DEBUG_READ, DEBUG_ACCESS };
	unsigned long long at, len;
	char kind;
	int err = 0;
	if (sscanf(p, "%c,%llx,%llx", &kind, &at, &len) != 3 || kind < '0' || kind > '4') {
		reply_text(g, "E16");
		return;
	}
	struct cpu_debug_point point = { at, kind < '2' ? 1 : max_u64(len, 1), kinds[kind - '0'], g->level > 1 ? 2 : 1 };
	for (unsigned i = 0; i < g->vm->ncpus && !err; i++)
		err = add ? cpu_debug_add(&g->debug[i], point) : cpu_debug_remove(&g->debug[i], point);
	points_changed(g);
	reply_text(g, err ? "E1c" : "OK");
}

/* ---- memory ---- */
static void read_memory(struct gdb *g, const char *p)
{
	unsigned long long at, len;
	struct debug_space s;
	u8 bytes[GDB_PACKET / 2 - 64];
	struct gdb_text t = { .n = 0 };
	if (sscanf(p, "%llx,%llx", &at, &len) != 2 || debug_space_of(g->vm, g->cpu, g->level, &s)) {
		reply_text(g, "E16");
		return;
	}
	size_t n = debug_read(&g->vm->mem, &s, at, bytes, min_u64(len, sizeof bytes));
	gdb_put_hex(&t, bytes, n);
	if (n || !len)
		reply(g, t.s, t.n);
	else
		reply_text(g, "E0e");
}

static void write_memory(struct gdb *g, const char *p)
{
	unsigned long long at, len;
	struct debug_space s;
	u8 bytes[GDB_PACKET / 2];
	const char *data = strchr(p, ':');
	if (!data++ || sscanf(p, "%llx,%llx:", &at, &len) != 2 || len > sizeof bytes || debug_space_of(g->vm, g->cpu, g->level, &s) ||
	    !gdb_get_hex(&data, bytes, len)) {
		reply_text(g, "E16");
		return;
	}
	reply_text(g, debug_write(&g->vm->mem, &s, at, bytes, len) == len ? "OK" : "E0e");
}

/* ---- registers ---- */
static void one_register(struct gdb *g, const char *p, bool write)
{
	struct gdb_text t = { .n = 0 };
	char *end;
	unsigned n = (unsigned)strtoul(p, &end, 16);
	const char *value = end + 1;
	if (!write && gdb_read_register(g, n, &t))
		reply(g, t.s, t.n);
	else
		reply_text(g, write && *end == '=' && gdb_write_register(g, n, &value) ? "OK" : "E16");
}

/* ---- queries ---- */
static void monitor(struct gdb *g, const char *hex)
{
	char command[256] = "";
	struct gdb_text answer = { .n = 0 }, t = { .n = 0 };
	size_t n = strlen(hex) / 2;
	if (n >= sizeof command || !gdb_get_hex(&hex, command, n)) {
		reply_text(g, "E16");
		return;
	}
	gdb_monitor(g, command, &answer);
	gdb_put_hex(&t, answer.s, min_u64(answer.n, GDB_PACKET / 2 - 4));
	reply(g, t.s, t.n);
}

static void features(struct gdb *g, const char *p)
{
	static struct gdb_text xml; /* loop thread only */
	unsigned long long off, len;
	if (sscanf(p, "target.xml:%llx,%llx", &off, &len) != 2) {
		reply_text(g, "E00");
		return;
	}
	if (!xml.n)
		gdb_target_xml(&xml);
	off = min_u64(off, xml.n);
	struct gdb_text t = { .n = 0 };
	len = min_u64(len, GDB_PACKET / 2);
	gdb_put(&t, "%c%.*s", off + len < xml.n ? 'm' : 'l', (int)min_u64(len, xml.n - off), xml.s + off);
	reply(g, t.s, t.n);
}

static void threads(struct gdb *g)
{
	struct gdb_text t = { .n = 0 };
	for (unsigned i = 0; i < g->vm->ncpus; i++)
		gdb_put(&t, "%c%x", i ? ',' : 'm', i + 1);
	reply(g, t.s, t.n);
}

static void thread_info(struct gdb *g, const char *p)
{
	unsigned n = (unsigned)strtoul(p, NULL, 16) - 1;
	struct gdb_text t = { .n = 0 };
	char text[96];
	if (n >= g->vm->ncpus) {
		reply_text(g, "E16");
		return;
	}
	const struct cpu *c = g->vm->vcpus[n].cpu;
	const struct nest *nest = vmx_nest(c);
	unsigned level = c->arch.guest_mode && nest && nest->n ? nest->guest[nest->cur].level : 1;
	snprintf(text, sizeof text, "vCPU %u, runs L%u, CPL %u%s", n, level, c->arch.cpl, c->arch.activity == ACT_ACTIVE ? "" : ", halted");
	gdb_put_hex(&t, text, strlen(text));
	reply(g, t.s, t.n);
}

static bool starts(const char **p, const char *with)
{
	size_t n = strlen(with);
	if (strncmp(*p, with, n))
		return false;
	*p += n;
	return true;
}

static void query(struct gdb *g, const char *p)
{
	if (starts(&p, "qSupported"))
		reply_text(g, "PacketSize=4000;qXfer:features:read+;QStartNoAckMode+;vContSupported+;hwbreak+");
	else if (starts(&p, "qXfer:features:read:"))
		features(g, p);
	else if (starts(&p, "qRcmd,"))
		monitor(g, p);
	else if (starts(&p, "qfThreadInfo"))
		threads(g);
	else if (starts(&p, "qsThreadInfo"))
		reply_text(g, "l");
	else if (starts(&p, "qThreadExtraInfo,"))
		thread_info(g, p);
	else if (starts(&p, "qAttached"))
		reply_text(g, "1");
	else if (starts(&p, "QStartNoAckMode")) {
		reply_text(g, "OK");
		g->no_ack = true;
	} else if (starts(&p, "qC")) {
		struct gdb_text t = { .n = 0 };
		gdb_put(&t, "QC%x", g->cpu + 1);
		reply(g, t.s, t.n);
	} else
		reply_text(g, "");
}

/* ---- commands ---- */
/* "s:1;c": actions for threads; a step is for one vCPU, the others run. */
static void resume_actions(struct gdb *g, const char *p)
{
	int step = -1;
	for (; *p == ';'; p += strcspn(p, ";")) {
		p++;
		const char *thread = strchr(p, ':');
		if (!*p || !strchr("cCsS", *p)) {
			reply_text(g, "E16");
			return;
		}
		if (*p != 's' && *p != 'S')
			continue;
		long n = thread && thread < p + strcspn(p, ";") ? strtol(thread + 1, NULL, 16) : 0;
		step = n > 0 ? (int)n - 1 : (int)g->cpu;
	}
	let_go(g, step);
}

static void choose_thread(struct gdb *g, const char *p)
{
	long n = strtol(p + 1, NULL, 16);
	if (n > (long)g->vm->ncpus || n < -1) {
		reply_text(g, "E16");
		return;
	}
	if (n > 0)
		g->cpu = (unsigned)n - 1;
	reply_text(g, "OK");
}

static void command(struct gdb *g, const char *p)
{
	struct gdb_text t = { .n = 0 };
	switch (*p) {
	case '?': reply_stop(g, g->cpu, "05", ""); break;
	case 'g': gdb_read_registers(g, &t); reply(g, t.s, t.n); break;
	case 'G': reply_text(g, gdb_write_registers(g, p + 1) ? "OK" : "E16"); break;
	case 'p': one_register(g, p + 1, false); break;
	case 'P': one_register(g, p + 1, true); break;
	case 'm': read_memory(g, p + 1); break;
	case 'M': write_memory(g, p + 1); break;
	case 'Z': change_point(g, p + 1, true); break;
	case 'z': change_point(g, p + 1, false); break;
	case 'H': choose_thread(g, p + 1); break;
	case 'T': reply_text(g, strtoul(p + 1, NULL, 16) - 1 < g->vm->ncpus ? "OK" : "E16"); break;
	case 'c': let_go(g, -1); break;
	case 's': let_go(g, (int)g->cpu); break;
	case 'D': reply_text(g, "OK"); drop(g); break;
	case 'k': drop(g); break; /* gdb's "kill" ends the session, not the machine */
	case 'v':
		if (starts(&p, "vCont?"))
			reply_text(g, "vCont;c;C;s;S");
		else if (starts(&p, "vCont"))
			resume_actions(g, p);
		else
			reply_text(g, "");
		break;
	case 'q':
	case 'Q': query(g, p); break;
	default: reply_text(g, "");
	}
}

/* ---- packets ---- */
/* Takes one packet, acknowledgement or interrupt from g->in. Returns its bytes, 0 when there is no whole one. */
static size_t take(struct gdb *g)
{
	u8 *in = g->in, sum = 0, want;
	if (!g->in_len)
		return 0;
	if (in[0] == 3)
		interrupt(g);
	if (in[0] != '$')
		return 1;
	u8 *hash = memchr(in, '#', g->in_len);
	if (!hash)
		return g->in_len == sizeof g->in ? g->in_len : 0; /* longer than we said that we take */
	if (hash + 3 > in + g->in_len)
		return 0;
	for (u8 *p = in + 1; p < hash; p++)
		sum += *p;
	const char *check = (const char *)hash + 1;
	bool good = gdb_get_hex(&check, &want, 1) && want == sum;
	if (!g->no_ack)
		send_bytes(g, good ? "+" : "-", 1);
	*hash = 0;
	if (good)
		command(g, (const char *)in + 1);
	return hash + 3 - in;
}

static void on_data(void *opaque, unsigned ready)
{
	struct gdb *g = opaque;
	if (ready & LOOP_WRITE)
		flush(g);
	if (!(ready & LOOP_READ))
		return;
	ssize_t n = recv(g->fd, g->in + g->in_len, sizeof g->in - g->in_len, MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		drop(g);
		return;
	}
	g->in_len += n;
	for (size_t used; (used = take(g)) && g->fd >= 0;) { /* a packet may end the connection */
		g->in_len -= used;
		memmove(g->in, g->in + used, g->in_len);
	}
	if (g->fd >= 0)
		flush(g);
}

/* ---- connections ---- */
static void attach(struct gdb *g, bool on)
{
	for (unsigned i = 0; i < g->vm->ncpus; i++) {
		memset(&g->debug[i], 0, sizeof g->debug[i]);
		g->vm->vcpus[i].cpu->dbg = on ? &g->debug[i] : NULL;
	}
	points_changed(g);
	g->vm->debug_stopped = on ? on_stopped : NULL;
	g->vm->debug_opaque = g;
}

static void drop(struct gdb *g)
{
	if (g->fd < 0)
		return;
	flush(g);
	vm_user_pause(g->vm, true);
	attach(g, false);
	loop_fd_remove(g->conn);
	close(g->fd);
	g->fd = -1;
	g->conn = NULL;
	g->in_len = g->out_len = 0;
	vm_user_pause(g->vm, false);
}

static void on_connect(void *opaque, unsigned ready)
{
	struct gdb *g = opaque;
	int fd = accept4(g->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0)
		return;
	if (g->fd >= 0) { /* one at a time */
		close(fd);
		return;
	}
	g->fd = fd;
	g->conn = loop_fd_add(g->vm->loop, fd, LOOP_READ, on_data, g);
	if (!g->conn) {
		close(fd);
		g->fd = -1;
		return;
	}
	g->no_ack = g->running = false;
	g->cpu = 0;
	g->level = 1;
	vm_user_pause(g->vm, true);
	attach(g, true);
}

struct gdb *gdb_open(struct vm *vm, int listen_fd)
{
	struct gdb *g = calloc(1, sizeof *g);
	if (g)
		g->debug = calloc(vm->ncpus, sizeof *g->debug);
	if (g && g->debug) {
		g->vm = vm;
		g->fd = -1;
		g->listen_fd = listen_fd;
		g->listen = loop_fd_add(vm->loop, listen_fd, LOOP_READ, on_connect, g);
		if (g->listen)
			return g;
	}
	if (g)
		free(g->debug);
	free(g);
	close(listen_fd);
	log_error("gdb: out of memory or descriptors");
	return NULL;
}

void gdb_close(struct gdb *g)
{
	if (!g)
		return;
	drop(g);
	loop_fd_remove(g->listen);
	close(g->listen_fd);
	free(g->out);
	free(g->debug);
	free(g);
}
