"""Config schemas of the entry points other than a single run; the schema of a single run is in ``rl/config``."""

import re
from dataclasses import dataclass, field
from typing import Any, ClassVar

from omegaconf import MISSING

from experiments.executors import EXECUTORS
from rl.config import EngineConfig, EnvConfig, ModelConfig, RunConfig, TrainingConfig
from rl.config.checks import check_numbers

MATCH = ("samples", "tokens", "updates")


@dataclass
class PromptingConfig:
    """An arm without training: the base model, prompted with other words.

    Args:
        name: Name of the arm in tables.
        style: Prompt style, which selects the prompts ``math-<style>-v1`` instead of ``math-v1``, likewise for other
            prompt families.
    """

    name: str = MISSING
    style: str = MISSING


@dataclass
class ArmsConfig(RunConfig):
    """Keys that all programs that run many arms share.

    Args:
        arms: Config of every arm by name: an ``AlgorithmConfig``, an ``OfflineConfig`` or a ``PromptingConfig``.
        include: Names of the arms to run, in the order of the table.
        seeds: Random seeds; every arm is run once with each.
        match: Budget that is the same for all arms: ``samples`` (``training.episodes``), ``tokens``
            (``training.tokens``, sampled tokens) or ``updates`` (``training.updates``, optimiser steps).
        executor: Where jobs run: ``local`` (slots of this machine), ``here`` (this process), ``submitit`` (Slurm) or
            ``ray``.
        executor_options: Options of the chosen executor; see ``experiments/executors.py``.
        retries: How often a crashed job is tried again.
        resume: Folder of an earlier, interrupted run of this program to resume; ``auto`` for the newest.
    """

    arms: dict[str, Any] = field(default_factory=dict)
    include: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    match: str = "samples"
    executor: str = "local"
    executor_options: dict[str, Any] = field(default_factory=dict)
    retries: int = 0
    resume: str | None = None
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        self.refuse_recorded()
        EXECUTORS.options(self.executor, self.executor_options)
        if len(set(self.seeds)) != len(self.seeds) or not self.seeds:
            raise ValueError(f"seeds={self.seeds}: give at least one, each once")
        if len(set(self.include)) != len(self.include):  # Two runs of an arm would write into the same folder.
            raise ValueError(f"include={self.include}: give each arm once")
        if self.match not in MATCH:
            raise ValueError(f"match={self.match}: use {', '.join(MATCH)}")
        for what in ("tokens", "updates"):
            budget = getattr(self.training, what)
            if self.match == what and not budget:
                raise ValueError(f"match={what}: give the budget of every arm, training.{what}=...")
            if self.match != what and budget:
                raise ValueError(f"training.{what}={budget} is the budget of match={what}, but match={self.match}")


@dataclass
class TuningRecord:
    """How the hyperparameters of an arm were tuned; written by ``experiments.tune``.

    Args:
        trials: Number of configs that were tried, including the arm's untuned config.
        seeds: Random seeds of the trials' runs.
        episodes: Most training episodes that a run of the winning trial sampled.
        objective: Name of the objective that the trials maximised on validation tasks.
        untuned: Value of the objective for the untuned config.
        tuned: Value of the objective for the chosen config.
        budget: Budget of every trial, written as overrides; empty in records of earlier versions.
        setting: Model and environment of the trials, written as overrides; empty in records of earlier versions.
    """

    trials: int = MISSING
    seeds: list[int] = field(default_factory=list)
    episodes: int = MISSING
    objective: str = MISSING
    untuned: float | None = None
    tuned: float | None = None
    budget: str = ""
    setting: str = ""


