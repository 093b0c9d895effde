"""Run folders: creates them exclusively, locks them while a process works in them, and finds them again to resume.

All coordination uses the file system, because the processes that must not share a folder may run on different machines.
"""

import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import psutil
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from experiments.cli import GROWING
from rl.backends.distributed import Distributed
from rl.checkpoint import Identity, ResumeError, checkpoint_names, read_identity
from rl.tracking import IDENTITY, files_below, removed_on_error
from rl.workbench import content_of

BEAT_S = 10.0
"""Seconds between two heartbeats of a lock."""
STALE_S = 120.0
"""Seconds without a heartbeat after which the process that holds a lock is taken for dead."""
GROWS = ("include.*", "seeds.*", "trials", "executor*", "retries", "plugins.*", "threads", "*_dir", "resume")
"""Keys whose values may differ when ``resume=auto`` looks for a comparison, a study or a tuning to continue."""
CHECKPOINTED = ("train", "sft")
"""Programs whose runs continue from their own checkpoints; those of other programs are resumed job by job."""


class LockedError(ResumeError):
    """Another process is working in the folder."""


def holder(folder: Path) -> str | None:
    """A description of the process that holds a folder's lock; ``None`` if no living process holds it."""
    try:
        path = _newest_lock(folder)[1]
        found, beat = json.loads(path.read_text() or "{}"), path.stat().st_mtime
    except FileNotFoundError:
        return None
    # On the same machine, check the process itself, including its creation time: the system reuses process ids. For a
    # process on another machine, only the heartbeat shows whether it is alive.
    if found.get("place") == _place():
        try:
            process = psutil.Process(found["pid"])
            another = abs(process.create_time() - found["born"]) > 1.0  # the process id was reused
            if another or process.status() == psutil.STATUS_ZOMBIE:
                return None
        except psutil.NoSuchProcess:
            return None
    # An empty lock file is written within moments, or its process died before writing it: wait for one heartbeat only.
    elif _now(folder) - beat > (STALE_S if found else BEAT_S):
        return None
    return f"process {found.get('pid')} on {found.get('place')}"


class Lock:
    """One process's claim to a folder: a file ``.lock.<n>``, of which the one with the highest number is valid.

    A process takes a folder over from a dead process by creating the file with the next number exclusively. If two
    processes try this at once, only one succeeds. A process that was only suspended, not dead, notices afterwards that
    its number is no longer the highest.

    Args:
        folder: Folder of the run.

    Raises:
        LockedError: If the process that holds the valid lock is alive, or another process creates the next lock first.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # Read the number before checking the holder: if another process takes over in between, its lock has this number
        # plus 1, and the exclusive creation below fails.
        number, _ = _newest_lock(folder)
        if other := holder(folder):
            raise LockedError(f"{folder} is in use by {other}: wait for it, or stop it")
        self._path = folder / f".lock.{number + 1}"
        try:
            handle = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            raise LockedError(f"{folder} was just taken by another process: wait for it, or stop it") from None
        me = psutil.Process()
        self._claim = json.dumps({"place": _place(), "pid": me.pid, "born": me.create_time()})
        with removed_on_error(self._path), os.fdopen(handle, "w") as file:
            file.write(self._claim)
        self._number, self._ended = number + 1, threading.Event()
        for path in folder.glob(".lock.*"):
            if _number(path) < self._number:
                path.unlink(missing_ok=True)
        threading.Thread(target=self._beat, daemon=True).start()

    @property
    def lost(self) -> bool:
        """Whether another process has taken over the folder, as may happen if this process was suspended for long."""
        try:
            return _newest_lock(self._folder)[0] != self._number or self._path.read_text() != self._claim
        except FileNotFoundError:
            return True

    def release(self) -> None:
        """Stops the heartbeat and removes the lock, unless another process has taken over the folder."""
        self._ended.set()
        if not self.lost:
            self._path.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_S):
            with suppress(OSError):
                os.utime(self._path)


_held: dict[Path, Lock] = {}


@contextmanager
def hold(folder: Path) -> Iterator[Lock]:
    """Holds a folder's lock; if this process holds the lock already, yields the existing one and leaves it held."""
    # A run that ``open_run`` has opened holds its folder already when ``Stopping`` calls ``hold`` for the same folder.
    key = folder.resolve()
    if key in _held:
        yield _held[key]
        return
    lock = _held[key] = Lock(folder)
    try:
        yield lock
    finally:
        del _held[key]
        lock.release()


