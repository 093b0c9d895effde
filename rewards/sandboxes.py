"""The sandboxes that this process shares: each is started when it is first needed and closed at exit."""

import atexit
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from rewards.lookup import Lookup, nearest, refuse_other_types
from rewards.sandbox import Limits, Mode, Runner, Sandbox
from rewards.verdict_cache import VerdictCache

BACKENDS: "Lookup[Callable[[SandboxOptions], Runner]]" = Lookup("env.options.sandbox.backend")
"""Functions by name, each of which starts a sandbox with the interface of :class:`rewards.sandbox.Sandbox`."""


@dataclass(frozen=True, slots=True)
class SandboxOptions:
    """Options ``env.options.sandbox``: where programs run, and what they may use.

    Args:
        backend: ``local`` runs programs on this machine, ``http`` on a server.
        isolation: Least isolation that is accepted: ``strict``, ``landlock`` or ``namespaces`` (from weak to strong),
            or ``none`` for limits only.
        modules: Installed packages that programs may import, besides the standard library.
        total_s: Processor seconds for all tests of a program together; 0 allows each test its own limit.
        wall_s: Real seconds for one process; 0 means ten times its processor seconds, plus 10.
        memory_mb: Address space of a process, in MiB.
        output_kb: Output of a process that is kept, in KiB; more is kept if a longer output is expected.
        workers: Number of programs that run at a time; 0 means one more than the processors that this process may use.
        url: Address of the server, for ``http``.
        retries: How often a failed request to the server is repeated, for ``http``.
        cache: Whether to store verdicts on disk; only for deterministic programs, see :mod:`rewards.verdict_cache`.

    Raises:
        ValueError: If the isolation is unknown or a limit is out of range.
    """

    backend: str = "local"
    isolation: str = "strict"
    modules: tuple[str, ...] = ()
    total_s: float = 0.0
    wall_s: float = 0.0
    memory_mb: int = 1024
    output_kb: int = 64
    workers: int = 0
    url: str = ""
    retries: int = 3
    cache: bool = False

    def __post_init__(self) -> None:
        names = [mode.name.lower() for mode in Mode]
        if self.isolation not in names:
            raise ValueError(f"env.options.isolation={self.isolation}: use one of {', '.join(names)}")
        for name in ("total_s", "wall_s", "output_kb", "workers", "retries"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"env.options.sandbox.{name}={getattr(self, name)}: must not be negative")
        if not 64 <= self.memory_mb < float("inf"):
            raise ValueError(f"env.options.sandbox.memory_mb={self.memory_mb}: Python alone needs 64")

    @classmethod
    def of(cls, given: Mapping[str, Any], isolation: str) -> "SandboxOptions":
        """The options that a config gives; raises ``ValueError`` for an unknown option or a value of a wrong type."""
        known = [field.name for field in fields(cls) if field.name != "isolation"]
        for name in given:
            if name not in known:
                raise ValueError(
                    f"env.options.sandbox.{name}: no such option{nearest(name, known)} It has: {', '.join(known)}"
                )
        refuse_other_types("env.options.sandbox", given, cls)
        return cls(isolation=isolation, **{**given, "modules": tuple(given.get("modules", ()))})

    def limits(self, cpu_s: float) -> Limits:
        """Limits of a process that allow ``cpu_s`` processor seconds for each test."""
        return Limits(cpu_s, self.total_s, self.wall_s, 1024 * self.output_kb)


@BACKENDS.register("local")
def _local(options: SandboxOptions) -> Sandbox:
    """Runs programs in processes of this machine, isolated by its kernel."""
    minimum = Mode[options.isolation.upper()]
    return Sandbox(options.workers, minimum=minimum, memory_bytes=options.memory_mb * 2**20, modules=options.modules)


@BACKENDS.register("http")
def _http(options: SandboxOptions) -> Runner:
    """Runs programs on a server with the interface of SandboxFusion, which is responsible for their isolation."""
    from rewards.sandbox.remote import RemoteSandbox  # imported here because the HTTP client is slow to import

    return RemoteSandbox(options.url, options.workers, options.retries)


VERDICTS = VerdictCache()
"""The cache of verdicts of this process; all processes share its file."""
_lock = threading.Lock()
_shared: dict[tuple[int, SandboxOptions], Runner] = {}


def get_sandbox(options: SandboxOptions = SandboxOptions()) -> Runner:
    """The shared sandbox with these options; a forked process gets its own.

    Raises:
        SandboxError: If this machine does not provide the isolation, or lacks one of the modules.
    """
    # The key contains the process id, because the threads and sockets of a sandbox do not survive a fork.
    key = (os.getpid(), options)
    with _lock:
        if key not in _shared:
            _shared[key] = BACKENDS[options.backend](options)
            atexit.register(_shared[key].close)
        return _shared[key]


def in_use() -> list[dict[str, object]]:
    """Mode, layers and counts of the sandboxes of this process, for the record of a run."""
    return [
        {
            "backend": options.backend,
            "mode": sandbox.mode if isinstance(sandbox.mode, str) else sandbox.mode.name.lower(),
            "layers": sandbox.layers,
            "missing": sandbox.missing,
            "modules": list(options.modules),
            "endings": {ending.value: n for ending, n in sandbox.counts.items()},
            "verdicts": dict(VERDICTS.counts) if options.cache else {},
        }
        for (pid, options), sandbox in _shared.items()
        if pid == os.getpid()
    ]
