"""The schema of a run: optimiser, budget, evaluation, tracking."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from omegaconf import MISSING

from rl.config.algorithm import AlgorithmConfig
from rl.config.checks import refuse
from rl.config.offline import OfflineConfig
from rl.config.parts import EngineConfig, EnvConfig, ModelConfig

TRACKERS = ("tensorboard", "wandb", "trackio")


class Schedule(Enum):
    """How the learning rate changes within a stage."""

    CONSTANT = "constant"
    LINEAR = "linear"
    COSINE = "cosine"


class Select(Enum):
    """Which policy of a run is evaluated at its end and kept."""

    LAST = "last"
    BEST = "best"
    """The one with the highest validation accuracy at the last attempt; never chosen on test tasks."""


@dataclass
class OptimConfig:
    """AdamW, and how a step is cut into pieces.

    Args:
        lr: Peak learning rate.
        betas: AdamW's.
        weight_decay: AdamW's.
        max_grad_norm: Gradients are scaled down to this norm.
        schedule: Within a stage.
        warmup_steps: Linear warm-up at the start of a stage.
        micro_batch_tokens: Padded tokens per forward pass. Changes memory and speed, never the gradient.
        gradient_checkpointing: Compute a layer's activations again in the backward pass instead of keeping them.
        fused_head: TRL's language-model head, which never holds the logits of all tokens at once.
        mixed_precision: ``no``, or ``bf16`` for forward and backward passes with float32 weights.
    """

    lr: float = 1e-3
    betas: list[float] = field(default_factory=lambda: [0.9, 0.99])
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    schedule: Schedule = Schedule.CONSTANT
    warmup_steps: int = 0
    micro_batch_tokens: int = 32768
    gradient_checkpointing: bool = False
    fused_head: bool = False
    mixed_precision: str = "no"

    def __post_init__(self) -> None:
        refuse(self.lr <= 0, f"optim.lr={self.lr}: must be positive")
        refuse(len(self.betas) != 2, f"optim.betas={self.betas}: AdamW takes two")
        refuse(self.micro_batch_tokens < 1, f"optim.micro_batch_tokens={self.micro_batch_tokens}: must be positive")
        precision = self.mixed_precision
        refuse(precision not in ("no", "bf16"), f"optim.mixed_precision={precision}: use no or bf16")


@dataclass
class TrainingConfig:
    """How much online training.

    Args:
        episodes: Sampled episodes of the run; steps follow from it.
        tokens: Sampled tokens of the run instead; 0 for none. A run ends with the first batch that reaches it.
        updates: Optimiser steps of the run instead; 0 for none. An offline method then still samples ``episodes``.
        tasks_per_step: Tasks per rollout batch.
        validate_every: Steps between validations; 0 for none.
        select: Which policy is evaluated at the end and kept.
        save_every: Steps between checkpoints, from which ``resume`` goes on exactly; 0 for none.
        save_every_updates: Optimiser steps between checkpoints, also inside a rollout batch; 0 for none.
        keep_last: How many checkpoints are kept.
        keep_episodes: Episodes of each step that are written to disk.
        max_failed_fraction: A step with more failed episodes than this stops the run.
        max_sampler_gap: A mean gap between trainer and sampler log-probs above this, in nats per token, stops the run;
            0 never does.
        nonfinite: What an optimiser step with a loss or gradient that is not finite does: ``stop`` the run, or ``skip``
            the step, counted as ``optim/skipped``. It is never taken.
    """

    episodes: int = 81920
    tokens: int = 0
    updates: int = 0
    tasks_per_step: int = 128
    validate_every: int = 10
    select: Select = Select.LAST
    save_every: int = 20
    save_every_updates: int = 0
    keep_last: int = 2
    keep_episodes: int = 8
    max_failed_fraction: float = 0.1
    max_sampler_gap: float = 0.2
    nonfinite: str = "stop"

    def __post_init__(self) -> None:
        refuse(self.tasks_per_step < 1, f"training.tasks_per_step={self.tasks_per_step}: must be positive")
        refuse(self.max_sampler_gap < 0, f"training.max_sampler_gap={self.max_sampler_gap}: must not be negative")
        refuse(self.episodes < 1, f"training.episodes={self.episodes}: must be positive")
        for key in ("validate_every", "save_every", "save_every_updates", "keep_episodes"):
            refuse(getattr(self, key) < 0, f"training.{key}={getattr(self, key)}: must not be negative; 0 is never")
        refuse(self.tokens < 0 or self.updates < 0, "training.tokens and training.updates must not be negative")
        refuse(
            self.tokens > 0 and self.updates > 0,
            "training.tokens and training.updates are both set: a run has one budget, so give one of them",
        )
        refuse(self.nonfinite not in ("stop", "skip"), f"training.nonfinite={self.nonfinite}: use stop or skip")
        refuse(self.keep_last < 1, f"training.keep_last={self.keep_last}: must be positive")
        refuse(
            self.select is Select.BEST and not self.validate_every,
            "training.select=BEST chooses by validation: set training.validate_every",
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
        attempts: Greedy episodes of this many attempts too, to see whether accuracy goes on rising; 0 for none.
        fixed_first: Validations also measure second attempts at the base's first attempts, on so many training and
            validation tasks; 0 for none.
        transfer: Other environments to be evaluated on, by a name of your choice: what differs from ``env``, as in
            ``{longer: {options: {min_terms: 5}}}``.
        controls: Play greedy second attempts again without the own first attempt, with another task's, and with the
            verdict; see :mod:`rl.controls`.
    """

    split: str = "test"
    n_tasks: int = 0
    greedy: bool = True
    samples_per_task: int = 4
    temperature: float = 1.0
    controls: bool = False
    attempts: int = 0
    fixed_first: int = 0
    transfer: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        refuse(self.split not in ("validation", "test"), f"evaluation.split={self.split}: use validation or test")
        refuse(
            not self.greedy and not self.samples_per_task, "evaluation: neither greedy nor sampled episodes asked for"
        )
        refuse(self.attempts < 0 or self.fixed_first < 0, "evaluation: attempts and fixed_first must not be negative")
        refuse(self.controls and not self.greedy, "evaluation.controls start from greedy episodes: set greedy=true")


@dataclass
class TrackingConfig:
    """Where metrics go besides ``metrics.jsonl``.

    Args:
        backends: Any of ``tensorboard``, ``wandb``, ``trackio``; each must be installed.
        project: Their project name.
    """

    backends: list[str] = field(default_factory=list)
    project: str = "errata"

    def __post_init__(self) -> None:
        unknown = sorted(set(self.backends) - set(TRACKERS))
        refuse(bool(unknown), f"tracking.backends: unknown {', '.join(unknown)}; use {', '.join(TRACKERS)}")


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


@dataclass
class TrainConfig(RunConfig):
    """``experiments.train``: online RL.

    Args:
        resume: ``auto`` goes on with the newest unfinished run of the same name, config and data that no process is at
            work on; a folder with that run, or with the one of this config in that sweep.
    """

    resume: str | None = None
    algorithm: AlgorithmConfig = field(default_factory=AlgorithmConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)


@dataclass
class SFTConfig(RunConfig):
    """``experiments.sft``: an offline arm.

    Args:
        resume: As for ``experiments.train``; whole rounds are kept.
    """

    resume: str | None = None
    offline: OfflineConfig = field(default_factory=OfflineConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
