"""Killable worker processes with a hard deadline per request.

A thread or SIGALRM time-out cannot stop a C call and starves the whole process (``9^9^9^9``); SIGKILL can. A worker is
a fresh interpreter running ``python -m <module> <memory limit>``, which prints one ``{"ready": true}`` line and then
one JSON line per JSON line that it reads. It never inherits the parent's memory, threads or CUDA context.
"""

import atexit
import json
import os
import queue
import resource
import select
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).resolve().parent.parent
START_DEADLINE_S = 60.0
"""Seconds that a worker may take to import what it needs on a busy machine."""
MAX_REPLY_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Reply:
    """What became of a request: ``ok`` with the worker's value, or ``timeout``, or ``crash`` (the worker died)."""

    status: Literal["ok", "timeout", "crash"]
    value: Any = None


@dataclass(slots=True)
class _Item:
    request: Any
    deadline_s: float
    future: "Future[Reply]" = field(default_factory=Future)


class WorkerPool:
    """A fixed number of workers, each killed and replaced when it passes a deadline or dies; others lose nothing.

    Thread-safe. Workers start on first use, one thread each, so that a process dies with its pool.

    Args:
        module: Importable module that is run with ``python -m``.
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
        self._items: queue.Queue[_Item | None] = queue.Queue(max_waiting)
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._alive: set[_Worker] = set()
        self._closed, self._owner, self._idle = False, os.getpid(), 0
        self.counts = {"ok": 0, "timeout": 0, "crash": 0}

    def submit(self, request: Any, deadline_s: float) -> "Future[Reply]":
        """Queues one JSON-able request; blocks while the queue is full. ``asyncio.wrap_future`` makes it awaitable.

        Args:
            request: Sent to a worker as one line.
            deadline_s: Seconds from the moment a worker gets it until that worker is killed.

        Raises:
            RuntimeError: If the pool is closed, or belongs to a process that this one was forked from.
        """
        if self._closed or os.getpid() != self._owner:
            raise RuntimeError(f"this pool of {self._module!r} is closed, or another process's: make one here")
        item = _Item(request, deadline_s)
        self._items.put(item)
        with self._lock:
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
                item.future.set_exception(RuntimeError("the pool was closed"))
        with self._lock:
            workers, threads = list(self._alive), list(self._threads)
        for worker in workers:
            worker.kill()
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
            if reply.status != "ok":
                self._retire(worker)
                worker = None
            with self._lock:
                self.counts[reply.status] += 1
            item.future.set_result(reply)
        self._retire(worker)

    def _start(self) -> "_Worker":
        fresh = _Worker(self._module, self._memory_bytes)
        with self._lock:
            self._alive.add(fresh)
            closed = self._closed
        if closed:
            self._retire(fresh)
            raise RuntimeError("the pool was closed")
        return fresh

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


def confine_worker() -> None:
    """Called by a worker after its imports: caps its address space and takes away network and other processes.

    The cap is given on its command line. Where there is no seccomp the limits alone remain: these workers run our own
    code, and what they read is text.
    """
    limit = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    from rewards.sandbox import kernel, seccomp

    with suppress(OSError):
        kernel.prctl(kernel.PR_SET_PDEATHSIG, 9)
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        seccomp.install(seccomp.worker_filter())


class _Worker:
    def __init__(self, module: str, memory_bytes: int) -> None:
        self.calls = 0
        self._buffer = b""
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, str(memory_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
            start_new_session=True,  # Ctrl-C goes to the parent, which decides
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        if self._read_line(START_DEADLINE_S) is None:
            self.kill()
            raise RuntimeError(f"worker {module!r} did not start; run `python -m {module} {memory_bytes}` to see why")

    def ask(self, request: Any, deadline_s: float) -> Reply:
        self.calls += 1
        try:
            self._stdin.write(json.dumps(request).encode() + b"\n")
            self._stdin.flush()
        except BrokenPipeError:
            return Reply("crash")
        line = self._read_line(deadline_s)
        if line is None:
            return Reply("timeout" if self._process.poll() is None else "crash")
        return Reply("ok", json.loads(line))

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._stdin, self._stdout):
            with suppress(BrokenPipeError):
                stream.close()

    def _read_line(self, deadline_s: float) -> bytes | None:
        """One line, or ``None`` at the deadline or at the end of the stream."""
        end = time.monotonic() + deadline_s
        while b"\n" not in self._buffer:
            remaining = end - time.monotonic()
            if remaining <= 0 or not select.select([self._stdout], [], [], remaining)[0]:
                return None
            chunk = os.read(self._stdout.fileno(), 65536)
            if not chunk or len(self._buffer) > MAX_REPLY_BYTES:
                self._process.kill()
                self._process.wait()
                return None
            self._buffer += chunk
        line, self._buffer = self._buffer.split(b"\n", 1)
        return line
