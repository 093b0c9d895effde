"""A folder of runs, read once: rows, metrics, results, configs. Exhibits take everything from here.

Any folder that holds finished runs will do: a comparison (``arms/<arm>/seed_<n>/``), a sweep's ``multirun`` folder, one
run, or a folder of several. A run is a folder with a ``result.json``, which names its arm and its seed.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from tokenizers import Tokenizer

from experiments.cli import UserError, import_plugin
from experiments.keys import told_apart
from experiments.run_health import findings
from rl.analysis.rates import Rate, Where, declared
from rl.analysis.rows import EvalRow
from rl.analysis.statistics import ArmTable, Bootstrap, Cells, Interval, tabulate
from rl.tracking import read_jsonl

BASE = "base"
DEPTH = 4
"""How many folders below the given one a run may be."""


@dataclass(frozen=True, slots=True)
class Run:
    """One finished run.

    Args:
        arm: Key of its arm.
        seed: Its seed.
        folder: Where it wrote.
        result: Its ``result.json``.
        config: Its ``config.yaml``; empty if there is none.
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
        x: Sampled training episodes.
        y: The quantity.
    """

    x: np.ndarray
    y: np.ndarray


@dataclass(frozen=True, slots=True)
class ErrorsAt:
    """Wrong first attempts at one validation.

    Args:
        x: Sampled training episodes.
        own: How many of the policy's own greedy ones make which kind of error.
        seen: The same of what was trained on since the validation before.
    """

    x: float
    own: dict[str, int]
    seen: dict[str, int]


class Store:
    """Everything that the runs below a folder wrote.

    Args:
        folder: A comparison, a sweep, a run, or a folder of runs.

    Raises:
        FileNotFoundError: If no finished run is there.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = folder = Path(folder)
        found = list(_find_runs(folder))
        if not found:
            raise FileNotFoundError(
                f"{folder}: no finished run (a folder with a result.json) in it or up to {DEPTH} folders below it"
            )
        top = folder / "config.yaml"
        self.config: Any = OmegaConf.load(top) if top.exists() else found[0].config
        self.is_comparison = "arms" in self.config
        self.notes: list[str] = []
        """What a reader of the report must know about how it was read."""
        for module in self.setting("plugins", []):
            try:
                import_plugin(module)
            except UserError as error:
                self.notes.append(f"{error}; what it adds is missing.")
        self.runs: dict[tuple[str, int], Run] = {}
        if not self.is_comparison:  # runs of one arm whose configs differ are arms of their own
            named = told_apart([run.arm for run in found], [run.config for run in found])
            found = [replace(run, arm=name) for run, name in zip(found, named, strict=True)]
        for run in found:
            if (other := self.runs.get((run.arm, run.seed))) is not None:
                self.notes.append(
                    f"{other.folder}: another run of {run.arm} with seed {run.seed}; {run.folder} counts."
                )
            self.runs[run.arm, run.seed] = run
            if said := run.result.get("notes", {}).get("broken_off"):
                self.notes.append(f"{run.arm}, seed {run.seed}: {said}")
        finished = {arm: None for arm, _ in self.runs}
        self.order: list[str] = [BASE, *self.setting("include", [])] if self.is_comparison else []
        self.order += [arm for arm in sorted(finished, key=lambda arm: arm != BASE) if arm not in self.order]
        self.arms: list[str] = [arm for arm in self.order if arm in finished]
        """Arms with a finished run, in the order of the tables, the base first."""
        self.names: dict[str, str] = {
            arm: self.config.get("arms", {}).get(arm, {}).get("name", arm) for arm in self.order
        }
        self._files: dict[Path, list[dict[str, Any]]] = {}
        self._tables: dict[str, dict[str, ArmTable]] = {}
        self._bootstraps: dict[str, Bootstrap] = {}
        self._cells: dict[tuple[str, str, str], Cells] = {}

    def setting(self, key: str, default: Any = None) -> Any:
        """A value of the config, by its whole key; the default where the config does not say."""
        found = OmegaConf.select(self.config, key)
        return default if found is None else found

    def arm_config(self, arm: str) -> Any:
        """What an arm learns by: its ``algorithm`` or ``offline`` config; empty for one that learns nothing."""
        if self.is_comparison:
            return self.setting(f"arms.{arm}", {})
        config = self.runs[arm, self.seeds(arm)[0]].config
        return config.get("algorithm") or config.get("offline") or {}

    @property
    def env(self) -> str:
        """The environment's name."""
        return self.setting("env.name", "tasks")

    def seeds(self, arm: str) -> list[int]:
        """Seeds of an arm that are finished."""
        return sorted(seed for name, seed in self.runs if name == arm)

    def crashed(self, arm: str) -> list[int]:
        """Seeds of a comparison's arm that left an error and no result."""
        errors = self.folder.glob(f"arms/{arm}/seed_*/error.txt")
        found = (int(path.parent.name.removeprefix("seed_")) for path in errors)
        return sorted(seed for seed in found if (arm, seed) not in self.runs)

    @cached_property
    def trained(self) -> list[str]:
        """:attr:`arms` without those that learn nothing, such as the base."""
        learned = {arm for (arm, _), run in self.runs.items() if run.result.get("totals", {}).get("episodes")}
        return [arm for arm in self.arms if arm in learned]

    @cached_property
    def complete(self) -> list[int]:
        """Seeds that all trained arms finished: what differences are paired over."""
        seeds = [set(self.seeds(arm)) for arm in self.trained]
        return sorted(set.intersection(*seeds)) if seeds else []

    # ---------------------------------------------------------------- evaluated episodes

    @cached_property
    def rows(self) -> list[EvalRow]:
        """Every evaluated episode of the finished runs, each named after its arm here."""
        return [EvalRow.from_json(row | {"arm": key[0]}) for key in self.runs for row in self._read(*key, "rows")]

    @cached_property
    def modes(self) -> list[str]:
        """``greedy``, ``sampled``, or both: whatever there are episodes of.

        Raises:
            FileNotFoundError: If there are none.
        """
        played = {row.mode for row in self.rows}
        if not played & {"greedy", "sampled"}:
            raise FileNotFoundError(f"{self.folder}: no run has evaluated episodes, so there is nothing to report")
        return [mode for mode in ("greedy", "sampled") if mode in played]

    @property
    def mode(self) -> str:
        """The mode of figures and tables that show one: greedy where there is a choice."""
        return self.modes[0]

    def attempts(self, mode: str) -> int:
        """K, how many attempts the episodes of a mode could have."""
        return max((row.attempts for row in self.rows if row.mode == mode), default=1)

    def rates(self, mode: str, where: Where) -> dict[str, Rate]:
        """The rates to be shown somewhere, by name."""
        return declared(self.attempts(mode), where)

    def tables(self, mode: str) -> dict[str, ArmTable]:
        """Rates of a mode by arm."""
        if mode not in self._tables:
            self._tables[mode] = tabulate(self.rows, mode)
        return self._tables[mode]

    def n_tasks(self, mode: str) -> int:
        """How many tasks a mode was played on."""
        return len(next(iter(self.tables(mode).values())).task_ids)

    def bootstrap(self, mode: str) -> Bootstrap:
        """Resamples of a mode's tasks and of the complete seeds, the same for every arm."""
        if mode not in self._bootstraps:
            self._bootstraps[mode] = Bootstrap(max(1, len(self.complete)), self.n_tasks(mode))
        return self._bootstraps[mode]

    def cells(self, arm: str, mode: str, rate: str) -> Cells:
        """A rate of the complete seeds; of one run for an arm that has one, and where no seed is complete."""
        if (arm, mode, rate) not in self._cells:
            table = self.tables(mode)[arm]
            alone = len(table.seeds) == 1 or not self.complete
            seeds = [0] if alone else [table.seeds.index(seed) for seed in self.complete]
            self._cells[arm, mode, rate] = table.cells[rate].take(seeds)
        return self._cells[arm, mode, rate]

    def interval(self, arm: str, mode: str, rate: str) -> Interval:
        """A rate's mean and bootstrap interval."""
        return self.bootstrap(mode).interval(self.cells(arm, mode, rate))

    def rows_of(self, arm: str, mode: str) -> list[EvalRow]:
        """An arm's rows of a mode, failed ones left out."""
        return [row for row in self.rows if (row.arm, row.mode) == (arm, mode) and not row.failed]

    # ---------------------------------------------------------------- training

    def curves(self, arm: str, name: str) -> list[Curve]:
        """A logged metric over sampled episodes, one curve per seed; only runs that logged it at least twice."""
        curves = []
        for seed in self.seeds(arm):
            rows = [row for row in self._read(arm, seed, "metrics") if row.get(name) is not None]
            points = [(row["rollout/episodes"], row[name]) for row in rows if "rollout/episodes" in row]
            if len(points) > 1:
                curves.append(Curve(*np.array(points, dtype=float).T))
        return curves

    def errors(self, arm: str, seed: int) -> list[ErrorsAt]:
        """Own errors at every validation beside those that were trained on since the one before, by kind."""
        found, seen = [], Counter[str]()
        for row in self._read(arm, seed, "metrics"):
            if "errors" in row and "eval/validation/n" not in row:
                seen.update(row["errors"])
            elif "errors" in row:
                if seen:
                    found.append(ErrorsAt(row["rollout/episodes"], row["errors"], dict(seen)))
                seen = Counter()
        return found

    def unwell(self) -> list[tuple[str, int, dict[str, Any]]]:
        """Arm, seed and finding of every check that found something in a run."""
        return [(arm, seed, one) for (arm, seed), run in self.runs.items() for one in findings(run.folder)]

    def rounds(self, arm: str, seed: int) -> list[dict[str, Any]]:
        """What an offline arm kept, round by round; empty for an online one."""
        return self._read(arm, seed, "rounds")

    def episodes(self, arm: str, seed: int) -> list[dict[str, Any]]:
        """The training episodes that a run kept."""
        return self._read(arm, seed, "episodes")

    def _read(self, arm: str, seed: int, what: str) -> list[dict[str, Any]]:
        path = self.runs[arm, seed].folder / f"{what}.jsonl"
        if path not in self._files:
            self._files[path] = read_jsonl(path) if path.exists() else []
        return self._files[path]

    def cross(self) -> list[dict[str, Any]]:
        """Cells of the correctors' table, one dictionary a seed."""
        return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(self.folder.glob("cross/*/cross.json"))]

    def tasks(self) -> dict[str, dict[str, str]]:
        """Question and gold of the evaluated tasks, by id."""
        return {row["task_id"]: row for arm, seed in self.runs for row in self._read(arm, seed, "tasks")}

    def data_files(self) -> list[dict[str, Any]]:
        """Published files that the tasks were read from, with hash and licence; none for generated tasks."""
        found = (run.folder / "data.json" for run in self.runs.values())
        return next((json.loads(path.read_text(encoding="utf-8")) for path in found if path.exists()), [])

    def token_texts(self, ids: list[int]) -> dict[int, str]:
        """What token ids stand for; empty if no run saved its tokenizer."""
        for run in self.runs.values():
            if (path := run.folder / "policy" / "tokenizer.json").exists():
                tokenizer = Tokenizer.from_file(str(path))
                decoder = tokenizer.decoder
                spelt = {i: token for i in ids if (token := tokenizer.id_to_token(i)) is not None}
                return {i: decoder.decode([token]) if decoder else token for i, token in spelt.items()}
        return {}


def _find_runs(folder: Path) -> Iterator[Run]:
    for depth in range(DEPTH + 1):
        for path in sorted(folder.glob("/".join([*["*"] * depth, "result.json"]))):
            try:
                result = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise ValueError(f"{path}: not the result of a run ({error}); move it away to leave it out") from error
            config = path.parent / "config.yaml"
            if isinstance(result, dict) and {"arm", "seed"} <= set(result):
                found = OmegaConf.load(config) if config.exists() else OmegaConf.create({})
                yield Run(result["arm"], result["seed"], path.parent, result, found)
