"""How much of the device the update uses: model FLOPs and peak memory, with TRL's accounting."""

import contextlib
import ctypes
import gc
import resource
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from rl.backends.lora import bare_model
from rl.config import TrainConfig


@dataclass(frozen=True, slots=True)
class Flops:
    """Model FLOPs utilisation on a device whose peak is known.

    Args:
        per_token: FLOPs of forward and backward pass per token.
        peak: FLOPs per second that the device can do, ``None`` where it is not known (every CPU).
    """

    per_token: float
    peak: float | None

    @classmethod
    def of(cls, model: Any, device: torch.device, config: TrainConfig) -> "Flops":
        """For a model on a device; the sequence length is the longest that the run can have."""
        if device.type != "cuda":
            return cls(0.0, None)
        from trl.trainer.utils import compute_flops_per_token, get_peak_flops

        dtype = "bfloat16" if config.algorithm.optim.mixed_precision == "bf16" else config.model.dtype
        attempts = max(stage.attempts for stage in config.algorithm.resolved(config.env.attempts))
        try:
            peak = get_peak_flops(torch.cuda.get_device_name(device), dtype)
            per_token = compute_flops_per_token(bare_model(model).config, config.env.token_budget(attempts))
        except Exception:  # TRL knows some layers and devices; a metric never stops a run
            return cls(0.0, None)
        return cls(float(per_token), peak)


def peak_memory_gib(device: torch.device) -> float:
    """Most memory that this process has held: the GPU's, or resident on a CPU."""
    # Of what tensors took, not of what PyTorch's allocator has reserved and could give back.
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 2**20
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kibibytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def memory_gib(device: torch.device) -> float:
    """Memory that this process holds, after giving back what it has freed; counted as in :func:`peak_memory_gib`."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device) / 2**30
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # glibc's
        ctypes.CDLL(None).malloc_trim(0)
    return psutil.Process().memory_info().rss / 2**30


def forget_peak(device: torch.device) -> None:
    """Lets :func:`peak_memory_gib` begin anew, where the system can do that (Linux, CUDA)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
