"""The trusted side: starts fork servers, hands them programs, reads what comes back, never believes it.

One thread and one fork server a worker; each worker runs one program at a time. Tests and expected values live here, or
in a judge's process of their own; a candidate's process receives its program and the arguments of the calls.
"""

import json
import os
import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from rewards.sandbox.confinement import Mode
from rewards.sandbox.wire import receive_frame, send_frame

ROOT = Path(__file__).resolve().parents[2]
START_S = 30.0
_GRACE_S = 10.0
"""Seconds past a program's deadline after which its fork server itself counts as broken."""
_BOOT = """
import sys, types
root = sys.argv.pop(1)
for name in ("rewards", "rewards.sandbox"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [root + "/" + name.replace(".", "/")]
from rewards.sandbox.zygote import main
main()
"""
"""Starts the fork server without the packages' own imports: every module that it holds, each fork pays for."""
Result = TypeVar("Result")


class SandboxError(RuntimeError):
    """The sandbox cannot do its work here; the message names the layer that is missing and what would help."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one program may use.

    Args:
        wall_s: Seconds from fork to kill, for all its calls together.
        cpu_s: Seconds of processor time; 0 takes ``wall_s`` rounded up.
        output_bytes: Of standard output and error; more is dropped.
        result_bytes: Of one reply with results; a larger one is a failure.
    """

    wall_s: float = 5.0
    cpu_s: int = 0
    output_bytes: int = 64 * 1024
    result_bytes: int = 2 * 2**20

    def __post_init__(self) -> None:
        if self.wall_s <= 0 or self.cpu_s < 0 or self.output_bytes < 0 or self.result_bytes < 1:
            raise ValueError(f"limits must be positive, got {self}")


class Ending(StrEnum):
    """How a program's process ended."""

    FINISHED = "finished"
    TIMEOUT = "timeout"
    """Killed at its wall-clock or processor limit."""
    DIED = "died"
    """It ended or was killed before it had answered."""
    BROKEN = "broken"
    """The sandbox failed, not the program."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came back of one program.

    Args:
        ending: How its process ended.
        replies: One reply per request that was answered, as sent by an untrusted process.
        output: What it printed before the answer to the request marked for it.
        signal: The signal that killed it, 0 for none.
        exit: Its exit status, -1 if a signal killed it.
        cpu_s: Processor seconds.
        detail: For ``BROKEN``, what happened.
    """

    ending: Ending
    replies: tuple[Any, ...] = ()
    output: bytes = b""
    signal: int = 0
    exit: int = -1
    cpu_s: float = 0.0
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Conversation:
    """Requests to one candidate's process, in order; the next is sent only when the one before is answered.

    Args:
        requests: JSON messages (see ``candidate.py``).
        output_after: What was printed is read once this many requests are answered: a program can print only what it
            has received by then.
        stdin: Standard input of the program.
        read_output_at_end: Read the output when the process has ended instead (whole programs).
    """

    requests: tuple[dict[str, Any], ...]
    output_after: int = 0
    stdin: bytes = b""
    read_output_at_end: bool = False


@dataclass(frozen=True, slots=True)
class Judgement:
    """A program and arbitrary test code, each in a process of its own."""

    request: dict[str, Any]


@dataclass(slots=True)
class _Item:
    job: Conversation | Judgement
    limits: Limits
    future: "Future[Outcome]" = field(default_factory=Future)


class Sandbox:
    """A pool of confined fork servers. Thread-safe. Starts on construction, and refuses rather than isolate less.

    Args:
        n_workers: Programs at a time; 0 for one more than there are cores, since a program also waits.
        mode: The isolation to run in, or ``None`` for the best that this machine gives.
        minimum: The least isolation that is acceptable.
        memory_bytes: Address space of one program.
        max_waiting: Submissions that may wait; further ones block.

    Raises:
        SandboxError: If ``minimum`` cannot be had; the message names the missing layer.
    """

    def __init__(
        self,
        n_workers: int = 0,
        mode: Mode | None = None,
        minimum: Mode = Mode.STRICT,
        memory_bytes: int = 512 * 2**20,
        max_waiting: int = 1024,
    ) -> None:
        self.missing: list[str] = []
        self._memory_bytes, self._owner = memory_bytes, os.getpid()
        first = self._start_best(mode, minimum)
        self.mode, self.layers = first.mode, first.layers
        self._items: queue.Queue[_Item | None] = queue.Queue(max_waiting)
        self._lock, self._closed = threading.Lock(), False
        self._servers: set[_Server] = {first}
        self.counts = dict.fromkeys(Ending, 0)
        n_workers = n_workers or (os.cpu_count() or 1) + 1
        self._threads = [
            threading.Thread(target=self._work, args=(first if i == 0 else None,), name=f"sandbox-{i}", daemon=True)
            for i in range(n_workers)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, job: Conversation | Judgement, limits: Limits) -> "Future[Outcome]":
        """Queues a program; blocks while the queue is full. ``asyncio.wrap_future`` makes the result awaitable.

        Raises:
            SandboxError: If the sandbox is closed.
        """
        if self._closed:
            raise SandboxError("the sandbox is closed")
        item = _Item(job, limits)
        self._items.put(item)
        return item.future

    def run(self, job: Conversation | Judgement, limits: Limits) -> Outcome:
        """Runs one program and waits for it."""
        return self.submit(job, limits).result()

    def close(self) -> None:
        """Kills whatever runs; what is waiting ends as ``BROKEN``. Safe to call twice, and in a forked child."""
        if os.getpid() != self._owner:
            return
        self._closed = True
        with suppress(queue.Empty):
            while (item := self._items.get_nowait()) is not None:
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
        candidates = [mode] if mode is not None else [m for m in reversed(Mode) if m >= max(minimum, Mode.STRICT)]
        if mode is None and minimum is Mode.NONE:
            candidates.append(Mode.NONE)
        for candidate in candidates:
            try:
                return _Server(candidate, self._memory_bytes)
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
            try:
                server = server or self._start()
                outcome = server.serve(item.job, item.limits)
            except Exception as error:  # a value, counted: a thread that ended here would leave its caller waiting
                outcome = Outcome(Ending.BROKEN, detail=f"{type(error).__name__}: {error}")
            if server is not None and (outcome.ending is Ending.BROKEN or server.spent):
                self._retire(server)
                server = None
            with self._lock:
                self.counts[outcome.ending] += 1
            item.future.set_result(outcome)
        if server is not None:
            self._retire(server)

    def _start(self) -> "_Server":
        server = _Server(self.mode, self._memory_bytes)
        with self._lock:
            self._servers.add(server)
            closed = self._closed
        if closed:
            self._retire(server)
            raise SandboxError("the sandbox was closed")
        return server

    def _retire(self, server: "_Server") -> None:
        server.kill()
        with self._lock:
            self._servers.discard(server)


