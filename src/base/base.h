/* Fixed-width integers, bits, compiler hints. Everything includes this; it knows no VM. */
#ifndef NB_BASE_H
#define NB_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int8_t i8;
typedef int16_t i16;
typedef int32_t i32;
typedef int64_t i64;
typedef unsigned __int128 u128;
typedef __int128 i128;

/* Addresses that must not be mixed up. A guest-linear address goes through the guest's page tables,
 * an l2gpa through a nested guest's EPT or NPT, a gpa is what L1 (the VM) calls physical. */
typedef struct { u64 v; } gva_t;
typedef struct { u64 v; } l2gpa_t;
typedef struct { u64 v; } gpa_t;

static inline gva_t gva(u64 v) { return (gva_t){ v }; }
static inline l2gpa_t l2gpa(u64 v) { return (l2gpa_t){ v }; }
static inline gpa_t gpa(u64 v) { return (gpa_t){ v }; }

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#define array_len(a) (sizeof(a) / sizeof((a)[0]))
#define container_of(p, type, member) ((type *)((char *)(p) - offsetof(type, member)))
#define noinline __attribute__((noinline))
#define cold_path __attribute__((__noinline__, __cold__)) /* beside such a way: out of its code */
#define hot_path __attribute__((__hot__)) /* on the way of a VM exit and back: such functions are linked beside each other, on few pages */
#define must_inline inline __attribute__((always_inline))
#define unused __attribute__((unused))
#define printf_like(f, a) __attribute__((format(printf, f, a)))

/* bit(63) is right; 1 << 63 is not. */
static inline u64 bit(unsigned n) { return (u64)1 << n; }
#define BIT(n) ((u64)1 << (n)) /* for constants and case labels */
#define BIT32(n) ((u32)1 << (n))

/* Bits hi..lo of v, right-aligned. 0 <= lo <= hi <= 63. */
static inline u64 bits(u64 v, unsigned hi, unsigned lo) { return (v >> lo) & (~(u64)0 >> (63 - (hi - lo))); }
/* n low bits set; n from 0 to 64. */
static inline u64 low_mask(unsigned n) { return n >= 64 ? ~(u64)0 : bit(n) - 1; }
static inline u64 sign_extend(u64 v, unsigned nbits) { return (u64)((i64)(v << (64 - nbits)) >> (64 - nbits)); }
static inline u64 align_down(u64 v, u64 a) { return v & ~(a - 1); }
static inline u64 align_up(u64 v, u64 a) { return (v + a - 1) & ~(a - 1); }
static inline u64 min_u64(u64 a, u64 b) { return a < b ? a : b; }
static inline u64 max_u64(u64 a, u64 b) { return a > b ? a : b; }

#define PAGE_SIZE ((u64)4096)
#define PAGE_MASK (~(u64)4095)
#define KiB ((u64)1024)
#define MiB (KiB * 1024)
#define GiB (MiB * 1024)
#define NSEC_PER_SEC ((u64)1000000000)

/* Unaligned host-order loads and stores (host and guest are both little-endian x86). */
static inline u64 load_le(const void *p, unsigned size) { u64 v = 0; memcpy(&v, p, size); return v; }
static inline void store_le(void *p, u64 v, unsigned size) { memcpy(p, &v, size); }

/* One host access of 1, 2, 4 or 8 bytes, aligned or not; an aligned one is atomic. For guest memory that others write too. */
typedef u8 any_u8 __attribute__((may_alias));
typedef u16 any_u16 __attribute__((aligned(1), may_alias));
typedef u32 any_u32 __attribute__((aligned(1), may_alias));
typedef u64 any_u64 __attribute__((aligned(1), may_alias));

static must_inline u64 host_load(const void *p, unsigned size)
{
	switch (size) {
	case 1: return *(const volatile u8 *)p;
	case 2: return *(const volatile any_u16 *)p;
	case 4: return *(const volatile any_u32 *)p;
	default: return *(const volatile any_u64 *)p;
	}
}

static must_inline void host_store(void *p, unsigned size, u64 v)
{
	switch (size) {
	case 1: *(volatile u8 *)p = (u8)v; return;
	case 2: *(volatile any_u16 *)p = (u16)v; return;
	case 4: *(volatile any_u32 *)p = (u32)v; return;
	default: *(volatile any_u64 *)p = v; return;
	}
}

static inline u32 bswap32(u32 v) { return __builtin_bswap32(v); }
static inline u64 bswap64(u64 v) { return __builtin_bswap64(v); }
static inline u16 bswap16(u16 v) { return __builtin_bswap16(v); }

/* Our own bug, never a guest's or a file's doing: prints the condition and aborts. */
#define bug_if(cond) do { if (unlikely(cond)) base_bug(__FILE__, __LINE__, #cond); } while (0)
void base_bug(const char *file, int line, const char *cond) __attribute__((noreturn));

#endif
