"""Stops a run cleanly after a signal, on a full disk, or when another process has taken over its folder.

In all three cases finished work is kept, and the same command with ``resume`` continues the run.
"""

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from experiments.cli import SIGNALS, Terminated
from experiments.folders import Lock, hold
from experiments.jobs import Report
from rl.backends.distributed import Distributed
from rl.tracking import is_disk_full
from rl.types import RunStoppedError

EXIT_PREEMPTED = os.EX_TEMPFAIL
"""Exit status of a run that a signal ended and that can be resumed."""


class Preempted(Terminated):
    """A signal ended the run after it was saved; the program exits with :data:`EXIT_PREEMPTED`."""


class Stopping:
    """Context manager around the work of a run: locks its folder, records signals, and explains a full disk.

    Args:
        folder: Folder of the run.
        distributed: Process group; a signal to one process stops all at the same step.
    """

    def __init__(self, folder: Path, distributed: Distributed | None = None) -> None:
        self._folder, self._distributed = folder, distributed
        self._hold, self._lock = None, None
        if distributed is None or distributed.is_main:
            self._hold = hold(folder)
        self._signalled = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Stopping":
        if self._hold is not None:
            self._lock: Lock | None = self._hold.__enter__()
        # Python handles signals only in the main thread; a run in another thread is stopped by its caller.
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._hold is not None:
            self._hold.__exit__(None, None, None)
        if error is not None and is_disk_full(error):
            raise RunStoppedError(
                f"no space left on the disk of {self._folder}: half-written files are removed; make room, then "
                f"continue with resume={self._folder}"
            ) from error

    # The handler only sets a flag: a checkpoint that is written in the middle of a step would be inconsistent.
    def _note(self, *_: Any) -> None:
        self._signalled = True

    def check(self, save: Callable[[], None]) -> None:
        """Ends the run if one process got a signal or the folder was lost; all processes must call it together.

        Args:
            save: Called before the run ends after a signal.

        Raises:
            Preempted: If one of the processes got a signal.
            RunStoppedError: If another process has taken over the folder.
        """
        lost = self._lock is not None and self._lock.lost
        state = 2 if lost else int(self._signalled)
        # The maximum over all processes: if a single process left, the others would wait forever in their next
        # collective. A lost folder (2) ranks above a signal (1), because then nothing may be saved any more.
        state = state if self._distributed is None else max(self._distributed.gather([state]))
        if state == 2:
            raise RunStoppedError(f"another process has taken over {self._folder}; this one writes nothing more")
        if state:
            save()
            raise self._preempted

    def asked_by(self, report: Report) -> Report:
        """Wraps ``report`` so that a run of one process also ends after a signal in phases that need no saving."""

        def reported(what: str, share: float, metrics: dict[str, float]) -> None:
            report(what, share, metrics)
            if self._signalled and (self._distributed is None or self._distributed.n_processes == 1):
                raise self._preempted

        return reported

    @property
    def _preempted(self) -> Preempted:
        return Preempted(f"what is done is kept in {self._folder}: continue with resume={self._folder}")
