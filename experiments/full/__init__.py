"""Size ``full`` of the studies: each paper's setting for a language model of 1 to 8B parameters, one file per study.

Each file is a study module (:mod:`experiments.studies`) with claims of the same study, mostly with questions in natural
language instead of a toy language. It has three more attributes: ``EXPECTED``, the expected verdict on each claim that
it measures, with reasons; ``work(cfg)``, the tokens of each arm; and ``DRY``, the settings of a dry run. Its docstring
says what is simplified. ``python -m experiments.study study=<name> size=full`` prints setting, expectations and cost,
and runs the same code on a model of the same architecture with random weights; ``dry_run=false
settings.model=<folder>`` runs it for real.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from rl.analysis.claims import Claim, Figure, Verdict


@dataclass(frozen=True)
class Expected:
    """Expected verdict on a claim at full size.

    Args:
        claim: Name of the claim.
        verdict: Expected verdict.
        why: Reason for the expectation, with its source.
        sentence: Wording of the claim for the full size; empty keeps the study's own wording.
    """

    claim: str
    verdict: Verdict
    why: str
    sentence: str = ""


HOLDS, FAILS, OPEN = Verdict.HOLDS, Verdict.DOES_NOT_HOLD, Verdict.CANNOT_TELL


def carried(claims: Sequence[Claim], expected: Sequence[Expected]) -> tuple[Claim, ...]:
    """Returns the claims of a study that its full size measures: those with an expected verdict.

    Raises:
        ValueError: If ``expected`` names a claim that the study does not have.
    """
    by_name = {one.name: one for one in claims}
    if missing := [one.claim for one in expected if one.claim not in by_name]:
        raise ValueError(f"EXPECTED names claims that do not exist: {', '.join(missing)}")
    return tuple(replace(by_name[one.claim], sentence=one.sentence or by_name[one.claim].sentence) for one in expected)


def figures_of(exhibits: Sequence[Any], *without: str) -> tuple[Any, ...]:
    """Returns a study's exhibits without the toy's captions, and without those whose titles are in ``without``."""
    return tuple(
        replace(one, caption="", y_label="") if isinstance(one, Figure) else one
        for one in exhibits
        if getattr(one, "title", "") not in without
    )


@dataclass
class Setting:
    """Settings that full sizes with training share.

    Args:
        model: Name in :data:`experiments.full.shapes.SHAPES`, or a folder.
        rank: LoRA rank of the trained adapters; their alpha is twice the rank.
        lr: Learning rate of the adapters.
        prompt: Tokens of a question; only for the cost estimate.
        max_new: Largest number of tokens of an answer.
        n_signal: Training questions on which a reward is compared with the truth before training.
    """

    model: str = ""
    rank: int = 32
    lr: float = 1e-5
    prompt: int = 150
    max_new: int = 512
    n_signal: int = 400


@dataclass
class Asked(Setting):
    """Settings of full sizes whose questions are graded by a checker.

    Args:
        data: Id of the environment that has the questions, or ``products``.
        data_path: Folder of the environment's files; empty for its default.
        largest: Largest factor of ``products``, such as 999 for factors of three digits.
    """

    data: str = "errata/gsm8k-v1"
    data_path: str = ""
    largest: int = 999
