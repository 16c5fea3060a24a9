/* Random guest programs. An instruction is made from a template: opcode bytes and letters for what varies.
 *   m  any ModRM byte with SIB and displacement as it asks; 0-7: the same with this reg field; M: as m, memory only; R: as m, registers only
 *   A  as m, but an APIC register in the page where fuzz-nested has its APIC-access page;  P  memory that holds a good VMX pointer or descriptor
 *   b w d v  immediate of 8, 16, 32 bits, 16 or 32 by mode;  j J short and near branch displacement, mostly close by; o address-sized offset; f far pointer
 * Opcode bytes are two hexadecimal digits; letters stand between blanks. */
#include "machine.h"

static const char *const plain[] = {
	"00 m", "01 m", "02 m", "03 m", "04 b", "05 v", "08 m", "0b m", "10 m", "13 m", "18 m", "1b m", "21 m", "23 m", "28 m", "2b m", "31 m", "33 m",
	"38 m", "39 m", "3b m", "3c b", "3d v", "40", "43", "47", "48", "4b", "50", "53", "55", "58", "5b", "5d", "60", "61", "63 m", "68 v", "69 m v",
	"6a b", "6b m b", "80 0 b", "80 m b", "81 m v", "83 m b", "84 m", "85 m", "86 m", "87 m", "88 m", "89 m", "8a m", "8b m", "8d m", "8f 0", "90",
	"91", "98", "99", "9b", "9c", "9d", "9e", "9f", "a0 o", "a1 o", "a2 o", "a3 o", "a8 b", "b0 b", "b3 b", "b8 v", "bb v", "bf v", "c0 m b", "c1 m b",
	"c6 0 b", "c7 0 v", "c8 w b", "c9", "d0 m", "d1 m", "d2 m", "d3 m", "d4 b", "d5 b", "d7", "27", "2f", "37", "3f", "f5", "f6 m b", "f7 m v", "f6 4",
	"f7 6", "f7 7", "f8", "f9", "fc", "fd", "fe 0", "ff 1", "ff 6", "0f 40 m", "0f 4d m", "0f 90 m", "0f 9c m", "0f a3 m", "0f a4 m b", "0f a5 m",
	"0f ab m", "0f ac m b", "0f af m", "0f b0 m", "0f b1 m", "0f b3 m", "0f b6 m", "0f b7 m", "0f ba 4 b", "0f ba 5 b", "0f ba 7 b", "0f bb m",
	"0f bc m", "0f bd m", "0f be m", "0f c0 m", "0f c1 m", "0f c3 M", "0f c7 1", "0f c8", "0f cb", "0f 0d M", "0f 18 M", "0f 1f m", "0f ae 7",
	"f3 0f b8 m", "f3 0f bc m", "f3 0f bd m", "0f 38 f0 m", "0f 38 f1 m", "f2 0f 38 f0 m", "f2 0f 38 f1 m", "66 0f 38 f6 m", "f3 0f 38 f6 m",
	"f0 01 M", "f0 0f b1 M", "f0 0f c1 M", "f0 0f c7 1", "f0 87 M", "f0 0f ab M", "f0 ff 0", "f0 0f ba 5 b", "f0 81 1 v", "48 0f c7 1", "f0 48 0f c7 1",
	"c4 e2 70 f2 m", "c4 e2 78 f3 1", "c4 e2 78 f3 3", "c4 e2 73 f6 m", "c4 e2 71 f7 m", "c4 e3 7b f0 m b", "c4 e2 f3 f5 m", "c4 e2 f8 f7 m",
};
static const char *const strings[] = {
	"a4", "a5", "a6", "a7", "aa", "ab", "ac", "ad", "ae", "af", "6c", "6d", "6e", "6f", "f3 a4", "f3 a5", "f3 a6", "f2 a7", "f3 aa", "f3 ab", "f3 ac",
	"f2 ae", "f3 af", "f3 6c", "f3 6d", "f3 6e", "f3 6f", "f3 48 a5", "f3 48 ab", "f3 67 a4", "f3 67 66 a5", "f3 64 a4", "f3 2e a6", "b9 b", "fc", "fd",
};
static const char *const branches[] = {
	"70 j", "72 j", "74 j", "75 j", "78 j", "7a j", "7c j", "7f j", "e0 j", "e1 j", "e2 j", "e3 j", "eb j", "e8 J", "e9 J", "0f 82 J", "0f 85 J",
	"0f 8f J", "ff 2", "ff 4", "c3", "c2 w",
};
static const char *const far[] = {
	"9a f", "ea f", "ff 3", "ff 5", "48 ff 3", "48 ff 5", "cb", "ca w", "48 cb", "cf", "48 cf", "66 cf", "cd b", "cd b", "cc", "ce", "f1", "0f 05", "0f 07",
	"48 0f 07", "0f 34", "0f 35", "48 0f 35", "0f 0b", "0f ff m", "0f b9 m", "07", "17", "1f", "0f a1", "0f a9", "06", "16", "1e", "0e", "0f a0",
	"0f a8", "8e m", "8e 2", "8c m", "c4 M", "c5 M", "0f b2 M", "0f b4 M", "0f b5 M", "62 M", "0f 02 m", "0f 03 m", "0f 00 4", "0f 00 5", "0f 01 f8",
};
static const char *const systems[] = {
	"0f 00 0", "0f 00 1", "0f 00 2", "0f 00 3", "0f 01 0", "0f 01 1", "0f 01 2", "0f 01 3", "0f 01 4", "0f 01 6", "0f 01 7", "0f 06", "0f 08", "0f 09",
	"0f 20 R", "0f 22 R", "0f 22 4", "0f 22 3", "0f 22 0", "44 0f 20 0", "44 0f 22 0", "0f 21 R", "0f 23 R", "0f 23 7", "0f 30", "0f 31", "0f 32",
	"0f 33", "0f 01 f9", "f3 0f c7 7", "0f a2", "0f 01 d0", "0f 01 d1", "0f 01 ca", "0f 01 cb", "0f 01 ee", "0f 01 ef", "0f 01 e8", "0f 01 c8", "0f 01 c9",
	"66 0f 38 82 M", "f3 0f ae 0", "f3 0f ae 3", "f3 48 0f ae 1", "f3 48 0f ae 2", "0f ae 7", "66 0f ae 7", "66 0f ae 6", "0f c7 6", "0f c7 7", "0f aa",
	"0f 37", "e4 b", "e5 b", "e6 b", "e7 b", "ec", "ed", "ee", "ef", "fa", "fb", "f4", "fb f4", "f3 90", "0f 0e", "fb", "9d", "0f 32", "0f 30", "b9 82000000",
	"b9 80000000 0f 32", "b9 00080000 0f 30", "b9 1b000000 0f 32 0f 30", "b9 800000c0 0f 32 0f 30", "b9 10000000 0f 30", "b9 e0060000 0f 30", "b9 80040000 0f 32",
};
static const char *const vmx[] = {
	"0f 01 c1", "0f 01 c2", "0f 01 c3", "0f 01 c4", "0f 01 d4", "0f 78 m", "0f 79 m", "0f 78 m", "0f 79 m", "0f c7 6", "66 0f c7 6", "f3 0f c7 6", "0f c7 7",
	"66 0f 38 80 M", "66 0f 38 81 M", "0f 01 c2", "0f 01 c3", "f3 0f c7 6 0f c7 6", "66 0f c7 6 0f c7 6 0f 01 c2",
};
/* What a guest does under APIC virtualization and VM functions. */
static const char *const apic[] = {
	"89 A", "8b A", "89 A", "c7 A 30000000", "c7 A 00000000", "88 A", "8a A", "66 89 A", "ff A", "87 A", "f3 ab", "83 A b",
	"b9 08080000 31 d2 b8 v 0f 30", "b9 0b080000 31 d2 31 c0 0f 30", "b9 3f080000 31 d2 b8 31000000 0f 30", "b9 3f080000 31 d2 b8 b 000000 0f 30",
	"b9 08080000 0f 32", "b9 02080000 0f 32", "b9 10080000 0f 32", "b9 b 080000 0f 32", "b9 b 080000 31 d2 0f 30", "44 0f 20 R", "44 0f 22 R",
	"0f 22 R", "b0 b 44 0f 22 c0", "31 c0 b9 00000000 0f 01 d4", "31 c0 b9 b 000000 0f 01 d4", "b8 b 000000 0f 01 d4", "fb", "fb f4", "f4", "0f 01 c1",
};
static const char *const root[] = {
	"66 0f c7 34 25 P", "0f c7 34 25 P", "f3 0f c7 34 25 P", "0f c7 3c 25 P", "0f 01 c2", "0f 01 c3", "0f 01 c4", "b8 01000000 66 0f 38 80 04 25 P",
	"b8 02000000 66 0f 38 80 04 25 P", "b8 00000000 66 0f 38 81 04 25 P", "b8 01000000 66 0f 38 81 04 25 P", "b8 03000000 66 0f 38 81 04 25 P",
};
static const char *const vectors[] = {
	"0f 10 m", "0f 11 m", "66 0f 10 m", "f3 0f 11 m", "0f 28 m", "0f 29 m", "66 0f 6f m", "66 0f 7f m", "f3 0f 6f m", "f3 0f 7f m", "f3 0f 7e m", "66 0f d6 m",
	"66 0f 6e m", "66 48 0f 7e m", "0f 6f m", "0f 7f m", "0f 7e m", "0f 77", "0f 58 m", "f2 0f 58 m", "f3 0f 5e m", "66 0f 59 m", "0f 51 m", "f2 0f 2a m",
	"f2 0f 2d m", "f3 48 0f 2c m", "0f 5b m", "66 0f 5a m", "0f 2e m", "66 0f 2f m", "0f c2 m b", "0f c6 m b", "66 0f 70 m b", "66 0f ef m", "66 0f d7 R",
	"0f 50 R", "66 0f f7 R", "0f f7 R", "0f e7 M", "66 0f e7 M", "0f 2b M", "f2 0f f0 M", "66 0f 38 2a M", "66 0f 3a 0f m b", "0f 3a 0f m b", "66 0f 38 00 m",
	"66 0f 3a 14 m b", "66 0f 3a 16 m b", "66 0f 3a 20 m b", "66 0f 3a 21 m b", "66 0f 3a 60 m b", "66 0f 3a 63 m b", "66 0f 3a 44 m b", "66 0f 38 dc m",
	"66 0f 3a df m b", "0f 38 c8 m", "0f 3a cc m b", "66 0f 3a 0b m b", "66 0f 3a 40 m b", "0f ae 0", "48 0f ae 0", "0f ae 1", "0f ae 2", "0f ae 3", "0f ae 4",
	"48 0f ae 4", "0f ae 5", "48 0f ae 5", "0f ae 6", "0f c7 3", "0f c7 4", "0f c7 5", "48 0f c7 3", "0f c4 m b", "66 0f c5 R b", "66 0f 12 M", "0f 13 M",
	"0f 16 m", "f3 0f 16 m", "f2 0f d0 m", "66 0f 7c m", "66 0f f3 m", "66 0f 73 7 b", "0f 71 2 b", "66 0f 38 17 m", "66 0f 38 40 m", "0f d4 m", "f3 0f d6 R",
	"c5 f8 10 m", "c5 fc 11 m", "c5 fd 6f m", "c5 fe 7f m", "c5 f4 58 m", "c5 f3 59 m", "c5 f8 77", "c5 fc 77", "c4 e2 7d 18 m", "c4 e2 75 2c M",
	"c4 e2 75 2e M", "c4 e2 75 8c M", "c4 e2 f5 8e M", "c4 e2 79 90 04 b", "c4 e2 f9 91 0c b", "c4 e2 75 90 04 20", "c4 e2 f5 93 44 11 b", "c4 e2 6d 92 1c 08",
	"c4 e2 71 98 m", "c4 e2 f5 b8 m", "c4 e2 7d 13 m", "c4 e3 7d 1d m b", "c4 e3 7d 46 m b", "c4 e3 71 4b m b", "c4 e3 7d 39 m b", "c4 e2 7d 58 m", "c5 f8 ae 2",
	"c5 f8 ae 3", "c5 f9 f7 R", "c5 f5 eb m", "c4 e1 f9 7e m", "c4 e3 79 63 m b", "c5 ff d0 m", "c5 fc c2 m b",
};
static const char *const x87s[] = {
	"d8 m", "d9 m", "da m", "db m", "dc m", "dd m", "de m", "df m", "9b d9 7", "9b dd 7", "d9 e8", "d9 ee", "d9 f0", "d9 fb", "d9 fe", "d9 f2", "d9 ff", "db e3",
	"db e2", "df e0", "dd 4", "dd 6", "d9 4", "d9 6", "d9 5", "d9 7", "dd 7", "df 4", "df 6", "db 5", "db 7", "d9 d0", "d9 c9", "de c1", "d9 f7", "9b", "db f1",
	"da c1", "d9 e5", "dd c0",
};

