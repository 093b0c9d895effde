"""The few system calls that the standard library does not wrap, made through ctypes.

Call numbers are those of Linux on x86_64 and aarch64 (``asm/unistd_64.h`` and ``asm-generic/unistd.h``). On other
systems this module can be imported, but :func:`supported` returns false.
"""

import ctypes
import os
import sys
from collections.abc import Callable
from functools import lru_cache

# name:x86_64:aarch64, with a dash if the architecture has no such call.
_TABLE = """
read:0:63 write:1:64 readv:19:65 writev:20:66 pread64:17:67 pwrite64:18:68 lseek:8:62 close:3:57
close_range:436:436 fstat:5:80 newfstatat:262:79 statx:332:291 stat:4:- lstat:6:- ioctl:16:29 fcntl:72:25
flock:73:32 fsync:74:82 fdatasync:75:83 truncate:76:45 ftruncate:77:46 dup:32:23 dup2:33:- dup3:292:24 pipe:22:-
pipe2:293:59 poll:7:- ppoll:271:73 select:23:- pselect6:270:72 epoll_create:213:- epoll_create1:291:20
epoll_ctl:233:21 epoll_wait:232:- epoll_pwait:281:22 eventfd2:290:19 open:2:- openat:257:56 access:21:-
faccessat:269:48 faccessat2:439:439 getdents:78:- getdents64:217:61 getcwd:79:17 chdir:80:49 fchdir:81:50
rename:82:- renameat:264:38 renameat2:316:276 mkdir:83:- mkdirat:258:34 rmdir:84:- unlink:87:- unlinkat:263:35
symlinkat:266:36 symlink:88:- readlink:89:- readlinkat:267:78 chmod:90:- fchmod:91:52 fchmodat:268:53
umask:95:166 utimensat:280:88 statfs:137:43 fstatfs:138:44 mmap:9:222 mprotect:10:226 munmap:11:215 brk:12:214
mremap:25:216 madvise:28:233 getpid:39:172 getppid:110:173 gettid:186:178 getuid:102:174 geteuid:107:175
getgid:104:176 getegid:108:177 getgroups:115:158 getpgrp:111:- getpgid:121:155 getsid:124:156 uname:63:160
getrlimit:97:163 prlimit64:302:261 getrusage:98:165 sysinfo:99:179 times:100:153 sched_yield:24:124
sched_getaffinity:204:123 getcpu:309:168 getpriority:140:141 rt_sigaction:13:134 rt_sigprocmask:14:135
rt_sigreturn:15:139 rt_sigpending:127:136 rt_sigtimedwait:128:137 rt_sigsuspend:130:133 sigaltstack:131:132
pause:34:- alarm:37:- setitimer:38:103 getitimer:36:102 nanosleep:35:101 clock_nanosleep:230:115
clock_gettime:228:113 clock_getres:229:114 gettimeofday:96:169 time:201:- futex:202:98 set_robust_list:273:99
get_robust_list:274:100 set_tid_address:218:96 rseq:334:293 membarrier:324:283 arch_prctl:158:- exit:60:93
exit_group:231:94 restart_syscall:219:128 getrandom:318:278 tgkill:234:131 clone:56:220 clone3:435:435
socketpair:53:199 recvfrom:45:207 sendto:44:206 shutdown:48:210 getsockopt:55:209 fork:57:- vfork:58:-
wait4:61:260 waitid:247:95 kill:62:129 pidfd_open:434:434 pidfd_send_signal:424:424 sendmsg:46:211
recvmsg:47:212 prctl:157:167 seccomp:317:277 setrlimit:160:164 landlock_create_ruleset:444:444
landlock_add_rule:445:445 landlock_restrict_self:446:446 unshare:272:97 pivot_root:155:41 capset:126:91
socket:41:198 mount:165:40 umount2:166:39 execve:59:221 execveat:322:281 connect:42:203 ptrace:101:117
process_vm_readv:310:270 io_uring_setup:425:425 bpf:321:280 setns:308:268
"""
_COLUMN = {"x86_64": 0, "aarch64": 1}
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
CLONE_THREAD = 0x00010000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_NOATIME, MS_NODIRATIME, MS_BIND, MS_REC, MS_PRIVATE, MS_RELATIME = 1024, 2048, 4096, 16384, 1 << 18, 1 << 21
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 4, 24, 38

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_python_libc = ctypes.PyDLL(None)  # unlike CDLL, holds the interpreter lock during a call


