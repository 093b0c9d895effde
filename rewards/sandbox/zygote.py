"""The fork server: a warm, single-threaded CPython that confines itself once and then forks one child per program.

It is trusted and never reads a program or a test: those travel over descriptors that it only passes on, because
whatever it had in memory every later child would have too. Started by the supervisor as a script; descriptor 0 is the
control socket. Between programs it wipes the scratch folder, so nothing is carried from one to the next.
"""

import _socket
import array
import fcntl
import gc
import importlib
import json
import os
import random
import resource
import select
import signal
import socket
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NoReturn

from rewards.sandbox import candidate, judge, kernel, namespaces, seccomp
from rewards.sandbox.confinement import NOFILE, Mode, confine, layer
from rewards.sandbox.wire import receive_frame, send_frame

PRELOAD = """
abc array bisect builtins cmath codecs collections collections.abc copy dataclasses datetime decimal enum fractions
functools heapq io itertools json math numbers operator os random re statistics string struct sys textwrap time
traceback types typing unicodedata
"""
"""What programs import most. Each 8 MB of modules costs about 0.7 ms per fork."""
PRELOAD_STRICT = "asyncio base64 calendar concurrent.futures contextlib hashlib inspect logging pprint queue threading"
"""Where no file can be opened later."""
_WARM_UP_ROUNDS = 20


@dataclass(slots=True)
class _Job:
    header: dict[str, Any]
    descriptors: list[int]
    pids: list[int] = field(default_factory=list)


class Zygote:
    """Serves the control socket until the supervisor closes it."""

    def __init__(self, control: socket.socket, mode: Mode) -> None:
        self._control, self._mode = control, mode
        if mode >= Mode.STRICT:
            self._filter = seccomp.Installer(seccomp.child_filter(open_files=mode > Mode.STRICT))

    def serve(self) -> None:
        """One job after the other: fork, wait, kill at the deadline, report."""
        while (job := self._receive()) is not None:
            report = self._run(job)
            if self._mode is Mode.NAMESPACES:
                _wipe(namespaces.SCRATCH)
                # What cannot be removed (paths that are too long to name) must not meet the next program.
                report["spent"] = bool(os.listdir(namespaces.SCRATCH))
            self._control.send(json.dumps(report).encode())

    def _receive(self) -> _Job | None:
        data, ancillary, _, _ = self._control.recvmsg(4096, socket.CMSG_SPACE(16 * 4))
        if not data:
            return None
        descriptors = array.array("i")
        for _, _, body in ancillary:
            descriptors.frombytes(body[: len(body) - len(body) % 4])
        header = json.loads(data)
        if "done" in header:  # about a job that has ended by itself meanwhile
            for descriptor in descriptors:
                os.close(descriptor)
            return self._receive()
        return _Job(header, list(descriptors))

    def _run(self, job: _Job) -> dict[str, Any]:
        deadline = time.monotonic() + job.header["wall_s"]
        for role in job.header["roles"]:
            job.pids.append(self._fork(role, job))
        for descriptor in job.descriptors:
            os.close(descriptor)
        timed_out = self._wait(job, deadline)
        for pid in job.pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        usages = [os.wait4(pid, 0) for pid in job.pids]
        _, status, usage = usages[0]
        return {
            "id": job.header["id"],
            "timed_out": timed_out,
            "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0,
            "exit": os.WEXITSTATUS(status) if os.WIFEXITED(status) else -1,
            "cpu_s": usage.ru_utime + usage.ru_stime,
        }

    def _wait(self, job: _Job, deadline: float) -> bool:
        """Until the first process of interest ends, the supervisor says done or is gone, or the deadline passes."""
        watched = os.pidfd_open(job.pids[-1])
        poll = select.poll()
        poll.register(watched, select.POLLIN)
        poll.register(self._control, select.POLLIN)
        try:
            while (left := deadline - time.monotonic()) > 0:
                for descriptor, event in poll.poll(int(left * 1000) + 1):
                    if descriptor == watched:
                        return False
                    if event & (select.POLLHUP | select.POLLERR):
                        return False
                    message = self._control.recv(4096)
                    if not message or json.loads(message).get("done") == job.header["id"]:
                        return False
            return True
        finally:
            os.close(watched)

    def _fork(self, role: str, job: _Job) -> int:
        pid = kernel.fork()
        if pid < 0:
            raise OSError("fork failed")
        if pid:
            return pid
        try:
            self._become(role, job)
        finally:
            os._exit(70)

    def _become(self, role: str, job: _Job) -> NoReturn:
        header = job.header
        if self._mode is not Mode.NAMESPACES:  # there the end of pid 1 is the end of everybody
            kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        # Descriptors arrive as [channel, output, stdin] and, for a judge, [..., its channel, the supervisor's].
        channel, output, stdin = job.descriptors[:3]
        if role == "judge":
            _keep([(stdin, 0), (job.descriptors[3], 3), (job.descriptors[4], 4)])
        else:
            _keep([(stdin, 0), (output, 1), (output, 2), (channel, 3)])
        resource.setrlimit(resource.RLIMIT_CPU, (header["cpu_s"], header["cpu_s"]))
        if self._mode >= Mode.STRICT:
            self._filter.install()
        gc.enable()
        first = _stream(3)
        if role == "judge":
            judge.run(_stream(4), first, header["result_bytes"])
        candidate.run(first, header["output_bytes"], header["stdin"])


