"""The schema of a run: budget, evaluation, tracking."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from rl.analysis.controls import CONTROLS
from rl.config.algorithm import AlgorithmConfig
from rl.config.checks import check_numbers, refuse, refuse_idle, refuse_unknown
from rl.config.offline import OfflineConfig
from rl.config.parts import EngineConfig, EnvConfig, ModelConfig
from rl.health import refuse_checks


@dataclass
class BudgetConfig:
    """How much is sampled and learned.

    Args:
        episodes: Sampled episodes of the run; steps follow from it.
        tokens: Sampled tokens of the run instead; 0 for none. A run ends with the first batch that reaches it.
        updates: Optimiser steps of the run instead; 0 for none. An offline method then still samples ``episodes``.
        keep_episodes: Episodes of each step that are written to disk.
        keep_last: How many checkpoints are kept.
        health: Limits of the checks of :data:`rl.health.CHECKS` by check, ``{cut_off: {above: 0.2}}``; all of them are
            on, with limits of their own, and ``null`` switches one off.
        stop_on: Checks that end the run when they find something; otherwise they only say so.
    """

    episodes: int = 81920
    tokens: int = 0
    updates: int = 0
    keep_episodes: int = 8
    keep_last: int = 2
    health: dict[str, Any] = field(default_factory=dict)
    stop_on: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_numbers(self, "training", positive="episodes keep_last", not_negative="tokens updates keep_episodes")
        self._check_budget()

    def _check_budget(self) -> None:
        refuse_checks(self.health, self.stop_on)
        refuse(
            self.tokens > 0 and self.updates > 0,
            "training.tokens and training.updates are both set: a run has one budget, so give one of them",
        )


@dataclass
class TrainingConfig(BudgetConfig):
    """How much online training, and what happens between its steps.

    Args:
        tasks_per_step: Tasks per rollout batch.
        curriculum: Which tasks are drawn, by their running pass rates: a name in :data:`rl.curriculum.CURRICULA`.
        curriculum_options: The curriculum's own options, such as ``low``, ``high``, ``smoothing``, ``explore``.
        validate_every: Steps between validations; 0 for none.
        select: Which policy is evaluated at the end and kept: ``last``, or ``best``, the one with the highest
            validation accuracy at the last attempt; never chosen on test tasks.
        save_every: Steps between checkpoints, from which ``resume`` goes on exactly; 0 for none.
        save_every_updates: Optimiser steps between checkpoints, also inside a rollout batch; 0 for none.
        max_failed_fraction: A step with more failed episodes than this stops the run.
        max_sampler_gap: A mean gap between trainer and sampler log-probs above this, in nats per token, stops the run;
            0 never does.
        nonfinite: What an optimiser step with a loss or gradient that is not finite does: ``stop`` the run, or ``skip``
            the step, counted as ``optim/skipped``. It is never taken.
    """

    tasks_per_step: int = 128
    curriculum: str = "uniform"
    curriculum_options: dict[str, Any] = field(default_factory=dict)
    validate_every: int = 10
    select: str = "last"
    save_every: int = 20
    save_every_updates: int = 0
    max_failed_fraction: float = 0.1
    max_sampler_gap: float = 0.2
    nonfinite: str = "stop"

    def __post_init__(self) -> None:
        check_numbers(
            self,
            "training",
            positive="episodes tasks_per_step keep_last",
            not_negative="tokens updates keep_episodes validate_every save_every save_every_updates max_sampler_gap",
            fraction="max_failed_fraction",
        )
        self._check_budget()
        refuse_unknown(self.select, ("last", "best"), "training.select")
        refuse_unknown(self.nonfinite, ("stop", "skip"), "training.nonfinite")
        if self.curriculum != "uniform" or self.curriculum_options:
            from rl.curriculum import CURRICULA  # with torch, which the bare schema does not need

            CURRICULA.options(self.curriculum, self.curriculum_options)
        refuse(
            self.select == "best" and not self.validate_every,
            "training.select=best chooses by validation: set training.validate_every",
        )


@dataclass
class EvalConfig:
    """What is measured.

    Args:
        split: ``test`` or ``validation``.
        n_tasks: 0 for all.
        greedy: One greedy episode per task.
        samples_per_task: Sampled episodes per task; 0 for none.
        temperature: Of the sampled episodes.
        max_attempts: Greedy episodes of this many attempts too, to see whether accuracy goes on rising; 0 for none.
        fixed_first: Validations also measure second attempts at the base's first attempts, on so many training and
            validation tasks; 0 for none.
        transfer: Other environments to be evaluated on, by a name of your choice: what differs from ``env``, as in
            ``{longer: {options: {min_terms: 5}}}``.
        controls: Play greedy second attempts again with something taken away or exchanged, to see what they use.
        only_controls: Which of :data:`rl.analysis.controls.CONTROLS`; empty for all of them.
        conversations: A file or folder of conversations from elsewhere that are evaluated in place of the model's own
            (:mod:`rl.recorded`); they are the sampled episodes.
    """

    split: str = "test"
    n_tasks: int = 0
    greedy: bool = True
    samples_per_task: int = 4
    temperature: float = 1.0
    controls: bool = False
    only_controls: list[str] = field(default_factory=list)
    max_attempts: int = 0
    fixed_first: int = 0
    transfer: dict[str, Any] = field(default_factory=dict)
    conversations: str = ""

    def __post_init__(self) -> None:
        check_numbers(
            self, "evaluation", positive="temperature", not_negative="n_tasks samples_per_task max_attempts fixed_first"
        )
        refuse_unknown(self.split, ("validation", "test"), "evaluation.split")
        refuse(
            not self.greedy and not self.samples_per_task, "evaluation: neither greedy nor sampled episodes asked for"
        )
        if not self.samples_per_task:
            refuse_idle(self, "evaluation", "temperature", "evaluation.samples_per_task=0")
        for name in self.only_controls:
            CONTROLS[name]
        if not self.controls:
            refuse_idle(self, "evaluation", "only_controls", "evaluation.controls=false")
        refuse(
            bool(self.conversations) and (self.controls or self.max_attempts > 0),
            "evaluation.conversations: nobody goes on with what was said elsewhere; set evaluation.controls=false and "
            "evaluation.max_attempts=0",
        )
        if self.conversations:
            refuse_idle(self, "evaluation", "temperature", "evaluation.conversations are not sampled here")
        refuse(self.controls and not self.greedy, "evaluation.controls start from greedy episodes: set greedy=true")


@dataclass
class TrackingConfig:
    """Where metrics go besides ``metrics.jsonl``.

    Args:
        backends: Any of ``tensorboard``, ``wandb``, ``trackio``, each of which must be installed, or of what else is in
            :data:`rl.backends.trackers.TRACKERS`.
        project: Their project name.
        conversations: How many conversations a table shows, on those dashboards that have tables or texts and in
            ``conversations.jsonl``; 0 for no tables.
        conversations_every: Steps between two tables.
    """

    backends: list[str] = field(default_factory=list)
    project: str = "errata"
    conversations: int = 0
    conversations_every: int = 10

    def __post_init__(self) -> None:
        check_numbers(self, "tracking", positive="conversations_every", not_negative="conversations")
        if not self.conversations:
            refuse_idle(self, "tracking", "conversations_every", "tracking.conversations=0")
        if not self.backends:
            refuse_idle(self, "tracking", "project", "tracking.backends is empty")
        if self.backends:  # accelerate takes a second to load
            from rl.backends.trackers import TRACKERS

            for name in self.backends:
                TRACKERS[name]


@dataclass
class HubConfig:
    """Where the policy goes when the run is done, beside its folder.

    Args:
        repo: ``<owner>/<name>`` on the Hugging Face hub; ``None`` keeps the policy here. A card goes with it.
        private: Whether a repository that is not there yet is made a private one.
    """

    repo: str | None = None
    private: bool = True

    def __post_init__(self) -> None:
        if self.repo is None:
            refuse_idle(self, "hub", "private", "hub.repo is not given")
            return
        owner, _, name = self.repo.partition("/")
        refuse(not owner or not name or "/" in name, f"hub.repo={self.repo}: write it as <owner>/<name>")


@dataclass
class RunConfig:
    """What every entry point shares.

    Args:
        seed: Every random draw of the run is derived from it.
        threads: Torch threads; 0 leaves torch's own choice.
        runs_dir: Where run folders go: ``<runs_dir>/<name>/<time>``.
        name: Name of this kind of run.
        data_dir: Folder of published data sets, each in a folder of its own (``gsm8k/``, ``math500/`` ...).
        plugins: Modules to import before the config is checked, so that what they register has a name.
    """

    seed: int = 0
    threads: int = 0
    runs_dir: str = "runs"
    name: str = MISSING
    data_dir: str = "data"
    plugins: list[str] = field(default_factory=list)
    model: ModelConfig = field(default_factory=ModelConfig)
    env: EnvConfig = field(default_factory=EnvConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    evaluation: EvalConfig = field(default_factory=EvalConfig)

    def __post_init__(self) -> None:
        check_numbers(self, "", not_negative="seed threads")


@dataclass
class TrainConfig(RunConfig):
    """``experiments.train``: online RL.

    Args:
        resume: ``auto`` goes on with the newest unfinished run of the same name, config and data that no process is at
            work on; a folder with that run, or with the one of this config in that sweep.
        hub: Where the policy is uploaded to, if anywhere.
    """

    resume: str | None = None
    algorithm: AlgorithmConfig = field(default_factory=AlgorithmConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    hub: HubConfig = field(default_factory=HubConfig)


@dataclass
class SFTConfig(RunConfig):
    """``experiments.sft``: an offline arm.

    Args:
        resume: As for ``experiments.train``; whole rounds are kept.
        hub: Where the policy is uploaded to, if anywhere.
    """

    resume: str | None = None
    offline: OfflineConfig = field(default_factory=OfflineConfig)
    training: BudgetConfig = field(default_factory=BudgetConfig)
    hub: HubConfig = field(default_factory=HubConfig)
