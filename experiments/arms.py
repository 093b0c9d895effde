"""Runs one arm with one seed: training, evaluation, results. Online arms are in ``experiments/online.py``."""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from envs import Split, StopReason, Task
from experiments import planned
from experiments.jobs import Report
from experiments.run_health import RunHealth, of_evaluation
from experiments.stopping import Stopping
from rewards.sandboxes import in_use
from rewards.wording import counted
from rl.analysis.rows import LONGER, TRANSFER, EvalRow, broken_off
from rl.analysis.statistics import summarise
from rl.backends.distributed import Distributed
from rl.backends.flops import peak_memory_gib
from rl.checkpoint import Checkpoints, Identity, read_identity, save_policy
from rl.config import BudgetConfig, RunConfig, SFTConfig
from rl.controls import control_rows
from rl.evaluate import first_turns, play, second_attempts, to_rows
from rl.tracking import IDENTITY, JsonLines, Tracker, write_json
from rl.types import Episode, Totals, Turn
from rl.workbench import Workbench, content_of, make_env

VALIDATION_TASKS = 200


@dataclass(slots=True)
class ArmResult:
    """The result of one arm with one seed, as stored in ``result.json``.

    Args:
        arm: Name of the arm in tables.
        seed: Seed of the run.
        totals: Episodes, tokens and seconds spent on training.
        seconds: Wall-clock seconds, including loading and evaluation.
        cpu_seconds: Processor time in seconds, summed over all threads of the process.
        peak_memory: Peak memory of the process in GiB: GPU memory if there is a GPU, otherwise resident memory.
        greedy: Summary of the greedy evaluation; empty without one.
        sampled: Summary of the sampled evaluation; empty without one.
        verdicts: Number of evaluated attempts by verdict, in all modes and controls.
        sandboxes: How each sandbox isolated programs, and how often they ended in which way; empty without code tasks.
        notes: Anything that the reader of a table must know, such as a rule that kept nothing.
    """

    arm: str
    seed: int
    totals: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_memory: float = 0.0
    greedy: dict[str, float] = field(default_factory=dict)
    sampled: dict[str, float] = field(default_factory=dict)
    verdicts: dict[str, int] = field(default_factory=dict)
    sandboxes: list[dict[str, Any]] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)


def run_offline(cfg: SFTConfig, folder: Path, report: Report, arm: str | None = None) -> ArmResult:
    """Runs an offline method, resuming after the last complete round if the folder holds one."""
    began = planned.spent()
    with Stopping(folder) as stopping:
        report = stopping.asked_by(report)
        bench = Workbench.build(cfg)
        identify(cfg, "sft", folder, bench.distributed)
        validation, health = Validation(bench, report), RunHealth(cfg.training, folder, (1,), bench.distributed)
        trainer = bench.offline_trainer(cfg, lambda what, share: report(what, share, {}))
        checkpoints = Checkpoints(folder, cfg.training.keep_last, bench.distributed)
        found = checkpoints.load(trainer) or {"rounds": [], "sizes": {"metrics": 0, "episodes": 0, "rounds": 0}}
        rounds, sizes = found["rounds"], found["sizes"]
        # Files are truncated to the last complete round. An interrupted round is sampled again, and its lines would
        # otherwise be in the files twice.
        tracker, kept = Tracker(folder, sizes), JsonLines(folder / "rounds.jsonl", sizes["rounds"])
        health.read(trainer.round, trainer.round / cfg.offline.iterations)
        try:
            if not rounds:
                health.look(0, validation.log(tracker, 0, 0), 0.0)
            health.stop(lambda: None)  # for a problem of the base, and one that a resumed run still has
            while trainer.round < cfg.offline.iterations:
                started = time.perf_counter()
                episodes = trainer.collect()
                sampled = time.perf_counter()
                rounds.append(trainer.train_round(episodes))
                trainer.totals.seconds["sampling"] += sampled - started
                trainer.totals.seconds["update"] += time.perf_counter() - sampled
                kept.write({"round": trainer.round, **rounds[-1]})
                tracker.log(trainer.round, {"rollout/episodes": trainer.totals.episodes}, rounds[-1]["errors"])
                tracker.episodes(trainer.round, episodes[: 8 * cfg.training.keep_episodes])
                rates = validation.log(tracker, trainer.round, trainer.totals.episodes)
                health.look(trainer.round, rates, trainer.round / cfg.offline.iterations)
                # The checkpoint comes after everything that the round writes, so that the stored sizes include its
                # lines.
                sizes = tracker.sizes | {"rounds": kept.size}
                checkpoints.save(f"{trainer.round:06d}", trainer, {"rounds": rounds, "sizes": sizes})
                health.stop(lambda: None)
        finally:
            tracker.close()
            kept.close()
        result = ArmResult(arm or cfg.offline.name, cfg.seed, totals=asdict(trainer.totals), notes={"rounds": rounds})
        return finish(result, bench, folder, report, began)


