"""Size ``full`` of the studies: each paper's setting for a chat model of 1 to 8B parameters, in a file each.

A file here is a study module (:mod:`experiments.studies`) of the same claims, with questions in words instead of a toy
language, and says four things more: ``EXPECTED``, what each claim that it measures is expected to come to and why;
``work(cfg)``, the tokens of each arm; ``DRY``, the settings of a dry run; and, in its docstring, what is simplified.
``python -m experiments.study study=<name> size=full`` prints all of it and runs the same code on a model of the same
architecture with random weights; ``dry_run=false settings.model=<folder>`` runs it for real.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from rl.analysis.claims import Claim, Figure, Verdict


@dataclass(frozen=True)
class Expected:
    """What a claim is expected to come to at full size.

    Args:
        claim: Its name.
        verdict: What the interval will say.
        why: The reason, with its source.
        sentence: The claim in words of this size, where the study's speak of its toy.
    """

    claim: str
    verdict: Verdict
    why: str
    sentence: str = ""


HOLDS, FAILS, OPEN = Verdict.HOLDS, Verdict.DOES_NOT_HOLD, Verdict.CANNOT_TELL


def carried(claims: Sequence[Claim], expected: Sequence[Expected]) -> tuple[Claim, ...]:
    """The claims of a study that its full size measures: those for which something is expected.

    Raises:
        ValueError: If something is expected of a claim that there is not.
    """
    by_name = {one.name: one for one in claims}
    if missing := [one.claim for one in expected if one.claim not in by_name]:
        raise ValueError(f"expected of claims that there are not: {', '.join(missing)}")
    return tuple(replace(by_name[one.claim], sentence=one.sentence or by_name[one.claim].sentence) for one in expected)


def figures_of(exhibits: Sequence[Any], *without: str) -> tuple[Any, ...]:
    """A study's figures without what they say of its toy, and without those whose columns there are not, by title."""
    return tuple(
        replace(one, caption="", y_label="") if isinstance(one, Figure) else one
        for one in exhibits
        if getattr(one, "title", "") not in without
    )


@dataclass
class Setting:
    """What all full sizes have in common.

    Args:
        model: Name in :data:`experiments.full.shapes.SHAPES`, or a folder.
        rank: Of the adapters that are trained; their scale is twice the rank.
        lr: Learning rate of the adapters.
        prompt: Tokens of a question, for the estimate alone.
        max_new: Most tokens of an answer.
        n_signal: Training questions on which a reward is held against the truth before training.
    """

    model: str = ""
    rank: int = 32
    lr: float = 1e-5
    prompt: int = 150
    max_new: int = 512
    n_signal: int = 400


@dataclass
class Asked(Setting):
    """Of full sizes whose questions a checker grades.

    Args:
        data: Id of the questions' environment, or ``products``.
        data_path: Folder of its files; empty for its default.
        largest: Largest factor of ``products``, of the most digits that are asked.
    """

    data: str = "errata/gsm8k-v1"
    data_path: str = ""
    largest: int = 999
