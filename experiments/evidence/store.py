"""Reads a folder of runs once (rows, metrics, results, configs); all exhibits take their data from it.

The folder may be a comparison (``arms/<arm>/seed_<n>/``), a sweep's ``multirun`` folder, a single run, or a folder of
several runs. A run is a folder with a ``result.json`` that names its arm and its seed.
"""

import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from experiments.cli import UserError, import_plugin
from experiments.evidence.asked import Asked, refuse_other_tasks
from experiments.keys import leaves, told_apart
from experiments.run_health import findings
from rewards.wording import counted
from rl.analysis.controls import CONTROLS
from rl.analysis.rates import Rate, Where, declared
from rl.analysis.rows import EvalRow
from rl.analysis.statistics import ArmTable, Bootstrap, Cells, Interval, tabulate
from rl.tracking import DEPTH, files_below, read_jsonl

BASE = "base"
NOT_COMPARED = {"name", "runs_dir", "data_dir", "resume", "threads", "plugins"}
"""Top-level config keys that do not describe the experiment, such as folders and threads."""
MANY_ARMS = 8
"""A page with more arms than this hides variants of an arm at first (:attr:`Store.minor`)."""


@dataclass(frozen=True, slots=True)
class Run:
    """One finished run.

    Args:
        arm: Key of the run's arm.
        seed: Training seed.
        folder: Folder of the run's files.
        result: Content of ``result.json``.
        config: Content of ``config.yaml``; empty if there is none.
    """

    arm: str
    seed: int
    folder: Path
    result: dict[str, Any]
    config: Any


@dataclass(frozen=True, slots=True)
class Curve:
    """One quantity of one run over training.

    Args:
        x: Number of training episodes sampled so far.
        y: Values of the quantity.
    """

    x: np.ndarray
    y: np.ndarray


@dataclass(frozen=True, slots=True)
class ErrorsAt:
    """Errors of wrong first attempts at one validation, counted by kind of error.

    Args:
        x: Number of training episodes sampled so far.
        own: Counts over the policy's greedy first attempts at the validation tasks.
        seen: Counts over the first attempts that were trained on since the previous validation.
    """

    x: float
    own: dict[str, int]
    seen: dict[str, int]


