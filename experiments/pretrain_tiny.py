"""Pretrains the tiny base model of an embedded toy environment: ``python -m experiments.pretrain_tiny toy=modchain``.

This command made the weights in ``models/`` that the demo uses.
"""

import inspect
from collections.abc import Sequence
from typing import Any

from experiments.base_schema import PretrainConfig
from experiments.cli import UserError, console, entry_point
from experiments.mending_corpus import MendCorpus, RepairCorpus
from experiments.tiny_corpus import AdditionCorpus, Corpus, ModChainCorpus
from rewards import nearest

CORPORA: dict[str, type] = {
    "repair": RepairCorpus,
    "mend": MendCorpus,
    "modchain": ModChainCorpus,
    "addition": AdditionCorpus,
}


@entry_point("pretrain_tiny")
def main(cfg: PretrainConfig) -> None:
    """Pretrains the model and prints its folder."""
    corpus = make_corpus(cfg)
    import torch

    from experiments.tiny_training import pretrain

    torch.set_num_threads(cfg.threads)
    console.print(f"saved {pretrain(cfg, corpus)}", highlight=False)


def make_corpus(cfg: PretrainConfig) -> Corpus:
    """Returns the pretraining corpus of the toy.

    Raises:
        UserError: If there is no such toy, or its corpus has no such argument or needs another type of value.
    """
    if cfg.name not in CORPORA:
        raise UserError(f"name={cfg.name}: unknown{nearest(cfg.name, CORPORA)} Known: {', '.join(CORPORA)}")
    known = arguments(CORPORA[cfg.name])
    for name, value in cfg.corpus.items():
        if name not in known:
            raise UserError(f"corpus.{name}: {cfg.name} has no such argument{nearest(name, known)} "
                            f"It has: {', '.join(known)}")  # fmt: skip
        wanted = "true or false" if isinstance(known[name], bool) else "a number"
        wanted = "a list of numbers" if isinstance(known[name], Sequence) else wanted
        given = [*value] if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        is_list = given != [value]
        fits = all(isinstance(x, int | float) and isinstance(x, bool) == isinstance(known[name], bool) for x in given)
        if not fits or is_list != isinstance(known[name], Sequence):
            raise UserError(f"corpus.{name}={value}: {wanted} is needed here")
    return CORPORA[cfg.name](**cfg.corpus)


def arguments(kind: type) -> dict[str, Any]:
    """Constructor arguments of a class with their defaults, including those that it passes on to its base class."""
    found: dict[str, Any] = {}
    for one in kind.__mro__:
        own = inspect.signature(one.__init__).parameters.values()
        found = {p.name: p.default for p in own if p.name != "self" and p.kind is not p.VAR_KEYWORD} | found
        if all(p.kind is not p.VAR_KEYWORD for p in own):
            break
    return found


if __name__ == "__main__":
    main()
