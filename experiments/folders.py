"""Run folders: claimed by exclusive creation, locked while a process is at work in them, and found again.

Everything goes through the file system, since the processes that must not share a folder may run on different machines.
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
from rl.checkpoint import Identity, ResumeError, read_identity
from rl.tracking import IDENTITY, files_below, removed_on_error
from rl.workbench import content_of

BEAT_S = 10.0
"""Between two heartbeats of a lock."""
STALE_S = 120.0
"""A lock without a heartbeat for so long is that of a process that is no more."""
GROWS = ("include.*", "seeds.*", "trials", "executor*", "retries", "plugins.*", "threads", "*_dir", "resume")
"""Keys in which a comparison, a study or a tuning may differ from the one that it goes on with."""


class LockedError(ResumeError):
    """Another process is at work in the folder."""


def holder(folder: Path) -> str | None:
    """Which process is at work in a folder; ``None`` if none is."""
    try:
        path = _newest_lock(folder)[1]
        found, beat = json.loads(path.read_text() or "{}"), path.stat().st_mtime
    except FileNotFoundError:
        return None
    # On the same machine the process itself is asked: with its time of birth, since numbers are given away again.
    # Across machines only the heartbeat tells.
    if found.get("place") == _place():
        try:
            process = psutil.Process(found["pid"])
            another = abs(process.create_time() - found["born"]) > 1.0  # the number was given away since
            if another or process.status() == psutil.STATUS_ZOMBIE:
                return None
        except psutil.NoSuchProcess:
            return None
    elif _now(folder) - beat > (STALE_S if found else BEAT_S):  # an empty one is about to be written, or never will be
        return None
    return f"process {found.get('pid')} on {found.get('place')}"


class Lock:
    """One process's claim to a folder: ``.lock.<n>``, where the highest number counts.

    Taking over from a dead process is the exclusive creation of the next number, so that of two that try only one
    succeeds, and a process that was only suspended finds out that its own number is no longer the highest.

    Args:
        folder: Of the run.

    Raises:
        LockedError: If the process of the highest lock is alive.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # The number is read before the holder is asked: if another process takes over in between, its lock has this
        # number plus 1, and the exclusive creation below fails.
        number, _ = _newest_lock(folder)
        if other := holder(folder):
            raise LockedError(f"{folder} is in use by {other}: wait for it, or stop it")
        self._path = folder / f".lock.{number + 1}"
        try:
            handle = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            raise LockedError(f"{folder} was taken by another process at this very moment") from None
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
        """Whether another process has taken the folder over, as it may if this one was suspended for long."""
        try:
            return _newest_lock(self._folder)[0] != self._number or self._path.read_text() != self._claim
        except FileNotFoundError:
            return True

    def release(self) -> None:
        """Gives the folder back."""
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
    """Holds a folder's lock; inside another ``hold`` of the same folder it is that one's."""
    # A run that was opened by ``open_run`` holds its folder already when ``Stopping`` holds it around the work.
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
    """Whether a run has nothing left to do: its result and its policy, which is written last, are there."""
    return (folder / "result.json").exists() and (folder / "policy" / "config.json").exists()


@contextmanager
def open_run(cfg: Any, kind: str, distributed: Distributed | None = None) -> Iterator[Path]:
    """The folder of this run, locked by this process; with several processes the main one chooses for all.

    A new one is created exclusively. ``resume=auto`` goes on with the newest unfinished run that has the same identity
    and no living process, ``resume=<folder>`` with that run, and ``resume=<folder of a sweep>`` with the one in it.

    Args:
        cfg: The typed config.
        kind: Which entry point this is.
        distributed: Processes.

    Raises:
        ResumeError: If the folder that ``resume`` names holds no run, one of another kind or config, or a living one.
    """
    hydra = HydraConfig.get() if HydraConfig.initialized() else None  # none where a notebook or a script runs it
    sweep = hydra is not None and hydra.mode is RunMode.MULTIRUN
    # A job of a sweep is named by its number, so that the same job, started again, finds its own folder.
    name = str(hydra.job.num) if hydra is not None and sweep else f"{datetime.now():%Y-%m-%d_%H-%M-%S}"
    parent = Path(hydra.runtime.output_dir if hydra is not None else f"{cfg.runs_dir}/{cfg.name}")

    def choose() -> Path:
        return choose_folder(cfg, kind, parent, name, sweep)

    # One process chooses for all, or each of them would make a folder of its own.
    folder = choose() if distributed is None else distributed.on_main(choose)
    try:
        yield folder
    except BaseException as error:
        said: list[str] = []
        if folder.resolve() in _held:
            # The jobs of a sweep go on together: every one of them finds its own folder in that of the sweep.
            kept = folder.parent if sweep else folder
            if _is_empty(folder):
                shutil.rmtree(folder)
                said.append(f"nothing was computed yet, and {folder} is removed")
            if kept.exists() and (kept == folder or _runs_below(kept)):
                goes_on = hasattr(cfg, "resume")
                how = f"go on with the same command and resume={kept}" if goes_on else "the same command begins anew"
                said.append(f"what is done is kept in {kept}: {how}")
        if isinstance(error, KeyboardInterrupt) and said:
            raise type(error)(*said) from error
        raise
    finally:
        if lock := _held.pop(folder.resolve(), None):
            lock.release()


