"""Compares our training step with TRL's ``GRPOTrainer`` on the same model, tasks, batch size, samples and loss.

``python -m benchmarks.train_step``; any override of ``experiments.train`` works, also on a GPU. Both sides play the
same environment for two turns, compute the reference policy's log-probs and take one optimiser step per batch. Each
side has its own process, so that its memory is measured separately. The two take their steps in turns, ten in all
unless ``--steps`` says otherwise, so that other work on the machine slows both down alike. Prints every step and a
table, and writes ``runs/benchmarks/train_step.json``.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any

import psutil
import torch
from hydra import compose, initialize_config_dir
from rich.console import Console
from rich.table import Table

from experiments.cli import CONFIGS, register_schemas, typed
from experiments.keys import open_free_mappings
from rl.config import TrainConfig
from rl.trainer import Trainer

SIDES = ("ours", "trl")
STEPS = 4
OUT = Path("runs/benchmarks/train_step.json")
DEFAULT = "experiment=benchmark"
"""Override that is added unless the overrides name another experiment or ``experiment=none``."""
QUIET = {"TRL_EXPERIMENTAL_SILENCE": "1", "TRANSFORMERS_VERBOSITY": "error", "PYTHONWARNINGS": "ignore"}
OPTIONS = ("--steps", "--minutes", "--tests", "--warmup", "--side")
_MARK = "step "


def load_config(overrides: list[str]) -> TrainConfig:
    """Composes the config that both sides use."""
    register_schemas()
    chosen = any(override.startswith("experiment=") for override in overrides)
    overrides = [word for word in overrides if word != "experiment=none"] if chosen else [DEFAULT, *overrides]
    with initialize_config_dir(CONFIGS, version_base=None):
        config = typed(compose("train", open_free_mappings(overrides, TrainConfig)))
    assert isinstance(config, TrainConfig)
    return config


class SideError(RuntimeError):
    """A side's process ended before its step did; the message is the cause in one line, a note the end of stderr."""


class ShortageError(SideError):
    """A step could not be measured because memory, time or a package is missing."""


class Side:
    """One side in its own process, which takes a step when asked and waits in between.

    Args:
        module: Module whose ``main`` serves the steps.
        side: ``ours`` or ``trl``.
        arguments: Further arguments of the module's command line.
    """

    def __init__(self, module: str, side: str, arguments: list[str]) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed in __exit__)
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, "--side", side, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=os.environ | QUIET,
        )

    def step(self, limit_s: float = 3600.0) -> dict[str, float]:
        """Takes one step and returns its seconds, sampling seconds, CPU seconds, sampled tokens and peak memory.

        Raises:
            SideError: If the process ends before the step does.
            ShortageError: If the process runs out of memory, or the step takes longer than ``limit_s``.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        # Reading the answer blocks until the process answers or ends, so a timer kills a process that takes too long.
        began, timer, process = time.perf_counter(), threading.Timer(limit_s, self._process.kill), self._process.pid
        busy = sum(psutil.Process(process).cpu_times()[:2])
        timer.start()
        try:
            with suppress(BrokenPipeError):
                self._process.stdin.write("\n")
                self._process.stdin.flush()
            for line in self._process.stdout:
                if line.startswith(_MARK):
                    # CPU time is counted in ticks of 10 ms, so a short step may measure 0, which is then divided by.
                    busy = max(0.01, sum(psutil.Process(process).cpu_times()[:2]) - busy)
                    return json.loads(line.removeprefix(_MARK)) | {"cpu_seconds": busy}
        finally:
            timer.cancel()
        status = self._process.wait()
        self._errors.seek(0)
        lines = [line for line in self._errors.read().splitlines() if line.strip()] or [f"exit status {status}"]
        text = "\n".join(lines[-40:])
        if time.perf_counter() - began >= limit_s:
            error = ShortageError(f"stopped after {limit_s:.0f} s")
        elif status == -9 or "out of memory" in text.lower() or "allocate memory" in text:
            error = ShortageError("out of memory")
        else:
            error = SideError(lines[-1])
        error.add_note(text)
        raise error

    def __enter__(self) -> "Side":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()  # the process exits when it reads the end of its stdin
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()


def wait_for_turn() -> None:
    """Runs in the process of one side: waits until the next step is asked for; exits if the parent asks for no more."""
    # GPU memory that PyTorch has only cached is released for the other side's turn, but not if half of the GPU's memory
    # is free: allocating it again, which no training run has to do, can take as long as an update.
    if torch.cuda.is_available() and torch.cuda.mem_get_info()[0] < torch.cuda.mem_get_info()[1] / 2:
        torch.cuda.empty_cache()
    if not sys.stdin.readline():
        sys.exit()


def hand_over(seconds: float, sampling: float, sampled_tokens: int, device: torch.device) -> None:
    """Runs in the process of one side: reports a step to the parent process, then calls :func:`wait_for_turn`.

    Args:
        seconds: Seconds of the whole step.
        sampling: Seconds of sampling, a part of ``seconds``.
        sampled_tokens: Number of tokens that the step sampled.
        device: Device whose peak memory is reported too.
    """
    from rl.backends.flops import peak_memory_gib

    step = {"seconds": seconds, "sampling": sampling, "sampled_tokens": float(sampled_tokens)}
    print(_MARK + json.dumps(step | {"peak_memory_gib": peak_memory_gib(device)}), flush=True)
    wait_for_turn()


def serve(side: str, config: TrainConfig, warmup: int) -> None:
    """Runs in the process of one side: takes one optimiser step each time the parent process asks for it.

    Args:
        side: ``ours`` or ``trl``.
        config: Config of both sides.
        warmup: Token limit of each turn in the first step; 0 uses the config's limits.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    if side == "trl":
        from benchmarks.two_turns_trl import train

        with tempfile.TemporaryDirectory() as scratch:
            train(config, Path(scratch), warmup)
    else:
        serve_ours(config, warmup)


