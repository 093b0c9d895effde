"""A check for the claims of every study: verdicts depend on the rows."""

from rl.analysis.claims import Verdict, judge


def follow(claims, as_claimed, contrary):
    """Asserts that a claim holds on rows made for it, does not hold on contrary rows, and needs rows to be measured."""
    for claim in claims:
        found = [judge(claim, rows).verdict for rows in (as_claimed, contrary, [])]
        assert found == [Verdict.HOLDS, Verdict.DOES_NOT_HOLD, Verdict.NOT_MEASURED], claim.name
