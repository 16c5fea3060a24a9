/* A BIOS of 128 KiB that tests the PAM registers and says 2Ah to the debug-exit port, or the number of the step that failed. Runs from E0000h-FFFFFh,
 * which is what the tests change: its own segment F0000h stays ROM but in steps 1 to 3, which run from the copy below 4 GiB's alias of it. */
	.code16
	.section .text, "ax"
	.org 0
rom_e0:
	movb $7, %al			/* what E000:0000 does while it is ROM */
	lret

	.org 0x10000			/* F000:0000 */
	.byte 0x5a
	.org 0x10100
start:
	cli
	xorw %ax, %ax
	movw %ax, %ss
	movw $0x7000, %sp
	movw $0xf000, %ax
	movw %ax, %ds

	.macro step n
	movb $\n, %bl
	.endm
	.macro want v
	cmpb $\v, %al
	jne fail
	.endm
	/* PAM register at config offset r (90h..96h) of 00:00.0 becomes v. Keeps all but EAX and DX. */
	.macro pam r, v
	movl $(0x80000000 + (\r & 0xfc)), %eax
	movw $0xcf8, %dx
	outl %eax, %dx
	movw $(0xcfc + (\r & 3)), %dx
	movb $\v, %al
	outb %al, %dx
	.endm

	step 1				/* F0000 reads the ROM */
	movb 0, %al
	want 0x5a

	step 2				/* segment C8000, reads and writes on: it is RAM */
	pam 0x92, 0x33
	movw $0xc800, %ax
	movw %ax, %es
	movb $0x11, %es:0x100
	movb %es:0x100, %al
	want 0x11

	step 3				/* reads only: writes are lost */
	pam 0x92, 0x11
	movb $0x22, %es:0x100
	movb %es:0x100, %al
	want 0x11

	step 4				/* off: nobody answers */
	pam 0x92, 0x00
	movb %es:0x100, %al
	want 0xff

	step 5				/* writes only: they reach the RAM, reads do not */
	pam 0x92, 0x22
	movb $0x33, %es:0x100
	movb %es:0x100, %al
	want 0xff
	pam 0x92, 0x33
	movb %es:0x100, %al
	want 0x33

	step 6				/* code in C8000: mov $1, %al; lret */
	movw $0x01b0, %es:0x200
	movb $0xcb, %es:0x202
	lcall $0xc800, $0x200
	want 1
	pam 0x92, 0x11			/* write-protected, it stays as it is */
	movb $2, %es:0x201
	lcall $0xc800, $0x200
	want 1

	step 7				/* and follows when it is not */
	pam 0x92, 0x33
	movb $3, %es:0x201
	lcall $0xc800, $0x200
	want 3

	step 8				/* E0000: the ROM's code, then RAM's at the same address, then the ROM's again */
	lcall $0xe000, $0
	want 7
	pam 0x95, 0x33
	movw $0xe000, %ax
	movw %ax, %es
	movw $0x05b0, %es:0
	movb $0xcb, %es:2
	lcall $0xe000, $0
	want 5
	pam 0x95, 0x00
	lcall $0xe000, $0
	want 7
	pam 0x95, 0x11
	lcall $0xe000, $0
	want 5

	step 9				/* many times, as a hot loop that both engines translate */
	movw $2000, %cx
1:	pam 0x95, 0x00
	lcall $0xe000, $0
	want 7
	pam 0x95, 0x33
	lcall $0xe000, $0
	want 5
	loop 1b

	step 10				/* F0000, where this runs: a copy in RAM goes on where the ROM stopped, and can be changed */
	pam 0x90, 0x20
	movw $0xf000, %ax
	movw %ax, %es
	xorw %si, %si
	xorw %di, %di
	movw $0x8000, %cx
	cld
	rep movsw			/* reads ROM, writes RAM */
	pam 0x90, 0x30
	movb $0xa5, %es:0
	movb 0, %al
	want 0xa5
	pam 0x90, 0x00
	movb 0, %al
	want 0x5a

	movb $0x2a, %bl
fail:
	movb %bl, %al
	movw $0xf4, %dx
	outb %al, %dx
	hlt

	.org 0x1fff0
	ljmp $0xf000, $0x100
	.org 0x1ffff
	.byte 0
