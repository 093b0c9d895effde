"""Sampling two-turn episodes: our rollout beside a ``rollout_func`` for TRL, same model, tasks and limits, in one run.

``python -m benchmarks.rollout model=smollm2_135m``; any override of ``experiments.train`` works, ``engine=vllm`` too,
also on a GPU. Each side runs in a process of its own, in turns. Prints a table, writes
``runs/benchmarks/rollout.json``.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.train_step import SIDES, load_config, report, run_side, split_arguments, summarise
from rl.config import TrainConfig

ROUNDS, STEPS = 2, 4
OUT = Path("runs/benchmarks/rollout.json")


def measure(side: str, config: TrainConfig, n_steps: int) -> dict[str, Any]:
    """Samples rollout batches with one side in this process; the first one warms up and is left out."""
    from envs import Split
    from rl.backends.flops import peak_memory_gib
    from rl.rollout import EpisodePlan
    from rl.rollout_metrics import sampled_tokens
    from rl.workbench import Workbench

    if config.threads:
        torch.set_num_threads(config.threads)
    bench = Workbench.build(config)
    tasks, members = bench.tasks(Split.TRAIN), config.algorithm.group_size
    rollout, steps = bench.rollout(Split.TRAIN), []
    size = config.training.tasks_per_step
    for step in range(n_steps + 1):
        chosen = [tasks[(step * size + i) % len(tasks)] for i in range(size) for _ in range(members)]
        started = time.perf_counter()
        if side == "trl":
            from benchmarks.two_turns_trl import TwoTurns

            turns = TwoTurns(bench, config)
            turns.play(chosen, bench.model)
            n_tokens = turns.spent.sampled_tokens
        else:
            plans = [EpisodePlan(task, i, step * 1000 + i) for i, task in enumerate(chosen)]
            n_tokens = sampled_tokens(rollout.run(plans, config.algorithm.temperature))
            bench.publish(step + 1)  # as after every update: the next step reads its prompts anew
        seconds = time.perf_counter() - started
        steps.append({"seconds": seconds, "sampling": seconds, "sampled_tokens": float(n_tokens)})
    return {"steps": steps[1:], "peak_memory_gib": peak_memory_gib(bench.distributed.device)}


def main() -> None:
    """Both sides in turns; or one of them, for the parent process."""
    options, overrides = split_arguments(sys.argv[1:])
    n_steps = int(options.get("steps", STEPS))
    if side := options.get("side"):
        print(json.dumps(measure(side, load_config(overrides), n_steps)))
        return
    config = load_config(overrides)
    rounds: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for _ in range(int(options.get("rounds", ROUNDS))):
        for side in SIDES:
            # TRL's side generates with transformers on the same device; our engine is what the overrides say.
            own = overrides if side == "ours" else [word for word in overrides if not word.startswith("engine")]
            rounds[side].append(run_side(side, own, n_steps, "benchmarks.rollout"))
    results = {side: summarise(found) for side, found in rounds.items()}
    report(results, OUT, f"two-turn rollouts, our engine: {config.engine.name}", {"rounds": rounds})


if __name__ == "__main__":
    main()
