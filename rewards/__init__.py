"""Verifiers: strings in, a :class:`~rewards.score.Score` out. This layer never sees messages, token ids or tensors."""

from rewards.score import Score, Verdict

__all__ = ["Score", "Verdict"]
