"""A kernel of a few dozen bytes, so that tests of the command need no guest images: an ELF file with a PVH note (Xen "x86/HVM direct boot ABI").

It says a line on the serial port, then does one of:
  wait     polls its power button, and switches the machine off when it is pressed
  deaf     does nothing for ever
  off      switches the machine off at once
  die      triple fault
  count    like wait, and sends a dot for about each 2^20 turns
  nest     after one VM entry that fails runs a guest of its own until the button is pressed (tinynest.s; needs as, ld and objcopy)
"""
import os
import struct
import subprocess
import sys
import tempfile

ENTRY = 0x100000
SERIAL, PM1_STS, PM1_CNT = 0x3f8, 0x600, 0x604
OFF = bytes.fromhex("66ba0406" "66b80020" "66ef" "f4")   # mov dx,604h; mov ax,SLP_EN with type 0 (S5 in the DSDT); out dx,ax; hlt
PRESSED = b"\x66\xba" + struct.pack("<H", PM1_STS) + bytes.fromhex("66ed" "f6c401")  # mov dx,600h; in ax,dx; test ah,1


def say(text):
    code = b"\x66\xba" + struct.pack("<H", SERIAL)       # mov dx,3f8h
    for byte in text.encode():
        code += bytes([0xb0, byte, 0xee])                # mov al,byte; out dx,al
    return code


def until_pressed(body):
    """body again and again until the power button is pressed, then off."""
    test = PRESSED + b"\x75\x05"                         # jnz over the jmp
    return body + test + b"\xe9" + struct.pack("<i", -(len(body) + len(test) + 5)) + OFF


SPIN = b"\xb9\x00\x00\x10\x00" + b"\x49\x75\xfd"         # mov ecx,100000h; dec ecx; jnz
DIE = bytes.fromhex("0f011d000f0000" "cc")               # lidt [0f00h], where zeros are; int3


def kernel(what, text="hello from the guest\n"):
    if what == "nest":
        return elf(say(text) + assembled("tinynest.s", ENTRY + len(say(text))))
    code = say(text) + {"wait": until_pressed(b"\xf3\x90"), "deaf": b"\xfa\xf4\xeb\xfd", "off": OFF, "die": DIE,
                        "count": until_pressed(SPIN + say("."))}[what]
    return elf(code)


def assembled(name, at):
    """The bytes of a file beside this one, for that address."""
    with tempfile.TemporaryDirectory() as folder:
        source, out = os.path.join(os.path.dirname(os.path.abspath(__file__)), name), folder + "/out"
        subprocess.run(["as", "--32", "-o", out + ".o", source], check=True)
        subprocess.run(["ld", "-m", "elf_i386", f"-Ttext={at:#x}", "-o", out, out + ".o"], check=True)
        subprocess.run(["objcopy", "-O", "binary", "-j", ".text", out, out + ".bin"], check=True)
        with open(out + ".bin", "rb") as f:
            return f.read()


def elf(code):
    """A PVH kernel of this 32-bit code, at ENTRY."""
    note = struct.pack("<III4sI", 4, 4, 18, b"Xen\0", ENTRY)   # XEN_ELFNOTE_PHYS32_ENTRY
    head = 52 + 2 * 32
    out = b"\x7fELF" + bytes([1, 1, 1]) + bytes(9)
    out += struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, ENTRY, 52, 0, 0, 52, 32, 2, 0, 0, 0)
    out += struct.pack("<IIIIIIII", 1, head + len(note), ENTRY, ENTRY, len(code), len(code), 5, 4)
    out += struct.pack("<IIIIIIII", 4, head, 0, 0, len(note), len(note), 4, 4)
    return out + note + code


if __name__ == "__main__":
    with open(sys.argv[2], "wb") as f:
        f.write(kernel(sys.argv[1]))
