"""Any reasoning-gym data set as a task set: more than 100 generated tasks with scorers, without a download.

``env=reasoning_gym env.dataset=chain_sum "+env.options.params={max_terms: 2}"``. The data set's own scorer gives the
reward. Partial credit is off by default, because several scorers pay for text that merely contains the answer.
"""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from envs.base import Split, Task
from envs.splits import draw_tasks, split_sizes
from rewards import Score, Verdict
from rewards.answers import answer_forms, candidates, in_form


class ReasoningGym:
    """Tasks of one reasoning-gym data set.

    Args:
        dataset: Name of the data set, such as ``chain_sum``.
        params: Parameters of the data set, such as ``{"min_terms": 2, "max_terms": 2}``.
        answer_form: Form of the answer in a response, a name in :data:`rewards.answers.ANSWER_FORMS`, or several names
            in order of preference.
        partial_credit: Whether an answer that the scorer values below 1 earns this value instead of 0. Only the value
            1 gives the verdict ``correct``.
        n_train: Number of training tasks.
        n_validation: Number of validation tasks.
        n_test: Number of test tasks.
        seed: Seed of the stream from which all splits are drawn; the hash of a question decides its split.

    Raises:
        ValueError: If reasoning-gym has no such data set, or the data set refuses the parameters.
    """

    def __init__(
        self,
        dataset: str = "chain_sum",
        params: Mapping[str, Any] | None = None,
        answer_form: str | Sequence[str] = "tagged",
        partial_credit: bool = False,
        n_train: int = 500,
        n_validation: int = 50,
        n_test: int = 100,
        seed: int = 0,
    ) -> None:
        import reasoning_gym  # takes half a second, so it is imported only if it is used
        from reasoning_gym.factory import DATASETS

        if dataset not in DATASETS:
            near = difflib.get_close_matches(dataset, DATASETS, n=3, cutoff=0.0)
            raise ValueError(f"env.dataset={dataset!r}: reasoning-gym has no such data set; nearest: {', '.join(near)}")
        try:
            self._data = reasoning_gym.create_dataset(dataset, size=2**31 - 1, seed=seed, **dict(params or {}))
        except (TypeError, AssertionError) as error:
            raise ValueError(f"env.options.params={dict(params or {})} refused by {dataset!r}: {error}") from error
        self._name, self._form, self.partial_credit = dataset, answer_form, partial_credit
        answer_forms(answer_form)
        self._sizes = split_sizes(n_train, n_validation, n_test)

    def load(self, split: Split) -> list[Task]:
        """Different tasks of one split."""
        return draw_tasks(self._draw, split, self._sizes[Split(split)])

    def _draw(self, index: int) -> Task:
        item = self._data[index]
        return Task(f"{self._name}/{index}", item["question"], str(item["answer"]), {"item": item})

    def verify(self, task: Task, response: str) -> Score:
        """Scores the extracted answer with the data set's own scorer."""
        offered = list(dict.fromkeys(candidates(response, self._form)))
        if not offered:
            return Score(0.0, Verdict.NO_ANSWER, None, "no_answer")
        if len(offered) > 1:
            return Score(0.0, Verdict.AMBIGUOUS, offered[-1], "hedged")
        value = float(self._data.score_answer(offered[0], task.info["item"]))
        correct = value >= 1.0
        paid = min(max(value, 0.0), 1.0) if self.partial_credit else float(correct)
        return Score(paid, Verdict.CORRECT if correct else Verdict.WRONG, offered[0], self._name)

    def gold_response(self, task: Task) -> str:
        """The data set's own answer in the accepted answer form."""
        return in_form(task.gold, self._form)
