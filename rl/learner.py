"""What changes during training: policy, critic, optimiser, KL weights. Scores rollout batches, takes steps."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from rl.advantages import turn_starts
from rl.algorithms import advantages
from rl.analysis.metrics import Ratio, total
from rl.backends.distributed import Distributed
from rl.backends.policy import Actor, Critic, SampledStats, sampled_stats
from rl.backends.reference import References
from rl.backends.weights import (
    decoder_layers,
    load_local,
    load_local_optimizer,
    local_optimizer_state,
    local_state,
)
from rl.batching import micro_batches, placeholder
from rl.config import KL, Advantage, StageConfig, TrainConfig
from rl.config import Critic as CriticKind
from rl.kl import full_kl, sampled_kl
from rl.kl_control import KLControl
from rl.losses import StepSize, kl_penalty, masked_sum, token_weights, value_loss
from rl.policy_loss import policy_loss
from rl.schedule import lr_factor
from rl.types import RolloutBatch, TrainBatch


class Learner:
    """Policy and critic with their optimiser.

    Args:
        config: The run.
        model: The policy's language model; trained in place.
        pad_id: Fills placeholder rows.
        distributed: Processes, devices and precision.
    """

    def __init__(self, config: TrainConfig, model: Any, pad_id: int, distributed: Distributed) -> None:
        self._config, self._algorithm, self._optim = config, config.algorithm, config.optim
        self._distributed, self._pad_id = distributed, pad_id
        critic = config.algorithm.critic
        if config.optim.fused_head and config.algorithm.kl is KL.FULL:
            raise ValueError("algorithm.kl=FULL needs whole distributions, which optim.fused_head=true never holds")
        if config.optim.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.model = model
        actor = Actor(
            model,
            value_head=critic.kind is CriticKind.SHARED,
            detach_values=critic.detach,
            fused_temperature=config.algorithm.temperature if config.optim.fused_head else None,
            share_prompts=not distributed.shards,
        )
        needed = {stage.reference for stage in config.algorithm.stages if any(stage.kl_coefs)}
        self._references = References(actor, needed, distributed)
        own_critic = Critic(model, not distributed.shards) if critic.kind is CriticKind.SEPARATE else None
        self._actor = distributed.prepare_model(actor, decoder_layers(actor))
        self._bare_actor = actor
        self._critic = own_critic and distributed.prepare_model(own_critic, decoder_layers(own_critic))
        self._bare_critic = own_critic
        self._warming_up = False
        self.control = KLControl(config.algorithm.stages[0])

    # Stages

    def enter_stage(self, stage: StageConfig, n_updates: int, is_first: bool) -> None:
        """Fresh optimiser (unless the stage keeps it), schedule and KL weights; and the reference of this moment.

        Args:
            stage: What begins.
            n_updates: Optimiser steps that it will take.
            is_first: Whether it is the run's first stage.
        """
        if not is_first:
            self._references.enter_stage(self._bare_actor)
        if is_first or not stage.keep_optimizer:
            self._optimizer = self._new_optimizer()
        for group in self._optimizer.param_groups:
            group["lr"] = group["peak_lr"]
            group.pop("initial_lr", None)
        factor = lr_factor(self._optim.schedule, self._optim.warmup_steps, n_updates)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimizer, factor)
        self.control = KLControl(stage)

    def _new_optimizer(self) -> torch.optim.Optimizer:
        optim = self._optim
        critic_lr = self._algorithm.critic.lr or optim.lr
        heads = self._bare_actor.value_head.parameters() if self._bare_actor.value_head is not None else ()
        critic = self._bare_critic.parameters() if self._bare_critic is not None else ()
        groups = [
            {"params": list(trainable(self._bare_actor.model.parameters())), "lr": optim.lr, "peak_lr": optim.lr},
            {"params": [*trainable(heads), *trainable(critic)], "lr": critic_lr, "peak_lr": critic_lr},
        ]
        return torch.optim.AdamW(
            [group for group in groups if group["params"]],
            betas=(optim.betas[0], optim.betas[1]),
            weight_decay=optim.weight_decay,
        )

    # A rollout batch

    def score(self, batch: RolloutBatch, stage: StageConfig) -> TrainBatch:
        """Everything that stays fixed while the batch is trained on.

        With a single update per batch the old policy is the current one: the loss reads it off its own forward pass,
        and no pass is spent here unless values are needed.
        """
        zeros = torch.zeros_like(batch.sampler_logprobs)
        old, ref, values = zeros, zeros, zeros
        shared = self._algorithm.critic.kind is CriticKind.SHARED
        if self._algorithm.reuses_samples or shared:
            old, values = self._everywhere(batch, self._read_actor, 2)
        if self._critic is not None:
            (values,) = self._everywhere(batch, self._read_critic, 1)
        if self._algorithm.kl is not KL.FULL and any(stage.kl_coefs):

            def read_reference(part: RolloutBatch) -> tuple[Tensor, ...]:
                return (self._reference_stats(part, stage).logprobs,)

            (ref,) = self._everywhere(batch, read_reference, 1)
        advantages_BT, returns_BT = advantages(batch, values, self._algorithm, stage, self._distributed.sum)
        return TrainBatch(batch, old, ref, values, advantages_BT, returns_BT)

    def _read_actor(self, part: RolloutBatch) -> tuple[Tensor, ...]:
        stats = sampled_stats(self._actor, part, self._algorithm.temperature)
        return stats.logprobs, stats.values

    def _read_critic(self, part: RolloutBatch) -> tuple[Tensor, ...]:
        assert self._critic is not None
        return (self._critic(part.input_ids, part.attention_mask, part.response_mask),)

    def _reference_stats(self, part: RolloutBatch, stage: StageConfig, **wanted: bool) -> SampledStats:
        with self._distributed.autocast():
            return self._references.stats(stage.reference, self._actor, part, self._algorithm.temperature, **wanted)

    @torch.no_grad()
    def _everywhere(self, batch: RolloutBatch, read: Any, n_results: int) -> list[Tensor]:
        """Runs a forward pass over all rows, in micro-batches; ``[B, T]`` each."""
        out = [torch.zeros_like(batch.sampler_logprobs) for _ in range(n_results)]
        for rows, width in self._pieces(batch):
            part = self._part(batch, rows, width).to(self._distributed.device)
            with self._distributed.autocast():
                results = read(part)
            if rows is not None:
                for whole, result in zip(out, results, strict=True):
                    whole[rows, :width] = result.to(whole.device)
        return out

    def _pieces(self, batch: RolloutBatch) -> list[tuple[Tensor | None, int]]:
        """Micro-batches, as many on every process: sharded weights are gathered by all or by none."""
        pieces: list[tuple[Tensor | None, int]] = list(
            micro_batches(batch.lengths, batch.group_ids, self._optim.micro_batch_tokens)
        )
        n_missing = self._distributed.max(len(pieces)) - len(pieces)
        return pieces + [(None, 0)] * n_missing

    def _part(self, batch: Any, rows: Tensor | None, width: int) -> Any:
        if rows is not None:
            return batch.rows(rows, width)
        n_columns = (batch.rollout if isinstance(batch, TrainBatch) else batch).rewards.shape[1]
        empty = placeholder(self._pad_id, n_columns)
        return empty if isinstance(batch, TrainBatch) else empty.rollout

    # One optimiser step

    def update(self, train: TrainBatch, stage: StageConfig, critic_only: bool = False) -> dict[str, Ratio]:
        """One optimiser step on the given rows; what it measured, added up over micro-batches.

        Args:
            train: This process's rows of the step.
            stage: KL weights and reference.
            critic_only: The policy rests while values warm up.
        """
        size = self._step_size(train.rollout, stage)
        self._actor.train()
        self._warming_up = critic_only
        modules = [module for module in (self._actor, self._critic) if module is not None]
        pieces, parts = self._pieces(train.rollout), []
        for i, (rows, width) in enumerate(pieces):
            part = self._part(train, rows, width).to(self._distributed.device)
            last = i == len(pieces) - 1
            with nullcontext() if last else _all_of(self._distributed.no_sync(module) for module in modules):
                with self._distributed.autocast():
                    loss, metrics = self._loss(part, stage, size)
                # Data-parallel wrappers average gradients over processes; the weights already count all of them.
                (loss * self._distributed.n_processes).backward()
            parts.append(metrics)
        norms = self._clip()
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._schedule.step()
        # Losses add up over micro-batches and processes; gradient norms are the same on all processes.
        share = 1.0 / self._distributed.n_processes
        metrics = total(parts) | {name: Ratio(norm * share, share) for name, norm in norms.items()}
        for name in {"policy/loss", "critic/loss"} & metrics.keys():
            metrics[name] += Ratio(0.0, share)
        return metrics

    def _clip(self) -> dict[str, float]:
        limit = self._optim.max_grad_norm
        norms = {"optim/grad_norm": self._distributed.clip_grad_norm(trainable(self._bare_actor.parameters()), limit)}
        if self._bare_critic is not None:
            norms["critic/grad_norm"] = self._distributed.clip_grad_norm(self._bare_critic.parameters(), limit)
        return norms

    def _step_size(self, batch: RolloutBatch, stage: StageConfig) -> StepSize:
        starts = turn_starts(batch.turn_ids).sum()
        counts = torch.stack([torch.tensor(len(batch)), starts, batch.response_mask.sum()]).double()
        episodes, turns, tokens = (max(1.0, float(x)) for x in self._distributed.sum(counts))
        budget = self._config.env.token_budget(stage.attempts or self._config.env.attempts)
        return StepSize(episodes, turns, tokens, float(budget))

    def _loss(self, train: TrainBatch, stage: StageConfig, size: StepSize) -> tuple[Tensor, dict[str, Ratio]]:
        batch, algorithm = train.rollout, self._algorithm
        full = algorithm.kl is KL.FULL and any(stage.kl_coefs)
        stats = sampled_stats(
            self._actor,
            batch,
            algorithm.temperature,
            whole_distribution=full,
            entropy_gradient=algorithm.entropy_coef > 0,
        )
        weights = token_weights(batch.turn_ids, algorithm.normaliser.value, size)
        policy = policy_loss(stats, train, weights, algorithm, len(stage.kl_coefs))
        loss, metrics = policy.loss, policy.metrics
        if any(stage.kl_coefs):
            kl = self._kl(stats, train, stage)
            penalty = kl_penalty(kl, batch.turn_ids, weights, coefs=tuple(self.control.coefs))
            loss, metrics = loss + penalty.loss, metrics | penalty.metrics
        if algorithm.entropy_coef:
            loss = loss - algorithm.entropy_coef * masked_sum(weights * stats.entropy, batch.response_mask)
        metrics["policy/loss"] = Ratio(loss.item(), 0.0)
        if self._warming_up:
            loss = 0.0 * loss
        if algorithm.critic.kind is not CriticKind.NONE:
            values = stats.values if self._critic is None else self._read_critic(batch)[0]
            value = self._value_loss(values, train, size)
            loss, metrics = loss + algorithm.critic.coef * value.loss, metrics | value.metrics
        return loss, metrics

    def _value_loss(self, values: Tensor, train: TrainBatch, size: StepSize) -> Any:
        """Every response token learns its value; with turns as actions only the first of each turn does."""
        by_turn = self._algorithm.advantage is Advantage.TURN_GAE
        mask = turn_starts(train.rollout.turn_ids) if by_turn else train.rollout.response_mask
        weights = torch.full_like(values, 1.0 / (size.turns if by_turn else size.tokens))
        out = value_loss(values, train.values, train.returns, mask, weights, clip=self._algorithm.critic.clip)
        out.metrics["critic/loss"] = Ratio(out.loss.item(), 0.0)
        return out

    def _kl(self, stats: SampledStats, train: TrainBatch, stage: StageConfig) -> Tensor:
        batch = train.rollout
        if self._algorithm.kl is not KL.FULL:
            return sampled_kl(stats.logprobs, train.ref_logprobs, batch.response_mask, self._algorithm.kl.estimator)
        reference = self._reference_stats(batch, stage, whole_distribution=True)
        kl_N = full_kl(stats.distribution, reference.distribution)
        return torch.zeros_like(stats.logprobs).masked_scatter(batch.response_mask, kl_N)

    @property
    def lr(self) -> float:
        """The policy's learning rate at the next step."""
        return float(self._schedule.get_last_lr()[0])

    # State

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold, this process's part of it."""
        return {
            "actor": local_state(self._bare_actor),
            "critic": local_state(self._bare_critic) if self._bare_critic is not None else None,
            "references": self._references.state(),
            "optimizer": local_optimizer_state(self._optimizer),
            "schedule": self._schedule.state_dict(),
            "kl_coefs": list(self.control.coefs),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state`, after :meth:`enter_stage` with the stage that the state belongs to."""
        load_local(self._bare_actor, state["actor"])
        if self._bare_critic is not None:
            load_local(self._bare_critic, state["critic"])
        self._references.load_state(state["references"])
        load_local_optimizer(self._optimizer, state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        for group, lr in zip(self._optimizer.param_groups, self._schedule.get_last_lr(), strict=True):
            group["lr"] = lr
        self.control.coefs = list(state["kl_coefs"])


def trainable(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """Those with a gradient."""
    return [parameter for parameter in parameters if parameter.requires_grad]


def _all_of(contexts: Iterable[AbstractContextManager]) -> ExitStack:
    stack = ExitStack()
    for context in contexts:
        stack.enter_context(context)
    return stack
