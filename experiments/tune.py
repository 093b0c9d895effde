"""Tunes every arm with the same number of trials: ``python -m experiments.tune env=mine trials=8``.

The first trial of each arm is the arm's untuned config. All trials are judged on validation tasks, with a seed that no
comparison uses. The chosen values are written to ``configs/tuned/<env>.yaml``, which ``experiments.compare`` reads; a
table of all trials and a copy of the chosen values are written to the run's folder.

Optuna proposes the trials, and an executor runs them as jobs. Hydra's sweeper plugin for Optuna is not used, because it
needs Optuna 2, sweeps one config at a time and cannot resume. No Optuna database is used either: the sampler is seeded
and gets the results in the order of the trials, so replaying the folder's results proposes the same trials again.
"""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.cli import UserError, console, entry_point, resolved_yaml
from experiments.compare import (
    arm_config,
    grow,
    refuse_arm,
    refuse_changed_config,
    refuse_stops,
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
from experiments.tuned import as_yaml, budget_of, refuse_lost_choices, setting_of, write_choices
from rewards import nearest
from rewards.wording import counted
from rl.analysis.printing import percent
from rl.tracking import describe_run, write_text


@dataclass
class Trial:
    """One config of an arm that is tried.

    Args:
        arm: Key of the arm.
        number: Number of the trial; 0 is the untuned arm.
        drawn: Proposed values by path; for trial 0 the values of the untuned arm.
        changed: Changes to the arm's config that follow from ``drawn``, as a nested mapping.
        jobs: One job per seed.
    """

    arm: str
    number: int
    drawn: dict[str, Any]
    changed: dict[str, Any]
    jobs: list[Job]

    def results(self) -> list[dict[str, Any]]:
        """Content of ``result.json`` of every run that has finished."""
        return [json.loads((job.folder / "result.json").read_text()) for job in self.jobs if job.is_done]

    def value(self, objective: str) -> float:
        """Mean of the objective over seeds; ``nan`` unless the runs of all seeds have finished."""
        found = [OBJECTIVES[objective](result) for result in self.results()]
        return sum(found) / len(found) if len(found) == len(self.jobs) else math.nan


class ArmStudy:
    """The trials of one arm, and the Optuna study that proposes them.

    Args:
        cfg: Config of the tuning.
        arm: Key of the arm.
        folder: Folder of the tuning.
        threads: Torch threads of a job.

    Raises:
        ValueError: If the space varies nothing of the arm, names a key that the arm does not have, or has a value that
            the arm cannot take.
    """

    def __init__(self, cfg: TuneConfig, arm: str, folder: Path, threads: int) -> None:
        import optuna

        self.arm, self.trials, self._cfg, self._folder = arm, [], cfg, folder
        # Validation tasks in place of test tasks, and only the parts of the evaluation that the objective reads.
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
        self.ends: list[Any] = []
        for path, one in self.varied.items():  # Refuses impossible values now, instead of hours later in a trial.
            for end in one.values or (one.low, one.high):
                self.ends.append(arm_config(arm, self._changed({path: end})[1], cfg, self._shared)[1])
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        sampler = SAMPLERS.bind(cfg.sampler, cfg.sampler_options)(cfg.seed)
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        self._asked: list[Any] = []
        self.trials: list[Trial] = []
        # What the sampler was told of each trial, by its number; ``None`` of a crashed one. A resumed tuning tells it
        # the same, even of a trial that has not crashed again, since otherwise other trials would be proposed.
        self._record = folder / "trials" / arm / "told.json"
        self._told: dict[str, float | None] = json.loads(self._record.read_text()) if self._record.exists() else {}

    def ask(self, n: int) -> list[Trial]:
        """Returns the next ``n`` trials, all proposed before the result of any of them is known."""
        new = []
        for number in range(len(self.trials), len(self.trials) + n):
            drawn, asked = self._as_it_is, None
            # Trial 0 is the untuned arm and not proposed by Optuna. With it among the trials, tuning never chooses a
            # config that is worse on validation tasks than the untuned one.
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
        """Changes that a trial makes to the arm's config, and the changed config.

        Raises:
            ValueError: If the arm cannot take a value of the space.
        """
        entry = self._cfg.arms[self.arm]
        changed = changes(entry, self.varied, drawn)
        try:
            return changed, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(entry), changed))
        except (ValueError, OmegaConfBaseException) as error:
            said = ", ".join(f"{path}={value}" for path, value in drawn.items())
            raise ValueError(f"space: {self.arm} cannot be tried with {said}: {explain(error)}") from None

    def tell(self, trials: Sequence[Trial]) -> None:
        """Gives the results to the sampler, in the order of the trials; a crashed trial is told as failed."""
        import optuna

        for trial in trials:
            value, asked = trial.value(self._cfg.objective), self._asked[trial.number]
            told = self._told.setdefault(str(trial.number), None if math.isnan(value) else value)
            state = optuna.trial.TrialState.FAIL if told is None else optuna.trial.TrialState.COMPLETE
            if asked is not None:
                self._study.tell(asked, told, state=state)
            # Optuna did not propose trial 0, but its result is added to the study, so that the sampler learns from it
            # as well. Values outside of the space are left out, because Optuna refuses them.
            elif all(one.holds(trial.drawn[path]) for path, one in self.varied.items()) and told is not None:
                ranges = {path: one.distribution() for path, one in self.varied.items()}
                self._study.add_trial(optuna.trial.create_trial(params=trial.drawn, distributions=ranges, value=told))
        write_text(self._record, json.dumps(self._told))

    def winner(self) -> Trial | None:
        """The trial with the best objective; ``None`` if all crashed.

        Among equals the one with more accurate first attempts wins, then the earlier one.
        """

        def rank(trial: Trial) -> tuple[float, float, int]:
            firsts = [result["greedy"]["accuracy_t1"] for result in trial.results()]
            return trial.value(self._cfg.objective), sum(firsts), -trial.number

        done = [trial for trial in self.trials if not math.isnan(trial.value(self._cfg.objective))]
        return max(done, key=rank, default=None)