def _is_empty(folder: Path) -> bool:
    """Whether nothing was done in a run's folder yet: it holds what was asked for, and no result of any kind."""
    asked = ("config.yaml", "run.json", "plan.json", IDENTITY)
    files = [Path(at) / one for at, _, names in os.walk(folder) for one in names if not one.startswith(".lock.")]
    return all(path.name in asked or not path.stat().st_size for path in files)


def choose_folder(cfg: Any, kind: str, parent: Path, name: str, sweep: bool = False) -> Path:
    """See :func:`open_run`; this process holds the folder's lock afterwards.

    Args:
        cfg: The typed config.
        kind: Which entry point this is.
        parent: Where a new folder is made.
        name: Of a new folder; a number is added if it is taken.
        sweep: Whether this is a job of a sweep, whose finished runs stay finished.
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
                "folder, or auto, or leave resume away to start a new run"
            )
    elif resume == "auto":
        candidates = _runs_below(Path(cfg.runs_dir) / cfg.name)
    elif sweep:  # a cluster that starts a job of a sweep again gives it the same number
        candidates = [parent / name]
    # Of several candidates the first that can be gone on with, by the content of its data and base too: the paths in a
    # config may be the same where what lies there is not.
    for folder in candidates:
        with suppress(ResumeError):
            return _take(folder, cfg, kind, sweep, by_content=True)
    if named and not sweep:
        raise ResumeError(f"resume={resume}: no run in it is unfinished, of this config and without a process")
    return _create(parent, name, cfg, kind)


def _runs_below(root: Path) -> list[Path]:
    """Folders of runs and of sweeps' jobs, the newest first."""
    found = sorted(files_below(root, IDENTITY, 2), reverse=True)
    return [path.parent for path in found if path.parent != root]


def _create(parent: Path, name: str, cfg: Any, kind: str) -> Path:
    """A folder that nobody else has; the lock comes before the identity by which others would find it."""
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
            f"resume={folder}: that is a run of experiments.{stored.kind}, which experiments.{kind} cannot go on with"
        )
    identity = Identity.of(cfg, kind)
    if kind not in GROWING:
        identity.refuse(stored)  # first what costs nothing
        if by_content and stored.content:
            replace(identity, content=content_of(cfg)).refuse(stored)
    elif by_content:  # one that is named may grow, and its jobs look after themselves; this one was only found
        now, then = identity.config, stored.config
        changed = sorted(key for key in now.keys() | then.keys() if now.get(key) != then.get(key))
        if changed := [key for key in changed if not any(fnmatch(key, one) for one in GROWS)]:
            raise ResumeError(f"resume: {folder} was started with another config; changed: {', '.join(changed)}")
    lock = Lock(folder)
    if is_complete(folder) and not even_finished:  # asked last: its process may have finished it just now
        lock.release()
        raise ResumeError(f"resume={folder}: the run in it is finished")
    _held[folder.resolve()] = lock
    return folder


def _newest_lock(folder: Path) -> tuple[int, Path]:
    return max(((_number(path), path) for path in folder.glob(".lock.*")), default=(0, folder / ".lock.0"))


def _number(path: Path) -> int:
    return int(path.suffix[1:])


def _now(folder: Path) -> float:
    """The time by the clock of the folder's file system, which is not always this machine's."""
    # Heartbeats carry the file server's clock; this machine's may be minutes off, which would make live locks stale.
    probe = folder / f".clock.{os.getpid()}"
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        probe.unlink(missing_ok=True)


def _place() -> str:
    """Where process numbers mean the same: the machine, and on it the container."""
    try:
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()
