"""The schema of every config. YAML files only fill it in; a misspelt key or a wrong type fails before anything runs.

Validation is pure: values only, no files, no network, no clock. Derived quantities are properties.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from omegaconf import MISSING

from rl.kl import KLEstimator as _KLEstimator


def _refuse(condition: bool, message: str) -> None:
    if condition:
        raise ValueError(message)


class Baseline(Enum):
    """What a return is compared with."""

    LEAVE_ONE_OUT = "leave_one_out"
    BATCH_MEAN = "batch_mean"


class Normaliser(Enum):
    """What the loss of an optimiser step is divided by."""

    EPISODES = "episodes"
    """Number of episodes: the policy gradient as written in the papers; no length can dilute it."""
    TOKENS = "tokens"
    """Number of response tokens."""


class Importance(Enum):
    """Whether samples are weighted for the gap between the engine and the trainer; see :mod:`rl.losses`."""

    NONE = "none"
    TOKEN = "token"
    SEQUENCE = "sequence"


class KL(Enum):
    """See :mod:`rl.kl`."""

    K1 = "k1"
    K2 = "k2"
    K3 = "k3"
    FULL = "full"

    @property
    def estimator(self) -> _KLEstimator:
        """The estimator of that name."""
        return _KLEstimator(self.value)


class Schedule(Enum):
    """How the learning rate changes within a stage."""

    CONSTANT = "constant"
    LINEAR = "linear"
    COSINE = "cosine"


@dataclass
class ModelConfig:
    """The base model, the same for every arm.

    Args:
        path: A folder in transformers' format, or a hub id.
        revision: Of a hub id.
        dtype: ``float32`` or ``bfloat16``.
        chat_template: A Jinja file that replaces the tokenizer's own template.
        context_length: 0 takes the model's own limit.
    """

    path: str = MISSING
    revision: str | None = None
    dtype: str = "float32"
    chat_template: str | None = None
    context_length: int = 0

    def __post_init__(self) -> None:
        _refuse(self.dtype not in ("float32", "bfloat16"), f"model.dtype={self.dtype}: use float32 or bfloat16")


@dataclass
class EnvConfig:
    """The environment.

    Args:
        name: Short name, used in paths.
        id: A registered environment id.
        attempts: K.
        feedback: ``none``, ``verdict`` or ``execution``.
        prompts: Version of the prompt texts.
        stop_on_correct: End an episode at the first right attempt (tells the policy that it was right).
        max_new_tokens: Token limit of each attempt; the last entry holds for further attempts.
        dataset: Which data set, for task sets that hold many (``reasoning_gym``).
        options: Further arguments of the task set.
    """

    name: str = MISSING
    id: str = MISSING
    attempts: int = 2
    feedback: str = "none"
    prompts: str = "math-v1"
    stop_on_correct: bool = False
    max_new_tokens: list[int] = field(default_factory=lambda: [512])
    dataset: str | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _refuse(self.attempts < 1, f"env.attempts={self.attempts}: an episode needs at least one attempt")
        _refuse(not self.max_new_tokens, "env.max_new_tokens is empty: give a token limit")
        _refuse(min(self.max_new_tokens) < 1, f"env.max_new_tokens={self.max_new_tokens}: limits must be positive")
        modes = ("none", "verdict", "execution")
        _refuse(self.feedback not in modes, f"env.feedback={self.feedback}: use {', '.join(modes)}")

    @property
    def task_options(self) -> dict[str, Any]:
        """Arguments of the task set, ``dataset`` among them where one is named."""
        return self.options | ({"dataset": self.dataset} if self.dataset is not None else {})


@dataclass
class EngineConfig:
    """What samples.

    Args:
        name: ``hf``.
        max_batch_size: Rows decoded together.
    """

    name: str = "hf"
    max_batch_size: int = 1024

    def __post_init__(self) -> None:
        _refuse(self.name != "hf", f"engine.name={self.name}: only hf can be configured")


@dataclass
class StageConfig:
    """One stage of an algorithm. Lists are indexed by turn.

    Args:
        share: Part of the run's steps, relative to the other stages.
        reward_weights: Weight of each turn's raw reward.
        progress_alpha: Bonus per unit of improvement over the turn before.
        kl_coefs: Weight of each turn's KL to the reference.
    """

    share: float = 1.0
    reward_weights: list[float] = field(default_factory=lambda: [1.0, 1.0])
    progress_alpha: float = 0.0
    kl_coefs: list[float] = field(default_factory=lambda: [0.01, 0.01])

    def __post_init__(self) -> None:
        _refuse(self.share <= 0, f"algorithm.stages: share={self.share} must be positive")
        _refuse(
            len(self.reward_weights) != len(self.kl_coefs),
            f"algorithm.stages: {len(self.reward_weights)} reward_weights but {len(self.kl_coefs)} kl_coefs: "
            "give both one entry per turn",
        )


@dataclass
class AlgorithmConfig:
    """An online algorithm: one loop over these numbers.

    Args:
        name: Shown in tables.
        stages: In order; each starts with a fresh optimiser state.
        train_attempts: Attempts per episode in training; 0 takes the environment's.
        group_size: Episodes per task.
        baseline: What a return is compared with.
        turn_gamma: Discount over turns; 0 credits a turn with its own reward only.
        temperature: Of the sampled episodes.
        clip_low: Lower clip distance of the surrogate.
        clip_high: Upper clip distance of the surrogate.
        epochs: Passes over a rollout batch.
        minibatches: Optimiser steps per pass.
        kl: Estimator of the penalty.
        normaliser: What the loss is divided by.
        importance: Weight samples by trainer over sampler probabilities, for engines of another precision or kernel.
        importance_cap: Largest such weight.
    """

    name: str = MISSING
    stages: list[StageConfig] = field(default_factory=lambda: [StageConfig()])
    train_attempts: int = 0
    group_size: int = 8
    baseline: Baseline = Baseline.LEAVE_ONE_OUT
    turn_gamma: float = 0.0
    temperature: float = 1.0
    clip_low: float = 0.2
    clip_high: float = 0.2
    epochs: int = 1
    minibatches: int = 1
    kl: KL = KL.K3
    normaliser: Normaliser = Normaliser.EPISODES
    importance: Importance = Importance.NONE
    importance_cap: float = 2.0

    def __post_init__(self) -> None:
        _refuse(not self.stages, "algorithm.stages is empty: give at least one stage")
        _refuse(
            self.baseline is Baseline.LEAVE_ONE_OUT and self.group_size < 2,
            f"algorithm.group_size={self.group_size}: leave-one-out needs at least 2",
        )
        _refuse(self.group_size < 1, f"algorithm.group_size={self.group_size}: must be positive")
        _refuse(self.temperature <= 0, f"algorithm.temperature={self.temperature}: exploration needs a positive one")
        _refuse(self.epochs < 1 or self.minibatches < 1, "algorithm.epochs and algorithm.minibatches must be positive")
        _refuse(self.importance_cap < 1, f"algorithm.importance_cap={self.importance_cap}: below 1 every sample is cut")
        _refuse(not 0 <= self.turn_gamma <= 1, f"algorithm.turn_gamma={self.turn_gamma}: must lie in [0, 1]")

    @property
    def reuses_samples(self) -> bool:
        """Whether a rollout batch gets more than one optimiser step, so that old log-probs must be kept."""
        return self.epochs * self.minibatches > 1


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
    """

    lr: float = 1e-3
    betas: list[float] = field(default_factory=lambda: [0.9, 0.99])
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    schedule: Schedule = Schedule.CONSTANT
    warmup_steps: int = 0
    micro_batch_tokens: int = 32768

    def __post_init__(self) -> None:
        _refuse(self.lr <= 0, f"optim.lr={self.lr}: must be positive")
        _refuse(len(self.betas) != 2, f"optim.betas={self.betas}: AdamW takes two")
        _refuse(self.micro_batch_tokens < 1, f"optim.micro_batch_tokens={self.micro_batch_tokens}: must be positive")


