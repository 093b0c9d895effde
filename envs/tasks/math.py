"""``math``: competition problems (Hendrycks et al. 2021, arXiv 2103.03874), tested on MATH-500 (arXiv 2305.20050).

Response: any text with the answer in ``\\boxed{...}``, or as ``answer_form`` says. Splits: ``train`` is MATH's training
split; ``test`` is MATH-500; ``validation`` is MATH's test split without MATH-500, which is a part of it. Left out are
rows without an answer, rows whose answer has to be read from a solution with several boxes (the last box may be only a
part of the answer), training questions that are in MATH's test split, and repeated questions.

Version history: v1, first.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from envs.base import Split, Task
from envs.published import HubCopy, Published, PublishedFile
from envs.tasks.grading import MathGrading, gold_text
from rewards.answers import REASONING, boxed
from rewards.math import DEADLINE_S

_MATH = "the MATH data set (hendrycks/math)"
_SUBJECTS = (
    *("algebra", "counting_and_probability", "geometry", "intermediate_algebra", "number_theory", "prealgebra"),
    "precalculus",
)
_COLUMNS = ("problem", "level")
_TRAIN = PublishedFile(
    ("train.jsonl",),
    _COLUMNS,
    _MATH,
    "MIT",
    HubCopy("EleutherAI/hendrycks_math", "train", _SUBJECTS),
    "a2aeb55ae22acf0f",
)
_REST = PublishedFile(
    ("test.jsonl",),
    (*_COLUMNS, "solution"),
    _MATH,
    "MIT",
    HubCopy("EleutherAI/hendrycks_math", "test", _SUBJECTS),
    "3371949f33dd702d",
)
_MATH_500 = PublishedFile(
    ("math500.jsonl", "test.jsonl"),
    (*_COLUMNS, "answer"),
    "github.com/openai/prm800k, prm800k/math_splits/test.jsonl",
    "MIT",
    HubCopy("HuggingFaceH4/MATH-500", "test"),
    "35dc41080a368085",
)


class Math(MathGrading, Published):
    """MATH from files. Observation, action, reward and ending are those of ``SelfCorrectEnv``.

    Args:
        path: Folder with ``math/train.jsonl`` (problem, answer or solution), ``math/test.jsonl`` (problem, solution),
            ``math500/test.jsonl`` (problem, answer); or ``hub``.
        deadline_s: Limit in processor seconds after which the comparison of an answer with the gold is killed.
        answer_form: Form of the answer in a response; see :class:`~envs.tasks.grading.MathGrading`.
        reasoning: Pairs of marks around drafts; see :class:`~envs.tasks.grading.MathGrading`.
    """

    def __init__(
        self,
        path: str = "data",
        deadline_s: float = DEADLINE_S,
        answer_form: str | Sequence[str] = "boxed",
        reasoning: Sequence[Sequence[str]] = REASONING,
    ) -> None:
        super().__init__(path)
        self._grade_by(deadline_s, answer_form, reasoning)

    def load(self, split: Split) -> list[Task]:
        """All tasks of a split."""
        test = self._rows(_MATH_500, "math500")
        if split == Split.TEST:
            return self._checked(_tasks("math500", test, ()))
        rest = self._rows(_REST, "math")
        # _single_box is empty for a solution with several boxes, because its last box may be only a part of the answer;
        # _tasks leaves rows without an answer out.
        validation = [row | {"answer": _single_box(row["solution"])} for row in rest]
        if split == Split.VALIDATION:
            return self._checked(_tasks("math/test", validation, test))
        train = self._rows(_TRAIN, "math")
        answered = [row if "answer" in row else row | {"answer": _single_box(row["solution"])} for row in train]
        return self._checked(_tasks("math/train", answered, [*test, *rest]))


def _single_box(solution: str) -> str:
    found = boxed(solution)
    return found[0] if len(found) == 1 else ""


def _tasks(name: str, rows: list[dict[str, Any]], later: Iterable[dict[str, Any]]) -> list[Task]:
    seen = {_content(row["problem"]) for row in later}
    tasks = []
    for number, row in enumerate(rows):
        content, gold = _content(row["problem"]), gold_text(row["answer"], f"{name}, row {number + 1}")
        if gold.strip() and content not in seen:
            seen.add(content)
            subject = row.get("subject") or row.get("type")
            info = {"level": str(row["level"]).removeprefix("Level "), "subject": subject}
            tasks.append(Task(f"{name}/{number}", row["problem"], gold, info))
    return tasks


def _content(problem: str) -> str:
    """A question without the details in which copies differ: case, spaces, dollars, punctuation, fraction sizes."""
    # Used only to recognise copies; the policy reads the row's original text.
    return re.sub(r"[\s$.,;:?!]|\\[,;:! ]", "", problem.lower().replace("\\dfrac", "\\frac"))
