"""What can be asked of a sandbox, and what comes back: jobs, limits, outcomes."""

from concurrent.futures import Future
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from rewards.sandbox.confinement import Mode


class SandboxError(RuntimeError):
    """The sandbox cannot do its work here; the message names the layer that is missing and what would help."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one program may use. Processor time is what counts: a busy machine or a paused trainer stops no program.

    Args:
        cpu_s: Processor seconds for one test, loading included for the first.
        total_s: Processor seconds for all tests of one process; 0 allows ``cpu_s`` for each.
        wall_s: Seconds from fork to kill, a backstop; 0 takes ten times the processor time, and 10 more. A program that
            sleeps is stopped before, after twice ``cpu_s``.
        output_bytes: Of standard output and error; more is dropped.
        result_bytes: Of one reply with a result; a larger one is a failure.
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
        """Processor and real seconds for so many tests."""
        total_s = self.total_s or self.cpu_s * max(n_tests, 1)
        return total_s, self.wall_s or 10 * total_s + 10


class Ending(StrEnum):
    """How a program's process ended."""

    FINISHED = "finished"
    TIMEOUT = "timeout"
    """Killed at a limit of time."""
    DIED = "died"
    """It ended or was killed before it had answered."""
    BROKEN = "broken"
    """The sandbox failed, not the program."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came back of one program.

    Args:
        ending: How its process ended.
        replies: What was answered until then, as sent by an untrusted process: one reply for loading, one for a call.
        output: What it printed before the answer to the request marked for it; of a script, its standard output.
        errors: Of a script, its standard error.
        signal: The signal that killed it, 0 for none.
        exit: Its exit status, -1 if a signal killed it.
        cpu_s: Processor seconds.
        detail: For ``BROKEN``, what happened; for ``TIMEOUT``, which limit.
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
    """Requests to one candidate's process, in order; the next is sent only when the one before is answered.

    Args:
        requests: JSON messages (see ``candidate.py``).
        output_after: What was printed is read once this many requests are answered: a program can print only what it
            has received by then.
    """

    requests: tuple[dict[str, Any], ...]
    output_after: int = 0

    @property
    def n_tests(self) -> int:
        """Calls, at least one."""
        return max(sum(len(request.get("calls", ())) for request in self.requests), 1)


@dataclass(frozen=True, slots=True)
class Script:
    """A whole program and its standard input; it is ``FINISHED`` if it ended by itself, with whatever status."""

    source: str
    stdin: bytes = b""
    output_after = 0
    n_tests = 1

    @property
    def requests(self) -> tuple[dict[str, Any], ...]:
        """The program itself; it sends no replies."""
        return ({"kind": "script", "source": self.source},)


@dataclass(frozen=True, slots=True)
class Judgement:
    """A program and arbitrary test code, each in a process of its own; one reply for each test."""

    request: dict[str, Any]
    output_after = 0

    @property
    def requests(self) -> tuple[dict[str, Any], ...]:
        """Program and tests, for the judge."""
        return (self.request | {"kind": "tests"},)

    @property
    def n_tests(self) -> int:
        """Pieces of test code."""
        return len(self.request["tests"])


Job = Conversation | Script | Judgement


class Runner(Protocol):
    """Whatever runs programs: a :class:`Sandbox`, or a server (:class:`rewards.sandbox.remote.RemoteSandbox`)."""

    judges: bool
    """Whether tests that are arbitrary code can be run."""
    settings: tuple[object, ...]
    """What else decides a verdict (isolation, memory, modules); part of the key under which it is remembered."""
    missing: list[str]
    counts: dict[Ending, int]

    @property
    def mode(self) -> Mode | str:
        """The isolation."""
        ...

    @property
    def layers(self) -> list[str]:
        """What it consists of."""
        ...

    def submit(self, job: Job, limits: Limits) -> "Future[Outcome]":
        """Queues a program."""
        ...

    def run(self, job: Job, limits: Limits) -> Outcome:
        """Runs one program and waits for it."""
        ...

    def close(self) -> None:
        """Ends it."""
        ...
