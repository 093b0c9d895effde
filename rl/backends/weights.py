"""Weights on their way: to the engine, to disk, into a checkpoint."""

import hashlib
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import checkpoint
from torch.distributed.tensor import DTensor, distribute_tensor

from rl.backends import hub
from rl.backends.distributed import full, local
from rl.backends.lora import bare_model, base_name, merged_parameters

BUCKET_BYTES = 512 * 2**20
"""Sharded weights are gathered in buckets of this size, on all processes, before anything is sent."""


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    """The transformer blocks of a model: the parts that are gathered one at a time when weights are sharded."""
    # The largest list of modules: others hold adapters, experts or the stages of an encoder.
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
        # The stored base has the adapters in it already. With B = 0 their product is 0, and A may stay as it is.
        if ".lora_B." in name:
            nn.init.zeros_(local(parameter))
        elif ".lora_" not in name:
            whole = weights[base_name(name)].detach()
            if isinstance(parameter, DTensor):  # every process has read the whole tensor and keeps its part
                whole = distribute_tensor(whole.to(parameter.device), parameter.device_mesh, parameter.placements)
            with torch.no_grad():
                parameter.copy_(whole)


def trained_tensors(name: str, module: nn.Module, frozen: bool = False) -> dict[str, Tensor]:
    """What training changes in a module, live and sharded as it is: adapters alone, where there are any; and buffers.

    Args:
        name: Put before every tensor's name.
        module: Not yet wrapped for several processes.
        frozen: Take parameters without a gradient too.
    """
    parameters = {key: p.detach() for key, p in module.named_parameters() if frozen or p.requires_grad}
    buffers = {key for key, _ in module.named_buffers()}
    # Of the buffers only those that are saved: tables such as RoPE's frequencies are computed anew.
    parameters |= {key: tensor for key, tensor in module.state_dict().items() if key in buffers}
    return {f"{name}.{key}": tensor for key, tensor in parameters.items()}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The moments of an optimiser, live, by the place of their parameter: an optimiser knows no names."""
    return {
        f"optimizer.{i}.{key}": value
        for i, parameter in enumerate(parameters_of(optimizer))
        for key, value in optimizer.state[parameter].items()
        if _is_moment(value)
    }


def optimizer_scalars(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """The rest of its state, for each parameter; ``None`` stands for a moment."""
    states = [optimizer.state[parameter] for parameter in parameters_of(optimizer)]
    return [{key: None if _is_moment(value) else deepcopy(value) for key, value in state.items()} for state in states]


def make_room(optimizer: torch.optim.Optimizer, scalars: list[dict[str, Any]]) -> None:
    """Gives a new optimiser the state that :func:`optimizer_scalars` returned, and moments that can be read into."""
    for parameter, saved in zip(parameters_of(optimizer), scalars, strict=True):
        # zeros_like keeps the sharding, so that a checkpoint of any number of processes is read into the right part.
        optimizer.state[parameter] = {
            key: torch.zeros_like(parameter, requires_grad=False) if value is None else value
            for key, value in saved.items()
        }


def _is_moment(value: Any) -> bool:
    # Adam's count of steps is a tensor too, of no dimension; it is the same on all processes.
    return isinstance(value, Tensor) and value.ndim > 0


def parameters_of(optimizer: torch.optim.Optimizer) -> Iterable[nn.Parameter]:
    """All parameters, in the order of the groups."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def write_tensors(tensors: dict[str, Tensor], folder: Path, n_processes: int) -> None:
    """Writes tensors, sharded ones among them, so that any number of processes can read them; a collective."""
    with _alone_without_a_warning():
        checkpoint.save(dict(tensors), checkpoint_id=folder, no_dist=n_processes == 1)


def read_tensors(tensors: dict[str, Tensor], folder: Path, n_processes: int) -> None:
    """Reads what :func:`write_tensors` wrote into tensors of the same names and shapes, in place; a collective."""
    with _alone_without_a_warning(), torch.no_grad():
        checkpoint.load(dict(tensors), checkpoint_id=folder, no_dist=n_processes == 1)


@contextmanager
def _alone_without_a_warning() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def hash_model(path: str, revision: str | None) -> dict[str, str]:
    """What a model is, by its contents: a hash of every file of its folder, or the commit of a hub id."""
    if not Path(path).is_dir():
        from transformers import AutoConfig

        hub.no_answer()
        commit = getattr(AutoConfig.from_pretrained(path, revision=revision), "_commit_hash", None)
        return {f"model {path}": str(commit)}
    files = sorted(file for file in Path(path).iterdir() if file.is_file() and file.suffix not in ("", ".md"))
    return {f"model file {file.name}": hash_file(file) for file in files}


def hash_file(path: Path) -> str:
    """A hash of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