@dataclass
class TrainingConfig:
    """How much online training.

    Args:
        episodes: Sampled episodes of the run; steps follow from it.
        tasks_per_step: Tasks per rollout batch.
        validate_every: Steps between validations; 0 for none.
        save_every: Steps between checkpoints; 0 for the final one only.
        keep_episodes: Episodes of each step that are written to disk.
        max_failed_fraction: A step with more failed episodes than this stops the run.
        max_sampler_gap: A mean gap between trainer and sampler log-probs above this, in nats per token, stops the run;
            0 never does.
    """

    episodes: int = 81920
    tasks_per_step: int = 128
    validate_every: int = 10
    save_every: int = 0
    keep_episodes: int = 8
    max_failed_fraction: float = 0.1
    max_sampler_gap: float = 0.2

    def __post_init__(self) -> None:
        _refuse(self.tasks_per_step < 1, f"training.tasks_per_step={self.tasks_per_step}: must be positive")
        _refuse(self.max_sampler_gap < 0, f"training.max_sampler_gap={self.max_sampler_gap}: must not be negative")
        _refuse(self.episodes < 1, f"training.episodes={self.episodes}: must be positive")


class Rule(Enum):
    """Which traces an offline method keeps."""

    STAR = "star"
    """Own two-attempt traces that end right."""
    PAIR = "pair"
    """A wrong first attempt paired with another, right first attempt at the same task as the second."""