def identify(cfg: RunConfig, kind: str, folder: Path, distributed: Distributed) -> Identity:
    """Returns the run's identity, after comparing it with the one stored in the folder, if any, and writing it there.

    Raises:
        rl.checkpoint.ResumeError: If the folder belongs to a run with another identity.
    """

    def compare() -> Identity:
        identity = Identity.of(cfg, kind, content_of(cfg))
        if (folder / IDENTITY).exists():
            identity.refuse(read_identity(folder))
        identity.write(folder)
        planned.adopt(cfg, folder)
        return identity

    return distributed.on_main(compare)


def run_base(cfg: RunConfig, folder: Path, report: Report, arm: str = "base") -> ArmResult:
    """Evaluates a model without training it."""
    began = planned.spent()
    planned.adopt(cfg, folder)
    return finish(ArmResult(arm, cfg.seed, totals=asdict(Totals())), Workbench.build(cfg), folder, report, began)


class Validation:
    """Plays greedy episodes on validation tasks between updates; must be built before the first update.

    Args:
        bench: The run, whose policy is still the base.
        report: Called with the metrics of every validation.
    """

    def __init__(self, bench: Workbench, report: Report) -> None:
        self._bench, self._report = bench, report
        self._firsts: dict[Split, list[tuple[Task, Turn]]] = {}
        if (n := bench.config.evaluation.fixed_first) and bench.config.env.attempts > 1:
            # The base's first attempts are kept for the whole run. Second attempts that start from these fixed first
            # attempts change only because the policy does.
            for split in (Split.TRAIN, Split.VALIDATION):
                tasks = self._share(bench.tasks(split)[:n])
                self._firsts[split] = bench.distributed.together(partial(first_turns, bench.rollout(split, 1), tasks))

    def _share(self, tasks: Sequence[Task]) -> Sequence[Task]:
        return tasks[self._bench.distributed.rank :: self._bench.distributed.n_processes]

    def log(self, tracker: Tracker | None, step: int, n_episodes: int) -> dict[str, float]:
        """Plays one validation, divided among the processes, logs it if there is a tracker and returns its metrics."""
        bench, together = self._bench, self._bench.distributed.together
        tasks = self._share(bench.tasks(Split.VALIDATION)[:VALIDATION_TASKS])
        episodes = together(partial(play, bench.rollout(Split.VALIDATION), tasks, 1, 0.0, "validation"))
        rows = self._rows(episodes, "validation", bench.config.env.attempts)
        metrics = _summary(rows, "validation")
        for split, firsts in self._firsts.items():
            name = f"base_{split.value}"
            episodes = together(partial(second_attempts, bench.rollout(split, 2), firsts))
            metrics |= _summary(self._rows(episodes, name, 2), name)
        metrics["rollout/episodes"] = float(n_episodes)
        if tracker is not None:
            tracker.log(step, metrics, Counter(row.errors[0] for row in rows if not row.failed and row.errors[0]))
        self._report("validation", 1.0, metrics)
        return metrics

    def _rows(self, episodes: list[Episode], name: str, attempts: int) -> list[EvalRow]:
        return self._bench.distributed.gather(to_rows(episodes, 1, "", 0, name, attempts))


