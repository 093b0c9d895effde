"""The schema of an online algorithm: stages, credit, loss, critic, optimiser.

Each part that a researcher varies is chosen by its name in an open lookup; a second field holds the options of the
chosen function. The lookups hold functions of tensors. They are imported only when a config is checked, so that
importing this module does not load torch.
"""

from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from omegaconf import MISSING

from rewards.lookup import nearest
from rl.config.checks import check_numbers, check_options, refuse, refuse_unknown
from rl.config.idle import refuse_idle_algorithm
from rl.config.optim import OptimConfig


@dataclass
class TermConfig:
    """One term that is added to the loss, beside the surrogate.

    Args:
        loss: Name of the term's function in :data:`rl.losses.LOSSES`; empty takes the key of this entry as the name.
        weight: Factor of the term in the loss; 0 leaves the term out.
        options: Options of the term's function.
    """

    loss: str = ""
    weight: float = 1.0
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_numbers(self, "algorithm.terms", any_sign="weight")


@dataclass
class StageConfig:
    """One stage of an algorithm. Lists have one entry per turn.

    Args:
        share: Share of the run's steps, relative to the other stages; 0 skips the stage.
        attempts: Attempts per training episode; 0 takes the environment's number.
        reward_weights: Weight of each turn's raw reward.
        progress_alpha: Weight of the bonus for a turn's improvement over the turn before it.
        kl_coefs: Coefficient of each turn's KL to the reference.
        kl_targets: Target KL of each turn, in nats per episode, towards which ``kl_coefs`` are adapted; empty keeps the
            coefficients fixed.
        kl_balance: Adapts the first turn's KL coefficient so that the first turn's penalty is this multiple of the
            later turns' absolute advantages; 0 keeps the coefficient fixed.
        reference: Reference policy of the KL: ``base``, or ``previous``, the policy at the end of the previous stage.
        keep_optimizer: Continue with the optimiser state of the previous stage instead of a fresh one.
        offline_first_attempts: Share of the groups whose first attempts come from the base model; the policy reads
            these attempts and is not trained on them.
        group_size: Episodes per task; 0 takes the algorithm's number.
        temperature: Sampling temperature of the training episodes; 0 takes the algorithm's.
        advantage: Advantage estimator of this stage; empty takes the algorithm's.
        advantage_options: Options of the estimator; with an empty ``advantage`` they override single options of the
            algorithm's estimator.
        loss: Surrogate loss of this stage; empty takes the algorithm's.
        loss_options: Options of the surrogate; with an empty ``loss`` they override single options of the algorithm's
            surrogate.
        terms: Loss terms of this stage, added to the algorithm's; a term of the same name replaces the algorithm's.
        optim: Optimiser settings that differ from ``algorithm.optim``.
    """

    share: float = 1.0
    attempts: int = 0
    reward_weights: list[float] = field(default_factory=lambda: [1.0, 1.0])
    progress_alpha: float = 0.0
    kl_coefs: list[float] = field(default_factory=lambda: [0.01, 0.01])
    kl_targets: list[float] = field(default_factory=list)
    kl_balance: float = 0.0
    reference: str = "base"
    keep_optimizer: bool = False
    offline_first_attempts: float = 0.0
    group_size: int = 0
    temperature: float = 0.0
    advantage: str = ""
    advantage_options: dict[str, Any] = field(default_factory=dict)
    loss: str = ""
    loss_options: dict[str, Any] = field(default_factory=dict)
    terms: dict[str, TermConfig] = field(default_factory=dict)
    optim: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        where = "algorithm.stages"
        check_numbers(
            self,
            where,
            positive="kl_targets",
            not_negative="share attempts kl_coefs kl_balance group_size temperature",
            fraction="offline_first_attempts",
            any_sign="reward_weights progress_alpha",
        )
        refuse_unknown(self.reference, ("base", "previous"), f"{where}.reference")
        refuse(
            len(self.reward_weights) != len(self.kl_coefs) or not self.kl_coefs,
            f"{where}.kl_coefs={self.kl_coefs}: {len(self.kl_coefs)} kl_coefs but {len(self.reward_weights)} "
            "reward_weights: give both one entry per turn",
        )
        refuse(
            bool(self.kl_targets) and len(self.kl_targets) != len(self.kl_coefs),
            f"{where}.kl_targets={self.kl_targets}: give one positive target per turn, or none",
        )
        refuse(
            bool(self.kl_targets) and min(self.kl_coefs) == 0,
            f"{where}.kl_targets={self.kl_targets}: kl_coefs={self.kl_coefs} are multiplied to reach them, so a "
            "coefficient of 0 would stay 0; give positive ones",
        )
        refuse(
            self.kl_balance > 0 and (bool(self.kl_targets) or len(self.kl_coefs) < 2 or self.kl_coefs[0] == 0),
            f"{where}.kl_balance={self.kl_balance}: needs several turns, a positive kl_coefs[0] to adapt, and no "
            "kl_targets",
        )
        refuse(
            self.offline_first_attempts > 0 and len(self.reward_weights) < 2,
            f"{where}.offline_first_attempts={self.offline_first_attempts}: needs a second attempt to learn",
        )