def serve_ours(config: TrainConfig, warmup: int) -> None:
    """Serves the steps of our trainer, built as in ``experiments.train`` but without validation and checkpoints."""
    from rl.backends.distributed import Distributed
    from rl.workbench import Workbench

    bench = Workbench.build(config, Distributed(mixed_precision=config.algorithm.optim.mixed_precision))

    def take_step(trainer: Trainer) -> None:
        totals, started = trainer.totals, time.perf_counter()
        tokens, engine = totals.sampled_tokens, totals.seconds["sampling"] + totals.seconds["verification"]
        trainer.train_step()
        seconds, totals = time.perf_counter() - started, trainer.totals
        sampling = totals.seconds["sampling"] + totals.seconds["verification"] - engine
        hand_over(seconds, sampling, totals.sampled_tokens - tokens, bench.distributed.device)

    # The parent process counts answers, so the short warm-up is reported as a step of its own. It runs on a separate
    # trainer, which is then discarded, because the token limit is part of a trainer's config.
    wait_for_turn()
    if warmup:
        short = replace(bench.config, env=replace(bench.config.env, max_new_tokens=[warmup]))
        take_step(replace(bench, config=short).trainer())
        bench.publish(0)
    trainer = bench.trainer()
    while True:
        take_step(trainer)


def summarise(steps: list[dict[str, float]]) -> dict[str, float]:
    """Summarises steps: median seconds, tokens per second over all steps together, and the highest peak memory."""
    seconds, tokens, sampling, busy = (
        sum(step[key] for step in steps) for key in ("seconds", "sampled_tokens", "sampling", "cpu_seconds")
    )
    return {
        "seconds_per_step": median(step["seconds"] for step in steps),
        "sampling_share": sampling / seconds,
        "tokens_per_second": tokens / seconds,
        "sampling_tokens_per_second": tokens / sampling,
        "update_tokens_per_second": tokens / max(seconds - sampling, 1e-9),
        "tokens_per_cpu_second": tokens / max(busy, 1e-9),
        "sampled_tokens_per_step": tokens / len(steps),
        "peak_memory_gib": max(step["peak_memory_gib"] for step in steps),
    }