def _summary(rows: Sequence[EvalRow], name: str) -> dict[str, float]:
    return {f"eval/{name}/{key}": value for key, value in summarise(rows).items()}


def finish(result: ArmResult, bench: Workbench, folder: Path, report: Report, began: tuple[float, float]) -> ArmResult:
    """Evaluates a policy and writes rows, result and policy: the policy last, so that its presence means "complete".

    With several processes, all of them must call this function: they divide the tasks, and the main process writes.
    ``began`` is what :func:`experiments.planned.spent` returned when the run began.
    """
    cfg, distributed = bench.config.evaluation, bench.distributed
    # Each process takes every n-th task. If the tasks are sorted by difficulty, all processes get an equal mix of it.
    tasks = bench.evaluation_tasks()[distributed.rank :: distributed.n_processes]
    n_episodes = len(tasks) * (int(cfg.greedy) + int(cfg.max_attempts > 0) + cfg.samples_per_task)
    done = 0

    def count(_: Any) -> None:
        nonlocal done
        done += 1
        report("evaluating", min(1.0, done / n_episodes), {})  # evaluation.conversations may hold more than n_episodes

    parts = partial(evaluate, bench, tasks, result.arm, result.seed, count)
    rows = distributed.gather(distributed.together(parts))
    others = partial(evaluate_transfer, bench, result.arm, result.seed)
    rows += distributed.gather(distributed.together(others))
    bench.engine.close()
    result.peak_memory = peak_memory_gib(distributed.device)

    # A report needs no other files than these: rows, tasks, the data files that the tasks come from, and the result
    # with notes on what went wrong.
    def write() -> None:
        write_jsonl(folder / "rows.jsonl", (row.to_json() for row in rows))
        asked = bench.evaluation_tasks()  # stored so that the rows can be read without the data set
        told = ({"task_id": one.id, "question": one.question, "gold": str(one.gold)} for one in asked)
        write_jsonl(folder / "tasks.jsonl", told)
        if files := getattr(bench.taskset, "provenance", []):
            write_json(folder / "data.json", [asdict(one) for one in files])
        for mode in ("greedy", "sampled"):
            of_mode = [row for row in rows if row.mode == mode]
            if of_mode:
                known = {name: value for name, value in summarise(of_mode).items() if not math.isnan(value)}
                setattr(result, mode, known)  # JSON has no nan
        if said := broken_off(rows):
            result.notes["broken_off"] = said
        limits = getattr(bench.config, "training", BudgetConfig()).health
        if unwell := of_evaluation(result.greedy or result.sampled, limits):
            result.notes["health"] = unwell
        result.verdicts = dict(Counter(verdict for row in rows for verdict in row.verdicts))
        result.sandboxes = in_use()
        result.seconds, result.cpu_seconds = (now - then for now, then in zip(planned.spent(), began, strict=True))
        write_json(folder / "result.json", asdict(result))

    distributed.on_main(write)  # before the policy: if the disk has no room for the policy, the results are there
    save_policy(folder / "policy", bench.model, bench.tokenizer, distributed)
    if distributed.is_main:
        planned.settle(folder, asdict(result))
    return result


