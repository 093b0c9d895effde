"""Task set of ``benchmarks.gpu``: questions are rows of made-up words, and a hash decides which answers are right.

This is a separate module because importing it registers an environment, which only the measured processes should have.
"""

import itertools
import random
import zlib
from collections.abc import Sequence

import envs
from envs import Split, Task
from rewards import Score, Verdict


def words(vocabulary: int) -> list[str]:
    """Words of a tokenizer whose vocabulary has the given size, of which four tokens are special tokens."""
    return ["check", "right", "wrong", *(f"w{i}" for i in range(vocabulary - 7))]


class Words:
    """Rows of made-up words; about half of all answers are right, so groups have a gradient with any model.

    Args:
        n_words: Number of words in a question.
        vocabulary: Size of the model's vocabulary, whose words make up the questions.
    """

    def __init__(self, n_words: int, vocabulary: int) -> None:
        self._n_words, self._words = n_words, words(vocabulary)

    def load(self, split: Split) -> Sequence[Task]:
        """Returns 256 tasks, which are the same in every run."""
        drawn = random.Random(split.value)
        questions = [" ".join(drawn.choices(self._words, k=self._n_words)) for _ in range(256)]
        return [Task(f"{split.value}-{i}", question, "") for i, question in enumerate(questions)]

    def verify(self, task: Task, response: str) -> Score:
        """Grades by a hash of task and response, so that about half of all responses are right."""
        right = zlib.crc32((task.id + response).encode()) % 2
        return Score(float(right), Verdict.CORRECT if right else Verdict.WRONG, response[:20])

    def gold_response(self, task: Task) -> str:
        """Returns the smallest number that is graded as right."""
        return next(str(i) for i in itertools.count() if self.verify(task, str(i)).value)


envs.register("benchmark/words-v1", Words, prompts="toy-v1")
