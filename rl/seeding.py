"""Seeds are derived from coordinates, never added up: neighbours are unrelated, and order does not matter."""

import hashlib
import random

import numpy as np
import torch


def derive_seed(run_seed: int, *coordinates: str | int) -> int:
    """63 bits from a run seed and coordinates, as in ``derive_seed(0, "train", step, task_id, member, turn)``."""
    text = "/".join(map(str, (run_seed, *coordinates)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def seed_everything(seed: int) -> None:
    """Seeds the global generators of python, numpy and torch, for libraries that draw from them."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def uniforms(seeds: np.ndarray, position: int) -> np.ndarray:
    """One uniform number in [0, 1) per seed: a hash of (seed, position), so that no generator state is needed.

    The finaliser is splitmix64's (Steele, Lea, Flood, OOPSLA 2014).

    Args:
        seeds: ``[B]`` uint64.
        position: Index of the sampled token within its turn.
    """
    offset = (position + 1) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
    x = seeds + np.uint64(offset)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x = x ^ (x >> np.uint64(31))
    return (x >> np.uint64(11)).astype(np.float64) * 2.0**-53
