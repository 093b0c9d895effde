"""Moves weights to the sampling engine, to disk, and to and from checkpoints."""

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
"""Size of the buckets in which sharded weights are gathered on all processes."""


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    """The transformer blocks of a model, which are gathered one at a time if weights are sharded."""
    # The blocks are the largest list of modules; smaller lists hold adapters, experts or the stages of an encoder.
    stacks = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m)]
    return list(max(stacks, key=lambda stack: sum(p.numel() for p in stack.parameters()))) if stacks else []


def full_weights(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Yields every parameter of a policy, unsharded, with adapters merged in, under the names of the base model.

    Tied parameters are yielded once. With sharded weights this is a collective: all processes must iterate to the end.
    A bucket is gathered completely before its first tensor is yielded, so that a slow receiver on one process does not
    leave the other processes waiting in the middle of a gather.
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
    """The result of :func:`full_weights` on the CPU, for :func:`rl.checkpoint.save_policy`; a collective."""
    return {name: tensor.cpu().contiguous() for name, tensor in full_weights(model)}


def save_pretrained(model: Any, folder: Any, state: dict[str, Tensor]) -> None:
    """Writes a policy in transformers' format, adapters merged, from the state that :func:`full_state` gathered."""
    bare_model(model).save_pretrained(folder, state_dict=state)


def load_pretrained(model: Any, path: Path | str, revision: str | None = None) -> None:
    """Loads a policy into the model: the folder that :func:`save_pretrained` wrote, or a hub id with its revision.

    The stored weights have the adapters merged in, so the adapters' update is set to zero. With sharded weights this is
    a collective.
    """
    causal = bare_model(model)
    stored = type(causal).from_pretrained(path, revision=revision, dtype=next(causal.parameters()).dtype)
    weights = dict(stored.named_parameters())
    for name, parameter in model.named_parameters():
        # With B = 0 the adapters' product is 0, whatever A is.
        if ".lora_B." in name:
            nn.init.zeros_(local(parameter))
        elif ".lora_" not in name:
            whole = weights[base_name(name)].detach()
            if isinstance(parameter, DTensor):  # every process has read the whole tensor and keeps only its shard
                whole = distribute_tensor(whole.to(parameter.device), parameter.device_mesh, parameter.placements)
            with torch.no_grad():
                parameter.copy_(whole)


def trained_tensors(name: str, module: nn.Module, frozen: bool = False) -> dict[str, Tensor]:
    """Trainable parameters and saved buffers of a module, for a checkpoint; the tensors are live and may be sharded.

    Args:
        name: Prefix of every tensor's name.
        module: The module, not yet wrapped for several processes.
        frozen: Whether to include parameters without a gradient.
    """
    parameters = {key: p.detach() for key, p in module.named_parameters() if frozen or p.requires_grad}
    buffers = {key for key, _ in module.named_buffers()}
    # Include only persistent buffers; tables such as RoPE's frequencies are recomputed.
    parameters |= {key: tensor for key, tensor in module.state_dict().items() if key in buffers}
    return {f"{name}.{key}": tensor for key, tensor in parameters.items()}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The live moments of an optimiser, named by the index of their parameter, since an optimiser knows no names."""
    return {
        f"optimizer.{i}.{key}": value
        for i, parameter in enumerate(parameters_of(optimizer))
        for key, value in optimizer.state[parameter].items()
        if _is_moment(value)
    }


def optimizer_scalars(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """The optimiser's state of each parameter without the moments, in whose place is ``None``."""
    states = [optimizer.state[parameter] for parameter in parameters_of(optimizer)]
    return [{key: None if _is_moment(value) else deepcopy(value) for key, value in state.items()} for state in states]


def make_room(optimizer: torch.optim.Optimizer, scalars: list[dict[str, Any]]) -> None:
    """Gives a new optimiser the state from :func:`optimizer_scalars`, with zero moments to load a checkpoint into."""
    for parameter, saved in zip(parameters_of(optimizer), scalars, strict=True):
        # zeros_like keeps the sharding, so that a checkpoint from any number of processes is loaded into the right
        # shards.
        optimizer.state[parameter] = {
            key: torch.zeros_like(parameter, requires_grad=False) if value is None else value
            for key, value in saved.items()
        }


def _is_moment(value: Any) -> bool:
    # Adam's step count is a tensor too, but without dimensions, and the same on all processes.
    return isinstance(value, Tensor) and value.ndim > 0


def parameters_of(optimizer: torch.optim.Optimizer) -> Iterable[nn.Parameter]:
    """All parameters of an optimiser, in the order of its groups."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def write_tensors(tensors: dict[str, Tensor], folder: Path, n_processes: int) -> None:
    """Writes tensors, which may be sharded, so that any number of processes can read them; a collective."""
    with _alone_without_a_warning(), _own_errors():
        checkpoint.save(dict(tensors), checkpoint_id=folder, no_dist=n_processes == 1)


def read_tensors(tensors: dict[str, Tensor], folder: Path, n_processes: int) -> None:
    """Reads the tensors of :func:`write_tensors` in place into tensors of equal names and shapes; a collective."""
    with _alone_without_a_warning(), _own_errors(), torch.no_grad():
        checkpoint.load(dict(tensors), checkpoint_id=folder, no_dist=n_processes == 1)


@contextmanager
def _alone_without_a_warning() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


@contextmanager
def _own_errors() -> Iterator[None]:
    """Raises what failed in a process, an interrupt first, in place of torch's exception that wraps it."""
    try:
        yield
    except checkpoint.CheckpointException as error:  # Not an Exception, so nothing else would report it.
        failures = [failure for failure, _ in error.failures.values()]
        interrupts = [failure for failure in failures if isinstance(failure, KeyboardInterrupt)]
        raise (interrupts or failures or [error])[0] from None


def hash_model(path: str, revision: str | None) -> dict[str, str]:
    """Identifies a model by its contents: a hash of every file in its folder, or the commit of a hub id."""
    if not Path(path).is_dir():
        from transformers import AutoConfig

        hub.no_answer()
        commit = getattr(AutoConfig.from_pretrained(path, revision=revision), "_commit_hash", None)
        return {f"model {path}": str(commit)}
    files = sorted(file for file in Path(path).iterdir() if file.is_file() and file.suffix not in ("", ".md"))
    return {f"model file {file.name}": hash_file(file) for file in files}


def hash_file(path: Path) -> str:
    """Hash of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
