"""The frozen policy that the KL penalty holds the trained one to."""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from rl.backends.distributed import Distributed
from rl.backends.lora import has_lora, without_lora
from rl.backends.policy import Actor, sampled_stats
from rl.backends.weights import decoder_layers, trained_tensors
from rl.types import RolloutBatch, SampledStats


class References:
    """The base, and the policy as a stage before left it.

    With adapters the base costs nothing: it is the policy with its adapters off. Otherwise each reference is a frozen
    copy, made when a stage first needs it and sharded as the policy is.

    Args:
        actor: The trained policy, not yet wrapped for several processes; its weights at this moment are the base.
        needed: Which references the stages use.
        distributed: Processes and precision.

    Raises:
        ValueError: If adapters are to be held to an earlier stage, which needs a copy of the whole model.
    """

    def __init__(self, actor: Actor, needed: set[str], distributed: Distributed) -> None:
        self._actor, self._distributed = actor, distributed
        self._lora = has_lora(actor.model)
        if self._lora and "previous" in needed:
            raise ValueError("algorithm.stages: reference=previous needs full tuning; set model.lora.rank=0")
        kinds = set() if self._lora else needed
        self._frozen = {kind: self._copy() for kind in sorted(kinds)}

    def _copy(self) -> Any:
        frozen = (
            Actor(deepcopy(self._actor.model), share_prompts=not self._distributed.shards).eval().requires_grad_(False)
        )
        return self._distributed.prepare_model(frozen, decoder_layers(frozen))

    def enter_stage(self, actor: Any) -> None:
        """Makes the policy as it is now the ``previous`` reference."""
        if frozen := self._frozen.get("previous"):
            own = dict(actor.named_parameters())
            with torch.no_grad():
                for name, parameter in frozen.named_parameters():
                    parameter.copy_(own[name])

    @torch.no_grad()
    def stats(self, kind: str, actor: Any, batch: RolloutBatch, temperature: float, **wanted: bool) -> SampledStats:
        """What the reference thinks of sampled tokens.

        Args:
            kind: Which reference.
            actor: The wrapped policy, for the case that its adapters are switched off.
            batch: Rows on the device.
            temperature: As when sampling.
            **wanted: See :meth:`rl.backends.policy.Actor.forward`.
        """
        if self._lora:
            with without_lora(self._actor.model):
                return sampled_stats(actor, batch, temperature, **wanted)
        return sampled_stats(self._frozen[kind], batch, temperature, **wanted)

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint must hold: the base is read from the model's folder again."""
        frozen = self._frozen.get("previous")
        return {} if frozen is None else trained_tensors("previous", frozen, frozen=True)
