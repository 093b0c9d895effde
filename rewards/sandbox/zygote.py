"""The fork server: a warm, single-threaded CPython that confines itself once and then forks one child per program.

It is trusted and never reads a program or a test: those travel over descriptors that it only passes on, because
whatever it had in memory every later child would have too. Started by the supervisor as a script; descriptor 0 is the
control socket. It serves until a program has left a trace that a later one could read: a scratch folder that was
touched, process numbers that were used up. Then it says that it is spent, and another one takes its place.
"""

import _socket
import array
import fcntl
import gc
import importlib
import json
import os
import pkgutil
import random
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.machinery import PathFinder
from typing import Any, NoReturn

from rewards.sandbox import candidate, judge, kernel, namespaces, seccomp
from rewards.sandbox.confinement import NOFILE, Mode, confine, layer
from rewards.sandbox.wire import Frames, packed, send_frame, unpacked

PRELOAD = """
abc array bisect builtins cmath codecs collections collections.abc copy dataclasses datetime decimal enum fractions
functools heapq io itertools json math numbers operator os random re statistics string struct sys textwrap time
traceback types typing unicodedata
"""
"""What programs import most. Each 8 MB of modules costs about 0.7 ms per fork."""
PRELOAD_STRICT = """
_strptime argparse ast asyncio base64 binascii calendar cProfile colorsys concurrent.futures
concurrent.futures.thread configparser contextlib contextvars copyreg csv ctypes difflib dis doctest errno fileinput
fnmatch gc getopt getpass glob graphlib gzip hashlib hmac html html.parser importlib.util inspect ipaddress keyword
linecache locale logging lzma bz2 mimetypes mmap multiprocessing opcode optparse pathlib pickle pkgutil platform
plistlib posixpath pprint profile pstats pydoc queue quopri reprlib resource sched secrets select selectors shlex
shutil signal socket stat stringprep subprocess symtable sysconfig tempfile timeit token tokenize trace tracemalloc
unittest unittest.mock urllib.parse uuid warnings weakref xml.etree.ElementTree zipfile zlib zoneinfo
"""
"""Where no file can be opened later; those that this Python was built without are left out."""
_HEAVY_PARTS = ("f2py", "distutils", "tests", "typing")
"""Of packages: builds, tests, types."""
_WARM_UP_ROUNDS = 20
_CONTROL = 10
"""The descriptor of the control socket: behind those that a job brings."""
_IDLE = 2.0
"""A program that uses next to no processor for this many times its limit sleeps or waits for itself."""


@dataclass(slots=True)
class _Job:
    header: dict[str, Any]
    descriptors: list[int]
    pids: list[int] = field(default_factory=list)
    stale: bool = False
    """Nothing was run, because process numbers show what an earlier program did: the next server takes the job."""

    def cpu_s(self) -> float:
        """Processor seconds of its processes so far."""
        total = 0.0
        for pid in self.pids:
            with suppress(OSError):
                # The clock id of another process as clock_getcpuclockid(3) makes it: processor time without /proc,
                # which is not there.
                total += time.clock_gettime((~pid << 3) | 2)
        return total


