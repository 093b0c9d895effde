"""Config schemas of the programs that make a base model: an embedded toy, and a warm start of a language model."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from experiments.schema import ProgramConfig
from rl.config import OptimConfig, RunConfig
from rl.config.checks import check_numbers


@dataclass
class PretrainConfig(ProgramConfig):
    """``experiments.pretrain_tiny``: trains the base model of an embedded toy environment.

    Args:
        name: Name of the toy environment.
        output: Folder in which the model is saved.
        seed: Random seed of weights and documents.
        steps: Optimiser steps.
        batch_size: Tasks per optimiser step.
        hidden_size: Width of the Llama.
        n_layers: Number of layers of the Llama.
        n_heads: Attention heads of the Llama.
        context: Longest sequence of the Llama, in tokens.
        lr: Peak learning rate, which decays linearly to 5 %.
        second_weight: Weight of second attempts in the loss.
        length_class: Width, in tokens, of the length classes by which the rows of a step are batched together; 0 pads
            all rows of a step to the longest.
        dense: Compute the output layer at every token, not only at the learned tokens. The loss differs only in its
            last bits; with a large vocabulary a step takes twice as long.
        threads: Torch threads; another number changes the last bits of the weights.
        corpus: Arguments of the toy's corpus, a class in ``CORPORA`` of ``experiments/pretrain_tiny.py``.
    """

    name: str = MISSING
    output: str = "models/${name}"
    seed: int = 0
    steps: int = 1500
    batch_size: int = 256
    hidden_size: int = 64
    n_layers: int = 1
    n_heads: int = 4
    context: int = 64
    lr: float = 3e-3
    second_weight: float = 3.0
    length_class: int = 0
    dense: bool = True
    threads: int = 1
    corpus: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        counts = "steps batch_size hidden_size n_layers n_heads context threads"
        check_numbers(self, "", positive=f"{counts} lr", not_negative="seed second_weight length_class")


@dataclass
class WarmStartConfig(RunConfig):
    """``experiments.warm_start``: a model learns the form of an environment's conversations before any comparison.

    Args:
        demonstration: Function that writes the attempts; a name in
            :data:`experiments.demonstrations.DEMONSTRATIONS`.
        demonstration_options: Options of that function: shares of right answers, copies, corrections.
        n_conversations: Number of conversations, one per training task; tasks are reused if there are fewer.
        epochs: Passes over the conversations.
        batch_size: Conversations per optimiser step.
        learn_slips: Whether wrong first attempts are part of the loss. ``false`` keeps them as context only, so that
            the model does not learn to make the written mistakes.
        optim: Optimiser settings.
        output: Folder for a second copy of the model, besides the run's folder; ``null`` writes no copy.
    """

    demonstration: str = MISSING
    demonstration_options: dict[str, Any] = field(default_factory=dict)
    n_conversations: int = 1440
    epochs: int = 1
    batch_size: int = 32
    learn_slips: bool = True
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=5e-5, schedule="linear", warmup_steps=5))
    output: str | None = None

    def __post_init__(self) -> None:
        self.refuse_recorded()
        check_numbers(self, "", positive="n_conversations epochs batch_size", not_negative="seed threads")
