"""Every arm tuned alike: ``python -m experiments.tune env=repair trials=8``.

Each arm gets the same number of trials, the first of which is the arm as its file has it; all are judged on validation
tasks, with a seed that no comparison uses. The winners go to ``configs/tuned/<env>.yaml``, which
``experiments.compare`` reads, and every trial stays in the run's folder as a table.

Optuna draws; trials run as jobs of an executor. Hydra's sweeper plugin for Optuna is of no use here: it needs Optuna 2,
sweeps one config at a time, and cannot go on where it stopped. A study is kept in no database either: its sampler is
seeded and is told results in the order of the trials, so that replaying the folder draws the same trials again.
"""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.cli import UserError, console, entry_point, resolved_yaml
from experiments.compare import (
    arm_config,
    refuse_arm,
    refuse_changed_config,
    refuse_unequal_budgets,
    run_jobs,
    shared_by_arms,
)
from experiments.executors import running
from experiments.jobs import ARMS, Job
from experiments.keys import explain
from experiments.progress import Display
from experiments.refusals import refuse_unknown_arms
from experiments.schema import TuneConfig, TuningRecord
from experiments.search import OBJECTIVES, SAMPLERS, Dimension, at_hand, changes, dimensions
from rewards import nearest
from rewards.wording import counted
from rl.analysis.printing import percent
from rl.tracking import describe_run, write_json, write_text


@dataclass
class Trial:
    """One config of an arm, tried.

    Args:
        arm: Key of the arm.
        number: Which; 0 is the arm as it is.
        drawn: What was drawn, by path; for trial 0 what stands there anyway.
        changed: What that changes of the arm's config, nested.
        jobs: A run per seed.
    """

    arm: str
    number: int
    drawn: dict[str, Any]
    changed: dict[str, Any]
    jobs: list[Job]

    def results(self) -> list[dict[str, Any]]:
        """Of the runs that ended well."""
        return [json.loads((job.folder / "result.json").read_text()) for job in self.jobs if job.is_done]

    def value(self, objective: str) -> float:
        """Mean over seeds; ``nan`` unless all of them ended well."""
        found = [OBJECTIVES[objective](result) for result in self.results()]
        return sum(found) / len(found) if len(found) == len(self.jobs) else math.nan


