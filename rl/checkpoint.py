"""Checkpoints: everything that a run needs to resume, written completely or not at all.

``<run>/checkpoints/<step>_<updates>/`` holds the tensors in the format of ``torch.distributed.checkpoint``, which any
number of processes can read; one file per process with everything else; and ``meta.json`` with the size and hash of
every file. The folder is written under a temporary name, synchronised to disk and then renamed, so a folder with its
final name is complete, even if the process was killed. The hashes reveal files that are damaged later.
"""

import hashlib
import json
import os
import random
import re
import shutil
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from enum import Enum
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from envs import Task
from rewards.wording import counted
from rl.backends.distributed import Distributed, local
from rl.backends.weights import full_state, hash_file, read_tensors, save_pretrained, write_tensors
from rl.tracking import IDENTITY, removed_on_error, write_json
from rl.types import RunStoppedError

_FREE = (
    *("threads", "runs_dir", "data_dir", "name", "resume", "tracking.*", "evaluation.*", "hub.*"),
    *("training.save_every*", "training.keep_*", "training.max_failed_fraction"),
    *("training.health*", "training.stop_on*"),
    *("*.micro_batch_tokens", "*.gradient_checkpointing", "algorithm.merge_rows", "training.max_sampler_gap"),
    *("engine.urls.*", "engine.weights_dir", "engine.retries", "engine.timeout_s", "engine.gpu_memory_utilization"),
    *("engine.max_batch_size", "engine.enforce_eager", "engine.prefix_caching", "engine.sleep_level"),
    *("model.path", "env.options.path"),
)
"""Config keys that may change on resume: they do not affect what is learned, or only name files whose contents do."""
_BUDGET = ("training.episodes", "training.tokens", "training.updates")
_NAME = r"\d+(_\d+)?"
"""Pattern of a checkpoint's folder name: ``<step>_<updates>`` online, ``<round>`` offline."""


class ResumeError(ValueError):
    """A run cannot be resumed from its folder."""


def save_policy(folder: Path, model: Any, tokenizer: Any, distributed: Distributed | None = None) -> Path:
    """Writes model and tokenizer in transformers' format and returns the folder.

    The files are written under a temporary name, which is then renamed. With sharded weights all processes must call
    this function; only the main process writes.

    Raises:
        RunStoppedError: If a weight is not finite; a policy that is already in the folder stays.
    """
    # Gathering sharded weights is a collective, so all processes do it before the main process alone writes.
    state = full_state(model)
    if odd := [name for name, tensor in state.items() if not bool(tensor.isfinite().all())]:
        raise RunStoppedError(
            f"{folder} is not written: {counted(len(odd), 'tensor holds', 'tensors hold')} numbers that are not "
            f"finite, such as {odd[0]}. Continue from an earlier checkpoint with a smaller learning rate"
        )
    if distributed is None or distributed.is_main:
        temporary = folder.with_name(f".{folder.name}.new")
        shutil.rmtree(temporary, ignore_errors=True)
        with removed_on_error(temporary):
            save_pretrained(model, temporary, state)
            tokenizer.save_pretrained(temporary)
        old = folder.with_name(f".{folder.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():  # renamed, not removed, so that a complete policy exists at any time
            folder.replace(old)
        temporary.replace(folder)
        shutil.rmtree(old, ignore_errors=True)
    return folder


def whole_policy(folder: Path) -> Path:
    """Folder of the policy that :func:`save_policy` wrote last, even if it was killed between its two renames."""
    old = folder.with_name(f".{folder.name}.old")
    return folder if folder.exists() or not old.exists() else old


@dataclass(frozen=True, slots=True)
class Identity:
    """What must stay the same for a run to be resumed.

    Args:
        kind: Entry point that started the run.
        config: The resolved config, flattened.
        content: Hashes of what the config only names, such as training tasks, files of the model and chat template.
            Empty as long as nothing was loaded.
    """

    kind: str
    config: dict[str, Any]
    content: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, config: Any, kind: str, content: Mapping[str, str] | None = None) -> "Identity":
        """The identity of a run with this config."""
        return cls(kind, flatten(asdict(config)), dict(content or {}))

    def write(self, folder: Path) -> None:
        """Writes the identity to the run's folder."""
        write_json(folder / IDENTITY, asdict(self))

    def refuse(self, stored: "Identity") -> None:
        """Raises ResumeError, naming what changed, if the stored identity belongs to a different run."""
        now, then = self.config, stored.config
        # Keys that do not affect what is learned may differ. The interval of validations is such a key unless
        # validation selects the best policy.
        free = (*_FREE, "training.validate_every") if now.get("training.select") != "best" else _FREE
        changed = [
            f"{key} (was {then.get(key)!r}, is {now.get(key)!r})"
            for key in sorted(now.keys() | then.keys())
            if now.get(key) != then.get(key) and not any(fnmatch(key, name) for name in free)
        ]
        # If only the budget changed, it may grow while the run is unfinished, provided that the steps taken so far are
        # those that the longer run would have taken. Finished runs are refused elsewhere, when their folder is opened.
        if changed and all(change.split()[0] in _BUDGET for change in changed):
            changed = [] if self._may_grow(then) else [*changed, "a budget may only grow, and only if no learning-rate "
            "schedule and no later stage depends on it"]  # fmt: skip
        if changed:
            raise ResumeError(
                f"resume: the run was started with another config; changed: {', '.join(changed)}. "
                "Give the same overrides, or start a new run"
            )
        if self.content and stored.content and self.content != stored.content:
            names = sorted(self.content.keys() | stored.content.keys())
            odd = [name for name in names if self.content.get(name) != stored.content.get(name)]
            raise ResumeError(
                f"resume: the config is the one that the run was started with, but files that it names have changed: "
                f"{', '.join(odd)}. Restore them, or start a new run"
            )

    def _may_grow(self, then: Mapping[str, Any]) -> bool:
        """Whether the budget grew and the steps taken so far would have been the same with the larger budget."""
        # Schedules and stages stretch over the whole budget, so with another budget the steps taken so far would have
        # had other learning rates and losses. A change from one kind of budget to another is no growth either.
        stages = {key.split(".")[2] for key in self.config if key.startswith("algorithm.stages.")} - {"n"}
        schedules = {str(value).lower() for key, value in self.config.items() if key.endswith(".schedule")}
        grows = all(self.config[key] >= then[key] and bool(self.config[key]) == bool(then[key]) for key in _BUDGET)
        return self.kind == "train" and len(stages) <= 1 and schedules <= {"constant"} and grows


