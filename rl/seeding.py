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
