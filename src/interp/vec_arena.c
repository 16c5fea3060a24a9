/* Where stubs live: executable memory in chunks, identical code kept once. */
#include "interp/vec_priv.h"

#include <errno.h>
#include <sys/mman.h>

#include "base/log.h"

#define CHUNK_BYTES (256 * KiB)
#define MAX_CHUNKS 64 /* then all decoded code is dropped: no honest guest has 100,000 different vector instructions */

struct vec_chunk {
	struct vec_chunk *next;
	u32 used;
	u8 code[];
};

struct vec_code {
	struct vec_code *next;
	u64 hash;
	u32 len;
	u8 code[] __attribute__((aligned(16)));
};

static struct vec_chunk *chunk_add(struct cpu *c)
{
	struct vec *v = vec_of(c);
	struct vec_chunk *ch = mmap(NULL, CHUNK_BYTES, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (ch == MAP_FAILED) {
		log_once(LOG_ERROR, "no executable memory for vector instructions (mmap: %s)", strerror(errno));
		return NULL;
	}
	ch->next = v->chunks;
	ch->used = align_up(sizeof(*ch), 64);
	v->chunks = ch;
	if (++v->nchunks > MAX_CHUNKS)
		interp_of(c)->reset_wanted = true; /* before the next block is looked up, vec_reset() comes */
	return ch;
}

static struct vec_code *code_add(struct cpu *c, const u8 *bytes, unsigned len, u64 hash)
{
	struct vec *v = vec_of(c);
	struct vec_chunk *ch = v->chunks;
	u32 need = (u32)align_up(sizeof(struct vec_code) + len, 64);
	struct vec_code *k;

	if (!ch || ch->used + need > CHUNK_BYTES)
		ch = chunk_add(c);
	if (!ch)
		return NULL;
	k = (struct vec_code *)((u8 *)ch + ch->used);
	ch->used += need;
	k->hash = hash;
	k->len = len;
	memcpy(k->code, bytes, len);
	k->next = v->hash[hash % VEC_HASH];
	v->hash[hash % VEC_HASH] = k;
	return k;
}

vec_stub *vec_code_share(struct cpu *c, const u8 *bytes, unsigned len)
{
	struct vec *v = vec_of(c);
	u64 hash = 0xcbf29ce484222325u;
	struct vec_code *k;

	for (unsigned n = 0; n < len; n++)
		hash = (hash ^ bytes[n]) * 0x100000001b3u;
	hash ^= hash >> 32;
	for (k = v->hash[hash % VEC_HASH]; k; k = k->next)
		if (k->hash == hash && k->len == len && !memcmp(k->code, bytes, len))
			return (vec_stub *)k->code;
	k = code_add(c, bytes, len, hash);
	return k ? (vec_stub *)k->code : NULL;
}

/* Keeps one chunk, empty, unless all shall go. */
void vec_stub_free(struct vec *v, bool all)
{
	memset(v->hash, 0, sizeof(v->hash));
	v->nchunks = all ? 0 : v->chunks != NULL;
	while (v->chunks && (all || v->chunks->next)) {
		struct vec_chunk *next = v->chunks->next;

		munmap(v->chunks, CHUNK_BYTES);
		v->chunks = next;
	}
	if (v->chunks)
		v->chunks->used = align_up(sizeof(struct vec_chunk), 64);
}
