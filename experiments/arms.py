"""One arm, one seed: train, evaluate, write everything down. Used by every entry point and by the comparison."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from envs import Split
from rewards.sandboxes import in_use
from rl.backends.distributed import Distributed
from rl.checkpoint import save_policy
from rl.config import RunConfig, SFTConfig, TrainConfig
from rl.evaluate import EvalRow, evaluate, play
from rl.offline import OfflineTrainer
from rl.statistics import scaling, summarise
from rl.tracking import JsonLines, Tracker, write_json
from rl.trainer import Totals, Trainer
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


def run_online(cfg: TrainConfig, folder: Path, report: Report, arm: str | None = None) -> ArmResult:
    """Online RL. An interrupted run leaves its metrics, its episodes and the policy as it was in its folder."""
    began = time.perf_counter()
    distributed = Distributed(cpu=False)
    bench = Workbench.build(cfg, distributed.device)
    tracker = Tracker(folder) if distributed.is_main else None
    trainer = Trainer(
        cfg,
        bench.model,
        bench.rollout(Split.TRAIN, cfg.algorithm.train_attempts),
        bench.tasks(Split.TRAIN),
        bench.renderer.pad_id,
        distributed,
        lambda version: bench.engine.load_weights(dict(bench.model.named_parameters()), version),
    )
    if tracker is not None:
        _log_validation(bench, tracker, 0, 0, report)
    try:
        while trainer.step < trainer.n_steps:
            metrics, episodes = trainer.train_step()
            if tracker is not None:  # every process trains, the first one writes
                report("training", trainer.step / trainer.n_steps, metrics)
                _after_step(cfg, trainer, bench, tracker, report, metrics, episodes)
    except BaseException:
        if trainer.step and tracker is not None:
            save_policy(folder / "policy_interrupted", bench.model, bench.tokenizer)
        raise
    finally:
        if tracker is not None:
            tracker.close()
    result = ArmResult(arm or cfg.algorithm.name, cfg.seed, totals=asdict(trainer.totals))
    if tracker is not None:
        _finish(result, bench, folder, report, began)
    distributed.wait()
    return result


def _after_step(
    cfg: TrainConfig,
    trainer: Trainer,
    bench: Workbench,
    tracker: Tracker,
    report: Report,
    metrics: dict[str, float],
    episodes: list[Episode],
) -> None:
    done, every, save = trainer.step, cfg.training.validate_every, cfg.training.save_every
    tracker.log(done, metrics)
    tracker.episodes(done, episodes[: cfg.training.keep_episodes])
    if every and (done % every == 0 or done == trainer.n_steps):
        _log_validation(bench, tracker, done, trainer.totals.episodes, report)
    if save and done % save == 0:
        save_policy(tracker.folder / "checkpoints" / f"step_{done}", bench.model, bench.tokenizer)


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
        lambda version: bench.engine.load_weights(dict(bench.model.named_parameters()), version),
        lambda what, share: report(what, share, {}),
    )
    _log_validation(bench, tracker, 0, 0, report)
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
            _log_validation(bench, tracker, trainer.round, trainer.totals.episodes, report)
    finally:
        tracker.close()
        kept.close()
    result = ArmResult(arm or cfg.offline.name, cfg.seed, totals=asdict(trainer.totals), notes={"rounds": rounds})
    return _finish(result, bench, folder, report, began)


def run_base(cfg: RunConfig, folder: Path, report: Report, arm: str = "base") -> ArmResult:
    """A model as it is."""
    began = time.perf_counter()
    return _finish(ArmResult(arm, cfg.seed, totals=asdict(Totals())), Workbench.build(cfg), folder, report, began)


def _log_validation(bench: Workbench, tracker: Tracker, step: int, n_episodes: int, report: Report) -> None:
    tasks = bench.tasks(Split.VALIDATION)[:VALIDATION_TASKS]
    rows = play(bench.rollout(Split.VALIDATION), tasks, 1, 0.0, "", 0, "validation")
    summary = {f"eval/validation/{name}": value for name, value in summarise(rows).items()}
    metrics = summary | {"rollout/episodes": float(n_episodes)}
    tracker.log(step, metrics)
    report("validation", 1.0, metrics)


def _finish(result: ArmResult, bench: Workbench, folder: Path, report: Report, began: float) -> ArmResult:
    """Evaluates, and writes rows, policy and result: the result last, so that its presence means "complete"."""
    cfg = bench.config
    tasks = bench.evaluation_tasks()
    n_episodes = len(tasks) * (int(cfg.evaluation.greedy) + cfg.evaluation.samples_per_task)
    done = 0

    def count(_: Any) -> None:
        nonlocal done
        done += 1
        report("evaluating", done / n_episodes, {})

    rows = evaluate(bench.rollout(Split(cfg.evaluation.split)), tasks, cfg.evaluation, result.arm, result.seed, count)
    write_rows(folder / "rows.jsonl", rows)
    save_policy(folder / "policy", bench.model, bench.tokenizer)
    for mode in ("greedy", "sampled"):
        of_mode = [row for row in rows if row.mode == mode]
        if of_mode:
            setattr(result, mode, _clean(summarise(of_mode)))
    result.scaling = [_clean(point) for point in scaling(rows)]
    result.sandboxes = in_use()
    result.seconds = time.perf_counter() - began
    write_json(folder / "result.json", asdict(result))
    return result


def write_rows(path: Path, rows: list[EvalRow]) -> None:
    """Evaluation rows as JSON lines, replacing the file."""
    path.unlink(missing_ok=True)
    file = JsonLines(path)
    file.write(*(row.to_json() for row in rows))
    file.close()


def _clean(summary: dict[str, float]) -> dict[str, float]:
    """Without ``nan``, which JSON cannot say."""
    return {name: value for name, value in summary.items() if not math.isnan(value)}