@dataclass
class OfflineConfig:
    """An offline method: sample, keep by rule, fine-tune on what is kept.

    Args:
        name: Shown in tables.
        rule: Which traces are kept.
        keep_right_to_right: Also keep traces whose first attempt was right already (the paper's D+).
        iterations: Rounds of sampling from the current model, each followed by fine-tuning the *base*.
        pairs_per_task: For ``pair``: at most this many (wrong, right) pairs per task, and as many (right, right).
        group_size: Episodes per task and round.
        temperature: Of the sampled episodes.
        epochs: Passes over the kept rows.
        batch_size: Rows per optimiser step.
        lr: Peak learning rate, linear to 0.
        betas: AdamW's.
        max_grad_norm: Gradients are scaled down to this norm.
    """

    name: str = MISSING
    rule: Rule = MISSING
    keep_right_to_right: bool = False
    iterations: int = 1
    pairs_per_task: int = 8
    group_size: int = 8
    temperature: float = 1.0
    epochs: int = 3
    batch_size: int = 512
    lr: float = 1e-3
    betas: list[float] = field(default_factory=lambda: [0.9, 0.99])
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        _refuse(self.iterations < 1, f"offline.iterations={self.iterations}: must be positive")
        _refuse(self.group_size < 1, f"offline.group_size={self.group_size}: must be positive")
        _refuse(
            self.rule is Rule.PAIR and self.iterations > 1,
            "offline.iterations: pair fine-tuning builds on the base's first attempts, so it takes 1 iteration",
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
    """

    split: str = "test"
    n_tasks: int = 0
    greedy: bool = True
    samples_per_task: int = 4
    temperature: float = 1.0

    def __post_init__(self) -> None:
        _refuse(self.split not in ("validation", "test"), f"evaluation.split={self.split}: use validation or test")
        _refuse(
            not self.greedy and not self.samples_per_task, "evaluation: neither greedy nor sampled episodes asked for"
        )


@dataclass
class RunConfig:
    """What every entry point shares.

    Args:
        seed: Every random draw of the run is derived from it.
        threads: Torch threads; 0 leaves torch's own choice.
        runs_dir: Where run folders go: ``<runs_dir>/<name>/<time>``.
        name: Name of this kind of run.
    """

    seed: int = 0
    threads: int = 0
    runs_dir: str = "runs"
    name: str = MISSING
    model: ModelConfig = field(default_factory=ModelConfig)
    env: EnvConfig = field(default_factory=EnvConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    evaluation: EvalConfig = field(default_factory=EvalConfig)


@dataclass
class TrainConfig(RunConfig):
    """``experiments.train``: online RL."""

    algorithm: AlgorithmConfig = field(default_factory=AlgorithmConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)


@dataclass
class SFTConfig(RunConfig):
    """``experiments.sft``: an offline arm."""

    offline: OfflineConfig = field(default_factory=OfflineConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
