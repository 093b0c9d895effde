"""Two system-call filters, written as BPF by hand.

The *base* filter is an allow-list, installed once in the fork server and inherited: what is not listed fails with
EPERM, a foreign architecture or the x32 numbers kill the process. It is shorter where the file tree is the host's:
Landlock has no rule for modes and times of files, and its old versions have none for renaming and truncating. The
*child* filter is short, because the kernel evaluates a filter for every call number when it is attached: it takes away
from each program what only the fork server needs.
"""

import ctypes
import errno
import struct
from collections.abc import Sequence

from rewards.sandbox import kernel

# What CPython needs to start, import, allocate, thread and print. Not here: socket, connect, execve, ptrace, mount,
# io_uring and whatever a later kernel adds, which is why this is a list of what is allowed.
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
"""TCGETS, FIOCLEX, FIONCLEX, FIONBIO, FIONREAD, TIOCGWINSZ: what opening a file asks. Not TIOCSTI."""
# The fork server forks, signals and passes descriptors on; a program does none of it.
_NOT_FOR_CHILDREN = """
fork vfork wait4 waitid kill tgkill pidfd_open pidfd_send_signal sendmsg recvmsg prctl seccomp setrlimit
"""
_CHANGES_FILES = """
chmod fchmod fchmodat utimensat truncate rename renameat renameat2 mkdir mkdirat rmdir unlink unlinkat symlink symlinkat
"""
_OPENS_FILES = """
open openat getdents getdents64 access faccessat faccessat2 readlink readlinkat stat lstat statfs
"""
"""What finds nothing in the strict mode: as if there were no files."""
_FCNTL = (0, 1, 2, 3, 4, 5, 6, 7, 1030)
"""Copies, flags and locks of descriptors. Not F_SETOWN, F_SETSIG, F_NOTIFY, F_SETLEASE: those signal others."""
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
    """Offset of the low half of a 64-bit argument (both architectures are little-endian)."""
    return 16 + 8 * index


def _deny(code: int = errno.EPERM) -> tuple[int, int, int, int]:
    return (_RETURN, 0, 0, _ERRNO | code)


_PASS = (_RETURN, 0, 0, _ALLOW)
_Program = list[tuple[int, int, int, int]]


