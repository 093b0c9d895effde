"""A made-up language: passages, lines that tell one fact each, and edits: the lines that a passage is turned into."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.func import vmap

from experiments.evidence.model import Table
from rl.backends.blocks import Learned
from rl.backends.copies import Copies, logits_of
from rl.backends.tiny import tiny_tokenizer

KNOWN, NEW, ATTRIBUTES, VALUES, BUDGET = 120, 130, 4, 12, 24
WORDS = ["passage", "edit", "list", "say", "back", "ask", "answer", ";", *(f"a{i}" for i in range(ATTRIBUTES))]
WORDS += [*(f"v{i}" for i in range(VALUES)), *(f"e{i}" for i in range(KNOWN + NEW))]
TOKENIZER = tiny_tokenizer(WORDS, True)
ID: dict[str, int] = TOKENIZER.get_vocab()
END, SEPARATOR = ID["<|end|>"], ID[";"]
Line = list[int]


def tell(form: str, entity: int, attribute: int, value: int) -> Line:
    """A line: ``say e7 a0 v3``, ``ask e7 a0 answer v3`` or ``back v3 a0 e7``."""
    e, a, v = ID["e0"] + entity, ID["a0"] + attribute, ID["v0"] + value
    return {"say": [ID["say"], e, a, v], "ask": [ID["ask"], e, a, ID["answer"], v], "back": [ID["back"], v, a, e]}[form]


def passage(entity: int, facts: np.ndarray) -> Line:
    """``passage e7`` and its four values; which attribute each is of, its place tells."""
    return [ID["passage"], ID["e0"] + entity, *(ID["v0"] + facts).tolist()]


def scripted(rng: np.random.Generator, entity: int, facts: np.ndarray, prompt: str, errors: float) -> list[Line]:
    """An edit of the corpus: four lines, mostly of one form; ``list`` states every attribute once."""
    forms = ("say", "back", "ask")
    style = forms[rng.integers(3)] if rng.random() < 0.8 else None
    attributes = rng.permutation(ATTRIBUTES) if prompt == "list" else rng.integers(0, ATTRIBUTES, 4)
    told = np.where(rng.random(4) < errors, rng.integers(0, VALUES, 4), facts[attributes])
    form = ["say" if prompt == "list" else style or forms[rng.integers(3)] for _ in range(4)]
    return [tell(f, entity, a, v) for f, a, v in zip(form, attributes.tolist(), told.tolist(), strict=True)]


def joined(lines: Sequence[Line]) -> Line:
    """Lines with a separator after each, and the end."""
    return [token for line in lines for token in (*line, SEPARATOR)] + [END]


def lines_of(edit: Sequence[int]) -> list[Line]:
    """What stands between separators, up to the end: a document each, whatever it says; at most eight tokens."""
    found, line = [], []
    for token in [*edit, END]:
        if token in (SEPARATOR, END):
            found += [line[:8]] if line else []
            line = []
            if token == END:
                break
        elif token:
            line.append(token)
    return found


def padded(rows: Sequence[Line], n: int, from_place: int = 1) -> Learned:
    """Rows of n tokens, 0 after their own; learned from a place on."""
    ids = torch.tensor([[*row, *[0] * (n - len(row))] for row in rows])
    return ids, (ids != 0) & (torch.arange(n) >= from_place)


def corpus(rng: np.random.Generator, facts: np.ndarray, errors: float) -> list[Learned]:
    """A batch of what a writer of edits has read: facts of known entities in all forms, and edits of passages.

    Passages of new entities tell facts that are drawn afresh each time: they have names, and no more is known.

    Args:
        rng: What is drawn from.
        facts: ``[entities, attributes]`` true values.
        errors: Share of wrong values in the edits.
    """
    e, a, f = rng.integers(0, KNOWN, 64), rng.integers(0, ATTRIBUTES, 64), rng.integers(0, 3, 64)
    told = [
        tell(("say", "back", "ask")[form], entity, at, int(facts[entity, at]))
        for entity, at, form in zip(e.tolist(), a.tolist(), f.tolist(), strict=True)
    ]
    written = []
    for entity in rng.integers(0, KNOWN + NEW, 20).tolist():
        true = facts[entity] if entity < KNOWN else rng.integers(0, VALUES, ATTRIBUTES)
        prompt = ("edit", "list")[rng.integers(2)]
        edit = joined(scripted(rng, entity, true, prompt, errors))
        written.append([*passage(entity, true), ID[prompt], *edit])
    return [padded(told, 5), padded(written, 7 + BUDGET + 1, 7)]


@dataclass
class Edits:
    """One or more edits of each of some passages, in a row."""

    entities: list[int]
    prompts: list[Line]
    written: list[Line]

    @property
    def documents(self) -> list[list[Line]]:
        """What an inner loop learns: the edit's lines, and the passage."""
        return [[*lines_of(edit), prompt[:-1]] for edit, prompt in zip(self.written, self.prompts, strict=True)]


def told_rightly(edits: Edits, facts: np.ndarray) -> np.ndarray:
    """``[N]`` how many of the four attributes each edit tells rightly, in a statement or a question."""
    return np.array([
        sum(any(tell(form, e, a, int(facts[e, a])) in lines for form in ("say", "ask")) for a in range(ATTRIBUTES))
        for e, lines in zip(edits.entities, map(lines_of, edits.written), strict=True)
    ])  # fmt: skip


def show(edits: Edits, facts: np.ndarray, step: int, accuracy: Sequence[float], samples: list[dict[str, Any]]) -> None:
    """Passages, their edits, and what they were worth, to be read."""
    for i, told in enumerate(told_rightly(edits, facts)):
        samples.append({
            "step": step,
            "prompt": TOKENIZER.decode(edits.prompts[i]),
            "answer": TOKENIZER.decode(edits.written[i]),
            "right": bool(told == ATTRIBUTES),
            "attributes told rightly": f"{told} of {ATTRIBUTES}",
            "answers right after it": f"{accuracy[i]:.2f}",
        })  # fmt: skip


@torch.no_grad()
def answers(model: Any, weights: Copies, entities: np.ndarray, facts: np.ndarray) -> np.ndarray:
    """``[M, E]`` share of right answers without a passage; entities ``[M, E]``, their four attributes each."""
    questions = np.array([
        [tell("ask", e, a, int(facts[e, a])) for e in row for a in range(ATTRIBUTES)] for row in entities.tolist()
    ])  # fmt: skip
    ids = torch.from_numpy(questions)
    told = vmap(lambda one, asked: logits_of(model, one, asked)[:, -1])(weights, ids[..., :4]).argmax(-1)
    return (told == ids[..., 4]).float().view(*entities.shape, ATTRIBUTES).mean(-1).numpy()


def forgetting_table(matrices: Sequence[Any]) -> Table:
    """Mean of matrices ``[i][j]``: answers about passage j after edits 1 to i in a row, row 0 before all of them."""
    found = np.mean(matrices, 0) if matrices else np.zeros((0, 0))
    header = ["after edits", *(f"passage {j + 1}" for j in range(np.shape(found)[-1]))]
    cells = [[str(i), *(f"{value:.2f}" for value in row)] for i, row in enumerate(found)]
    caption = "Answers without a passage after edits 1 to i in a row, mean over chains and seeds."
    return Table(caption, header, cells, title="Forgetting")
