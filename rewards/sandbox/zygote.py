"""The fork server: a warm, single-threaded CPython that confines itself once and then forks one child per program.

The fork server is trusted and never reads a program or a test, because every later child would inherit them in its
memory; it only passes on the descriptors over which they travel. The supervisor starts it with the control socket as
descriptor 0. It serves until a program has left a trace that a later program could read: a change of the scratch
folder, or process ids that threads have used up. Then it reports this, and the supervisor replaces it.
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
"""Modules that programs import most often. Each 8 MB of loaded modules costs about 0.7 ms per fork."""
PRELOAD_STRICT = """
_strptime argparse ast asyncio base64 binascii calendar cProfile colorsys concurrent.futures
concurrent.futures.thread configparser contextlib contextvars copyreg csv ctypes difflib dis doctest errno fileinput
fnmatch gc getopt getpass glob graphlib gzip hashlib hmac html html.parser importlib.util inspect ipaddress keyword
linecache locale logging lzma bz2 mimetypes mmap multiprocessing opcode optparse pathlib pickle pkgutil platform
plistlib posixpath pprint profile pstats pydoc queue quopri reprlib resource sched secrets select selectors shlex
shutil signal socket stat stringprep subprocess symtable sysconfig tempfile timeit token tokenize trace tracemalloc
unittest unittest.mock urllib.parse uuid warnings weakref xml.etree.ElementTree zipfile zlib zoneinfo
"""
"""Further modules that are loaded in the strict mode, where no file can be opened later; missing ones are skipped."""
_HEAVY_PARTS = ("f2py", "distutils", "tests", "typing")
"""Parts of packages that programs do not need: builds, tests, types."""
_WARM_UP_ROUNDS = 20
_CONTROL = 10
"""Descriptor of the control socket; the lower numbers are for the descriptors of a job."""
_IDLE = 2.0
"""A program that uses almost no processor time for this many times its limit (plus 1 s) is killed as sleeping."""


@dataclass(slots=True)
class _Job:
    header: dict[str, Any]
    descriptors: list[int]
    pids: list[int] = field(default_factory=list)
    stale: bool = False
    """Whether the program was not run because its process id would show what an earlier program did."""

    def cpu_s(self) -> float:
        """Processor seconds that the processes of the job have used so far."""
        total = 0.0
        for pid in self.pids:
            with suppress(OSError):
                # The clock id of another process, computed like clock_getcpuclockid(3), since /proc does not exist in
                # the sandbox.
                total += time.clock_gettime((~pid << 3) | 2)
        return total


class Zygote:
    """Serves the control socket until the supervisor closes it."""

    def __init__(self, control: socket.socket, mode: Mode) -> None:
        self._control, self._mode = control, mode
        # Objects that every child needs are created before the fork, since each page that a child writes is copied.
        self._candidate, self._sinks = candidate.Candidate(), candidate.open_streams()
        self._channels = [_stream(number, control) for number in (3, 4)]
        os.closerange(0, _CONTROL)  # a job's descriptors then arrive at these numbers, and no child has to move them
        self._next_pid, self._scratch = 0, self._scratch_state()
        if mode >= Mode.STRICT:
            self._filter = seccomp.Installer(seccomp.child_filter())

    def serve(self) -> None:
        """Handles one job after the other: forks, waits, kills at a limit, reports."""
        while (job := self._receive()) is not None:
            report = self._run(job)
            # Even a file that was created and removed again changes the time of the folder.
            report["spent"] = self._scratch_state() != self._scratch
            self._control.send(packed(report))

    def _scratch_state(self) -> int:
        """The change time of the scratch folder: every change of the folder updates it, and no program can reset it."""
        return os.stat(namespaces.SCRATCH).st_ctime_ns if self._mode is Mode.NAMESPACES else 0

    def _receive(self) -> _Job | None:
        data, ancillary, _, _ = self._control.recvmsg(4096, socket.CMSG_SPACE(16 * 4))
        if not data:
            return None
        descriptors = array.array("i")
        for _, _, body in ancillary:
            descriptors.frombytes(body[: len(body) - len(body) % 4])
        header = unpacked(data)
        if "done" in header or "lap" in header:  # a message on a job that has already ended by itself
            return self._receive()
        return _Job(header, list(descriptors))

    def _run(self, job: _Job) -> dict[str, Any]:
        # Set before the fork, since each child inherits the number of bytes that it may write.
        for sink in self._sinks:
            sink.left = job.header["output_bytes"]
        for role in job.header["roles"]:
            job.pids.append(self._fork(role, job))
        for descriptor in job.descriptors:
            os.close(descriptor)
        limit = self._wait(job)
        cpu_s = job.cpu_s()
        for pid in job.pids:
            os.kill(pid, signal.SIGKILL)  # safe: until wait4 is called, no other process can get the same pid
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
        """Waits until the main process (the judge, if any) ends, the supervisor stops the job, or a limit is reached.

        The limits for the current test (the supervisor tells when the next test begins) and for all tests count
        processor time, so that a busy machine stops no program. Real time stops only programs that sleep or run far
        too long.

        Returns:
            Name of the limit that was reached; empty if none was.
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
                # A process that uses more than a hundredth of a processor is working, also on a busy machine. One that
                # uses less for long is sleeping, and would never reach the limit of processor time.
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
                # Processor time passes no faster than real time (except with threads), so no limit is exceeded earlier.
                for descriptor, event in poll.poll(int(left[limit] * 1000) + 1):
                    if descriptor == watched or event & (select.POLLHUP | select.POLLERR):
                        return ""
                    message = self._control.recv(4096)
                    if not message or unpacked(message).get("done") == header["id"]:
                        return ""
                    # A lap: the next test begins now, and its limit counts from the processor time used so far.
                    lap = job.cpu_s()
        finally:
            os.close(watched)

    def _fork(self, role: str, job: _Job) -> int:
        pid = kernel.fork()
        if pid < 0:
            raise OSError("fork failed")
        if pid:
            # In a PID namespace, process ids are given in sequence. A gap shows how many threads the previous program
            # started, by which it could pass information about the hidden tests to the next program.
            job.stale = job.stale or (self._mode is Mode.NAMESPACES and self._next_pid not in (0, pid))
            self._next_pid = pid + 1
            return pid
        try:
            self._become(role, job)
        finally:
            os._exit(70)

    def _become(self, role: str, job: _Job) -> NoReturn:
        header = job.header
        if self._mode is not Mode.NAMESPACES:  # in a PID namespace, all processes end with pid 1
            kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        elif self._next_pid not in (0, os.getpid()):
            os._exit(0)  # the pid shows how many threads the previous program started, so this program is not run
        # Descriptors arrive as [input, output, errors, candidate's channel]; with a judge, two more follow: the judge's
        # channel to the candidate and its channel to the supervisor.
        if role == "judge":
            _keep([job.descriptors[0], -1, -1, *job.descriptors[4:]])
        else:
            _keep(job.descriptors[:4])
        seconds = int(header["total_s"]) + 2  # the kernel enforces this limit even if the fork server does not run
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        if self._mode >= Mode.STRICT:
            # The last step, since the filter forbids calls that the steps before it need.
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
    """A socket object for a descriptor that a job will bring; until then the descriptor is a copy of ``some``."""
    os.dup2(some.fileno(), descriptor)
    # The C type is used, because socket.socket spends most of its time on turning its arguments into enums.
    return _socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, descriptor)  # type: ignore[return-value]