class Store:
    """Everything that was written by the runs below one folder or below each of several folders.

    Args:
        folder: A comparison, a sweep, a run, or a folder of runs. If several folders are given, the name of every arm
            ends in the letter of its folder: ``SCoRe (A)`` is from the first folder.

    Raises:
        TypeError: If ``folder`` is neither a path nor a list of paths, or an empty list.
        FileNotFoundError: If one of the folders does not exist, is a file, or holds no finished run.
    """

    def __init__(self, folder: Path | str | Sequence[Path | str]) -> None:
        several = [folder] if isinstance(folder, Path | str) else folder
        if not (isinstance(several, Sequence) and several and all(isinstance(one, Path | str) for one in several)):
            raise TypeError(f"a report takes a folder of runs, or a list of folders, not {folder!r:.100}")
        self.folders = [Path(one) for one in several]
        self.folder = self.folders[0] if len(self.folders) == 1 else _beside(self.folders)
        """Folder that the report is written to; for several folders, a new folder beside them."""
        within = [list(_find_runs(one)) for one in self.folders]
        for one, there in zip(self.folders, within, strict=True):
            _refuse_without_runs(one, there)
        found = within[0]
        self.config: Any = _config_of(self.folders[0], found)
        self.is_comparison = "arms" in self.config and len(self.folders) == 1
        self.notes: list[str] = []
        """Remarks for readers of the report, for example that a run counts instead of an older one."""
        # Plugins register rates and exhibits. A missing plugin is only a note, since the rest can be reported without.
        for module in self.setting("plugins", []):
            try:
                import_plugin(module)
            except UserError as error:
                self.notes.append(f"{error}; its rates and figures are missing.")
        # A comparison names its own arms. Elsewhere runs of one arm may have different configs: these become arms of
        # their own, named after the settings that differ.
        self.runs: dict[tuple[str, int], Run] = {}
        if len(self.folders) > 1:
            found = [run for one, there in zip(self.folders, within, strict=True) for run in self._lettered(one, there)]
        elif not self.is_comparison:
            named = told_apart([run.arm for run in found], [run.config for run in found])
            found = [replace(run, arm=name) for run, name in zip(found, named, strict=True)]
        # If two runs have the same arm and seed, the run whose folder is found later replaces the other: for a repeated
        # run, that is the newer one.
        for run in found:
            if (other := self.runs.get((run.arm, run.seed))) is not None:
                self.notes.append(
                    f"{other.folder}: another run of {run.arm} with seed {run.seed}; {run.folder} is used instead."
                )
            self.runs[run.arm, run.seed] = run
            if said := run.result.get("notes", {}).get("broken_off"):
                self.notes.append(f"{run.arm}, seed {run.seed}: {said}")
        # Order of arms in tables: the base, the arms in the order that the comparison asked for, then all others.
        finished = {arm: None for arm, _ in self.runs}
        asked = self.setting("include") or self.setting("run", [])  # `include` was called `run` in older folders
        self.order: list[str] = [BASE, *asked] if self.is_comparison else []
        self.order += [arm for arm in sorted(finished, key=lambda arm: arm != BASE) if arm not in self.order]
        self.arms: list[str] = [arm for arm in self.order if arm in finished]
        """Keys of the arms with a finished run, in the order of the tables, the base first."""
        self.names: dict[str, str] = {
            arm: self.config.get("arms", {}).get(arm, {}).get("name", arm) for arm in self.order
        }
        self._files: dict[Path, list[dict[str, Any]]] = {}
        self._tables: dict[str, dict[str, ArmTable]] = {}
        self._bootstraps: dict[str, Bootstrap] = {}
        self._cells: dict[tuple[str, str, str], Cells] = {}
        self.notes += self._uneven()

    def _uneven(self) -> list[str]:
        """A note if the trained arms have not finished the same seeds, for instance while a comparison is running."""
        of_arm = {self.names[arm]: self.seeds(arm) for arm in self.trained}
        if all(seeds == self.complete for seeds in of_arm.values()):
            return []
        told = "; ".join(f"{name} has {', '.join(map(str, seeds))}" for name, seeds in of_arm.items())
        if not self.complete:
            return [f"No seed is finished by every trained arm ({told}): each arm is represented by its first seed."]
        shared = ", ".join(map(str, self.complete))
        return [
            f"Rates, intervals and differences are over the seeds that every trained arm finished, {shared} ({told})."
        ]

    def setting(self, key: str, default: Any = None) -> Any:
        """Value of a dotted key of the config; the default if the key is missing or null."""
        found = OmegaConf.select(self.config, key)
        return default if found is None else found

    def _lettered(self, folder: Path, runs: list[Run]) -> list[Run]:
        """Runs of one of several folders, with arms named as in tables plus the folder's letter."""
        config, letter = _config_of(folder, runs), chr(ord("A") + self.folders.index(folder))
        self.notes.append(f"{letter} is {folder}.")
        if "arms" in config:
            names = [config.arms.get(run.arm, {}).get("name", run.arm) for run in runs]
        else:
            names = told_apart([run.arm for run in runs], [run.config for run in runs])
        return [replace(run, arm=f"{name} ({letter})") for run, name in zip(runs, names, strict=True)]

    def config_differences(self) -> dict[str, list[Any]]:
        """Config keys whose values differ between the folders, each with its value in every folder."""
        flat = [leaves(_config_of(one, list(_find_runs(one)))) for one in self.folders]
        keys = sorted({key for one in flat for key in one if key.split(".")[0] not in NOT_COMPARED})
        values = {key: [one.get(key) for one in flat] for key in keys}
        return {key: found for key, found in values.items() if any(one != found[0] for one in found)}

    def arm_config(self, arm: str) -> Any:
        """The learning config of an arm: its ``algorithm`` or ``offline`` config; empty for an arm that is not trained.

        In a comparison it is the arm's whole entry under ``arms``.
        """
        if self.is_comparison:
            return self.setting(f"arms.{arm}", {})
        config = self.runs[arm, self.seeds(arm)[0]].config
        return config.get("algorithm") or config.get("offline") or {}

    @cached_property
    def minor(self) -> list[str]:
        """Online arms that are variants of another arm, such as ``score_no_stage1`` of ``score``.

        Pages hide these arms at first. The list is empty if there are at most :data:`MANY_ARMS` arms.
        """
        if len(self.arms) <= MANY_ARMS:
            return []
        # With several folders, arms are called by their names in tables; only the runs know the key of their arm.
        keys = {arm: self.runs[arm, self.seeds(arm)[0]].result["arm"] for arm in self.arms}
        online = [arm for arm in self.arms if "stages" in self.arm_config(arm)]
        return [arm for arm in online if any(keys[arm].startswith(f"{keys[other]}_") for other in online)]

    def place(self, run: Run) -> str:
        """Path of a run's folder relative to the report's folder."""
        return Path(os.path.relpath(run.folder, self.folder)).as_posix()

    @property
    def env(self) -> str:
        """The environment's name."""
        return self.setting("env.name", "tasks")

    def seeds(self, arm: str) -> list[int]:
        """The finished seeds of an arm, sorted."""
        return sorted(seed for name, seed in self.runs if name == arm)

    def crashed(self, arm: str) -> list[int]:
        """Seeds of a comparison's arm that wrote an ``error.txt`` and have no finished run."""
        errors = self.folder.glob(f"arms/{arm}/seed_*/error.txt")
        found = (int(path.parent.name.removeprefix("seed_")) for path in errors)
        return sorted(seed for seed in found if (arm, seed) not in self.runs)

    @cached_property
    def trained(self) -> list[str]:
        """The arms that were trained: :attr:`arms` without the base, prompting and the like."""
        # A run was trained if it sampled episodes for training; this holds for every kind of arm.
        learned = {arm for (arm, _), run in self.runs.items() if run.result.get("totals", {}).get("episodes")}
        return [arm for arm in self.arms if arm in learned]

    @cached_property
    def complete(self) -> list[int]:
        """Seeds that all trained arms finished; differences between arms are paired over these seeds."""
        seeds = [set(self.seeds(arm)) for arm in self.trained]
        return sorted(set.intersection(*seeds)) if seeds else []

    @property
    def said_seeds(self) -> str:
        """Number of :attr:`complete` seeds in words, such as ``3 seeds``; if 0, says what is used instead."""
        return counted(len(self.complete), "seed") if self.complete else "no seed in common, so one run of each arm"

    # ---------------------------------------------------------------- evaluated episodes

    @cached_property
    def rows(self) -> list[EvalRow]:
        """Every evaluated episode of the finished runs; ``arm`` is the key under which the store knows the run."""
        return [EvalRow.from_json(row | {"arm": key[0]}) for key in self.runs for row in self._read(*key, "rows")]

    @cached_property
    def _untouched(self) -> list[EvalRow]:
        """Rows for a control that could change no episode of one seed but was played with other seeds of the arm.

        The control was not played with that seed, because its episodes would have been the greedy ones.
        """
        played: dict[str, dict[int, set[str]]] = {}
        for row in self.rows:
            if row.mode in CONTROLS:
                played.setdefault(row.arm, {}).setdefault(row.seed, set()).add(row.mode)
        lacks = {
            (arm, seed): set().union(*of_seeds.values()) - modes
            for arm, of_seeds in played.items()
            for seed, modes in of_seeds.items()
        }
        greedy = [row for row in self.rows if row.mode == "greedy" and lacks.get((row.arm, row.seed))]
        return [replace(row, mode=mode, unchanged=True) for row in greedy for mode in sorted(lacks[row.arm, row.seed])]

    @cached_property
    def _by_mode(self) -> dict[str, list[EvalRow]]:
        # A comparison has some 300,000 rows, so they are sorted once rather than searched for every table and figure.
        refuse_other_tasks({run.folder: self.asked[key] for key, run in self.runs.items()})
        found: dict[str, list[EvalRow]] = defaultdict(list)
        for row in [*self.rows, *self._untouched]:
            found[row.mode].append(row)
        return dict(found)

    @cached_property
    def modes(self) -> list[str]:
        """The decoding modes that were evaluated: ``greedy``, ``sampled``, or both.

        Raises:
            FileNotFoundError: If no run has episodes of either mode.
        """
        if played := [mode for mode in ("greedy", "sampled") if mode in self._by_mode]:
            return played
        raise FileNotFoundError(f"{self.folder}: no run has evaluated episodes, so there is nothing to report")

    @property
    def mode(self) -> str:
        """The mode of figures and tables that show a single mode: greedy if it was evaluated, else sampled."""
        return self.modes[0]

    def attempts(self, mode: str) -> int:
        """K, the largest number of attempts that an episode of a mode was allowed; 1 if there are no episodes."""
        return max((row.attempts for row in self._by_mode.get(mode, [])), default=1)

    def rates(self, mode: str, where: Where) -> dict[str, Rate]:
        """The rates that are shown in a place, such as the headline, for a mode's number of attempts; by name."""
        return declared(self.attempts(mode), where)

    def tables(self, mode: str) -> dict[str, ArmTable]:
        """Rates of a mode by seed and task, one table for each arm."""
        if mode not in self._tables:
            try:
                self._tables[mode] = tabulate(self._by_mode.get(mode, []), mode)
            except ValueError as error:
                if len(self.folders) == 1:
                    raise
                raise UserError(
                    f"run=[{', '.join(map(str, self.folders))}]: these were evaluated on different {mode} tasks, so "
                    f"their arms cannot be compared ({error}); give both the same env and the same test tasks"
                ) from None
        return self._tables[mode]

    def n_tasks(self, mode: str) -> int:
        """Number of tasks that a mode was evaluated on."""
        return len(next(iter(self.tables(mode).values())).task_ids)

    def bootstrap(self, mode: str) -> Bootstrap:
        """Bootstrap resamples of a mode's tasks and of the complete seeds, the same for every arm."""
        if mode not in self._bootstraps:
            self._bootstraps[mode] = Bootstrap(max(1, len(self.complete)), self.n_tasks(mode))
        return self._bootstraps[mode]

    def cells(self, arm: str, mode: str, rate: str) -> Cells:
        """A rate's values over the complete seeds; of a single run if the arm has only one or no seed is complete."""
        if (arm, mode, rate) not in self._cells:
            table = self.tables(mode)[arm]
            # The base is run once. Its single row is compared with every seed of the other arms, so that differences
            # from the base are paired over tasks only.
            alone = len(table.seeds) == 1 or not self.complete
            seeds = [0] if alone else [table.seeds.index(seed) for seed in self.complete]
            self._cells[arm, mode, rate] = table.cells[rate].take(seeds)
        return self._cells[arm, mode, rate]

    def interval(self, arm: str, mode: str, rate: str) -> Interval:
        """Mean of a rate with its bootstrap interval."""
        return self.bootstrap(mode).interval(self.cells(arm, mode, rate))

    def rows_of(self, arm: str, mode: str) -> list[EvalRow]:
        """Rows of an arm in a mode, without failed episodes."""
        return [row for row in self._by_mode.get(mode, []) if row.arm == arm and not row.failed]

    # ---------------------------------------------------------------- training

    def curves(self, arm: str, name: str) -> list[Curve]:
        """A logged metric over sampled training episodes: one curve for each seed that logged it at least twice."""
        curves = []
        for seed in self.seeds(arm):
            rows = [row for row in self._read(arm, seed, "metrics") if row.get(name) is not None]
            points = [(row["rollout/episodes"], row[name]) for row in rows if "rollout/episodes" in row]
            if len(points) > 1:
                curves.append(Curve(*np.array(points, dtype=float).T))
        return curves

    def errors(self, arm: str, seed: int) -> list[ErrorsAt]:
        """The policy's errors at every validation, and the errors trained on since the previous one, by kind.

        Validations before which no errors were trained on are left out.
        """
        found, seen = [], Counter[str]()
        for row in self._read(arm, seed, "metrics"):
            # In the log, `errors` of a training step counts the errors trained on, `errors` of a validation counts the
            # policy's own errors.
            if "errors" in row and "eval/validation/n" not in row:
                seen.update(row["errors"])
            elif "errors" in row:
                if seen:
                    found.append(ErrorsAt(row["rollout/episodes"], row["errors"], dict(seen)))
                seen = Counter()
        return found

    def unwell(self) -> list[tuple[str, int, dict[str, Any]]]:
        """Arm, seed and finding for everything that the health checks found in the runs."""
        return [(arm, seed, one) for (arm, seed), run in self.runs.items() for one in findings(run.folder)]

    def rounds(self, arm: str, seed: int) -> list[dict[str, Any]]:
        """The logged rounds of an offline arm, which say what its rule kept; empty for an online arm."""
        return self._read(arm, seed, "rounds")

    def episodes(self, arm: str, seed: int) -> list[dict[str, Any]]:
        """The training episodes that a run stored."""
        return self._read(arm, seed, "episodes")

    def _read(self, arm: str, seed: int, what: str) -> list[dict[str, Any]]:
        path = self.runs[arm, seed].folder / f"{what}.jsonl"
        if path not in self._files:
            self._files[path] = read_jsonl(path) if path.exists() else []
        return self._files[path]

    def cross(self) -> list[dict[str, Any]]:
        """Stored results of arms correcting each other's first attempts, one dictionary for each seed."""
        return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(self.folder.glob("cross/*/cross.json"))]

    @cached_property
    def asked(self) -> dict[tuple[str, int], Asked]:
        """Question and gold answer of each run's evaluated tasks, by arm and seed, then by task id."""
        found = {key: {row["task_id"]: row for row in self._read(*key, "tasks")} for key in self.runs}
        # The runs of a comparison share their tasks, so one that stored none takes those of another.
        shared = next(filter(None, found.values()), {}) if self.is_comparison else {}
        return {key: tasks or shared for key, tasks in found.items()}

    def data_files(self) -> list[dict[str, Any]]:
        """Files that the tasks were read from, each version once, with hash and licence; empty for generated tasks."""
        paths = [path for run in self.runs.values() if (path := run.folder / "data.json").exists()]
        found = [one for path in paths for one in json.loads(path.read_text(encoding="utf-8"))]
        return list({(one["file"], one["sha256"]): one for one in found}.values())


