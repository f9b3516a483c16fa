"""Hold each system call of a program until it is decided what becomes of it: seccomp_unotify(2).

A filter of two lines hands every call to us, of the program and of all that it starts; it may then
go on, be answered with an error instead, or be the moment at which its process is killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import select
import socket
import struct
from errno import ENOENT

_libc = ctypes.CDLL(None, use_errno=True)
_seccomp_names = ctypes.CDLL("libseccomp.so.2")
_seccomp_names.seccomp_syscall_resolve_num_arch.restype = ctypes.c_void_p
_NATIVE = 0  # SCMP_ARCH_NATIVE

# linux/prctl.h, linux/seccomp.h, linux/bpf_common.h
_PR_SET_NO_NEW_PRIVS = 38
_SET_MODE_FILTER = 1
_NEW_LISTENER = 1 << 3
_WAIT_KILLABLE = 1 << 5
_RET_USER_NOTIF = 0x7FC00000
_RET_ALLOW = 0x7FFF0000
_LOAD_WORD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06
_RECEIVE, _SEND, _SET_FLAGS = 0xC0502100, 0xC0182101, 0x40082104
_SYNC_WAKE_UP = 1
_CONTINUE = 1
# struct seccomp_notif and struct seccomp_notif_resp
_CALL = struct.Struct("=QIIiIQ6Q")
_ANSWER = struct.Struct("=QqiI")


def number_of(name):
    """Return the number of a system call."""
    return _seccomp_names.seccomp_syscall_resolve_name(name.encode())


def name_of(number):
    """Return the name of a system call."""
    text = _seccomp_names.seccomp_syscall_resolve_num_arch(_NATIVE, number)
    if text is None:
        return str(number)
    name = ctypes.string_at(text).decode()
    _libc.free(ctypes.c_void_p(text))
    return name


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_ushort),
        ("if_true", ctypes.c_ubyte),
        ("if_false", ctypes.c_ubyte),
        ("k", ctypes.c_uint),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.POINTER(_Instruction)))


# All calls but the one by which the listener is handed over.
_INSTRUCTIONS = (_Instruction * 4)(
    _Instruction(_LOAD_WORD, 0, 0, 0),
    _Instruction(_JUMP_EQUAL, 0, 1, number_of("sendmsg")),
    _Instruction(_RETURN, 0, 0, _RET_ALLOW),
    _Instruction(_RETURN, 0, 0, _RET_USER_NOTIF),
)
_PROGRAM = _Program(len(_INSTRUCTIONS), _INSTRUCTIONS)


def _checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def start(argv, *, standard):
    """Start the program *argv* with *standard* as its 0, 1 and 2; return its pid and a Listener."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        pid = os.fork()
        if pid == 0:
            try:
                for number, fd in enumerate(standard):
                    os.dup2(fd, number)
                _checked(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
                flags = _NEW_LISTENER | _WAIT_KILLABLE
                program = ctypes.byref(_PROGRAM)
                fd = _checked(_libc.syscall(number_of("seccomp"), _SET_MODE_FILTER, flags, program))
                socket.send_fds(theirs, [b"x"], [fd])
                os.execv(argv[0], argv)
            finally:
                os._exit(127)
        theirs.close()
        _, fds, _, _ = socket.recv_fds(ours, 1, 1)
        return pid, Listener(*fds)


class Call:
    """A system call that waits for our answer."""

    __slots__ = ("arguments", "id", "number", "pid")

    def __init__(self, data):
        self.id, self.pid, _, self.number, _, _, *self.arguments = _CALL.unpack(data)

    def written(self):
        """Return what a write(2) is about to write."""
        _, address, size, *_ = self.arguments
        with open(f"/proc/{self.pid}/mem", "rb", buffering=0) as memory:
            return os.pread(memory.fileno(), size, address)


class Listener:
    """Where the calls arrive."""

    def __init__(self, fd):
        self.fd = fd
        with contextlib.suppress(OSError):  # before Linux 6.6
            fcntl.ioctl(fd, _SET_FLAGS, _SYNC_WAKE_UP)

    def close(self):
        """Close it; calls that still come fail with ENOSYS."""
        os.close(self.fd)

    def has_call(self, timeout):
        """Tell whether a call arrives, or the last process ends, within *timeout* seconds."""
        return bool(select.select([self.fd], [], [], timeout)[0])

    def receive(self):
        """Return a call that has arrived; None if its process was killed meanwhile."""
        data = bytearray(_CALL.size)
        try:
            fcntl.ioctl(self.fd, _RECEIVE, data)
        except OSError as error:
            if error.errno != ENOENT:
                raise
            return None
        return Call(data)

    def let_pass(self, call):
        """Have the kernel do what was asked."""
        self._answer(call, 0, _CONTINUE)

    def fail(self, call, number):
        """Answer with the error *number*; nothing is done."""
        self._answer(call, -number, 0)

    def _answer(self, call, error, flags):
        try:
            fcntl.ioctl(self.fd, _SEND, bytearray(_ANSWER.pack(call.id, 0, error, flags)))
        except OSError as refusal:
            if refusal.errno != ENOENT:  # killed meanwhile
                raise
