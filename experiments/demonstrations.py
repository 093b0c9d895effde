"""Demonstrations, by name: functions that write attempts from which a warm start learns an environment's answer form.

A demonstration is a function ``(task set, task, rng, **options) -> attempts``: the texts of one conversation in order.
``@DEMONSTRATIONS.register("mine")`` adds one. All demonstrations create a situation in which RL can learn to correct:
attempts and corrections have the form that the environment expects, many first attempts are wrong, and only few wrong
attempts are followed by a correction. The greedy policy then repeats its wrong answer, while sampling sometimes finds
the correction.
"""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from envs import Split, Task
from envs.tasks.sums import corrected, slipped
from rewards.lookup import Lookup
from rl.config.checks import check_numbers, refuse

Demonstration = Callable[..., list[str]]
DEMONSTRATIONS: Lookup[Demonstration] = Lookup("demonstration")


@dataclass(frozen=True)
class Shares:
    """Options of a demonstration of two attempts.

    Args:
        right: Share of first attempts that are right; the second attempt repeats them.
        corrects: Share of wrong first attempts that the second attempt corrects.
        repeats: Share of wrong first attempts that the second attempt repeats; after the rest, it makes a new error.
    """

    right: float = 0.4
    corrects: float = 0.15
    repeats: float = 0.8

    def __post_init__(self) -> None:
        check_numbers(self, "demonstration_options", fraction="right corrects repeats")
        total = self.corrects + self.repeats
        refuse(total > 1.0, f"demonstration_options: corrects + repeats = {total:g}, shares of the same whole")


@DEMONSTRATIONS.register("sums", options=Shares)
def sums(taskset: Any, task: Task, rng: random.Random, *, right: float, corrects: float, repeats: float) -> list[str]:
    """A sum, perhaps with a slip; a correction computes the sum from the wrong number and its distance to the sum."""
    if not re.fullmatch(r"-?[0-9]+", task.gold):
        raise ValueError(f"demonstration=sums: the answer of {task.id} is {task.gold[:40]!r}, which is no whole number")
    if rng.random() < right:
        return [task.gold, task.gold]
    wrong, share = slipped(task, rng), rng.random()
    if share < corrects:
        return [wrong, corrected(task, wrong)]
    return [wrong, wrong if share < corrects + repeats else slipped(task, rng)]


@DEMONSTRATIONS.register("golds", options=Shares, needs=("gold_response",))
def golds(taskset: Any, task: Task, rng: random.Random, *, right: float, corrects: float, repeats: float) -> list[str]:
    """The gold response, or as a wrong attempt another task's; for every task set that can write its golds.

    With ``learn_slips=false`` the model reads the wrong attempts and learns none of them.
    """
    gold = taskset.gold_response(task)
    if rng.random() < right:
        return [gold, gold]
    others = [other for other in _all_golds(taskset) if other != gold]
    if not others:
        raise ValueError(f"demonstration=golds: all training tasks have the answer {gold[:40]!r}, so none is wrong")
    wrong, share = rng.choice(others), rng.random()
    if share < corrects:
        return [wrong, gold]
    return [wrong, wrong if share < corrects + repeats else rng.choice(others)]


@lru_cache(maxsize=1)  # read once for all conversations
def _all_golds(taskset: Any) -> tuple[str, ...]:
    return tuple(dict.fromkeys(taskset.gold_response(task) for task in taskset.load(Split.TRAIN)))


@DEMONSTRATIONS.register("mend", options=Shares, needs=("reckoned", "slipped", "worked_out"))
def mend(taskset: Any, task: Task, rng: random.Random, *, right: float, corrects: float, repeats: float) -> list[str]:
    """An equation, perhaps solved with a slip; a correction follows from the wrong number and both sides' values."""
    gold = taskset.reckoned(task, task.gold)
    if rng.random() < right:
        return [gold, gold]
    wrong, share = taskset.reckoned(task, taskset.slipped(task, rng)), rng.random()
    if share < corrects:
        return [wrong, taskset.worked_out(task, wrong)]
    return [wrong, wrong if share < corrects + repeats else taskset.reckoned(task, taskset.slipped(task, rng))]
