"""Processes and devices, through accelerate. One process is the simple case of many."""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from rl.metrics import Ratio


class Distributed:
    """What the trainer needs to know of accelerate.

    Args:
        cpu: Stay on the CPU even where there is an accelerator.
    """

    def __init__(self, cpu: bool = False) -> None:
        self._accelerator = Accelerator(cpu=cpu)

    @property
    def device(self) -> torch.device:
        """This process's device."""
        return self._accelerator.device

    @property
    def rank(self) -> int:
        """Index of this process."""
        return self._accelerator.process_index

    @property
    def n_processes(self) -> int:
        """Number of processes."""
        return self._accelerator.num_processes

    @property
    def is_main(self) -> bool:
        """Whether this process writes files."""
        return self._accelerator.is_main_process

    def prepare_model(self, model: Any) -> Any:
        """Moves the model to its device and wraps it for data-parallel training if there are several processes."""
        return self._accelerator.prepare_model(model)

    def prepare_optimizer(self, optimizer: torch.optim.Optimizer) -> Any:
        """Wraps an optimizer."""
        return self._accelerator.prepare_optimizer(optimizer)

    def no_sync(self, model: Any) -> AbstractContextManager:
        """Gradients stay local inside: for all micro-batches but the last."""
        return self._accelerator.no_sync(model)

    def backward(self, loss: Tensor) -> None:
        """Accumulates gradients."""
        self._accelerator.backward(loss)

    def clip_grad_norm(self, parameters: Iterable[torch.nn.Parameter], max_norm: float) -> float:
        """Scales gradients down to a norm and returns the norm before."""
        norm = self._accelerator.clip_grad_norm_(list(parameters), max_norm)
        assert norm is not None  # only a DeepSpeed engine, which clips by itself, returns nothing
        return float(norm)

    def sum(self, values: Tensor) -> Tensor:
        """Sum over processes, elementwise."""
        if self.n_processes == 1:
            return values
        summed = self._accelerator.reduce(values.to(self.device), reduction="sum")
        assert isinstance(summed, Tensor)
        return summed.cpu()

    def sum_ratios(self, ratios: dict[str, Ratio]) -> dict[str, Ratio]:
        """Ratios added over processes; every process must hold the same names."""
        if self.n_processes == 1:
            return ratios
        names = sorted(ratios)
        table = torch.tensor([[ratios[name].num, ratios[name].den] for name in names], dtype=torch.float64)
        return {name: Ratio(*row) for name, row in zip(names, self.sum(table).tolist(), strict=True)}

    def wait(self) -> None:
        """Until every process is here."""
        self._accelerator.wait_for_everyone()
