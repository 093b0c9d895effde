"""Cost of a full size: tokens that are sampled, read and trained, and the GPU hours that follow from them.

Each study counts tokens from its settings, with answers of maximal length. A forward pass takes two operations per
parameter and token, training six (with adapters the weights need no gradient, but activations are computed twice
instead). Hours follow from the peak of a GPU and the share of the peak that is reached with many rows at once. Passes
over the weights for only a few rows take additional time: that of reading the weights from memory.
"""

from collections.abc import Mapping
from dataclasses import astuple, dataclass

from rewards.wording import counted
from rl.analysis.printing import fixed


@dataclass(frozen=True)
class Work:
    """Numbers of tokens by kind of work.

    Args:
        sampled: Tokens that are decoded one after the other.
        read: Tokens of prompts and of scored texts, which take one forward pass.
        trained: Tokens with a forward and a backward pass.
        passes: Passes over all weights for a few short rows only, such as decoding one token for fewer than 16 rows; a
            training step on one line counts as three.
    """

    sampled: float = 0.0
    read: float = 0.0
    trained: float = 0.0
    passes: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(*(one + more for one, more in zip(astuple(self), astuple(other), strict=True)))

    def __mul__(self, factor: float) -> "Work":
        return Work(*(factor * one for one in astuple(self)))

    __rmul__ = __mul__


@dataclass(frozen=True)
class Gpu:
    """A GPU and the assumed shares of its peak that are reached.

    Args:
        name: Name of the GPU.
        peak: Peak operations per second, dense, bfloat16.
        bandwidth: Memory bandwidth in bytes per second.
        sampling: Share of the peak that is reached in decoding.
        reading: Share of the peak in passes without gradients.
        training: Share of the peak in passes with gradients.
    """

    name: str
    peak: float
    bandwidth: float
    sampling: float
    reading: float
    training: float

    def hours(self, parameters: float, work: Work) -> float:
        """GPU hours of some work with a model of the given number of parameters."""
        seconds = work.sampled / self.sampling + work.read / self.reading + 3 * work.trained / self.training
        # The factor 2 is two operations per parameter and token, and for passes two bytes per weight.
        return 2 * parameters * (seconds / self.peak + work.passes / self.bandwidth) / 3600

    @property
    def shares(self) -> str:
        """The shares in words."""
        parts = (("sampling", self.sampling), ("reading", self.reading), ("training", self.training))
        return ", ".join(f"{name} {fixed(100 * share, 1)} %" for name, share in parts)


H100 = Gpu("NVIDIA H100 80GB", 989e12, 3.35e12, sampling=0.05, reading=0.3, training=0.3)
"""Peak and bandwidth are from NVIDIA's data sheet (SXM, dense). The shares are those that a model of several billion
parameters is expected to reach with large batches; they were not measured in this project."""
H100_MEASURED = Gpu("NVIDIA H100 80GB", 989e12, 3.35e12, sampling=0.009, reading=0.058, training=0.058)
"""The same GPU with the shares that this project measured with 0.5B parameters and 64 rows (``docs/performance.md``). A
small model does not fill the GPU, so hours by these shares are a cautious estimate, but no upper bound."""


def hours(value: float) -> str:
    """Hours as text, with fewer decimals for larger numbers: ``250``, ``7.3``, ``0.04``."""
    return fixed(value, 0 if value >= 20 else 1 if value >= 1 else 2)


def table(parameters: float, by_arm: Mapping[str, Work], n_seeds: int) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a table with tokens and GPU hours of each arm with one seed, of one seed, and of all seeds."""
    total = sum(by_arm.values(), Work())
    lines = [*by_arm.items(), ("a seed", total), (counted(n_seeds, "seed"), n_seeds * total)]
    header = ["arm", "sampled tokens", "read", "trained", "GPU hours", "at shares measured with 0.5B"]
    return header, [
        [name, *(fixed(value, 0) for value in (one.sampled, one.read, one.trained)),
         *(hours(gpu.hours(parameters, one)) for gpu in (H100, H100_MEASURED))]
        for name, one in lines
    ]  # fmt: skip
