"""``modchain``: chains of steps modulo 10, where success depends on the chosen mode of answering, not on ability.

Question: ``3 +4 *7 =2 +5 _``, a start digit and two to five steps: add, multiply, or set to a digit (``_`` does
nothing). The answer is the last digit of the chain. A response is *quick* (``: 7``, the answer alone) or *worked*
(``# 7 9 2 7 7``: the digit after each of the five steps, the last of which is the answer). Any other response counts as
no answer.

In quick mode a one-layer model solves only short chains (a set step makes a chain short, because earlier steps no
longer matter); in worked mode it solves chains of any length. Whether a policy corrects itself therefore depends on the
mode that it chooses for the second attempt: the ability is there from the start, the choice of mode is learned.

Version history: v1, first.
"""

import random
import re
from collections.abc import Sequence

from envs.base import Split, Task
from envs.splits import draw_tasks, split_sizes
from rewards import Score, Verdict

N_STEPS = 5
AFFINE_STEPS = (*(f"+{k}" for k in range(1, 10)), "*3", "*7", "*9")
SET_STEPS = tuple(f"={k}" for k in range(10))
STEPS = AFFINE_STEPS + SET_STEPS
"""All steps. Affine steps are bijections of the digits, so no answer is more likely than another."""
_RESPONSE = re.compile(rf"(?:: (\d)|#(?: \d){{{N_STEPS - 1}}} (\d))", re.ASCII)


class ModChain:
    """Affine chains modulo 10. Observation, action, reward and ending are those of ``SelfCorrectEnv``.

    Args:
        n_train: Number of training tasks.
        n_validation: Number of validation tasks.
        n_test: Number of test tasks.
        p_set: Probability that a step sets the digit instead of computing with it.
        step_weights: Relative frequencies of chains with 1, 2, ... 5 steps.
        seed: Seed of the generated tasks; splits are disjoint by content for every seed.
    """

    def __init__(
        self,
        n_train: int = 4000,
        n_validation: int = 200,
        n_test: int = 1000,
        p_set: float = 0.2,
        step_weights: Sequence[float] = (0.0, 0.4, 0.3, 0.15, 0.15),
        seed: int = 0,
    ) -> None:
        self._sizes = split_sizes(n_train, n_validation, n_test)
        self._p_set, self._step_weights, self._seed = p_set, list(step_weights), seed

    def load(self, split: Split) -> list[Task]:
        """Different tasks of one split."""
        rng = random.Random(f"modchain/{self._seed}/{split}")
        return draw_tasks(lambda _: self.draw(rng), split, self._sizes[Split(split)])

    def draw(self, rng: random.Random) -> Task:
        """Draws one task, which may belong to any split."""
        n_steps = rng.choices(range(1, N_STEPS + 1), self._step_weights)[0]
        steps = [rng.choice(SET_STEPS if rng.random() < self._p_set else AFFINE_STEPS) for _ in range(n_steps)]
        question = " ".join([str(rng.randrange(10)), *steps, *["_"] * (N_STEPS - n_steps)])
        return Task(question, question, str(chain(question)[-1]), {"n_steps": n_steps})

    def verify(self, task: Task, response: str) -> Score:
        """1 if the response is well formed and ends on the right digit."""
        match = _RESPONSE.fullmatch(response.strip())
        if match is None:
            return Score(0.0, Verdict.NO_ANSWER, None, "malformed")
        answer = match[1] or match[2]  # group 1 belongs to the quick form, group 2 to the worked form
        return Score.of(answer == task.gold, answer, "worked" if match[2] else "quick")

    def gold_response(self, task: Task) -> str:
        """The right response in the worked form."""
        return worked_response(task.question)


def chain(question: str) -> list[int]:
    """The digit after each of the five steps."""
    start, *steps = question.split()
    digits, value = [], int(start)
    for step in steps:
        if step[0] == "+":
            value = (value + int(step[1])) % 10
        elif step[0] == "*":
            value = (value * int(step[1])) % 10
        elif step[0] == "=":
            value = int(step[1])
        digits.append(value)
    return digits


def worked_response(question: str) -> str:
    """The worked response: ``# `` and the digit after each step."""
    return " ".join(["#", *map(str, chain(question))])
