"""Makes the tiny base model of an embedded toy: ``python -m experiments.pretrain_tiny toy=modchain``.

The weights that the demo uses are kept in ``models/``; this is the command that makes them.
"""

from experiments.cli import UserError, console, entry_point
from experiments.schema import PretrainConfig


@entry_point("pretrain_tiny")
def main(cfg: PretrainConfig) -> None:
    """Pretrains and says where the model is."""
    import torch

    from experiments.tiny_training import CORPORA, pretrain

    if cfg.name not in CORPORA:
        raise UserError(f"name={cfg.name}: there is no such toy; known: {', '.join(sorted(CORPORA))}")
    torch.set_num_threads(cfg.threads)
    console.print(f"saved {pretrain(cfg)}", highlight=False)


if __name__ == "__main__":
    main()
