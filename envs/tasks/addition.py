"""``addition``: long carry chains, the counter-example to ``modchain``.

Question: ``123+876``, two numbers of equal length whose digit pairs often add up to 9, so that carries run far.
Answer: the sum, zero-padded to one digit more than each number, most significant digit first. The answer is unique and
short. Fine-tuning on answers filtered by correctness therefore shows the model the right token at every position,
whereas a reward gives one bit per attempt.

Version history: v1, first.
"""

import random
import re
from collections.abc import Sequence

from envs.base import Split, Task
from envs.splits import draw_tasks, split_sizes
from rewards import Score, Verdict
from rewards.answers import answer_forms, candidates, in_form


class Addition:
    """Sums of two numbers. Observation, action, reward and ending are those of ``SelfCorrectEnv``.

    Args:
        n_digits: Number of digits of each summand.
        p_nine: Probability that a digit pair is made to add up to 9; such positions propagate a carry.
        n_train: Number of training tasks.
        n_validation: Number of validation tasks.
        n_test: Number of test tasks.
        seed: Seed of the generated tasks; splits are disjoint by content for every seed.
        answer_form: Form of the answer in a response, a name in :data:`rewards.answers.ANSWER_FORMS`, or several names
            in order of preference.
    """

    def __init__(
        self,
        n_digits: int = 3,
        p_nine: float = 0.5,
        n_train: int = 4000,
        n_validation: int = 200,
        n_test: int = 1000,
        seed: int = 0,
        answer_form: str | Sequence[str] = "whole",
    ) -> None:
        self.n_digits, self._p_nine, self._seed, self._form = n_digits, p_nine, seed, answer_form
        answer_forms(answer_form)
        self._sizes = split_sizes(n_train, n_validation, n_test)

    def load(self, split: Split) -> list[Task]:
        """Different tasks of one split."""
        rng = random.Random(f"addition/{self._seed}/{split}")
        return draw_tasks(lambda _: self.draw(rng), split, self._sizes[Split(split)])

    def draw(self, rng: random.Random) -> Task:
        """Draws one task, which may belong to any split."""
        left, right = "", ""
        for _ in range(self.n_digits):
            digit = rng.randrange(10)
            left += str(digit)
            right += str(9 - digit) if rng.random() < self._p_nine else str(rng.randrange(10))
        question = f"{left}+{right}"
        return Task(question, question, str(int(left) + int(right)).zfill(self.n_digits + 1))

    def verify(self, task: Task, response: str) -> Score:
        """1 if the response is the padded sum, digit for digit."""
        answer = "".join(candidates(response, self._form))
        if not re.fullmatch(rf"\d{{{self.n_digits + 1}}}", answer, re.ASCII):
            return Score(0.0, Verdict.NO_ANSWER, None, "malformed")
        return Score.of(answer == task.gold, answer, "exact")

    def gold_response(self, task: Task) -> str:
        """The padded sum in the accepted answer form."""
        return in_form(task.gold, self._form)
