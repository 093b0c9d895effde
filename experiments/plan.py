"""Estimates the cost of a run before it is started: ``python -m experiments.plan train env=repair algorithm=score``.

Takes the name of a program (``train``, ``sft`` or ``compare``) and all of its overrides. Estimates episodes, tokens,
optimiser steps, disk, memory by part, and time from a few real steps on this machine; ``plan.calibrate=false`` takes no
steps and computes from the config alone, without time. If the run does not fit, the options that make it smaller are
listed. A run that is started afterwards keeps the estimate in its folder (``plan.json``) and compares it at its end
with what the run really took.
"""

import multiprocessing
import shutil
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.cli import UserError, console, entry_point, fail
from experiments.executors import visible_gpus
from experiments.keys import explain, unknown
from experiments.planned import UNITS, PlanConfig, count, place, size
from experiments.progress import print_table, said_before
from experiments.refusals import refuse_unusable_runs_dir
from rl.analysis.printing import duration
from rl.config import TrainConfig
from rl.tracking import write_json

if TYPE_CHECKING:
    from experiments.calibration import Estimate
    from experiments.jobs import Job

PROGRAMS = ("train", "sft", "compare")
FULL = 0.9
"""Share of memory or disk that a planned run may take; the rest is a reserve for whatever the estimate leaves out."""
_OPTIONS: dict[str, tuple[str, Any]] = {
    "micro_batch_tokens": ("optim.micro_batch_tokens", lambda now: now // 4),
    "gradient_checkpointing": ("optim.gradient_checkpointing", lambda now: True),
    "mixed_precision": ("optim.mixed_precision", lambda now: "bf16"),
    "fused_head": ("fused_head", lambda now: True),
    "lora": ("model.lora.rank", lambda now: now or 16),
    "dtype": ("model.dtype", lambda now: "bfloat16"),
    "max_batch_size": ("engine.max_batch_size", lambda now: max(1, now // 4)),
    "critic": ("critic.kind", lambda now: "shared" if now == "separate" else now),
}
"""Options that make a run smaller: for each its key and a function from its present to its new value.

Keys that do not begin with ``model`` or ``engine`` lie below ``algorithm`` or ``offline``."""


@dataclass
class Planned:
    """An arm and its estimated cost.

    Args:
        name: Name of the arm.
        config: Config of one of its runs.
        runs: Number of runs, one per seed.
        estimate: Estimated cost of one run.
    """

    name: str
    config: Any
    runs: int
    estimate: "Estimate"


def main() -> None:
    """Reads the program's name and ``plan.*`` options from the command line; all other options are the program's."""
    given = sys.argv[1:]
    if not given or given[0] in ("-h", "--help"):
        _print_help()
        return
    if given[0] not in PROGRAMS:
        fail(
            f"python -m experiments.plan {given[0]}: first name the program to plan, one of {', '.join(PROGRAMS)}, "
            "then its overrides, as in python -m experiments.plan train env=repair"
        )
    if {"-m", "--multirun"} & set(given):
        fail("experiments.plan plans one run or comparison, no sweep: remove -m")
    try:
        options = read_options([one for one in given[1:] if one.startswith("plan.")])
    except UserError as error:
        fail(str(error))
    rest = [one for one in given[1:] if not one.startswith("plan.")]
    # Planning must not create the run's folder, nor Hydra's own output folder in the current directory.
    sys.argv[1:] = [*rest, "hydra.run.dir=.", "hydra.sweep.dir=."]

    def run(cfg: Any) -> None:
        refuse_unusable_runs_dir(cfg.runs_dir, cfg.name, must_be_writable=True)
        report(plan(cfg, given[0], options), cfg, options)

    # ``entry_point`` reads the --help text, and the program's name for other processes, from the function's module.
    run.__module__ = __name__
    entry_point(given[0], runs=False)(run)()


def _print_help() -> None:
    from experiments.help import meanings

    console.print((__doc__ or "").replace("``", ""), markup=False, highlight=False)
    for item in fields(PlanConfig):
        console.print(f"  [bold]plan.{item.name}[/]={item.default}  {meanings(PlanConfig)[item.name]}", highlight=False)


def read_options(given: Sequence[str]) -> PlanConfig:
    """Parses the plan's own options, ``plan.<name>=<value>``.

    Raises:
        UserError: If an option does not exist, or cannot have the given value.
    """
    names = [item.name for item in fields(PlanConfig)]
    for one in given:
        if (key := one.partition("=")[0]).removeprefix("plan.") not in names:
            raise UserError(unknown(key, [f"plan.{name}" for name in names]))
    merged: Any = OmegaConf.structured(PlanConfig)
    for one in given:
        try:
            merged = OmegaConf.merge(merged, OmegaConf.from_dotlist([one.removeprefix("plan.")]))
        except OmegaConfBaseException as error:
            # Worded like Hydra's error for a wrong override, so that :func:`explain` recognises it.
            as_hydra = OmegaConfBaseException(f"Error merging override {one}\n{error}")
            raise UserError(explain(as_hydra)) from error
    try:
        found: Any = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise UserError(f"{' '.join(given)}: {explain(error)}") from error
    except ValueError as error:
        raise UserError(str(error)) from error
    return found


def plan(cfg: Any, program: str, options: PlanConfig) -> list[Planned]:
    """Estimates the cost of every arm; calibrated estimates are stored where the arm's runs will look for them.

    Args:
        cfg: Typed config of the program.
        program: Name of the program.
        options: Options of the plan.
    """
    from experiments.planning import counted  # Loads torch and transformers.

    planned, known = [], dict[str, dict]()
    for name, config, runs in arms_of(cfg, program):
        if options.calibrate:
            asked = repr(config.env)  # Evaluation costs are shared only by arms with the same environment settings.
            with console.status(f"{name}: a few real steps"):
                estimate, known[asked] = _in_a_process(config, options, known.get(asked, {}), name)
        else:
            estimate = counted(config, options)
        of = f"{name}: " if program == "compare" and isinstance(config, TrainConfig) else ""
        estimate.notes += [f"{of}{note}" for note in said_before(config)]
        planned.append(Planned(name, config, runs, estimate))
        if options.calibrate:
            _keep(config, estimate)
    return planned


def arms_of(cfg: Any, program: str) -> list[tuple[str, Any, int]]:
    """Name, config and number of runs of every arm of a program."""
    if program != "compare":
        return [((cfg.algorithm if program == "train" else cfg.offline).name, cfg, 1)]
    from experiments.compare import plan as plan_jobs

    jobs: list[Job] = plan_jobs(cfg, Path(cfg.runs_dir), _slots(cfg)[1])
    names = list(dict.fromkeys(job.arm.name for job in jobs))
    of_name = {name: [job for job in jobs if job.arm.name == name] for name in names}
    return [(name, one[0].arm.config, len(one)) for name, one in of_name.items()]


def _slots(cfg: Any) -> tuple[int, int]:
    """Number of jobs at once on this machine, and threads of each; ``(1, 1)`` if another executor decides that."""
    if getattr(cfg, "executor", "") != "local":
        return 1, 1
    from experiments.executors import LocalExecutor, LocalOptions

    options = LocalOptions(**cfg.executor_options)
    executor = LocalExecutor(options, Path(cfg.runs_dir))
    threads = executor.threads
    executor.stop()
    return len(options.slots()), threads


def _in_a_process(config: Any, options: PlanConfig, known: dict, name: str) -> "tuple[Estimate, dict]":
    """Calibrates in a separate process, so that the measured memory is that of the run's steps alone."""
    from experiments.calibration import calibrate, scratch

    # Spawned, not forked: a fork shares the memory pages of libraries that its parent has loaded, so the measurement
    # would miss them.
    context = multiprocessing.get_context("spawn")
    # Ctrl-C reaches the child too. The default handler ends it without a traceback; this process reports the interrupt.
    quiet: dict[str, Any] = {"initializer": signal.signal, "initargs": (signal.SIGINT, signal.SIG_DFL)}
    try:
        with ProcessPoolExecutor(1, mp_context=context, **quiet) as pool:
            try:
                return pool.submit(calibrate, config, options, known).result()
            except KeyboardInterrupt:
                for child in multiprocessing.active_children():  # Leaving the pool would wait for the child's steps.
                    child.kill()
                    child.join()
                    for left in Path(config.runs_dir).glob(f"{scratch(child.pid)}*"):
                        shutil.rmtree(left)
                raise
    except BrokenProcessPool:
        raise UserError(
            f"{name}: the process that took a few steps was killed, most likely out of memory; plan.calibrate=false "
            "estimates without steps, and lists what would make the run smaller"
        ) from None


def _keep(config: Any, estimate: "Estimate") -> None:
    """Stores an estimate where the run will look for it."""
    told = {key: getattr(estimate, key) for key in UNITS} | asdict(estimate)
    write_json(place(config), {"made": f"{datetime.now():%Y-%m-%d %H:%M}", "estimate": told})


def report(planned: Sequence[Planned], cfg: Any, options: PlanConfig) -> None:
    """Prints the estimates and, if the runs do not fit, the options to change."""
    slots = _slots(cfg)[0]
    at_once = min(slots, sum(one.runs for one in planned))
    header = ["", "episodes", "sampled tokens", "trained tokens", "steps", "disk", "memory", "time"]
    rows = []
    for one in planned:
        found = one.estimate
        numbers = (found.episodes, found.sampled_tokens, found.gradient_tokens, found.updates)
        time_of = duration(found.seconds) if found.costs else "-"
        rows.append(
            [
                one.name + (f" x {one.runs}" if one.runs > 1 else ""),
                *(count(n) for n in numbers),
                size(found.disk),
                size(found.peak_memory * 2**30),
                time_of,
            ]
        )
    print_table(header, rows, console, "Each run")
    largest = max(planned, key=lambda one: one.estimate.peak_memory)
    _print_memory(largest, options)
    if all(one.estimate.costs for one in planned):
        # On a CPU the executor ``local`` loads the libraries once for each slot, otherwise every run loads them.
        forked = getattr(cfg, "executor", "") == "local" and not visible_gpus()
        _print_time(planned, slots, at_once if forked else sum(one.runs for one in planned))
    else:
        console.print("Time: needs real steps (plan.calibrate=true).")
        console.print("Tokens: as many as env.max_new_tokens allows; real answers are mostly shorter.")
    for line in dict.fromkeys(line for one in planned for line in one.estimate.notes):
        console.print(f"[yellow]note:[/] {line}", highlight=False)
    per_device = getattr(cfg, "executor_options", {}).get("jobs_per_gpu", 1)
    fits = [_fits_memory(largest, at_once, min(at_once, per_device), options), _fits_disk(planned, Path(cfg.runs_dir))]
    if all(fits):
        console.print("[green]It fits.[/]")
    if any(one.estimate.costs for one in planned):
        console.print("The run keeps this estimate in its folder, and prints the real cost beside it at its end.")


def _print_memory(one: Planned, options: PlanConfig) -> None:
    found = one.estimate
    names = list(dict.fromkeys(name for parts in found.memory.values() for name in parts))
    rows = [[name, *(size(parts[name]) if name in parts else "" for parts in found.memory.values())] for name in names]
    rows.append(["sum of the formulas", *(size(sum(parts.values())) for parts in found.memory.values())])
    title = f"Memory of {one.name}, on each device" if options.processes > 1 else f"Memory of {one.name}"
    print_table(["", "while it samples", "in an optimiser step"], rows, console, title)
    if found.costs:
        console.print(f"Measured in real steps, plus what more rows add: {size(found.peak_memory * 2**30)}")


def _print_time(planned: Sequence[Planned], slots: int, starts: int) -> None:
    total: dict[str, float] = {}
    for one in planned:
        for name, (wall, _) in one.estimate.costs.items():
            total[name] = total.get(name, 0.0) + wall * one.runs
    total["starting"] = total.get("starting", 0.0) * starts / sum(one.runs for one in planned)
    whole = sum(total.values())
    shares = ", ".join(f"{name} {duration(seconds)}" for name, seconds in total.items() if seconds >= 0.005 * whole)
    # With more slots than runs the longest run decides; otherwise all slots are assumed to be busy until the end.
    longest = max(sum(wall for wall, _ in one.estimate.costs.values()) for one in planned)
    left = max(longest, whole / slots)
    runs = sum(one.runs for one in planned)
    at_once = f" with {slots} of {runs} runs at once, {duration(whole)} one after the other" if runs > 1 else ""
    console.print(f"[bold]Time: {duration(left)}[/]{at_once}: {shares}", highlight=False)


def _fits_memory(one: Planned, at_once: int, per_gpu: int, options: PlanConfig) -> bool:
    """Prints whether memory suffices for all runs at once, each as large as the largest; otherwise what to change."""
    from experiments.planning import device, smaller

    where, room, shared = device(options)
    n = at_once if shared else per_gpu
    needed = n * one.estimate.peak_memory
    runs = f"{n} runs at once need" if n > 1 else "a run needs"
    console.print(f"{where} has {room:.1f} GiB; {runs} {needed:.2f} GiB", highlight=False)
    if needed <= FULL * room:
        return True
    console.print(f"[bold red]It does not fit[/] in {FULL:.0%} of that. Each of these saves:", highlight=False)
    for line in smaller(one, needed, n, FULL * room, options, _OPTIONS):
        console.print(f"  {line}", highlight=False)
    if n > 1:
        console.print(
            f"  executor_options.workers=1  {needed - needed / n:.2f} GiB: one run at a time", highlight=False
        )
    return False


def _fits_disk(planned: Sequence[Planned], folder: Path) -> bool:
    # A folder that does not exist yet will be on the same disk as its nearest existing parent.
    while not folder.exists():
        folder = folder.absolute().parent
    free, needed = shutil.disk_usage(folder).free, sum(one.runs * one.estimate.disk for one in planned)
    console.print(f"The disk of {folder} has {size(free)} free; {size(needed)} are needed", highlight=False)
    if needed <= FULL * free:
        return True
    console.print(
        "[bold red]The disk is too small:[/] training.keep_last=1 keeps one checkpoint per run instead of two, "
        "training.save_every=0 keeps none, and runs_dir=... writes to another disk",
        highlight=False,
    )
    return False


if __name__ == "__main__":
    main()