/* ---- bytes ---- */
struct text { u8 *p, *end; };
static void emit(struct text *t, u64 v, unsigned n)
{
	for (; n && t->p < t->end; n--, v >>= 8)
		*t->p++ = (u8)v;
}

static u32 displacement(struct rng *r) { return chance(r, 50) ? AT_DATA + below(r, 0x3fff) : (u32)interesting(r); }

/* reg: 0-7 or -1 = any; mod 3 with `registers`, never with `memory`. */
static void emit_modrm(struct text *t, struct rng *r, unsigned bits_, int reg, bool memory, bool registers)
{
	u8 b = (u8)rng_u64(r);
	if (reg >= 0)
		b = (u8)((b & 0xc7) | reg << 3);
	if (registers)
		b |= 0xc0;
	else if (memory && b >= 0xc0)
		b &= 0x3f;
	unsigned mod = b >> 6, rm = b & 7;
	emit(t, b, 1);
	if (mod == 3)
		return;
	if (bits_ == 16) {
		if (mod == 2 || (mod == 0 && rm == 6))
			emit(t, rng_u64(r), 2);
		else if (mod == 1)
			emit(t, rng_u64(r), 1);
		return;
	}
	u8 sib = (u8)rng_u64(r);
	if (rm == 4)
		emit(t, sib, 1);
	if (mod == 2 || (mod == 0 && rm == 5 && bits_ != 64) || (mod == 0 && rm == 4 && (sib & 7) == 5))
		emit(t, displacement(r), 4);
	else if (mod == 0 && rm == 5) /* RIP-relative */
		emit(t, (u32)(below(r, 0x20000) - 0x8000), 4);
	else if (mod == 1)
		emit(t, rng_u64(r), 1);
}

