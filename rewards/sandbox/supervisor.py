"""The trusted side of the sandbox: it starts fork servers, sends them programs and reads the untrusted replies.

Each worker has one thread and one fork server and runs one program at a time. Tests and expected values stay in this
process or in the process of a judge; the process of a candidate receives only its program and the arguments of calls.
"""

import importlib.metadata
import importlib.util
import json
import math
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rewards.sandbox.confinement import Mode
from rewards.sandbox.jobs import Ending, Job, Judgement, Limits, Outcome, SandboxError, Script
from rewards.sandbox.wire import Frames, frame, packed, unpacked

ROOT = Path(__file__).resolve().parents[2]
START_S = 120.0
# A job that a fork server does not finish is tried again on a fresh server; ``_serve`` decides how a failure counts.
_TRIES = 3
_GRACE_S = 60.0
"""Seconds after a program's deadline when its fork server, which should have killed it, counts as broken."""
_LAP = 0.1
"""Share of a test's processor time; the fork server is told that a test has ended only if it took longer than this."""
_BOOT = """
import sys, types
root = sys.argv.pop(1)
for name in ("rewards", "rewards.sandbox"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [root + "/" + name.replace(".", "/")]
from rewards.sandbox.zygote import main
main()
"""
"""Starts the fork server without importing the packages' ``__init__``, since each loaded module makes forks slower."""


@dataclass(slots=True)
class _Item:
    job: Job
    limits: Limits
    future: "Future[Outcome]" = field(default_factory=Future)


