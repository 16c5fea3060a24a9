/* State rows: all that a guest can see or feel of one object, written once.
 *
 * An object's registers are declared by a list macro of F(type, name) and A(type, name, count) rows, which makes the
 * struct, its descriptor and a proof that no byte is left out:
 *
 *	#define I8254_STATE(F, A) F(u32, reload) F(u8, mode) A(u8, pad_, 3)
 *	STATE_STRUCT(i8254_regs, I8254_STATE);              // in the header
 *	STATE_DESC(i8254_regs, I8254_STATE);                // in the .c: defines `const struct state_desc i8254_regs_state`
 *
 * Rows are scalars (u8..u64) or arrays of them; sub-structs use F with a struct type that has no padding itself
 * (saved as bytes). STATE_DESC refuses to compile when the struct has padding: order rows by size or add a pad_ row.
 */
#ifndef NB_STATE_H
#define NB_STATE_H

#include "base/base.h"

struct state_row {
	const char *name;
	u32 size;  /* bytes of one element */
	u32 count; /* elements; offsets follow from the order, since there is no padding */
};

struct state_desc {
	const char *name;
	u32 size;  /* sizeof the struct = sum of size * count over its rows */
	u32 nrows;
	const struct state_row *rows;
};

#define STATE_F_MEMBER_(type, name) type name;
#define STATE_A_MEMBER_(type, name, n) type name[n];
#define STATE_STRUCT(tag, LIST) struct tag { LIST(STATE_F_MEMBER_, STATE_A_MEMBER_) }

#define STATE_F_SIZE_(type, name) +sizeof(type)
#define STATE_A_SIZE_(type, name, n) +sizeof(type) * (n)
#define STATE_F_ROW_(type, name) { #name, sizeof(type), 1 },
#define STATE_A_ROW_(type, name, n) { #name, sizeof(type), n },
#define STATE_DESC(tag, LIST) \
	_Static_assert(sizeof(struct tag) == (0 LIST(STATE_F_SIZE_, STATE_A_SIZE_)), #tag " has padding"); \
	static const struct state_row tag##_rows_[] = { LIST(STATE_F_ROW_, STATE_A_ROW_) }; \
	const struct state_desc tag##_state = { #tag, sizeof(struct tag), array_len(tag##_rows_), tag##_rows_ }

/* A growing byte buffer for save, a cursor for load. */
struct state_buf {
	u8 *data;
	size_t len, cap;
};
void state_buf_free(struct state_buf *b);

/* Appends one section: instance name, row names, sizes and bytes. Never fails (allocation failure is a bug_if). */
void state_save(struct state_buf *b, const struct state_desc *d, const char *instance, const void *obj);

/* Reads the section at *pos, which must be `instance` of `d`; advances *pos. Rows are matched by name; a missing, unknown
 * or differently sized row is refused. Returns 0, or -EINVAL with one log line that names section, row and offset;
 * obj is untouched then. */
int state_load(const struct state_buf *b, size_t *pos, const struct state_desc *d, const char *instance, void *obj);

/* Prints "instance.row = value" lines; with `old` given only rows that differ, as "old -> new". */
void state_dump(void *file, const struct state_desc *d, const char *instance, const void *obj, const void *old);

#endif