static void emit_letter(struct text *t, struct rng *r, unsigned bits_, char ch)
{
	unsigned word = bits_ == 16 ? 2 : 4;
	if (ch >= '0' && ch <= '7') {
		emit_modrm(t, r, bits_, ch - '0', false, false);
		return;
	}
	switch (ch) {
	case 'm': emit_modrm(t, r, bits_, -1, false, false); break;
	case 'M': emit_modrm(t, r, bits_, -1, true, false); break;
	case 'R': emit_modrm(t, r, bits_, -1, false, true); break;
	case 'b': emit(t, rng_u64(r), 1); break;
	case 'w': emit(t, rng_u64(r), 2); break;
	case 'd': emit(t, interesting(r), 4); break;
	case 'v': emit(t, interesting(r), word); break;
	case 'j': emit(t, chance(r, 80) ? below(r, 64) - 20 : rng_u64(r), 1); break;
	case 'J': emit(t, chance(r, 90) ? below(r, 0x2000) - 0x1000 : rng_u64(r), word); break;
	case 'A': {
		static const u16 regs[] = { 0x80, 0x80, 0xb0, 0xb0, 0x300, 0x310, 0x20, 0xa0, 0x100, 0x210, 0x280, 0x320, 0x380, 0x3f0, 0xffc };
		emit(t, 0x2504 | (rng_u64(r) & 7) << 3, 2);
		emit(t, AT_VMX + 0x4000 + PICK(r, regs) + (chance(r, 85) ? 0 : below(r, 16)), 4);
		break;
	}
	case 'P': emit(t, AT_VMX_POINTERS + 16 * below(r, VMX_POINTERS), 4); break;
	case 'o': emit(t, interesting(r), bits_ / 8); break;
	case 'f':
		emit(t, chance(r, 80) ? (bits_ == 16 ? 0 : AT_CODE) + below(r, CODE_PAGES * 4096) : rng_u64(r), word);
		emit(t, chance(r, 80) ? interesting(r) & 0x1fb : rng_u64(r), 2);
		break;
	}
}

