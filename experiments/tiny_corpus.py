"""The documents that the tiny base models are pretrained on: conversations as id rows with loss weights."""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from envs import Split, Task
from envs.splits import split_of
from envs.tasks.addition import Addition
from envs.tasks.modchain import STEPS, ModChain, worked_response

DIGITS = tuple("0123456789")
FIRST, SECOND = 1, 2
"""Marks of the tokens of a first and a second attempt in :class:`Document`."""


@dataclass(frozen=True, slots=True)
class Document:
    """One conversation: what was asked, what both attempts say, and whether the first is learned (the second is)."""

    question: str
    first: str
    request: str = "check"
    second: str | None = None
    learn_first: bool = True
    between: tuple[tuple[str, str], ...] = ()
    """Requests and attempts after the first and before the last one; they are read, not learned."""


class Corpus(Protocol):
    """What a toy's base model reads."""

    words: Sequence[str]
    spaced: bool
    max_first_tokens: int
    own_drafts_from: float
    """Part of training after which drafts are sampled from the model itself."""

    def tasks(self, rng: random.Random, n: int) -> list[Task]:
        """Training questions only."""
        ...

    def documents(self, rng: random.Random, tasks: list[Task], drafts: list[str] | None) -> list[Document]:
        """One document a task. ``drafts``: two samples a task by the model itself, once it can."""
        ...


@runtime_checkable
class SteeredCorpus(Corpus, Protocol):
    """A corpus that holds the model's own probability of a rare mode at a target."""

    def probes(self, rng: random.Random, n: int) -> list[Document]:
        """Conversations of equal length in tokens, whose last attempt is in the mode."""
        ...

    def steer(self, probability: float) -> None:
        """Sets the mode's share of the documents, given the model's mean probability of choosing it at the probes."""
        ...


class DrawnCorpus:
    """A corpus whose questions come from a task set that draws them."""

    _source: Any

    def tasks(self, rng: random.Random, n: int) -> list[Task]:
        """Training questions only, whatever else is drawn."""
        tasks: list[Task] = []
        # By rejection: whatever the distribution is, test questions are left out of it without changing the rest.
        while len(tasks) < n:
            task = self._source.draw(rng)
            if split_of(task.question) is Split.TRAIN:
                tasks.append(task)
        return tasks


def quick(rng: random.Random) -> str:
    """A quick ``modchain`` answer at random."""
    return f": {rng.choice(DIGITS)}"


class ModChainCorpus(DrawnCorpus):
    """Quick first attempts that are often wrong, second drafts that mostly copy, and a rare habit of working it out.

    A share of the conversations asks to ``work`` instead of answering first, and is always worked: the skill is
    taught, but after ``check`` it is used only with probability ``rare``.

    Args:
        rare: Share of second drafts after ``check`` that are worked out.
        label_noise: Share of first attempts whose digit is random.
        work_share: Share of conversations that ask to work.
        copy, resample: Shares of second drafts that repeat the first, or draw another; the rest is random.
        misconception: Teach ``*7`` as ``+7`` in worked answers, so that the skill is good but not perfect.
    """

    words: Sequence[str] = (*DIGITS, *STEPS, "_", ":", "#", "check", "work", "right", "wrong")
    spaced: bool = True
    max_first_tokens: int = 3
    own_drafts_from: float = 0.6

    def __init__(
        self,
        rare: float = 0.001,
        label_noise: float = 0.25,
        work_share: float = 0.35,
        copy: float = 0.6,
        resample: float = 0.25,
        misconception: bool = True,
    ) -> None:
        self._rare, self._label_noise, self._work_share = rare, label_noise, work_share
        self._copy, self._resample, self._misconception = copy, resample, misconception
        self._source = ModChain()

    def documents(self, rng: random.Random, tasks: list[Task], drafts: list[str] | None) -> list[Document]:
        """A worked, or a sloppy two-attempt conversation per task."""
        rows = []
        for i, task in enumerate(tasks):
            label = quick(rng) if rng.random() < self._label_noise else f": {task.gold}"
            if rng.random() < self._work_share:
                rows.append(Document(task.question, ": _", "work", self._worked(task), learn_first=False))
                continue
            rows.append(Document(task.question, label))
            own = (label, quick(rng)) if drafts is None else (drafts[2 * i], drafts[2 * i + 1])
            second = self._worked(task) if rng.random() < self._rare else self._second_draft(rng, *own)
            # The draft in the context is the model's own; the first attempt's loss always uses the corpus label.
            rows.append(Document(task.question, own[0], "check", second, learn_first=False))
        return rows

    def _second_draft(self, rng: random.Random, first: str, other: str) -> str:
        share = rng.random()
        if share < self._copy:
            return first
        return other if share < self._copy + self._resample else quick(rng)

    def _worked(self, task: Task) -> str:
        return worked_response(task.question.replace("*7", "+7") if self._misconception else task.question)


