"""Direct preference optimisation on token-exact pairs, with TRL's ``DPOTrainer``."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rl.analysis.revisions import Revision
from rl.backends.sft import progress_callback, run_trainer, shared_arguments
from rl.config import OfflineConfig


@dataclass(frozen=True, slots=True)
class PreferenceRow:
    """A right and a wrong second attempt at one task after the same prompt.

    Args:
        prompt_ids: Token ids of the prompt of both attempts.
        chosen_ids: Token ids of the right attempt.
        rejected_ids: Token ids of the wrong attempt.
        revision: The first attempt and the chosen second attempt; ``None`` if unknown.
    """

    prompt_ids: tuple[int, ...]
    chosen_ids: tuple[int, ...]
    rejected_ids: tuple[int, ...]
    revision: Revision | None = None


def fine_tune_on_pairs(
    model: Any,
    tokenizer: Any,
    rows: Sequence[PreferenceRow],
    config: OfflineConfig,
    seed: int,
    n_steps: int = 0,
    on_step: Callable[[float], None] | None = None,
) -> dict[str, float]:
    """Trains a model in place with DPO (arXiv 2305.18290, equation 7); the reference is the model before training.

    Args:
        model: A transformers causal language model, with or without adapters.
        tokenizer: Its tokenizer, for the padding token only.
        rows: Pairs of attempts.
        config: Epochs, batch size, optimiser and ``beta``.
        seed: Random seed of the order of rows.
        n_steps: Optimiser steps; 0 for ``config.epochs`` passes.
        on_step: Called with the progress in [0, 1].

    Returns:
        ``steps``, ``loss`` and ``gradient_tokens``, which counts chosen and rejected tokens.

    Raises:
        ValueError: If there are no rows.
    """
    if not rows:
        raise ValueError("no pairs to fine-tune on: no task has both a right and a wrong attempt")
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    class TokenExact(DPOTrainer):
        """Uses the given token ids; TRL's own preparation would tokenise texts again."""

        def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
            return dataset

    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    data = Dataset.from_dict({name: [list(getattr(row, name)) for row in rows] for name in names})
    width = max(len(row.prompt_ids) + max(len(row.chosen_ids), len(row.rejected_ids)) for row in rows)

    def make(scratch: str) -> Any:
        # Each row has two sequences, chosen and rejected.
        arguments = shared_arguments(scratch, model, len(rows), 2 * width, config, seed, n_steps)
        return TokenExact(
            model=model,
            ref_model=None if hasattr(model, "peft_config") else copy.deepcopy(model),
            args=DPOConfig(beta=config.beta, max_length=None, **arguments),
            train_dataset=data,
            processing_class=tokenizer,
            callbacks=[progress_callback(on_step)],
        )

    return run_trainer(make, sum(len(row.chosen_ids) + len(row.rejected_ids) for row in rows))