static int nibble(char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1; }

static void emit_template(struct text *t, struct rng *r, unsigned bits_, const char *s)
{
	while (*s) {
		if (*s == ' ') {
			s++;
			continue;
		}
		int high = nibble(s[0]), low = high < 0 ? -1 : nibble(s[1]);
		if (low >= 0) {
			emit(t, (unsigned)(high << 4 | low), 1);
			s += 2;
			continue;
		}
		emit_letter(t, r, bits_, *s++);
	}
}

static const struct { const char *const *rows; u16 count, weight; } kinds[] = {
	{ plain, array_len(plain), 34 }, { strings, array_len(strings), 8 }, { branches, array_len(branches), 12 }, { far, array_len(far), 12 },
	{ systems, array_len(systems), 14 }, { vmx, array_len(vmx), 6 }, { vectors, array_len(vectors), 10 }, { x87s, array_len(x87s), 4 },
};

static void emit_insn(struct text *t, struct rng *r, unsigned bits_)
{
	static const u8 prefixes[] = { 0x66, 0x67, 0xf2, 0xf3, 0xf0, 0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66 };
	unsigned roll = below(r, 100), k = 0;
	if (chance(r, 3)) { /* anything */
		emit(t, rng_u64(r), 1 + below(r, 6));
		return;
	}
	while (k + 1 < array_len(kinds) && roll >= kinds[k].weight)
		roll -= kinds[k++].weight;
	while (chance(r, 12))
		emit(t, PICK(r, prefixes), 1);
	if (bits_ == 64 && chance(r, 35))
		emit(t, 0x40 | (rng_u64(r) & 15), 1);
	emit_template(t, r, bits_, kinds[k].rows[below(r, kinds[k].count)]);
}