@dataclass
class CriticConfig:
    """The value function.

    Args:
        kind: Where values come from: ``none``; ``shared``, a linear head on the policy's last hidden state; or
            ``separate``, a second network with a linear head, initialised from the base model.
        detach: For ``shared``: the value loss trains only the head, not the trunk.
        coef: Weight of the value loss. With ``shared`` it balances the critic's gradient against the policy's; with
            ``separate`` it matters only where the gradient is clipped, because AdamW cancels the scale.
        clip: In the value loss, values move at most this far from the old values; 0 for no clipping.
        lr: Learning rate of the value head and of a separate critic; 0 takes ``optim.lr``.
        warmup_steps: Number of rollout batches at the start of the run on which only the critic is trained.
    """

    kind: str = "none"
    detach: bool = False
    coef: float = 0.5
    clip: float = 0.0
    lr: float = 0.0
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        where = "algorithm.critic"
        check_numbers(self, where, positive="coef", not_negative="clip lr warmup_steps")
        refuse_unknown(self.kind, ("none", "shared", "separate"), f"{where}.kind")
        refuse(
            self.warmup_steps > 0 and self.kind == "shared" and not self.detach,
            f"{where}.warmup_steps={self.warmup_steps}: with a shared trunk the value loss alone would rewrite the "
            "policy; set detach=true or warmup_steps=0",
        )


