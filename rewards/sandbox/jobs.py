"""Interface of a sandbox: the jobs that it runs, their limits and their outcomes."""

from concurrent.futures import Future
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from rewards.sandbox.confinement import Mode


class SandboxError(RuntimeError):
    """Raised if the sandbox cannot run; the message says what is missing and, if possible, what would help."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Resources that one program may use.

    The main limits count processor time, so that a busy machine or a paused trainer does not stop a program.

    Args:
        cpu_s: Processor seconds for one test; for the first test, loading the program is included.
        total_s: Processor seconds for all tests of one process; 0 allows ``cpu_s`` for each test.
        wall_s: Real seconds from fork to kill; 0 means ten times the processor seconds for all tests, plus 10. A
            program that only sleeps is stopped earlier, after about twice ``cpu_s``.
        output_bytes: Bytes of standard output and error that are kept; further output is dropped.
        result_bytes: Largest size of a reply with a result; a larger reply is a failure.
    """

    cpu_s: float = 5.0
    total_s: float = 0.0
    wall_s: float = 0.0
    output_bytes: int = 64 * 1024
    result_bytes: int = 2 * 2**20

    def __post_init__(self) -> None:
        if self.cpu_s <= 0 or min(self.total_s, self.wall_s, self.output_bytes) < 0 or self.result_bytes < 1:
            raise ValueError(f"limits must be positive, got {self}")

    def in_all(self, n_tests: int) -> tuple[float, float]:
        """Processor seconds and real seconds for ``n_tests`` tests together."""
        total_s = self.total_s or self.cpu_s * max(n_tests, 1)
        return total_s, self.wall_s or 10 * total_s + 10


class Ending(StrEnum):
    """How a program's process ended."""

    FINISHED = "finished"
    TIMEOUT = "timeout"
    """The process was killed at a time limit."""
    DIED = "died"
    """The process ended or was killed before it had answered."""
    BROKEN = "broken"
    """The sandbox failed, not the program."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of running one program.

    Args:
        ending: How the program's process ended.
        replies: Replies that were received until then, one for loading and one for each call. They come from an
            untrusted process, unless a judge sent them.
        output: Output up to the reply to request number ``output_after``; for a script, its standard output.
        errors: Standard error of a script; empty for other jobs.
        signal: Signal that killed the process; 0 if none did.
        exit: Exit status of the process; -1 if a signal killed it.
        cpu_s: Processor seconds that were used.
        detail: For ``BROKEN``, what happened; for ``TIMEOUT``, which limit was reached.
    """

    ending: Ending
    replies: tuple[Any, ...] = ()
    output: bytes = b""
    errors: bytes = b""
    signal: int = 0
    exit: int = -1
    cpu_s: float = 0.0
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Conversation:
    """Requests to the process of one program (the candidate), answered in order.

    The first ``output_after`` requests are sent together. Each later request is sent only after all earlier ones are
    answered.

    Args:
        requests: JSON messages (see ``candidate.py``).
        output_after: Number of answered requests after which the output is read, so that the output cannot depend on
            later requests.
    """

    requests: tuple[dict[str, Any], ...]
    output_after: int = 0

    @property
    def n_tests(self) -> int:
        """Number of calls, at least 1."""
        return max(sum(len(request.get("calls", ())) for request in self.requests), 1)


@dataclass(frozen=True, slots=True)
class Script:
    """A whole program and its standard input; ``FINISHED`` if the program ended by itself, with any exit status."""

    source: str
    stdin: bytes = b""
    output_after = 0
    n_tests = 1

    @property
    def requests(self) -> tuple[dict[str, Any], ...]:
        """The one request, which holds the program; it gets no reply."""
        return ({"kind": "script", "source": self.source},)


@dataclass(frozen=True, slots=True)
class Judgement:
    """A program and arbitrary test code, in separate processes; there is one reply for each test."""

    request: dict[str, Any]
    output_after = 0

    @property
    def requests(self) -> tuple[dict[str, Any], ...]:
        """The one request to the judge, which holds the program and the tests."""
        return (self.request | {"kind": "tests"},)

    @property
    def n_tests(self) -> int:
        """Number of pieces of test code."""
        return len(self.request["tests"])


Job = Conversation | Script | Judgement


class Runner(Protocol):
    """Anything that runs programs: a :class:`Sandbox` or a server (:class:`rewards.sandbox.remote.RemoteSandbox`)."""

    judges: bool
    """Whether tests that are arbitrary code can be run."""
    settings: tuple[object, ...]
    """Settings that may change a verdict (isolation, memory, modules); part of the key in the verdict cache."""
    missing: list[str]
    counts: dict[Ending, int]

    @property
    def mode(self) -> Mode | str:
        """The mode of isolation."""
        ...

    @property
    def layers(self) -> list[str]:
        """Names of the layers of isolation."""
        ...

    def submit(self, job: Job, limits: Limits) -> "Future[Outcome]":
        """Queues a program."""
        ...

    def run(self, job: Job, limits: Limits) -> Outcome:
        """Runs one program and waits for it."""
        ...

    def close(self) -> None:
        """Stops the runner."""
        ...
