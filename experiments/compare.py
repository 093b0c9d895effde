"""Offline SFT against online RL: ``python -m experiments.compare``.

Every arm starts from the same base model and spends the same budget: sampled episodes by default, or sampled tokens or
optimiser steps. An executor runs every arm with every seed, on this machine or on a cluster. Finished runs are kept:
``resume=<folder>`` continues an interrupted comparison with the overrides stored in its folder, and may add arms and
seeds.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf
from rich.markup import escape

from envs.prompts import get_prompts
from experiments.cli import UserError, console, entry_point, resolved_yaml
from experiments.executors import Executor, running
from experiments.jobs import ARMS, Job
from experiments.keys import leaves
from experiments.planned import PLANNED, lines
from experiments.progress import Display, print_table, skipped_stages, uneven_budget
from experiments.refusals import of_arm, refuse_no_config, refuse_unknown_arms
from experiments.run_health import News
from experiments.schema import ArmsConfig, CompareConfig, PromptingConfig
from experiments.tuned import setting_of
from rewards.wording import counted
from rl.config import AlgorithmConfig, BudgetConfig, EnvConfig, OfflineConfig, RunConfig, SFTConfig, TrainConfig
from rl.health_needs import notes_on_stops, refuse_idle_stops, without_idle_stops
from rl.tracking import describe_run

BASE = "base"
GROWN = TypeVar("GROWN", bound=CompareConfig)
POLL_S = 0.3


def plan(cfg: CompareConfig, folder: Path, threads: int = 1) -> list[Job]:
    """The jobs of a comparison: the base and other untrained arms once, then the trained arms with every seed.

    Args:
        cfg: Config of the comparison.
        folder: Folder of the comparison; every job gets a folder below it.
        threads: Torch threads of a job, used if the config sets none.

    Raises:
        UserError: If no arm is given, an arm is unknown or cannot be run, or the arms would not spend the same budget.
    """
    cfg = replace(cfg, env=cfg.env.settled())
    refuse_unknown_arms(cfg)
    shared = shared_by_arms(cfg, threads)
    arms = {BASE: ("as_it_is", RunConfig(**shared), {})} | {
        name: arm_config(name, entry, cfg, shared) for name, entry in cfg.arms.items()
    }
    for name in cfg.include:  # an arm that cannot be run is refused before any job starts
        refuse_arm(name, arms[name][1], cfg)
    refuse_stops([arms[name][1] for name in cfg.include], cfg)
    jobs = []
    for seed in cfg.seeds:
        for name in (BASE, *cfg.include):
            kind, config, options = arms[name]
            # An untrained arm is run once, with seed 0; this run is compared with every seed of the trained arms.
            one_for_all = kind == "as_it_is"
            if one_for_all and seed != cfg.seeds[0]:
                continue
            seed_of = 0 if one_for_all else seed
            place = folder / "arms" / name / f"seed_{seed_of}"
            jobs.append(Job.make(kind, name, seed_of, replace(config, seed=seed_of), place, options))
    # The base comes first: if it cannot be evaluated, no arm can, and the error shows before anything is trained.
    jobs.sort(key=lambda job: job.kind != "as_it_is")
    refuse_unequal_budgets(jobs, cfg.match)
    return jobs


def refuse_arm(name: str, config: Any, cfg: ArmsConfig) -> None:
    """Raises UserError if an arm's config cannot be run; the message names the keys as ``arms.<name>....``."""
    from rl.refusals import refuse_run  # imported here because it loads torch, which --help does not need

    try:
        refuse_run(config)
    except ValueError as error:
        # ``env`` is shared by all arms. If a single arm cannot use a value there, the others may still run without it.
        leave = f", or leave {name} out of include" if str(error).startswith("env.") and cfg.include[1:] else ""
        raise UserError(of_arm(name, str(error)) + leave) from None


def refuse_stops(configs: Sequence[Any], cfg: ArmsConfig) -> None:
    """Raises UserError if ``training.stop_on`` names a check that can find nothing in any of the arms."""
    try:
        refuse_idle_stops(cfg.training.stop_on, [config for config in configs if hasattr(config, "training")])
    except ValueError as error:
        raise UserError(str(error)) from None