def is_complete(folder: Path) -> bool:
    """Whether a run is finished: its folder has the result and the policy, which is written last."""
    return (folder / "result.json").exists() and (folder / "policy" / "config.json").exists()


@contextmanager
def open_run(cfg: Any, kind: str, distributed: Distributed | None = None) -> Iterator[Path]:
    """Yields this run's folder, locked by this process; with several processes, the main one chooses and locks it.

    Without ``resume``, a new folder is created exclusively. ``resume=auto`` continues the newest unfinished run that
    has the same identity and no living process, or starts a new run if there is none. ``resume=<folder>`` continues the
    run in that folder. If the folder holds several runs, such as a sweep's, it continues the newest one that fits.

    Args:
        cfg: The typed config.
        kind: Name of the entry point, such as ``train``.
        distributed: The processes of the run; ``None`` for a single process.

    Raises:
        ResumeError: If the folder that ``resume`` names holds no run, or if its run has another kind or config, is
            finished, or belongs to a living process.
    """
    hydra = HydraConfig.get() if HydraConfig.initialized() else None  # None if called from a notebook or a script
    sweep = hydra is not None and hydra.mode is RunMode.MULTIRUN
    # A job of a sweep has its number as its name, so that the same job finds its own folder when it is started again.
    name = str(hydra.job.num) if hydra is not None and sweep else f"{datetime.now():%Y-%m-%d_%H-%M-%S}"
    parent = Path(hydra.runtime.output_dir if hydra is not None else f"{cfg.runs_dir}/{cfg.name}")

    def choose() -> Path:
        return choose_folder(cfg, kind, parent, name, sweep)

    # One process chooses for all; otherwise each process would create a folder of its own.
    folder = choose() if distributed is None else distributed.on_main(choose)
    try:
        yield folder
    except BaseException as error:
        said: list[str] = []
        if folder.resolve() in _held:
            # A sweep is resumed as a whole: every job finds its own folder below the folder of the sweep.
            kept = folder.parent if sweep else folder
            if _is_empty(folder):
                shutil.rmtree(folder)
                said.append(f"nothing was computed yet, and {folder} is removed")
            if kept.exists() and (kept == folder or _runs_below(kept)):
                said.append(_how_it_goes_on(cfg, kind, folder, kept))
        if isinstance(error, KeyboardInterrupt) and said:
            raise type(error)(*said) from error
        raise
    finally:
        if lock := _held.pop(folder.resolve(), None):
            lock.release()


def _how_it_goes_on(cfg: Any, kind: str, folder: Path, kept: Path) -> str:
    """What is kept of an interrupted run in ``kept``, its own ``folder`` or that of its sweep, and what follows."""
    if not hasattr(cfg, "resume"):
        return f"what is done is kept in {kept}: the same command starts over"
    if kept == folder and kind in CHECKPOINTED and not checkpoint_names(folder / "checkpoints"):
        return f"no checkpoint was written yet: the same command and resume={kept} begin again with the first episode"
    return f"what is done is kept in {kept}: continue with the same command and resume={kept}"


def _is_empty(folder: Path) -> bool:
    """Whether a run's folder holds no results: only the description of the run, locks and empty files."""
    asked = ("config.yaml", "run.json", "plan.json", IDENTITY)
    files = [Path(at) / one for at, _, names in os.walk(folder) for one in names if not one.startswith(".lock.")]
    return all(path.name in asked or not path.stat().st_size for path in files)


