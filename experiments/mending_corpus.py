"""Pretraining corpora of the toys in which an attempt is mended: ``repair`` (programs) and ``mend`` (equations)."""

import random
import re
from collections.abc import Sequence

from envs import Task
from envs.tasks import mend
from envs.tasks.mend import TOY_FAR, Mend
from envs.tasks.repair import AFTER, BEFORE, Repair, mended, parsed, run, without_comment, written
from experiments.tiny_corpus import DIGITS, Document, DrawnCorpus


class MendingCorpus(DrawnCorpus):
    """Quick attempts that are often wrong, further attempts that mostly copy, and rarely ones that mend the last one.

    After the cue ``debug`` an attempt is always mended, which teaches the skill. After ``got``, the word that the
    environment uses, an attempt is mended only with probability ``rare``. Histories have one to four attempts, so that
    the position of an attempt tells nothing about its kind.

    Args:
        rare: Target of the model's probability of mending after ``got``, which
            :func:`experiments.tiny_training.pretrain` reaches by steering the share of such documents.
        label_noise: Share of first attempts whose number is random.
        cue_share: Share of conversations with the cue ``debug``.
        copy, resample: Shares of quick further attempts that repeat the last one, or that are another sample; the rest
            is random.
        sloppy: Share of mended attempts after a wrong one whose number is random, so that the skill is good but not
            perfect.
    """

    spaced: bool = True
    own_drafts_from: float = 0.6

    def __init__(
        self,
        rare: float = 0.015,
        label_noise: float = 0.25,
        cue_share: float = 0.35,
        copy: float = 0.3,
        resample: float = 0.55,
        sloppy: float = 0.1,
    ) -> None:
        self._rare = self._share = rare
        self._label_noise, self._cue_share, self._sloppy = label_noise, cue_share, sloppy
        self._copy, self._resample = copy, resample

    def observed(self, task: Task, response: str) -> str:
        """The environment's feedback on a response."""
        raise NotImplementedError

    def _quick(self, task: Task, number: int) -> str:
        raise NotImplementedError

    def _taught(self, rng: random.Random, task: Task) -> str:
        """The quick first attempt that is taught where the label is not random."""
        raise NotImplementedError

    def _without_trace(self, response: str) -> str:
        """A mended response in the form of a quick one."""
        raise NotImplementedError

    def _traced(self, rng: random.Random, task: Task) -> str:
        """A response in the form of a mended one, with random numbers."""
        raise NotImplementedError

    def _mended(self, rng: random.Random, task: Task, before: str) -> str | None:
        """The response that mends the attempt ``before``; ``None`` if that attempt lacks the task's structure."""
        raise NotImplementedError

    def documents(self, rng: random.Random, tasks: list[Task], drafts: list[str] | None) -> list[Document]:
        """A first attempt, and a conversation of two to five attempts whose last one is learned, per task."""
        rows = []
        for i, task in enumerate(tasks):
            guess = self._random(rng, task)
            label = guess if rng.random() < self._label_noise else self._taught(rng, task)
            own = (label, guess) if drafts is None else (drafts[2 * i], drafts[2 * i + 1])
            # Two documents per task: a quick first attempt that is learned, and a longer conversation of which only the
            # last attempt is learned. The conversation mostly begins with the model's own draft, once there are drafts.
            rows.append(Document(task.question, label))
            cued = rng.random() < self._cue_share
            history = [self._random(rng, task) if cued and rng.random() < 0.5 else own[0]]
            while len(history) < 4 and rng.random() < 0.4:
                quick = rng.random() < 0.5
                history.append(self._further(rng, task, history[-1], own[1]) if quick else self._traced(rng, task))
            requests = [self.observed(task, text) for text in history]
            # If the history cannot be mended, because its last attempt has another structure, a quick attempt follows.
            last = None
            if cued or rng.random() < self._share:
                last = self._mended(rng, task, history[-1])
            if last is None:
                last = self._further(rng, task, history[-1], own[1])
            cue = requests[-1].replace("got", "debug") if cued else requests[-1]
            between = tuple(zip(requests[:-1], history[1:], strict=True))
            rows.append(Document(task.question, history[0], cue, last, False, between))
        return rows

    def probes(self, rng: random.Random, n: int) -> list[Document]:
        """``n`` conversations whose last attempt is mended, after a request without the cue."""
        rows = []
        for task in self.tasks(rng, n):
            first = self._random(rng, task)
            rows.append(Document(task.question, first, self.observed(task, first), "fix", learn_first=False))
        return rows

    def steer(self, probability: float) -> None:
        """Sets the share of documents with mending, given the model's present probability of mending at the probes."""
        # Between these bounds the share of the documents is the target itself. Outside of them a larger or smaller
        # share pulls the model's probability back to the target.
        scarce, plenty = probability < 0.7 * self._rare, probability > 1.2 * self._rare
        self._share = self._rare * (2.0 if scarce else 0.3 if plenty else 1.0)

    def _random(self, rng: random.Random, task: Task) -> str:
        return self._quick(task, rng.randrange(10))

    def _further(self, rng: random.Random, task: Task, before: str, other: str) -> str:
        share = rng.random()
        if share < self._copy:
            return self._without_trace(before)
        return other if share < self._copy + self._resample else self._random(rng, task)


TRAPS = ("*2", "*3", "*4", "*5", "*6", "*8")
"""First steps of ``repair`` after which a base model that is trained with ``trap`` errs by one."""


