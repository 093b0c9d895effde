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
    """How much is sampled and trained.

    Args:
        episodes: Number of episodes that the run samples; the number of steps follows from it.
        tokens: Budget in sampled tokens, used instead of ``episodes``; 0 for no such budget. The run ends with the
            first batch that reaches it.
        updates: Budget in optimiser steps, used instead of ``episodes``; 0 for no such budget. An offline method still
            samples ``episodes``.
        keep_episodes: Number of episodes of each step that are written to disk.
        keep_last: Number of most recent checkpoints that are kept.
        health: Limits of the health checks in :data:`rl.health.CHECKS`, such as ``{cut_off: {above: 0.2}}``. All
            checks run with default limits; ``null`` switches a check off.
        stop_on: Health checks that end the run when they find a problem; all others only report it.
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
    """How much online training there is, and what happens between its steps.

    Args:
        tasks_per_step: Tasks per rollout batch.
        curriculum: How training tasks are selected by their running pass rates: a name in
            :data:`rl.curriculum.CURRICULA`.
        curriculum_options: Options of the curriculum, such as ``low``, ``high``, ``smoothing``, ``explore``.
        validate_every: Steps between validations; 0 for none.
        select: Which policy is evaluated at the end and kept: ``last``, or ``best``, the one with the highest
            validation accuracy at the last attempt. Test tasks are never used for the choice.
        save_every: Steps between checkpoints, from which ``resume`` continues exactly; 0 for none.
        save_every_updates: Optimiser steps between checkpoints, also inside a rollout batch; 0 for none.
        max_failed_fraction: The run stops at a step in which a larger fraction of the episodes failed.
        max_sampler_gap: The run stops if the mean gap between trainer and sampler log-probs, in nats per token, exceeds
            this; 0 for no limit.
        nonfinite: What happens at an optimiser step whose loss or gradient is not finite: ``stop`` ends the run,
            ``skip`` leaves the step out and counts it in ``optim/skipped``.
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
            from rl.curriculum import CURRICULA  # imports torch, which the bare schema does not need

            CURRICULA.options(self.curriculum, self.curriculum_options)
        refuse(
            self.select == "best" and not self.validate_every,
            "training.select=best chooses by validation accuracy: set training.validate_every",
        )


@dataclass
class EvalConfig:
    """What is evaluated.

    Args:
        split: Tasks to evaluate on: ``test`` or ``validation``.
        n_tasks: Number of tasks; 0 for all.
        greedy: Whether to play one greedy episode per task.
        samples_per_task: Sampled episodes per task; 0 for none.
        temperature: Sampling temperature of the sampled episodes.
        max_attempts: Also play greedy episodes with this many attempts, to see whether accuracy continues to rise; 0
            for none.
        fixed_first: At each validation also measure second attempts that follow the base model's first attempts, on
            this many training and this many validation tasks; 0 for none.
        transfer: Further environments to evaluate on, each under a name of your choice with the fields that differ from
            ``env``, as in ``{longer: {options: {min_terms: 5}}}``.
        controls: Whether to play greedy second attempts again with part of their prompt removed or exchanged, to
            measure what they depend on.
        only_controls: Names of the controls to play, from :data:`rl.analysis.controls.CONTROLS`; empty for all.
        conversations: File or folder of existing conversations that ``experiments.evaluate`` measures as the sampled
            episodes, instead of sampling from the model (:mod:`rl.recorded`).
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
            not self.greedy and not self.samples_per_task, "evaluation: set greedy=true, or samples_per_task above 0"
        )
        if not self.samples_per_task:
            refuse_idle(self, "evaluation", "temperature", "evaluation.samples_per_task=0")
        for name in self.only_controls:
            CONTROLS[name]
        if not self.controls:
            refuse_idle(self, "evaluation", "only_controls", "evaluation.controls=false")
        refuse(
            bool(self.conversations) and (self.controls or self.max_attempts > 0),
            "evaluation.conversations: recorded conversations cannot be continued; set evaluation.controls=false and "
            "evaluation.max_attempts=0",
        )
        if self.conversations:
            refuse_idle(self, "evaluation", "temperature", "evaluation.conversations are not sampled here")
        refuse(self.controls and not self.greedy, "evaluation.controls start from greedy episodes: set greedy=true")


@dataclass
class TrackingConfig:
    """Where metrics are logged besides ``metrics.jsonl``.

    Args:
        backends: Names in :data:`rl.backends.trackers.TRACKERS`, such as ``tensorboard``, ``wandb`` or ``trackio``; the
            package of each must be installed.
        project: Project name on the tracking backends.
        conversations: Number of conversations in a logged table, in ``conversations.jsonl`` and on dashboards that show
            tables or texts; 0 for no tables.
        conversations_every: Steps between two tables of conversations.
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
        if self.backends:  # imported only if needed: accelerate takes a second to load
            from rl.backends.trackers import TRACKERS

            for name in self.backends:
                TRACKERS[name]


@dataclass
class HubConfig:
    """Where the policy is uploaded at the end of the run.

    Args:
        repo: Repository ``<owner>/<name>`` on the Hugging Face hub, for the policy and a model card; ``None`` uploads
            nothing.
        private: Whether a repository that does not exist yet is created as private.
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
    """Settings that all entry points share.

    Args:
        seed: Seed from which every random draw of the run is derived.
        threads: Number of torch threads; 0 lets torch choose.
        runs_dir: Folder for run folders, which are named ``<runs_dir>/<name>/<time>``.
        name: Name of this kind of run.
        data_dir: Folder of published data sets, each in its own subfolder (``gsm8k/``, ``math500/`` ...).
        plugins: Modules to import before the config is checked, so that names that they register are known.
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
        self.refuse_recorded()

    def refuse_recorded(self) -> None:
        """Raises ValueError if a program that makes a policy would report the rates of a file of conversations."""
        refuse(
            type(self) is not RunConfig and bool(self.evaluation.conversations),
            "evaluation.conversations: recorded conversations say nothing about the policy that this program makes; "
            "they are measured by python -m experiments.evaluate",
        )


@dataclass
class TrainConfig(RunConfig):
    """Config of ``experiments.train``: online RL.

    Args:
        resume: ``auto`` continues the newest unfinished run of the same name, config and data that no process is
            working on; a folder continues the run in it, or, for the folder of a sweep, the run of this config.
        hub: Where the policy is uploaded, if anywhere.
    """

    resume: str | None = None
    algorithm: AlgorithmConfig = field(default_factory=AlgorithmConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    hub: HubConfig = field(default_factory=HubConfig)


@dataclass
class SFTConfig(RunConfig):
    """Config of ``experiments.sft``: an offline method.

    Args:
        resume: ``auto`` or a folder, as for ``experiments.train``; the run continues after its last complete round.
        hub: Where the policy is uploaded, if anywhere.
    """

    resume: str | None = None
    offline: OfflineConfig = field(default_factory=OfflineConfig)
    training: BudgetConfig = field(default_factory=BudgetConfig)
    hub: HubConfig = field(default_factory=HubConfig)
