"""A toy language of passages, lines that state one fact each, and edits: lines into which a passage is rewritten."""

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
    """A line that states a fact: ``say e7 a0 v3``, ``ask e7 a0 answer v3`` or ``back v3 a0 e7``."""
    e, a, v = ID["e0"] + entity, ID["a0"] + attribute, ID["v0"] + value
    return {"say": [ID["say"], e, a, v], "ask": [ID["ask"], e, a, ID["answer"], v], "back": [ID["back"], v, a, e]}[form]


def passage(entity: int, facts: np.ndarray) -> Line:
    """A passage: ``passage e7`` and the entity's four values, one for each attribute in a fixed order."""
    return [ID["passage"], ID["e0"] + entity, *(ID["v0"] + facts).tolist()]


def scripted(rng: np.random.Generator, entity: int, facts: np.ndarray, prompt: str, errors: float) -> list[Line]:
    """Samples an edit for the corpus: four lines, mostly of one form; after ``list`` one ``say`` line per attribute."""
    forms = ("say", "back", "ask")
    style = forms[rng.integers(3)] if rng.random() < 0.8 else None
    attributes = rng.permutation(ATTRIBUTES) if prompt == "list" else rng.integers(0, ATTRIBUTES, 4)
    told = np.where(rng.random(4) < errors, rng.integers(0, VALUES, 4), facts[attributes])
    form = ["say" if prompt == "list" else style or forms[rng.integers(3)] for _ in range(4)]
    return [tell(f, entity, a, v) for f, a, v in zip(form, attributes.tolist(), told.tolist(), strict=True)]


def joined(lines: Sequence[Line]) -> Line:
    """Lines as one row: a separator after each, and the end token."""
    return [token for line in lines for token in (*line, SEPARATOR)] + [END]


def lines_of(edit: Sequence[int]) -> list[Line]:
    """Splits an edit into lines at separators, up to the end token; lines may be malformed, and are cut to 8 tokens."""
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
    """Rows padded with 0 to n tokens; tokens from place ``from_place`` on are learned, except padding."""
    ids = torch.tensor([[*row, *[0] * (n - len(row))] for row in rows])
    return ids, (ids != 0) & (torch.arange(n) >= from_place)


def corpus(rng: np.random.Generator, facts: np.ndarray, errors: float) -> list[Learned]:
    """Samples a pretraining batch: facts of known entities in all forms, and edits of passages.

    The facts in passages of new entities are random each time, so the model knows these names but nothing about them.

    Args:
        rng: Random generator.
        facts: True values ``[entities, attributes]``.
        errors: Share of values in the edits that are replaced by random ones.
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
    """Edits of passages; several edits of one passage are adjacent.

    Args:
        entities: Entity of each edit's passage.
        prompts: Prompt of each edit: the passage and the word ``edit`` or ``list``.
        written: Token ids of each edit.
    """

    entities: list[int]
    prompts: list[Line]
    written: list[Line]

    @property
    def documents(self) -> list[list[Line]]:
        """The documents that an inner loop trains on for each edit: its lines, and the passage."""
        return [[*lines_of(edit), prompt[:-1]] for edit, prompt in zip(self.written, self.prompts, strict=True)]


def told_rightly(edits: Edits, facts: np.ndarray) -> np.ndarray:
    """Number ``[N]`` of attributes (out of four) that each edit states correctly, in a ``say`` or an ``ask`` line."""
    return np.array([
        sum(any(tell(form, e, a, int(facts[e, a])) in lines for form in ("say", "ask")) for a in range(ATTRIBUTES))
        for e, lines in zip(edits.entities, map(lines_of, edits.written), strict=True)
    ])  # fmt: skip


def show(edits: Edits, facts: np.ndarray, step: int, accuracy: Sequence[float], samples: list[dict[str, Any]]) -> None:
    """Adds passages, their edits and the resulting accuracy to ``samples``, in readable form."""
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
    """Share ``[M, E]`` of right answers without a passage: model copy m is asked all attributes of ``entities[m]``."""
    questions = np.array([
        [tell("ask", e, a, int(facts[e, a])) for e in row for a in range(ATTRIBUTES)] for row in entities.tolist()
    ])  # fmt: skip
    ids = torch.from_numpy(questions)
    told = vmap(lambda one, asked: logits_of(model, one, asked)[:, -1])(weights, ids[..., :4]).argmax(-1)
    return (told == ids[..., 4]).float().view(*entities.shape, ATTRIBUTES).mean(-1).numpy()


def forgetting_table(matrices: Sequence[Any]) -> Table:
    """Table of the mean of matrices ``[i][j]``: accuracy on passage j after i successive edits, row 0 before any."""
    found = np.mean(matrices, 0) if matrices else np.zeros((0, 0))
    header = ["after edits", *(f"passage {j + 1}" for j in range(np.shape(found)[-1]))]
    cells = [[str(i), *(f"{value:.2f}" for value in row)] for i, row in enumerate(found)]
    caption = "Accuracy on each passage, not shown, after i edits in a row; mean over chains and seeds."
    return Table(caption, header, cells, title="Forgetting")
