/* A BIOS of 64 KiB for two CPUs, in flat 32-bit code: the second writes a function, the first calls it, 3,000 times over, by the manual's protocol (SDM "Handling
 * Self- and Cross-Modifying Code": write, then set a flag; wait for the flag, execute a serializing instruction, then run it). Says 2Ah to the debug-exit
 * port, or 1 when a call did what an earlier function did. Each function is called forty times, so that engines make it hot. */
	.section .text, "ax"
	.set ROUNDS, 3000
	.set STUB, 0x8000		/* the second CPU's first page */
	.set FUNCTION, 0x20000
	.set FLAG, 0x30000
	.set ACK, 0x30040
	.set HERE, 0xf0000

	.org 0
	.code16
ap_real:				/* copied to STUB */
	cli
	xorw %ax, %ax
	movw %ax, %ds
	lgdtl STUB + (gdtr - ap_real)
	movl %cr0, %eax
	orb $1, %al
	movl %eax, %cr0
	ljmpl $8, $(HERE + ap_main)
gdtr:	.word 0x17
	.long STUB + (gdt - ap_real)
gdt:	.quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
ap_real_end:

start:
	cli
	lgdtl %cs:gdtr_rom
	movl %cr0, %eax
	orb $1, %al
	movl %eax, %cr0
	ljmpl $8, $(HERE + bsp_main)
gdtr_rom: .word 0x17
	.long HERE + gdt

	.code32
bsp_main:
	movw $16, %ax
	movw %ax, %ds
	movw %ax, %es
	movw %ax, %ss
	movl $0x7000, %esp
	movl $(HERE + ap_real), %esi
	movl $STUB, %edi
	movl $(ap_real_end - ap_real), %ecx
	cld
	rep movsb
	movl $0, FLAG
	movl $0, ACK
	movl $0x1ff, 0xfee000f0		/* APIC on */
	movl $0xc4500, 0xfee00300	/* INIT, then SIPI to all but us */
	movl $0xc4608, 0xfee00300
	movl $0xc4608, 0xfee00300
	xorl %ebp, %ebp
next:
	incl %ebp
wait_flag:
	pause
	cmpl %ebp, FLAG
	jne wait_flag
	movl %ebp, %esi
	xorl %eax, %eax
	cpuid				/* serializes */
	movl %esi, %ebp
	movl $40, %edi
	movl $FUNCTION, %ebx
again:
	xorl %eax, %eax
	call *%ebx
	cmpl %ebp, %eax
	jne wrong
	decl %edi
	jnz again
	movl %ebp, ACK
	cmpl $ROUNDS, %ebp
	jb next
	movb $0x2a, %al
	jmp say
wrong:
	movb $1, %al
say:
	outb %al, $0xf4
	hlt
	jmp say

ap_main:
	movw $16, %ax
	movw %ax, %ds
	movw %ax, %ss
	movl $0x6000, %esp
	xorl %ecx, %ecx
write:
	incl %ecx
	movb $0xb8, FUNCTION		/* mov eax, ecx; ret */
	movl %ecx, FUNCTION + 1
	movb $0xc3, FUNCTION + 5
	movl %ecx, FLAG
wait_ack:
	pause
	cmpl %ecx, ACK
	jne wait_ack
	cmpl $ROUNDS, %ecx
	jb write
stop:
	hlt
	jmp stop

	.org 0xfff0
	.code16
	ljmpw $0xf000, $start
	.org 0xffff
	.byte 0
