/* A device writes into code that has run, and is hot: what a disk does to the pages of a program that is loaded over another. It writes as our devices
 * do, by mem_write or through a virtqueue's buffer, from where a vCPU's own OUT brings it, or between two runs. Each call of the code after that
 * comes after a serializing instruction, as the manual asks (SDM "Handling Self- and Cross-Modifying Code"). */
#include "interp_rig.h"
#include "virtio/virtq.h"

#include <stdlib.h>

#define AT_FIRST 0x50000u  /* two pages of code, one after the other */
#define AT_SECOND 0x51000u
#define AT_QUEUE 0x60000u  /* descriptors, available ring, used ring */
#define ROUNDS 40u

static struct core r;

/* ---- two ways to write ---- */
static void by_mem_write(u64 at, const void *from, u64 len) { assert_int_equal(mem_write(&r.mem, gpa(at), from, len), 0); }

/* One buffer in the ring's first place; the device takes it and fills it. */
static void by_virtqueue(u64 at, const void *from, u64 len)
{
	struct virtq_regs regs = { .desc = AT_QUEUE, .avail = AT_QUEUE + 0x100, .used = AT_QUEUE + 0x200, .size = 4, .enabled = 1 };
	struct virtq q = { .r = &regs, .mem = &r.mem };
	static struct virtq_chain chain;
	core_set(&r, regs.desc, 8, at);
	core_set(&r, regs.desc + 8, 4, len);
	core_set(&r, regs.desc + 12, 4, 2); /* VIRTQ_DESC_F_WRITE */
	core_set(&r, regs.avail, 8, 1ull << 16); /* idx 1, ring[0] = 0 */
	assert_int_equal(virtq_pop(&q, &chain), 1);
	assert_int_equal(virtq_chain_write(&r.mem, &chain, 0, from, len), len);
	virtq_push(&q, chain.head, (u32)len);
}

/* As above, but through the host address and told of it afterwards, as the threads of a disk do. */
static void by_host_address(u64 at, const void *from, u64 len)
{
	struct virtq_seg seg = { mem_ptr(&r.mem, gpa(at), len), at, (u32)len };
	mem_will_write_range(&r.mem, gpa(at), len);
	memcpy(seg.host, from, len);
	virtq_wrote(&r.mem, &seg, len);
}

typedef void dma_fn(u64 at, const void *from, u64 len);
static dma_fn *const ways[] = { by_mem_write, by_virtqueue, by_host_address };

/* ---- the device behind port 80h: the next bytes to write, and where ---- */
static struct { dma_fn *write; u64 at, len; u8 bytes[2 * PAGE_SIZE]; unsigned kicks; } device;

static void port_write(void *vm, u16 port, u64 value, unsigned size)
{
	device.kicks++;
	if (device.write)
		device.write(device.at, device.bytes, device.len);
}

static int open_it(void **state)
{
	interp_open(&r, CORE_LONG);
	r.io.port_write = port_write;
	device.kicks = 0;
	device.write = NULL;
	return 0;
}
static int close_it(void **state)
{
	interp_close(&r);
	return 0;
}

static void device_has(dma_fn *write, u64 at, const void *bytes, u64 len)
{
	device.write = write;
	device.at = at;
	device.len = len;
	memcpy(device.bytes, bytes, len);
}

/* A page of code: MOV EAX, n; RET, and behind it what no guest may run. */
static void page_returning(u8 *page, u32 n)
{
	memset(page, 0xcc, PAGE_SIZE);
	page[0] = 0xb8;
	store_le(page + 1, n, 4);
	page[5] = 0xc3;
}

/* Calls AT_FIRST 50 times, then lets the device write, then calls it 50 times more and adds up: ebp before, ebx after. */
static void call_kick_call(void)
{
	/* xor ebp, ebp; xor r12d, r12d; mov r13d, 50; again: call AT_FIRST; add ebp, eax; dec r13d; jnz again */
	static const char before[] = "31ed 4531e4 41bd32000000 e8f0ff0200 01c5 41ffcd 75f4";
	/* out 80h, al; xor eax, eax; cpuid; mov r13d, 50; again: call AT_FIRST; add r12d, eax; dec r13d; jnz again; hlt */
	static const char after[] = "e680 31c0 0fa2 41bd32000000 e8d8ff0200 4101c4 41ffcd 75f3 f4";
	unsigned n = interp_put(&r, AT_CODE, before);
	assert_int_equal(n, 23);
	interp_put(&r, AT_CODE + n, after);
	interp_go(&r, AT_CODE);
}

