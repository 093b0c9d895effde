"""Offline SFT against online RL: ``python -m experiments.compare``.

Every arm starts from the same base and spends the same number of sampled episodes; arms and seeds run in parallel
processes. What is finished stays finished: an interrupted comparison goes on with ``resume=<folder>``.
"""

import difflib
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from envs.prompts import get_prompts
from experiments.arms import run_base, run_offline
from experiments.cli import UserError, console, entry_point, resolved_yaml
from experiments.cross import CrossJob, run_cross
from experiments.folders import is_complete, open_run
from experiments.online import run_online
from experiments.progress import Display
from experiments.report import write_report
from experiments.schema import CompareConfig, PromptingConfig
from rl.backends.flops import forget_peak_memory
from rl.config import AlgorithmConfig, BudgetConfig, EnvConfig, OfflineConfig, RunConfig, SFTConfig, TrainConfig
from rl.tracking import describe_run, write_text

BASE = "base"
_PROGRESS_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class Job:
    """One arm with one seed."""

    arm: str
    seed: int
    config: RunConfig
    folder: Path

    @property
    def is_done(self) -> bool:
        """Whether result and policy are there."""
        return is_complete(self.folder)


def plan(cfg: CompareConfig, folder: Path) -> list[Job]:
    """The jobs of a comparison: the base once, then every arm with every seed, seed by seed.

    Raises:
        UserError: If an arm is unknown, or arms would not sample the same number of episodes.
    """
    cfg = replace(cfg, env=cfg.env.settled())
    for name in cfg.run:
        if name not in cfg.arms:
            near = difflib.get_close_matches(name, cfg.arms, n=1, cutoff=0.0)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UserError(f"run: there is no arm {name!r}{hint} Known: {', '.join(cfg.arms)}")
    if len(set(cfg.seeds)) != len(cfg.seeds) or not cfg.seeds:
        raise UserError(f"seeds={cfg.seeds}: give at least one, each once")
    shared = {
        "threads": cfg.threads or max(1, (os.cpu_count() or 1) // n_workers(cfg)),
        "runs_dir": cfg.runs_dir,
        "data_dir": cfg.data_dir,
        "name": cfg.name,
        "model": cfg.model,
        "env": cfg.env,
        "engine": cfg.engine,
        "evaluation": cfg.evaluation,
    }
    jobs = [Job(BASE, 0, RunConfig(seed=0, **shared), folder / "arms" / BASE / "seed_0")]
    for name in cfg.run:
        if isinstance(cfg.arms[name], PromptingConfig):
            config = replace(RunConfig(seed=0, **shared), env=_asked_otherwise(cfg.arms[name], cfg))
            jobs.append(Job(name, 0, config, folder / "arms" / name / "seed_0"))
    for seed in cfg.seeds:
        for name in cfg.run:
            if isinstance(cfg.arms[name], PromptingConfig):
                continue
            config = _arm_config(cfg.arms[name], cfg, shared | {"seed": seed})
            jobs.append(Job(name, seed, config, folder / "arms" / name / f"seed_{seed}"))
    if cfg.match != "tokens":
        _refuse_unequal_budgets(jobs, cfg.match)
    return jobs


def _asked_otherwise(arm: PromptingConfig, cfg: CompareConfig) -> EnvConfig:
    family, version = cfg.env.prompts.rsplit("-", 1)
    try:
        get_prompts(f"{family}-{arm.style}-{version}")
    except KeyError as error:
        raise UserError(f"run: {arm.name} has no words for env.prompts={cfg.env.prompts}: {error.args[0]}") from None
    return replace(cfg.env, prompts=f"{family}-{arm.style}-{version}")


def _arm_config(arm: Any, cfg: CompareConfig, shared: dict[str, Any]) -> TrainConfig | SFTConfig:
    if isinstance(arm, AlgorithmConfig):
        return TrainConfig(algorithm=arm, training=cfg.training, **shared)
    if isinstance(arm, OfflineConfig):
        budget = {item.name: getattr(cfg.training, item.name) for item in fields(BudgetConfig)}
        return SFTConfig(offline=arm, training=BudgetConfig(**budget), **shared)
    raise UserError(f"arms: {arm!r} is no algorithm, offline method or prompting; add it through the defaults list")


def episodes_spent(config: RunConfig) -> int:
    """Sampled training episodes of a run, exactly."""
    if isinstance(config, TrainConfig):
        per_step = config.training.tasks_per_step * config.algorithm.group_size
        return max(1, config.training.episodes // per_step) * per_step
    if isinstance(config, SFTConfig):
        per_round = config.training.episodes // (config.offline.iterations * config.offline.group_size)
        return per_round * config.offline.iterations * config.offline.group_size
    return 0


def updates_spent(config: RunConfig) -> int:
    """Optimiser steps of a run with a budget of them, exactly."""
    if isinstance(config, TrainConfig):
        per_batch = config.algorithm.epochs * config.algorithm.minibatches
        return max(1, config.training.updates // per_batch) * per_batch
    if isinstance(config, SFTConfig):
        return config.training.updates // config.offline.iterations * config.offline.iterations
    return 0


def _refuse_unequal_budgets(jobs: list[Job], match: str) -> None:
    spends, key, unit = {
        "samples": (episodes_spent, "training.episodes", "step (tasks_per_step * group_size) and of its rounds"),
        "updates": (updates_spent, "training.updates", "steps per batch (epochs * minibatches) and of its rounds"),
    }[match]
    spent = {job.arm: spends(job.config) for job in jobs if isinstance(job.config, TrainConfig | SFTConfig)}
    if len(set(spent.values())) > 1:
        budgets = ", ".join(f"{arm} {n}" for arm, n in spent.items())
        raise UserError(
            f"{key} cannot be spent equally by all arms: they would spend {budgets}. Choose a multiple of every arm's "
            f"{unit}"
        )


def n_workers(cfg: CompareConfig) -> int:
    """Processes that run at once."""
    return cfg.workers or os.cpu_count() or 1


_queue: Any = None


def _start_worker(queue: Any) -> None:
    """Ctrl-C reaches the whole process group; the parent decides what becomes of the workers."""
    global _queue
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    _queue = queue


def run_job(job: Job | CrossJob) -> str | None:
    """Runs a job in a worker process; returns the traceback if it crashed."""
    last = 0.0

    def report(what: str, share: float, metrics: dict[str, float]) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > _PROGRESS_EVERY_S or share >= 1.0:
            last = now
            _queue.put((f"{job.arm}/{job.seed}", what, share, metrics))

    job.folder.mkdir(parents=True, exist_ok=True)
    (job.folder / "error.txt").unlink(missing_ok=True)  # of an interrupted try
    write_text(job.folder / "config.yaml", resolved_yaml(job.config))
    forget_peak_memory()
    try:
        if isinstance(job, CrossJob):
            run_cross(job, report)
        elif isinstance(job.config, TrainConfig):
            run_online(job.config, job.folder, report, job.arm)
        elif isinstance(job.config, SFTConfig):
            run_offline(job.config, job.folder, report, job.arm)
        else:
            run_base(job.config, job.folder, report, job.arm)
    except Exception:
        error = traceback.format_exc()
        write_text(job.folder / "error.txt", error)
        return error
    return None


def run_jobs(jobs: Sequence[Job | CrossJob], workers: int, display: Display) -> dict[str, str]:
    """Runs jobs in parallel processes; returns the tracebacks of those that crashed, by arm and seed.

    Raises:
        UserError: If a worker process died (out of memory, say); what was finished is kept.
    """
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    stop = threading.Event()
    listener = threading.Thread(target=_listen, args=(queue, display, stop), daemon=True)
    listener.start()
    crashed: dict[str, str] = {}
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(queue,))
    try:
        futures: dict[Future, Job | CrossJob] = {pool.submit(run_job, job): job for job in jobs}
        for future in as_completed(futures):
            job = futures[future]
            display.finished(f"{job.arm}/{job.seed}", len(jobs))
            if error := future.result():
                crashed[f"{job.arm}/{job.seed}"] = error
    except BrokenProcessPool as error:
        raise UserError(f"a worker process died (out of memory?): {error}. Finished arms are kept: resume") from error
    except KeyboardInterrupt:
        for process in list(pool._processes.values()):
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        stop.set()
        listener.join(timeout=2)
    return crashed


def _listen(queue: Any, display: Display, stop: threading.Event) -> None:
    reporters: dict[str, Any] = {}
    while not stop.is_set():
        try:
            who, what, share, metrics = queue.get(timeout=0.2)
        except Exception:  # the queue is empty, or its other end is gone
            continue
        if who not in reporters:
            reporters[who] = display.reporter(who)
        reporters[who](what, share, metrics)


def plan_cross(cfg: CompareConfig, jobs: list[Job], folder: Path) -> list[CrossJob]:
    """One table of correctors and authors per seed, over the arms that have finished."""
    if not cfg.cross or cfg.env.attempts < 2:
        return []
    base = jobs[0]
    tables = []
    for seed in cfg.seeds:
        learners = [job for job in jobs if isinstance(job.config, TrainConfig | SFTConfig) and job.seed == seed]
        done = [job for job in learners if job.is_done]
        policies = {BASE: base.config.model.path} | {job.arm: str(job.folder / "policy") for job in done}
        tables.append(CrossJob(seed, base.config, folder / "cross" / f"seed_{seed}", policies, cfg.cross))
    return [table for table in tables if not table.is_done]


def refuse_changed_config(job: Job) -> None:
    """Raises UserError if a finished job was run with another config than the one asked for now."""
    stored = job.folder / "config.yaml"
    before, now = OmegaConf.load(stored), OmegaConf.create(resolved_yaml(job.config))
    changed = [key for key in _flat(now).keys() | _flat(before).keys() if _flat(now).get(key) != _flat(before).get(key)]
    changed = [key for key in changed if key not in ("threads", "runs_dir", "data_dir")]
    if changed:
        raise UserError(
            f"resume: {job.arm}, seed {job.seed} was run with another config; changed: {', '.join(sorted(changed))}. "
            f"Give the same overrides, or delete {job.folder} to run it anew"
        )


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    container = OmegaConf.to_container(node) if OmegaConf.is_config(node) else node
    if not isinstance(container, dict):
        return {prefix: container}
    flat: dict[str, Any] = {}
    for key, value in container.items():
        flat |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


@entry_point("compare")
def main(cfg: CompareConfig) -> None:
    """Runs what is not finished yet, and reports."""
    with open_run(cfg, "compare") as folder:
        compare(cfg, folder)


def compare(cfg: CompareConfig, folder: Path) -> None:
    """Runs what is not finished yet in a comparison's folder, and reports."""
    jobs = plan(cfg, folder)
    describe_run(folder, resolved_yaml(cfg))
    done = [job for job in jobs if job.is_done]
    for job in done:
        refuse_changed_config(job)
    todo = [job for job in jobs if not job.is_done]
    budget = cfg.training.tokens or cfg.training.updates or max(episodes_spent(job.config) for job in jobs)
    unit = {"samples": "sampled episodes", "tokens": "sampled tokens", "updates": "optimiser steps"}[cfg.match]
    console.print(
        f"{len(cfg.run)} arms x {len(cfg.seeds)} seeds, {budget} {unit} each, {n_workers(cfg)} processes"
        + (f"; {len(done)} of {len(jobs)} jobs are finished already" if done else ""),
        highlight=False,
    )
    began = time.perf_counter()
    try:
        with Display(console, one_run=False) as display:
            crashed = run_jobs(todo, min(n_workers(cfg), max(1, len(todo))), display) if todo else {}
            tables = plan_cross(cfg, jobs, folder)
            crashed |= run_jobs(tables, min(n_workers(cfg), len(tables)), display) if tables else {}
    except (KeyboardInterrupt, UserError):
        console.print(f"what is finished is kept; go on with the same command and resume={folder}", highlight=False)
        raise
    for who, error in crashed.items():
        console.print(f"[red]{who} crashed:[/] {error.strip().splitlines()[-1]}", highlight=False)
    console.print(
        f"{time.perf_counter() - began:.0f} s for {len(todo)} jobs; now the tables and figures", highlight=False
    )
    write_report(folder, console)
    if crashed:
        raise UserError(
            f"{len(crashed)} of {len(todo)} jobs crashed: {', '.join(crashed)}; see error.txt in their folders in "
            f"{folder / 'arms'}. The same command with resume={folder} tries them again"
        )


if __name__ == "__main__":
    main()
