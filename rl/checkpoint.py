"""Everything that decides how a run goes on, written whole or not at all.

``<run>/checkpoints/<step>_<updates>/`` holds the tensors in the format of ``torch.distributed.checkpoint``, which any
number of processes can read, a file of everything else per process, and ``meta.json`` with the size and the hash of
them all. It is written under a temporary name, synchronised to disk and then renamed, so a folder that has its name is
complete, whatever killed the process; what a disk damages afterwards is found by the hashes.
"""

import hashlib
import json
import os
import random
import re
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
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
"""Config keys that may change on resume: they do not decide what is learned, or name files whose contents decide."""
_BUDGET = ("training.episodes", "training.tokens", "training.updates")
_NAME = r"\d+(_\d+)?"
"""Of a checkpoint's folder: ``<step>_<updates>`` online, ``<round>`` offline."""


class ResumeError(ValueError):
    """A run cannot go on from what is there."""


def save_policy(folder: Path, model: Any, tokenizer: Any, distributed: Distributed | None = None) -> Path:
    """Writes model and tokenizer in transformers' format, to a temporary name, then renamed; returns the folder.

    With sharded weights all processes must call it; the main one writes.

    Raises:
        RunStoppedError: If a weight is not finite: the policy that was there before stays.
    """
    # Gathering sharded weights is a collective, so it comes before anything that only the main process does.
    state = full_state(model)
    if odd := [name for name, tensor in state.items() if not bool(tensor.isfinite().all())]:
        raise RunStoppedError(
            f"{folder} is not written: {counted(len(odd), 'tensor holds', 'tensors hold')} numbers that are not "
            f"finite, {odd[0]} among them. Go on from an earlier checkpoint with a smaller learning rate"
        )
    if distributed is None or distributed.is_main:
        temporary = folder.with_name(f".{folder.name}.new")
        shutil.rmtree(temporary, ignore_errors=True)
        with removed_on_error(temporary):
            save_pretrained(model, temporary, state)
            tokenizer.save_pretrained(temporary)
        old = folder.with_name(f".{folder.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():  # there is always one whole policy, under one name or the other
            folder.replace(old)
        temporary.replace(folder)
        shutil.rmtree(old, ignore_errors=True)
    return folder


def whole_policy(folder: Path) -> Path:
    """Where the policy is that :func:`save_policy` wrote last, even if the process was killed between its renamings."""
    old = folder.with_name(f".{folder.name}.old")
    return folder if folder.exists() or not old.exists() else old


@dataclass(frozen=True, slots=True)
class Identity:
    """What makes a run the same run.

    Args:
        kind: The entry point that started it.
        config: The resolved config, flat.
        content: Hashes of what the config only names: training tasks, files of the model, chat template. Empty as
            long as nothing was loaded.
    """

    kind: str
    config: dict[str, Any]
    content: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, config: Any, kind: str, content: Mapping[str, str] | None = None) -> "Identity":
        """Of a run."""
        return cls(kind, flatten(asdict(config)), dict(content or {}))

    def write(self, folder: Path) -> None:
        """Puts it into the run's folder."""
        write_json(folder / IDENTITY, asdict(self))

    def refuse(self, stored: "Identity") -> None:
        """Raises ResumeError, naming what changed, if a stored identity is another one."""
        now, then = self.config, stored.config
        # What decides nothing of what is learned may differ. Validation does decide where it chooses the best policy.
        free = (*_FREE, "training.validate_every") if now.get("training.select") != "best" else _FREE
        changed = [
            f"{key} (was {then.get(key)!r}, is {now.get(key)!r})"
            for key in sorted(now.keys() | then.keys())
            if now.get(key) != then.get(key) and not any(fnmatch(key, name) for name in free)
        ]
        # A budget alone may grow while the run is unfinished: what is done is what the longer run would have done. A
        # finished run, with its result and its policy, stays as it is; whoever opens the folder refuses it.
        if changed and all(change.split()[0] in _BUDGET for change in changed):
            changed = [] if self._may_grow(then) else [*changed, "a budget may only grow, and only where no schedule "
            "of the learning rate and no further stage stretches over it"]  # fmt: skip
        if changed:
            raise ResumeError(
                f"resume: the run was started with another config; changed: {', '.join(changed)}. "
                "Give the same overrides, or start a new run"
            )
        if self.content and stored.content and self.content != stored.content:
            names = sorted(self.content.keys() | stored.content.keys())
            odd = [name for name in names if self.content.get(name) != stored.content.get(name)]
            raise ResumeError(
                f"resume: the config is the one that the run was started with, but what it names has changed: "
                f"{', '.join(odd)}. Put it back, or start a new run"
            )

    def _may_grow(self, then: Mapping[str, Any]) -> bool:
        """Whether a larger budget leaves all that was done as it would have been."""
        # Schedules and stages stretch over the whole budget, so with another one the steps that were taken would have
        # had other learning rates and losses. Going from one kind of budget to another is no growth either.
        stages = {key.split(".")[2] for key in self.config if key.startswith("algorithm.stages.")} - {"n"}
        schedules = {str(value).lower() for key, value in self.config.items() if key.endswith(".schedule")}
        grows = all(self.config[key] >= then[key] and bool(self.config[key]) == bool(then[key]) for key in _BUDGET)
        return self.kind == "train" and len(stages) <= 1 and schedules <= {"constant"} and grows


