"""What a full size costs: tokens that are sampled, read and trained, and the GPU hours that follow from them.

Tokens are counted by each study from its own settings, with answers as long as they may be; operations are two for each
parameter and token of a forward pass, six for each trained token (with adapters the weights need no gradient, and their
activations are computed twice instead). Hours follow from the peak of a GPU and the share of it that is reached, which
takes many rows at once; what passes over the weights for a few rows alone takes as long as they take to be read, too.
"""

from collections.abc import Mapping
from dataclasses import astuple, dataclass

from rewards.wording import counted
from rl.analysis.printing import fixed


@dataclass(frozen=True)
class Work:
    """Tokens by what is done with them.

    Args:
        sampled: Decoded one after the other.
        read: Of prompts and of texts that are scored, in one pass.
        trained: Forward and backward.
        passes: Over all weights for a few short rows: a token that is decoded for less than sixteen, say; three for a
            step of training on one line.
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
    """A GPU and the shares of its peak that are taken to be reached.

    Args:
        name: Of the GPU.
        peak: Operations a second, dense, bfloat16.
        bandwidth: Bytes of memory that are read a second.
        sampling: Share while decoding.
        reading: Share in passes without gradients.
        training: Share in passes with them.
    """

    name: str
    peak: float
    bandwidth: float
    sampling: float
    reading: float
    training: float

    def hours(self, parameters: float, work: Work) -> float:
        """GPU hours of some work with a model of so many parameters."""
        seconds = work.sampled / self.sampling + work.read / self.reading + 3 * work.trained / self.training
        return 2 * parameters * (seconds / self.peak + work.passes / self.bandwidth) / 3600  # two bytes a weight

    @property
    def shares(self) -> str:
        """The shares in words."""
        parts = (("sampling", self.sampling), ("reading", self.reading), ("training", self.training))
        return ", ".join(f"{name} {fixed(100 * share, 1)} %" for name, share in parts)


H100 = Gpu("NVIDIA H100 80GB", 989e12, 3.35e12, sampling=0.05, reading=0.3, training=0.3)
"""Peak and bandwidth from NVIDIA's data sheet (SXM, dense). The shares are what a model of several billion
parameters is expected to reach with large batches; they were not measured here."""
H100_MEASURED = Gpu("NVIDIA H100 80GB", 989e12, 3.35e12, sampling=0.009, reading=0.058, training=0.058)
"""The shares that this project measured with 0.5B parameters and 64 rows (``docs/performance.md``): a small model does
not fill the GPU, so that hours by these shares are a cautious reading, and no bound."""


def hours(value: float) -> str:
    """Hours as people write them: ``250``, ``7.3``, ``0.04``."""
    return fixed(value, 0 if value >= 20 else 1 if value >= 1 else 2)


def table(parameters: float, by_arm: Mapping[str, Work], n_seeds: int) -> tuple[list[str], list[list[str]]]:
    """Tokens and GPU hours of each arm with one seed, of a seed, and of all: a header and rows."""
    total = sum(by_arm.values(), Work())
    lines = [*by_arm.items(), ("a seed", total), (counted(n_seeds, "seed"), n_seeds * total)]
    header = ["arm", "sampled tokens", "read", "trained", "GPU hours", "at shares measured with 0.5B"]
    return header, [
        [name, *(fixed(value, 0) for value in (one.sampled, one.read, one.trained)),
         *(hours(gpu.hours(parameters, one)) for gpu in (H100, H100_MEASURED))]
        for name, one in lines
    ]  # fmt: skip