def studies(cfg: TuneConfig, folder: Path, threads: int = 1) -> list[ArmStudy]:
    """Returns a study for each arm of ``cfg.include``, with trial 0 already created.

    Raises:
        UserError: If an arm is unknown, or the untuned arms would not spend the same budget.
        ValueError: If the space does not fit an arm.
    """
    cfg = replace(cfg, env=cfg.env.settled())
    refuse_unknown_arms(cfg)
    for key, names, given in (
        ("space", [*ARMS, "arms"], cfg.space),
        ("space.arms", cfg.arms, cfg.space.get("arms", {})),
    ):
        if wrong := next((name for name in given if name not in names), None):
            raise UserError(f"{key}.{wrong}: there is no such arm or kind of arms to vary{nearest(wrong, names)}")
    found = [ArmStudy(cfg, arm, folder, threads) for arm in cfg.include]
    as_they_are = [job for one in found for job in one.ask(1)[0].jobs]
    for one in found:
        refuse_arm(one.arm, one.trials[0].jobs[0].arm.config, cfg)
    refuse_stops([job.arm.config for job in as_they_are] + [end for one in found for end in one.ends], cfg)
    refuse_unequal_budgets(as_they_are, cfg.match)
    return found


def tune(cfg: TuneConfig, folder: Path) -> list[ArmStudy]:
    """Runs every unfinished trial, ``cfg.at_once`` per arm in a round; all arms of a round share the executor."""
    with running(cfg, folder) as executor:
        found = studies(cfg, folder, executor.threads)
        done = 0
        while done < cfg.trials:
            until = min(cfg.trials, done + cfg.at_once)
            # All trials of a round are proposed before the sampler gets the result of any of them. So the order in
            # which they finish does not matter: a resumed tuning gives the sampler the same history, and it proposes
            # the same trials again.
            asked = [one.trials[done:] + one.ask(until - len(one.trials)) for one in found]
            jobs = [job for trials in asked for trial in trials for job in trial.jobs]
            for job in jobs:
                if job.is_done:
                    refuse_changed_config(job)
            if not done:  # Written only now: the folder must not keep a config that was refused above.
                describe_run(folder, resolved_yaml(cfg))
            with Display(console, one_run=False) as display:
                run_jobs([job for job in jobs if not job.is_done], executor, display, cfg.retries)
            for one, trials in zip(found, asked, strict=True):
                one.tell(trials)
            done = until
            write_trials(cfg, found, folder)
    return found


