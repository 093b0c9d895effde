"""Tournaments: how good a group's members are, and how far a judge agrees with itself, from pairwise votes.

As in SERL (arXiv 2511.07922, section 3): every pair is judged in both orders, a member earns the share of its
comparisons that it wins, and a judgment is paid for agreeing with the order in which all judgments together put the
pair. Both are functions of votes alone, so that nothing but the judge decides what they say.
"""

import numpy as np


def ordered_pairs(n: int, both_orders: bool = True) -> np.ndarray:
    """``[O, 2]`` who is shown first and second; the swapped orders follow in the order of the first ones."""
    pairs = np.array([(i, j) for i in range(n) for j in range(i + 1, n)], dtype=int).reshape(-1, 2)
    return np.concatenate([pairs, pairs[:, ::-1]]) if both_orders else pairs


def copeland(first_BOK: np.ndarray, pairs: np.ndarray, lengths_BN: np.ndarray, tolerance: float = 0.2) -> np.ndarray:
    """``[B, N]`` share of a member's judgments that it wins, paid only against members of about its own length.

    A judgment won by i against j is worth ``len_j / len_i`` where ``(1 - tolerance) len_j < len_i <
    (1 + tolerance) len_j`` and nothing otherwise (SERL's length gate: winning by being longer does not pay). Every
    member meets every other one equally often, and lost or gated judgments stay in the denominator, as published.

    Args:
        first_BOK: 1 where the one shown first won, 0 where the second did, 1/2 for neither; K judgments of each order.
        pairs: ``[O, 2]``, from :func:`ordered_pairs`.
        lengths_BN: Lengths, at least 1; in any unit.
        tolerance: Width of the gate; ``inf`` for none, with a win worth 1.
    """
    n = lengths_BN.shape[1]
    wins_BO, n_judged = first_BOK.sum(-1), first_BOK.shape[-1]
    won_BN = np.zeros(lengths_BN.shape)
    # A judgment of 1/2 counts half for either side.
    for o, (i, j) in enumerate(pairs):
        for winner, loser, wins in ((i, j, wins_BO[:, o]), (j, i, n_judged - wins_BO[:, o])):
            own, other = lengths_BN[:, winner], lengths_BN[:, loser]
            near = (own > (1 - tolerance) * other) & (own < (1 + tolerance) * other)
            worth = np.where(near, other / own, 0.0) if np.isfinite(tolerance) else 1.0
            won_BN[:, winner] += wins * worth
    meetings = np.bincount(np.ravel(pairs), minlength=n) * n_judged
    return won_BN / meetings


def agreement(first_BOK: np.ndarray, pairs: np.ndarray, scores_BN: np.ndarray) -> np.ndarray:
    """``[B, O, K]``: 1 where a judgment agrees with the order of the scores, -1 where it does not, 0 on ties."""
    order_BO = np.sign(scores_BN[:, pairs[:, 0]] - scores_BN[:, pairs[:, 1]])
    return order_BO[..., None] * np.sign(2 * first_BOK - 1)
