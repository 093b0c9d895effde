"""The sandbox that everybody in this process shares: started when it is first needed, closed at exit."""

import atexit
import os
import threading

from rewards.sandbox import Mode, Sandbox

_lock = threading.Lock()
_shared: dict[tuple[int, Mode], Sandbox] = {}


def get_sandbox(minimum: Mode = Mode.STRICT) -> Sandbox:
    """The shared sandbox of at least this isolation; a forked process gets one of its own.

    Raises:
        SandboxError: If this machine does not give the isolation.
    """
    key = (os.getpid(), minimum)
    with _lock:
        if key not in _shared:
            _shared[key] = Sandbox(minimum=minimum)
            atexit.register(_shared[key].close)
        return _shared[key]


def in_use() -> list[dict[str, object]]:
    """Mode, layers and counts of the sandboxes of this process, for the record of a run."""
    return [
        {
            "mode": sandbox.mode.name.lower(),
            "layers": sandbox.layers,
            "missing": sandbox.missing,
            "endings": {ending.value: n for ending, n in sandbox.counts.items()},
        }
        for (pid, _), sandbox in _shared.items()
        if pid == os.getpid()
    ]
