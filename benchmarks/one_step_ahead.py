"""Measures whether sampling one batch ahead of the update would be faster: ``python -m benchmarks.one_step_ahead``.

Two processes hold the same policy: one samples rollout batches, the other scores and updates on a stored batch. They
work in turns with all threads each, as our trainer does, and then at the same time with half of the threads each, as a
trainer would that samples with weights one step old. Weights and episodes are not transferred between the processes, so
the measured speed-up is an upper bound. Any override of ``experiments.train`` works; prints the times of each round and
their ratio, then the median ratio.
"""

import argparse
import os
import time
from multiprocessing import get_context
from multiprocessing.connection import Connection
from statistics import median
from unittest.mock import patch

import torch

from benchmarks.train_step import load_config


def work(asked: Connection, overrides: list[str], part: str) -> None:
    """Repeats one half of the training step, once for every number of threads received; 0 ends the process.

    Args:
        asked: Connection that delivers numbers of threads and takes the seconds of each half step. The first message
            sent is -1, once everything is loaded.
        overrides: Overrides of ``experiments.train``.
        part: ``sample``, or ``update``, which scores and updates on a batch that was sampled once at the start.
    """
    from rl.backends.distributed import Distributed
    from rl.workbench import Workbench

    # The run must not stop at a large sampler gap: every update moves the policy further away from the stored batch.
    config = load_config([*overrides, "training.max_sampler_gap=0"])
    bench = Workbench.build(config, Distributed(mixed_precision=config.algorithm.optim.mixed_precision))
    trainer = bench.trainer()
    stored = trainer.source.sample(trainer.stages[0], None)
    asked.send(-1.0)
    while threads := asked.recv():
        torch.set_num_threads(threads)
        began = time.perf_counter()
        if part == "sample":
            trainer.source.sample(trainer.stages[0], None)
        else:
            trainer.step = 0  # version 0 sampled the stored batch; the trainer refuses a batch of another version
            with patch.object(trainer.source, "sample", return_value=stored):
                trainer.train_step()
        asked.send(time.perf_counter() - began)


def main() -> None:
    """Measures both ways of working in every round, so that other work on the machine slows both down alike."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="after one that warms up")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of both halves together")
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    context, halves = get_context("spawn"), {}
    for part in ("sample", "update"):
        halves[part], theirs = context.Pipe()
        context.Process(target=work, args=(theirs, options.overrides, part), daemon=True).start()
        theirs.close()  # otherwise recv() would wait forever for a half that ended with an error
    for half in halves.values():
        half.recv()

    ratios = []
    for n in range(options.rounds + 1):
        turns = {}
        for part, half in halves.items():
            half.send(options.threads)
            turns[part] = half.recv()
        began = time.perf_counter()
        for half in halves.values():
            half.send(max(1, options.threads // 2))
        apart = {part: half.recv() for part, half in halves.items()}
        at_once = time.perf_counter() - began
        ratio = sum(turns.values()) / at_once
        said = ", ".join(f"{part} {turns[part]:.1f} s (at the same time {apart[part]:.1f} s)" for part in halves)
        print(f"{f'round {n}' if n else 'warm-up'}: {said}; in turns / at the same time: {ratio:.2f}", flush=True)
        ratios += [ratio] if n else []
    for half in halves.values():
        half.send(0)
    print(f"one step ahead would be {median(ratios):.2f} times as fast ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