@dataclass
class AlgorithmConfig:
    """An online algorithm. All algorithms run through the same training loop and differ only in these values.

    Args:
        name: Name of the algorithm, shown in tables.
        stages: Stages by name, in the order in which they run; empty runs one stage with default values. Each stage
            starts with a fresh optimiser state unless it sets ``keep_optimizer``.
        group_size: Episodes per task.
        temperature: Sampling temperature of the training episodes.
        advantage: How returns become advantages: a name in :data:`rl.advantages.ADVANTAGES`.
        advantage_options: Options of the estimator, such as ``turn_gamma`` or ``lam``.
        whiten: Scale advantages to mean 0 and standard deviation 1 over the rollout batch, separately for each turn.
        critic: The value function.
        loss: Which surrogate is minimised: a name in :data:`rl.losses.LOSSES`.
        loss_options: Options of the surrogate, such as ``clip_low``.
        terms: Loss terms beside the surrogate, by name, such as ``{entropy: {weight: 0.01}}``.
        normaliser: What the loss is divided by: a name in :data:`rl.losses.NORMALISERS`.
        normaliser_options: Options of the normaliser.
        kl: Estimator of the KL penalty: a name in :data:`rl.kl.KLS`.
        kl_options: Options of the KL estimator.
        kl_in_reward: Subtract each turn's KL, times its coefficient, from the turn's reward instead of adding it to the
            loss, as published for PPO and REINFORCE++. Use it with ``kl=k1``. The critic and the baselines then see
            the KL too.
        epochs: Passes over a rollout batch.
        minibatches: Optimiser steps per pass.
        importance: Weight samples by trainer over sampler probabilities, to correct for an engine whose precision or
            kernels differ from the trainer's: a name in :data:`rl.losses.IMPORTANCE`.
        importance_options: Options of the weighting, such as ``cap``.
        off_policy_mask: Drop turns of negative advantage whose log-probability under the current policy is lower than
            under the sampler by more than this, in nats per token; 0 drops none.
        token_mask: Which response tokens the surrogate trains on: a name in :data:`rl.token_masks.TOKEN_MASKS`.
        token_mask_options: Options of the mask, such as ``share``.
        mask_cut_off: Exclude answers that the token limit cut off from the loss (DAPO's overlong filtering).
        dynamic_sampling: Maximum number of extra sampling rounds that replace groups without a gradient at any turn; 0
            replaces none.
        fused_head: Use TRL's fused language-model head, which never holds the logits of all tokens at once.
        merge_rows: Compute identical episodes of a batch once and add up their gradients. Saves time where answers are
            short and the policy has low entropy; results change only by rounding.
        optim: Settings of the optimiser.
    """

    name: str = MISSING
    stages: dict[str, StageConfig] = field(default_factory=dict)
    group_size: int = 8
    temperature: float = 1.0
    advantage: str = "rloo"
    advantage_options: dict[str, Any] = field(default_factory=dict)
    whiten: bool = False
    critic: CriticConfig = field(default_factory=CriticConfig)
    loss: str = "ppo"
    loss_options: dict[str, Any] = field(default_factory=dict)
    terms: dict[str, TermConfig] = field(default_factory=dict)
    normaliser: str = "episodes"
    normaliser_options: dict[str, Any] = field(default_factory=dict)
    kl: str = "k3"
    kl_options: dict[str, Any] = field(default_factory=dict)
    kl_in_reward: bool = False
    epochs: int = 1
    minibatches: int = 1
    importance: str = "none"
    importance_options: dict[str, Any] = field(default_factory=dict)
    off_policy_mask: float = 0.0
    token_mask: str = "none"
    token_mask_options: dict[str, Any] = field(default_factory=dict)
    mask_cut_off: bool = False
    dynamic_sampling: int = 0
    fused_head: bool = False
    merge_rows: bool = False
    optim: OptimConfig = field(default_factory=OptimConfig)

    def __post_init__(self) -> None:
        check_numbers(
            self,
            "algorithm",
            positive="group_size temperature epochs minibatches",
            not_negative="off_policy_mask dynamic_sampling",
        )
        # Stages inherit values from the algorithm, so they can only be checked here, with the inherited values.
        for name, stage in self.stages.items():
            self._check_optim(f"algorithm.stages.{name}.optim", stage.optim)
        running = self.running()
        stages = list(running.values())
        refuse(not stages, "algorithm.stages: every stage has share=0; give at least one a share of the run")
        refuse(
            stages[0].reference == "previous",
            f"algorithm.stages.{next(iter(running), '')}.reference=previous: there is no stage before it",
        )
        if self.name != MISSING:  # the bare schema behind the YAML files has no name; torch is not loaded for it
            self._check_names(running)
            self._check_lookups(running)
        refuse(
            self.dynamic_sampling > 0 and min(stage.group_size for stage in stages) < 2,
            "algorithm.dynamic_sampling looks for groups whose rewards differ: it needs a group_size of at least 2",
        )
        refuse(
            self.fused_head and any(stage.temperature != self.temperature for stage in stages),
            "algorithm.fused_head is built for one temperature: use algorithm.temperature in all stages",
        )
        for name, stage in running.items():
            changed = [
                key
                for key in ("gradient_checkpointing", "mixed_precision")
                if stage.optim[key] != getattr(self.optim, key)
            ]
            for key in changed:
                raise ValueError(
                    f"algorithm.stages.{name}.optim.{key}: cannot differ by stage; set algorithm.optim.{key}"
                )

    def _check_optim(self, where: str, given: dict[str, Any]) -> None:
        """Raises ValueError for an invalid optimiser setting of a stage; the message names the stage's own key."""
        known = [item.name for item in fields(OptimConfig)]
        for key in given:
            refuse(
                key not in known,
                f"{where}.{key}: there is no such key{nearest(key, known)} Known: {', '.join(known)}",
            )
        try:
            replace(self.optim, **given)
        except ValueError as error:
            raise ValueError(str(error).replace("optim.", f"{where}.", 1)) from None

    def _check_names(self, running: dict[str, StageConfig]) -> None:
        """Raises ValueError for an unknown name or an invalid option, naming the key under which it was given."""
        from rl.advantages import ADVANTAGES
        from rl.kl import KLS
        from rl.losses import IMPORTANCE, LOSSES, NORMALISERS
        from rl.token_masks import TOKEN_MASKS

        # ``options`` builds the dataclass registered with a name, which refuses unknown keys and values out of range.
        NORMALISERS.options(self.normaliser, self.normaliser_options)
        KLS.options(self.kl, self.kl_options)
        IMPORTANCE.options(self.importance, self.importance_options)
        TOKEN_MASKS.options(self.token_mask, self.token_mask_options)
        for name, stage in running.items():
            own = self.stages.get(name) or StageConfig()
            for lookup, what in ((ADVANTAGES, "advantage"), (LOSSES, "loss")):
                options = f"{what}_options"
                # Without a function of its own the stage overrides options of the algorithm's function. These are
                # checked first, so that an error in them names the algorithm's keys.
                if not getattr(own, what):
                    lookup.options(getattr(self, what), getattr(self, options))
                keys = self.key_of(name, what), self.key_of(name, options)
                check_options(lookup, getattr(stage, what), getattr(stage, options), *keys)
            for term, given in stage.terms.items():
                at = f"{self.key_of(name, 'terms') if term in own.terms else 'algorithm.terms'}.{term}"
                check_options(LOSSES, given.loss, given.options, f"{at}.loss", f"{at}.options")

    def _check_lookups(self, running: dict[str, StageConfig]) -> None:
        """Raises ValueError where the chosen functions do not fit together."""
        from rl.advantages import ADVANTAGES
        from rl.kl import KLS
        from rl.losses import LOSSES
        from rl.token_masks import TOKEN_MASKS

        marks = bool(TOKEN_MASKS.fact(self.token_mask, "marks"))
        # A mask that marks tokens and the loss term that reads the marks have no effect without each other.
        for stage in running.values():
            losses = [stage.loss, *(term.loss for term in stage.terms.values())]
            refuse(
                marks != any(LOSSES.fact(name, "marked") for name in losses),
                f"algorithm.token_mask={self.token_mask} and algorithm.terms={losses[1:]}: token_mask=kl_cov marks the "
                "tokens that the term kl_cov reads, so give both, as in algorithm.terms={kl_cov: {weight: 1.0}}",
            )
        refuse(
            not self.reuses_samples and bool(TOKEN_MASKS.fact(self.token_mask, "reuses")),
            f"algorithm.token_mask={self.token_mask} masks by the effect of earlier updates on a batch: set "
            "algorithm.epochs or algorithm.minibatches above 1",
        )
        # A KL of whole distributions needs ``[N, V]`` log-probs, which the fused head never builds.
        refuse(
            self.fused_head and bool(KLS.fact(self.kl, "distribution")),
            f"algorithm.kl={self.kl} needs whole distributions: set algorithm.fused_head=false",
        )
        refuse(
            self.fused_head and self.merge_rows,
            "algorithm.merge_rows=true has no effect with algorithm.fused_head=true, which reads whole rows: set one "
            "of them to false",
        )
        kind, with_values = self.critic.kind, [key for key in ADVANTAGES if ADVANTAGES.fact(key, "values")]
        for name, stage in running.items():
            estimator = stage.advantage
            key = f"{self.key_of(name, 'advantage')}={estimator}"
            refuse(
                stage.group_size < 2 and bool(ADVANTAGES.fact(estimator, "groups")),
                f"{self.key_of(name, 'group_size')}={stage.group_size}: {estimator} compares the episodes of a task "
                "and needs at least 2",
            )
            needs_values = bool(ADVANTAGES.fact(estimator, "values"))
            refuse(
                needs_values and kind == "none",
                f"{key} needs values: set algorithm.critic.kind to shared or separate",
            )
            refuse(
                not needs_values and kind != "none",
                f"algorithm.critic.kind={kind}, but {key} uses no values: set it to {' or '.join(with_values)}, or "
                "kind=none",
            )
        refuse_idle_algorithm(self, running)

    def key_of(self, stage: str, name: str) -> str:
        """The config key under which a stage's value was given: the stage's own key, or the algorithm's."""
        own = self.stages.get(stage)
        return f"algorithm.stages.{stage}.{name}" if own is not None and getattr(own, name) else f"algorithm.{name}"

    def resolved(self, attempts: int = 0) -> list[StageConfig]:
        """The stages that have a share of the run, with the values inherited from the algorithm filled in.

        Args:
            attempts: Number of attempts of the environment, used by stages that do not set their own.
        """
        return list(self.running(attempts).values())

    def running(self, attempts: int = 0) -> dict[str, StageConfig]:
        """The stages of :meth:`resolved` by name."""
        stages = self.stages or {"main": StageConfig()}
        return {name: self.resolve(stage, attempts) for name, stage in stages.items() if stage.share}

    def resolve(self, stage: StageConfig, attempts: int = 0) -> StageConfig:
        """One stage with the values inherited from the algorithm filled in."""
        terms = {
            name: replace(term, loss=term.loss or name)
            for name, term in (self.terms | stage.terms).items()
            if term.weight
        }
        return replace(
            stage,
            attempts=stage.attempts or attempts,
            group_size=stage.group_size or self.group_size,
            temperature=stage.temperature or self.temperature,
            advantage=stage.advantage or self.advantage,
            # Options belong to one function: a stage that names its own function inherits none of the algorithm's
            # options; a stage that does not overrides single options.
            advantage_options=({} if stage.advantage else self.advantage_options) | stage.advantage_options,
            loss=stage.loss or self.loss,
            loss_options=({} if stage.loss else self.loss_options) | stage.loss_options,
            terms=terms,
            optim=asdict(replace(self.optim, **stage.optim)),
        )

    @property
    def reuses_samples(self) -> bool:
        """Whether a rollout batch gets more than one optimiser step, so that old log-probs must be kept."""
        return self.epochs * self.minibatches > 1
