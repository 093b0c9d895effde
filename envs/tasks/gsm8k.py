"""``gsm8k``: grade-school word problems (Cobbe et al. 2021, arXiv 2110.14168). The answer is an integer.

Response: any text with the answer in ``\\boxed{...}``, or as ``answer_form`` says. Splits: the published test split;
a tenth of the published training split, chosen by the hash of the question, is the validation split.

Version history: v1, first.
"""

from collections.abc import Sequence

from envs.base import Split, Task
from envs.published import HubCopy, Published, PublishedFile
from envs.splits import normalise_question, split_of
from envs.tasks.grading import MathGrading, gold_text
from rewards.answers import REASONING
from rewards.math import DEADLINE_S

_FILES = {
    name: PublishedFile(
        (f"{name}.jsonl",),
        ("question", "answer"),
        "github.com/openai/grade-school-math, grade_school_math/data",
        "MIT",
        HubCopy("openai/gsm8k", name, ("main",)),
        sha256,
    )
    for name, sha256 in (("train", "17f347dc51477c50"), ("test", "3730d312f6e34405"))
}


class GSM8K(MathGrading, Published):
    """GSM8K from files. Observation, action, reward and ending are those of ``SelfCorrectEnv``.

    Args:
        path: Folder with ``train.jsonl`` and ``test.jsonl``, or ``hub``.
        validation: Share of the published training split that is used for validation.
        deadline_s: Limit in processor seconds after which the comparison of an answer with the gold is killed.
        answer_form: Form of the answer in a response; see :class:`~envs.tasks.grading.MathGrading`.
        reasoning: Pairs of marks around drafts; see :class:`~envs.tasks.grading.MathGrading`.
    """

    def __init__(
        self,
        path: str = "data/gsm8k",
        validation: float = 0.1,
        deadline_s: float = DEADLINE_S,
        answer_form: str | Sequence[str] = "boxed",
        reasoning: Sequence[Sequence[str]] = REASONING,
    ) -> None:
        if not 0 < validation < 1:
            raise ValueError(f"env.options.validation={validation}: a share between 0 and 1")
        super().__init__(path)
        self._validation = validation
        self._grade_by(deadline_s, answer_form, reasoning)

    def load(self, split: Split) -> list[Task]:
        """All tasks of a split."""
        test = self._tasks("test")
        if split == Split.TEST:
            return test
        asked = {normalise_question(task.question) for task in test}
        rest = [task for task in self._tasks("train") if normalise_question(task.question) not in asked]
        return [task for task in rest if split_of(task.question, self._validation, test=0.0) == split]

    def _tasks(self, name: str) -> list[Task]:
        tasks = []
        for number, row in enumerate(self._rows(_FILES[name])):
            gold = gold_text(row["answer"], f"{name}.jsonl, row {number + 1}").rpartition("####")[2].strip()
            tasks.append(Task(f"gsm8k/{name}/{number}", row["question"], gold))
        return self._checked(tasks)