void program_fill(struct machine *m, struct rng *r, u64 at, u64 bytes, unsigned bits_)
{
	u8 *base = mem_ptr(&m->mem, gpa(at), bytes);
	struct text t = { base, base + bytes };
	while (t.p < t.end)
		emit_insn(&t, r, chance(r, 97) ? bits_ : 16u << below(r, 3));
}

void program_sprinkle(struct machine *m, struct rng *r, u64 at, u64 bytes, unsigned bits_, unsigned n, bool hypervisor)
{
	u8 *base = mem_ptr(&m->mem, gpa(at), bytes);
	while (n--) {
		u64 from = bytes > 16 ? below(r, (unsigned)bytes) : 0;
		if (bytes <= 16)
			memset(base, 0x90, bytes);
		struct text t = { base + from, base + bytes };
		emit_template(&t, r, bits_, hypervisor ? PICK(r, root) : PICK(r, apic));
	}
}

u64 interesting(struct rng *r)
{
	static const u64 edges[] = { 0, 1, 2, 8, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 0x7fffffff, 0x80000000, 0xffffffff, 0x7fffffffffffffff,
		0x8000000000000000, ~(u64)0, 0xfee00000, 0xfee00300, 0xfec00000, RAM_BYTES - 4, RAM_BYTES, RAM_BYTES + ROM_BYTES - 2, 0x7ffffffffffe,
		0x800000000000, 0xffff7fffffffffff, 0xffff800000000000, 0x4e420001, 0x1f80, 0x33, 0x80000011, 0x0004000000000000 };
	switch (below(r, 12)) {
	case 0: return PICK(r, edges);
	case 1: return below(r, 256);
	case 2: return AT_CODE + below(r, CODE_PAGES * 4096);
	case 3: return AT_VMX + ((u64)below(r, VMX_PAGES) << 12);
	case 4: return (u64)below(r, RAM_BYTES / 4096) << 12 | (0xff0 + below(r, 16));
	case 5: return (u64)(8 + below(r, 64)) * 8 | below(r, 4); /* selectors */
	case 6: return 0xffff800000000000 + AT_DATA + below(r, 0x4000);
	case 7: return rng_u64(r);
	case 8: return 0 - (u64)below(r, 0x4000);
	default: return AT_DATA + below(r, 0x4000);
	}
}
