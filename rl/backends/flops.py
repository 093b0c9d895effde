"""Device utilisation of the update: model FLOPs, counted as in TRL, and peak memory."""

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
    """Numbers that are needed for the model FLOPs utilisation (MFU).

    Args:
        per_token: FLOPs of forward and backward pass per token.
        peak: Peak FLOPs per second of the device; ``None`` if unknown, as for every CPU.
    """

    per_token: float
    peak: float | None

    @classmethod
    def of(cls, model: Any, device: torch.device, config: TrainConfig) -> "Flops":
        """The numbers for a model on a device, with the longest possible answers of an episode as sequence length."""
        if device.type != "cuda":
            return cls(0.0, None)
        from trl.trainer.utils import compute_flops_per_token, get_peak_flops

        dtype = "bfloat16" if config.algorithm.optim.mixed_precision == "bf16" else config.model.dtype
        attempts = max(stage.attempts for stage in config.algorithm.resolved(config.env.attempts))
        try:
            peak = get_peak_flops(torch.cuda.get_device_name(device), dtype)
            per_token = compute_flops_per_token(bare_model(model).config, config.env.token_budget(attempts))
        except Exception:  # TRL does not know all layers and devices, and a metric must not stop a run
            return cls(0.0, None)
        return cls(float(per_token), peak)


def peak_memory_gib(device: torch.device) -> float:
    """Peak memory of this process in GiB: allocated GPU memory, or resident memory on a CPU."""
    # Memory allocated for tensors, without memory that PyTorch's allocator has only reserved.
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 2**20
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kibibytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def memory_gib(device: torch.device) -> float:
    """Current memory of this process in GiB, counted as in :func:`peak_memory_gib`, after releasing freed memory."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device) / 2**30
    gc.collect()
    release_freed()
    return psutil.Process().memory_info().rss / 2**30


def release_freed() -> None:
    """Returns the freed memory of this process to the system, if its C library is glibc."""
    # Updates, sampling and evaluations allocate blocks of different sizes, which do not fit into each other's holes.
    # glibc keeps the holes, so that without this call SmolLM2-135M grew from 3.4 to 4.1 GiB in 15 steps.
    with contextlib.suppress(OSError, AttributeError):  # malloc_trim exists only in glibc
        ctypes.CDLL(None).malloc_trim(0)


def forget_peak(device: torch.device) -> None:
    """Resets the peak of :func:`peak_memory_gib`, where the system supports it (Linux, CUDA)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
