"""The schema of the entry points that are more than one run; what a run needs is in ``rl/config.py``."""

import re
from dataclasses import dataclass, field
from typing import Any, ClassVar

from omegaconf import MISSING

from experiments.executors import EXECUTORS
from rl.config import EngineConfig, EnvConfig, ModelConfig, OptimConfig, RunConfig, TrainingConfig
from rl.config.checks import check_numbers

MATCH = ("samples", "tokens", "updates")


@dataclass
class PromptingConfig:
    """An arm that trains nothing: the base, asked in other words.

    Args:
        name: Shown in tables.
        style: Which words: the prompts ``math-<style>-v1`` in place of ``math-v1``, and so for other families.
    """

    name: str = MISSING
    style: str = MISSING


@dataclass
class ArmsConfig(RunConfig):
    """What programs that run many arms share.

    Args:
        arms: Every arm's config by name: an ``AlgorithmConfig``, an ``OfflineConfig`` or a ``PromptingConfig``.
        include: Which of them to run, in the order of the table.
        seeds: One run per arm and seed.
        match: What all arms spend alike: ``samples`` (``training.episodes``), ``tokens`` (``training.tokens``, sampled
            ones) or ``updates`` (``training.updates``, optimiser steps).
        executor: Where jobs run: ``local`` (slots of this machine), ``here`` (this process), ``submitit`` (Slurm) or
            ``ray``.
        executor_options: Its own options; see ``experiments/executors.py``.
        retries: How often a job that crashed is tried again.
        resume: Folder of an earlier, interrupted run of the program to go on with.
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
        EXECUTORS.options(self.executor, self.executor_options)
        if len(set(self.seeds)) != len(self.seeds) or not self.seeds:
            raise ValueError(f"seeds={self.seeds}: give at least one, each once")
        if len(set(self.include)) != len(self.include):  # two runs would write into one folder
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
    """How an arm came by its values; written by ``experiments.tune``.

    Args:
        trials: Configs that were tried, the arm's own among them.
        seeds: Of the trials' runs.
        episodes: Sampled for training by each run.
        objective: What the winner has most of, on validation tasks.
        untuned: That number with the arm as its own file has it.
        tuned: That number with what was chosen.
    """

    trials: int = MISSING
    seeds: list[int] = field(default_factory=list)
    episodes: int = MISSING
    objective: str = MISSING
    untuned: float | None = None
    tuned: float | None = None


@dataclass
class CompareConfig(ArmsConfig):
    """``experiments.compare``: arms times seeds; ``base`` is always measured.

    Args:
        cross: Test tasks on which every arm corrects every arm's first attempts; 0 for no such table.
        tuning: What is known of the arms' tuning, by arm; comes with ``tuned=<environment>``.
    """

    cross: int = 0
    tuning: dict[str, TuningRecord] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, "", not_negative="seed threads seeds retries cross")
        for arm, record in self.tuning.items():
            if arm in self.include and (shared := set(record.seeds) & set(self.seeds)):
                raise ValueError(
                    f"seeds={self.seeds}: {arm} was tuned with {', '.join(map(str, sorted(shared)))}, so its result "
                    "there is not news. Take other seeds, or tuned=none"
                )


@dataclass
class TuneConfig(ArmsConfig):
    """``experiments.tune``: every arm gets the same number of trials, judged on validation tasks.

    Args:
        space: What is varied: for each family of arms (``online``, ``offline``) a mapping like its config, with a
            dimension where a value would stand; ``arms`` holds, by arm, what differs from its family.
        trials: Configs of every arm that are tried; the first is the arm as it is.
        at_once: Trials of an arm that are drawn before the results of any of them are known.
        objective: What the winner has most of; a name in :data:`experiments.search.OBJECTIVES`.
        sampler: What draws the trials; a name in :data:`experiments.search.SAMPLERS`.
        sampler_options: Its own options.
        output: The YAML of what was chosen, which ``experiments.compare`` reads with ``tuned=<environment>``.
    """

    space: dict[str, Any] = field(default_factory=dict)
    trials: int = 8
    at_once: int = 2
    objective: str = "last_accuracy"
    sampler: str = "tpe"
    sampler_options: dict[str, Any] = field(default_factory=dict)
    output: str = "configs/tuned/${env.name}.yaml"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, "", positive="trials at_once", not_negative="seed threads seeds retries")
        from experiments.search import OBJECTIVES, SAMPLERS

        if OBJECTIVES.fact(self.objective, "sampled") and not self.evaluation.samples_per_task:
            raise ValueError(f"objective={self.objective} needs sampled episodes: set evaluation.samples_per_task")
        SAMPLERS.options(self.sampler, self.sampler_options)


@dataclass
class ProgramConfig:
    """A program that is no run.

    Args:
        plugins: Modules to import before the config is checked, so that what they register has a name.
    """

    plugins: list[str] = field(default_factory=list)


@dataclass
class StudyChoice:
    """Which study, and its sizes; a file of ``configs/study``.

    Args:
        name: A name in :data:`experiments.studies.STUDIES`.
        sizes: Settings by size, over the defaults of the study's ``Config``.
    """

    name: str = MISSING
    sizes: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass
class StudyConfig(ProgramConfig):
    """``experiments.study``: the claims of a published system, measured.

    Args:
        study: Which one.
        size: One of the study's sizes: ``smoke`` (seconds), ``tiny`` (minutes on two cores), ``full`` (the paper's
            setting), and what else it has.
        settings: The study's own settings, over those of its size.
        dry_run: Of size ``full`` alone, which without a word does it: run its code on random weights of the same
            architecture, with one seed, and judge no claim. ``false`` loads the model of its settings, and is real.
        seeds: One run of all arms each.
        threads: Torch threads of a job; the number decides the last bits.
        executor: Where jobs run; as in ``experiments.compare``.
        executor_options: Its own options.
        retries: How often a job that crashed is tried again.
        name: Of the folder below ``runs_dir``.
        runs_dir: Where the folder goes.
        resume: Folder of an earlier, interrupted run to go on with; ``auto`` for the newest.
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
    """What one job of a study is told.

    Args:
        settings: Of the study, complete but for its defaults.
        threads: Torch threads.
        size: Of the study; ``full`` is a module of its own.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    threads: int = 1
    size: str = ""

    def __post_init__(self) -> None:
        check_numbers(self, "", positive="threads")


@dataclass
class PretrainConfig(ProgramConfig):
    """``experiments.pretrain_tiny``: the base of an embedded toy.

    Args:
        name: Which toy.
        output: Folder of the model.
        seed: Of weights and documents.
        steps: Optimiser steps.
        batch_size: Tasks per step.
        hidden_size: Width of the Llama.
        n_layers: Depth of the Llama.
        n_heads: Attention heads of the Llama.
        context: Longest sequence that it can hold.
        lr: Peak learning rate, linear to 5 %.
        second_weight: Weight of second attempts in the loss.
        length_class: Rows are computed with rows of similar length: those whose token counts fall into the same class
            of this width; 0 pads all rows of a step to the longest.
        dense: Compute the output layer at every token instead of at those that are learned: the same loss but for its
            last bits, and half as fast where the vocabulary is large.
        threads: Torch threads; the number decides the last bits of the weights.
        corpus: Arguments of the toy's corpus in ``experiments/pretrain_tiny.py``.
    """

    name: str = MISSING
    output: str = "models/${name}"
    seed: int = 0
    steps: int = 1500
    batch_size: int = 256
    hidden_size: int = 64
    n_layers: int = 1
    n_heads: int = 4
    context: int = 64
    lr: float = 3e-3
    second_weight: float = 3.0
    length_class: int = 0
    dense: bool = True
    threads: int = 1
    corpus: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        counts = "steps batch_size hidden_size n_layers n_heads context threads"
        check_numbers(self, "", positive=f"{counts} lr", not_negative="seed second_weight length_class")


@dataclass
class WarmStartConfig(RunConfig):
    """``experiments.warm_start``: a model learns the form of an environment's conversations before any comparison.

    Args:
        demonstration: Who writes the attempts, a name in :data:`experiments.demonstrations.DEMONSTRATIONS`.
        demonstration_options: That function's own options: shares of right answers, copies, corrections.
        n_conversations: How many, one a training task; the tasks are gone through again where there are fewer.
        epochs: Passes over them.
        batch_size: Conversations per optimiser step.
        learn_slips: Whether wrong first attempts are learned. Without, they are only read, so that the model
            becomes sure of its own answers instead of spreading over the slips that were written for it.
        optim: The optimiser.
        output: Where the model goes, beside the run's folder; ``null`` for nowhere.
    """

    demonstration: str = MISSING
    demonstration_options: dict[str, Any] = field(default_factory=dict)
    n_conversations: int = 1440
    epochs: int = 1
    batch_size: int = 32
    learn_slips: bool = True
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=5e-5, schedule="linear", warmup_steps=5))
    output: str | None = None

    def __post_init__(self) -> None:
        check_numbers(self, "", positive="n_conversations epochs batch_size", not_negative="seed threads")


@dataclass
class PlayConfig(ProgramConfig):
    """``experiments.play``: a person is the policy.

    Args:
        split: Which tasks.
        seed: Which of them, in which order.
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
    """``experiments.check``: an environment and a model, looked at before a run.

    Args:
        seed: Of the sampled episodes.
        threads: Torch threads; 0 leaves torch's own choice.
        data_dir: Folder of published data sets.
        samples: Episodes that are sampled.
        shown: How many of them are printed token by token.
        golds: How many golds of each split are graded; 0 for all.
    """

    needs_model: ClassVar[bool] = False  # what can be said without one is said
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
    """``experiments.watch``: a run while it goes.

    Args:
        run: Folder of a run, a comparison, a sweep, or of several runs.
        every_s: Seconds between two looks.
        once: Print once and end, for logs and pipes.
        newest: How many of the newest episodes are shown.
    """

    run: str = MISSING
    every_s: float = 2.0
    once: bool = False
    newest: int = 3

    def __post_init__(self) -> None:
        check_numbers(self, "", positive="every_s", not_negative="newest")


