"""Arms and jobs: a job is one arm with one seed, fully described by its folder.

A job is started with its folder as the only argument, ``python -m experiments.job <folder>``, on any machine that can
access the folder. The job's config, progress and result are files there, so a job needs no connection to the program
that submitted it.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

from omegaconf import OmegaConf

from experiments.cli import UserError, import_plugin, register_schemas, resolved_yaml, typed
from experiments.schema import StudySeedConfig
from rewards import Lookup
from rl.budget import spent
from rl.config import RunConfig, SFTConfig, TrainConfig
from rl.tracking import write_json, write_text

Report = Callable[[str, float, dict[str, float]], None]
"""``(what, share, metrics)``: called with the current activity, its progress in [0, 1] and the newest metrics."""


class Arm(Protocol):
    """One of the methods that a comparison runs: its config, its budget, and how to run it.

    A class in :data:`ARMS` is built from the arm's name, its config and, as keyword arguments, the further options in
    the arm's entry in the comparison's ``arms``. ``schema`` is the dataclass of its config.
    """

    name: str
    config: Any
    schema: ClassVar[type]

    def budget(self, match: str) -> int:
        """The exact budget of a run: optimiser steps if ``match`` is ``updates``, else episodes; 0 without training."""
        ...

    def run(self, seed: int, folder: Path, report: Report) -> None:
        """Runs the arm with a seed; writes ``result.json``, ``rows.jsonl`` and the policy to the folder."""
        ...


ARMS: Lookup[Callable[..., Arm]] = Lookup("arms.<name>.kind")
LEAVES = ("result.json", "policy/config.json")
"""Files that exist once an arm has finished; the class of an arm without a policy lists other ones as ``leaves``."""


@ARMS.register("online")
@dataclass(frozen=True)
class OnlineArm:
    """Online RL: the policy learns from the rewards of what it has just sampled."""

    name: str
    config: TrainConfig
    schema: ClassVar[type] = TrainConfig

    def budget(self, match: str) -> int:
        """See :class:`Arm`."""
        # A run takes whole steps only, so a budget that is no multiple of a step is rounded down.
        return spent(self.config)[match == "updates"]

    def run(self, seed: int, folder: Path, report: Report) -> None:
        """See :class:`Arm`."""
        from experiments.online import run_online

        run_online(replace(self.config, seed=seed), folder, report, self.name)


@ARMS.register("offline")
@dataclass(frozen=True)
class OfflineArm:
    """An offline method: sample episodes, keep some of them by a rule, fine-tune on these."""

    name: str
    config: SFTConfig
    schema: ClassVar[type] = SFTConfig

    def budget(self, match: str) -> int:
        """See :class:`Arm`."""
        cfg, rounds = self.config, self.config.offline.iterations
        # Every round gets the same share of the budget; episodes are sampled in whole groups.
        unit = rounds if match == "updates" else rounds * cfg.offline.group_size
        return (cfg.training.updates if match == "updates" else cfg.training.episodes) // unit * unit

    def run(self, seed: int, folder: Path, report: Report) -> None:
        """See :class:`Arm`."""
        from experiments.arms import run_offline

        run_offline(replace(self.config, seed=seed), folder, report, self.name)


class _Unmatched:
    """Base class of arms that train nothing, or whose budget is not compared with that of other arms."""

    def budget(self, match: str) -> int:
        """See :class:`Arm`."""
        return 0


@ARMS.register("as_it_is")
@dataclass(frozen=True)
class AsItIs(_Unmatched):
    """The base model, evaluated without training, possibly with other prompts."""

    name: str
    config: RunConfig
    schema: ClassVar[type] = RunConfig

    def run(self, seed: int, folder: Path, report: Report) -> None:
        """See :class:`Arm`."""
        from experiments.arms import run_base

        run_base(replace(self.config, seed=seed), folder, report, self.name)


@dataclass
class CrossOptions:
    """Options of a table of who corrects whom.

    Args:
        policies: Paths of the policies of the base and the finished arms, by arm.
        n_tasks: Number of tasks per cell of the table.
    """

    policies: dict[str, str]
    n_tasks: int


@ARMS.register("cross", options=CrossOptions)
@dataclass(frozen=True)
class Cross(_Unmatched):
    """Who corrects whom: every arm makes second attempts that follow the first attempts of every arm."""

    name: str
    config: RunConfig
    policies: dict[str, str]
    n_tasks: int
    schema: ClassVar[type] = RunConfig

    def run(self, seed: int, folder: Path, report: Report) -> None:
        """Writes ``cross.json``."""
        from experiments.cross import run_cross

        run_cross(self.config, self.policies, self.n_tasks, folder, report)


@ARMS.register("study")
@dataclass(frozen=True)
class StudySeed(_Unmatched):
    """All arms of a study with one seed; ``name`` is the name of the study."""

    name: str
    config: StudySeedConfig
    schema: ClassVar[type] = StudySeedConfig
    leaves: ClassVar[tuple[str, ...]] = ("result.json", "rows.jsonl")

    def run(self, seed: int, folder: Path, report: Report) -> None:
        """See :func:`experiments.studies.run_seed`."""
        import torch

        from experiments.studies import run_seed

        torch.set_num_threads(self.config.threads)
        run_seed(self.name, self.config.settings, seed, folder, report, self.config.size)


@dataclass(frozen=True)
class Job:
    """One arm with one seed, and the folder of this run.

    Args:
        kind: Kind of the arm, a name in :data:`ARMS`.
        arm: The arm.
        seed: Seed of the run.
        folder: Folder of the run.
        options: Keyword arguments that the arm was built with, besides its name and config.
    """

    kind: str
    arm: Arm
    seed: int
    folder: Path
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def make(cls, kind: str, name: str, seed: int, config: Any, folder: Path, options: Mapping[str, Any] = {}) -> "Job":
        """Builds an arm of the given kind and a job for it; raises ``ValueError`` for options that the kind lacks."""
        try:
            ARMS.options(kind, options)
        except ValueError as error:
            raise ValueError(str(error).replace("arms.<name>.kind_options", f"arms.{name}")) from None
        return cls(kind, ARMS[kind](name, config, **options), seed, folder, options)

    @property
    def who(self) -> str:
        """The job's name on the screen, ``<arm>/<seed>``."""
        return f"{self.arm.name}/{self.seed}"

    @property
    def is_done(self) -> bool:
        """Whether the job is finished: all files that its arm must write exist."""
        if self.kind == "cross":
            path = self.folder / "cross.json"
            # If the comparison was resumed with more arms, the stored table lacks their cells and is not finished.
            arms = json.loads(path.read_text(encoding="utf-8"))["arms"] if path.exists() else None
            return arms == list(self.options["policies"])
        return all((self.folder / name).exists() for name in getattr(self.arm, "leaves", LEAVES))

    @property
    def error(self) -> str:
        """The traceback of the error that ended the job; empty if the job wrote none."""
        path = self.folder / "error.txt"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def progress(self) -> dict[str, Any]:
        """The progress that the job last wrote to its folder; empty if it has written none yet."""
        path = self.folder / "progress.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def write(self) -> None:
        """Writes the folder from which the job is started."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in ("error.txt", "progress.json"):  # left by an earlier try
            (self.folder / name).unlink(missing_ok=True)
        write_text(self.folder / "config.yaml", resolved_yaml(self.arm.config))
        write_json(
            self.folder / "job.json",
            {"kind": self.kind, "arm": self.arm.name, "seed": self.seed, "options": dict(self.options)},
        )

    @classmethod
    def read(cls, folder: Path) -> "Job":
        """Reads the job of a folder, after importing the plugins of its config."""
        register_schemas()
        if not (folder / "job.json").exists():
            raise UserError(f"{folder} is no job's folder: those of a comparison are arms/<arm>/seed_<n>")
        stored = json.loads((folder / "job.json").read_text())
        raw: Any = OmegaConf.load(folder / "config.yaml")
        for name in raw.get("plugins", []):  # imported first: a plugin may register the kind of arm looked up below
            import_plugin(name)
        config: Any = OmegaConf.merge(OmegaConf.structured(ARMS[stored["kind"]].schema), raw)  # type: ignore[attr-defined]
        return cls.make(stored["kind"], stored["arm"], stored["seed"], typed(config), folder, stored["options"])
