"""``sums``: mental arithmetic for small language models, told by how much the last answer misses.

Question: ``48 + 83``. A response is right if its last number is the sum, so that a correction may be written out:
``131 + 10 = 141``. The observation is the miss (``Too small by 10.``), never the sum: whoever has forgotten what it
answered cannot use it.

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
"""What people and small models are off by: a unit, a carry, a ten."""


class Sums:
    """Sums of whole numbers. Observation, action, reward and ending are those of ``SelfCorrectEnv``.

    Args:
        low: Smallest number.
        high: Largest number.
        n_terms: Numbers in a sum.
        n_train: Number of training tasks.
        n_validation: Number of validation tasks.
        n_test: Number of test tasks.
        seed: Which tasks are drawn. Splits are disjoint for every seed, whatever the order of a sum's numbers.

    Raises:
        ValueError: If there are fewer than two numbers to a sum, or none to choose from.
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
                f"env.options: n_terms={n_terms}, low={low}, high={high}: two numbers or more from a range"
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
        """One task of any split."""
        numbers = [rng.randint(*self._range) for _ in range(self._n_terms)]
        question = " + ".join(map(str, numbers))
        return Task(question, question, str(sum(numbers)))

    def verify(self, task: Task, response: str) -> Score:
        """1 if the last number is the sum; the reason says whether it was computed in the response, or bare."""
        found = _NUMBER.findall(response)
        if not found:
            return Score(0.0, Verdict.NO_ANSWER, None, "no number", "No number found. Reply with a number only.")
        answer, mode = found[-1].lstrip("0") or "0", "computed" if "=" in response else "bare"
        # More digits than any sum has are as wrong as they look, and Python refuses to read very many.
        miss = int(task.gold) - int(answer) if len(answer) < 20 else int(task.gold) - 10**19
        return replace(Score.of(miss == 0, answer, mode), observation=_told(miss), public=miss == 0)

    def other_error(self, task: Task, response: str, score: Score, rng: random.Random) -> str:
        """Another miss, for control C4."""
        return rng.choice([told for miss in SLIPS if (told := _told(miss)) != score.observation])

    def other_attempt(self, task: Task, response: str, rng: random.Random) -> str | None:
        """Another number in its place, for control C5; ``None`` where there is none."""
        found = _NUMBER.findall(response)
        return str(max(1, int(found[-1][:9]) + rng.choice(SLIPS))) if found else None

    def gold_response(self, task: Task) -> str:
        """The sum alone."""
        return task.gold


def _told(miss: int) -> str:
    return f"Too {'small' if miss > 0 else 'large'} by {abs(miss)}." if miss else "Right. Once more."


def slipped(task: Task, rng: random.Random) -> str:
    """A wrong sum as one would write it."""
    return str(max(1, int(task.gold) + rng.choice(SLIPS)))


def corrected(task: Task, wrong: str) -> str:
    """The sum worked out from a wrong one and its miss."""
    miss = int(task.gold) - int(wrong)
    return f"{wrong} {'+' if miss > 0 else '-'} {abs(miss)} = {task.gold}"