def shared_by_arms(cfg: ArmsConfig, threads: int) -> dict[str, Any]:
    """The fields that the configs of all arms share; ``threads`` is used if the config sets no number of threads."""
    shared: dict[str, Any] = {"runs_dir": cfg.runs_dir, "data_dir": cfg.data_dir, "plugins": cfg.plugins}
    shared |= {"name": cfg.name, "model": cfg.model, "env": cfg.env, "engine": cfg.engine}
    return shared | {"evaluation": cfg.evaluation, "threads": cfg.threads or threads}


def arm_config(name: str, entry: Any, cfg: ArmsConfig, shared: dict[str, Any]) -> tuple[str, Any, dict[str, Any]]:
    """An arm's kind (a name in ``ARMS``), config and further options, from its entry in the comparison's ``arms``."""
    if isinstance(entry, AlgorithmConfig):
        config: Any = TrainConfig(algorithm=entry, training=cfg.training, **shared)
        return "online", without_idle_stops(config), {}
    if isinstance(entry, OfflineConfig):
        budget = {item.name: getattr(cfg.training, item.name) for item in fields(BudgetConfig)}
        config = SFTConfig(offline=entry, training=BudgetConfig(**budget), **shared)
        return "offline", without_idle_stops(config), {}
    if isinstance(entry, PromptingConfig):
        changed = _asked_otherwise(entry, cfg) if name in cfg.include else cfg.env
        return "as_it_is", RunConfig(**{**shared, "env": changed}), {}
    # Any other entry is a mapping for a kind of arm that another module has registered.
    kind, options = entry["kind"], {key: value for key, value in entry.items() if key != "kind"}
    known = {"training": cfg.training} | shared
    schema = ARMS[kind].schema  # type: ignore[attr-defined]
    return kind, schema(**{key: known[key] for key in known if key in schema.__dataclass_fields__}), options


def _asked_otherwise(arm: PromptingConfig, cfg: ArmsConfig) -> EnvConfig:
    family, version = str(cfg.env.prompts).rsplit("-", 1)
    try:
        get_prompts(f"{family}-{arm.style}-{version}")
    except KeyError as error:
        said = f"include: {arm.name} has no words for env.prompts={cfg.env.prompts}: {error.args[0]}"
        raise UserError(said) from None
    return replace(cfg.env, prompts=f"{family}-{arm.style}-{version}")


def refuse_unequal_budgets(jobs: Sequence[Job], match: str) -> None:
    """Raises UserError if the arms' budgets differ; budgets in tokens are not compared: they are met while sampling."""
    if match == "tokens":
        return
    key, unit = {
        "samples": ("training.episodes", "step (tasks_per_step * group_size) and of its rounds"),
        "updates": ("training.updates", "steps per batch (epochs * minibatches) and of its rounds"),
    }[match]
    spent = {job.arm.name: budget for job in jobs if (budget := job.arm.budget(match))}
    if len(set(spent.values())) > 1:
        budgets = ", ".join(f"{arm} {n}" for arm, n in spent.items())
        raise UserError(
            f"{key} cannot be spent equally by all arms: they would spend {budgets}. Choose a multiple of every arm's "
            f"{unit}"
        )