class _Server:
    """One fork server and its control socket."""

    def __init__(self, mode: Mode, memory_bytes: int) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._next_id = 0
        self.spent = False
        """Whether a program left something behind that cannot be removed: this server has run its last one."""
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-s", "-P", "-S", "-X", "int_max_str_digits=0", "-c", _BOOT, str(ROOT), mode.name,
                 str(memory_bytes)],
                stdin=theirs.fileno(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                env={"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8", "OPENBLAS_NUM_THREADS": "1"},
                start_new_session=True,  # Ctrl-C goes to the supervisor, which decides
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

    def serve(self, job: Conversation | Judgement, limits: Limits) -> Outcome:
        """Runs one program; raises ``OSError`` if the fork server itself fails."""
        output = os.memfd_create("output")
        stdin = os.memfd_create("input")
        try:
            if isinstance(job, Judgement):
                return self._judge(job, limits, output, stdin)
            os.write(stdin, job.stdin)
            os.lseek(stdin, 0, os.SEEK_SET)
            return self._converse(job, limits, output, stdin)
        finally:
            os.close(output)
            os.close(stdin)

    def _converse(self, job: Conversation, limits: Limits, output: int, stdin: int) -> Outcome:
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                self._send_job(["candidate"], [theirs.fileno(), output, stdin], limits, job.read_output_at_end)
            ours.settimeout(limits.wall_s + _GRACE_S)
            replies: list[Any] = []
            printed = b""
            with suppress(OSError):  # it died, hung until it was killed, or sent too much: the report tells
                for request in job.requests:
                    send_frame(ours, request)
                    replies.append(receive_frame(ours, limits.result_bytes))
                    if len(replies) == job.output_after:
                        printed = os.pread(output, limits.output_bytes, 0)
        if len(replies) < job.output_after:  # it died while it answered what it may print about
            printed = os.pread(output, limits.output_bytes, 0)
        report = self._report(limits)
        if job.read_output_at_end:
            printed = os.pread(output, limits.output_bytes + 1, 0)
        return _outcome(report, replies, len(job.requests), printed, limits)

    def _judge(self, job: Judgement, limits: Limits, output: int, stdin: int) -> Outcome:
        ours, supervisor_end = socket.socketpair()
        candidate_end, judge_end = socket.socketpair()
        replies = []
        with ours:
            with supervisor_end, candidate_end, judge_end:
                descriptors = [candidate_end.fileno(), output, stdin, judge_end.fileno(), supervisor_end.fileno()]
                self._send_job(["candidate", "judge"], descriptors, limits)
            ours.settimeout(limits.wall_s + _GRACE_S)
            with suppress(OSError):
                send_frame(ours, job.request)
                replies.append(receive_frame(ours, limits.result_bytes))
        return _outcome(self._report(limits), replies, 1, b"", limits)

    def _send_job(self, roles: Sequence[str], descriptors: Sequence[int], limits: Limits, stdin: bool = False) -> None:
        self._next_id += 1
        header = {
            "id": self._next_id,
            "roles": list(roles),
            "wall_s": limits.wall_s,
            "cpu_s": limits.cpu_s or int(limits.wall_s) + 1,
            "output_bytes": limits.output_bytes,
            "result_bytes": limits.result_bytes,
            "stdin": stdin,
        }
        socket.send_fds(self._control, [json.dumps(header).encode()], list(descriptors))

    def _report(self, limits: Limits) -> dict[str, Any]:
        with suppress(BrokenPipeError):
            self._control.send(json.dumps({"done": self._next_id}).encode())
        self._control.settimeout(limits.wall_s + _GRACE_S)
        data = self._control.recv(4096)
        if not data:
            raise SandboxError("the fork server is gone")
        report = json.loads(data)
        if report["id"] != self._next_id:
            raise SandboxError(f"a report about job {report['id']}, expected {self._next_id}")
        self.spent = report.get("spent", False)
        return report


def _outcome(report: dict[str, Any], replies: list[Any], expected: int, output: bytes, limits: Limits) -> Outcome:
    out_of_cpu = report["cpu_s"] >= (limits.cpu_s or int(limits.wall_s) + 1)
    if len(replies) == expected:
        ending = Ending.FINISHED
    elif report["timed_out"] or out_of_cpu:
        ending = Ending.TIMEOUT
    else:
        ending = Ending.DIED
    return Outcome(ending, tuple(replies), output, report["signal"], report["exit"], report["cpu_s"])