def read_identity(folder: Path) -> Identity:
    """Reads the identity of the run in a folder."""
    try:
        return Identity(**json.loads((folder / IDENTITY).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ResumeError(f"resume: {folder / IDENTITY} cannot be read: {error}") from error


def flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    """Flattens nested dictionaries and lists into one dictionary; keys are joined by dots, enums become their names."""
    if isinstance(node, Mapping):
        flat: dict[str, Any] = {}
        for key, value in node.items():
            flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
        return flat
    if isinstance(node, (list, tuple)):
        flat = {f"{prefix}.n": len(node)}  # an empty list would otherwise leave no trace
        for i, value in enumerate(node):
            flat |= flatten(value, f"{prefix}.{i}")
        return flat
    return {prefix: node.name if isinstance(node, Enum) else node}


def hash_tasks(tasks: Sequence[Task]) -> str:
    """Hash of the contents of tasks and of their order."""
    digest = hashlib.blake2b(digest_size=16)
    for task in tasks:
        digest.update(repr(task).encode())
    return digest.hexdigest()


class Stateful(Protocol):
    """An object whose state a checkpoint stores."""

    def state(self) -> dict[str, Any]:
        """This process's state, without the tensors of :meth:`tensors`."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """Weights, optimiser moments and other tensors by name: the live tensors, which loading overwrites in place."""
        ...

    def load_state(
        self, shared: dict[str, Any], parts: Sequence[dict[str, Any]], fill: Callable[[dict[str, Tensor]], None]
    ) -> None:
        """Restores what :meth:`state` returned.

        Args:
            shared: State of the main process, for values that are the same on all processes.
            parts: States of the former processes whose work this process takes over: its own state if the number of
                processes is unchanged; otherwise all states on the main process and none on the others.
            fill: Reads tensors from the checkpoint in place; it must be called with :meth:`tensors`.
        """
        ...


class Checkpoints:
    """The checkpoints of a run.

    Args:
        folder: Folder of the run.
        keep_last: Number of newest checkpoints to keep.
        distributed: Processes of the run; each writes its part.
    """

    def __init__(self, folder: Path, keep_last: int, distributed: Distributed) -> None:
        self._folder, self._keep_last, self._distributed = folder / "checkpoints", keep_last, distributed

    def save(self, name: str, owner: Stateful, extra: dict[str, Any]) -> None:
        """Writes a checkpoint; all processes must call this method.

        Args:
            name: Folder name, ``<step>_<updates>`` or ``<round>``, with leading zeros so that names sort by age.
            owner: Object whose state is saved.
            extra: Further state of the main process, JSON types.

        Raises:
            RunStoppedError: If a tensor is not finite; an unusable checkpoint must not displace an older, usable one.
        """
        target, temporary, distributed = self._folder / name, self._folder / f".{name}", self._distributed
        tensors = owner.tensors()
        odd = [name for name, tensor in tensors.items() if not bool(local(tensor).isfinite().all())]
        if odd := distributed.gather(odd):
            raise RunStoppedError(
                f"not saved: {counted(len(odd), 'tensor holds', 'tensors hold')} numbers that are not finite, "
                f"such as {odd[0]}. The last checkpoint is finite; continue from it with a smaller learning rate"
            )

        def begin() -> None:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)

        def finish() -> None:
            meta = {"processes": distributed.n_processes, "files": files, "extra": extra}
            write_json(temporary / "meta.json", meta | {"hash": _hash_meta(meta)})
            # The rename makes the folder a checkpoint. ``meta.json`` is synchronised to disk before and the parent
            # directory after, or a power failure could leave the new name with incomplete contents. Older checkpoints
            # are removed only after this one is complete.
            _sync(temporary / "meta.json")
            shutil.rmtree(target, ignore_errors=True)
            temporary.replace(target)
            _sync(self._folder)
            for old in checkpoint_names(self._folder)[: -self._keep_last]:
                shutil.rmtree(self._folder / old, ignore_errors=True)

        with interrupted_afterwards(), removed_on_error(temporary):
            distributed.on_main(begin)
            write_tensors(tensors, temporary, distributed.n_processes)
            files = self._write_rest(temporary, owner.state())
            distributed.on_main(finish)

    def _write_rest(self, folder: Path, state: dict[str, Any]) -> list[tuple[str, int, str]]:
        """Writes this process's state and returns name, size and hash of the files of all processes."""
        rank = self._distributed.rank
        own = folder / f"rank_{rank}.pt"
        found: list[Any]
        try:
            with own.open("wb") as file:  # a Python file, because torch's own writer hides the cause of an error
                torch.save({"state": state, "random": random_state()}, file)
                file.flush()
                os.fsync(file.fileno())
            mine = [own, *folder.glob(f"__{rank}_*"), *(folder.glob(".metadata") if rank == 0 else ())]
            found = [(path.name, path.stat().st_size, hash_file(path)) for path in mine]
        except OSError as error:
            found = [error]
        found = self._distributed.gather(found)
        for error in found:  # raised on all processes, since otherwise the others would wait for the one that failed
            if isinstance(error, OSError):
                raise error
        return found

    def load(self, owner: Stateful) -> dict[str, Any] | None:
        """Restores the newest intact checkpoint and returns its ``extra``; ``None`` if there is no checkpoint.

        Raises:
            ResumeError: If there are checkpoints, but all of them are damaged.
        """
        distributed = self._distributed
        name, meta = distributed.on_main(self._newest_whole)
        if name is None:
            return None
        # If the number of processes changed, the main process takes over the work of all former ones. The states of the
        # random generators are then not restored, which is harmless: only libraries use them (:func:`random_state`).
        folder, n_then, same = self._folder / name, meta["processes"], meta["processes"] == distributed.n_processes
        ranks = [distributed.rank] if same else range(n_then) if distributed.is_main else []
        files = {rank: _read(folder / f"rank_{rank}.pt") for rank in {0, *ranks}}
        parts = [files[rank]["state"] for rank in ranks]
        owner.load_state(
            files[0]["state"], parts, lambda tensors: read_tensors(tensors, folder, distributed.n_processes)
        )
        if same:
            set_random_state(files[distributed.rank]["random"])
        return meta["extra"]

    def _newest_whole(self) -> tuple[str | None, dict[str, Any]]:
        # If the newest checkpoint is damaged, the run resumes from an older one instead of being lost.
        names = checkpoint_names(self._folder)
        for name in reversed(names):
            try:
                meta = json.loads((self._folder / name / "meta.json").read_text(encoding="utf-8"))
                if meta.pop("hash") != _hash_meta(meta):
                    raise ValueError("meta.json is not what was written")
                odd = []
                for file, size, digest in meta["files"]:
                    path = self._folder / name / file
                    if not (path.exists() and path.stat().st_size == size and hash_file(path) == digest):
                        odd.append(file)
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                meta, odd = {}, ["meta.json"]
            if not odd:
                return name, meta
            warnings.warn(
                f"checkpoint {name} is damaged ({', '.join(odd)}); going on from the one before", stacklevel=2
            )
        if names:
            raise ResumeError(f"resume: all checkpoints in {self._folder} are damaged: {', '.join(names)}")
        return None, {}


def checkpoint_names(folder: Path) -> list[str]:
    """Names of the complete checkpoints in a run's folder of checkpoints, the oldest first."""
    if not folder.exists():
        return []
    # Leading zeros make names sort by age. Names that begin with a dot belong to unfinished checkpoints. The pattern
    # also skips any other file or folder, so that it is neither loaded, nor counted, nor removed.
    found = [path for path in folder.iterdir() if re.fullmatch(_NAME, path.name) and path.is_dir()]
    return sorted(path.name for path in found)


@contextmanager
def interrupted_afterwards() -> Iterator[None]:
    """Context in which a first Ctrl-C waits for the end of the block; a second one interrupts the block at once."""
    before = signal.getsignal(signal.SIGINT)
    # Only the main thread may set handlers, and an ignored signal stays ignored.
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    came: list[Any] = []

    def note(number: int, frame: Any) -> None:
        came.append(frame)
        if len(came) > 1:
            before(number, frame)

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        before(signal.SIGINT, came[0])


def _hash_meta(meta: dict[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(meta, sort_keys=True).encode(), digest_size=16).hexdigest()


def _read(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=False)  # our own file, which holds episodes too


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def random_state() -> dict[str, Any]:
    """States of the global random generators, which only libraries use; our own randomness comes from hashed seeds."""
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Restores what :func:`random_state` returned."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
