"""``math``: competition problems (Hendrycks et al. 2021, arXiv 2103.03874), tested on MATH-500 (arXiv 2305.20050).

Response: anything with the answer in ``\\boxed{...}``. Splits: ``train`` is MATH's training split; ``test`` is
MATH-500; ``validation`` is the rest of MATH's test split, of which MATH-500 is a part. Left out: rows without an
answer, rows of the test split whose solution has several boxes (the last one alone may be a part of the answer), and
rows whose question stands in a split that is evaluated on.

Version history: v1, first.
"""

import re
from collections.abc import Iterable
from typing import Any

from envs.base import Split, Task
from envs.published import HubCopy, Published, PublishedFile
from rewards import Score
from rewards.answers import boxed
from rewards.math import DEADLINE_S, score_math

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


class Math(Published):
    """MATH from files. Observation, action, reward and ending are those of ``SelfCorrectEnv``.

    Args:
        path: Folder with ``math/train.jsonl`` (problem, answer or solution), ``math/test.jsonl`` (problem, solution),
            ``math500/test.jsonl`` (problem, answer); or ``hub``.
        deadline_s: Seconds after which a comparison is killed.
    """

    verifies_elsewhere = True

    def __init__(self, path: str = "data", deadline_s: float = DEADLINE_S) -> None:
        super().__init__(path)
        self._deadline_s = deadline_s

    def load(self, split: Split) -> list[Task]:
        """All tasks of a split."""
        test = self._rows(_MATH_500, "math500")
        if split == Split.TEST:
            return _tasks("math500", test, ())
        rest = self._rows(_REST, "math")
        validation = [row | {"answer": _single_box(row["solution"])} for row in rest]
        if split == Split.VALIDATION:
            return _tasks("math/test", validation, test)
        train = self._rows(_TRAIN, "math")
        answered = [row if "answer" in row else row | {"answer": _single_box(row["solution"])} for row in train]
        return _tasks("math/train", answered, [*test, *rest])

    def verify(self, task: Task, response: str) -> Score:
        """1 if the boxed answer equals the gold; see :mod:`rewards.math`."""
        return score_math(response, task.gold, deadline_s=self._deadline_s)

    def gold_response(self, task: Task) -> str:
        """The answer in a box."""
        return f"\\boxed{{{task.gold}}}"


def _single_box(solution: str) -> str:
    found = boxed(solution)
    return found[0] if len(found) == 1 else ""


def _tasks(name: str, rows: list[dict[str, Any]], later: Iterable[dict[str, Any]]) -> list[Task]:
    seen = {_content(row["problem"]) for row in later}
    tasks = []
    for number, row in enumerate(rows):
        content = _content(row["problem"])
        if row["answer"].strip() and content not in seen:
            seen.add(content)
            subject = row.get("subject") or row.get("type")
            info = {"level": str(row["level"]).removeprefix("Level "), "subject": subject}
            tasks.append(Task(f"{name}/{number}", row["problem"], row["answer"], info))
    return tasks


def _content(problem: str) -> str:
    """A question without what copies of it differ in: case, white space, dollars, sentence marks, fraction sizes."""
    return re.sub(r"[\s$.,;:?!]|\\[,;:! ]", "", problem.lower().replace("\\dfrac", "\\frac"))
