"""Tournaments: how good a group's members are, and how consistent their judge is, from pairwise votes.

As in SERL (arXiv 2511.07922, section 3): every pair is judged in both orders, a member earns the share of its
comparisons that it wins, and a judgment is rewarded for agreeing with the order that all judgments together give the
pair. Scores and rewards depend on votes and answer lengths alone, never on the truth.
"""

import numpy as np


def ordered_pairs(n: int, both_orders: bool = True) -> np.ndarray:
    """Pairs of members, ``[O, 2]``, as shown first and second; the swapped pairs follow in the same order."""
    pairs = np.array([(i, j) for i in range(n) for j in range(i + 1, n)], dtype=int).reshape(-1, 2)
    return np.concatenate([pairs, pairs[:, ::-1]]) if both_orders else pairs


def copeland(first_BOK: np.ndarray, pairs: np.ndarray, lengths_BN: np.ndarray, tolerance: float = 0.2) -> np.ndarray:
    """Share of a member's judgments that it wins, ``[B, N]``, where only wins against similar lengths count.

    A judgment won by i against j is worth ``len_j / len_i`` where ``(1 - tolerance) len_j < len_i <
    (1 + tolerance) len_j`` and nothing otherwise (SERL's length gate: winning by being longer does not pay). Every
    member meets every other member equally often, and lost or gated judgments stay in the denominator, as published.

    Args:
        first_BOK: 1 where the member shown first won, 0 where the second won, 1/2 for a tie; K judgments of each
            ordered pair.
        pairs: ``[O, 2]``, from :func:`ordered_pairs`.
        lengths_BN: Length of each member's answer, at least 1, in any unit.
        tolerance: Width of the length gate; ``inf`` disables the gate, and every win is worth 1.
    """
    n = lengths_BN.shape[1]
    wins_BO, n_judged = first_BOK.sum(-1), first_BOK.shape[-1]
    won_BN = np.zeros(lengths_BN.shape)
    # A judgment of 1/2 counts as half a win for each side.
    for o, (i, j) in enumerate(pairs):
        for winner, loser, wins in ((i, j, wins_BO[:, o]), (j, i, n_judged - wins_BO[:, o])):
            own, other = lengths_BN[:, winner], lengths_BN[:, loser]
            near = (own > (1 - tolerance) * other) & (own < (1 + tolerance) * other)
            worth = np.where(near, other / own, 0.0) if np.isfinite(tolerance) else 1.0
            won_BN[:, winner] += wins * worth
    meetings = np.bincount(np.ravel(pairs), minlength=n) * n_judged
    return won_BN / meetings


def agreement(first_BOK: np.ndarray, pairs: np.ndarray, scores_BN: np.ndarray) -> np.ndarray:
    """Agreement of judgments with the order of the scores, ``[B, O, K]``: 1 if they agree, -1 if not, 0 on ties."""
    order_BO = np.sign(scores_BN[:, pairs[:, 0]] - scores_BN[:, pairs[:, 1]])
    return order_BO[..., None] * np.sign(2 * first_BOK - 1)