def write_trials(cfg: TuneConfig, found: Sequence[ArmStudy], folder: Path) -> None:
    """Writes ``trials.csv`` and ``trials.md``: for every trial its values, results, cost and errors."""
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
            row["error"] = "; ".join(dict.fromkeys(every))  # An error that several seeds share is listed once.
            rows.append(row)
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_text(folder / "trials.csv", text.getvalue())
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    write_text(folder / "trials.md", "".join(f"| {' | '.join(line)} |\n" for line in lines))


def write_winners(cfg: TuneConfig, found: Sequence[ArmStudy], folder: Path) -> dict[str, Any]:
    """Writes the YAML file of the chosen values; values that another tuning chose for other arms are kept in it.

    The values that this tuning chose are first written to ``tuned.yaml`` in its folder.

    Returns:
        The content that was written to ``cfg.output``.

    Raises:
        UserError: If ``cfg.output`` cannot be written, or has since got values that would be lost; or if every trial of
            an arm crashed, in which case the chosen values of all other arms are written first.
    """
    arms: dict[str, Any] = {}
    records: dict[str, Any] = {}
    hopeless, chosen = [], {}
    for one in found:
        best = one.winner()
        if best is None:
            hopeless.append(one.arm)
            continue
        if best.changed:
            arms[one.arm] = best.changed
        before_and_after = [trial.value(cfg.objective) for trial in (one.trials[0], best)]
        values = [None if math.isnan(value) else round(value, 4) for value in before_and_after]
        spent = max(result["totals"]["episodes"] for result in best.results())
        record = TuningRecord(
            len(one.trials), list(cfg.seeds), spent, cfg.objective, *values, budget_of(cfg), setting_of(cfg)
        )
        records[one.arm] = asdict(record)
    kept = folder / "tuned.yaml"
    if records:
        write_text(kept, as_yaml(arms, records))
        try:
            refuse_lost_choices(cfg, episodes(found))  # Again, because the file may have changed since the start.
            chosen = write_choices(Path(cfg.output).expanduser(), arms, records)
        except OSError as error:
            why = f"it cannot be written ({error.filename}: {error.strerror})"
            raise UserError(f"output={cfg.output}: {why}. The chosen values are kept in {kept}") from error
        except UserError as error:
            raise UserError(f"{error}. The chosen values are kept in {kept}") from error
    if hopeless:
        raise UserError(f"{', '.join(hopeless)}: every trial crashed; see trials.csv and the job.log files in {folder}")
    return chosen


def refuse_fewer_trials(cfg: TuneConfig, folder: Path) -> None:
    """Raises UserError if the folder is of a tuning with more trials, which its tables would no longer list."""
    stored: Any = OmegaConf.load(folder / "config.yaml") if (folder / "config.yaml").exists() else {}
    if (before := stored.get("trials", 0)) > cfg.trials:
        raise UserError(f"trials={cfg.trials}: {folder} has {before} for every arm; give trials={before} or more")


def episodes(found: Sequence[ArmStudy]) -> dict[str, int]:
    """Episodes that a run of each untuned arm samples."""
    return {one.arm: one.trials[0].jobs[0].arm.budget("samples") for one in found}


@entry_point("tune")
def main(cfg: TuneConfig) -> None:
    """Runs the unfinished trials and writes the chosen values."""
    # Refuses a wrong config, and an output that would lose values, before a folder is made.
    refuse_lost_choices(cfg, episodes(studies(cfg, Path(cfg.runs_dir))))
    from experiments.folders import open_run

    with open_run(cfg, "tune") as folder:
        cfg = grow(cfg, folder)  # The tables list all arms of the folder, those of earlier calls included.
        refuse_fewer_trials(cfg, folder)
        console.print(
            f"{counted(len(cfg.include), 'arm')} x {counted(cfg.trials, 'trial')}, in {folder}", highlight=False
        )
        found = tune(cfg, folder)
        write_winners(cfg, found, folder)
        console.print((folder / "trials.md").read_text(), highlight=False, markup=False)
        console.print(f"chosen: {cfg.output}; every trial: {folder / 'trials.csv'}", highlight=False)


if __name__ == "__main__":
    main()