def read_identity(folder: Path) -> Identity:
    """The identity of the run in a folder."""
    try:
        return Identity(**json.loads((folder / IDENTITY).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ResumeError(f"resume: {folder / IDENTITY} cannot be read: {error}") from error


def flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, keys joined by dots; values are JSON types."""
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
    """A hash of the tasks' contents, in order."""
    digest = hashlib.blake2b(digest_size=16)
    for task in tasks:
        digest.update(repr(task).encode())
    return digest.hexdigest()


class Stateful(Protocol):
    """What a checkpoint is of."""

    def state(self) -> dict[str, Any]:
        """Everything but the tensors of :meth:`tensors`, this process's part of it."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """Weights, moments and other tensors by name, live: they are read from and written to in place."""
        ...

    def load_state(
        self, shared: dict[str, Any], parts: Sequence[dict[str, Any]], fill: Callable[[dict[str, Tensor]], None]
    ) -> None:
        """The inverse of :meth:`state`.

        Args:
            shared: The main process's state, for what all processes have alike.
            parts: States of former processes whose work this one takes over: its own, or after a change of their
                number all of them on the main process and none on the others.
            fill: Reads the checkpoint into tensors; to be called with :meth:`tensors`.
        """
        ...


class Checkpoints:
    """The checkpoints of a run.

    Args:
        folder: Of the run.
        keep_last: How many are kept.
        distributed: Processes; each writes its part.
    """

    def __init__(self, folder: Path, keep_last: int, distributed: Distributed) -> None:
        self._folder, self._keep_last, self._distributed = folder / "checkpoints", keep_last, distributed

    def save(self, name: str, owner: Stateful, extra: dict[str, Any]) -> None:
        """Writes a checkpoint; all processes must call it.

        Args:
            name: Of the folder, ``<step>_<updates>`` or ``<round>`` with leading zeros, so that later ones sort later.
            owner: What is saved.
            extra: Further state of the main process, JSON types.

        Raises:
            RunStoppedError: If a tensor is not finite: such a checkpoint would only push out one that is.
        """
        target, temporary, distributed = self._folder / name, self._folder / f".{name}", self._distributed
        tensors = owner.tensors()
        odd = [name for name, tensor in tensors.items() if not bool(local(tensor).isfinite().all())]
        if odd := distributed.gather(odd):
            raise RunStoppedError(
                f"not saved: {counted(len(odd), 'tensor holds', 'tensors hold')} numbers that are not finite, "
                f"{odd[0]} among them. The last checkpoint is from before; go on from it with a smaller learning rate"
            )

        def begin() -> None:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)

        def finish() -> None:
            meta = {"processes": distributed.n_processes, "files": files, "extra": extra}
            write_json(temporary / "meta.json", meta | {"hash": _hash_meta(meta)})
            # The renaming is what makes a checkpoint of the folder. File and directory are synchronised around it, or
            # a power failure could leave the new name with old contents. Older ones go only when this one stands.
            _sync(temporary / "meta.json")
            shutil.rmtree(target, ignore_errors=True)
            temporary.replace(target)
            _sync(self._folder)
            for old in self._names()[: -self._keep_last]:
                shutil.rmtree(self._folder / old, ignore_errors=True)

        with removed_on_error(temporary):
            distributed.on_main(begin)
            write_tensors(tensors, temporary, distributed.n_processes)
            files = self._write_rest(temporary, owner.state())
            distributed.on_main(finish)

    def _write_rest(self, folder: Path, state: dict[str, Any]) -> list[tuple[str, int, str]]:
        """Writes what is no tensor; returns name, size and hash of the files of all processes."""
        rank = self._distributed.rank
        own = folder / f"rank_{rank}.pt"
        found: list[Any]
        try:
            with own.open("wb") as file:  # through Python's file, whose errors say what happened
                torch.save({"state": state, "random": random_state()}, file)
                file.flush()
                os.fsync(file.fileno())
            mine = [own, *folder.glob(f"__{rank}_*"), *(folder.glob(".metadata") if rank == 0 else ())]
            found = [(path.name, path.stat().st_size, hash_file(path)) for path in mine]
        except OSError as error:
            found = [error]
        found = self._distributed.gather(found)
        for error in found:  # one process's full disk must not leave the others waiting for it
            if isinstance(error, OSError):
                raise error
        return found

    def load(self, owner: Stateful) -> dict[str, Any] | None:
        """Restores the newest checkpoint that is whole and returns its extra; ``None`` if there never was one.

        Raises:
            ResumeError: If there are checkpoints, but all of them are damaged.
        """
        distributed = self._distributed
        name, meta = distributed.on_main(self._newest_whole)
        if name is None:
            return None
        # After a change of the number of processes the main one takes over the work of all former ones; the generators'
        # states are then nobody's, and only libraries draw from them (see :func:`random_state`).
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
        # A damaged checkpoint costs the steps since the one before, not the run.
        names = self._names()
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

    def _names(self) -> list[str]:
        if not self._folder.exists():
            return []
        # Steps are written with leading zeros, so names sort by age. Those that begin with a point were never finished,
        # and whatever else somebody put here is no checkpoint: it is neither loaded, nor counted, nor removed.
        found = [path for path in self._folder.iterdir() if re.fullmatch(_NAME, path.name) and path.is_dir()]
        return sorted(path.name for path in found)


def _hash_meta(meta: dict[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(meta, sort_keys=True).encode(), digest_size=16).hexdigest()


def _read(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=False)  # our own file: it holds episodes, not only tensors


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def random_state() -> dict[str, Any]:
    """The global generators; ours draw by hashing coordinates, but a library may use them."""
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """The inverse of :func:`random_state`."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
