"""System-call filters (seccomp), written by hand as BPF programs.

The *base* filter is an allow-list that is installed once in the fork server and inherited by its children. A call that
is not listed fails with EPERM; a call of a foreign architecture or with an x32 number kills the process. If programs
see the file tree of the host, the list also lacks calls that change files, because Landlock has no rules for modes and
times of files, and old versions of it have none for renaming and truncating. The *child* filter removes from each
program the calls that only the fork server needs. It is short, because the kernel evaluates a filter for every call
number when the filter is attached. The *worker* filter is a deny-list for trusted code on untrusted text.
"""

import ctypes
import errno
import struct
from collections.abc import Sequence

from rewards.sandbox import kernel

# Calls that CPython needs to start, import modules, allocate memory, run threads and print. An allow-list also excludes
# calls that a later kernel adds; besides, it excludes socket, connect, execve, ptrace, mount and io_uring.
_BASE = """
read write readv writev pread64 pwrite64 lseek close close_range fstat newfstatat statx stat lstat fcntl flock
fsync fdatasync truncate ftruncate dup dup2 dup3 pipe pipe2 poll ppoll select pselect6 epoll_create
epoll_create1 epoll_ctl epoll_wait epoll_pwait eventfd2 open openat access faccessat faccessat2 getdents
getdents64 getcwd chdir fchdir rename renameat renameat2 mkdir mkdirat rmdir unlink unlinkat symlinkat symlink
readlink readlinkat chmod fchmod fchmodat umask utimensat statfs fstatfs mmap mprotect munmap brk mremap madvise
getpid getppid gettid getuid geteuid getgid getegid getgroups getpgrp getpgid getsid uname getrlimit prlimit64
getrusage sysinfo times sched_yield sched_getaffinity getcpu getpriority rt_sigaction rt_sigprocmask
rt_sigreturn rt_sigpending rt_sigtimedwait rt_sigsuspend sigaltstack pause alarm setitimer getitimer nanosleep
clock_nanosleep clock_gettime clock_getres gettimeofday time futex set_robust_list get_robust_list
set_tid_address rseq membarrier arch_prctl exit exit_group restart_syscall getrandom tgkill clone socketpair
recvfrom sendto shutdown getsockopt fork vfork wait4 waitid kill pidfd_open pidfd_send_signal sendmsg recvmsg
prctl seccomp setrlimit
"""
_IOCTLS = (0x5401, 0x5451, 0x5450, 0x5421, 0x541B, 0x5413)
"""TCGETS, FIOCLEX, FIONCLEX, FIONBIO, FIONREAD, TIOCGWINSZ, which Python uses when it opens a file; not TIOCSTI."""
# The fork server forks, sends signals and passes descriptors on; programs must not.
_NOT_FOR_CHILDREN = """
fork vfork wait4 waitid kill tgkill pidfd_open pidfd_send_signal sendmsg recvmsg prctl seccomp setrlimit
"""
_CHANGES_FILES = """
chmod fchmod fchmodat utimensat truncate rename renameat renameat2 mkdir mkdirat rmdir unlink unlinkat symlink symlinkat
"""
_OPENS_FILES = """
open openat getdents getdents64 access faccessat faccessat2 readlink readlinkat stat lstat statfs
"""
"""Calls that fail with ENOENT in the strict mode, as if there were no files."""
_FCNTL = (0, 1, 2, 3, 4, 5, 6, 7, 1030)
"""Copies, flags and locks of descriptors; not F_SETOWN, F_SETSIG, F_NOTIFY, F_SETLEASE, which can send signals."""
_O_ASYNC, _F_SETFL, _RLIMIT_STACK = 0x2000, 4, 3
_NOT_FOR_WORKERS = """
fork vfork kill pidfd_open pidfd_send_signal sendmsg prctl seccomp socket connect execve execveat ptrace bpf
"""

# Classic BPF (linux/bpf_common.h): load a word, jump if equal, if at least, if any bit is set; return.
_LOAD, _EQUAL, _GREATER_EQUAL, _SET_BITS, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_KILL, _ERRNO, _ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
# Offsets in ``struct seccomp_data``; the arguments follow from 16 on, eight bytes each.
_NUMBER, _ARCH = 0, 4
# Code, jump if true, jump if false (both relative to the next instruction), operand.
_INSTRUCTION = struct.Struct("<HBBI")


def _argument(index: int) -> int:
    """Offset of the low 32 bits of a 64-bit argument; both architectures are little-endian."""
    return 16 + 8 * index


def _deny(code: int = errno.EPERM) -> tuple[int, int, int, int]:
    return (_RETURN, 0, 0, _ERRNO | code)


_PASS = (_RETURN, 0, 0, _ALLOW)
_Program = list[tuple[int, int, int, int]]


