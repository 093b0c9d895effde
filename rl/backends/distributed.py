"""Processes and devices, through accelerate and torch. A single process runs through the same code.

``accelerate launch --config_file configs/accelerate/<kind>.yaml`` decides how a run is distributed: one process, data
parallel (DDP), or sharded weights (FSDP2). Sharding uses torch's ``fully_shard``, with the same code on GPUs and on
CPUs with gloo, so that tests without a GPU run the code that clusters run.
"""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed import DistNetworkError
from torch.distributed.tensor import DTensor

from rl.analysis.metrics import Ratio
from rl.types import RunStoppedError

Item = TypeVar("Item")
SETTLE_S = 0.5
"""Seconds between the last collective and the end of the process group; see :meth:`Distributed.close`."""


class Distributed:
    """The processes and the device of a run, as the trainer uses them.

    Args:
        cpu: Stay on the CPU even if there is a GPU. Accelerators other than CUDA are never used: the code has not been
            tested on them, and the measurements need float64.
        mixed_precision: ``no``, or ``bf16`` for forward passes in bfloat16 with float32 weights.

    Raises:
        ValueError: If the launcher asks for a kind of sharding that is not supported, or for a port that is in use.
    """

    def __init__(self, cpu: bool = False, mixed_precision: str = "no") -> None:
        self.shards = _wants_fsdp2()
        try:
            self._accelerator = Accelerator(cpu=cpu or not torch.cuda.is_available())
        except DistNetworkError as error:
            if "EADDRINUSE" not in str(error):
                raise
            raise ValueError(
                f"MASTER_PORT={os.environ.get('MASTER_PORT')}: another program uses this port, over which the run's "
                "processes connect; give accelerate launch --main_process_port=<another number>, or 0 for any free one"
            ) from None
        self.device: torch.device = self._accelerator.device
        self.rank: int = self._accelerator.process_index
        self.n_processes: int = self._accelerator.num_processes
        self.is_main: bool = self._accelerator.is_main_process
        """Whether this process writes files."""
        bf16 = partial(torch.autocast, self.device.type, torch.bfloat16)
        self.autocast: Callable[[], AbstractContextManager] = bf16 if mixed_precision == "bf16" else nullcontext
        """Context manager that sets the precision of forward passes."""

    def prepare_model(self, model: nn.Module, layers: Iterable[nn.Module] = ()) -> Any:
        """Moves a model to its device and, with several processes, shards or replicates it.

        Args:
            model: The module that is called in forward passes.
            layers: Parts of the model that are gathered one at a time if weights are sharded.
        """
        model = model.to(self.device)
        if self.shards and self.n_processes > 1:
            from torch.distributed.fsdp import fully_shard

            # Shard the layers first: each is gathered only for its own forward and backward pass and freed afterwards.
            # The remaining weights (embedding, norm, head) are gathered with the whole model.
            keep = os.environ.get("FSDP_RESHARD_AFTER_FORWARD", "true").lower() == "false"
            for layer in layers:
                fully_shard(layer, reshard_after_forward=not keep)
            return fully_shard(model, reshard_after_forward=not keep)
        if not any(parameter.requires_grad for parameter in model.parameters()):
            return model  # a frozen model has no gradients to synchronise
        return self._accelerator.prepare_model(model)

    def no_sync(self, model: Any) -> AbstractContextManager:
        """Context for all micro-batches but the last, in which gradients stay local; sharded gradients never do."""
        return nullcontext() if self.shards else self._accelerator.no_sync(model)

    def sum(self, values: Tensor) -> Tensor:
        """Elementwise sum over processes; with several processes the result is on the CPU."""
        if self.n_processes == 1:
            return values
        summed = self._accelerator.reduce(values.to(self.device), reduction="sum")
        assert isinstance(summed, Tensor)
        return summed.cpu()

    def gather(self, items: Sequence[Item]) -> list[Item]:
        """The items of all processes, in the order of ranks, on every process."""
        if self.n_processes == 1:
            return list(items)
        from accelerate.utils import gather_object

        return gather_object(list(items))

    def broadcast(self, item: Item) -> Item:
        """The main process's item, on every process."""
        if self.n_processes == 1:
            return item
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([item])[0]

    def together(self, work: Callable[[], Item]) -> Item:
        """Runs ``work`` on every process and returns this process's result; an error on any process stops all.

        Args:
            work: Must not use collectives: other processes would wait in them for a process that has failed.

        Raises:
            RunStoppedError: If ``work`` failed only on other processes; names the first of their errors. A process on
                which it failed raises its own error.
        """
        if self.n_processes == 1:
            return work()
        result: Any = None
        error: Exception | None = None
        try:
            result = work()
        except Exception as caught:
            error = caught
        # Errors are sent as text, since not every exception can be pickled. A failed process raises its own exception.
        said = self.gather([] if error is None else [f"process {self.rank}: {type(error).__name__}: {error}"])
        if error is not None:
            raise error
        if said:
            raise RunStoppedError(f"another process failed, so this one cannot continue: {said[0]}")
        return result

    def on_main(self, work: Callable[[], Item]) -> Item:
        """Runs ``work`` on the main process only; its result is returned, or its error raised, on every process."""
        result: Any = None
        error: Exception | None = None
        if self.is_main:
            try:
                result = work()
            except Exception as caught:
                error = caught
        # Errors are broadcast too: otherwise the other processes would wait for a result until the group's time limit.
        result, error = self.broadcast((result, error))
        if error is not None:
            raise error
        return result

    def sum_ratios(self, ratios: dict[str, Ratio]) -> dict[str, Ratio]:
        """Sums ratios over processes; every process must hold the same names."""
        if self.n_processes == 1:
            return ratios
        # The sum is over positions of a table, so names are sorted to be at the same position on every process.
        # Numerators and denominators are summed separately, so that a process with more tokens has more weight.
        names = sorted(ratios)
        table = torch.tensor([[ratios[name].num, ratios[name].den] for name in names], dtype=torch.float64)
        return {name: Ratio(*row) for name, row in zip(names, self.sum(table).tolist(), strict=True)}

    def wait(self) -> None:
        """Waits until every process has called this method."""
        self._accelerator.wait_for_everyone()

    def close(self) -> None:
        """Leaves the process group; must be the last call of a process.

        Waits for :data:`SETTLE_S` first, to avoid a deadlock: gloo's thread releases a collective a moment after it is
        done and needs the interpreter's lock for this, while tearing down the group holds the lock and waits for the
        thread.
        """
        if self.n_processes > 1:
            self.wait()
            time.sleep(SETTLE_S)
            self._accelerator.end_training()


def _wants_fsdp2() -> bool:
    """Whether ``accelerate launch`` was asked for FSDP2; also keeps accelerate from sharding the model itself."""
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
        raise ValueError(
            "DeepSpeed is not supported: take configs/accelerate/fsdp2.yaml, which shards weights, gradients and "
            "optimiser states as ZeRO-3 does"
        )
    wants = os.environ.pop("ACCELERATE_USE_FSDP", None) or os.environ.get("ERRATA_FSDP2", "false")
    if wants.lower() != "true":
        return False
    if os.environ.get("FSDP_VERSION", "2") != "2":
        raise ValueError("FSDP 1 is not supported: set fsdp_version: 2 in the accelerate config")
    # The variable was removed above, so the answer is kept under another name for later calls in this process.
    os.environ["ERRATA_FSDP2"] = "true"
    return True


def full(tensor: Tensor) -> Tensor:
    """The whole of a tensor that may be sharded; a collective, so every process must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor that may be sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
