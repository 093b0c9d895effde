"""Killable worker processes with a hard deadline per request, in processor time.

A thread or SIGALRM time-out cannot stop a C call and starves the whole process (``9^9^9^9``); SIGKILL can. Workers are
forked from a template process of their own (:mod:`rewards.pool_template`), which has loaded all that they need: a
killed one is replaced in milliseconds, and none has this process's memory, threads or CUDA context. Deadlines count the
worker's processor time, so that a busy machine makes no time-out of a right answer.
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
"""Seconds that a template may take to import what its workers need on a busy machine."""
MAX_REPLY_BYTES = 2**20
_PATIENCE = 10
"""Real time per deadline after which a worker that does not even compute is killed."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What became of a request: ``ok`` with the worker's value, or ``timeout``, or ``crash`` (the worker died)."""

    status: Literal["ok", "timeout", "crash"]
    value: Any = None


@dataclass(slots=True)
class _Waiting:
    request: Any
    deadline_s: float
    future: "Future[Reply]" = field(default_factory=Future)


class WorkerPool:
    """A fixed number of workers, each killed and replaced when it passes a deadline or dies; others lose nothing.

    Thread-safe. Workers start on first use, one thread each, so that a process dies with its pool.

    Args:
        module: Importable module with ``load()``, called once, and ``answer(request)``, called in the workers; requests
            and replies are what JSON holds.
        n_workers: Number of processes; 0 for one per core.
        memory_bytes: Address-space limit of a worker.
        max_calls: A worker is replaced after this many requests (sympy's caches grow without bound).
        max_waiting: Requests that may wait; further submissions block.
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
            request: Anything that JSON holds.
            deadline_s: Processor seconds that a worker may take for it before it is killed; real seconds times ten.

        Raises:
            RuntimeError: If the pool is closed, or belongs to a process that this one was forked from.
        """
        if self._closed or os.getpid() != self._owner:
            raise RuntimeError(f"this pool of {self._module!r} is closed, or another process's: make one here")
        item = _Waiting(request, deadline_s)
        self._items.put(item)
        with self._lock:
            # A further worker only when nobody is free to take what waits: forks of sympy are cheap in time but not in
            # memory.
            if len(self._threads) < self._n_workers and self._idle < self._items.qsize():
                thread = threading.Thread(target=self._work, name=f"pool-{len(self._threads)}", daemon=True)
                self._threads.append(thread)
                thread.start()
        return item.future

    def call(self, request: Any, deadline_s: float) -> Reply:
        """Sends one request and waits for its reply.

        Raises:
            RuntimeError: If no worker can be started (a missing package, say): that is our failure, not the input's.
        """
        return self.submit(request, deadline_s).result()

    def close(self) -> None:
        """Kills every worker; what waits fails with ``RuntimeError``. Safe to call twice, and in a forked child."""
        if os.getpid() != self._owner:
            return
        self._closed = True
        with suppress(queue.Empty):
            while (item := self._items.get_nowait()) is not None:
                if item.future.set_running_or_notify_cancel():  # else whoever asked has given up
                    item.future.set_exception(RuntimeError("the pool was closed"))
        with self._lock:
            workers, threads, template = list(self._alive), list(self._threads), self._template
        for worker in workers:
            worker.kill()
        if template is not None:
            template.kill()
        # One end for each thread; those that are in a request find its worker dead first.
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
            # Whoever waited for it has given up.
            if not item.future.set_running_or_notify_cancel():
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
            # A worker that was stopped halfway may hold half a reply: it is never asked again.
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
            except OSError:  # the template died: once more from a new one
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
    """This process's pool for a worker module, one worker per core, closed at exit; a forked child gets its own."""
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
                start_new_session=True,  # Ctrl-C goes to the parent, which decides
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
            # The worker's end of the channel goes to the template; back come its number and a pidfd, which no later
            # process can take over.
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
    """One worker: a channel, a handle that can only ever mean this process, and its clock."""

    def __init__(self, channel: socket.socket, handle: int, pid: int) -> None:
        self.calls = 0
        # The clock id of another process, as clock_getcpuclockid(3) makes it.
        self._channel, self._handle, self._clock = channel, handle, (~pid << 3) | 2
        self._ending = threading.Lock()
        self._frames = Frames(channel)
        channel.settimeout(START_DEADLINE_S)  # of one that neither reads nor writes, though it should
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
        """Safe to call twice and from several threads: a handle that was closed may be another file's by now."""
        with self._ending:
            handle, self._handle = self._handle, -1
        if handle >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
            os.close(handle)
            self._channel.close()