class Sandbox:
    """A thread-safe pool of confined fork servers; it raises instead of running programs with less isolation.

    Args:
        n_workers: Number of programs that run at a time; 0 means one more than the processors that this process may
            use, since programs also wait.
        mode: Mode of isolation; ``None`` uses the strongest mode that this machine provides.
        minimum: Weakest mode of isolation that is acceptable.
        memory_bytes: Address space of one program.
        modules: Installed packages that programs and tests may import, besides the standard library.
        max_waiting: Number of submissions that may wait; further submissions block.

    Raises:
        SandboxError: If this machine does not provide ``mode`` or at least ``minimum``; the message names the missing
            layer.
    """

    judges = True

    def __init__(
        self,
        n_workers: int = 0,
        mode: Mode | None = None,
        minimum: Mode = Mode.STRICT,
        memory_bytes: int = 2**30,
        modules: Sequence[str] = (),
        max_waiting: int = 1024,
    ) -> None:
        self.missing: list[str] = []
        self._memory_bytes, self._packages, self._owner = memory_bytes, _packages(modules), os.getpid()
        # The first server starts now, so that a machine without isolation raises here and not at the first program.
        # The other threads start their servers when they get a program.
        first = self._start_best(mode, minimum)
        self.mode, self.layers = first.mode, list[str](first.layers)
        owners = importlib.metadata.packages_distributions() if modules else {}
        versions = [(name, tuple(map(importlib.metadata.version, owners.get(name, ())))) for name in sorted(modules)]
        self.settings: tuple[object, ...] = (self.mode.name, memory_bytes, tuple(versions))
        self._items: queue.Queue[_Item | None] = queue.Queue(max_waiting)
        self._lock, self._closed = threading.Lock(), False
        self._servers: set[_Server] = {first}
        self.counts = dict.fromkeys(Ending, 0)
        n_workers = n_workers or usable_cpus() + 1
        self._threads = [
            threading.Thread(target=self._work, args=(first if i == 0 else None,), name=f"sandbox-{i}", daemon=True)
            for i in range(n_workers)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, job: Job, limits: Limits) -> "Future[Outcome]":
        """Queues a program; blocks while the queue is full. ``asyncio.wrap_future`` makes the result awaitable.

        Raises:
            SandboxError: If the sandbox is closed.
        """
        if self._closed:
            raise SandboxError("the sandbox is closed")
        item = _Item(job, limits)
        self._items.put(item)
        return item.future

    def run(self, job: Job, limits: Limits) -> Outcome:
        """Runs one program and waits for it."""
        return self.submit(job, limits).result()

    def close(self) -> None:
        """Kills running programs; waiting ones end as ``BROKEN``. Safe to call twice and in a forked child."""
        if os.getpid() != self._owner:
            return
        self._closed = True
        with suppress(queue.Empty):
            while (item := self._items.get_nowait()) is not None:
                if item.future.set_running_or_notify_cancel():  # false if the caller has cancelled the job
                    item.future.set_result(Outcome(Ending.BROKEN, detail="the sandbox was closed"))
        with self._lock:
            servers = list(self._servers)
        for server in servers:
            server.kill()
        for _ in self._threads:
            self._items.put(None)
        for thread in self._threads:
            thread.join(timeout=5)

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start_best(self, mode: Mode | None, minimum: Mode) -> "_Server":
        # From the strongest mode down. NONE isolates nothing and is tried only if the config asks for it by name.
        candidates = [mode] if mode is not None else [m for m in reversed(Mode) if m >= max(minimum, Mode.STRICT)]
        if mode is None and minimum is Mode.NONE:
            candidates.append(Mode.NONE)
        for candidate in candidates:
            try:
                return _Server(candidate, self._memory_bytes, self._packages)
            except SandboxError as error:
                self.missing.append(f"{candidate.name.lower()}: {error}")
        raise SandboxError(
            f"no isolation of at least {(mode or minimum).name.lower()} on this machine. " + "; ".join(self.missing)
            + ". `python -m rewards.sandbox.doctor` says what could be changed."
        )  # fmt: skip

    def _work(self, server: "_Server | None") -> None:
        while (item := self._items.get()) is not None:
            if not item.future.set_running_or_notify_cancel():
                continue
            outcome, server = self._serve(item, server)
            with self._lock:
                self.counts[outcome.ending] += 1
            item.future.set_result(outcome)
        if server is not None:
            self._retire(server)

    def _serve(self, item: _Item, server: "_Server | None") -> tuple[Outcome, "_Server | None"]:
        """Runs a job, and runs it again on a fresh server if the current server fails.

        A failure of the server while a program runs counts as caused by the program (``DIED``). Otherwise a policy
        could learn to turn ``wrong`` into a masked episode by crashing the server. A failure before the program began,
        or one that the program cannot have caused, is ``BROKEN``.
        """
        failed: Outcome | None = None
        for _ in range(_TRIES):
            try:
                server = server or self._start()
                outcome = server.serve(item.job, item.limits)
            except Exception as error:  # becomes an outcome; if it ended this thread, callers would wait forever
                ours = server is None or not server.begun or isinstance(error, _NotServedError)
                if failed is None or failed.ending is Ending.BROKEN:
                    failed = Outcome(Ending.BROKEN if ours else Ending.DIED, detail=f"{type(error).__name__}: {error}")
                if server is not None:
                    self._retire(server)
                    server = None
                if self._closed:
                    return Outcome(Ending.BROKEN, detail="the sandbox was closed"), None
            else:
                if server.spent:
                    self._retire(server)
                    server = None
                return outcome, server
        assert failed is not None
        return failed, None

    def _start(self) -> "_Server":
        server = _Server(self.mode, self._memory_bytes, self._packages)
        with self._lock:
            self._servers.add(server)
            # ``close`` may have copied the set of servers just before this server was added, and so would not kill it.
            closed = self._closed
        if closed:
            self._retire(server)
            raise SandboxError("the sandbox was closed")
        return server

    def _retire(self, server: "_Server") -> None:
        server.kill()
        with self._lock:
            self._servers.discard(server)


class _NotServedError(Exception):
    """Raised if a job was not run to its end for a reason that the program did not cause; another server may try."""