def _refuse_without_runs(folder: Path, runs: Sequence[Run]) -> None:
    """Raises FileNotFoundError if a folder has no finished runs; the message says whether there is a folder at all."""
    if runs:
        return
    said = f"no finished run (a folder with a result.json) in it or up to {counted(DEPTH, 'folder')} below it"
    if folder.is_file():
        said = "that is a file; name the folder of runs that it is in"
    elif not folder.exists():
        said = "there is no such folder; use runs/<name>/<time>"
    raise FileNotFoundError(f"run={folder}: {said}")


def _beside(folders: Sequence[Path]) -> Path:
    """A folder in the common parent of several folders, named after all of them."""
    whole = [one.absolute() for one in folders]
    parent = Path(os.path.commonpath([one.parent for one in whole]))
    return parent / " and ".join(one.relative_to(parent).as_posix().replace("/", "_") for one in whole).replace(
        " ", "_"
    )


def _config_of(folder: Path, runs: Sequence[Run]) -> Any:
    top = folder / "config.yaml"
    return OmegaConf.load(top) if top.exists() else runs[0].config


def _find_runs(folder: Path) -> Iterator[Run]:
    for path in files_below(folder, "result.json"):
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path}: not the result of a run ({error}); move it away to leave it out") from error
        config = path.parent / "config.yaml"
        if isinstance(result, dict) and {"arm", "seed"} <= set(result):
            found = OmegaConf.load(config) if config.exists() else OmegaConf.create({})
            yield Run(result["arm"], result["seed"], path.parent, result, found)