/* ---- tests ---- */
static void a_page_that_is_hot(void **state)
{
	u8 page[PAGE_SIZE];
	for (unsigned n = 0; n < ROUNDS; n++) {
		page_returning(page, n + 1);
		by_mem_write(AT_FIRST, page, PAGE_SIZE);
		page_returning(page, n + 1000);
		device_has(ways[n % array_len(ways)], AT_FIRST, page, PAGE_SIZE);
		call_kick_call();
		assert_int_equal(r.cpu->arch.gpr[GPR_RBP], 50 * (n + 1));
		assert_int_equal(r.cpu->arch.gpr[GPR_R12], 50 * (n + 1000));
	}
	assert_int_equal(device.kicks, ROUNDS);
	assert_true(r.cpu->stats.code_invalidations >= ROUNDS);
}

/* INC EAX up to the page's border and beyond; AT_FIRST + 4000 is where it is entered. `second`: what the next page begins with. */
static void run_over_the_border(const char *first, const char *second)
{
	interp_put(&r, AT_FIRST, "31c0 e9990f0000"); /* xor eax, eax; jmp AT_FIRST + fa0h */
	for (unsigned at = AT_FIRST + 0xfa0; at < AT_SECOND; at += 2)
		interp_put(&r, at, "ffc0");
	if (first)
		interp_put(&r, AT_SECOND - 4, first);
	interp_put(&r, AT_SECOND, second);
}

static void only_the_second_page_of_code_in_two(void **state)
{
	u8 bytes[] = { 0x05, 0, 0, 0, 0, 0xc3 }; /* add eax, n; ret */
	for (unsigned n = 0; n < ROUNDS; n++) {
		run_over_the_border(NULL, "c3");
		store_le(bytes + 1, 1000 * n, 4);
		device_has(ways[n % array_len(ways)], AT_SECOND, bytes, sizeof bytes);
		call_kick_call();
		assert_int_equal(r.cpu->arch.gpr[GPR_RBP], 50 * 48);
		assert_int_equal(r.cpu->arch.gpr[GPR_R12], 50 * (48 + 1000 * n));
	}
}

/* Its instruction that lies in both pages: MOV EAX, imm32, with two bytes of the operand in the second. */
static void only_the_second_page_of_an_instruction_in_two(void **state)
{
	u8 bytes[2];
	for (unsigned n = 0; n < ROUNDS; n++) {
		run_over_the_border("90b80100", "0000c3");
		store_le(bytes, n, 2);
		device_has(ways[n % array_len(ways)], AT_SECOND, bytes, sizeof bytes);
		call_kick_call();
		assert_int_equal(r.cpu->arch.gpr[GPR_RBP], 50);
		assert_int_equal((u32)r.cpu->arch.gpr[GPR_R12], 50 * (1 + (n << 16)));
	}
}

/* One request whose buffer lies over both pages and begins in the middle of the first. */
static void the_end_of_one_page_and_the_start_of_the_next(void **state)
{
	u8 bytes[20];
	for (unsigned n = 0; n < ROUNDS; n++) {
		run_over_the_border(NULL, "c3");
		memset(bytes, 0x90, sizeof bytes);
		memcpy(bytes + 10, "\x05\0\0\0\0\xc3", 6);
		store_le(bytes + 11, n, 4);
		device_has(ways[n % array_len(ways)], AT_SECOND - 10, bytes, sizeof bytes);
		call_kick_call();
		assert_int_equal(r.cpu->arch.gpr[GPR_RBP], 50 * 48);
		assert_int_equal(r.cpu->arch.gpr[GPR_R12], 50 * (43 + n));
	}
}

/* The request covers what follows the instruction that rings the bell, and that has run already. */
static void the_code_that_started_the_request(void **state)
{
	for (unsigned n = 0; n < ROUNDS; n++) {
		u8 bytes[] = { 0x31, 0xc0, 0x0f, 0xa2, 0xb8, 0, 0, 0, 0, 0xf4 }; /* xor eax, eax; cpuid; mov eax, n; hlt */
		interp_put(&r, AT_CODE, "b964000000 ffc9 75fc e680 31c0 0fa2 b8ffffffff f4"); /* mov ecx, 100; dec ecx; jnz; out 80h, al; the same */
		device.write = NULL;
		interp_go(&r, AT_CODE);
		assert_int_equal(r.cpu->arch.gpr[GPR_RAX], 0xffffffff);
		store_le(bytes + 5, n, 4);
		device_has(ways[n % array_len(ways)], AT_CODE + 11, bytes, sizeof bytes);
		interp_go(&r, AT_CODE);
		assert_int_equal(r.cpu->arch.gpr[GPR_RAX], n);
	}
}

int main(void)
{
	jit_slice = 100; /* loops become regions soon */
	jit_samples = 1;
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_page_that_is_hot, open_it, close_it),
		cmocka_unit_test_setup_teardown(only_the_second_page_of_code_in_two, open_it, close_it),
		cmocka_unit_test_setup_teardown(only_the_second_page_of_an_instruction_in_two, open_it, close_it),
		cmocka_unit_test_setup_teardown(the_end_of_one_page_and_the_start_of_the_next, open_it, close_it),
		cmocka_unit_test_setup_teardown(the_code_that_started_the_request, open_it, close_it),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
