"""Verifiers: strings in, a :class:`~rewards.score.Score` out. This layer never sees messages, token ids or tensors."""

from rewards.lookup import Lookup, UnknownNameError, nearest
from rewards.score import Score, Verdict

__all__ = ["Lookup", "Score", "UnknownNameError", "Verdict", "nearest"]