def take_turns(module: str, arguments: dict[str, list[str]], n_steps: int, title: str, out: Path) -> None:
    """Lets both sides take steps alternately; prints every step and a table, and writes JSON.

    Args:
        module: Module whose ``main`` serves the steps.
        arguments: Command-line arguments of each side's process.
        n_steps: Number of measured steps of each side; a warm-up step before them is left out.
        title: Title of the table.
        out: JSON file to write.
    """
    console = Console(width=140 if not sys.stdout.isatty() else None)
    began, steps = time.perf_counter(), {side: [] for side in SIDES}
    with Side(module, "ours", arguments["ours"]) as ours, Side(module, "trl", arguments["trl"]) as trl:
        for n in range(n_steps + 1):
            for name, side in zip(SIDES, (ours, trl), strict=True):
                step = side.step()
                if n:
                    steps[name].append(step)
                speed, which = step["sampled_tokens"] / step["seconds"], f"step {n} of {n_steps}" if n else "warm-up"
                passed, took = (
                    time.perf_counter() - began,
                    f"{step['seconds']:.1f} s ({step['cpu_seconds']:.1f} s of CPU)",
                )
                console.print(f"{passed:4.0f} s  {which}, {name}: {took}, {speed:.1f} tokens/s")
    results = {side: summarise(found) for side, found in steps.items()}
    table = Table(title=title)
    for column in ("", *results["ours"]):
        table.add_column(column.replace("_", " "), justify="right" if column else "left")
    for side, numbers in results.items():
        table.add_row(side, *(f"{value:.3g}" for value in numbers.values()))
    console.print(table)
    # Ratios of steps that followed each other directly, during which the machine's load was about the same.
    pairs = {
        key: [
            a["sampled_tokens"] / a[key] / (b["sampled_tokens"] / b[key])
            for a, b in zip(steps["ours"], steps["trl"], strict=True)
        ]
        for key in ("seconds", "cpu_seconds")
    }
    ratios = {name: results["ours"][name] / results["trl"][name] for name in results["ours"] if "tokens_per_" in name}
    for key, name in (("seconds", "tokens_per_second"), ("cpu_seconds", "tokens_per_cpu_second")):
        console.print(
            f"ours / TRL, {name.replace('_', ' ')}: {ratios[name]:.2f} "
            f"(step by step: median {median(pairs[key]):.2f}, {min(pairs[key]):.2f} to {max(pairs[key]):.2f})"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    found = {"results": results, "ratios": ratios, "ratio_of_steps": pairs, "steps": steps, "machine": machine()}
    out.write_text(json.dumps(found | {"command": sys.argv}, indent=1))


def machine() -> dict[str, Any]:
    """Operating system, number of CPU cores, and GPU or processor of this machine."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "CPU"
    return {"system": platform.platform(), "cores": os.cpu_count(), "device": device}


def split_arguments(argv: list[str]) -> tuple[dict[str, str], list[str]]:
    """Splits a command line into ``--name value`` pairs and Hydra overrides.

    Exits with a message if an option is unknown, or its value is not a number (``--side`` takes a name).
    """
    options, overrides, rest = {}, [], list(argv)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            overrides.append(word)
            continue
        if word not in OPTIONS:
            sys.exit(f"{word}: unknown; use one of {', '.join(OPTIONS)}, and name=value for everything else")
        value = rest.pop(0) if rest else ""
        if word != "--side" and not value.replace(".", "", 1).isdigit():
            sys.exit(f"{word} {value}: give it a number, as in {word} 4")
        options[word[2:]] = value
    return options, overrides


def main() -> None:
    """Lets both sides take turns; with ``--side``, which the parent process sets, serves that one side."""
    options, overrides = split_arguments(sys.argv[1:])
    if side := options.get("side"):
        serve(side, load_config(overrides), int(options.get("warmup", 0)))
        return
    load_config(overrides)  # fails on a misspelt key before any process starts
    title, n_steps = "two turns, one optimiser step per batch", int(float(options.get("steps", STEPS)))
    take_turns("benchmarks.train_step", dict.fromkeys(SIDES, overrides), n_steps, title, OUT)


if __name__ == "__main__":
    main()
