"""How a second attempt revises the first: kinds of revision, and the edit distance between the two texts."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from rl.analysis.metrics import Ratio, declare
from rl.analysis.rates import edit_ratio

if TYPE_CHECKING:  # rl.types imports torch, which is not needed to read results
    from rl.types import Turn

EDIT_BINS = 20
"""Number of bins of an edit-ratio histogram over [0, 1]."""


class Kind(StrEnum):
    """Kind of revision: correct or incorrect before and after, and, if that stays the same, copied or rewritten."""

    FIXED = "i_to_c"
    BROKEN = "c_to_i"
    RIGHT_COPIED = "c_to_c_copied"
    RIGHT_REWRITTEN = "c_to_c_rewritten"
    WRONG_COPIED = "i_to_i_copied"
    WRONG_REWRITTEN = "i_to_i_rewritten"


@dataclass(frozen=True, slots=True)
class Revision:
    """Two attempts at one task; the second attempt (``final``) was written after reading the first (``draft``)."""

    draft: str
    final: str
    draft_right: bool
    final_right: bool
    draft_error: str = ""
    """Kind of error that the draft makes; empty if the draft is right."""

    @classmethod
    def of(cls, draft: "Turn", final: "Turn") -> "Revision":
        """Builds a revision from two turns of an episode, or from turns of two episodes of the same task."""
        return cls(draft.text, final.text, draft.correct, final.correct, draft.error)

    @property
    def kind(self) -> Kind:
        """The kind of this revision."""
        copied = self.draft == self.final
        if self.final_right:
            return Kind.FIXED if not self.draft_right else Kind.RIGHT_COPIED if copied else Kind.RIGHT_REWRITTEN
        return Kind.BROKEN if self.draft_right else Kind.WRONG_COPIED if copied else Kind.WRONG_REWRITTEN


def kind_shares(revisions: Sequence[Revision]) -> dict[str, Ratio]:
    """Share of each kind among the revisions, named ``data/<kind>``, as ratios that can be summed over batches."""
    n = float(len(revisions))
    kinds = [revision.kind for revision in revisions]
    return {f"data/{kind.value}": Ratio(float(kinds.count(kind)), n) for kind in Kind}


def draft_errors(revisions: Iterable[Revision]) -> dict[str, int]:
    """Number of drafts that make each kind of error; right drafts are not counted."""
    return dict(Counter(revision.draft_error for revision in revisions if not revision.draft_right))


def edit_histogram(revisions: Iterable[Revision]) -> dict[str, list[int]]:
    """Histogram of edit ratios in :data:`EDIT_BINS` equal bins for each kind; a ratio of 1 falls into the last bin."""
    counts = {kind.value: [0] * EDIT_BINS for kind in Kind}
    for revision in revisions:
        ratio = edit_ratio(revision.draft, revision.final)
        counts[revision.kind.value][min(EDIT_BINS - 1, int(ratio * EDIT_BINS))] += 1
    return counts


_PATHS = {
    Kind.FIXED: "wrong -> right",
    Kind.BROKEN: "right -> wrong",
    Kind.RIGHT_COPIED: "right -> the same text",
    Kind.RIGHT_REWRITTEN: "right -> another text that is right",
    Kind.WRONG_COPIED: "wrong -> the same text",
    Kind.WRONG_REWRITTEN: "wrong -> another text that is wrong",
}
declare({f"data/{kind.value}": ("fraction", f"share of training samples: {path}") for kind, path in _PATHS.items()})