def machine() -> str:
    """Name of the architecture that this process runs on, as Linux gives it."""
    return os.uname().machine


def supported() -> bool:
    """Whether the call numbers of this system are known."""
    return sys.platform == "linux" and machine() in _COLUMN and sys.maxsize > 2**32


@lru_cache(maxsize=1)
def numbers() -> dict[str, int]:
    """System-call numbers of this machine by name.

    Raises:
        OSError: If the system is not supported.
    """
    if not supported():
        raise OSError(f"the sandbox knows Linux on x86_64 and aarch64, this is {sys.platform} on {machine()}")
    columns = [entry.split(":") for entry in _TABLE.split()]
    index = 1 + _COLUMN[machine()]
    return {entry[0]: int(entry[index]) for entry in columns if entry[index] != "-"}


def call(name: str, *args: int | bytes | ctypes.Array | ctypes.Structure | None) -> int:
    """Makes one system call; arguments may be integers, byte strings, ctypes buffers and ``None``.

    Raises:
        OSError: If the call fails, with the kernel's errno and the name of the call.
    """
    converted = [_argument(value) for value in args]  # keeps the arguments alive during the call
    result = _libc.syscall(ctypes.c_long(numbers()[name]), *converted)
    if result < 0:
        errno = ctypes.get_errno()
        raise OSError(errno, f"{name}: {os.strerror(errno)}")
    return result


def prepared(name: str, *args: int | ctypes.Structure) -> Callable[[], None]:
    """A function that makes a system call with arguments converted in advance; raises ``OSError`` like :func:`call`."""
    number = ctypes.c_long(numbers()[name])
    converted = [_argument(value) for value in args]

    def make() -> None:
        if _libc.syscall(number, *converted) < 0:
            errno = ctypes.get_errno()
            raise OSError(errno, f"{name}: {os.strerror(errno)}")

    return make


def _argument(value: object) -> object:
    if isinstance(value, int):
        # Passed as 64 bits: by default ctypes passes an int as 32 bits, which would cut flags and negative numbers.
        return ctypes.c_ulong(value & 0xFFFFFFFFFFFFFFFF)
    return ctypes.byref(value) if isinstance(value, ctypes.Structure) else value


def fork() -> int:
    """Calls ``fork()`` without Python's at-fork hooks, which is a third cheaper than ``os.fork``.

    Only for processes with a single thread, where no other thread can hold the locks that the hooks would rebuild. The
    hooks would also reseed ``random``, but every program must start from the same random state.
    """
    return _python_libc.fork()


def prctl(option: int, value: int = 0) -> None:
    """Calls ``prctl(option, value, 0, 0, 0)``; raises ``OSError`` if the call fails."""
    call("prctl", option, value, 0, 0, 0)


def mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    """Calls ``mount(2)``; raises an ``OSError`` that names the target if the call fails."""
    try:
        call("mount", *(None if text is None else text.encode() for text in (source, target, kind)), flags,
             None if data is None else data.encode())  # fmt: skip
    except OSError as error:
        raise OSError(error.errno, f"mount of {target}: {error.strerror}") from None


class _CapHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


def drop_capabilities() -> None:
    """Empties the effective, permitted and inheritable capability sets; raises ``OSError`` if the call fails."""
    # 0x20080522 is _LINUX_CAPABILITY_VERSION_3, with three sets of 64 bits each; 0 means this process.
    call("capset", _CapHeader(0x20080522, 0), (ctypes.c_uint32 * 6)())