def _prologue() -> _Program:
    return [
        # The architecture is checked first, since a number means another call on another one (int 0x80 on x86_64).
        (_LOAD, 0, 0, _ARCH),
        (_EQUAL, 1, 0, kernel.AUDIT_ARCH[kernel.machine()]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        (_GREATER_EQUAL, 0, 1, 0x40000000),  # the x32 numbers, by which every call can be made too
        (_RETURN, 0, 0, _KILL),
    ]


def _refuse(names: str) -> _Program:
    table = kernel.numbers()
    steps: _Program = []
    for number in (table[name] for name in names.split() if name in table):
        steps += [(_EQUAL, 0, 1, number), _deny()]
    return steps


def _only(name: str, offset: int, values: Sequence[int]) -> _Program:
    """Refuses a call unless the 32 bits at this offset in its arguments have one of these values."""
    steps: _Program = [(_LOAD, 0, 0, offset)]
    # An allowed value jumps over the remaining values and the refusal.
    steps += [(_EQUAL, len(values) - i, 0, value) for i, value in enumerate(values)]
    steps += [_deny(), (_LOAD, 0, 0, _NUMBER)]
    # Other calls jump over all these steps. The call number is loaded again, since the following steps expect it.
    return [(_EQUAL, 0, len(steps), kernel.numbers()[name]), *steps]


def base_filter(open_files: bool = True, change_files: bool = True) -> bytes:
    """The allow-list of the fork server and of all its children.

    Args:
        open_files: Whether files can be opened; ``False`` in the strict mode, for machines without Landlock and
            namespaces.
        change_files: Whether files can be changed; ``False`` if programs see the file tree of the host.
    """
    table = kernel.numbers()
    refused = set(("" if open_files else _OPENS_FILES).split() + ("" if change_files else _CHANGES_FILES).split())
    steps = _prologue()
    # fcntl could make the kernel send signals to another process, and sendto could send a datagram to any address.
    steps += _only("fcntl", _argument(1), _FCNTL)
    # F_SETFL is needed for O_NONBLOCK, but with O_ASYNC the kernel would send a signal when data arrive.
    steps += [(_EQUAL, 0, 6, table["fcntl"]), (_LOAD, 0, 0, _argument(1)), (_EQUAL, 0, 3, _F_SETFL)]
    steps += [(_LOAD, 0, 0, _argument(2)), (_SET_BITS, 0, 1, _O_ASYNC), _deny(), (_LOAD, 0, 0, _NUMBER)]
    # The address is a pointer of 64 bits. A filter compares 32 bits at a time, so both halves must be 0.
    steps += _only("sendto", _argument(4), (0,)) + _only("sendto", _argument(4) + 4, (0,))
    for number in (table[name] for name in _BASE.split() if name in table and name not in refused):
        steps += [(_EQUAL, 0, 1, number), _PASS]
    # ENOENT, as if no file existed, because the import system and libraries handle that error.
    for number in (table[name] for name in _OPENS_FILES.split() if name in table and name in refused):
        steps += [(_EQUAL, 0, 1, number), _deny(errno.ENOENT)]
    # The arguments of clone3 are in memory, which a filter cannot read. ENOSYS makes libc use clone instead.
    steps += [(_EQUAL, 0, 1, table["clone3"]), _deny(errno.ENOSYS)]
    steps += [*_only("ioctl", _argument(1), _IOCTLS), (_EQUAL, 0, 1, table["ioctl"]), _PASS]
    return _assemble([*steps, _deny()])


def child_filter() -> bytes:
    """Forbids a program to create processes, signal others, change limits and pass descriptors over sockets."""
    table = kernel.numbers()
    steps = _prologue() + _refuse(_NOT_FOR_CHILDREN)
    # Threads are allowed, processes are not.
    steps += [(_EQUAL, 0, 3, table["clone"]), (_LOAD, 0, 0, _argument(0))]
    steps += [(_SET_BITS, 1, 0, kernel.CLONE_THREAD), _deny(), (_LOAD, 0, 0, _NUMBER)]
    # Reading limits is allowed: argument 2 is the pointer to new limits and must be 0. Setting the stack limit, which
    # many programs do by habit, reports success without any effect.
    for half in (_argument(2), _argument(2) + 4):
        steps += [(_EQUAL, 0, 6, table["prlimit64"]), (_LOAD, 0, 0, half), (_EQUAL, 4, 0, 0)]
        steps += [(_LOAD, 0, 0, _argument(1)), (_EQUAL, 0, 1, _RLIMIT_STACK), _deny(0), _deny()]
        steps += [(_LOAD, 0, 0, _NUMBER)]
    return _assemble([*steps, _PASS])


def worker_filter() -> bytes:
    """Forbids network and new processes, for workers that run trusted code (sympy) on untrusted text."""
    steps = _prologue() + _refuse(_NOT_FOR_WORKERS)
    return _assemble([*steps, _PASS])


def _assemble(steps: _Program) -> bytes:
    return b"".join(_INSTRUCTION.pack(*step) for step in steps)


class _SockFprog(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


class Installer:
    """A filter that is built before a fork, so that attaching it in a child causes few page faults."""

    def __init__(self, program: bytes) -> None:
        self._buffer = ctypes.create_string_buffer(program, len(program))
        self._program = _SockFprog(len(program) // _INSTRUCTION.size, ctypes.addressof(self._buffer))
        self._attach = kernel.prepared("seccomp", 1, 0, self._program)

    def install(self) -> None:
        """Attaches the filter to this thread and all that it starts; needs ``no_new_privs``. Raises ``OSError``."""
        self._attach()


def install(program: bytes) -> None:
    """Builds and attaches a filter; see :class:`Installer`."""
    Installer(program).install()
