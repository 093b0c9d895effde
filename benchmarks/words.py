"""What ``benchmarks.gpu`` trains on: rows of made-up words, and answers that are right by chance.

A module of its own because importing it registers an environment, which only the measured processes should know.
"""

import itertools
import random
import zlib
from collections.abc import Sequence

import envs
from envs import Split, Task
from rewards import Score, Verdict


def words(vocabulary: int) -> list[str]:
    """The words of a model with so many tokens, beside its four special tokens."""
    return ["check", "right", "wrong", *(f"w{i}" for i in range(vocabulary - 7))]


class Words:
    """Rows of words; every group of answers has a gradient, whatever the model.

    Args:
        n_words: Length of a question.
        vocabulary: Words to choose from.
    """

    def __init__(self, n_words: int, vocabulary: int) -> None:
        self._n_words, self._words = n_words, words(vocabulary)

    def load(self, split: Split) -> Sequence[Task]:
        """256 tasks, the same in every run."""
        drawn = random.Random(split.value)
        questions = [" ".join(drawn.choices(self._words, k=self._n_words)) for _ in range(256)]
        return [Task(f"{split.value}-{i}", question, "") for i, question in enumerate(questions)]

    def verify(self, task: Task, response: str) -> Score:
        """Half of all answers are right."""
        right = zlib.crc32((task.id + response).encode()) % 2
        return Score(float(right), Verdict.CORRECT if right else Verdict.WRONG, response[:20])

    def gold_response(self, task: Task) -> str:
        """The first number that is right."""
        return next(str(i) for i in itertools.count() if self.verify(task, str(i)).value)


envs.register("benchmark/words-v1", Words, prompts="toy-v1")
