"""Estimates what a run costs on this machine: runs and measures a small part of it and extrapolates to the whole run.

Every part is run as in the run itself, only smaller: rollout batches of every stage, two small rounds of an offline
method, one validation, an evaluation of some of the tasks, a checkpoint that is thrown away. So no formula is needed
for what determines their cost (engine, lengths, verifier, threads).
"""

import io
import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable
from contextlib import redirect_stderr
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from experiments.arms import Validation, evaluate, evaluate_transfer
from experiments.cli import UserError, import_plugin
from experiments.planned import PlanConfig, spent
from rewards.wording import counted
from rl.backends.distributed import Distributed
from rl.backends.flops import forget_peak, memory_gib, peak_memory_gib
from rl.backends.memory import Load, Sizes, memory
from rl.budget import stage_spans
from rl.checkpoint import Checkpoints, save_policy
from rl.config import RunConfig, SFTConfig, TrainConfig, TrainingConfig
from rl.offline import NothingKeptError
from rl.rollout_metrics import describe, sampled_tokens
from rl.workbench import Workbench

CHEAP_S = 10.0
"""Processor seconds that a larger measurement of the evaluation may be expected to take; all arms share it. With 3 the
demo's evaluation was overestimated by half: the more tasks it has, the larger the share of cached verdicts."""
OBJECTS = 4
"""Bytes that rows and their episodes occupy in Python per byte of their JSON; not derived, but set after the plan of
the demo had been wrong (docs/performance.md)."""
STARTING = "starting"
"""Name of the phase in which Python loads torch and transformers."""