class _Server:
    """One fork server and its control socket."""

    def __init__(self, mode: Mode, memory_bytes: int, packages: Sequence[str]) -> None:
        # SEQPACKET keeps the boundaries of messages, so a message and its descriptors always arrive together.
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._next_id = 0
        self.begun = False
        """Whether the current job has been sent to the fork server."""
        self.spent = False
        """Whether a program left traces that a later one could read, so that this server must not run another one."""
        try:
            self._process = subprocess.Popen(
                # -s, -P, -S: without user packages, current folder and ``site``, only the standard library and what
                # _warm_up adds can be imported. A fixed hash seed makes the order of sets the same in every run. With
                # one thread, numerical libraries do not start a thread pool before the fork.
                [sys.executable, "-s", "-P", "-S", "-c", _BOOT, str(ROOT), mode.name,
                 str(memory_bytes), json.dumps(packages)],
                stdin=theirs.fileno(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                env={"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
                cwd="/",
                start_new_session=True,  # so that Ctrl-C reaches only the supervisor
            )  # fmt: skip
        finally:
            theirs.close()
        self._control.settimeout(START_S)
        try:
            hello = json.loads(self._control.recv(4096) or b'{"refused": "the fork server died at its start"}')
        except (OSError, ValueError) as error:
            hello = {"refused": str(error)}
        if "refused" in hello:
            self.kill()
            raise SandboxError(hello["refused"])
        self.mode, self.layers, self.pid = mode, hello["layers"], self._process.pid

    def kill(self) -> None:
        """Ends the fork server and, with it, all its children."""
        self._control.close()
        self._process.kill()
        self._process.wait()

    def serve(self, job: Job, limits: Limits) -> Outcome:
        """Runs one program; raises ``OSError`` if the fork server itself fails."""
        self.begun = False
        total_s, wall_s = limits.in_all(job.n_tests)
        self._control.settimeout(wall_s + _GRACE_S)
        # Output goes to a file in memory instead of a pipe: a program that writes much never waits for a reader, and
        # the content at a given moment cannot depend on anything that the program receives later.
        with ExitStack() as stack:
            output, stdin = _memory_file(stack, "output"), _memory_file(stack, "input")
            errors = output
            if isinstance(job, Script):
                errors = _memory_file(stack, "errors")
                with open(stdin, "wb", closefd=False) as file:
                    file.write(job.stdin)
                os.lseek(stdin, 0, os.SEEK_SET)
            ours, theirs = _socket_pair(stack)
            ours.settimeout(wall_s + _GRACE_S)
            ends, roles = [theirs], ["script" if isinstance(job, Script) else "candidate"]
            # A judge gets one socket to the candidate and one to this process; the candidate gets one to its judge.
            if isinstance(job, Judgement):
                ends, roles = [*_socket_pair(stack), theirs], ["candidate", "judge"]
            # The header holds the limits; everything else is passed as descriptors, so that the program's text never
            # enters the memory of the fork server, which later programs inherit.
            self._next_id += 1
            header = {
                "id": self._next_id, "roles": roles, "wall_s": wall_s,
                # The fork server is not told of tests that take less than _LAP of the limit, so _LAP is added to it.
                "cpu_s": limits.cpu_s * (1 + _LAP), "total_s": total_s,
                "output_bytes": limits.output_bytes, "result_bytes": limits.result_bytes,
            }  # fmt: skip
            descriptors = [stdin, output, errors, *(end.fileno() for end in ends)]
            socket.send_fds(self._control, [packed(header)], descriptors)
            # Failures from here on count as caused by the program.
            self.begun = True
            # Closed in this process, so that a read from ``ours`` ends when the last process of the program ends.
            for end in ends:
                end.close()
            # Send the requests, then let the fork server kill the program and report how it ended.
            replies: list[Any] = []
            printed, unasked = self._converse(job, limits, ours, output, replies)
            report = self._report(wait=isinstance(job, Script))
            if report["stale"] or (unasked and report["limit"] in ("idle", "wall")):
                # The program waited for this process, which was busy or paused, and was killed as if it slept.
                raise _NotServedError("the program was not let run to its end")
            if isinstance(job, Script):
                printed, said = (os.pread(file, limits.output_bytes + 1, 0) for file in (output, errors))
                return _outcome(report, total_s, not report["limit"] and report["exit"] >= 0, (), printed, said)
            # The number of replies, not the exit status, tells whether the program answered: os._exit(0) does not.
            complete = len(replies) == sum(map(_n_replies, job.requests)) or _gave_up(job, replies)
            return _outcome(report, total_s, complete, tuple(replies), printed)

    def _converse(
        self, job: Job, limits: Limits, ours: socket.socket, output: int, replies: list[Any]
    ) -> tuple[bytes, bool]:
        """Adds the replies to ``replies``.

        Returns:
            The output up to the end of the public part, and whether a request could not be sent although the program
            did not make this process wait.
        """
        printed, answered, unasked, frames = b"", 0, False, Frames(ours)
        # Loading and public calls are sent together, which saves time. Hidden arguments are sent only after the output
        # has been read, so that nothing printed about them can reach the observation, which the policy sees.
        early = max(job.output_after, 1)
        with suppress(OSError):  # the program died, hung until it was killed, or sent too much, as the report tells
            for number, request in enumerate(job.requests):
                since = time.monotonic()
                try:
                    if number == 0 or number >= early:
                        ours.sendall(b"".join(map(frame, job.requests[number : number + 1 if number else early])))
                except OSError:
                    unasked = time.monotonic() - since < 1  # after a longer wait, the program did not read
                    break
                self._receive(job, request, limits, frames, replies)
                answered += 1
                if answered == job.output_after:
                    printed = os.pread(output, limits.output_bytes, 0)
        if answered < job.output_after:  # the program died before it had answered all public requests
            printed = os.pread(output, limits.output_bytes, 0)
        return printed, unasked

    def _receive(self, job: Job, request: dict[str, Any], limits: Limits, frames: Frames, replies: list[Any]) -> None:
        """Receives the replies to a request, and tells the fork server of the end of each test that took long."""
        since = time.monotonic()
        for _ in range(_n_replies(request)):
            replies.append(frames.receive(limits.result_bytes))
            if time.monotonic() - since > _LAP * limits.cpu_s:
                since = time.monotonic()
                self._control.send(packed({"lap": self._next_id}))
            if _gave_up(job, replies):
                break

    def _report(self, wait: bool) -> dict[str, Any]:
        if not wait:
            with suppress(BrokenPipeError):
                self._control.send(packed({"done": self._next_id}))
        data = self._control.recv(4096)
        if not data:
            raise ConnectionError("the fork server is gone")
        report = unpacked(data)
        # A report on another job means that the two sides are out of step; the error leads to a fresh server.
        if report["id"] != self._next_id:
            raise ConnectionError(f"a report about job {report['id']}, expected {self._next_id}")
        self.spent = report["spent"]
        return report


def _memory_file(stack: ExitStack, name: str) -> int:
    descriptor = os.memfd_create(name)
    stack.callback(os.close, descriptor)
    return descriptor


def _socket_pair(stack: ExitStack) -> tuple[socket.socket, socket.socket]:
    pair = socket.socketpair()
    for end in pair:
        stack.enter_context(end)
    return pair


def _n_replies(request: dict[str, Any]) -> int:
    return {"calls": len(request.get("calls", ())), "tests": len(request.get("tests", ())), "script": 0}.get(
        request["kind"], 1
    )


def _gave_up(job: Job, replies: list[Any]) -> bool:
    """Whether the judge reports that it cannot continue; a judge is trusted in this, a candidate is not."""
    return isinstance(job, Judgement) and bool(replies) and bool(replies[-1].get("ended"))


def _outcome(
    report: dict[str, Any], total_s: float, complete: bool, replies: tuple[Any, ...], output: bytes, errors: bytes = b""
) -> Outcome:
    # The kernel's RLIMIT_CPU may have killed the program before the fork server noticed that the limit was reached.
    limit = report["limit"] or ("cpu" if report["cpu_s"] > total_s else "")
    ending = Ending.FINISHED if complete else Ending.TIMEOUT if limit else Ending.DIED
    return Outcome(ending, replies, output, errors, report["signal"], report["exit"], report["cpu_s"], limit)


def _packages(modules: Sequence[str]) -> list[str]:
    """Files and folders of installed packages, with the folders of shared libraries that belong to them.

    Raises:
        SandboxError: If a package is not installed.
    """
    paths = []
    for name in modules:
        spec = importlib.util.find_spec(name) if name.isidentifier() else None
        if spec is None or spec.origin is None:
            raise SandboxError(f"sandbox.modules: no package {name!r} is installed here")
        # A package is a folder, a module is a file; the wheel of numpy puts shared libraries into numpy.libs beside it.
        place = Path(spec.submodule_search_locations[0] if spec.submodule_search_locations else spec.origin)
        paths += [str(path) for path in (place, place.parent / f"{name}.libs") if path.exists()]
    return paths


def usable_cpus() -> int:
    """Number of processors that this process may use, by its affinity and the quota of its container."""
    usable = len(os.sched_getaffinity(0))
    with suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        usable = min(usable, max(1, math.ceil(int(quota) / int(period))))
    return usable
