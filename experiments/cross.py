"""Who corrects whom: every arm makes second attempts that follow the first attempts of every arm.

An arm that corrects its own first attempts but not the base's (or the other way round) has learned a distribution, not
a skill; SCoRe's Figure 4 shows one row of this table over time.
"""

import json
from dataclasses import replace
from pathlib import Path

from envs import Split
from experiments.jobs import Report
from rl.backends.weights import load_pretrained
from rl.config import LoraConfig, RunConfig
from rl.evaluate import first_turns, second_attempts
from rl.tracking import write_text
from rl.workbench import Workbench


def run_cross(config: RunConfig, policies: dict[str, str], n_tasks: int, folder: Path, report: Report) -> None:
    """Plays the table and writes ``cross.json``: for each pair of arms, how many wrong first attempts were fixed.

    Args:
        config: Config of the base.
        policies: Paths of the policies of the base and the finished arms, by arm.
        n_tasks: Number of tasks per cell of the table.
        folder: Folder to write ``cross.json`` to.
        report: Called with the progress.
    """
    # Policies are stored with their adapters merged. One workbench takes the weights of one policy after another: for
    # its first attempts, and again for second attempts after those of all policies.
    bench = Workbench.build(replace(config, model=replace(config.model, lora=LoraConfig())))
    split, n, firsts, cells = Split(bench.config.evaluation.split), len(policies), {}, []
    for i, (arm, path) in enumerate(policies.items()):
        take(bench, path, i)
        firsts[arm] = first_turns(bench.rollout(split, 1), bench.tasks(split)[:n_tasks])
        report("first attempts", (i + 1) / (2 * n), {})
    for i, (arm, path) in enumerate(policies.items()):
        take(bench, path, n + i)
        for author, pairs in firsts.items():
            episodes = second_attempts(bench.rollout(split, 2), pairs)
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
        report("second attempts", (n + i + 1) / (2 * n), {})
    bench.engine.close()
    write_text(folder / "cross.json", json.dumps({"arms": list(policies), "cells": cells}) + "\n")


def take(bench: Workbench, path: str, version: int) -> None:
    """Gives a workbench's model and engine the weights of a stored policy, or of the base that it was built with."""
    base = bench.config.model
    load_pretrained(bench.model, path, base.revision if path == base.path else None)
    bench.publish(version)
