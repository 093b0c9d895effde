"""A comparison's folder, read once: rows, metrics, results, configs. Exhibits take everything from here."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from tokenizers import Tokenizer

from experiments.analysis import BASE, Comparison, analyse, complete_seeds, is_trained, load_results, load_rows
from rl.analysis.rows import EvalRow
from rl.analysis.statistics import ArmTable, Bootstrap, tabulate
from rl.tracking import read_jsonl


@dataclass(frozen=True, slots=True)
class Curve:
    """One quantity of one run over training.

    Args:
        x: Sampled training episodes.
        y: The quantity.
    """

    x: np.ndarray
    y: np.ndarray


class Store:
    """Everything that a comparison wrote.

    Args:
        folder: Of the comparison.

    Raises:
        FileNotFoundError: If the folder holds no comparison.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / "config.yaml").exists():
            raise FileNotFoundError(f"{folder}: no config.yaml, so this is not the folder of a comparison")
        self.folder = folder
        self.config: Any = OmegaConf.load(folder / "config.yaml")
        if "arms" not in self.config:
            raise FileNotFoundError(f"{folder}: its config.yaml has no arms, so this is not the folder of a comparison")
        self.names: dict[str, str] = {BASE: "base"} | {arm: node.name for arm, node in self.config.arms.items()}
        self._tables: dict[str, dict[str, ArmTable]] = {}
        self._bootstraps: dict[str, Bootstrap] = {}

    @property
    def env(self) -> str:
        """The environment's name."""
        return self.config.env.name

    @cached_property
    def rows(self) -> list[EvalRow]:
        """Every evaluated episode of the finished runs."""
        return load_rows(self.folder)

    @cached_property
    def results(self) -> dict[tuple[str, int], dict[str, Any]]:
        """``result.json`` by arm and seed."""
        return load_results(self.folder)

    @cached_property
    def arms(self) -> list[str]:
        """Arms with a finished run, in the order of the tables, the base first."""
        finished = {arm for arm, _ in self.results}
        return [arm for arm in [BASE, *self.config.run] if arm in finished]

    @property
    def trained(self) -> list[str]:
        """:attr:`arms` without the base and others that learn nothing."""
        return [arm for arm in self.arms if is_trained(arm, self.results)]

    @cached_property
    def modes(self) -> list[str]:
        """``greedy``, ``sampled``, or both."""
        evaluation = self.config.evaluation
        return ["greedy"] * bool(evaluation.greedy) + ["sampled"] * bool(evaluation.samples_per_task)

    @cached_property
    def mode(self) -> str:
        """The mode of figures and tables that show one: greedy where there is a choice."""
        return self.modes[0]

    @cached_property
    def comparisons(self) -> dict[str, Comparison]:
        """Statistics by mode."""
        return {mode: self._analyse(mode) for mode in self.modes}

    def _analyse(self, mode: str) -> Comparison:
        return analyse(self.folder, [BASE, *self.config.run], self.names, self.env, mode, self.rows)

    def seeds(self, arm: str) -> list[int]:
        """Seeds of an arm's finished runs."""
        return sorted(seed for name, seed in self.results if name == arm)

    def tables(self, mode: str) -> dict[str, ArmTable]:
        """Per-task values of a mode by arm; empty if no run has any."""
        if mode not in self._tables:
            self._tables[mode] = tabulate(self.rows, mode)
        return self._tables[mode]

    @cached_property
    def complete(self) -> list[int]:
        """Seeds that all trained arms finished: arms are paired over these."""
        return complete_seeds({arm: self.seeds(arm) for arm in self.trained})

    def bootstrap(self, mode: str) -> Bootstrap:
        """Shared draws over the complete seeds and the tasks of a mode."""
        if mode not in self._bootstraps:
            n_tasks = len(next(iter(self.tables(mode).values())).task_ids)
            self._bootstraps[mode] = Bootstrap(max(1, len(self.complete)), n_tasks)
        return self._bootstraps[mode]

    def paired(self, table: ArmTable, rate: str) -> np.ndarray:
        """``[S, N]`` values of the complete seeds; one row for the base and where no seed is complete."""
        values = table.rate(rate)
        if len(table.seeds) == 1 or not self.complete:
            return values[:1]
        return values[[table.seeds.index(seed) for seed in self.complete]]

    def of(self, arm: str, mode: str) -> dict[tuple[int, str], list[EvalRow]]:
        """An arm's rows of a mode by seed and task, failed ones left out, in the order of the samples."""
        found: dict[tuple[int, str], list[EvalRow]] = {}
        for row in self._by_arm.get((arm, mode), []):
            if not row.failed:
                found.setdefault((row.seed, row.task_id), []).append(row)
        return found

    @cached_property
    def _by_arm(self) -> dict[tuple[str, str], list[EvalRow]]:
        found: dict[tuple[str, str], list[EvalRow]] = {}
        for row in self.rows:
            found.setdefault((row.arm, row.mode), []).append(row)
        return found

    def rows_of(self, arm: str, mode: str) -> list[EvalRow]:
        """An arm's rows of a mode, failed ones left out."""
        return [row for row in self._by_arm.get((arm, mode), []) if not row.failed]

    @cached_property
    def _metrics(self) -> dict[tuple[str, int], list[dict[str, Any]]]:
        return {
            (arm, seed): read_jsonl(path)
            for arm, seed in self.results
            if (path := self.run_folder(arm, seed) / "metrics.jsonl").exists()
        }

    def run_folder(self, arm: str, seed: int) -> Path:
        """Where a run wrote."""
        return self.folder / "arms" / arm / f"seed_{seed}"

    def curves(self, arm: str, name: str) -> list[Curve]:
        """A logged metric over sampled episodes, one curve per seed; only runs that logged it at least twice."""
        curves = []
        for seed in self.seeds(arm):
            points = [
                (row["rollout/episodes"], row[name])
                for row in self._metrics.get((arm, seed), [])
                if row.get(name) is not None and "rollout/episodes" in row
            ]
            if len(points) > 1:
                x, y = np.array(points, dtype=float).T
                curves.append(Curve(x, y))
        return curves

    def rounds(self, arm: str, seed: int) -> list[dict[str, Any]]:
        """What an offline arm kept, round by round; empty for an online one."""
        path = self.run_folder(arm, seed) / "rounds.jsonl"
        return read_jsonl(path) if path.exists() else []

    def episodes(self, arm: str, seed: int) -> list[dict[str, Any]]:
        """The training episodes that a run kept."""
        path = self.run_folder(arm, seed) / "episodes.jsonl"
        return read_jsonl(path) if path.exists() else []

    def cross(self) -> list[dict[str, Any]]:
        """Cells of the correctors' table, one dictionary a seed."""
        return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(self.folder.glob("cross/*/cross.json"))]

    def tasks(self) -> dict[str, dict[str, str]]:
        """Question and gold of the evaluated tasks, by id."""
        for path in sorted(self.folder.glob("arms/*/*/tasks.jsonl")):
            return {row["task_id"]: row for row in read_jsonl(path)}
        return {}

    def data_files(self) -> list[dict[str, Any]]:
        """Published files that the tasks were read from, with hash and licence; none for generated tasks."""
        for path in sorted(self.folder.glob("arms/*/*/data.json")):
            return json.loads(path.read_text(encoding="utf-8"))
        return []

    def token_texts(self, ids: list[int]) -> dict[int, str]:
        """What token ids stand for, by the base's tokenizer; empty if it cannot be loaded here."""
        for arm, seed in self.results:
            path = self.run_folder(arm, seed) / "policy" / "tokenizer.json"
            if path.exists():
                tokenizer = Tokenizer.from_file(str(path))
                spelt = {i: tokenizer.id_to_token(i) for i in ids}
                decoder = tokenizer.decoder
                return {i: decoder.decode([t]) if decoder else t for i, t in spelt.items() if t is not None}
        return {}
