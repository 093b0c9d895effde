"""Makes the tiny base model of an embedded toy: ``python -m experiments.pretrain_tiny toy=modchain``.

The weights that the demo uses are kept in ``models/``; this is the command that makes them.
"""

import inspect
from collections.abc import Callable
from pathlib import Path

from experiments.cli import UserError, console, entry_point
from experiments.mending_corpus import MendCorpus, RepairCorpus
from experiments.schema import PretrainConfig
from experiments.tiny_corpus import AdditionCorpus, Corpus, ModChainCorpus
from rewards import nearest

CORPORA: dict[str, Callable[..., Corpus]] = {
    "repair": RepairCorpus,
    "mend": MendCorpus,
    "modchain": ModChainCorpus,
    "addition": AdditionCorpus,
}


@entry_point("pretrain_tiny")
def main(cfg: PretrainConfig) -> None:
    """Pretrains and says where the model is."""
    corpus = make_corpus(cfg)
    Path(cfg.output).mkdir(parents=True, exist_ok=True)  # where it cannot be made, no minutes are spent first
    import torch

    from experiments.tiny_training import pretrain

    torch.set_num_threads(cfg.threads)
    console.print(f"saved {pretrain(cfg, corpus)}", highlight=False)


def make_corpus(cfg: PretrainConfig) -> Corpus:
    """What the toy's base reads.

    Raises:
        UserError: If there is no such toy, or its corpus has no such argument.
    """
    if cfg.name not in CORPORA:
        raise UserError(f"name={cfg.name}: unknown{nearest(cfg.name, CORPORA)} Known: {', '.join(CORPORA)}")
    known = inspect.signature(CORPORA[cfg.name]).parameters
    for name, value in cfg.corpus.items():
        if name not in known:
            raise UserError(f"corpus.{name}: {cfg.name} has no such argument{nearest(name, known)} "
                            f"It has: {', '.join(known)}")  # fmt: skip
        is_flag = isinstance(known[name].default, bool)
        if not isinstance(value, int | float) or isinstance(value, bool) != is_flag:
            raise UserError(f"corpus.{name}={value}: {'true or false' if is_flag else 'a number'} is needed here")
    return CORPORA[cfg.name](**cfg.corpus)


if __name__ == "__main__":
    main()