def _keep(wanted: list[int]) -> None:
    """Renumbers descriptors to 0, 1, 2, ... and closes all others; -1 leaves a number closed."""
    if wanted != [0, 1, 2, 3]:  # descriptors usually arrive at these numbers already
        copies = [-1 if descriptor < 0 else fcntl.fcntl(descriptor, fcntl.F_DUPFD, 20) for descriptor in wanted]
        os.closerange(0, 20)
        for target, copy in enumerate(copies):
            if copy >= 0:
                os.dup2(copy, target)
    os.closerange(len(wanted), NOFILE)


def _warm_up(mode: Mode, packages: Sequence[str]) -> None:
    """Does once what every child would otherwise do: imports, creating the compiler's types, specialising bytecode."""
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
    for name in ("exit", "quit"):  # ``site``, which is not imported, would add these and ``help``
        setattr(builtins, name, _sitebuiltins.Quitter(name, "Ctrl-D (i.e. EOF)"))
    builtins.help = _sitebuiltins._Helper()
    # Every program starts from the same random state, so that its verdict is reproducible.
    random.seed(0)
    # Loads and calls a small program twenty times, as real programs are. CPython 3.11 specialises bytecode in place
    # after a few runs; if that happened after the fork, the pages would be copied for each child.
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
    """Imports parts that a package imports lazily (``numpy.random``), since no file can be opened later."""
    for part in pkgutil.iter_modules(getattr(package, "__path__", [])):
        if not part.name.startswith(("_", "test", "conftest", "setup")) and part.name not in _HEAVY_PARTS:
            with suppress(Exception, SystemExit):  # parts may need other packages that are not installed
                module = importlib.import_module(f"{package.__name__}.{part.name}")
                if part.ispkg and depth > 1:
                    _import_parts(module, depth - 1)