def run_jobs(jobs: Sequence[Job], executor: Executor, display: Display, retries: int = 0) -> dict[str, str]:
    """Runs jobs through an executor; returns the errors of the jobs that did not finish, by ``<arm>/<seed>``.

    Args:
        jobs: The jobs to run.
        executor: Starts the jobs.
        display: Shows the progress that the jobs write to their folders.
        retries: How often a crashed job is submitted again.
    """
    for job in jobs:
        job.write()
    waiting = dict(zip([job.who for job in jobs], executor.submit([job.folder for job in jobs]), strict=True))
    by_name, tries, failed = {job.who: job for job in jobs}, Counter(), {}
    reporters, news = {job.who: display.reporter(job.who) for job in jobs}, News()
    # Progress and results are read from the jobs' folders. A handle may stand for a local process, a cluster job or a
    # remote task, so all that it has to tell is whether the job has ended, and with which error.
    while waiting:
        time.sleep(POLL_S)
        for who, task in list(waiting.items()):
            job = by_name[who]
            if said := job.progress():
                reporters[who](said["what"], said["share"], said["metrics"])
            for line in news.of(job.folder):
                display.say(f"{who}: {line}")
            if not task.done():
                continue
            error = "" if job.is_done else job.error or str(task.exception() or "ended without a result")
            # A job that is submitted again resumes from its last checkpoint.
            if error and tries[who] < retries:
                tries[who] += 1
                job.write()
                (waiting[who],) = executor.submit([job.folder])
                continue
            del waiting[who]
            display.ended(who, len(jobs), crashed=bool(error))
            if error:
                failed[who] = error
    return failed


def say_crashed(crashed: Mapping[str, str]) -> None:
    """Prints the last line of each distinct error once, preceded by the names of all jobs that ended with it."""
    who_of: dict[str, list[str]] = {}
    for who, error in crashed.items():
        who_of.setdefault(error.strip().splitlines()[-1], []).append(who)
    for error, every in who_of.items():
        console.print(f"[red]{', '.join(every)} crashed:[/] {escape(error)}", highlight=False, soft_wrap=True)


def plan_cross(cfg: CompareConfig, jobs: list[Job], folder: Path) -> list[Job]:
    """Jobs for the tables of who corrects whom: one per seed, over the base and the arms that have finished."""
    if not cfg.cross or cfg.env.attempts < 2:
        return []
    base, tables = jobs[0], []
    if not base.is_done:  # every table contains the base's first attempts
        return []
    for seed in cfg.seeds:
        done = [job for job in jobs if job.kind != "as_it_is" and job.seed == seed and job.is_done]
        policies = {BASE: base.arm.config.model.path} | {job.arm.name: str(job.folder / "policy") for job in done}
        options = {"policies": policies, "n_tasks": cfg.cross}
        tables.append(Job.make("cross", "cross", seed, base.arm.config, folder / "cross" / f"seed_{seed}", options))
    return [table for table in tables if not table.is_done]


def refuse_changed_config(job: Job) -> None:
    """Raises UserError if a finished job was run with a config that differs from the current one."""
    before = leaves(OmegaConf.load(job.folder / "config.yaml"))
    now = leaves(OmegaConf.create(resolved_yaml(job.arm.config)))
    changed = {key for key in now.keys() | before.keys() if now.get(key) != before.get(key)}
    # A run's own resume lets these keys change, too: they decide what is said of a run, not what it learns.
    changed = {key for key in changed if not key.startswith(("training.health", "training.stop_on"))}
    if changed := changed - {"threads", "runs_dir", "data_dir", "plugins"}:
        raise UserError(
            f"resume: {job.arm.name}, seed {job.seed} was run with another config; changed: "
            f"{', '.join(sorted(changed))}. Give the same overrides, or delete {job.folder} to run it again"
        )


def grow(cfg: GROWN, folder: Path) -> GROWN:
    """Adds the arms and seeds stored in the folder of a comparison or a tuning: the stored ones first, then the new."""
    if not (folder / "config.yaml").exists():
        return cfg
    stored: Any = OmegaConf.load(folder / "config.yaml")
    if lacks := [key for key in ("include", "seeds") if key not in stored]:
        raise UserError(
            f"resume={folder}: its config.yaml has no {' and no '.join(lacks)}, so another version made it; remove "
            "resume to start a new comparison"
        )
    both = {key: [*stored[key], *getattr(cfg, key)] for key in ("include", "seeds")}
    return replace(cfg, **{key: list(dict.fromkeys(values)) for key, values in both.items()})


def run(cfg: CompareConfig) -> Path:
    """Runs a comparison's unfinished jobs and writes the report; returns the comparison's folder."""
    refuse_no_config(cfg, CompareConfig, "compare")
    plan(cfg, Path(cfg.runs_dir))  # a wrong config is refused before a folder is made
    from experiments.folders import open_run

    with open_run(cfg, "compare") as folder:
        compare(grow(cfg, folder), folder)
    return folder


