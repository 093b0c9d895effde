"""Pretraining documents of the tiny base models: conversations, and their encoding as token ids with loss marks."""

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
"""Loss marks for the tokens of the first and of the last attempt of a :class:`Document`."""


@dataclass(frozen=True, slots=True)
class Document:
    """One conversation of a question, a first attempt and, optionally, a request and a last attempt.

    The last attempt (``second``) is always learned, the first one only with ``learn_first``.
    """

    question: str
    first: str
    request: str = "check"
    second: str | None = None
    learn_first: bool = True
    between: tuple[tuple[str, str], ...] = ()
    """Pairs of request and attempt between the first and the last attempt; they are context and not learned."""


class Corpus(Protocol):
    """The pretraining corpus of a toy's base model."""

    words: Sequence[str]
    spaced: bool
    max_first_tokens: int
    own_drafts_from: float
    """Share of training after which drafts are sampled from the model itself."""

    def tasks(self, rng: random.Random, n: int) -> list[Task]:
        """Samples ``n`` tasks of the training split."""
        ...

    def documents(self, rng: random.Random, tasks: list[Task], drafts: list[str] | None) -> list[Document]:
        """Documents for the tasks; ``drafts`` are two samples per task by the model itself, once there are any."""
        ...


@runtime_checkable
class SteeredCorpus(Corpus, Protocol):
    """A corpus that keeps the model's probability of a rare mode (kind of attempt) at a target value."""

    def probes(self, rng: random.Random, n: int) -> list[Document]:
        """``n`` conversations of equal length in tokens, whose last attempt is in the rare mode."""
        ...

    def steer(self, probability: float) -> None:
        """Sets the rare mode's share of the documents, given the model's mean probability of the mode at the probes."""
        ...


class DrawnCorpus:
    """A corpus whose questions are sampled from a task set."""

    _source: Any

    def tasks(self, rng: random.Random, n: int) -> list[Task]:
        """Samples ``n`` tasks and rejects those that are not in the training split."""
        tasks: list[Task] = []
        # Rejection removes test questions without changing the distribution of the training questions.
        while len(tasks) < n:
            task = self._source.draw(rng)
            if split_of(task.question) is Split.TRAIN:
                tasks.append(task)
        return tasks


def quick(rng: random.Random) -> str:
    """A random ``modchain`` answer without working."""
    return f": {rng.choice(DIGITS)}"


class ModChainCorpus(DrawnCorpus):
    """Quick first attempts that are often wrong, second attempts that mostly copy, and rarely ones that are worked out.

    A share of the conversations has the request ``work``, after which the answer is always worked out step by step. So
    the skill is taught, but after the request ``check`` it is used only with probability ``rare``.

    Args:
        rare: Share of second attempts after ``check`` that are worked out.
        label_noise: Share of first attempts whose digit is random.
        work_share: Share of conversations with the request ``work``.
        copy, resample: Shares of second attempts that repeat the first, or that are another sample; the rest is random.
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
        """Per task either a worked conversation, or a quick first attempt and a conversation with a second one."""
        rows = []
        for i, task in enumerate(tasks):
            label = quick(rng) if rng.random() < self._label_noise else f": {task.gold}"
            if rng.random() < self._work_share:
                rows.append(Document(task.question, ": _", "work", self._worked(task), learn_first=False))
                continue
            rows.append(Document(task.question, label))
            own = (label, quick(rng)) if drafts is None else (drafts[2 * i], drafts[2 * i + 1])
            second = self._worked(task) if rng.random() < self._rare else self._second_draft(rng, *own)
            # The first attempt here is the model's own draft and not learned; first attempts are learned only from the
            # document above.
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
    """Right sums at first; later also two-attempt conversations that begin with the model's own drafts.

    Args:
        copy, resample: Shares of second attempts that repeat the first, or that are another sample; the rest changes
            one digit.
    """

    words: Sequence[str] = (*DIGITS, "+", "check", "right", "wrong")
    spaced: bool = False
    max_first_tokens: int = 5
    own_drafts_from: float = 0.4

    def __init__(self, copy: float = 0.55, resample: float = 0.3) -> None:
        self._copy, self._resample = copy, resample
        self._source = Addition()

    def documents(self, rng: random.Random, tasks: list[Task], drafts: list[str] | None) -> list[Document]:
        """Per task its right sum and, with drafts, a conversation with a second attempt."""
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
    """Returns a function from a document to its token ids and loss marks: FIRST, SECOND, or 0 for tokens not learned.

    The function looks words up in the vocabulary directly, because the tokenizer's general path is too slow for so many
    documents. A probe document checks that tokenizer and chat template give the same ids.
    """
    from rl.backends.tiny import ASSISTANT, END, USER  # Loads torch, which a corpus itself does not need.

    vocabulary = tokenizer.get_vocab()
    user, assistant, end = (vocabulary[token] for token in (USER, ASSISTANT, END))

    def words(text: str) -> list[int]:
        pieces = text.split() if corpus.spaced else re.findall(r"[a-z]+|.", text)
        return [vocabulary[piece] for piece in pieces]

    def encode(document: Document) -> tuple[list[int], list[int]]:
        question, first = words(document.question), [*words(document.first), end]
        ids = [user, *question, assistant, *first]
        # Two more tokens mark user and assistant; the end token of an attempt is learned together with the attempt.
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
