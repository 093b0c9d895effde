"""Killable worker processes with a hard deadline per request.

A thread or SIGALRM time-out cannot stop a C call and starves the whole process (``9^9^9^9``); SIGKILL can. A worker is
a fresh interpreter running ``python -m <module> <memory limit>``, which prints one ``{"ready": true}`` line and then
one JSON line per JSON line that it reads. It never inherits the parent's memory, threads or CUDA context.
"""

import json
import os
import resource
import select
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from typing import Any, Literal

ROOT = Path(__file__).resolve().parent.parent
START_DEADLINE_S = 60.0
"""Seconds that a worker may take to import what it needs on a busy machine."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What became of a request: ``ok`` with the worker's value, or ``timeout``, or ``crash`` (the worker died)."""

    status: Literal["ok", "timeout", "crash"]
    value: Any = None


class WorkerPool:
    """A fixed number of workers, each killed and replaced when it passes a deadline or dies.

    Thread-safe: concurrent ``call``s wait for a free worker. Workers start on first use.

    Args:
        module: Importable module that is run with ``python -m``.
        n_workers: Number of processes.
        memory_bytes: Address-space limit of a worker.
        max_calls: A worker is replaced after this many requests (sympy's caches grow without bound).
    """

    def __init__(
        self,
        module: str,
        n_workers: int = 1,
        memory_bytes: int = 1536 * 2**20,
        max_calls: int = 2000,
    ) -> None:
        self._module, self._memory_bytes, self._max_calls = module, memory_bytes, max_calls
        self._idle: Queue[_Worker | None] = Queue()
        for _ in range(n_workers):
            self._idle.put(None)  # a slot whose process is started when it is first needed
        self._lock = threading.Lock()
        self._alive: set[_Worker] = set()
        self.counts = {"ok": 0, "timeout": 0, "crash": 0}

    def call(self, request: Any, deadline_s: float) -> Reply:
        """Sends one JSON-able request and waits at most ``deadline_s`` seconds for the answer.

        Raises:
            RuntimeError: If no worker can be started (a missing package, say): that is our failure, not the input's.
        """
        worker = self._idle.get()
        try:
            if worker is None or worker.calls >= self._max_calls:
                worker = self._replace(worker)
            reply = worker.ask(request, deadline_s)
            if reply.status != "ok":
                self._retire(worker)
                worker = None
        except BaseException:
            if worker is not None:
                self._retire(worker)
                worker = None
            raise
        finally:
            self._idle.put(worker)
        self.counts[reply.status] += 1
        return reply

    def close(self) -> None:
        """Kills every worker. Safe to call twice."""
        for worker in list(self._alive):
            self._retire(worker)

    def _replace(self, worker: "_Worker | None") -> "_Worker":
        if worker is not None:
            self._retire(worker)
        fresh = _Worker(self._module, self._memory_bytes)
        with self._lock:
            self._alive.add(fresh)
        return fresh

    def _retire(self, worker: "_Worker") -> None:
        worker.kill()
        with self._lock:
            self._alive.discard(worker)


def limit_memory() -> None:
    """Called first by a worker: caps its own address space at the bytes given on its command line."""
    limit = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


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
            if not chunk:
                self._process.wait()
                return None
            self._buffer += chunk
        line, self._buffer = self._buffer.split(b"\n", 1)
        return line