class ArmStudy:
    """One arm's trials, one after the other.

    Args:
        cfg: The tuning.
        arm: Key of the arm.
        folder: Of the tuning.
        threads: Torch threads of a job.

    Raises:
        ValueError: If the arm has nothing to vary, or the space names a key that it does not have.
    """

    def __init__(self, cfg: TuneConfig, arm: str, folder: Path, threads: int) -> None:
        import optuna

        self.arm, self.trials, self._cfg, self._folder = arm, [], cfg, folder
        # Only what the objective reads; the test tasks stay unseen.
        unread: dict[str, Any] = {
            "controls": False,
            "only_controls": [],
            "max_attempts": 0,
            "fixed_first": 0,
            "transfer": {},
        }
        if not OBJECTIVES.fact(cfg.objective, "sampled"):
            unread |= {"samples_per_task": 0, "temperature": 1.0}
        judged = replace(cfg.evaluation, split="validation", **unread)
        self._shared = shared_by_arms(replace(cfg, evaluation=judged), threads)
        self.kind, *_ = arm_config(arm, cfg.arms[arm], cfg, self._shared)
        self.varied: dict[str, Dimension] = dimensions(cfg.space, self.kind, arm)
        self._as_it_is = at_hand(cfg.arms[arm], self.varied)
        for path, one in self.varied.items():  # what cannot be is said now, not when it is drawn
            for end in one.values or (one.low, one.high):
                self._changed({path: end})
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        sampler = SAMPLERS.bind(cfg.sampler, cfg.sampler_options)(cfg.seed)
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        self._asked: list[Any] = []
        self.trials: list[Trial] = []

    def ask(self, n: int) -> list[Trial]:
        """The next trials, without knowing how those of this call come out."""
        new = []
        for number in range(len(self.trials), len(self.trials) + n):
            drawn, asked = self._as_it_is, None
            # Trial 0 is the arm as its file has it, so that tuning can only find what beats it on validation; Optuna
            # does not draw it.
            if number:
                asked = self._study.ask({path: one.distribution() for path, one in self.varied.items()})
                drawn = asked.params
            new.append(self._trial(number, drawn))
            self._asked.append(asked)
        self.trials += new
        return new

    def _trial(self, number: int, drawn: Mapping[str, Any]) -> Trial:
        changed, config = self._changed(drawn if number else {})
        name, place = f"{self.arm}.{number}", self._folder / "trials" / self.arm / f"{number:03d}"
        kind, run, options = arm_config(self.arm, config, self._cfg, self._shared)
        jobs = [
            Job.make(kind, name, seed, replace(run, seed=seed), place / f"seed_{seed}", options)
            for seed in self._cfg.seeds
        ]
        return Trial(self.arm, number, dict(drawn), changed, jobs)

    def _changed(self, drawn: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
        """What a trial changes of the arm's config, and the config that it then has.

        Raises:
            ValueError: If the arm cannot have a value that the space holds.
        """
        entry = self._cfg.arms[self.arm]
        changed = changes(entry, self.varied, drawn)
        try:
            return changed, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(entry), changed))
        except (ValueError, OmegaConfBaseException) as error:
            said = ", ".join(f"{path}={value}" for path, value in drawn.items())
            raise ValueError(f"space: {self.arm} cannot be tried with {said}: {explain(error)}") from None

    def tell(self, trials: Sequence[Trial]) -> None:
        """What came out, in the order of the trials; a trial that crashed tells the sampler nothing."""
        import optuna

        for trial in trials:
            value, asked = trial.value(self._cfg.objective), self._asked[trial.number]
            state = optuna.trial.TrialState.FAIL if math.isnan(value) else optuna.trial.TrialState.COMPLETE
            if asked is not None:
                self._study.tell(asked, None if math.isnan(value) else value, state=state)
            # Nothing was asked for trial 0, but the sampler learns from it too, unless the file's values lie outside of
            # the space, which Optuna refuses.
            elif all(one.holds(trial.drawn[path]) for path, one in self.varied.items()) and not math.isnan(value):
                ranges = {path: one.distribution() for path, one in self.varied.items()}
                self._study.add_trial(optuna.trial.create_trial(params=trial.drawn, distributions=ranges, value=value))

    def winner(self) -> Trial | None:
        """The best trial, of equals the one with better first attempts, then the earlier; ``None`` if all crashed."""

        def rank(trial: Trial) -> tuple[float, float, int]:
            firsts = [result["greedy"]["accuracy_t1"] for result in trial.results()]
            return trial.value(self._cfg.objective), sum(firsts), -trial.number

        done = [trial for trial in self.trials if not math.isnan(trial.value(self._cfg.objective))]
        return max(done, key=rank, default=None)


def studies(cfg: TuneConfig, folder: Path, threads: int = 1) -> list[ArmStudy]:
    """A study for each arm that trains.

    Raises:
        UserError: If an arm is unknown, or arms would not spend the same budget as they are.
        ValueError: If the space does not fit an arm.
    """
    cfg = replace(cfg, env=cfg.env.settled())
    refuse_unknown_arms(cfg)
    for key, names, given in (
        ("space", [*ARMS, "arms"], cfg.space),
        ("space.arms", cfg.arms, cfg.space.get("arms", {})),
    ):
        if wrong := next((name for name in given if name not in names), None):
            raise UserError(
                f"{key}.{wrong}: varies nothing, there is no such arm or kind of arms{nearest(wrong, names)}"
            )
    found = [ArmStudy(cfg, arm, folder, threads) for arm in cfg.include]
    as_they_are = [job for one in found for job in one.ask(1)[0].jobs]
    for one in found:
        refuse_arm(one.arm, one.trials[0].jobs[0].arm.config, cfg)
    refuse_unequal_budgets(as_they_are, cfg.match)
    return found


def tune(cfg: TuneConfig, folder: Path) -> list[ArmStudy]:
    """Runs every trial that is not finished yet, round by round; all arms of a round share the executor."""
    with running(cfg, folder) as executor:
        found = studies(cfg, folder, executor.threads)
        done = 0
        while done < cfg.trials:
            until = min(cfg.trials, done + cfg.at_once)
            # All trials of a round are drawn before any of them is told, whatever order they finish in: replaying the
            # folder gives the sampler the same history, and it draws the same trials again.
            asked = [one.trials[done:] + one.ask(until - len(one.trials)) for one in found]
            jobs = [job for trials in asked for trial in trials for job in trial.jobs]
            for job in jobs:
                if job.is_done:
                    refuse_changed_config(job)
            if not done:  # only now: a config that was refused above must not be what the folder is resumed with
                describe_run(folder, resolved_yaml(cfg))
            with Display(console, one_run=False) as display:
                run_jobs([job for job in jobs if not job.is_done], executor, display, cfg.retries)
            for one, trials in zip(found, asked, strict=True):
                one.tell(trials)
            done = until
            write_trials(cfg, found, folder)
    return found