@dataclass
class PushConfig(ProgramConfig):
    """``experiments.push``: the policy of a finished run, with a card, to the Hugging Face hub.

    Args:
        run: Folder of the run.
        repo: ``<owner>/<name>``.
        private: Whether a repository that is not there yet is made a private one.
    """

    run: str = MISSING
    repo: str = MISSING
    private: bool = True

    def __post_init__(self) -> None:
        if self.repo != MISSING and not re.fullmatch("[^/]+/[^/]+", self.repo):
            raise ValueError(f"repo={self.repo}: write it as <owner>/<name>")


@dataclass
class ExportConfig(ProgramConfig):
    """``experiments.export``: episodes and tables of a folder of runs, for other tools.

    Args:
        run: A run, a comparison, a sweep's ``multirun`` folder, a study, or a folder of several.
        to: ``jsonl``, ``datasets`` or ``inspect`` for conversations, ``csv`` or ``latex`` for tables, or another name
            in :data:`experiments.export.FORMATS`.
        out: Where to; empty for ``export/<format>`` below the folder.
    """

    run: str = MISSING
    to: str = MISSING
    out: str = ""


@dataclass
class ReportConfig(ProgramConfig):
    """``experiments.report``: tables, figures and page of a folder of runs.

    Args:
        run: A comparison, a sweep's ``multirun`` folder, a run, or a folder of several; ``[<folder>,<folder>]``
            compares them in a new folder beside them.
        only: Ids of tables and figures, such as ``F4`` or ``[T1,F4]``; empty for everything and the page.
        page_episodes: Most evaluated episodes that the page carries.
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
    """``experiments.thesis``: what all studies together say.

    Args:
        studies: Folder of studies' runs; the newest of each study is read.
        size: Of the runs that count.
        comparisons: Folder of comparisons; the newest that is finished is the system that corrects itself.
        output: Folder that gets the page, tables and figures.
    """

    studies: str = "runs/study"
    size: str = "tiny"
    comparisons: str = "runs/compare"
    output: str = "runs/thesis"
