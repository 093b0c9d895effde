"""Questions in words with a checker, and a model's answers to them."""

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
    """Products of two numbers, of which a fifth is held out; the last number of a text is its answer.

    Args:
        largest: Factor; the smallest is a tenth of it: 100 for 999.
    """

    def __init__(self, largest: int) -> None:
        self.low, self.high = (largest + 1) // 10, largest + 1

    def task(self, a: int, b: int) -> Task:
        """Of two factors."""
        return Task(f"{a}x{b}", f"What is {a} x {b}?", str(a * b))

    def held_out(self, a: int, b: int) -> bool:
        """Whether a product belongs to the test, in either order."""
        return (min(a, b) * 37 + max(a, b)) % 5 == 0

    def draw(self, rng: np.random.Generator, n: int, test: bool) -> list[Task]:
        """Tasks of one side, with repetitions."""
        found: list[Task] = []
        while len(found) < n:
            a, b = map(int, rng.integers(self.low, self.high, 2))
            found += [self.task(a, b)] if self.held_out(a, b) == test else []
        return found

    def verdict(self, task: Task, text: str) -> tuple[bool, str | None]:
        """Whether a text is right, and its answer; ``None`` for none."""
        numbers = re.findall(r"\d+", text.replace(",", ""))
        answer = numbers[-1].lstrip("0") or "0" if numbers else None
        return answer == task.gold, answer


class Registered:
    """Tasks of a registered environment, such as ``errata/gsm8k-v1``: its training and its test split.

    Args:
        env_id: Its id.
        path: Folder of its files; empty for the environment's own default.
    """

    def __init__(self, env_id: str, path: str) -> None:
        self.taskset = envs.make_taskset(env_id, {"path": path} if path else {})
        self.tasks: dict[Split, Sequence[Task]] = {}

    def draw(self, rng: np.random.Generator, n: int, test: bool) -> list[Task]:
        """Tasks of one side, each once as long as there are any left."""
        split = Split.TEST if test else Split.TRAIN
        if split not in self.tasks:
            self.tasks[split] = self.taskset.load(split)
        there = self.tasks[split]
        return [there[i] for i in rng.choice(len(there), n, replace=n > len(there))]

    def verdict(self, task: Task, text: str) -> tuple[bool, str | None]:
        """Whether a text is right, and its answer; ``None`` for none."""
        score = self.taskset.verify(task, text)
        return score.verdict is Verdict.CORRECT, score.key


Problems = Products | Registered


def problems(cfg: Asked) -> Problems:
    """What the settings name: ``products``, or a registered environment."""
    return Products(cfg.largest) if cfg.data == "products" else Registered(cfg.data, cfg.data_path)


@dataclass
class Answered:
    """K answers to each of N tasks.

    Args:
        tasks: ``[N]``.
        said: ``[N][K]``.
        right: ``[N, K]`` by the checker.
        keys: ``[N, K]`` final answers, equal where they are the same; ``None`` where there is none.
    """

    tasks: list[Task]
    said: list[list[Said]]
    right: np.ndarray
    keys: np.ndarray

    @property
    def formed(self) -> np.ndarray:
        """``[N, K]`` whether there is a final answer."""
        return self.keys != None  # noqa: E711 - element by element

    @property
    def votes(self) -> np.ndarray:
        """``[N, K]`` how many of a task's answers are the same; 0 for what is none."""
        return (self.keys[:, :, None] == self.keys[:, None]).sum(-1) * self.formed

    @property
    def rows(self) -> list[Said]:
        """``[N * K]``."""
        return [one for many in self.said for one in many]

    def meters(self) -> dict[str, float]:
        """What every study logs of sampled answers."""
        distinct = [len({key for key in row if key is not None}) for row in self.keys.tolist()]
        return {
            "n": len(self.tasks),
            "accuracy": float(self.right.mean()),
            "malformed": float(1 - self.formed.mean()),
            "distinct_answers": float(np.mean(distinct)),
            "length": float(np.mean([len(one.ids) for one in self.rows])),
            # Of own samples at temperature 1 the mean of -log p is the entropy, in nats per token.
            "entropy": sum(one.nats for one in self.rows) / max(1, sum(len(one.ids) for one in self.rows)),
        }


def answer(
    speaker: Speaker, of: Problems, tasks: Sequence[Task], seed: int, max_new: int, k: int, temperature: float = 1.0
) -> Answered:
    """K answers to each task, each with the checker's word."""
    said = speaker.say([task.question + FORM for task in tasks], seed, max_new, k, temperature)
    told = [[of.verdict(task, one.text) for one in many] for task, many in zip(tasks, said, strict=True)]
    keys = np.empty((len(tasks), k), object)
    keys[:] = [[key for _, key in many] for many in told]
    return Answered(list(tasks), said, np.array([[right for right, _ in many] for many in told]), keys)


def check(task: Task, text: str) -> str:
    """The question whether an answer is right, to be answered with Yes or No."""
    return f"{task.question}\n\nProposed answer:\n{text}\n\nIs the final answer correct? Answer Yes or No."


def show(found: Answered, step: int, samples: list[dict[str, Any]], n: int = 20) -> None:
    """The first answers to the first tasks, to be read."""
    for task, many, right in list(zip(found.tasks, found.said, found.right, strict=True))[:n]:
        about = {"prompt": task.question, "answer": many[0].text, "gold": task.gold, "right": bool(right[0])}
        samples.append({"step": step} | about)