class Zygote:
    """Serves the control socket until the supervisor closes it."""

    def __init__(self, control: socket.socket, mode: Mode) -> None:
        self._control, self._mode = control, mode
        # What every child needs is made before the fork: each page of memory that a child touches is copied for it.
        self._candidate, self._sinks = candidate.Candidate(), candidate.open_streams()
        self._channels = [_stream(number, control) for number in (3, 4)]
        os.closerange(0, _CONTROL)  # where the descriptors of a job will arrive, so that no child has to move them
        self._next_pid, self._scratch = 0, self._scratch_state()
        if mode >= Mode.STRICT:
            self._filter = seccomp.Installer(seccomp.child_filter())

    def serve(self) -> None:
        """One job after the other: fork, wait, kill at a limit, report."""
        while (job := self._receive()) is not None:
            report = self._run(job)
            # A file that was made and removed again still shows in the folder's time of change.
            report["spent"] = self._scratch_state() != self._scratch
            self._control.send(packed(report))

    def _scratch_state(self) -> int:
        """A time that no program can set back, changed by whatever happens to the folder."""
        return os.stat(namespaces.SCRATCH).st_ctime_ns if self._mode is Mode.NAMESPACES else 0

    def _receive(self) -> _Job | None:
        data, ancillary, _, _ = self._control.recvmsg(4096, socket.CMSG_SPACE(16 * 4))
        if not data:
            return None
        descriptors = array.array("i")
        for _, _, body in ancillary:
            descriptors.frombytes(body[: len(body) - len(body) % 4])
        header = unpacked(data)
        if "done" in header or "lap" in header:  # about a job that has ended by itself meanwhile
            return self._receive()
        return _Job(header, list(descriptors))

    def _run(self, job: _Job) -> dict[str, Any]:
        # Before the fork: each child inherits the number of bytes that it may still write.
        for sink in self._sinks:
            sink.left = job.header["output_bytes"]
        for role in job.header["roles"]:
            job.pids.append(self._fork(role, job))
        for descriptor in job.descriptors:
            os.close(descriptor)
        limit = self._wait(job)
        cpu_s = job.cpu_s()
        for pid in job.pids:
            os.kill(pid, signal.SIGKILL)  # not waited for yet, so nobody else has its number
        usages = [os.wait4(pid, 0) for pid in job.pids]
        _, status, _ = usages[0]
        return {
            "id": job.header["id"],
            "stale": job.stale,
            "limit": limit,
            "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0,
            "exit": os.WEXITSTATUS(status) if os.WIFEXITED(status) else -1,
            "cpu_s": max(cpu_s, sum(usage.ru_utime + usage.ru_stime for _, _, usage in usages)),
        }

    def _wait(self, job: _Job) -> str:
        """Until the first process of interest ends, the supervisor says done or is gone, or a limit is reached.

        Limits count processor time, so that a busy machine stops nobody: of the test that runs now (the supervisor says
        when the next begins), and of all. Real time only stops what sleeps, or is far beyond all reason.
        """
        header, begun = job.header, time.monotonic()
        lap, idle_since, idle_cpu = 0.0, begun, 0.0
        watched = os.pidfd_open(job.pids[-1])
        poll = select.poll()
        poll.register(watched, select.POLLIN)
        poll.register(self._control, select.POLLIN)
        try:
            while True:
                now, used = time.monotonic(), job.cpu_s()
                # More than a hundredth of a processor is work, on a busy machine too. Less for long is sleep, which
                # would never reach the limit of processor time.
                if used - idle_cpu > 0.01 * (now - idle_since):
                    idle_since, idle_cpu = now, used
                left = {
                    "cpu": min(lap + header["cpu_s"], header["total_s"]) - used,
                    "idle": idle_since + _IDLE * header["cpu_s"] + 1 - now,
                    "wall": begun + header["wall_s"] - now,
                }
                limit = min(left, key=lambda name: left[name])
                if left[limit] <= 0:
                    return limit
                # Processor time passes no faster than real time (threads apart), so nothing can be exceeded before
                # this.
                for descriptor, event in poll.poll(int(left[limit] * 1000) + 1):
                    if descriptor == watched or event & (select.POLLHUP | select.POLLERR):
                        return ""
                    message = self._control.recv(4096)
                    if not message or unpacked(message).get("done") == header["id"]:
                        return ""
                    # A lap: the next test begins with the processor time that has been used so far.
                    lap = job.cpu_s()
        finally:
            os.close(watched)

    def _fork(self, role: str, job: _Job) -> int:
        pid = kernel.fork()
        if pid < 0:
            raise OSError("fork failed")
        if pid:
            # In its own namespace numbers are given one after the other. A gap shows how many threads the program
            # before had, which it may have chosen to tell the next one something about the hidden tests.
            job.stale = job.stale or (self._mode is Mode.NAMESPACES and self._next_pid not in (0, pid))
            self._next_pid = pid + 1
            return pid
        try:
            self._become(role, job)
        finally:
            os._exit(70)

    def _become(self, role: str, job: _Job) -> NoReturn:
        header = job.header
        if self._mode is not Mode.NAMESPACES:  # there the end of pid 1 is the end of everybody
            kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        elif self._next_pid not in (0, os.getpid()):
            os._exit(0)  # a program before this one had threads; how many, it shall not read from its own number
        # Descriptors arrive as [input, output, errors, channel]; for a judge [..., its channel, the supervisor's].
        if role == "judge":
            _keep([job.descriptors[0], -1, -1, *job.descriptors[4:]])
        else:
            _keep(job.descriptors[:4])
        seconds = int(header["total_s"]) + 2  # the kernel's own limit, should this process be kept from its watch
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        if self._mode >= Mode.STRICT:
            # The last step, since the steps before it need calls that it takes away.
            self._filter.install()
        gc.enable()
        first, second = self._channels
        if role == "judge":
            judge.run(second, first, header["result_bytes"])
        if role == "script":
            source = Frames(first).receive(candidate.MAX_REQUEST_BYTES)["source"]
            first.close()
            candidate.run_script(source)
        self._candidate.serve(first)


def _stream(descriptor: int, some: socket.socket) -> socket.socket:
    """A stream over a descriptor that is to come; until then some other socket stands in for it."""
    os.dup2(some.fileno(), descriptor)
    # The C type: socket.socket turns its arguments into enums first, which costs more than all else here.
    return _socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, descriptor)  # type: ignore[return-value]


def _keep(wanted: list[int]) -> None:
    """Gives descriptors the numbers 0, 1, 2, ... and closes all others; -1 stands for none."""
    if wanted != [0, 1, 2, 3]:  # where they arrive, if nothing else is open
        copies = [-1 if descriptor < 0 else fcntl.fcntl(descriptor, fcntl.F_DUPFD, 20) for descriptor in wanted]
        os.closerange(0, 20)
        for target, copy in enumerate(copies):
            if copy >= 0:
                os.dup2(copy, target)
    os.closerange(len(wanted), NOFILE)