def _stream(descriptor: int) -> socket.socket:
    # The C type: socket.socket turns its arguments into enums first, which costs more than all else here.
    return _socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, descriptor)  # type: ignore[return-value]


def _keep(wanted: list[tuple[int, int]]) -> None:
    """Moves descriptors, (from, to), to fixed numbers and closes all others."""
    targets = {target for _, target in wanted}
    sources = [fcntl.fcntl(s, fcntl.F_DUPFD, 16) if s in targets and s != t else s for s, t in wanted]
    for source, (_, target) in zip(sources, wanted, strict=True):
        if source != target:
            os.dup2(source, target)
    os.closerange(max(targets) + 1, NOFILE)


def _wipe(folder: str) -> None:
    """Empties the scratch folder. Nothing runs meanwhile, and links are removed, not followed."""
    for entry in os.scandir(folder):
        with suppress(OSError):
            if entry.is_dir(follow_symlinks=False):
                os.chmod(entry.path, 0o700)
                _wipe(entry.path)
                os.rmdir(entry.path)
            else:
                os.unlink(entry.path)


def _warm_up(mode: Mode) -> None:
    """Pays once for what every child would pay: imports, the compiler's types, specialised bytecode."""
    import _sitebuiltins
    import builtins

    for name in PRELOAD.split() + (PRELOAD_STRICT.split() if mode is Mode.STRICT else []):
        importlib.import_module(name)
    for name in ("exit", "quit"):  # ``site`` would have added them
        setattr(builtins, name, _sitebuiltins.Quitter(name, "Ctrl-D (i.e. EOF)"))
    random.seed(0)
    ours, theirs = socket.socketpair()
    program = candidate.Candidate(theirs)
    source = "def f(x: int = 1) -> list:\n    return [y for y in (x, {1: 'a'}, {2})]\ndef g(x):\n    raise ValueError"
    calls = [{"name": name, "args": [1], "kwargs": {}} for name in "fg"]
    for _ in range(_WARM_UP_ROUNDS):
        for request in ({"kind": "load", "source": source, "name": "warm"}, {"kind": "calls", "calls": calls}):
            send_frame(ours, request)
            send_frame(theirs, program.answer(receive_frame(theirs, 4096)))
            receive_frame(ours, 4096)
    sys.modules.pop("warm")
    ours.close()
    theirs.close()


def main() -> None:
    """``zygote.py MODE MEMORY_BYTES`` with the control socket as descriptor 0."""
    mode, memory_bytes = Mode[sys.argv[1]], int(sys.argv[2])
    control = socket.socket(fileno=0, family=socket.AF_UNIX, type=socket.SOCK_SEQPACKET)
    try:
        if mode is Mode.NAMESPACES:
            layer("namespaces", namespaces.enter)
            if pid := os.fork():  # the child is pid 1 of the new world; its end is ours
                os.close(0)
                os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) & 0xFF)
        _warm_up(mode)
        layers = confine(mode, memory_bytes)
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL if mode is Mode.NAMESPACES else 0)
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
        sys.path[:] = [path for path in sys.path if path.startswith(sys.base_prefix)]
    except OSError as error:
        control.send(json.dumps({"refused": str(error.strerror or error), "errno": error.errno}).encode())
        return
    gc.collect()
    gc.freeze()
    gc.disable()
    control.send(json.dumps({"mode": mode.name, "layers": layers, "pid": os.getpid()}).encode())
    Zygote(control, mode).serve()
