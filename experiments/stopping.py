"""Ends of a run that are nobody's mistake: a signal of the cluster, a disk that is full, a folder that was lost.

In all of them what was computed is kept, and the same command with ``resume`` goes on.
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
"""Exit status of a run that a signal ended: it can go on."""


class Preempted(Terminated):
    """A signal ended the run, which was saved first; the program ends with :data:`EXIT_PREEMPTED`."""


class Stopping:
    """Around the work of a run: holds its folder, notes signals, and says in words that the disk is full.

    Args:
        folder: Of the run.
        distributed: Processes; a signal to one of them stops all at the same step.
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
        # Python lets only the main thread handle signals; a run in another one is stopped by whoever started it.
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
                f"no space left on the disk of {self._folder}: what was half written is removed; make room, then go on "
                f"with resume={self._folder}"
            ) from error

    # The handler only notes: a checkpoint in the middle of a step would hold half of it.
    def _note(self, *_: Any) -> None:
        self._signalled = True

    def check(self, save: Callable[[], None]) -> None:
        """Leaves the run if it is to be left; all processes call it at the same places.

        Args:
            save: Called before the run is left.

        Raises:
            Preempted: If a signal came to one of the processes.
            RunStoppedError: If another process has taken over the folder.
        """
        lost = self._lock is not None and self._lock.lost
        state = 2 if lost else int(self._signalled)
        # The worst of all processes: one that left alone would leave the others waiting in their next collective. 2, a
        # lost folder, comes before 1, a signal, since then nothing may be saved any more.
        state = state if self._distributed is None else max(self._distributed.gather([state]))
        if state == 2:
            raise RunStoppedError(f"another process has taken over {self._folder}; this one writes nothing more")
        if state:
            save()
            raise self._preempted

    def asked_by(self, report: Report) -> Report:
        """A report of progress after which a run of one process is left, where nothing has to be saved for it."""

        def reported(what: str, share: float, metrics: dict[str, float]) -> None:
            report(what, share, metrics)
            if self._signalled and (self._distributed is None or self._distributed.n_processes == 1):
                raise self._preempted

        return reported

    @property
    def _preempted(self) -> Preempted:
        return Preempted(f"what is done is kept in {self._folder}: go on with resume={self._folder}")
