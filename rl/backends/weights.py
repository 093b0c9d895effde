"""Weights on their way: to the engine, to disk, into a checkpoint."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from rl.backends.distributed import full, local
from rl.backends.lora import bare_model, base_name, merged_parameters

BUCKET_BYTES = 512 * 2**20
"""Sharded weights are gathered in buckets of this size, on all processes, before anything is sent."""


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    """The transformer blocks of a model: the parts that are gathered one at a time when weights are sharded."""
    stacks = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m)]
    return list(max(stacks, key=lambda stack: sum(p.numel() for p in stack.parameters()))) if stacks else []


def full_weights(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Every parameter of a policy, whole, with adapters merged in, under the names of the base model.

    Tied parameters come once. With sharded weights this is a collective: all processes must iterate to the end. A
    bucket is complete on every process before its first tensor is handed out, so that a slow receiver on one process
    cannot leave the others waiting in the middle of a gather.
    """
    bucket: list[tuple[str, Tensor]] = []
    n_bytes = 0
    for name, parameter in merged_parameters(model):
        tensor = full(parameter.detach())
        bucket.append((name, tensor))
        n_bytes += tensor.numel() * tensor.element_size()
        if n_bytes >= BUCKET_BYTES:
            yield from bucket
            bucket, n_bytes = [], 0
    yield from bucket


def full_state(model: Any) -> dict[str, Tensor]:
    """:func:`full_weights` on the CPU, for :func:`rl.checkpoint.save_policy`; a collective."""
    return {name: tensor.cpu().contiguous() for name, tensor in full_weights(model)}


def save_pretrained(model: Any, folder: Any, state: dict[str, Tensor]) -> None:
    """Writes a policy in transformers' format, adapters merged, from the state that :func:`full_state` gathered."""
    bare_model(model).save_pretrained(folder, state_dict=state)


def load_pretrained(model: Any, folder: Path) -> None:
    """Loads a policy that :func:`save_pretrained` wrote back into the model; adapters become zero and their sum stays.

    With sharded weights all processes must call it.
    """
    causal = bare_model(model)
    stored = type(causal).from_pretrained(folder, dtype=next(causal.parameters()).dtype)
    weights = dict(stored.named_parameters())
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            nn.init.zeros_(local(parameter))
        elif ".lora_" not in name:
            _fill(parameter, weights[base_name(name)].detach())


def _fill(parameter: Tensor, whole: Tensor) -> None:
    with torch.no_grad():
        if isinstance(parameter, DTensor):
            whole = distribute_tensor(whole.to(parameter.device), parameter.device_mesh, parameter.placements)
        parameter.copy_(whole)


def local_state(module: nn.Module) -> dict[str, Tensor]:
    """This process's part of a module's parameters and buffers, copied to the CPU."""
    return {name: local(tensor).detach().cpu().clone() for name, tensor in module.state_dict().items()}


def load_local(module: nn.Module, state: dict[str, Tensor]) -> None:
    """The inverse of :func:`local_state`."""
    own = module.state_dict()
    if own.keys() != state.keys():
        odd = sorted(own.keys() ^ state.keys())
        raise KeyError(f"the checkpoint was written by another model: {', '.join(odd[:3])}")
    with torch.no_grad():
        for name, tensor in own.items():
            local(tensor).copy_(state[name])


def local_optimizer_state(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """This process's part of an optimiser's state, one entry per parameter in the order of its groups."""
    return [
        {key: local(value).cpu().clone() if isinstance(value, Tensor) else value for key, value in state.items()}
        for state in (optimizer.state[parameter] for parameter in parameters_of(optimizer))
    ]


def load_local_optimizer(optimizer: torch.optim.Optimizer, states: list[dict[str, Any]]) -> None:
    """The inverse of :func:`local_optimizer_state`, on an optimiser over the same parameters."""
    for parameter, saved in zip(parameters_of(optimizer), states, strict=True):
        optimizer.state[parameter] = {key: _like(parameter, key, value) for key, value in saved.items()}


def _like(parameter: Tensor, key: str, value: Any) -> Any:
    if not isinstance(value, Tensor) or key == "step":
        return value
    whole = torch.zeros_like(parameter)
    local(whole).copy_(value)
    return whole


def parameters_of(optimizer: torch.optim.Optimizer) -> Iterable[nn.Parameter]:
    """All parameters, in the order of the groups."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