def _warm_up(mode: Mode, packages: Sequence[str]) -> None:
    """Pays once for what every child would pay: imports, the compiler's types, specialised bytecode."""
    import _sitebuiltins
    import builtins

    for name in PRELOAD.split():
        importlib.import_module(name)
    for name in PRELOAD_STRICT.split() if mode is Mode.STRICT else []:
        with suppress(ImportError):
            importlib.import_module(name)
    own = list(sys.path)
    sys.path += {os.path.dirname(path) for path in packages}
    for path in packages:
        if (name := os.path.basename(path).removesuffix(".py")).isidentifier():
            package = importlib.import_module(name)
            if mode is Mode.STRICT:
                _import_parts(package)
    sys.path[:] = own
    for name in ("exit", "quit"):  # ``site`` would have added these, and help
        setattr(builtins, name, _sitebuiltins.Quitter(name, "Ctrl-D (i.e. EOF)"))
    builtins.help = _sitebuiltins._Helper()
    # Every program begins with the same random numbers, so that a verdict can be repeated.
    random.seed(0)
    # Twenty small programs, loaded and called as real ones are: CPython 3.11 rewrites bytecode that has run a few
    # times, in place, and a page that is written after the fork is copied for each child.
    ours, theirs = socket.socketpair()
    program = candidate.Candidate()
    source = "def f(x: int = 1) -> list:\n    return [y for y in (x, {1: 'a'}, {2})]\ndef g(x):\n    raise ValueError"
    calls = [{"name": name, "args": [1], "kwargs": {}} for name in "fg"]
    for _ in range(_WARM_UP_ROUNDS):
        for request in ({"kind": "load", "source": source}, {"kind": "calls", "calls": calls}):
            send_frame(ours, request)
            for reply in program.answer(Frames(theirs).receive(4096)):
                send_frame(theirs, reply)
                Frames(ours).receive(4096)
    sys.modules.pop("solution")
    ours.close()
    theirs.close()


def _import_parts(package: Any, depth: int = 2) -> None:
    """Imports what a package imports late (``numpy.random``): where no file can be opened, later is too late."""
    for part in pkgutil.iter_modules(getattr(package, "__path__", [])):
        if not part.name.startswith(("_", "test", "conftest", "setup")) and part.name not in _HEAVY_PARTS:
            with suppress(Exception, SystemExit):  # what needs something else that is not installed
                module = importlib.import_module(f"{package.__name__}.{part.name}")
                if part.ispkg and depth > 1:
                    _import_parts(module, depth - 1)


class _Refuses:
    """The last finder of the strict mode: an import that cannot be done is an ImportError, which says why."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> None:
        """Finds nothing."""
        why = "isolation strict opens no file, so only what was imported beforehand can be imported"
        raise ModuleNotFoundError(f"No module named {name!r} ({why})", name=name)


def main() -> None:
    """``zygote.py MODE MEMORY_BYTES PACKAGES`` with the control socket as descriptor 0."""
    mode, memory_bytes, packages = Mode[sys.argv[1]], int(sys.argv[2]), json.loads(sys.argv[3])
    control = socket.socket(
        fileno=fcntl.fcntl(0, fcntl.F_DUPFD, _CONTROL), family=socket.AF_UNIX, type=socket.SOCK_SEQPACKET
    )
    for descriptor in range(3):
        os.dup2(os.memfd_create("stream"), descriptor)  # what the standard streams will be: files
    # From the outside in: namespaces first, then all imports while files can still be read, then every other layer.
    try:
        if mode is Mode.NAMESPACES:
            layer("namespaces", namespaces.enter)
            if pid := os.fork():  # the child is pid 1 of the new world; its end is ours
                control.close()
                os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) & 0xFF)
        _warm_up(mode, packages)
        os.environ.clear()  # it was for what is imported; a program's environment is empty
        layers = confine(mode, memory_bytes, packages)
        # Pid 1 dies with the process that waits for it outside. In the other modes the parent is a thread of the
        # supervisor, and the signal would come when that thread ends: there the control socket that closes ends this.
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL if mode is Mode.NAMESPACES else 0)
        # Not dumpable: no other process of this user may trace it or read its memory.
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
        # Python's own folders alone: whatever else the environment put there cannot be read in here.
        sys.path[:] = [path for path in sys.path if path.startswith(sys.base_prefix)]
        if mode is Mode.STRICT:
            sys.meta_path[sys.meta_path.index(PathFinder)] = _Refuses
    except (OSError, ImportError) as error:
        refused = getattr(error, "strerror", None) or str(error)
        control.send(json.dumps({"refused": refused}).encode())
        return
    zygote = Zygote(control, mode)
    # Frozen objects are left alone by the collector, whose marks would otherwise copy every page of them in every
    # child.
    gc.collect()
    gc.freeze()
    gc.disable()
    control.send(json.dumps({"mode": mode.name, "layers": layers, "pid": os.getpid()}).encode())
    zygote.serve()