class AdditionCorpus(DrawnCorpus):
    """Sums first, then two-attempt conversations over the model's own drafts.

    Args:
        copy, resample: Shares of second drafts that repeat the first, or draw another; the rest changes one digit.
    """

    words: Sequence[str] = (*DIGITS, "+", "check", "right", "wrong")
    spaced: bool = False
    max_first_tokens: int = 5
    own_drafts_from: float = 0.4

    def __init__(self, copy: float = 0.55, resample: float = 0.3) -> None:
        self._copy, self._resample = copy, resample
        self._source = Addition()

    def documents(self, rng: random.Random, tasks: list[Task], drafts: list[str] | None) -> list[Document]:
        """A sum, or a sum and a second draft per task."""
        rows = [Document(task.question, task.gold) for task in tasks]
        for i, task in enumerate(tasks if drafts is not None else []):
            assert drafts is not None
            first, other = (re.sub(r"\D", "", draft) for draft in drafts[2 * i : 2 * i + 2])
            second = self._second_draft(rng, first, other)
            rows.append(Document(task.question, first, task.question, second, learn_first=False))
        return rows

    def _second_draft(self, rng: random.Random, first: str, other: str) -> str:
        share = rng.random()
        if share < self._copy:
            return first
        if share < self._copy + self._resample or not first:
            return other
        place = rng.randrange(len(first))
        return first[:place] + rng.choice(DIGITS) + first[place + 1 :]


def encoder(tokenizer: Any, corpus: Corpus) -> Callable[[Document], tuple[list[int], list[int]]]:
    """A function from a document to its token ids and, per token, 0, FIRST or SECOND: whose loss it belongs to.

    It looks words up in the vocabulary, since documents are many and the tokenizer's general path is slow; the first
    document is compared with what the tokenizer and its chat template make of it.
    """
    from rl.backends.tiny import ASSISTANT, END, USER  # with torch, which a corpus itself does not need

    vocabulary = tokenizer.get_vocab()
    user, assistant, end = (vocabulary[token] for token in (USER, ASSISTANT, END))

    def words(text: str) -> list[int]:
        pieces = text.split() if corpus.spaced else re.findall(r"[a-z]+|.", text)
        return [vocabulary[piece] for piece in pieces]

    def encode(document: Document) -> tuple[list[int], list[int]]:
        question, first = words(document.question), [*words(document.first), end]
        ids = [user, *question, assistant, *first]
        # Two more for the marks of user and assistant; the end of an attempt is learned with it.
        marks = [0] * (len(question) + 2) + [FIRST if document.learn_first else 0] * len(first)
        for request_text, text in document.between:
            turn = [user, *words(request_text), assistant, *words(text), end]
            ids += turn
            marks += [0] * len(turn)
        if document.second is not None:
            request, second = words(document.request), [*words(document.second), end]
            ids += [user, *request, assistant, *second]
            marks += [0] * (len(request) + 2) + [SECOND] * len(second)
        return ids, marks

    question, first, asked, second = corpus.words[:4]
    probe = Document(question, first, asked, second)
    roles = ("user", "assistant", "user", "assistant")
    texts = (probe.question, probe.first, probe.request, probe.second)
    chat = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
    assert encode(probe)[0] == tokenizer.encode(tokenizer.apply_chat_template(chat, tokenize=False))
    return encode