@dataclass
class CompareConfig(ArmsConfig):
    """``experiments.compare``: runs every arm with every seed; the untrained ``base`` is always measured, too.

    Args:
        cross: Number of test tasks on which every arm corrects every arm's first attempts; 0 leaves this table out.
        tuning: How each arm was tuned, by arm; set by ``tuned=<environment>``.
    """

    cross: int = 0
    tuning: dict[str, TuningRecord] = field(default_factory=dict)
    _positive: ClassVar[str] = ""
    """Fields of a subclass that must be above 0."""
    _measures: ClassVar[bool] = True
    """Whether results count, so that no arm may have been tuned with one of the seeds."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, "", positive=self._positive, not_negative="seed threads seeds retries cross")
        for arm, record in self.tuning.items():
            if self._measures and arm in self.include and (shared := set(record.seeds) & set(self.seeds)):
                said = f"seeds={self.seeds}: {arm} was tuned with {', '.join(map(str, sorted(shared)))}"
                raise ValueError(f"{said}, so its results with them are biased. Use other seeds, or tuned=none")


@dataclass
class TuneConfig(CompareConfig):
    """``experiments.tune``: every arm of a comparison gets the same number of trials, judged on validation tasks.

    What only the comparison needs, such as ``cross`` and parts of the evaluation, has no effect.

    Args:
        space: Search space: for each kind of arm (``online``, ``offline``) a mapping shaped like the arm's config, with
            dimensions in place of values; ``arms`` holds, by arm, what differs from its kind.
        trials: Number of configs to try for every arm; the first is the arm's untuned config.
        at_once: Trials of an arm that are sampled as one batch, before the results of any of them are known.
        objective: Number that tuning maximises; a name in :data:`experiments.search.OBJECTIVES`.
        sampler: Algorithm that proposes the trials; a name in :data:`experiments.search.SAMPLERS`.
        sampler_options: Options of the chosen sampler.
        output: YAML file for the chosen values, which ``experiments.compare`` reads with ``tuned=<environment>``.
    """

    space: dict[str, Any] = field(default_factory=dict)
    trials: int = 8
    at_once: int = 2
    objective: str = "last_accuracy"
    sampler: str = "tpe"
    sampler_options: dict[str, Any] = field(default_factory=dict)
    output: str = "configs/tuned/${env.name}.yaml"
    _positive: ClassVar[str] = "trials at_once"
    _measures: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        from experiments.search import OBJECTIVES, SAMPLERS

        if not self.evaluation.greedy:
            raise ValueError(
                "evaluation.greedy=false: of equal trials, the one with better greedy first attempts is chosen; leave "
                "evaluation.greedy at true"
            )
        if OBJECTIVES.fact(self.objective, "sampled") and not self.evaluation.samples_per_task:
            raise ValueError(f"objective={self.objective} needs sampled episodes: set evaluation.samples_per_task")
        SAMPLERS.options(self.sampler, self.sampler_options)


@dataclass
class ProgramConfig:
    """Keys that all programs share that are not training runs.

    Args:
        plugins: Modules to import before the config is checked, so that it may use the names that they register.
    """

    plugins: list[str] = field(default_factory=list)


@dataclass
class StudyChoice:
    """A study and the sizes in which it can be run; a file of ``configs/study``.

    Args:
        name: Name of the study in :data:`experiments.studies.STUDIES`.
        sizes: Settings for each size, which override the defaults of the study's ``Config``.
    """

    name: str = MISSING
    sizes: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass
class StudyConfig(ProgramConfig):
    """``experiments.study``: measures the claims of a published system.

    Args:
        study: Study to run.
        size: Size of the study: ``smoke`` (seconds), ``tiny`` (minutes on two cores), ``full`` (the paper's setting),
            or another one that the study defines.
        settings: Settings of the study, which override those of its size.
        dry_run: Only for ``size=full``, where it is the default: run the code on random weights of the same
            architecture, with one seed, and judge no claim. ``false`` loads the real model.
        seeds: Random seeds; all arms are run once with each.
        threads: Torch threads of a job; another number changes the last bits of the results.
        executor: Where jobs run; as in ``experiments.compare``.
        executor_options: Options of the chosen executor.
        retries: How often a crashed job is tried again.
        name: Name of the folder below ``runs_dir`` that holds all studies' runs.
        runs_dir: Folder in which the folder ``name`` is made.
        resume: Folder of an earlier, interrupted run to resume; ``auto`` for the newest.
    """

    study: StudyChoice = field(default_factory=StudyChoice)
    size: str = "tiny"
    settings: dict[str, Any] = field(default_factory=dict)
    dry_run: bool | None = None
    seeds: list[int] = field(default_factory=lambda: [10, 11, 12])
    threads: int = 1
    executor: str = "local"
    executor_options: dict[str, Any] = field(default_factory=dict)
    retries: int = 0
    name: str = "study"
    runs_dir: str = "runs"
    resume: str | None = None

    def __post_init__(self) -> None:
        EXECUTORS.options(self.executor, self.executor_options)
        check_numbers(self, "", positive="threads", not_negative="seeds retries")
        if len(set(self.seeds)) != len(self.seeds) or not self.seeds:
            raise ValueError(f"seeds={self.seeds}: give at least one, each once")
        if self.size != "full" and self.dry_run is not None:
            said = str(self.dry_run).lower()
            raise ValueError(f"dry_run={said}: size={self.size} always runs for real; only size=full has a dry run")


@dataclass
class StudySeedConfig(ProgramConfig):
    """Config of one job of a study.

    Args:
        settings: Settings of the study; those left out keep the study's defaults.
        threads: Torch threads of the job.
        size: ``full`` loads the study's module in :mod:`experiments.full`; empty loads the study's usual module.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    threads: int = 1
    size: str = ""

    def __post_init__(self) -> None:
        check_numbers(self, "", positive="threads")


@dataclass
class PlayConfig(ProgramConfig):
    """``experiments.play``: a person answers in place of the model.

    Args:
        split: Split from which the tasks are taken.
        seed: Random seed that selects the tasks and their order.
        data_dir: Folder of published data sets.
    """

    env: EnvConfig = field(default_factory=EnvConfig)
    split: str = "train"
    seed: int = 0
    data_dir: str = "data"

    def __post_init__(self) -> None:
        check_numbers(self, "", not_negative="seed")


@dataclass
class CheckConfig(ProgramConfig):
    """``experiments.check``: inspects an environment and a model before a run.

    Args:
        seed: Random seed of the sampled episodes.
        threads: Torch threads; 0 leaves the choice to torch.
        data_dir: Folder of published data sets.
        samples: Number of episodes to sample.
        shown: Number of sampled episodes that are printed token by token.
        golds: Number of golds (reference answers) of each split that are graded; 0 for all.
    """

    needs_model: ClassVar[bool] = False  # Without a model, the checks that need none are still done.
    env: EnvConfig = field(default_factory=EnvConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    seed: int = 0
    threads: int = 0
    data_dir: str = "data"
    samples: int = 20
    shown: int = 2
    golds: int = 200

    def __post_init__(self) -> None:
        check_numbers(self, "", positive="samples", not_negative="seed threads shown golds")


@dataclass
class WatchConfig(ProgramConfig):
    """``experiments.watch``: shows a run while it is working.

    Args:
        run: Folder of a run, a comparison, a sweep, or of several runs.
        every_s: Seconds between two refreshes.
        once: Print once and exit, for logs and pipes.
        newest: Number of the newest episodes that are shown.
    """

    run: str = MISSING
    every_s: float = 2.0
    once: bool = False
    newest: int = 3

    def __post_init__(self) -> None:
        check_numbers(self, "", positive="every_s", not_negative="newest")


@dataclass
class PushConfig(ProgramConfig):
    """``experiments.push``: uploads the policy of a finished run, with a model card, to the Hugging Face hub.

    Args:
        run: Folder of the run.
        repo: Repository on the hub, written as ``<owner>/<name>``.
        private: Whether a repository that does not exist yet is created as private.
    """

    run: str = MISSING
    repo: str = MISSING
    private: bool = True

    def __post_init__(self) -> None:
        if self.repo != MISSING and not re.fullmatch("[^/]+/[^/]+", self.repo):
            raise ValueError(f"repo={self.repo}: write it as <owner>/<name>")


@dataclass
class ExportConfig(ProgramConfig):
    """``experiments.export``: writes episodes and tables of a folder of runs for other tools.

    Args:
        run: Folder of a run, a comparison, a sweep (``multirun``), a study, or of several runs.
        to: Format: ``jsonl``, ``datasets`` or ``inspect`` for conversations, ``csv`` or ``latex`` for tables, or
            another name in :data:`experiments.export.FORMATS`.
        out: Where to write; empty for ``export/<format>`` below the folder ``run``.
    """

    run: str = MISSING
    to: str = MISSING
    out: str = ""


@dataclass
class ReportConfig(ProgramConfig):
    """``experiments.report``: writes tables, figures and the HTML page of a folder of runs.

    Args:
        run: Folder of a comparison, a sweep (``multirun``), a run, or of several runs; ``[<folder>,<folder>]`` compares
            several folders and writes the report into a new folder beside them.
        only: Ids of tables and figures, such as ``F4`` or ``[T1,F4]``; empty for everything and the page.
        page_episodes: Largest number of evaluated episodes that the page contains.
    """

    run: Any = MISSING
    only: Any = ""
    page_episodes: int = 50_000

    def __post_init__(self) -> None:
        ids = self.only if isinstance(self.only, list) else str(self.only or "").split(",")
        if self.run in ([], ""):
            raise ValueError("run: name a folder of runs, or several as run=[<folder>,<folder>]")
        self.only = [str(one).strip().upper() for one in ids if str(one).strip()]
        check_numbers(self, "", not_negative="page_episodes")


@dataclass
class ThesisConfig(ProgramConfig):
    """``experiments.thesis``: combines the results of all studies.

    Args:
        studies: Folder of the studies' runs; the newest run of each study is read.
        size: Size of the runs to read; other runs are ignored.
        comparisons: Folder of comparisons; the newest finished one is read as the system that corrects itself.
        output: Folder for the page, tables and figures.
    """

    studies: str = "runs/study"
    size: str = "tiny"
    comparisons: str = "runs/compare"
    output: str = "runs/thesis"
