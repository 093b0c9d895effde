"""Who corrects whom: second attempts of every arm at the first attempts of every arm.

An arm that corrects its own first attempts but not the base's (or the other way round) has learned a distribution, not
a skill; SCoRe's Figure 4 shows one row of this table over time.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

from envs import Split
from experiments.arms import Report
from rl.config import LoraConfig, RunConfig
from rl.probe import first_turns, second_attempts
from rl.tracking import write_text
from rl.workbench import Workbench


@dataclass(frozen=True, slots=True)
class CrossJob:
    """The table of one seed.

    Args:
        seed: Of the trained arms.
        config: Of the base.
        folder: Where ``cross.json`` goes.
        policies: Folders of the finished arms' policies, by arm.
        n_tasks: Test tasks of each cell.
    """

    seed: int
    config: RunConfig
    folder: Path
    policies: dict[str, str]
    n_tasks: int

    arm = "cross"

    @property
    def is_done(self) -> bool:
        """Whether the table is there for just these arms."""
        path = self.folder / "cross.json"
        return path.exists() and json.loads(path.read_text(encoding="utf-8"))["arms"] == list(self.policies)


def run_cross(job: CrossJob, report: Report) -> None:
    """Fills the table and writes ``cross.json``: for each pair of arms, how many of how many wrong ones were fixed."""
    n, firsts = len(job.policies), {}
    for i, (arm, path) in enumerate(job.policies.items()):
        bench = _bench(job, path)
        split = Split(bench.config.evaluation.split)
        firsts[arm] = first_turns(bench.rollout(split, 1), bench.tasks(split)[: job.n_tasks])
        bench.engine.close()
        report("first attempts", (i + 1) / (2 * n), {})
    cells = []
    for i, (arm, path) in enumerate(job.policies.items()):
        bench = _bench(job, path)
        for author, pairs in firsts.items():
            episodes = second_attempts(bench.rollout(Split(bench.config.evaluation.split), 2), pairs)
            good = [episode for episode in episodes if not episode.failed]
            right = [[turn.correct for turn in episode.turns] for episode in good]
            cells.append(
                {
                    "corrector": arm,
                    "author": author,
                    "n": len(right),
                    "n_wrong": sum(not first for first, _ in right),
                    "n_fixed": sum(last and not first for first, last in right),
                    "n_broken": sum(first and not last for first, last in right),
                }
            )
        bench.engine.close()
        report("second attempts", (n + i + 1) / (2 * n), {})
    write_text(job.folder / "cross.json", json.dumps({"arms": list(job.policies), "cells": cells}) + "\n")


def _bench(job: CrossJob, path: str) -> Workbench:
    model = replace(job.config.model, path=path, revision=None, lora=LoraConfig())
    return Workbench.build(replace(job.config, model=model))
