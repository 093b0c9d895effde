"""The schema of an online algorithm: stages, credit, loss, critic."""

from dataclasses import dataclass, field
from enum import Enum

from omegaconf import MISSING

from rl.config.checks import refuse
from rl.kl import KLEstimator as _KLEstimator


class Advantage(Enum):
    """How returns become advantages; see :mod:`rl.advantages`."""

    RLOO = "rloo"
    GRPO = "grpo"
    REINFORCE = "reinforce"
    REINFORCE_PP = "reinforce_pp"
    GAE = "gae"
    TURN_GAE = "turn_gae"

    @property
    def uses_groups(self) -> bool:
        """Whether an episode is compared with the others of its task."""
        return self in (Advantage.RLOO, Advantage.GRPO)

    @property
    def uses_critic(self) -> bool:
        """Whether values are needed."""
        return self in (Advantage.GAE, Advantage.TURN_GAE)


class Loss(Enum):
    """Which surrogate is minimised; see :mod:`rl.losses`."""

    PPO = "ppo"
    CISPO = "cispo"
    GSPO = "gspo"


class Normaliser(Enum):
    """What the loss of an optimiser step is divided by; see :func:`rl.losses.token_weights`."""

    EPISODES = "episodes"
    """Number of episodes: the policy gradient as written in the papers; no length can dilute it."""
    TOKENS = "tokens"
    """Number of response tokens (DAPO)."""
    EPISODE_MEAN = "episode_mean"
    """Mean over an episode's tokens, then over episodes (GRPO)."""
    TURN_MEAN = "turn_mean"
    """Mean over a turn's tokens, then over turns (GSPO)."""
    TOKEN_BUDGET = "token_budget"
    """Number of episodes times the tokens that each might have had (Dr. GRPO)."""


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


class Critic(Enum):
    """Where values come from."""

    NONE = "none"
    SHARED = "shared"
    """A linear head on the policy's last hidden state."""
    SEPARATE = "separate"
    """A second network, started from the base, with a linear head."""


class Reference(Enum):
    """What the KL of a stage holds the policy to."""

    BASE = "base"
    PREVIOUS = "previous"
    """The policy as the stage before left it."""


@dataclass
class StageConfig:
    """One stage of an algorithm. Lists are indexed by turn.

    Args:
        share: Part of the run's steps, relative to the other stages.
        attempts: Attempts per training episode; 0 takes the environment's.
        reward_weights: Weight of each turn's raw reward.
        progress_alpha: Bonus per unit of improvement over the turn before.
        kl_coefs: Weight of each turn's KL to the reference.
        kl_targets: KL per episode and turn, in nats, to which the weights adapt; empty for fixed weights.
        kl_balance: Adapts the first turn's weight so that its penalty is this multiple of the later turns' absolute
            advantages; 0 for a fixed weight.
        reference: What the KL holds the policy to.
        keep_optimizer: Go on with the optimiser state of the stage before, instead of a fresh one.
        offline_first_attempts: Part of the groups whose first attempts are taken from the base model; they are read,
            not learned.
        imitate: Learn the last attempts of episodes that end right, each with weight 1, instead of comparing rewards:
            STaR's rule on the policy's own samples. Reward weights and bonus are then not read.
    """

    share: float = 1.0
    attempts: int = 0
    reward_weights: list[float] = field(default_factory=lambda: [1.0, 1.0])
    progress_alpha: float = 0.0
    kl_coefs: list[float] = field(default_factory=lambda: [0.01, 0.01])
    kl_targets: list[float] = field(default_factory=list)
    kl_balance: float = 0.0
    reference: Reference = Reference.BASE
    keep_optimizer: bool = False
    offline_first_attempts: float = 0.0
    imitate: bool = False

    def __post_init__(self) -> None:
        where = "algorithm.stages"
        refuse(self.share <= 0, f"{where}: share={self.share} must be positive")
        refuse(self.attempts < 0, f"{where}: attempts={self.attempts} must not be negative")
        refuse(
            len(self.reward_weights) != len(self.kl_coefs),
            f"{where}: {len(self.reward_weights)} reward_weights but {len(self.kl_coefs)} kl_coefs: "
            "give both one entry per turn",
        )
        refuse(min(self.kl_coefs) < 0, f"{where}: kl_coefs={self.kl_coefs} must not be negative")
        refuse(
            bool(self.kl_targets) and (len(self.kl_targets) != len(self.kl_coefs) or min(self.kl_targets) <= 0),
            f"{where}: kl_targets={self.kl_targets}: give one positive target per turn, or none",
        )
        refuse(
            bool(self.kl_targets) and min(self.kl_coefs) == 0,
            f"{where}: kl_targets adapt kl_coefs={self.kl_coefs} by factors, which a coefficient of 0 stays at",
        )
        refuse(self.kl_balance < 0, f"{where}: kl_balance={self.kl_balance} must not be negative")
        refuse(
            self.kl_balance > 0 and (bool(self.kl_targets) or len(self.kl_coefs) < 2 or self.kl_coefs[0] == 0),
            f"{where}: kl_balance adapts the first of several turns from a positive kl_coefs[0], without kl_targets",
        )
        refuse(
            not 0 <= self.offline_first_attempts <= 1,
            f"{where}: offline_first_attempts={self.offline_first_attempts} must lie in [0, 1]",
        )
        refuse(
            self.offline_first_attempts > 0 and len(self.reward_weights) < 2,
            f"{where}: offline_first_attempts needs a second attempt to learn",
        )


