"""Confines a process (limits, seccomp) before it reads an untrusted file.

`confine` is called by the child itself, once everything it needs is imported and its two files are open. Afterwards it
can read and write these files, use a bounded amount of memory and time, and end. On Linux the kernel holds it to that
(seccomp: no opening of files, no sockets, no processes, no signals to others). Elsewhere the resource limits that the
system has are all there is; what was in force is reported, and the closed list of the reader is the defence that
remains. Standard library alone.
"""

import ctypes
import os
import struct
import sys
from collections.abc import Iterator
from typing import Any

resource: Any  # typed freely: which limits there are differs from system to system
try:
    import resource
except ImportError:  # Windows
    resource = None

SECCOMP, LIMITS = "seccomp", "limits"

# Machine -> how the kernel calls it (linux/audit.h), and the numbers of the calls that reading, writing and memory
# take: read write close lseek mmap mprotect munmap mremap brk madvise futex sched_yield clock_gettime getrandom
# rt_sigreturn restart_syscall exit exit_group.
_CALLS = {
    "x86_64": (0xC000003E, (0, 1, 3, 8, 9, 10, 11, 25, 12, 28, 202, 24, 228, 318, 15, 219, 60, 231)),
    "aarch64": (0xC00000B7, (63, 64, 57, 62, 222, 226, 215, 216, 214, 233, 98, 124, 113, 278, 139, 128, 93, 94)),
}


def confine(*, memory: int, cpu_seconds: int, file_nbytes: int) -> tuple[str, ...]:
    """Gives away what this process does not need, for good -> what is in force, of LIMITS and SECCOMP.

    memory: bytes of address space; file_nbytes: how long a file it may write.
    """
    applied = []
    if _limit(memory=memory, cpu_seconds=cpu_seconds, file_nbytes=file_nbytes):
        applied.append(LIMITS)
    if sys.platform == "linux" and _filter_calls():
        applied.append(SECCOMP)
    return tuple(applied)


def _limit(*, memory: int, cpu_seconds: int, file_nbytes: int) -> bool:
    if resource is None:
        return False
    limits = {
        "RLIMIT_AS": memory,
        "RLIMIT_CPU": cpu_seconds,
        "RLIMIT_FSIZE": file_nbytes,
        "RLIMIT_CORE": 0,
        "RLIMIT_NOFILE": 0,  # the open files stay open, no further one can be
        "RLIMIT_NPROC": 0,  # does not hold root; seccomp does
    }
    done = []
    for name, value in limits.items():
        try:
            kind = getattr(resource, name)
            _, hard = resource.getrlimit(kind)
            if hard != resource.RLIM_INFINITY:
                value = min(value, hard)
            resource.setrlimit(kind, (value, value))
        except (AttributeError, ValueError, OSError):  # macOS knows not all of them
            continue
        done.append(name)
    return {"RLIMIT_CPU", "RLIMIT_FSIZE", "RLIMIT_NOFILE"} <= set(done)


def _filter_calls() -> bool:
    """Leaves the kernel calls of _CALLS, every other one fails with EPERM. False where the kernel cannot do that."""
    machine = os.uname().machine
    if machine not in _CALLS or struct.calcsize("P") != 8:
        return False
    arch, allowed = _CALLS[machine]
    program = b"".join(_program(arch, allowed))
    buffer = ctypes.create_string_buffer(program, len(program))
    head = struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    zero = ctypes.c_ulong(0)
    if libc.prctl(38, ctypes.c_ulong(1), zero, zero, zero):  # PR_SET_NO_NEW_PRIVS, without which no filter is taken
        return False
    libc.prctl(4, zero, zero, zero, zero)  # PR_SET_DUMPABLE: no core, nobody attaches
    return not libc.prctl(22, ctypes.c_ulong(2), ctypes.c_char_p(head), zero, zero)  # PR_SET_SECCOMP, a filter


def _program(arch: int, allowed: tuple[int, ...]) -> Iterator[bytes]:
    """Classic BPF over struct seccomp_data: the number of the call at offset 0, the machine at 4."""

    def step(code: int, yes: int, no: int, value: int) -> bytes:
        return struct.pack("HBBI", code, yes, no, value)

    load, equals, answer = 0x20, 0x15, 0x06
    yield step(load, 0, 0, 4)
    yield step(equals, 1, 0, arch)
    yield step(answer, 0, 0, 0x80000000)  # another machine's numbering: kill the process
    yield step(load, 0, 0, 0)
    for index, number in enumerate(allowed):
        yield step(equals, len(allowed) - index, 0, number)
    yield step(answer, 0, 0, 0x00050001)  # fail with EPERM
    yield step(answer, 0, 0, 0x7FFF0000)  # allow
