#!/usr/bin/env python3
"""The guest's x87 registers and MXCSR live in the host's while a vCPU runs (src/interp/vec.h), so code that vCPU threads run must use neither.
Disassembles the archives given and fails on any x87, MMX or floating-point SSE instruction outside the files that are allowed to."""
import os
import re
import subprocess
import sys

ALLOWED = {'x87.c.o', 'x87_env.c.o', 'vec.c.o', 'vec_misc.c.o', 'vec_stub.c.o', 'stats.c.o'}  # stats.c runs after the vCPUs have ended
X87 = re.compile(r'^(f(?!xsave|xrstor)[a-z0-9]+|emms|wait)$')
FLOAT = re.compile(r'^v?(add|sub|mul|div|sqrt|min|max|cvt|cvtt|comi|ucomi|round|cmp|hadd|hsub|rcp|rsqrt|f?n?m(add|sub)\d*)[a-z0-9]*(ss|sd|ps|pd|2si|si2ss|si2sd|dq)$')
MAIN_THREAD = {'libnb_cli.a', 'libnb_ctl.a'}  # commands, and verbs of the control socket: never on a vCPU thread
STRING = {'cmpsd', 'cmpsl'}


def check(archive):
    text = subprocess.run(['objdump', '-d', '--no-show-raw-insn', archive], capture_output=True, text=True, check=True).stdout
    member = function = ''
    bad = []
    for line in text.splitlines():
        if m := re.match(r'(\S+\.o):\s+file format', line):
            member = os.path.basename(m.group(1))
        elif m := re.match(r'[0-9a-f]+ <(.*)>:', line):
            function = m.group(1)
        elif m := re.match(r'\s+[0-9a-f]+:\t(\S+)\s*(.*)', line):
            name, operands = m.groups()
            if member in ALLOWED:
                continue
            if X87.match(name) or '%mm' in operands or (FLOAT.match(name) and name not in STRING and '%xmm' in operands):
                bad.append(f'{os.path.basename(archive)}: {member}: {function}: {name} {operands}')
    return bad


bad = [line for archive in sys.argv[1:] if os.path.basename(archive) not in MAIN_THREAD for line in check(archive)]
print('\n'.join(bad))
sys.exit(1 if bad else 0)
