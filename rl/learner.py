"""Everything that changes during training: policy, critic, optimiser and KL coefficients, and the steps they take."""

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rl.advantages import advantages
from rl.analysis.metrics import Ratio, declare
from rl.backends.distributed import Distributed, full, local
from rl.backends.policy import Actor, Critic, References
from rl.backends.weights import decoder_layers, make_room, optimizer_scalars, optimizer_tensors, trained_tensors
from rl.batching import micro_batches, placeholder, sum_of_turns, turn_starts
from rl.config import StageConfig, TrainConfig
from rl.kl import KLS, KLControl
from rl.losses import (
    IMPORTANCE,
    NORMALISERS,
    LossOutput,
    Objective,
    StepSize,
    masked_sum,
    off_policy_mask,
    value_loss,
)
from rl.token_masks import TOKEN_MASKS, Whole, row_noise
from rl.types import RolloutBatch, RunStoppedError, SampledStats, TrainBatch

Sums = dict[str, Tensor]
"""Measurements of an optimiser step by name, each a numerator and a denominator, float64 ``[2]`` on the CPU. Both are
summed over micro-batches, optimiser steps and processes, and divided only when the mean is read."""


class Measured(NamedTuple):
    """What the optimiser steps of a rollout batch measured, over all processes.

    Args:
        gap: Mean |trainer - sampler| log-prob per response token; a large gap stops the run.
        kl: Each turn's KL to the reference per episode that sampled it; coefficients may follow it; empty without KL.
        advantage: |advantage x importance weight| summed over each turn's tokens, per episode that sampled the turn.
        balance: |advantage| of the later turns divided by the first turn's KL; the first coefficient may adapt to it.
        log: All other metrics, which are only logged.
    """

    gap: float
    kl: list[float]
    advantage: list[float]
    balance: float
    log: dict[str, float]