@dataclass
class Estimate:
    """The expected size and cost of a run.

    Args:
        episodes: Episodes sampled for training.
        responses: Attempts in these episodes.
        sampled_tokens: Tokens sampled in these attempts.
        gradient_tokens: Tokens that are trained on, counted once per pass.
        updates: Optimiser steps.
        disk: Bytes of the run's folder.
        memory: Bytes by phase and by part of the memory, from formulas.
        peak_memory: Peak memory in GiB of one GPU, or of the process on a CPU: measured, or from formulas alone.
        costs: Wall-clock and processor seconds of each phase; empty if nothing was measured.
        notes: Remarks for the reader.
    """

    episodes: float = 0.0
    responses: float = 0.0
    sampled_tokens: float = 0.0
    gradient_tokens: float = 0.0
    updates: float = 0.0
    disk: float = 0.0
    memory: dict[str, dict[str, float]] = field(default_factory=dict)
    peak_memory: float = 0.0
    costs: dict[str, list[float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Wall-clock seconds of the run, without loading the libraries."""
        return sum(wall for name, (wall, _) in self.costs.items() if name != STARTING)

    @property
    def cpu_seconds(self) -> float:
        """Processor seconds of the run, summed over all threads of the process, without loading the libraries."""
        return sum(cpu for name, (_, cpu) in self.costs.items() if name != STARTING)


class Watch:
    """A stopwatch for wall-clock and processor time."""

    def __init__(self) -> None:
        self._at = self._now()

    def _now(self) -> np.ndarray:
        return np.array(spent())

    def lap(self) -> np.ndarray:
        """Wall-clock and processor seconds since the last lap, ``[2]``."""
        before, self._at = self._at, self._now()
        return self._at - before


class Calibration:
    """Runs parts of a run and adds up what the whole run will cost.

    Args:
        config: Config of the run.
        options: How much of the run is played.
        known: Costs of a validation and of the evaluation, if another arm on the same base has measured them.
    """

    def __init__(self, config: Any, options: PlanConfig, known: dict[str, Any] | None = None) -> None:
        self.config, self._options, self.known = config, options, dict(known or {})
        self.found, self._costs = Estimate(), defaultdict(lambda: np.zeros(2))
        self._bytes: dict[str, float] = {}
        self._lengths: tuple[float, list[float], float] | None = None

    def run(self) -> Estimate:
        """Measures all parts of the run; the peak memory is that of this process."""
        for name in self.config.plugins:
            import_plugin(name)
        # The time since this process was created: loading Python and the libraries is a cost of every start, not a part
        # of the run.
        started = psutil.Process().create_time()
        self._costs[STARTING] += np.array([time.time() - started, time.process_time()])
        watch, cfg = Watch(), _reduced(self.config, self._options)
        precision = {TrainConfig: "algorithm", SFTConfig: "offline"}.get(type(cfg))
        mixed = getattr(cfg, precision).optim.mixed_precision if precision else "no"
        self._distributed = Distributed(mixed_precision=mixed)
        self._bench = Workbench.build(cfg, self._distributed)
        self._costs["loading"] += watch.lap()
        if isinstance(cfg, TrainConfig):
            self._online(cfg, watch)
        elif isinstance(cfg, SFTConfig):
            self._offline(cfg, watch)
        self._evaluate()
        self._save()
        self.found.costs = {name: cost.tolist() for name, cost in self._costs.items()}
        self._count_memory()
        self.found.disk = sum(self._bytes.values())
        return self.found

    def _validation(self, n: int) -> None:
        """Adds the cost of ``n`` validations, from a single one; the base's first attempts are played once per run."""
        if "validation" not in self.known:
            watch = Watch()
            validation = Validation(self._bench, lambda *_: None)
            first = watch.lap()
            validation.log(None, 0, 0)
            self.known["validation"] = [first.tolist(), watch.lap().tolist()]
        first, each = map(np.array, self.known["validation"])
        self._costs["validation"] += first + n * each

    def _online(self, cfg: TrainConfig, watch: Watch) -> None:
        """Extrapolates from the last rollout batch of each stage; extra time of earlier batches is added once."""
        whole, full, trainer = cfg.training, self.config, self._bench.trainer()
        self._costs["loading"] += watch.lap()
        last: dict[int, tuple[np.ndarray, Any]] = {}
        taken: defaultdict[int, list[np.ndarray]] = defaultdict(list)
        while not trainer.is_done:
            watch.lap()
            step = trainer.train_step()
            describe(step, self._distributed)
            taken[step.stage_index].append(watch.lap())
            last[step.stage_index] = (taken[step.stage_index][-1], step.batch)
        budget, algorithm = full.training, full.algorithm
        per_step, per_batch = budget.tasks_per_step * algorithm.group_size, algorithm.epochs * algorithm.minibatches
        # The number of batches in the whole run, and the stage that each of them belongs to.
        n_steps = max(1, budget.updates // per_batch if budget.updates else budget.episodes // per_step)
        spans = stage_spans([stage.share for stage in algorithm.resolved()], n_steps)
        shares = [stage.share for stage in algorithm.resolved()]
        # Scale the last batch of each stage to all batches of the stage in the whole run.
        steps, found = 0.0, self.found
        for index, (cost, batch) in last.items():
            # A stage's first batch compiles, allocates and fills caches: its extra time over the last one is paid once.
            self._costs["loading"] += np.maximum(sum(taken[index]) - len(taken[index]) * cost, 0.0)
            counts, n = batch.counts, float(spans[index][1] - spans[index][0])
            if budget.tokens:
                n = budget.tokens * shares[index] / sum(shares) / counts.tokens
            elif not budget.updates:  # replaced or larger groups use up the budget of episodes in fewer batches
                n = max(1.0, n * per_step // counts.sampled)
            steps += n
            found.episodes += n * counts.sampled
            found.responses += n * counts.responses
            found.sampled_tokens += n * counts.tokens
            found.gradient_tokens += n * counts.learned
            found.updates += n * len(batch.plan)
            # The phases that the trainer has timed; time outside of them (metrics, logging) is added to "other".
            parts = batch.seconds | {"other": max(0.0, cost[0] - sum(batch.seconds.values()) + batch.seconds["other"])}
            for name, seconds in parts.items():
                self._costs[name] += n * cost * seconds / sum(parts.values())
            self._lengths = longest(batch.episodes) or self._lengths
        every = whole.validate_every
        n_steps = round(steps)
        self._validation(1 + (-(-n_steps // every) if every else 0))
        kept = min(whole.keep_episodes, per_step) * n_steps
        # An episode takes about 1200 bytes of JSON, plus 60 for each token with its log-probabilities.
        self._bytes["training episodes"] = kept * (1200 + 60 * self.found.sampled_tokens / self.found.episodes)
        self._bytes["metrics"] = 6000 * n_steps
        self._saves(trainer, n_saves(whole, n_steps, found.updates))

    def _offline(self, cfg: SFTConfig, watch: Watch) -> None:
        """Extrapolates from two small rounds; in the second one, the policy has learned and more episodes are kept."""
        stamps: list[tuple[float, np.ndarray]] = []
        bench, full, found = self._bench, self.config, self.found

        def note(what: str, share: float) -> None:
            if what == "fine-tuning":
                stamps.append((share, np.array(spent())))

        trainer = bench.offline_trainer(cfg, note)
        self._costs["loading"] += watch.lap()
        rounds, episodes = [], []
        for _ in range(cfg.offline.iterations):
            stamps.clear()
            episodes = trainer.collect()
            collecting = watch.lap()
            try:
                outcome = trainer.train_round(episodes)
            except NothingKeptError:
                raise UserError(
                    f"{cfg.offline.name}: none of {counted(len(episodes), 'episode')} was kept, so a round cannot be "
                    "measured; sample more with plan.tasks=<more>"
                ) from None
            fitting = watch.lap()
            # Time per step, without the first step if there are more: the first one also builds what the others use.
            each = (stamps[-1][1] - stamps[0][1]) / (len(stamps) - 1) if len(stamps) > 1 else fitting / outcome["steps"]
            rows = min(cfg.offline.batch_size, outcome["kept"])
            # The time of a round apart from its steps, such as building rows and the trainer.
            once = np.maximum(fitting - outcome["steps"] * each, 0.0)
            rounds.append((collecting, len(episodes), outcome, each / rows, once))
            self._lengths = longest(episodes) or self._lengths
        # Scale the last small round to a whole round, then add up the rounds. The share of episodes that is kept comes
        # from the first small round for the first round, and from the last one for all others.
        collecting, n, outcome, per_row, once = rounds[-1]
        n_tokens = sampled_tokens(episodes)
        budget, offline = full.training, full.offline
        share_of_groups = budget.episodes // (offline.iterations * offline.group_size) * offline.group_size
        per_round = budget.tokens / offline.iterations * n / n_tokens if budget.tokens else share_of_groups
        if cfg.offline.conversations:
            per_round = n
        self._costs["loading"] += np.maximum(rounds[0][4] - once, 0.0)  # TRL is imported once
        for index in range(offline.iterations):
            measured = rounds[min(index, len(rounds) - 1)][2]
            kept = max(1.0, per_round * measured["kept"] / n)
            batch = min(offline.batch_size, kept)
            steps = budget.updates // offline.iterations or -(-kept // offline.batch_size) * offline.epochs
            passes = steps * batch if budget.updates else kept * offline.epochs
            found.updates += steps
            found.gradient_tokens += passes * measured["gradient_tokens"] / measured["kept"] / cfg.offline.epochs
            self._costs["sampling"] += collecting * per_round / n
            self._costs["update"] += once + passes * per_row
        found.episodes = per_round * offline.iterations
        found.responses = found.episodes * sum(len(one.sampled) for one in episodes) / n
        found.sampled_tokens = found.episodes * n_tokens / n
        self._validation(1 + offline.iterations)
        self._kept = max(1, round(per_round * outcome["kept"] / n)), outcome["kept"]
        self._bytes["training episodes"] = 8 * full.training.keep_episodes * offline.iterations * 2000
        self._saves(trainer, offline.iterations)
        if offline.iterations > 1:
            found.notes.append(
                "how many rows later rounds keep is estimated from a small second round; a better policy keeps more"
            )

    def _evaluate(self) -> None:
        """Measures the final evaluation on growing numbers of tasks, to separate its fixed cost from the cost per task.

        Its memory comes on top of what the process holds by then. The many small objects of episodes and rows are in no
        formula and are estimated from the size of their JSON.
        """
        cfg, tasks, device = self.config.evaluation, len(self._bench.evaluation_tasks()), self._distributed.device
        many = min(tasks, max(self._options.tasks, tasks // 16))
        self._peak, held = peak_memory_gib(device), memory_gib(device)
        if "evaluation" not in self.known:
            sizes, laps, peaks, n_bytes, seen = sorted({max(1, many // 4), many}), [], [], 0, []
            forget_peak(device)
            for n in sizes:  # the loop may append a larger size
                seen.clear()
                watch, some = Watch(), replace(self._bench.config, evaluation=replace(cfg, n_tasks=n))
                bench = replace(self._bench, config=some)
                rows = evaluate(bench, bench.evaluation_tasks(), "plan", 0, seen.append)
                rows += evaluate_transfer(bench, "plan", 0)
                n_bytes = sum(len(json.dumps(row.to_json())) + 1 for row in rows) / n
                laps.append(watch.lap())
                peaks.append(peak_memory_gib(device))
                more = min(tasks, 4 * n)
                # The last two sizes give a line. Its slope is less noisy if the last size is larger, so a larger size
                # is added if the evaluation is cheap.
                if n == sizes[-1] and n < more and laps[-1][1] * more / n < CHEAP_S:
                    sizes.append(more)
            last, before = sizes[-1], sizes[-2] if len(sizes) > 1 else 0
            step = [laps[-1] - laps[-2], peaks[-1] - peaks[-2]] if before else [laps[-1], 0.0]
            each = np.maximum(step[0], 0.0) / (last - before)
            once = np.maximum(laps[-1] - last * each, 0.0)
            self._lengths, lengths = self._lengths or longest(seen), longest(seen) or self._longest()
            load, of_model = load_of(self.config, tasks, *lengths), Sizes.of(self.config.model)
            samples, on_cpu = max(1, cfg.samples_per_task), device.type == "cpu"

            def formula(n: int) -> float:
                rows = replace(load, rows=n * samples)
                return sum(memory(self.config, of_model, rows, on_cpu=on_cpu).sampling.values()) / 2**30

            # The formula tells from which number of rows on memory stops growing (full batches, a full store of keys
            # and values). It is scaled by the measured growth, which is partly noise, so the scale is kept between 0.5
            # and 2.
            share = 1.0
            if before and formula(last) > formula(before):
                share = float(np.clip(step[1] / (formula(last) - formula(before)), 0.5, 2.0))
            room = max(0.0, peaks[-1] - held) + share * (formula(tasks) - formula(last))
            room += OBJECTS * n_bytes * (tasks - last) / 2**30
            self.known["evaluation"] = [once.tolist(), each.tolist(), n_bytes, room]
        once, each, n_bytes, room = self.known["evaluation"]
        self._costs["evaluation"] += np.array(once) + tasks * np.array(each)
        self._bytes["rows"] = tasks * n_bytes
        self._peak = max(self._peak, held + room)

    def _saves(self, trainer: Any, n: int) -> None:
        """Adds the cost of ``n`` checkpoints, from one that is written and removed again."""
        if not n:
            return
        Path(self.config.runs_dir).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.config.runs_dir, prefix=scratch(os.getpid())) as folder:
            watch = Watch()
            Checkpoints(Path(folder), 1, self._distributed).save("1", trainer, {})
            self._costs["saving"] += n * watch.lap()
            self._bytes["checkpoints"] = min(n, self.config.training.keep_last) * _bytes_below(Path(folder))

    def _save(self) -> None:
        Path(self.config.runs_dir).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.config.runs_dir, prefix=scratch(os.getpid())) as folder:
            watch = Watch()
            save_policy(Path(folder) / "policy", self._bench.model, self._bench.tokenizer)
            self._costs["saving"] += watch.lap()
            best = getattr(getattr(self.config, "training", None), "select", "last") == "best"
            self._bytes["policy"] = (1 + best) * _bytes_below(Path(folder))

    def _longest(self) -> tuple[float, list[float], float]:
        """The lengths that :func:`longest` returned; without an episode, the answers have their token limits."""
        return self._lengths or (0, list(self.config.env.max_new_tokens), 0)

    def _count_memory(self) -> None:
        """Sets the memory by part, from formulas, and the peak: the measured one plus a difference from formulas."""
        cfg, sizes, tasks = self.config, Sizes.of(self.config.model), len(self._bench.evaluation_tasks())
        prompt, answers, between = self._longest()
        whole, here = (load_of(one, tasks, prompt, answers, between) for one in (cfg, self._bench.config))
        if isinstance(cfg, SFTConfig):
            whole, here = (replace(one, update_rows=n) for one, n in zip((whole, here), self._kept, strict=True))
        on_cpu = self._distributed.device.type == "cpu"
        all_of_it = memory(cfg, sizes, whole, on_cpu=on_cpu)
        part = memory(self._bench.config, sizes, here, on_cpu=on_cpu)
        self.found.memory = {"sampling": all_of_it.sampling, "update": all_of_it.update}
        # Only the difference between the whole and the small run comes from formulas, whose errors are similar for both
        # runs and cancel.
        self.found.peak_memory = self._peak + max(0.0, all_of_it.peak - part.peak) / 2**30


def scratch(process: Any) -> str:
    """Prefix of the temporary folders below ``runs_dir`` in which a process measures the cost of saving."""
    return f".plan_{process}_"


def longest(episodes: Iterable[Any]) -> tuple[float, list[float], float] | None:
    """Tokens of the question, of each answer, and at most between two answers, in the longest episode.

    Returns ``None`` if no episode has a turn.
    """
    played = [one.turns for one in episodes if one.turns]
    if not played:
        return None
    turns = max(played, key=lambda one: sum(len(turn.action_ids) for turn in one))
    between = [
        len(turn.prompt_ids) - len(before.prompt_ids) - len(before.action_ids) for before, turn in pairwise(turns)
    ]
    return len(turns[0].prompt_ids), [len(turn.action_ids) for turn in turns], max([0, *between])


def n_saves(training: TrainingConfig, steps: float, updates: float) -> int:
    """Number of checkpoints of a run, including the one at its end."""
    every = [(steps, training.save_every), (updates, training.save_every_updates)]
    return sum(-(-round(n) // each) for n, each in every if each)


def load_of(cfg: Any, tasks: int, prompt: float, answers: list[float], between: float) -> Load:
    """The numbers of tokens and rows that pass through a run's model at once.

    Args:
        cfg: Config of the run.
        tasks: Number of tasks in the evaluation.
        prompt: Tokens of a question.
        answers: Tokens of each attempt.
        between: Tokens of the messages between two attempts.
    """
    played = tasks * max(1, cfg.evaluation.samples_per_task)
    group = rows = 1
    if isinstance(cfg, TrainConfig):
        group = cfg.algorithm.group_size
        rows = cfg.training.tasks_per_step * group
    elif isinstance(cfg, SFTConfig):
        group = cfg.offline.group_size
        rows = min(128 * group, cfg.training.episodes // cfg.offline.iterations)
    return Load(prompt, answers, between, max(rows, played), rows, group)


def _reduced(config: Any, options: PlanConfig) -> RunConfig:
    """The config of the run, with only as much training as is needed to measure its cost."""
    if isinstance(config, TrainConfig):
        algorithm = config.algorithm
        # Warm-up is removed: these few steps would all be warm-up, and a run refuses such a config.
        stages = {
            name: replace(stage, share=1.0, optim={k: v for k, v in stage.optim.items() if k != "warmup_steps"})
            for name, stage in algorithm.stages.items()
            if stage.share
        }
        n = options.steps * max(1, len(stages)) * algorithm.epochs * algorithm.minibatches
        critic = replace(algorithm.critic, warmup_steps=0)
        algorithm = replace(algorithm, stages=stages, critic=critic, optim=replace(algorithm.optim, warmup_steps=0))
        return replace(config, algorithm=algorithm, training=replace(config.training, updates=n, tokens=0))
    if isinstance(config, SFTConfig):
        offline, n = config.offline, min(2, config.offline.iterations)
        groups = config.training.episodes // (offline.iterations * offline.group_size)
        groups = max(1, min(groups, max(options.tasks, groups // 16)))
        training = replace(config.training, episodes=groups * offline.group_size * n, tokens=0, updates=0)
        return replace(config, offline=replace(offline, iterations=n), training=training)
    return config


def _bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def calibrate(config: Any, options: PlanConfig, known: dict[str, Any]) -> tuple[Estimate, dict[str, Any]]:
    """Estimates a run; returns the estimate and the measurements that other arms on the same base can reuse."""
    calibration = Calibration(config, options, known)
    heard, before = io.StringIO(), known.get("said", [])
    try:
        with redirect_stderr(heard):
            estimate = calibration.run()
    finally:  # print messages (such as notes on the data) only once, not again for every arm
        new = [one for one in heard.getvalue().splitlines() if one not in before]
        print(*new, sep="\n", end="\n" if new else "", file=sys.stderr)
    return estimate, calibration.known | {"said": [*before, *new]}
