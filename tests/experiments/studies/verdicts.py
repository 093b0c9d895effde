"""What every study owes: claims that hold, do not hold, or were not measured, as its rows have it."""

from rl.analysis.claims import Verdict, judge


def follow(claims, as_claimed, contrary):
    """Rows as the claims say, contrary ones, and none: each claim gives its verdict."""
    for claim in claims:
        found = [judge(claim, rows).verdict for rows in (as_claimed, contrary, [])]
        assert found == [Verdict.HOLDS, Verdict.DOES_NOT_HOLD, Verdict.NOT_MEASURED], claim.name
