"""Killable worker processes with a hard deadline per request, in processor time.

A time-out by thread or SIGALRM cannot interrupt a long C call such as ``9^9^9^9``, which blocks the whole process;
SIGKILL can. Workers are forked from a separate template process (:mod:`rewards.pool_template`) that has already loaded
everything they need. So a killed worker is replaced in milliseconds, and no worker shares this process's memory,
threads or CUDA context. Deadlines count the worker's processor time, so that a busy machine does not turn a correct
answer into a time-out.
"""

import atexit
import os
import queue
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rewards.sandbox.wire import Frames, send_frame

ROOT = Path(__file__).resolve().parent.parent
START_DEADLINE_S = 60.0
"""Seconds that a template may take to import what its workers need; generous, for busy machines."""
MAX_REPLY_BYTES = 2**20
_PATIENCE = 10
"""A worker is killed after this many times its deadline in real time, in case it waits instead of computing."""


@dataclass(frozen=True, slots=True)
class Reply:
    """Result of a request: ``ok`` with the worker's value, ``timeout``, or ``crash`` (the worker died)."""

    status: Literal["ok", "timeout", "crash"]
    value: Any = None


@dataclass(slots=True)
class _Waiting:
    request: Any
    deadline_s: float
    future: "Future[Reply]" = field(default_factory=Future)


class WorkerPool:
    """A bounded number of worker processes; one that exceeds a deadline or dies is replaced without affecting others.

    The pool is thread-safe. Workers start when they are first needed, and each is served by a daemon thread.

    Args:
        module: Name of a module with ``load()``, called once in the template, and ``answer(request)``, called in the
            workers. Requests and replies must be serialisable as JSON.
        n_workers: Maximum number of workers; 0 means one per core.
        memory_bytes: Address-space limit of a worker.
        max_calls: Number of requests after which a worker is replaced, because sympy's caches grow without bound.
        max_waiting: Number of requests that may wait; further submissions block.
    """

    def __init__(
        self,
        module: str,
        n_workers: int = 1,
        memory_bytes: int = 1536 * 2**20,
        max_calls: int = 2000,
        max_waiting: int = 4096,
    ) -> None:
        self._module, self._memory_bytes, self._max_calls = module, memory_bytes, max_calls
        self._n_workers = n_workers or os.cpu_count() or 1
        self._items: queue.Queue[_Waiting | None] = queue.Queue(max_waiting)
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._alive: set[_Worker] = set()
        self._template: _Template | None = None
        self._closed, self._owner, self._idle = False, os.getpid(), 0
        self.counts = {"ok": 0, "timeout": 0, "crash": 0}

    def submit(self, request: Any, deadline_s: float) -> "Future[Reply]":
        """Queues one JSON-able request; blocks while the queue is full. ``asyncio.wrap_future`` makes it awaitable.

        Args:
            request: Any value that can be serialised as JSON.
            deadline_s: Processor seconds that the worker may use for the request before it is killed; it is also killed
                after ten times as many real seconds.

        Raises:
            RuntimeError: If the pool is closed, or was created by a process that this one was forked from.
        """
        if self._closed or os.getpid() != self._owner:
            raise RuntimeError(f"this pool of {self._module!r} is closed, or another process's: make one here")
        item = _Waiting(request, deadline_s)
        self._items.put(item)
        with self._lock:
            # A further worker starts only if more requests wait than workers are idle: a fork with sympy loaded is
            # quick but costs memory.
            if len(self._threads) < self._n_workers and self._idle < self._items.qsize():
                thread = threading.Thread(target=self._work, name=f"pool-{len(self._threads)}", daemon=True)
                self._threads.append(thread)
                thread.start()
        return item.future

    def call(self, request: Any, deadline_s: float) -> Reply:
        """Sends one request and waits for its reply.

        Raises:
            RuntimeError: If no worker can be started, for example because a package is missing.
        """
        return self.submit(request, deadline_s).result()

    def close(self) -> None:
        """Kills every worker; waiting requests fail with ``RuntimeError``. Safe to call twice and in a forked child."""
        if os.getpid() != self._owner:
            return
        self._closed = True
        with suppress(queue.Empty):
            while (item := self._items.get_nowait()) is not None:
                if item.future.set_running_or_notify_cancel():  # false if the caller has cancelled the request
                    item.future.set_exception(RuntimeError("the pool was closed"))
        with self._lock:
            workers, threads, template = list(self._alive), list(self._threads), self._template
        for worker in workers:
            worker.kill()
        if template is not None:
            template.kill()
        # Each thread gets one None, which ends it; a thread in the middle of a request finds its worker dead first.
        for _ in threads:
            self._items.put(None)
        for thread in threads:
            thread.join(timeout=5)

    def _work(self) -> None:
        worker: _Worker | None = None
        while True:
            with self._lock:
                self._idle += 1
            item = self._items.get()
            with self._lock:
                self._idle -= 1
            if item is None:
                break
            if not item.future.set_running_or_notify_cancel():  # the caller has cancelled the request
                continue
            try:
                if worker is None or worker.calls >= self._max_calls:
                    self._retire(worker)
                    worker = None
                    worker = self._start()
                reply = worker.ask(item.request, item.deadline_s)
            except Exception as error:
                self._retire(worker)
                worker = None
                item.future.set_exception(error)
                continue
            # The channel of a worker that did not answer may hold part of a reply, so the worker is not used again.
            if reply.status != "ok":
                self._retire(worker)
                worker = None
            with self._lock:
                self.counts[reply.status] += 1
            item.future.set_result(reply)
        self._retire(worker)

    def _start(self) -> "_Worker":
        with self._lock:
            if self._closed:
                raise RuntimeError("the pool was closed")
            try:
                fresh = self._fork()
            except OSError:  # the template died: try once more with a new template
                assert self._template is not None
                self._template.kill()
                self._template = None
                fresh = self._fork()
            self._alive.add(fresh)
        return fresh

    def _fork(self) -> "_Worker":
        if self._template is None:
            self._template = _Template(self._module, self._memory_bytes)
        return self._template.fork()

    def _retire(self, worker: "_Worker | None") -> None:
        if worker is not None:
            worker.kill()
            with self._lock:
                self._alive.discard(worker)