def write_trials(cfg: TuneConfig, found: Sequence[ArmStudy], folder: Path) -> None:
    """``trials.csv`` and ``trials.md``: every trial, what was drawn, what came out, what it cost."""
    rows = []
    for one in found:
        best = one.winner()
        for trial in one.trials:
            results = trial.results()
            row: dict[str, Any] = {"arm": one.arm, "trial": trial.number, "chosen": "x" if trial is best else ""}
            row["changed"] = ", ".join(
                f"{path} {value:.3g}" if isinstance(value, float) else f"{path} {value}"
                for path, value in trial.drawn.items()
            )
            row[cfg.objective] = percent(trial.value(cfg.objective)) if results else "-"
            for name in ("accuracy_t1", "delta"):
                known = [result["greedy"][name] for result in results if name in result["greedy"]]
                row[name] = percent(sum(known) / len(known), signed=name == "delta") if known else "-"
            for name in ("updates", "gradient_tokens", "sampled_tokens"):
                row[name] = round(sum(result["totals"][name] for result in results) / len(results)) if results else "-"
            every = [job.error.strip().splitlines()[-1] for job in trial.jobs if job.error]
            row["error"] = "; ".join(dict.fromkeys(every))  # a reason that seeds share is said once
            rows.append(row)
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_text(folder / "trials.csv", text.getvalue())
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    write_text(folder / "trials.md", "".join(f"| {' | '.join(line)} |\n" for line in lines))


def chosen_before(path: Path) -> dict[str, Any]:
    """What an earlier tuning has left in a file of winners.

    Raises:
        UserError: If the file holds something else, which would be lost.
    """
    try:
        found: Any = OmegaConf.to_container(OmegaConf.load(path)) if path.exists() else {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        found = None
    if not isinstance(found, dict) or found.keys() - {"arms", "tuning"}:
        raise UserError(f"output={path}: it holds something else than what a tuning chose; name another file")
    return found


def write_winners(cfg: TuneConfig, found: Sequence[ArmStudy], folder: Path) -> dict[str, Any]:
    """The YAML of what was chosen; what another tuning chose for other arms stays in it.

    Returns:
        What was written.

    Raises:
        UserError: If every trial of an arm crashed; what the others came to is written first.
    """
    path = Path(cfg.output)
    before = chosen_before(path)
    arms, records = dict(before.get("arms") or {}), dict(before.get("tuning") or {})
    hopeless = []
    for one in found:
        best = one.winner()
        if best is None:
            hopeless.append(one.arm)
            continue
        # An earlier tuning's choice goes even if the arm won as it is: otherwise the file would keep what was beaten.
        arms.pop(one.arm, None)
        if best.changed:
            arms[one.arm] = best.changed
        before_and_after = [trial.value(cfg.objective) for trial in (one.trials[0], best)]
        values = [None if math.isnan(value) else round(value, 4) for value in before_and_after]
        spent = max(result["totals"]["episodes"] for result in best.results())
        records[one.arm] = asdict(TuningRecord(len(one.trials), list(cfg.seeds), spent, cfg.objective, *values))
    chosen = {"arms": arms, "tuning": records}
    head = "# @package _global_\n# What experiments.tune chose on validation tasks, and what it was worth there.\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, head + OmegaConf.to_yaml(OmegaConf.create(chosen)))
    write_json(folder / "winners.json", chosen)
    if hopeless:
        raise UserError(f"{', '.join(hopeless)}: every trial crashed; see trials.csv and the job.log files in {folder}")
    return chosen


@entry_point("tune")
def main(cfg: TuneConfig) -> None:
    """Runs the trials that are not finished yet, and writes what was chosen."""
    studies(cfg, Path(cfg.runs_dir))  # what is wrong with it is said before anything is loaded
    chosen_before(Path(cfg.output))
    from experiments.folders import open_run

    with open_run(cfg, "tune") as folder:
        console.print(
            f"{counted(len(cfg.include), 'arm')} x {counted(cfg.trials, 'trial')}, in {folder}", highlight=False
        )
        found = tune(cfg, folder)
        write_winners(cfg, found, folder)
        console.print((folder / "trials.md").read_text(), highlight=False, markup=False)
        console.print(f"chosen: {cfg.output}; every trial: {folder / 'trials.csv'}", highlight=False)


if __name__ == "__main__":
    main()
