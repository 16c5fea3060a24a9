# A guest that runs a guest, in 32-bit code: one VM entry that fails (RFLAGS bit 1 is 0), then a guest under EPT that executes CPUID again and again. SDM "Managing VMCS
# Regions and Pointers", "Guest-State Area". Switches the machine off when the power button is pressed. tinykernel.py assembles it.
	.set VMXON, 0x202000
	.set VMCS, 0x203000
	.set STACK, 0x208000
	.macro put field, value
	movl $\value, %eax
	movl $\field, %edx
	vmwrite %eax, %edx
	.endm
	# A control: the bits that must be 1, and those wanted.
	.macro control field, msr, want
	movl $\msr, %ecx
	rdmsr
	orl $\want, %eax
	movl $\field, %edx
	vmwrite %eax, %edx
	.endm
	.globl _start
_start:
	movl $STACK, %esp
	movl $0x83, 0x201000            # 4 MiB, one to one
	movl $0x205007, 0x204000        # EPT: two pages of 2 MiB, write-back
	movl $0x206007, 0x205000
	movl $0xb7, 0x206000
	movl $0x2000b7, 0x206008
	movl $0x201000, %eax
	movl %eax, %cr3
	movl %cr4, %eax
	orl $0x2010, %eax               # VMXE, PSE
	movl %eax, %cr4
	movl %cr0, %eax
	orl $0x80000020, %eax           # PG, NE
	movl %eax, %cr0
	movl $0x3a, %ecx                # IA32_FEATURE_CONTROL
	rdmsr
	testl $1, %eax
	jnz 1f
	orl $5, %eax
	wrmsr
1:	movl $0x480, %ecx               # IA32_VMX_BASIC
	rdmsr
	movl %eax, VMXON
	movl %eax, VMCS
	pushl $0
	pushl $VMXON
	vmxon (%esp)
	movl $VMCS, (%esp)
	vmclear (%esp)
	vmptrld (%esp)
	control 0x4000, 0x481, 0
	control 0x4002, 0x482, 0x80000000
	control 0x401e, 0x48b, 0x82     # EPT, unrestricted guest
	control 0x400c, 0x483, 0
	control 0x4012, 0x484, 0
	put 0x2800, -1
	put 0x2801, -1
	put 0x201a, 0x20401e
	.irp n, 0, 2, 4, 6, 8, 10
	put 0x800 + \n, 0x10
	put 0xc00 + \n, 0x10
	put 0x4800 + \n, -1
	put 0x4814 + \n, 0xc093
	.endr
	put 0x802, 8
	put 0xc02, 8
	put 0x4816, 0xc09b
	put 0x80e, 0x18
	put 0xc0c, 0x18
	put 0x4820, 0x10000             # LDTR: unusable
	put 0x480e, 0x67
	put 0x4822, 0x8b
	put 0x6800, 0x31
	put 0x6804, 0x2000
	put 0x681a, 0x400
	put 0x681e, guest
	movl $0x6c00, %edx
	movl %cr0, %eax
	vmwrite %eax, %edx
	movl $0x6c02, %edx
	movl %cr3, %eax
	vmwrite %eax, %edx
	movl $0x6c04, %edx
	movl %cr4, %eax
	vmwrite %eax, %edx
	put 0x6c14, STACK
	put 0x6c16, failed
	vmlaunch                        # RFLAGS is 0
	hlt
failed:
	put 0x6820, 2
	put 0x6c16, left
	vmlaunch
	hlt
left:
	movw $0x600, %dx                # the power button
	inw %dx, %ax
	testb $1, %ah
	jnz off
	movl $0x681e, %edx
	vmread %edx, %eax
	addl $2, %eax                   # past CPUID
	vmwrite %eax, %edx
	vmresume
	hlt
off:
	movw $0x604, %dx
	movw $0x2000, %ax
	outw %ax, %dx
	hlt
guest:
	movl $0x1000, %ecx
2:	decl %ecx
	jnz 2b
	cpuid
	jmp guest