@dataclass
class CriticConfig:
    """The value function.

    Args:
        kind: Where values come from.
        detach: For ``shared``: the value loss trains the head alone, not the trunk.
        coef: Weight of the value loss (``shared``), whose gradient meets the policy's.
        clip: Values move at most this far from the old ones in the loss; 0 for no clipping.
        lr: Learning rate of the value head and of a separate critic; 0 takes ``optim.lr``.
        warmup_steps: Rollout batches at the start of the run on which only the critic is trained.
    """

    kind: Critic = Critic.NONE
    detach: bool = False
    coef: float = 0.5
    clip: float = 0.0
    lr: float = 0.0
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        refuse(self.coef <= 0, f"algorithm.critic.coef={self.coef}: must be positive")
        refuse(self.clip < 0 or self.lr < 0, "algorithm.critic: clip and lr must not be negative")
        refuse(self.warmup_steps < 0, f"algorithm.critic.warmup_steps={self.warmup_steps}: must not be negative")
        refuse(
            self.warmup_steps > 0 and self.kind is Critic.SHARED and not self.detach,
            "algorithm.critic: warmup_steps with a shared trunk would let the value loss alone rewrite the policy; "
            "set detach=true or warmup_steps=0",
        )


@dataclass
class AlgorithmConfig:
    """An online algorithm: one loop over these numbers.

    Args:
        name: Shown in tables.
        stages: In order; each starts with a fresh optimiser state unless it says otherwise.
        group_size: Episodes per task.
        advantage: How returns become advantages.
        turn_gamma: Discount over turns; 0 credits a turn with its own reward only.
        turn_lam: Lambda over turns, for ``gae`` and ``turn_gae``.
        gamma: Discount over the tokens of a turn, for ``gae``.
        lam: Lambda over the tokens of a turn, for ``gae``.
        whiten: Scale advantages to mean 0 and standard deviation 1, each turn by itself, over the rollout batch.
        critic: The value function.
        loss: Which surrogate is minimised.
        clip_low: Lower clip distance of the surrogate.
        clip_high: Upper clip distance of the surrogate.
        normaliser: What the loss is divided by.
        entropy_coef: Weight of the entropy bonus.
        kl: Estimator of the penalty.
        temperature: Of the sampled episodes.
        epochs: Passes over a rollout batch.
        minibatches: Optimiser steps per pass.
        importance: Weight samples by trainer over sampler probabilities, for engines of another precision or kernel.
        importance_cap: Largest such weight.
        off_policy_mask: Drop episodes of negative advantage that the current policy finds less likely than the sampler
            by more than this, in nats per token; 0 for none.
        mask_cut_off: Leave answers that the token limit cut off out of the loss (DAPO's overlong filtering).
        dynamic_sampling: Up to this many further rounds replace groups without a gradient at any turn; 0 for none.
    """

    name: str = MISSING
    stages: list[StageConfig] = field(default_factory=lambda: [StageConfig()])
    group_size: int = 8
    advantage: Advantage = Advantage.RLOO
    turn_gamma: float = 0.0
    turn_lam: float = 1.0
    gamma: float = 1.0
    lam: float = 0.95
    whiten: bool = False
    critic: CriticConfig = field(default_factory=CriticConfig)
    loss: Loss = Loss.PPO
    clip_low: float = 0.2
    clip_high: float = 0.2
    normaliser: Normaliser = Normaliser.EPISODES
    entropy_coef: float = 0.0
    kl: KL = KL.K3
    temperature: float = 1.0
    epochs: int = 1
    minibatches: int = 1
    importance: Importance = Importance.NONE
    importance_cap: float = 2.0
    off_policy_mask: float = 0.0
    mask_cut_off: bool = False
    dynamic_sampling: int = 0

    def __post_init__(self) -> None:
        refuse(not self.stages, "algorithm.stages is empty: give at least one stage")
        refuse(self.group_size < 1, f"algorithm.group_size={self.group_size}: must be positive")
        name = self.advantage.value
        refuse(
            self.advantage.uses_groups and self.group_size < 2,
            f"algorithm.group_size={self.group_size}: {name} compares the episodes of a task and needs at least 2",
        )
        refuse(
            self.advantage.uses_critic and self.critic.kind is Critic.NONE,
            f"algorithm.advantage={name} needs values: set algorithm.critic.kind to SHARED or SEPARATE",
        )
        refuse(
            not self.advantage.uses_critic and self.critic.kind is not Critic.NONE,
            f"algorithm.critic.kind={self.critic.kind.name}, but algorithm.advantage={name} takes no values: "
            "use GAE or TURN_GAE, or NONE",
        )
        for key in ("gamma", "lam", "turn_gamma", "turn_lam"):
            refuse(not 0 <= getattr(self, key) <= 1, f"algorithm.{key}={getattr(self, key)}: must lie in [0, 1]")
        refuse(self.temperature <= 0, f"algorithm.temperature={self.temperature}: exploration needs a positive one")
        refuse(self.epochs < 1 or self.minibatches < 1, "algorithm.epochs and algorithm.minibatches must be positive")
        refuse(not 0 < self.clip_low <= 1, f"algorithm.clip_low={self.clip_low}: must lie in (0, 1]")
        refuse(self.clip_high <= 0, f"algorithm.clip_high={self.clip_high}: must be positive")
        refuse(self.importance_cap < 1, f"algorithm.importance_cap={self.importance_cap}: below 1 every sample is cut")
        refuse(self.off_policy_mask < 0, f"algorithm.off_policy_mask={self.off_policy_mask}: must not be negative")
        refuse(
            self.dynamic_sampling > 0 and self.group_size < 2,
            "algorithm.dynamic_sampling looks for groups whose rewards differ: it needs a group_size of at least 2",
        )
        refuse(
            any(stage.imitate for stage in self.stages) and self.critic.kind is not Critic.NONE,
            "algorithm.stages: imitate=true compares nothing, so it takes no critic",
        )
        refuse(
            self.stages[0].reference is Reference.PREVIOUS,
            "algorithm.stages.0.reference=PREVIOUS: there is no stage before the first",
        )

    @property
    def reuses_samples(self) -> bool:
        """Whether a rollout batch gets more than one optimiser step, so that old log-probs must be kept."""
        return self.epochs * self.minibatches > 1
