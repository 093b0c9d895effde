"""The sandbox that everybody in this process shares: started when it is first needed, closed at exit."""

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
"""By name, what starts a sandbox: something with the interface of :class:`rewards.sandbox.Sandbox`."""


@dataclass(frozen=True, slots=True)
class SandboxOptions:
    """``env.options.sandbox``: where programs run, and what they may use.

    Args:
        backend: ``local``, or ``http`` for a server that runs programs.
        isolation: The least isolation: ``namespaces``, ``landlock``, ``strict``; or ``none``, limits alone.
        modules: Installed packages that programs may import, besides the standard library.
        total_s: Processor seconds for all tests of a program; 0 allows the time of one for each.
        wall_s: Real seconds of one process, a backstop; 0 takes ten times its processor time, and 10 more.
        memory_mb: Address space of a process in MiB.
        output_kb: Output that is kept, in KiB; expected outputs that are longer have room all the same.
        workers: Programs at a time; 0 for one more than this process may use processors.
        url: Of the server, for ``http``.
        retries: How often a request to it is made again, for ``http``.
        cache: Remember verdicts on disk, for programs that do the same every time; see :mod:`rewards.verdict_cache`.

    Raises:
        ValueError: For an unknown isolation or a limit that makes no sense.
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
        """From a config; raises ``ValueError`` for an unknown option."""
        known = [field.name for field in fields(cls) if field.name != "isolation"]
        for name in given:
            if name not in known:
                raise ValueError(
                    f"env.options.sandbox.{name}: no such option{nearest(name, known)} It has: {', '.join(known)}"
                )
        refuse_other_types("env.options.sandbox", given, cls)
        return cls(isolation=isolation, **{**given, "modules": tuple(given.get("modules", ()))})

    def limits(self, cpu_s: float) -> Limits:
        """Limits of a process, with so many processor seconds for a test."""
        return Limits(cpu_s, self.total_s, self.wall_s, 1024 * self.output_kb)


@BACKENDS.register("local")
def _local(options: SandboxOptions) -> Sandbox:
    """Processes of this machine, isolated by its kernel."""
    minimum = Mode[options.isolation.upper()]
    return Sandbox(options.workers, minimum=minimum, memory_bytes=options.memory_mb * 2**20, modules=options.modules)


@BACKENDS.register("http")
def _http(options: SandboxOptions) -> Runner:
    """A server with the interface of SandboxFusion; the isolation is its affair."""
    from rewards.sandbox.remote import RemoteSandbox  # its client is slow to import, and seldom needed

    return RemoteSandbox(options.url, options.workers, options.retries)


VERDICTS = VerdictCache()
"""Of this process; all processes share its file."""
_lock = threading.Lock()
_shared: dict[tuple[int, SandboxOptions], Runner] = {}


def get_sandbox(options: SandboxOptions = SandboxOptions()) -> Runner:
    """The shared sandbox with these options; a forked process gets one of its own.

    Raises:
        SandboxError: If this machine does not give the isolation, or lacks one of the modules.
    """
    # By process: the threads and sockets of a sandbox do not survive a fork.
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
