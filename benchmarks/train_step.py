"""Our training step beside TRL's ``GRPOTrainer``: same model, tasks, batch, samples and loss, in one run.

``python -m benchmarks.train_step model=smollm2_135m``; any override of ``experiments.train`` works, also on a GPU. Both
sides play the same environment for two turns, compute a reference and take one optimiser step per batch. They run in
turns, each in a process of its own, so that memory is measured apart and a noisy machine hurts both. Prints a table,
writes ``runs/benchmarks/train_step.json``.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from experiments.cli import CONFIGS, register_schemas
from rl.config import TrainConfig

SIDES = ("ours", "trl")
ROUNDS, STEPS = 2, 4
OUT = Path("runs/benchmarks/train_step.json")
DEFAULT = "experiment=benchmark"
"""Unless the overrides name another experiment, or ``experiment=none``."""


def load_config(overrides: list[str]) -> TrainConfig:
    """The config of both sides."""
    register_schemas()
    chosen = any(override.startswith("experiment=") for override in overrides)
    overrides = [word for word in overrides if word != "experiment=none"] if chosen else [DEFAULT, *overrides]
    with initialize_config_dir(CONFIGS, version_base=None):
        config = OmegaConf.to_object(compose("train", overrides))
    assert isinstance(config, TrainConfig)
    return config


def measure(side: str, config: TrainConfig, n_steps: int) -> dict[str, Any]:
    """Runs one side in this process; the first step warms up and is left out."""
    from rl.backends.flops import peak_memory_gib

    if config.threads:
        torch.set_num_threads(config.threads)
    if side == "trl":
        from benchmarks.two_turns_trl import train

        with tempfile.TemporaryDirectory() as scratch:
            steps = train(config, n_steps + 1, Path(scratch))
    else:
        steps = train_ours(config, n_steps + 1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return {"steps": steps[1:], "peak_memory_gib": peak_memory_gib(device)}


def train_ours(config: TrainConfig, n_steps: int) -> list[dict[str, float]]:
    """Our trainer, as ``experiments.train`` builds it, without validation and checkpoints."""
    from rl.backends.distributed import Distributed
    from rl.rollout_metrics import describe, sampled_tokens
    from rl.workbench import Workbench

    distributed = Distributed(mixed_precision=config.algorithm.optim.mixed_precision)
    bench = Workbench.build(config, distributed)
    trainer = bench.trainer()
    steps = []
    for _ in range(n_steps):
        started = time.perf_counter()
        step = trainer.train_step()
        metrics, episodes = describe(step, bench.distributed), step.episodes
        steps.append(
            {
                "seconds": time.perf_counter() - started,
                "sampling": metrics["time/sampling"] + metrics["time/verification"],
                "sampled_tokens": float(sampled_tokens(episodes)),
            }
        )
    return steps


def run_side(side: str, overrides: list[str], n_steps: int, module: str) -> dict[str, Any]:
    """:func:`measure` in a fresh process."""
    command = [sys.executable, "-m", module, "--side", side, "--steps", str(n_steps), *overrides]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, env=os.environ | QUIET)
    return json.loads(done.stdout.strip().splitlines()[-1])


QUIET = {"TRL_EXPERIMENTAL_SILENCE": "1", "TRANSFORMERS_VERBOSITY": "error", "PYTHONWARNINGS": "ignore"}


def summarise(rounds: list[dict[str, Any]]) -> dict[str, float]:
    """Medians over steps, and tokens per second over all of them."""
    steps = [step for one in rounds for step in one["steps"]]
    seconds, tokens = (sum(step[key] for step in steps) for key in ("seconds", "sampled_tokens"))
    return {
        "seconds_per_step": median(step["seconds"] for step in steps),
        "sampling_share": sum(step["sampling"] for step in steps) / seconds,
        "tokens_per_second": tokens / seconds,
        "sampling_tokens_per_second": tokens / sum(step["sampling"] for step in steps),
        "sampled_tokens_per_step": tokens / len(steps),
        "peak_memory_gib": max(one["peak_memory_gib"] for one in rounds),
    }


def report(results: dict[str, dict[str, float]], out: Path, title: str, extra: dict[str, Any]) -> None:
    """Prints a table and writes JSON."""
    console = Console(width=140 if not sys.stdout.isatty() else None)
    table = Table(title=title)
    for column in ("", *next(iter(results.values()))):
        table.add_column(column.replace("_", " "), justify="right" if column else "left")
    for side, numbers in results.items():
        table.add_row(side, *(f"{value:.3g}" for value in numbers.values()))
    console.print(table)
    ours, theirs = results["ours"], results["trl"]
    console.print(f"ours / TRL, tokens per second: {ours['tokens_per_second'] / theirs['tokens_per_second']:.2f}")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "CPU"
    machine = {"system": platform.platform(), "cores": os.cpu_count(), "device": device}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"results": results, "machine": machine, "command": sys.argv, **extra}, indent=1))


def split_arguments(argv: list[str]) -> tuple[dict[str, str], list[str]]:
    """``--name value`` pairs, and Hydra overrides."""
    options, overrides, rest = {}, [], list(argv)
    while rest:
        word = rest.pop(0)
        if word.startswith("--"):
            options[word[2:]] = rest.pop(0)
        else:
            overrides.append(word)
    return options, overrides


def main() -> None:
    """Both sides in turns; or one of them, for the parent process."""
    options, overrides = split_arguments(sys.argv[1:])
    n_steps = int(options.get("steps", STEPS))
    if side := options.get("side"):
        print(json.dumps(measure(side, load_config(overrides), n_steps)))
        return
    load_config(overrides)  # a misspelt key should be known before anything runs
    rounds: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for _ in range(int(options.get("rounds", ROUNDS))):
        for side in SIDES:
            rounds[side].append(run_side(side, overrides, n_steps, "benchmarks.train_step"))
    results = {side: summarise(found) for side, found in rounds.items()}
    report(results, OUT, "two turns, one optimiser step per batch", {"rounds": rounds})


if __name__ == "__main__":
    main()