class Learner:
    """Policy and critic with their optimiser.

    Args:
        config: Config of the run.
        model: The policy's language model; trained in place.
        pad_id: Token id for placeholder rows.
        distributed: Processes, devices and precision.
    """

    def __init__(self, config: TrainConfig, model: Any, pad_id: int, distributed: Distributed) -> None:
        self._config, self._algorithm, self._optim = config, config.algorithm, config.algorithm.optim
        self._reuses_samples = config.algorithm.reuses_samples
        self._distributed, self._pad_id = distributed, pad_id
        stages, critic = config.algorithm.resolved(config.env.attempts), config.algorithm.critic
        self._kl = KLS.bind(config.algorithm.kl, config.algorithm.kl_options)
        self._whole_kl = bool(KLS.fact(config.algorithm.kl, "distribution"))
        self._normaliser = NORMALISERS.bind(config.algorithm.normaliser, config.algorithm.normaliser_options)
        self._importance = IMPORTANCE.bind(config.algorithm.importance, config.algorithm.importance_options)
        name = config.algorithm.token_mask
        self._token_mask = TOKEN_MASKS.bind(name, config.algorithm.token_mask_options)
        self._masks_whole, self._marks = (bool(TOKEN_MASKS.fact(name, fact)) for fact in ("whole", "marks"))
        if self._optim.gradient_checkpointing:  # the reentrant variant gives no gradients if embeddings are frozen
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.model = model
        fused = config.algorithm.temperature if config.algorithm.fused_head else None
        reading = {"share_prompts": not distributed.shards, "merge_rows": config.algorithm.merge_rows}
        actor = Actor(
            model, value_head=critic.kind == "shared", detach_values=critic.detach, fused_temperature=fused, **reading
        )
        # Without adapters a reference is a second copy of the weights, so only references that a stage's KL needs are
        # built. References and critic start as copies of the policy, made before wrappers shard its parameters.
        needed = {stage.reference for stage in stages if any(stage.kl_coefs)}
        self._references = References(actor, needed, distributed)
        own_critic = Critic(model, **reading) if critic.kind == "separate" else None
        self._actor = distributed.prepare_model(actor, decoder_layers(actor))
        self._bare_actor = actor
        self._critic = own_critic and distributed.prepare_model(own_critic, decoder_layers(own_critic))
        self._bare_critic = own_critic
        self._policy_parameters = [p for p in actor.parameters() if p.requires_grad]
        self._critic_parameters = [p for p in own_critic.parameters() if p.requires_grad] if own_critic else []
        self._objectives = [Objective.of(stage, config.env) for stage in stages]
        self._objective, self._n_updates = self._objectives[0], 1
        self.compares_groups = self._objective.estimator.groups
        """Whether the current stage compares the episodes of a task with each other."""
        self.control = KLControl(stages[0], list(stages[0].kl_coefs))
        self.lr = self._optim.lr
        """The policy's learning rate at the last optimiser step."""

    # Stages

    def enter_stage(self, stage: StageConfig, n_updates: int, is_first: bool) -> None:
        """Starts a stage: new optimiser (unless the stage keeps it), schedule, KL coefficients, ``previous`` reference.

        Args:
            stage: The stage that begins.
            n_updates: Number of optimiser steps that the stage will take.
            is_first: Whether the stage is the run's first.
        """
        known = [one for one in self._objectives if one.stage == stage]
        self._objective = known[0] if known else Objective.of(stage, self._config.env)
        optim = self._optim = self._objective.optim
        if not is_first:  # in the first stage the policy still is the base, of which the references are copies
            self._references.enter_stage(self._bare_actor)
        if is_first or not stage.keep_optimizer:
            heads = self._bare_actor.value_head.parameters() if self._bare_actor.value_head is not None else ()
            policy = [p for p in self._bare_actor.model.parameters() if p.requires_grad]
            # Two groups, so that an untrained critic can have a larger learning rate than the policy. AdamW scales each
            # parameter separately, so grouping by itself does not change a step.
            groups = [
                {"params": policy, "of_critic": False},
                {"params": [*heads, *self._critic_parameters], "of_critic": True},
            ]
            self._optimizer = torch.optim.AdamW([group for group in groups if group["params"]], lr=optim.lr)
        for group in self._optimizer.param_groups:
            group["peak_lr"] = (self._algorithm.critic.lr or optim.lr) if group["of_critic"] else optim.lr
            group["betas"], group["weight_decay"] = tuple(optim.betas), optim.weight_decay
        self.compares_groups = self._objective.estimator.groups
        self._n_updates = n_updates
        self.control = KLControl(stage, list(stage.kl_coefs))

    def set_lr(self, taken: int, position: float) -> None:
        """Sets the learning rates of an optimiser step.

        Args:
            taken: Number of optimiser steps that the stage has taken, which decides the warm-up.
            position: Spent budget of the stage in optimiser steps. It exceeds ``taken`` if replaced groups have used
                part of the budget, so that the schedule still ends with the budget.
        """
        optim, warmup = self._optim, self._optim.warmup_steps
        progress = min(1.0, (position - warmup) / max(1, self._n_updates - warmup))
        shapes = {"constant": 1.0, "linear": 1.0 - progress, "cosine": 0.5 * (1.0 + math.cos(progress * math.pi))}
        # Warm-up lasts until AdamW's moments are reliable, so it counts steps taken; the decay counts spent budget.
        factor = (taken + 1) / warmup if taken < warmup else shapes[optim.schedule]
        self.lr = optim.lr * factor
        for group in self._optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor

    # A rollout batch

    def score(self, batch: RolloutBatch, stage: StageConfig) -> TrainBatch:
        """Computes everything that stays fixed while the batch is trained on.

        With a single update per batch the old policy is the current one: the loss takes old log-probs from its own
        forward pass, and the policy is run here only if something else needs it.
        """
        algorithm, zeros = self._algorithm, torch.zeros_like(batch.sampler_logprobs)
        old, ref, values, entropy = (zeros.clone() for _ in range(4))
        has_kl = any(stage.kl_coefs)
        pays_kl = algorithm.kl_in_reward and has_kl
        # A forward pass costs a third of an update, so each model is run only if its results are needed. The policy is
        # needed for old log-probs, a value head, a KL in the reward, and masks that rank the batch's tokens.
        reads_actor = self._reuses_samples or algorithm.critic.kind == "shared" or pays_kl or self._masks_whole
        reads_reference = has_kl and not self._whole_kl  # whole distributions are too large to store; see `_loss`
        reads = reads_actor or reads_reference or self._critic is not None
        for rows, width in self._pieces(batch) if reads else []:
            part = (
                placeholder(self._pad_id, batch.rewards.shape[1]).rollout if rows is None else batch.rows(rows, width)
            )
            # A separate critic comes after the policy, because its values replace the policy's, which are zeros.
            part, found = part.to(self._distributed.device), []
            with torch.no_grad(), self._distributed.autocast():
                if reads_actor:
                    stats = self._actor(part, stage.temperature)
                    found += [(old, stats.logprobs), (values, stats.values), (entropy, stats.entropy)]
                if self._critic is not None:
                    found.append((values, self._critic(part)))
                if reads_reference:
                    stats = self._references.stats(stage.reference, self._actor, part, stage.temperature)
                    found.append((ref, stats.logprobs))
            for whole, result in found if rows is not None else []:
                whole[rows, :width] = result.to(whole.device)

        # The KL in the reward is computed for the policy that sampled. Old log-probs are passed as current ones too, so
        # the estimator's importance weight (current over old) is 1.
        costs_BK = None
        if pays_kl:
            stats, reference = (SampledStats(x, zeros, zeros, zeros) for x in (old, ref))
            kl_BT = self._kl(stats, reference, old, batch.response_mask)
            costs_BK = sum_of_turns(kl_BT, batch.turn_ids, batch.rewards.shape[1])
            costs_BK = costs_BK * torch.tensor(self.control.coefs)[: batch.rewards.shape[1]]

        # Compute advantages for the whole rollout batch, since splitting it into steps first would split groups.
        advantages_BT, returns_BT = advantages(
            batch, values, stage, self._objective.estimator, algorithm.whiten, self._distributed.sum, costs_BK
        )
        train = TrainBatch(batch, old, ref, values, advantages_BT, returns_BT, batch.response_mask)
        if self._masks_whole:
            gather = self._distributed.gather
            whole = Whole(row_noise(batch, self._config.seed), lambda x: torch.cat(gather([x.cpu()])))
            train = replace(train, kept=self._token_mask(SampledStats(old, entropy, values, zeros), train, whole))
        return train

    def _pieces(self, batch: RolloutBatch) -> list[tuple[Tensor | None, int]]:
        """Row indices and width of each micro-batch; the number of micro-batches is the same on every process."""
        # Gathering sharded weights takes all processes, so a process with fewer micro-batches than others must still
        # run placeholders (``None``), which have no response and so no gradient.
        lengths = batch.attention_mask.sum(1)
        pieces: list[tuple[Tensor | None, int]] = list(
            micro_batches(lengths, batch.group_ids, self._optim.micro_batch_tokens)
        )
        n_missing = max(self._distributed.gather([len(pieces)])) - len(pieces)
        return pieces + [(None, 0)] * n_missing

    # One optimiser step

    def update(self, train: TrainBatch, stage: StageConfig, critic_only: bool = False) -> Sums:
        """Takes one optimiser step on the given rows and returns this process's measurements.

        Args:
            train: This process's rows of the step.
            stage: Stage that the step belongs to.
            critic_only: Whether to update only the critic, as during its warm-up.
        """
        # The loss is divided by counts over the whole step, all micro-batches and processes, so that gradients add up
        # to that of one large batch, however rows are split. Means per micro-batch would weigh short ones too much.
        batch, n_processes = train.rollout, self._distributed.n_processes
        n_turns = sum(int((batch.turn_ids == k).any(1).sum()) for k in range(batch.rewards.shape[1]))
        counts = [len(batch.turn_ids), n_turns, int(batch.response_mask.sum())]
        totals = self._distributed.sum(torch.tensor(counts, dtype=torch.float64)).clamp(min=1.0).tolist()
        size = StepSize(totals[0], totals[1], totals[2], self._objective.token_budget)

        # Forward and backward. Data-parallel wrappers reduce gradients over processes only at the last micro-batch.
        self._actor.train()
        modules = [module for module in (self._actor, self._critic) if module is not None]
        pieces, sums = self._pieces(batch), {}
        for i, (rows, width) in enumerate(pieces):
            part = placeholder(self._pad_id, batch.rewards.shape[1]) if rows is None else train.rows(rows, width)
            part = part.to(self._distributed.device)
            with ExitStack() as contexts:
                if i < len(pieces) - 1:
                    for module in modules:
                        contexts.enter_context(self._distributed.no_sync(module))
                with self._distributed.autocast():
                    loss, found = self._loss(part, stage, size, critic_only)
                # Data-parallel wrappers average gradients over processes, but the loss is already divided by counts of
                # all processes; the factor undoes the average.
                (loss * n_processes).backward()
            # Sum measurements on the device: copying them to the host would wait for it in every micro-batch. Double
            # precision, because token counts exceed what float32 holds exactly.
            for name, ratio in found.items():
                pair = [torch.as_tensor(x, dtype=torch.float64).detach() for x in (ratio.num, ratio.den)]
                sums[name] = sums.get(name, 0.0) + torch.stack([x.to(loss.device, non_blocking=True) for x in pair])

        # Take the step only if losses and gradients are finite on *every* process. A non-finite number makes the sum
        # over processes non-finite, so all processes decide alike.
        sums = dict(zip(sums, torch.stack(list(sums.values())).cpu(), strict=True))
        losses = {name: float(sums[name][0]) for name in ("policy/loss", "critic/loss") if name in sums}
        trained = {"optim/grad_norm": self._policy_parameters, "critic/grad_norm": self._critic_parameters}
        clip, limit = torch.nn.utils.clip_grad_norm_, self._optim.max_grad_norm
        norms = {name: float(full(clip(parameters, limit))) for name, parameters in trained.items() if parameters}
        numbers = torch.tensor([*losses.values(), *norms.values()], dtype=torch.float64)
        takes_step = bool(self._distributed.sum(numbers).isfinite().all())
        if not takes_step and self._config.training.nonfinite == "stop":
            odd = self._not_finite(train, losses | norms)
            raise RunStoppedError(
                f"not finite before an optimiser step: {', '.join(odd)}. The step was not taken, so the weights "
                "are those of the step before; training.nonfinite=skip leaves such steps out and counts them"
            )
        if critic_only:  # with gradients of 0 instead of none, weight decay would still move the policy
            for parameter in self._bare_actor.model.parameters():
                parameter.grad = None
        if takes_step:
            self._optimizer.step()
        self._optimizer.zero_grad()

        # Losses and gradient norms are averaged over optimiser steps. A loss is summed over processes and has no
        # denominator yet; a norm is the same on all processes. Adding 1/n per process gives both a count of one step.
        once = {name: (norm, 1.0) for name, norm in norms.items()} | dict.fromkeys(losses, (0.0, 1.0))
        once["optim/skipped"] = (float(not takes_step), 1.0)
        for name, pair in once.items():
            sums[name] = sums.get(name, 0.0) + torch.tensor(pair, dtype=torch.float64) / n_processes
        return sums

    def measured(self, parts: Sequence[Sums]) -> Measured:
        """Combines the measurements of optimiser steps over all steps and processes."""
        # All processes run equally many micro-batches and so have the same names; sorting makes the rows correspond.
        names, n_turns = sorted(set().union(*parts)), len(self.control.coefs)
        table = torch.zeros(len(names), 2, dtype=torch.float64)
        for part in parts:
            table += torch.stack([part.get(name, torch.zeros_like(table[0])) for name in names])
        rows = self._distributed.sum(table).tolist()
        means = {name: num / den if den else math.nan for name, (num, den) in zip(names, rows, strict=True)}
        gap, turns = means.pop("gap"), range(n_turns)
        # The balance uses numerators, sums over the whole batch: turns then weigh as in the loss, where a turn that few
        # episodes sampled counts little.
        nums = {name: num for name, (num, _) in zip(names, rows, strict=True)}
        later, first_kl = sum(nums[f"advantage {k}"] for k in turns[1:]), nums.get("kl 0", 0.0)
        advantage = [means.pop(f"advantage {k}") for k in turns]
        kl = [means.pop(f"kl {k}") for k in turns if f"kl {k}" in means]
        return Measured(gap, kl, advantage, later / first_kl if first_kl else math.nan, means)

    def _not_finite(self, train: TrainBatch, numbers: dict[str, float]) -> list[str]:
        """Names of everything that is not finite on some process; ``numbers`` are losses and gradient norms."""
        # Causes come before effects, so that the first name in the error message is the place to look.
        policy = torch.stack([local(p.detach()).isfinite().all() for p in self._bare_actor.parameters()])
        causes = {"the policy's weights": torch.where(policy, 0.0, torch.nan), "rewards": train.rollout.rewards}
        causes |= {name: getattr(train, name) for name in ("old_logprobs", "ref_logprobs", "values", "advantages")}
        causes |= {"sampler_logprobs": train.rollout.sampler_logprobs}
        odd = [name for name, value in causes.items() if not bool(value.isfinite().all())]
        odd += [f"{name} ({value})" for name, value in numbers.items() if not math.isfinite(value)]
        return list(dict.fromkeys(self._distributed.gather(odd)))

    def _loss(
        self, train: TrainBatch, stage: StageConfig, size: StepSize, critic_only: bool
    ) -> tuple[Tensor, dict[str, Ratio]]:
        """The loss of a micro-batch (surrogate, further terms, KL penalty, value loss) and its measurements."""
        batch, algorithm, mask = train.rollout, self._algorithm, train.rollout.response_mask
        has_kl = any(stage.kl_coefs)
        # The policy's only forward pass with a gradient. Prompts, padding and untrained turns weigh 0 in the loss.
        stats = self._actor(
            batch,
            stage.temperature,
            whole_distribution=self._whole_kl and has_kl,
            entropy_gradient=self._objective.entropy_gradient,
        )
        weights = torch.where(mask, self._normaliser(batch.turn_ids, size), 0.0)

        # With one update per batch the old policy is the current one, so old log-probs need no separate forward pass.
        # The engine's log-probs differ by precision and kernels. Importance weights for this gap multiply the
        # advantages; they stay out of the ratio that PPO clips, which is current over old policy.
        old = train.old_logprobs if self._reuses_samples else stats.logprobs.detach()
        gap = torch.where(mask, old - batch.sampler_logprobs, 0.0)
        corrections, found = self._importance(gap, mask)
        train = replace(train, old_logprobs=old, advantages=train.advantages * corrections)

        # Surrogate and measurements.
        surrogate = self._surrogate(stats, train, weights)
        loss, n_tokens = surrogate.loss, mask.sum()
        found = found | surrogate.metrics
        found["gap"] = Ratio(gap.abs().sum(), n_tokens)
        found["policy/entropy"] = Ratio(masked_sum(stats.entropy.detach(), mask), n_tokens)
        by_turn = {"advantage": train.advantages.abs()}

        # KL penalty to the reference. A KL in the reward is measured here too, for the log and for adaptive
        # coefficients, but not added to the loss.
        if has_kl:
            reference = stats._replace(logprobs=train.ref_logprobs)
            if self._whole_kl:
                reference = self._references.stats(
                    stage.reference, self._actor, batch, stage.temperature, whole_distribution=True
                )
            by_turn["kl"] = kl = self._kl(stats, reference, old, mask)
            # Every turn has its own coefficient: SCoRe's beta2 for the first attempt, beta1 for the second. Off the
            # response (turn -1) the coefficient does not matter, because the weight is 0.
            coefs = torch.tensor(self.control.coefs, dtype=kl.dtype).to(kl.device, non_blocking=True)
            coefs = coefs[batch.turn_ids.clamp(min=0)]
            if not algorithm.kl_in_reward:
                loss = loss + masked_sum(weights * coefs * kl, mask)
        for name, values in by_turn.items():
            for k in range(len(stage.kl_coefs)):
                of_turn = batch.turn_ids == k
                found[f"{name} {k}"] = Ratio(masked_sum(values, of_turn), of_turn.any(1).sum())

        # Further terms, and the critic's loss.
        for weight, term in self._objective.terms:
            out = term(stats, train, weights)
            loss = loss + weight * out.loss
            found |= out.metrics
        found["policy/loss"] = Ratio(loss.detach(), 0.0)
        if critic_only:  # multiplied by 0, not dropped: data-parallel wrappers wait for every parameter's gradient
            loss = 0.0 * loss
        if algorithm.critic.kind != "none":
            value = self._value_loss(stats.values, train, size)
            loss = loss + algorithm.critic.coef * value.loss
            found |= value.metrics
        return loss, found

    def _surrogate(self, stats: SampledStats, train: TrainBatch, weights: Tensor) -> LossOutput:
        """The surrogate on the tokens that masks leave in it, and the fractions that the masks removed."""
        metrics: dict[str, Ratio] = {}
        batch, mask, kept = train.rollout, train.rollout.response_mask, train.kept
        if self._algorithm.token_mask != "none":
            # Masks that rank the tokens of the whole rollout batch were computed in `score`; others are computed here.
            kept = kept if self._masks_whole else self._token_mask(stats, train, None)
            metrics["policy/token_mask"] = Ratio((mask & ~kept).sum(), mask.sum())
        if threshold := self._algorithm.off_policy_mask:
            on_policy = off_policy_mask(
                stats.logprobs, batch.sampler_logprobs, train.advantages, batch.turn_ids, threshold=threshold
            )
            metrics["policy/off_policy_masked"] = Ratio((mask & ~on_policy).sum(), mask.sum())
            # Dropped turns leave the mask, so that the surrogate does not use them at all. The weights are not
            # recomputed, so that the remaining turns do not count more than before.
            turn_ids = torch.where(on_policy, batch.turn_ids, -1)
            train = replace(train, rollout=replace(batch, response_mask=on_policy, turn_ids=turn_ids))
        # A token that is not kept only loses its weight; ratios per turn and clip fractions still count it. A mask that
        # only marks tokens leaves their weights; a further term of the loss reads which tokens are marked.
        out = self._objective.surrogate(stats, train, weights if self._marks else torch.where(kept, weights, 0.0))
        return LossOutput(out.loss, metrics | out.metrics)

    def _value_loss(self, values: Tensor, train: TrainBatch, size: StepSize) -> LossOutput:
        """The critic's loss on all response tokens, or with a value per turn on the first token of each turn."""
        batch, once_a_turn = train.rollout, self._objective.estimator.values == "turns"
        if self._critic is not None:
            values = self._critic(batch)
        mask = turn_starts(batch.turn_ids) if once_a_turn else batch.response_mask
        weights = torch.full_like(values, 1.0 / (size.turns if once_a_turn else size.tokens))
        out = value_loss(values, train.values, train.returns, mask, weights, clip=self._algorithm.critic.clip)
        out.metrics["critic/loss"] = Ratio(out.loss.detach(), 0.0)
        return out

    # State

    def state(self) -> dict[str, Any]:
        """State that a checkpoint must hold besides :meth:`tensors`; the same on all processes."""
        return {
            "optimizer": optimizer_scalars(self._optimizer),
            "kl_coefs": list(self.control.coefs),
        }

    def tensors(self) -> dict[str, Tensor]:
        """Trained weights, optimiser moments and references: the live tensors, not copies."""
        critic = {} if self._bare_critic is None else trained_tensors("critic", self._bare_critic)
        actor = trained_tensors("actor", self._bare_actor)
        return actor | critic | self._references.tensors() | optimizer_tensors(self._optimizer)

    def load_state(self, state: dict[str, Any]) -> None:
        """Restores :meth:`state`. Call :meth:`enter_stage` before, and fill :meth:`tensors` after."""
        make_room(self._optimizer, state["optimizer"])
        self.control.coefs = list(state["kl_coefs"])


declare(
    {
        "policy/abs_advantage_t<k>": ("1", "|advantage x importance| summed over the turn, per episode sampling it"),
        "policy/loss": ("1", "policy loss that was minimised"),
        "policy/entropy": ("nats per token", "entropy of the policy at sampled positions"),
        "policy/sampler_gap": ("nats per token", "mean |trainer log-prob - sampler log-prob| before the update"),
        "policy/off_policy_masked": ("fraction", "response tokens of turns that are masked as too far off-policy"),
        "critic/loss": ("1", "value loss that was minimised"),
        "critic/grad_norm": ("1", "gradient norm of a separate critic before clipping"),
        "optim/grad_norm": ("1", "gradient norm before clipping"),
        "optim/skipped": ("fraction", "optimiser steps skipped because loss or gradient was not finite"),
    }
)
