"""Compares the speed of our two-turn rollouts with a ``rollout_func`` for TRL, on the same model, tasks and limits.

``python -m benchmarks.rollout model=smollm2_135m``; any override of ``experiments.train`` works, also ``engine=vllm``
and on a GPU. Each side has its own process, and the two take turns. Prints every batch and a table, and writes
``runs/benchmarks/rollout.json``.
"""

import sys
import time
from pathlib import Path

import torch

from benchmarks.train_step import hand_over, load_config, split_arguments, take_turns, wait_for_turn
from rl.config import TrainConfig

STEPS = 4
OUT = Path("runs/benchmarks/rollout.json")


def serve(side: str, config: TrainConfig) -> None:
    """Runs in the process of one side: samples one rollout batch each time the parent process asks for it."""
    from benchmarks.two_turns_trl import TwoTurns, build
    from envs import Split
    from rl.rollout import EpisodePlan
    from rl.rollout_metrics import sampled_tokens
    from rl.workbench import Workbench

    if config.threads:
        torch.set_num_threads(config.threads)
    bench = build(config) if side == "trl" else Workbench.build(config)
    tasks, members = bench.tasks(Split.TRAIN), config.algorithm.group_size
    rollout, size, step = bench.rollout(Split.TRAIN), config.training.tasks_per_step, 0
    wait_for_turn()
    while True:
        # The episodes of a task are adjacent, as in training, so that an engine can process their common prompt once.
        chosen = [tasks[(step * size + i) % len(tasks)] for i in range(size) for _ in range(members)]
        started = time.perf_counter()
        if side == "trl":
            turns = TwoTurns(bench, config)
            turns.play(chosen, bench.model)
            n_tokens = turns.spent.sampled_tokens
        else:
            plans = [EpisodePlan(task, i, step * 1000 + i) for i, task in enumerate(chosen)]
            n_tokens = sampled_tokens(rollout.run(plans, config.algorithm.temperature))
            bench.publish(step + 1)  # clears cached keys and values, as every update does in training
        seconds, step = time.perf_counter() - started, step + 1
        hand_over(seconds, seconds, n_tokens, bench.distributed.device)


def main() -> None:
    """Lets both sides take turns; with ``--side``, which the parent process sets, serves that one side."""
    options, overrides = split_arguments(sys.argv[1:])
    if side := options.get("side"):
        serve(side, load_config(overrides))
        return
    config, n_steps = load_config(overrides), int(float(options.get("steps", STEPS)))
    # Overrides of the engine choose ours; TRL's side always generates with transformers, on the same device.
    others = [word for word in overrides if not word.startswith("engine")]
    arguments = {"ours": overrides, "trl": others}
    take_turns("benchmarks.rollout", arguments, n_steps, f"two-turn rollouts, our engine: {config.engine.name}", OUT)


if __name__ == "__main__":
    main()
