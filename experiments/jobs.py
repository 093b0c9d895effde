"""Arms, and jobs: one arm with one seed, in a folder that says everything about it.

A job is started by its folder alone, ``python -m experiments.job <folder>``, on whatever machine shares it. Its
config, its progress and its result are files there, so that who started it need not be reachable, nor alive.
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
"""Called with what is going on, the progress in [0, 1] and the newest metrics."""


class Arm(Protocol):
    """One side of a comparison: what it is, what it spends, and how it runs.

    A class in :data:`ARMS` is built from the arm's name, its config and, by keyword, what else its entry in the
    comparison's ``arms`` holds. ``schema`` is the dataclass of its config.
    """

    name: str
    config: Any
    schema: ClassVar[type]

    def budget(self, match: str) -> int:
        """What a run spends, exactly: sampled episodes, or optimiser steps for ``updates``; 0 if it trains nothing."""
        ...

    def run(self, seed: int, folder: Path, report: Report) -> None:
        """Does the work; ``result.json``, ``rows.jsonl`` and the policy are in the folder afterwards."""
        ...


ARMS: Lookup[Callable[..., Arm]] = Lookup("arms.<name>.kind")
LEAVES = ("result.json", "policy/config.json")
"""What an arm leaves in its folder when it has ended; an arm without a policy has ``leaves`` of its own."""


@ARMS.register("online")
@dataclass(frozen=True)
class OnlineArm:
    """Online RL: the policy learns from the rewards of what it has just sampled."""

    name: str
    config: TrainConfig
    schema: ClassVar[type] = TrainConfig

    def budget(self, match: str) -> int:
        """See :class:`Arm`."""
        # Whole steps only: a budget that is no multiple of a step is rounded down, and what is spent is what is said
        # here.
        return spent(self.config)[match == "updates"]

    def run(self, seed: int, folder: Path, report: Report) -> None:
        """See :class:`Arm`."""
        from experiments.online import run_online

        run_online(replace(self.config, seed=seed), folder, report, self.name)


@ARMS.register("offline")
@dataclass(frozen=True)
class OfflineArm:
    """An offline method: sample, keep by a rule, fine-tune."""

    name: str
    config: SFTConfig
    schema: ClassVar[type] = SFTConfig

    def budget(self, match: str) -> int:
        """See :class:`Arm`."""
        cfg, rounds = self.config, self.config.offline.iterations
        # Every round gets the same number, in whole groups.
        unit = rounds if match == "updates" else rounds * cfg.offline.group_size
        return (cfg.training.updates if match == "updates" else cfg.training.episodes) // unit * unit

    def run(self, seed: int, folder: Path, report: Report) -> None:
        """See :class:`Arm`."""
        from experiments.arms import run_offline

        run_offline(replace(self.config, seed=seed), folder, report, self.name)


class _Unmatched:
    """What trains nothing, or spends what no other arm is held to."""

    def budget(self, match: str) -> int:
        """See :class:`Arm`."""
        return 0


@ARMS.register("as_it_is")
@dataclass(frozen=True)
class AsItIs(_Unmatched):
    """The base, evaluated; possibly asked in other words."""

    name: str
    config: RunConfig
    schema: ClassVar[type] = RunConfig

    def run(self, seed: int, folder: Path, report: Report) -> None:
        """See :class:`Arm`."""
        from experiments.arms import run_base

        run_base(replace(self.config, seed=seed), folder, report, self.name)


@dataclass
class CrossOptions:
    """Of a table of who corrects whom.

    Args:
        policies: Folders of the finished arms' policies, by arm.
        n_tasks: Test tasks of each cell.
    """

    policies: dict[str, str]
    n_tasks: int


@ARMS.register("cross", options=CrossOptions)
@dataclass(frozen=True)
class Cross(_Unmatched):
    """Who corrects whom: second attempts of every arm at the first attempts of every arm."""

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
    """All arms of a study with one seed; ``name`` is the study's."""

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
    """One arm with one seed, in its folder.

    Args:
        kind: Of the arm, a name in :data:`ARMS`.
        arm: The arm.
        seed: Its seed.
        folder: Of the run.
        options: What the arm was built from besides its config.
    """

    kind: str
    arm: Arm
    seed: int
    folder: Path
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def make(cls, kind: str, name: str, seed: int, config: Any, folder: Path, options: Mapping[str, Any] = {}) -> "Job":
        """A job of an arm of that kind; raises ``ValueError`` for options that the kind does not have."""
        try:
            ARMS.options(kind, options)
        except ValueError as error:
            raise ValueError(str(error).replace("arms.<name>.kind_options", f"arms.{name}")) from None
        return cls(kind, ARMS[kind](name, config, **options), seed, folder, options)

    @property
    def who(self) -> str:
        """Its name on the screen."""
        return f"{self.arm.name}/{self.seed}"

    @property
    def is_done(self) -> bool:
        """Whether all that it was to leave is there."""
        if self.kind == "cross":
            path = self.folder / "cross.json"
            # A comparison that was resumed with more arms has more cells to fill.
            arms = json.loads(path.read_text(encoding="utf-8"))["arms"] if path.exists() else None
            return arms == list(self.options["policies"])
        return all((self.folder / name).exists() for name in getattr(self.arm, "leaves", LEAVES))

    @property
    def error(self) -> str:
        """The traceback that it ended with; empty if it wrote none."""
        path = self.folder / "error.txt"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def progress(self) -> dict[str, Any]:
        """What it last said about itself; empty before that."""
        path = self.folder / "progress.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def write(self) -> None:
        """Makes the folder from which the job is started."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in ("error.txt", "progress.json"):  # of an earlier try
            (self.folder / name).unlink(missing_ok=True)
        write_text(self.folder / "config.yaml", resolved_yaml(self.arm.config))
        write_json(
            self.folder / "job.json",
            {"kind": self.kind, "arm": self.arm.name, "seed": self.seed, "options": dict(self.options)},
        )

    @classmethod
    def read(cls, folder: Path) -> "Job":
        """The job of a folder; imports the plugins of its config first."""
        register_schemas()
        if not (folder / "job.json").exists():
            raise UserError(f"{folder} is no job's folder: those of a comparison are arms/<arm>/seed_<n>")
        stored = json.loads((folder / "job.json").read_text())
        raw: Any = OmegaConf.load(folder / "config.yaml")
        for name in raw.get("plugins", []):  # before the schema is looked up, which one of them may register
            import_plugin(name)
        config: Any = OmegaConf.merge(OmegaConf.structured(ARMS[stored["kind"]].schema), raw)  # type: ignore[attr-defined]
        return cls.make(stored["kind"], stored["arm"], stored["seed"], typed(config), folder, stored["options"])