def _prologue() -> _Program:
    return [
        # The same number is another call on another architecture (int 0x80 on x86_64), so that comes first.
        (_LOAD, 0, 0, _ARCH),
        (_EQUAL, 1, 0, kernel.AUDIT_ARCH[kernel.machine()]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        (_GREATER_EQUAL, 0, 1, 0x40000000),  # the x32 numbers: a second door to every call
        (_RETURN, 0, 0, _KILL),
    ]


def _refuse(names: str) -> _Program:
    table = kernel.numbers()
    steps: _Program = []
    for number in (table[name] for name in names.split() if name in table):
        steps += [(_EQUAL, 0, 1, number), _deny()]
    return steps


def _only(name: str, offset: int, values: Sequence[int]) -> _Program:
    """Refuses a call unless 32 bits of its arguments, at this offset, have one of these values."""
    steps: _Program = [(_LOAD, 0, 0, offset)]
    # A value that is allowed jumps over the others and over the refusal.
    steps += [(_EQUAL, len(values) - i, 0, value) for i, value in enumerate(values)]
    steps += [_deny(), (_LOAD, 0, 0, _NUMBER)]
    # Other calls jump over all of it. The number is loaded again, since those behind expect it.
    return [(_EQUAL, 0, len(steps), kernel.numbers()[name]), *steps]


def base_filter(open_files: bool = True, change_files: bool = True) -> bytes:
    """The allow-list of the fork server and all that it forks.

    Args:
        open_files: ``False`` is the strict mode, for machines without Landlock and namespaces.
        change_files: ``False`` where the file tree is the host's.
    """
    table = kernel.numbers()
    refused = set(("" if open_files else _OPENS_FILES).split() + ("" if change_files else _CHANGES_FILES).split())
    steps = _prologue()
    # A socket may not name another process as the one to signal, nor a datagram an address.
    steps += _only("fcntl", _argument(1), _FCNTL)
    # F_SETFL is needed for O_NONBLOCK; with O_ASYNC the kernel would send a signal when data arrive.
    steps += [(_EQUAL, 0, 6, table["fcntl"]), (_LOAD, 0, 0, _argument(1)), (_EQUAL, 0, 3, _F_SETFL)]
    steps += [(_LOAD, 0, 0, _argument(2)), (_SET_BITS, 0, 1, _O_ASYNC), _deny(), (_LOAD, 0, 0, _NUMBER)]
    # The address is a pointer of 64 bits, and a filter compares 32 at a time: both halves must be 0.
    steps += _only("sendto", _argument(4), (0,)) + _only("sendto", _argument(4) + 4, (0,))
    for number in (table[name] for name in _BASE.split() if name in table and name not in refused):
        steps += [(_EQUAL, 0, 1, number), _PASS]
    # As if no file existed: ENOENT is what the import system and libraries know how to take.
    for number in (table[name] for name in _OPENS_FILES.split() if name in table and name in refused):
        steps += [(_EQUAL, 0, 1, number), _deny(errno.ENOENT)]
    # The arguments of clone3 lie in memory, unreadable here. ENOSYS makes libc fall back to clone.
    steps += [(_EQUAL, 0, 1, table["clone3"]), _deny(errno.ENOSYS)]
    steps += [*_only("ioctl", _argument(1), _IOCTLS), (_EQUAL, 0, 1, table["ioctl"]), _PASS]
    return _assemble([*steps, _deny()])


def child_filter() -> bytes:
    """What each program loses: processes, signals to others, limits, descriptors over sockets."""
    table = kernel.numbers()
    steps = _prologue() + _refuse(_NOT_FOR_CHILDREN)
    # Threads are allowed, processes are not.
    steps += [(_EQUAL, 0, 3, table["clone"]), (_LOAD, 0, 0, _argument(0))]
    steps += [(_SET_BITS, 1, 0, kernel.CLONE_THREAD), _deny(), (_LOAD, 0, 0, _NUMBER)]
    # Limits may be read: 2 is the index of the pointer to new ones. Many programs ask for a larger stack by habit; to
    # them it seems to be done, and Python's own calls need none.
    for half in (_argument(2), _argument(2) + 4):
        steps += [(_EQUAL, 0, 6, table["prlimit64"]), (_LOAD, 0, 0, half), (_EQUAL, 4, 0, 0)]
        steps += [(_LOAD, 0, 0, _argument(1)), (_EQUAL, 0, 1, _RLIMIT_STACK), _deny(0), _deny()]
        steps += [(_LOAD, 0, 0, _NUMBER)]
    return _assemble([*steps, _PASS])


def worker_filter() -> bytes:
    """For a worker of ours that reads hostile text (sympy): no network, no other process, everything else as it was."""
    steps = _prologue() + _refuse(_NOT_FOR_WORKERS)
    return _assemble([*steps, _PASS])


def _assemble(steps: _Program) -> bytes:
    return b"".join(_INSTRUCTION.pack(*step) for step in steps)


class _SockFprog(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


class Installer:
    """A filter ready to be attached: what is made before a fork costs a child no page faults."""

    def __init__(self, program: bytes) -> None:
        self._buffer = ctypes.create_string_buffer(program, len(program))
        self._program = _SockFprog(len(program) // _INSTRUCTION.size, ctypes.addressof(self._buffer))
        self._attach = kernel.prepared("seccomp", 1, 0, self._program)

    def install(self) -> None:
        """Attaches it to this thread and all that it will start; needs ``no_new_privs``. Raises ``OSError``."""
        self._attach()


def install(program: bytes) -> None:
    """Makes and attaches a filter; see :class:`Installer`."""
    Installer(program).install()