main = entry_point("compare")(run)


def say_before(cfg: CompareConfig, jobs: Sequence[Job]) -> None:
    """Prints what a reader of the tables must know: unspent budgets, skipped stages, unused values, untuned arms."""
    from rl.refusals import notes_of_arm

    if note := next(filter(None, (uneven_budget(job.arm.config) for job in jobs)), ""):
        console.print(f"[yellow]note:[/] every run: {note}", highlight=False)
    for name, note in {job.arm.name: skipped_stages(job.arm.config) for job in jobs}.items():
        if note:
            console.print(f"[yellow]note:[/] {name}: {note}", highlight=False)
    for name, config in {job.arm.name: job.arm.config for job in jobs}.items():
        for note in notes_of_arm(config) if isinstance(config, TrainConfig | SFTConfig) else ():
            console.print(f"[yellow]note:[/] {of_arm(name, note)}", highlight=False)
    for note in notes_on_stops({job.arm.name: job.arm.config for job in jobs}, cfg.training.stop_on):
        console.print(f"[yellow]note:[/] {note}", highlight=False)
    if others := {record.setting for record in cfg.tuning.values()} - {"", setting_of(cfg)}:
        console.print(
            f"[yellow]note:[/] the tuned values were chosen for {escape('; '.join(sorted(others)))}, not for "
            f"{escape(setting_of(cfg))}; tuned=none takes the arms as configured",
            highlight=False,
        )
    trained = list(dict.fromkeys(job.arm.name for job in jobs if job.kind != "as_it_is"))
    if cfg.tuning and (untuned := [arm for arm in trained if arm not in cfg.tuning]):
        console.print(f"[yellow]not tuned, unlike the other arms:[/] {', '.join(untuned)}", highlight=False)


def compare(cfg: CompareConfig, folder: Path) -> None:
    """Runs the unfinished jobs in a comparison's folder and writes the report."""
    from experiments.report import write_report

    began, crashed = time.perf_counter(), {}
    with running(cfg, folder) as executor:
        # Finished jobs are not run again, so they must have been run with the current config.
        jobs = plan(cfg, folder, executor.threads)
        done = [job for job in jobs if job.is_done]
        for job in done:
            refuse_changed_config(job)
        # Written only now: a refused config must not become the one that the folder is resumed with next time.
        describe_run(folder, resolved_yaml(cfg))
        todo = [job for job in jobs if not job.is_done]
        budget = cfg.training.tokens or max(job.arm.budget(cfg.match) for job in jobs)
        of = f"of {counted(len(jobs), 'job')}"
        unit = {"samples": "sampled episode", "tokens": "sampled token", "updates": "optimiser step"}[cfg.match]
        console.print(
            f"{counted(len(cfg.include), 'arm')} x {counted(len(cfg.seeds), 'seed')}, {counted(budget, unit)} each, "
            + f"executor {cfg.executor}, in {folder}"
            + (f"; {counted(len(done), f'{of} is', f'{of} are')} finished already" if done else ""),
            highlight=False,
            soft_wrap=True,
        )
        say_before(cfg, jobs)
        # The tables of who corrects whom are planned only after the arms have finished: they need the arms' policies.
        for work in (lambda: todo, lambda: plan_cross(cfg, jobs, folder)):
            with Display(console, one_run=False) as display:
                crashed |= run_jobs(work(), executor, display, cfg.retries)
    say_crashed(crashed)
    if any(job.is_done for job in jobs):
        console.print(
            f"{time.perf_counter() - began:.0f} s for {counted(len(todo), 'job')}; now the tables and figures",
            highlight=False,
        )
        write_report(folder, console)
    if rows := lines([job.folder for job in jobs]):
        print_table(PLANNED, rows, console, "Planned, and what it came to")
    if crashed:
        raise UserError(
            f"{counted(len(crashed), 'job')} crashed: {', '.join(crashed)}; see error.txt and job.log of each in "
            f"{folder}. resume={folder} tries them again"
        )


if __name__ == "__main__":
    main()
