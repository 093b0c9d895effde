"""``sums``: mental arithmetic for small language models, with feedback by how much the last answer is off.

Question: ``48 + 83``. A response is right if its last number is the sum, so that a correction may be written out:
``131 + 10 = 141``. The feedback states the difference (``Too small by 10.``), never the sum, so that a policy can use
it only together with its previous answer.

Version history: v1, first.
"""

import random
import re
from dataclasses import replace

from envs.base import Split, Task
from envs.splits import draw_tasks, split_sizes
from rewards import Score, Verdict

_NUMBER = re.compile(r"-?\d+", re.ASCII)
SLIPS = (1, -1, 2, -2, 3, 9, -9, 10, -10, 11, 20, -20)
"""Typical errors of people and small models: off by a unit, a carry or a ten."""


class Sums:
    """Sums of whole numbers. Observation, action, reward and ending are those of ``SelfCorrectEnv``.

    Args:
        low: Smallest number in a sum.
        high: Largest number in a sum.
        n_terms: Count of numbers in a sum.
        n_train: Number of training tasks.
        n_validation: Number of validation tasks.
        n_test: Number of test tasks.
        seed: Seed of the generated tasks. Splits are disjoint for every seed; sums of the same numbers in another order
            are in the same split.

    Raises:
        ValueError: If a sum has fewer than two numbers, or the range from ``low`` to ``high`` is empty or negative.
    """

    observes_execution = True

    def __init__(
        self,
        low: int = 10,
        high: int = 99,
        n_terms: int = 2,
        n_train: int = 2000,
        n_validation: int = 200,
        n_test: int = 500,
        seed: int = 0,
    ) -> None:
        if n_terms < 2 or not 0 <= low <= high:
            raise ValueError(
                f"env.options: n_terms={n_terms}, low={low}, high={high}: needs n_terms >= 2 and 0 <= low <= high"
            )
        self._range, self._n_terms, self._seed = (low, high), n_terms, seed
        self._sizes = split_sizes(n_train, n_validation, n_test)

    def load(self, split: Split) -> list[Task]:
        """Different tasks of one split."""
        rng = random.Random(f"sums/{self._seed}/{split}")

        def content(task: Task) -> str:
            return " + ".join(sorted(task.question.split(" + ")))

        return draw_tasks(lambda _: self.draw(rng), split, self._sizes[Split(split)], content=content)

    def draw(self, rng: random.Random) -> Task:
        """Draws one task, which may belong to any split."""
        numbers = [rng.randint(*self._range) for _ in range(self._n_terms)]
        question = " + ".join(map(str, numbers))
        return Task(question, question, str(sum(numbers)))

    def verify(self, task: Task, response: str) -> Score:
        """1 if the last number is the sum; the reason says whether the response shows a computation or not (bare)."""
        found = _NUMBER.findall(response)
        if not found:
            return Score(0.0, Verdict.NO_ANSWER, None, "no number", "No number found. Reply with a number only.")
        answer, mode = found[-1].lstrip("0") or "0", "computed" if "=" in response else "bare"
        # An answer of 20 digits or more counts as 10**19: it is wrong anyway, and Python refuses to convert very long
        # texts to integers.
        miss = int(task.gold) - int(answer) if len(answer) < 20 else int(task.gold) - 10**19
        return replace(Score.of(miss == 0, answer, mode), observation=_told(miss), public=miss == 0)

    def other_error(self, task: Task, response: str, score: Score, rng: random.Random) -> str:
        """The feedback for another difference, for control C4."""
        return rng.choice([told for miss in SLIPS if (told := _told(miss)) != score.observation])

    def other_attempt(self, task: Task, response: str, rng: random.Random) -> str | None:
        """The response with another answer, its last number, for control C5; ``None`` if it has no number."""
        found = list(_NUMBER.finditer(response))
        if not found:
            return None
        start, end = found[-1].span()
        answer = int(found[-1][0][:9])
        other = rng.choice([answer + slip for slip in SLIPS if answer + slip > 0] or [1])
        return f"{response[:start]}{other}{response[end:]}"

    def gold_response(self, task: Task) -> str:
        """The sum alone."""
        return task.gold


def _told(miss: int) -> str:
    return f"Too {'small' if miss > 0 else 'large'} by {abs(miss)}." if miss else "Right. Once more."


def slipped(task: Task, rng: random.Random) -> str:
    """A wrong sum with a typical error."""
    return str(max(1, int(task.gold) + rng.choice(SLIPS)))


def corrected(task: Task, wrong: str) -> str:
    """A correction that computes the sum from a wrong answer and its difference, such as ``131 + 10 = 141``."""
    miss = int(task.gold) - int(wrong)
    return f"{wrong} {'+' if miss > 0 else '-'} {abs(miss)} = {task.gold}"
