"""Processes and devices, through accelerate and torch. One process is the simple case of many.

``accelerate launch --config_file configs/accelerate/<kind>.yaml`` decides what it is: one process, data parallel (DDP),
or sharded weights (FSDP2). The sharding itself is torch's ``fully_shard``, the same code on GPUs and on CPUs with gloo,
so that tests without a GPU run what clusters run.
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
"""Between the last collective and the end of the process group."""


class Distributed:
    """What the trainer needs to know of processes and devices.

    Args:
        cpu: Stay on the CPU even where there is a GPU. Other accelerators than CUDA's are left alone: nothing of this
            has been tried on them, and the measurements need float64.
        mixed_precision: ``no``, or ``bf16``: forward passes run in bfloat16 over float32 weights.

    Raises:
        ValueError: If the launcher asks for a kind of sharding that is not supported, or for a port that is taken.
    """

    def __init__(self, cpu: bool = False, mixed_precision: str = "no") -> None:
        self.shards = _wants_fsdp2()
        try:
            self._accelerator = Accelerator(cpu=cpu or not torch.cuda.is_available())
        except DistNetworkError as error:
            if "EADDRINUSE" not in str(error):
                raise
            raise ValueError(
                f"MASTER_PORT={os.environ.get('MASTER_PORT')}: another program listens at this port, at which the "
                "run's processes meet; give accelerate launch another one, --main_process_port=<number>, or 0 for any"
            ) from None
        self.device: torch.device = self._accelerator.device
        self.rank: int = self._accelerator.process_index
        self.n_processes: int = self._accelerator.num_processes
        self.is_main: bool = self._accelerator.is_main_process
        """Whether this process writes files."""
        bf16 = partial(torch.autocast, self.device.type, torch.bfloat16)
        self.autocast: Callable[[], AbstractContextManager] = bf16 if mixed_precision == "bf16" else nullcontext
        """The precision of forward passes."""

    def prepare_model(self, model: nn.Module, layers: Iterable[nn.Module] = ()) -> Any:
        """Moves a model to its device and shards or replicates it if there are several processes.

        Args:
            model: What is called in forward passes.
            layers: Its parts that are gathered one at a time when weights are sharded.
        """
        model = model.to(self.device)
        if self.shards and self.n_processes > 1:
            from torch.distributed.fsdp import fully_shard

            # Layers first: each is gathered for its own forward and backward pass and let go after it; what is left
            # (embedding, norm, head) is gathered with the whole.
            keep = os.environ.get("FSDP_RESHARD_AFTER_FORWARD", "true").lower() == "false"
            for layer in layers:
                fully_shard(layer, reshard_after_forward=not keep)
            return fully_shard(model, reshard_after_forward=not keep)
        if not any(parameter.requires_grad for parameter in model.parameters()):
            return model  # a frozen model has nothing to synchronise
        return self._accelerator.prepare_model(model)

    def no_sync(self, model: Any) -> AbstractContextManager:
        """Gradients stay local inside, for all micro-batches but the last; sharded ones are reduced at once."""
        return nullcontext() if self.shards else self._accelerator.no_sync(model)

    def sum(self, values: Tensor) -> Tensor:
        """Sum over processes, elementwise; on the CPU."""
        if self.n_processes == 1:
            return values
        summed = self._accelerator.reduce(values.to(self.device), reduction="sum")
        assert isinstance(summed, Tensor)
        return summed.cpu()

    def gather(self, items: Sequence[Item]) -> list[Item]:
        """The items of all processes, by rank, on every process."""
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
        """What this process makes of it; an error of any process is raised on every one.

        Args:
            work: Without collectives: the others would wait in them for a process that has left with an error.

        Raises:
            RunStoppedError: If it failed on other processes alone; with the error of the first of them.
        """
        if self.n_processes == 1:
            return work()
        result: Any = None
        error: Exception | None = None
        try:
            result = work()
        except Exception as caught:
            error = caught
        # As words, since not every error can be sent. The process that it happened on raises it itself.
        said = self.gather([] if error is None else [f"process {self.rank}: {type(error).__name__}: {error}"])
        if error is not None:
            raise error
        if said:
            raise RunStoppedError(f"another process failed, so that this one cannot go on: {said[0]}")
        return result

    def on_main(self, work: Callable[[], Item]) -> Item:
        """What the main process makes of it, on every process; an error of it is raised on every one too."""
        result: Any = None
        error: Exception | None = None
        if self.is_main:
            try:
                result = work()
            except Exception as caught:
                error = caught
        # An error is sent too: a process that waited for a result would wait until the time limit of the group.
        result, error = self.broadcast((result, error))
        if error is not None:
            raise error
        return result

    def sum_ratios(self, ratios: dict[str, Ratio]) -> dict[str, Ratio]:
        """Ratios added over processes; every process must hold the same names."""
        if self.n_processes == 1:
            return ratios
        # Sorted, since the sum is over places: every process must put the same name at the same one. Numerators and
        # denominators are added apart, so that a process with more tokens weighs more.
        names = sorted(ratios)
        table = torch.tensor([[ratios[name].num, ratios[name].den] for name in names], dtype=torch.float64)
        return {name: Ratio(*row) for name, row in zip(names, self.sum(table).tolist(), strict=True)}

    def wait(self) -> None:
        """Until every process is here."""
        self._accelerator.wait_for_everyone()

    def close(self) -> None:
        """Leaves the process group; the last thing that a process does.

        gloo's thread lets go of a collective a moment after it is done, and takes the interpreter's lock to do so.
        Tearing the group down holds that lock while it waits for the thread: in that moment both wait for ever.
        """
        if self.n_processes > 1:
            self.wait()
            time.sleep(SETTLE_S)
            self._accelerator.end_training()


def _wants_fsdp2() -> bool:
    """Reads what ``accelerate launch`` was told, and keeps accelerate from sharding by itself."""
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
    # Remembered under a name of our own, for the next time that it is asked for in this process.
    os.environ["ERRATA_FSDP2"] = "true"
    return True


def full(tensor: Tensor) -> Tensor:
    """The whole of a tensor that may be sharded; every process must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor that may be sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
