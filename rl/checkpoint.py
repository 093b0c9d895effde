"""Everything that decides how a run goes on, written whole or not at all.

``<run>/checkpoints/<step>_<updates>/`` holds one file per process and ``meta.json``. It is written under a temporary
name, synchronised to disk and then renamed, so a folder that has its name is complete, whatever killed the process.
"""

import hashlib
import json
import os
import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import torch

from envs import Task
from rl.backends.distributed import Distributed
from rl.backends.weights import full_state, save_pretrained

_FREE = (
    "threads",
    "runs_dir",
    "resume",
    "tracking",
    "training.save_every",
    "training.save_every_updates",
    "training.keep_last",
    "training.keep_episodes",
    "evaluation",
)
"""Config keys that may change on resume: they do not decide what is learned."""


class ResumeError(ValueError):
    """A run cannot go on from what is there."""


def save_policy(folder: Path, model: Any, tokenizer: Any, distributed: Distributed | None = None) -> Path:
    """Writes model and tokenizer in transformers' format, to a temporary name, then renamed; returns the folder.

    With sharded weights all processes must call it; the main one writes.
    """
    state = full_state(model)
    if distributed is None or distributed.is_main:
        temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
        shutil.rmtree(temporary, ignore_errors=True)
        save_pretrained(model, temporary, state)
        tokenizer.save_pretrained(temporary)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.replace(folder)
    return folder


@dataclass(frozen=True, slots=True)
class Identity:
    """What a checkpoint belongs to.

    Args:
        config: The resolved config, flat.
        data: Hash of the training tasks.
        n_processes: Number of processes.
    """

    config: dict[str, Any]
    data: str
    n_processes: int

    @classmethod
    def of(cls, config: Any, tasks: Sequence[Task], n_processes: int) -> "Identity":
        """Of a run."""
        return cls(flatten(asdict(config)), hash_tasks(tasks), n_processes)

    def refuse(self, stored: Mapping[str, Any]) -> None:
        """Raises ResumeError, naming the keys, if a stored identity is another one."""
        now, then = self.config, stored["config"]
        changed = [
            f"{key} (was {then.get(key)!r}, is {now.get(key)!r})"
            for key in sorted(now.keys() | then.keys())
            if now.get(key) != then.get(key) and not any(key == free or key.startswith(f"{free}.") for free in _FREE)
        ]
        if changed:
            raise ResumeError(
                f"resume: the run was started with another config; changed: {', '.join(changed)}. "
                "Give the same overrides, or start a new run"
            )
        if self.data != stored["data"]:
            raise ResumeError(
                "resume: the training tasks are not those that the run was started with, though the config is the "
                "same: a data file has changed"
            )
        if self.n_processes != stored["n_processes"]:
            raise ResumeError(
                f"resume: the run was started with {stored['n_processes']} processes and cannot go on with "
                f"{self.n_processes}"
            )


def flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, keys joined by dots; values are JSON types."""
    if isinstance(node, Mapping):
        flat: dict[str, Any] = {}
        for key, value in node.items():
            flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
        return flat
    if isinstance(node, (list, tuple)):
        flat = {f"{prefix}.n": len(node)}
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


class Checkpoints:
    """The checkpoints of a run.

    Args:
        folder: Of the run.
        identity: Of the run.
        keep_last: How many are kept.
        distributed: Processes; replicated state is written by the main one alone.
    """

    def __init__(self, folder: Path, identity: Identity, keep_last: int, distributed: Distributed) -> None:
        self._folder, self._identity = folder / "checkpoints", identity
        self._keep_last, self._distributed = keep_last, distributed

    def save(self, name: str, state: dict[str, Any], extra: dict[str, Any]) -> None:
        """Writes a checkpoint; all processes must call it.

        Args:
            name: Of the folder; later ones sort later.
            state: Of :meth:`rl.trainer.Trainer.state`.
            extra: Further state of the main process, JSON types.
        """
        target, temporary = self._folder / name, self._folder / f".{name}"
        if self._distributed.is_main:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        self._distributed.wait()
        if not (self._distributed.is_main or self._distributed.shards):
            state = state | {"learner": None}
        _write(temporary / f"rank_{self._distributed.rank}.pt", {"trainer": state, "random": random_state()})
        self._distributed.wait()
        if self._distributed.is_main:
            meta = asdict(self._identity) | {"extra": extra}
            (temporary / "meta.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")
            _sync(temporary / "meta.json")
            shutil.rmtree(target, ignore_errors=True)
            temporary.replace(target)
            _sync(self._folder)
            for old in self._names()[: -self._keep_last]:
                shutil.rmtree(self._folder / old, ignore_errors=True)

    def load(self) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """State and extra of the newest checkpoint; ``None`` if there is none.

        Raises:
            ResumeError: If it belongs to another config, other tasks or another number of processes.
        """
        names = self._names()
        if not names:
            return None
        folder = self._folder / names[-1]
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        self._identity.refuse(meta)
        saved = _read(folder / f"rank_{self._distributed.rank}.pt")
        state = saved["trainer"]
        if state["learner"] is None:
            state["learner"] = _read(folder / "rank_0.pt")["trainer"]["learner"]
        set_random_state(saved["random"])
        return state, meta["extra"]

    def _names(self) -> list[str]:
        if not self._folder.exists():
            return []
        return sorted(path.name for path in self._folder.iterdir() if not path.name.startswith("."))


def latest_unfinished(runs_dir: Path, name: str) -> Path | None:
    """The newest run folder of that name with a checkpoint and without a result."""
    found = (path.parent for path in runs_dir.glob(f"{name}/*/checkpoints"))
    unfinished = [folder for folder in found if not (folder / "result.json").exists()]
    return max(unfinished, key=lambda folder: folder.name, default=None)


def _write(path: Path, value: Any) -> None:
    torch.save(value, path)
    _sync(path)


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
