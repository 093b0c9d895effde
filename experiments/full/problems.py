"""Questions in natural language with a checker, and a model's answers to them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import envs
from envs import Split, Task
from experiments.full import Asked
from experiments.full.speaker import Said, Speaker
from rewards import Verdict

FORM = "\nReason step by step, and put the final answer into \\boxed{}."


class Products:
    """Products of two numbers, about a fifth of which are held out; the answer of a text is its last number.

    Args:
        largest: Largest factor. The smallest factor is about a tenth of it, such as 100 for 999.
    """

    def __init__(self, largest: int) -> None:
        self.low, self.high = (largest + 1) // 10, largest + 1

    def task(self, a: int, b: int) -> Task:
        """The task of multiplying two factors."""
        return Task(f"{a}x{b}", f"What is {a} x {b}?", str(a * b))

    def held_out(self, a: int, b: int) -> bool:
        """Whether a product is a test task; the same for both orders of the factors."""
        return (min(a, b) * 37 + max(a, b)) % 5 == 0

    def draw(self, rng: np.random.Generator, n: int, test: bool) -> list[Task]:
        """Samples test or training tasks, with replacement."""
        found: list[Task] = []
        while len(found) < n:
            a, b = map(int, rng.integers(self.low, self.high, 2))
            found += [self.task(a, b)] if self.held_out(a, b) == test else []
        return found

    def verdict(self, task: Task, text: str) -> tuple[bool, str | None]:
        """Whether a text is right, and its final answer; ``None`` if it has no answer."""
        numbers = re.findall(r"\d+", text.replace(",", ""))
        answer = numbers[-1].lstrip("0") or "0" if numbers else None
        return answer == task.gold, answer


class Registered:
    """Tasks of the training and test split of a registered environment, such as ``errata/gsm8k-v1``.

    Args:
        env_id: Id of the environment.
        path: Folder of the environment's files; empty for its default.
    """

    def __init__(self, env_id: str, path: str) -> None:
        self.taskset = envs.make_taskset(env_id, {"path": path} if path else {})
        self.tasks: dict[Split, Sequence[Task]] = {}

    def draw(self, rng: np.random.Generator, n: int, test: bool) -> list[Task]:
        """Samples test or training tasks, without replacement if there are enough of them."""
        split = Split.TEST if test else Split.TRAIN
        if split not in self.tasks:
            self.tasks[split] = self.taskset.load(split)
        there = self.tasks[split]
        return [there[i] for i in rng.choice(len(there), n, replace=n > len(there))]

    def verdict(self, task: Task, text: str) -> tuple[bool, str | None]:
        """Whether a text is right, and its final answer; ``None`` if it has no answer."""
        score = self.taskset.verify(task, text)
        return score.verdict is Verdict.CORRECT, score.key


Problems = Products | Registered


def problems(cfg: Asked) -> Problems:
    """Returns the problems that ``cfg.data`` names: ``products``, or a registered environment."""
    return Products(cfg.largest) if cfg.data == "products" else Registered(cfg.data, cfg.data_path)


@dataclass
class Answered:
    """K answers to each of N tasks.

    Args:
        tasks: ``[N]`` tasks.
        said: ``[N][K]`` sampled answers.
        right: ``[N, K]`` whether the checker accepts an answer.
        keys: ``[N, K]`` final answers in a form in which equivalent ones are equal; ``None`` where there is none.
    """

    tasks: list[Task]
    said: list[list[Said]]
    right: np.ndarray
    keys: np.ndarray

    @property
    def formed(self) -> np.ndarray:
        """Whether each answer ``[N, K]`` has a final answer."""
        return self.keys != None  # noqa: E711 - element by element

    @property
    def votes(self) -> np.ndarray:
        """Number ``[N, K]`` of the task's answers with the same final answer; 0 for one without a final answer."""
        return (self.keys[:, :, None] == self.keys[:, None]).sum(-1) * self.formed

    @property
    def rows(self) -> list[Said]:
        """All answers as one list ``[N * K]``."""
        return [one for many in self.said for one in many]

    def meters(self) -> dict[str, float]:
        """Metrics of sampled answers that every study logs."""
        distinct = [len({key for key in row if key is not None}) for row in self.keys.tolist()]
        return {
            "n": len(self.tasks),
            "accuracy": float(self.right.mean()),
            "malformed": float(1 - self.formed.mean()),
            "distinct_answers": float(np.mean(distinct)),
            "length": float(np.mean([len(one.ids) for one in self.rows])),
            # For the model's own samples at temperature 1, the mean of -log p estimates the entropy in nats per token.
            "entropy": sum(one.nats for one in self.rows) / max(1, sum(len(one.ids) for one in self.rows)),
        }


def answer(
    speaker: Speaker, of: Problems, tasks: Sequence[Task], seed: int, max_new: int, k: int, temperature: float = 1.0
) -> Answered:
    """Samples k answers to each task and grades them with the checker."""
    said = speaker.say([task.question + FORM for task in tasks], seed, max_new, k, temperature)
    told = [[of.verdict(task, one.text) for one in many] for task, many in zip(tasks, said, strict=True)]
    keys = np.empty((len(tasks), k), object)
    keys[:] = [[key for _, key in many] for many in told]
    return Answered(list(tasks), said, np.array([[right for right, _ in many] for many in told]), keys)


def check(task: Task, text: str) -> str:
    """The prompt that asks whether an answer is right, to be answered with Yes or No."""
    return f"{task.question}\n\nProposed answer:\n{text}\n\nIs the final answer correct? Answer Yes or No."


def show(found: Answered, step: int, samples: list[dict[str, Any]], n: int = 20) -> None:
    """Adds the first answer to each of the first n tasks to ``samples``, in readable form."""
    for task, many, right in list(zip(found.tasks, found.said, found.right, strict=True))[:n]:
        about = {"prompt": task.question, "answer": many[0].text, "gold": task.gold, "right": bool(right[0])}
        samples.append({"step": step} | about)
