#!/usr/bin/env python3
"""Runs a command under a seccomp filter, as an outer container would: outer_filter.py KIND COMMAND…

plain           a filter that allows everything
listener        one with a user notification listener, held by a process that lives as long as the command
no-listener     seccomp(2) with SECCOMP_FILTER_FLAG_NEW_LISTENER is EPERM
no-ptrace       ptrace(2) is EPERM, as with yama's ptrace_scope 3
no-memory       process_vm_readv(2) and its twin are EPERM, as with yama's ptrace_scope 2 for who has no CAP_SYS_PTRACE
kvm-lacks-N     KVM_CHECK_EXTENSION answers 0 for capability N
"""
import ctypes
import os
import signal
import struct
import sys

ALLOW, ERRNO, NOTIFY = 0x7FFF0000, 0x00050000, 0x7FC00000
EPERM = 1
NR, ARGS = 0, 16
PTRACE, IOCTL, READV, WRITEV, SECCOMP = 101, 16, 310, 311, 317
KVM_CHECK_EXTENSION = 0xAE03
NEW_LISTENER = 8
libc = ctypes.CDLL(None, use_errno=True)


def load(at):
    return (0x20, 0, 0, at)


def unless(value, skip):
    """Goes on if it is equal, else skips."""
    return (0x15, 0, skip, value)


def ret(what):
    return (0x06, 0, 0, what)


def filter_of(kind):
    if kind == "plain":
        return [ret(ALLOW)]
    if kind == "listener":
        return [load(NR), unless(1000, 1), ret(NOTIFY), ret(ALLOW)]
    if kind == "no-listener":
        and_flag = (0x54, 0, 0, NEW_LISTENER)
        return [load(NR), unless(SECCOMP, 4), load(ARGS + 8), and_flag, unless(NEW_LISTENER, 1), ret(ERRNO | EPERM), ret(ALLOW)]
    if kind == "no-ptrace":
        return [load(NR), unless(PTRACE, 1), ret(ERRNO | EPERM), ret(ALLOW)]
    if kind == "no-memory":
        return [load(NR), unless(READV, 1), ret(ERRNO | EPERM), unless(WRITEV, 1), ret(ERRNO | EPERM), ret(ALLOW)]
    if kind.startswith("kvm-lacks-"):
        lacks = int(kind.removeprefix("kvm-lacks-"))
        return [
            load(NR), unless(IOCTL, 5), load(ARGS + 8), unless(KVM_CHECK_EXTENSION, 3), load(ARGS + 16), unless(lacks, 1),
            ret(ERRNO), ret(ALLOW),
        ]
    sys.exit(f"{kind}: no such filter")


class Program(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


kind, command = sys.argv[1], sys.argv[2:]
code = b"".join(struct.pack("HBBI", *op) for op in filter_of(kind))
text = ctypes.create_string_buffer(code, len(code))
program = Program(len(code) // 8, ctypes.addressof(text))
libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
flags = NEW_LISTENER if kind == "listener" else 0
fd = libc.syscall(SECCOMP, 1, flags, ctypes.byref(program))
if fd < 0:
    sys.exit(f"seccomp: {os.strerror(ctypes.get_errno())}")
if kind == "listener" and os.fork() == 0:
    libc.prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
    while True:
        signal.pause()
os.execvp(command[0], command)
