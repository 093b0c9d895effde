"""One arm, one seed: train, evaluate, write everything down. Online arms are in ``experiments/online.py``."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from envs import Split, Task
from rewards.sandboxes import in_use
from rl.checkpoint import save_policy
from rl.config import RunConfig, SFTConfig
from rl.controls import control_rows
from rl.evaluate import EvalRow, play, to_rows
from rl.offline import OfflineTrainer
from rl.statistics import scaling, summarise
from rl.tracking import JsonLines, Tracker, write_json
from rl.trainer import Totals
from rl.types import Episode
from rl.workbench import Workbench

Report = Callable[[str, float, dict[str, float]], None]
"""Called with what is going on, the progress in [0, 1] and the newest metrics."""
VALIDATION_TASKS = 200


@dataclass(slots=True)
class ArmResult:
    """What one arm with one seed came to; ``result.json``.

    Args:
        arm: Its name in tables.
        seed: Its seed.
        totals: Episodes, tokens and seconds spent on training.
        seconds: Wall clock, loading and evaluation included.
        greedy: Summary of greedy evaluation, if asked for.
        sampled: Summary of sampled evaluation, if asked for.
        scaling: Accuracy against responses per task, from the sampled episodes.
        sandboxes: In what isolation programs were run, and how often they ended how; empty without code tasks.
        notes: Anything the reader of a table must know, such as a rule that kept nothing.
    """

    arm: str
    seed: int
    totals: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    greedy: dict[str, float] = field(default_factory=dict)
    sampled: dict[str, float] = field(default_factory=dict)
    scaling: list[dict[str, float]] = field(default_factory=list)
    sandboxes: list[dict[str, Any]] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)


def run_offline(cfg: SFTConfig, folder: Path, report: Report, arm: str | None = None) -> ArmResult:
    """An offline method."""
    began = time.perf_counter()
    bench = Workbench.build(cfg)
    tracker, kept = Tracker(folder), JsonLines(folder / "rounds.jsonl")
    trainer = OfflineTrainer(
        cfg,
        bench.model,
        bench.tokenizer,
        bench.rollout(Split.TRAIN),
        bench.tasks(Split.TRAIN),
        bench.publish,
        lambda what, share: report(what, share, {}),
    )
    log_validation(bench, tracker, 0, 0, report)
    rounds = []
    try:
        for _ in range(cfg.offline.iterations):
            started = time.perf_counter()
            episodes = trainer.collect()
            sampled = time.perf_counter()
            rounds.append(trainer.train_round(episodes))
            trainer.totals.seconds["sampling"] += sampled - started
            trainer.totals.seconds["update"] += time.perf_counter() - sampled
            kept.write({"round": trainer.round, **rounds[-1]})
            tracker.episodes(trainer.round, episodes[: 8 * cfg.training.keep_episodes])
            log_validation(bench, tracker, trainer.round, trainer.totals.episodes, report)
    finally:
        tracker.close()
        kept.close()
    result = ArmResult(arm or cfg.offline.name, cfg.seed, totals=asdict(trainer.totals), notes={"rounds": rounds})
    return finish(result, bench, folder, report, began)


def run_base(cfg: RunConfig, folder: Path, report: Report, arm: str = "base") -> ArmResult:
    """A model as it is."""
    began = time.perf_counter()
    return finish(ArmResult(arm, cfg.seed, totals=asdict(Totals())), Workbench.build(cfg), folder, report, began)


def log_validation(
    bench: Workbench, tracker: Tracker | None, step: int, n_episodes: int, report: Report
) -> dict[str, float]:
    """Greedy episodes on validation tasks, shared out over the processes; logged where there is a tracker."""
    rank, n = bench.distributed.rank, bench.distributed.n_processes
    tasks = bench.tasks(Split.VALIDATION)[:VALIDATION_TASKS]
    episodes = play(bench.rollout(Split.VALIDATION), tasks[rank::n], 1, 0.0, "validation")
    summary = summarise(bench.distributed.gather(to_rows(episodes, 1, "", 0, "validation")))
    metrics = {f"eval/validation/{name}": value for name, value in summary.items()}
    metrics["rollout/episodes"] = float(n_episodes)
    if tracker is not None:
        tracker.log(step, metrics)
    report("validation", 1.0, metrics)
    return metrics


def finish(result: ArmResult, bench: Workbench, folder: Path, report: Report, began: float) -> ArmResult:
    """Evaluates, and writes rows, policy and result: the result last, so that its presence means "complete".

    With several processes all must call it; they share the tasks, and the main one writes.
    """
    cfg, distributed = bench.config, bench.distributed
    tasks = bench.evaluation_tasks()[distributed.rank :: distributed.n_processes]
    n_episodes = len(tasks) * (int(cfg.evaluation.greedy) + cfg.evaluation.samples_per_task)
    done = 0

    def count(_: Any) -> None:
        nonlocal done
        done += 1
        report("evaluating", done / n_episodes, {})

    rows = distributed.gather(evaluate(bench, tasks, result.arm, result.seed, count))
    bench.engine.close()
    save_policy(folder / "policy", bench.model, bench.tokenizer, distributed)
    if not distributed.is_main:
        return result
    write_rows(folder / "rows.jsonl", rows)
    for mode in ("greedy", "sampled"):
        of_mode = [row for row in rows if row.mode == mode]
        if of_mode:
            setattr(result, mode, _clean(summarise(of_mode)))
    result.scaling = [_clean(point) for point in scaling(rows)]
    result.sandboxes = in_use()
    result.seconds = time.perf_counter() - began
    write_json(folder / "result.json", asdict(result))
    return result


def evaluate(
    bench: Workbench, tasks: Sequence[Task], arm: str, seed: int, on_episode: Callable[[Episode], None]
) -> list[EvalRow]:
    """Greedy episodes, controls and sampled episodes on every task, as the config asks for them."""
    config, split = bench.config.evaluation, Split(bench.config.evaluation.split)
    rollout, rows = bench.rollout(split), []
    if config.greedy:
        episodes = play(rollout, tasks, 1, 0.0, "greedy", on_episode)
        rows += to_rows(episodes, 1, arm, seed, "greedy")
        if config.controls and bench.config.env.attempts > 1:
            two, told = bench.rollout(split, 2), bench.rollout(split, 2, "verdict")
            rows += control_rows(two, told, episodes, tasks, bench.renderer.end_id, arm, seed)
    if config.samples_per_task:
        n = config.samples_per_task
        episodes = play(rollout, tasks, n, config.temperature, "sampled", on_episode)
        rows += to_rows(episodes, n, arm, seed, "sampled")
    return rows


def write_rows(path: Path, rows: list[EvalRow]) -> None:
    """Evaluation rows as JSON lines, replacing the file."""
    path.unlink(missing_ok=True)
    file = JsonLines(path)
    file.write(*(row.to_json() for row in rows))
    file.close()


def _clean(summary: dict[str, float]) -> dict[str, float]:
    """Without ``nan``, which JSON cannot say."""
    return {name: value for name, value in summary.items() if not math.isnan(value)}