class _Refuses:
    """The last import finder of the strict mode: it raises an ``ImportError`` that says why an import fails."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> None:
        """Raises for every name."""
        why = "isolation strict opens no file, so only what was imported beforehand can be imported"
        raise ModuleNotFoundError(f"No module named {name!r} ({why})", name=name)


def main() -> None:
    """Runs the fork server: ``zygote.py MODE MEMORY_BYTES PACKAGES`` with the control socket as descriptor 0."""
    mode, memory_bytes, packages = Mode[sys.argv[1]], int(sys.argv[2]), json.loads(sys.argv[3])
    control = socket.socket(
        fileno=fcntl.fcntl(0, fcntl.F_DUPFD, _CONTROL), family=socket.AF_UNIX, type=socket.SOCK_SEQPACKET
    )
    for descriptor in range(3):
        os.dup2(os.memfd_create("stream"), descriptor)  # files, as the standard streams of jobs are
    # Namespaces first, then all imports while files can still be read, then every other layer.
    try:
        if mode is Mode.NAMESPACES:
            layer("namespaces", namespaces.enter)
            if pid := os.fork():  # the child is pid 1 of the new namespace; this process ends with it
                control.close()
                os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) & 0xFF)
        _warm_up(mode, packages)
        os.environ.clear()  # only the imports needed it; programs get an empty environment
        layers = confine(mode, memory_bytes, packages)
        # Pid 1 must die with the process outside that waits for it. In the other modes the parent is a thread of the
        # supervisor, and the signal would already come when that thread ends. There, this process ends when the
        # control socket closes.
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL if mode is Mode.NAMESPACES else 0)
        # Not dumpable, so that no other process of this user can trace this process or read its memory.
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
        # Only Python's own folders are kept, since other folders cannot be read in the sandbox.
        sys.path[:] = [path for path in sys.path if path.startswith(sys.base_prefix)]
        if mode is Mode.STRICT:
            sys.meta_path[sys.meta_path.index(PathFinder)] = _Refuses
    except (OSError, ImportError) as error:
        refused = getattr(error, "strerror", None) or str(error)
        control.send(json.dumps({"refused": refused}).encode())
        return
    zygote = Zygote(control, mode)
    # The garbage collector writes to every object that it visits, which would copy their pages in every child. It does
    # not visit frozen objects.
    gc.collect()
    gc.freeze()
    gc.disable()
    control.send(json.dumps({"mode": mode.name, "layers": layers, "pid": os.getpid()}).encode())
    zygote.serve()
