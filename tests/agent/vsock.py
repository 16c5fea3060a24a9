#!/usr/bin/env python3
"""--vsock: connections in both directions between programs of the host and of a guest (this very script, under nestbox kvm).

usage: vsock.py NESTBOX      Exit status: 0 passed, 1 failed, 77 skipped (no guest images; make them with tools/guest-images).
"""
import hashlib
import os
import socket
import subprocess
import sys
import tempfile
import threading

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CACHE = os.path.abspath(os.environ.get("NESTBOX_CACHE", os.path.join(ROOT, ".cache")))
BLOB = bytes(i * i % 251 for i in range(1 << 20))
failures = 0


def check(sentence, ok, detail=""):
    global failures
    print(f"{'ok  ' if ok else 'FAIL'} {sentence}{'' if ok else ': ' + str(detail)[-1000:]}", flush=True)
    failures += not ok


def read_all(s):
    data = b""
    while piece := s.recv(65536):
        data += piece
    return data


def guest():
    """In the guest: calls the host, and is called."""
    s = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    s.connect((2, 1234))
    s.sendall(BLOB)
    s.shutdown(socket.SHUT_WR)
    print("answer", hashlib.md5(read_all(s)).hexdigest(), flush=True)
    s.close()
    s = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    try:
        s.connect((2, 4321))
        print("connected to nobody", flush=True)
    except OSError:
        print("refused", flush=True)
    s = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    s.bind((socket.VMADDR_CID_ANY, 5000))
    s.listen()
    print("listening", flush=True)
    c, peer = s.accept()
    data = read_all(c)
    print("called by", peer[0], hashlib.md5(data).hexdigest(), flush=True)
    c.sendall(data[::-1])
    c.close()


def main():
    if sys.argv[1] == "guest":
        return guest()
    nestbox = os.path.abspath(sys.argv[1])
    if not os.path.exists(f"{CACHE}/images/kvm.cpio"):
        print(f"skipped: no {CACHE}/images/kvm.cpio; run tools/guest-images")
        return 77
    with tempfile.TemporaryDirectory(prefix="nestbox-vsock-") as work:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(f"{work}/v_1234")
        listener.listen()
        got = []

        def serve():
            c, _ = listener.accept()
            got.append(read_all(c))
            c.sendall(BLOB[:5000])
            c.close()

        threading.Thread(target=serve, daemon=True).start()
        vm = subprocess.Popen([nestbox, "--state", f"{work}/state", "kvm", "--engine", os.environ.get("NESTBOX_TEST_ENGINE", "jit"), "--vsock", f"5,path={work}/v", "--", "python3", os.path.abspath(__file__), "guest"],
                              env=dict(os.environ, NESTBOX_CACHE=CACHE), cwd=work, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        timer = threading.Timer(200, vm.kill)
        timer.start()
        lines = []
        for raw in vm.stdout:
            lines.append(raw.decode().strip())
            print("guest:", lines[-1], flush=True)
            if lines[-1] == "listening":
                answer = call(f"{work}/v")
        vm.wait()
        timer.cancel()
        md5 = hashlib.md5(BLOB).hexdigest()
        check("what the guest sent has arrived", got and got[0] == BLOB, len(got[0]) if got else got)
        check("and the answer, after the guest had closed its side", f"answer {hashlib.md5(BLOB[:5000]).hexdigest()}" in lines, lines)
        check("a port where nobody listens refuses", "refused" in lines, lines)
        check("the host's program reaches a port of the guest", f"called by 2 {md5}" in lines and answer == BLOB[::-1], (lines, len(answer) if "listening" in lines else 0))
        check("the guest ends well", vm.returncode == 0, vm.returncode)
    return 1 if failures else 0


def call(path):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(60)
    s.connect(path)
    s.sendall(b"CONNECT 5000\n")
    line = b""
    while not line.endswith(b"\n"):
        line += s.recv(1)
    check("the host is told its port", line.startswith(b"OK "), line)
    sender = threading.Thread(target=lambda: (s.sendall(BLOB), s.shutdown(socket.SHUT_WR)))
    sender.start()
    data = read_all(s)
    sender.join()
    return data


sys.exit(main())