def evaluate(
    bench: Workbench, tasks: Sequence[Task], arm: str, seed: int, on_episode: Callable[[Episode], None]
) -> list[EvalRow]:
    """Evaluates on every task with what the config asks for: greedy, control, longer and sampled episodes."""
    config, split = bench.config.evaluation, Split(bench.config.evaluation.split)
    rollout, rows, attempts = bench.rollout(split), [], bench.config.env.attempts
    # Controls reuse the first attempts of the greedy episodes and add second attempts, so they play two attempts even
    # if the environment allows more.
    if config.conversations:
        return _recorded(bench, tasks, arm, seed, on_episode)
    if config.greedy:
        episodes = play(rollout, tasks, 1, 0.0, "greedy", on_episode)
        rows += to_rows(episodes, 1, arm, seed, "greedy", attempts)
        if config.controls and bench.config.env.attempts > 1:
            env, two = make_env(bench.config.env, bench.taskset, split, 2), partial(bench.rollout, split, 2)
            rows += control_rows(two, env, episodes, tasks, bench.renderer, arm, seed, config.only_controls)
    if config.max_attempts:
        episodes = play(bench.rollout(split, config.max_attempts), tasks, 1, 0.0, LONGER, on_episode)
        rows += to_rows(episodes, 1, arm, seed, LONGER, config.max_attempts)
    if config.samples_per_task:
        n = config.samples_per_task
        episodes = play(rollout, tasks, n, config.temperature, "sampled", on_episode)
        rows += to_rows(episodes, n, arm, seed, "sampled", attempts)
    return rows


def _recorded(
    bench: Workbench, tasks: Sequence[Task], arm: str, seed: int, on_episode: Callable[[Episode], None]
) -> list[EvalRow]:
    """Rows for those conversations of ``evaluation.conversations`` that are about the given tasks, verified here."""
    config, own, seen = bench.config.evaluation, {task.id for task in tasks}, Counter[str]()
    rows, attempts = [], bench.config.env.attempts
    read = bench.recorded(config.conversations, Split(config.split), one_origin=True)
    episodes = [one for one in read if one.task_id in own]
    # An episode that the environment ended early keeps its last answer. One whose texts ran out has no later answer.
    short = [one for one in episodes if one.stop_reason is StopReason.ENDED and len(one.attempts) < attempts]
    if short:
        n = min(len(one.attempts) for one in short)
        raise ValueError(
            f"evaluation.conversations={config.conversations}: {len(short)} of "
            f"{counted(len(episodes), 'conversation')} hold fewer attempts than env.attempts={attempts}, so there is "
            f"no attempt {n + 1} to measure, first about task {short[0].task_id}; set env.attempts={n} if all hold "
            f"{n}, else give the others in a file of their own"
        )
    for episode in episodes:
        on_episode(episode)
        rows.append(EvalRow.of(episode, arm, seed, "sampled", seen[episode.task_id], attempts))
        seen[episode.task_id] += 1
    # With several processes, it is no error if one process's share of the tasks has no conversation.
    if not rows and own and bench.distributed.n_processes == 1:
        raise ValueError(
            f"evaluation.conversations={config.conversations}: none is about an evaluated task "
            f"({counted(len(own), 'task')}); evaluation.n_tasks=0 evaluates all tasks of the split"
        )
    return rows


def evaluate_transfer(bench: Workbench, arm: str, seed: int) -> list[EvalRow]:
    """Rows of greedy episodes in the environments of ``evaluation.transfer``, for this process's share of the tasks."""
    # These rows get a mode for each environment, which keeps them out of all tables about the training environment.
    rows: list[EvalRow] = []
    for name, changes in bench.config.evaluation.transfer.items():
        other = bench.with_env(changes)
        rank, n = bench.distributed.rank, bench.distributed.n_processes
        episodes = play(other.rollout(Split.TEST), other.evaluation_tasks()[rank::n], 1, 0.0, "greedy")
        rows += to_rows(episodes, 1, arm, seed, f"{TRANSFER}{name}", other.config.env.attempts)
    return rows


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Writes rows as JSON lines, replacing the file."""
    path.unlink(missing_ok=True)
    file = JsonLines(path)
    file.write(*rows)
    file.close()