def choose_folder(cfg: Any, kind: str, parent: Path, name: str, sweep: bool = False) -> Path:
    """Chooses the run's folder as :func:`open_run` describes; this process holds the folder's lock afterwards.

    Args:
        cfg: The typed config.
        kind: Name of the entry point, such as ``train``.
        parent: Folder in which a new folder is created.
        name: Name of a new folder; a number is appended if the name is taken.
        sweep: Whether this is a job of a sweep; such a job may also take a finished folder, whose run is not repeated.
    """
    resume, candidates = getattr(cfg, "resume", None), []
    named = resume not in (None, "auto")
    if named:
        parent = Path(resume)
        if (parent / IDENTITY).exists():
            return _take(parent, cfg, kind, sweep)
        candidates = _runs_below(parent)
        if not candidates:
            raise ResumeError(
                f"resume={resume}: there is no such folder, or no run of this program was started in it; use a run's "
                "folder, or auto, or remove resume to start a new run"
            )
    elif resume == "auto":
        candidates = _runs_below(Path(cfg.runs_dir) / cfg.name)
    elif sweep:  # a cluster that starts a job of a sweep again gives it the same number, and so the same folder
        candidates = [parent / name]
    # Take the first candidate that can be resumed. The content of its data and base model must be the same, too:
    # files may have changed although the paths in the config have not.
    for folder in candidates:
        with suppress(ResumeError):
            return _take(folder, cfg, kind, sweep, by_content=True)
    if named and not sweep:
        raise ResumeError(
            f"resume={resume}: no run in it can be continued: unfinished, with this config, and not in use by a process"
        )
    return _create(parent, name, cfg, kind)


def _runs_below(root: Path) -> list[Path]:
    """The folders of runs and of sweeps' jobs at most two levels below a folder, the newest first."""
    found = sorted(files_below(root, IDENTITY, 2), reverse=True)
    return [path.parent for path in found if path.parent != root]


def _create(parent: Path, name: str, cfg: Any, kind: str) -> Path:
    """Creates a new folder and locks it; the lock is written before the identity by which other processes find it."""
    parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(10_000):
        folder = parent / (f"{name}_{attempt}" if attempt else name)
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        with removed_on_error(folder):
            _held[folder.resolve()] = Lock(folder)
            Identity.of(cfg, kind).write(folder)
        return folder
    raise FileExistsError(f"{parent}/{name}: ten thousand runs have this name; choose another runs_dir")


def _take(folder: Path, cfg: Any, kind: str, even_finished: bool, by_content: bool = False) -> Path:
    stored = read_identity(folder)
    if stored.kind != kind:
        raise ResumeError(
            f"resume={folder}: that is a run of experiments.{stored.kind}, which experiments.{kind} cannot continue"
        )
    identity = Identity.of(cfg, kind)
    if kind not in GROWING:
        identity.refuse(stored)  # the cheap check first: reading the content of data and model takes longer
        if by_content and stored.content:
            replace(identity, content=content_of(cfg)).refuse(stored)
    # A growing folder that the user has named is not checked here: each of its jobs is checked by itself. One that was
    # only found must have been started with the same config, except for keys that may change.
    elif by_content:
        now, then = identity.config, stored.config
        changed = sorted(key for key in now.keys() | then.keys() if now.get(key) != then.get(key))
        if changed := [key for key in changed if not any(fnmatch(key, one) for one in GROWS)]:
            raise ResumeError(f"resume: {folder} was started with another config; changed: {', '.join(changed)}")
    lock = Lock(folder)
    # Checked after taking the lock: until then, the run's own process may still have been finishing it.
    if is_complete(folder) and not even_finished:
        lock.release()
        raise ResumeError(f"resume={folder}: the run in it is finished")
    _held[folder.resolve()] = lock
    return folder


def _newest_lock(folder: Path) -> tuple[int, Path]:
    return max(((_number(path), path) for path in folder.glob(".lock.*")), default=(0, folder / ".lock.0"))


def _number(path: Path) -> int:
    return int(path.suffix[1:])


def _now(folder: Path) -> float:
    """The current time according to the clock of the folder's file system."""
    # Heartbeats are stamped by the file server's clock. This machine's clock may be minutes off; comparing the two
    # would declare locks of living processes stale.
    probe = folder / f".clock.{os.getpid()}"
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        probe.unlink(missing_ok=True)


def _place() -> str:
    """The scope in which a process id is unique: the machine and, on it, the PID namespace (container)."""
    try:
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()