_shared: dict[tuple[int, str], WorkerPool] = {}
_shared_lock = threading.Lock()


def shared_pool(module: str) -> WorkerPool:
    """The pool of this process for a worker module: one worker per core, closed at exit, not shared by forks."""
    key = (os.getpid(), module)
    with _shared_lock:
        if key not in _shared:
            _shared[key] = WorkerPool(module, n_workers=0)
            atexit.register(_shared[key].close)
        return _shared[key]


class _Template:
    """The process that workers are forked from, and its control socket."""

    def __init__(self, module: str, memory_bytes: int) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-m", "rewards.pool_template", module, str(memory_bytes)]
        with theirs:
            self._process = subprocess.Popen(
                command,
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=ROOT,
                start_new_session=True,  # so that Ctrl-C reaches only the parent process
            )
        self._control.settimeout(START_DEADLINE_S)
        try:
            started = self._control.recv(64) == b"ready"
        except OSError:
            started = False
        if not started:
            self.kill()
            raise RuntimeError(f"workers of {module!r} did not start; run `{' '.join(command)} < /dev/null` to see why")

    def fork(self) -> "_Worker":
        """A new worker; raises ``OSError`` if the template is gone."""
        ours, theirs = socket.socketpair()
        with theirs:
            # The template receives the worker's end of the channel and returns the worker's process id and a pidfd.
            # Unlike a process id, a pidfd can never come to mean a later process.
            socket.send_fds(self._control, [b"fork"], [theirs.fileno()])
            data, handles, _, _ = socket.recv_fds(self._control, 64, 1)
        if not data:
            ours.close()
            raise OSError("the template is gone")
        return _Worker(ours, handles[0], int(data))

    def kill(self) -> None:
        self._control.close()
        self._process.kill()
        self._process.wait()


class _Worker:
    """One worker: its channel, its pidfd (``handle``), and the clock of its processor time."""

    def __init__(self, channel: socket.socket, handle: int, pid: int) -> None:
        self.calls = 0
        # The clock id of another process, as clock_getcpuclockid(3) makes it.
        self._channel, self._handle, self._clock = channel, handle, (~pid << 3) | 2
        self._ending = threading.Lock()
        self._frames = Frames(channel)
        channel.settimeout(START_DEADLINE_S)  # so that a worker that stops in the middle of a frame counts as crashed
        self._poll = select.poll()
        self._poll.register(channel, select.POLLIN)

    def ask(self, request: Any, deadline_s: float) -> Reply:
        self.calls += 1
        try:
            began, used_s = time.monotonic(), time.clock_gettime(self._clock)
            send_frame(self._channel, request)
            left_s = deadline_s
            # Processor time passes no faster than real time, so the deadline cannot be reached before the poll ends.
            while not self._poll.poll(1000 * left_s + 1):
                left_s = deadline_s - (time.clock_gettime(self._clock) - used_s)
                if left_s <= 0 or time.monotonic() - began > _PATIENCE * deadline_s:
                    return Reply("timeout")
            return Reply("ok", self._frames.receive(MAX_REPLY_BYTES))
        except OSError:
            return Reply("crash")

    def kill(self) -> None:
        """Kills the process and closes the channel; safe to call twice and from several threads."""
        # The handle is taken by one thread only: a closed descriptor's number may already mean another file.
        with self._ending:
            handle, self._handle = self._handle, -1
        if handle >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
            os.close(handle)
            self._channel.close()