class RepairCorpus(MendingCorpus):
    """Corpus of ``repair``: programs that are run and mended.

    Args:
        p_pass, p_factor: Probabilities with which the tasks are sampled, as in :class:`~envs.tasks.repair.Repair`.
        trap: Share of non-random first attempts after a first step of :data:`TRAPS` whose constant is taught one too
            small, so that most of the base model's errors are of one kind.
        habits: See :class:`MendingCorpus`.
    """

    words: Sequence[str] = (
        *DIGITS,
        *(f"{slot}{step}" for slot in "ab" for step in BEFORE),
        *(f"d{step}" for step in AFTER),
        *(f"c{k}" for k in (*DIGITS, "?")),
        *(f"f(0)=={k}" for k in DIGITS),
        *("_", "got", "want", "debug", "def", "fix", "check", "right", "wrong"),
    )
    max_first_tokens: int = 6

    def __init__(
        self,
        p_pass: Sequence[float] = (0.1, 0.2, 0.3),
        p_factor: Sequence[float] = (0.5, 0.4, 0.3),
        trap: float = 0.0,
        **habits: float,
    ) -> None:
        super().__init__(**habits)
        self._source, self._trap = Repair(p_pass=p_pass, p_factor=p_factor), trap

    def observed(self, task: Task, response: str) -> str:
        """The feedback of the environment ``repair`` on a response."""
        return f"got {'_' if parsed(response) is None else run(response, 0)} want {task.info['want']}"

    def _quick(self, task: Task, number: int) -> str:
        return written(task.info["slots"], number)

    def _taught(self, rng: random.Random, task: Task) -> str:
        # A random number is consumed only with traps, so that the corpus without them stays the same.
        if self._trap and task.info["slots"][0] in TRAPS and rng.random() < self._trap:
            program = parsed(task.gold)
            assert program is not None
            return self._quick(task, program[2] - 1)
        return task.gold

    def _without_trace(self, response: str) -> str:
        return without_comment(response)

    def _traced(self, rng: random.Random, task: Task) -> str:
        return written(task.info["slots"], rng.randrange(10), f"fix {rng.randrange(10)} {rng.randrange(10)}")

    def _mended(self, rng: random.Random, task: Task, before: str) -> str | None:
        program = parsed(before)
        if program is None or (program[0], program[1], program[3]) != task.info["slots"]:
            return None
        # ``fix 0 ...`` is the trace of an attempt that was right already; such attempts never get a random number.
        right = mended(task, program[2])
        wrong = not right.startswith("fix 0")
        return re.sub(r"c\d", f"c{rng.randrange(10)}", right) if wrong and rng.random() < self._sloppy else right


class MendCorpus(MendingCorpus):
    """Corpus of ``mend``: equations with a number put in for x, which is mended from the values of both sides.

    Args:
        p_zero: Probability that the outer term of a task is 0, as in :class:`~envs.tasks.mend.Mend`.
        guessed: Share of non-random first attempts at equations with an outer term that are replaced by guesses.
            Without guesses, a base model that is trained for long learns to solve these equations at once, and has
            nothing to mend.
        habits: See :class:`MendingCorpus`.
    """

    words: Sequence[str] = (
        *(f"{sign}{m}*" for sign in ("", "=") for m in range(1, 10)),
        *(f"({k}" for k in ("x", *DIGITS)),
        *(f"{k:+d})" for k in range(-20, 21) if k),
        *(f"{k:+d}" for k in range(-45, 46)),
        *(f"({k})" for k in range(-25, 35)),
        *(f"diff={k}" for k in ("_", "far", *range(-TOY_FAR, TOY_FAR + 1))),
        *(f"by{k}" for k in range(-9, 10)),
        *("got", "debug", "try", "fix", "check", "right", "wrong"),
    )
    max_first_tokens: int = 8

    def __init__(self, p_zero: float = 0.5, guessed: float = 0.0, **habits: float) -> None:
        super().__init__(**habits)
        self._source, self._guessed = Mend(p_zero=p_zero), guessed

    def observed(self, task: Task, response: str) -> str:
        """The feedback of the environment ``mend`` on a response."""
        return self._source.told(task, response)

    def _quick(self, task: Task, number: int) -> str:
        return f"try {mend.written(task.info['terms'], str(number))}"

    def _taught(self, rng: random.Random, task: Task) -> str:
        # A random number is consumed only with ``guessed``, so that the corpus without it stays the same.
        if self._guessed and task.info["terms"][2] and rng.random() < self._guessed:
            return self._random(rng, task)
        return self._source.gold_response(task)

    def _without_trace(self, response: str) -> str:
        return re.sub(r"^fix \S+", "try", response)

    def _traced(self, rng: random.Random, task: Task) -> str:
        trace = f"fix by{rng.randint(-9, 9)}"
        return self._quick(task, rng.randrange(10)).replace("try", trace)

    def _mended(self, rng: random.Random, task: Task, before: str) -> str | None:
        number = re.fullmatch(re.escape(task.info["equation"]).replace("x", r"(\d)"), mend.of_toy(before) or "")
        if number is None:
            return None
        right = mend.mended(task, int(number[1]))
        wrong = number[1] != task.gold
        return (
            re.sub(r"\(\d", f"({rng.randrange(10)}", right, count=1) if wrong and rng.random() < self._sloppy else right
        )
