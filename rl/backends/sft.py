"""Supervised fine-tuning on token-exact rows, with TRL's ``SFTTrainer``."""

import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rl.analysis.revisions import Revision
from rl.config import OfflineConfig
from rl.types import RunStoppedError

IGNORED = -100
LARGE_HEAD = 4096
"""Vocabulary size from which on it saves time to compute logits only for tokens that are trained on."""


@dataclass(frozen=True, slots=True)
class SFTRow:
    """One training sequence, with labels for the tokens that are trained on.

    Args:
        input_ids: Prompt and response ids, exactly as sampled.
        labels: The same ids for tokens that are trained on, -100 for all others.
        revision: First and second attempt, for rows that train on a second attempt; ``None`` otherwise.
    """

    input_ids: tuple[int, ...]
    labels: tuple[int, ...]
    revision: Revision | None = None

    @classmethod
    def from_turn(
        cls, prompt_ids: tuple[int, ...], action_ids: tuple[int, ...], revision: Revision | None = None
    ) -> "SFTRow":
        """A row that trains on the action and not on the prompt."""
        return cls(prompt_ids + action_ids, (IGNORED,) * len(prompt_ids) + action_ids, revision)


def fine_tune(
    model: Any,
    tokenizer: Any,
    rows: Sequence[SFTRow],
    config: OfflineConfig,
    seed: int,
    n_steps: int = 0,
    on_step: Callable[[float], None] | None = None,
) -> dict[str, float]:
    """Fine-tunes a model in place.

    Args:
        model: A transformers causal language model.
        tokenizer: Its tokenizer, for the padding token only.
        rows: Training sequences.
        config: Epochs, batch size and optimiser. TRL normalises the loss over the whole batch, so that the split into
            micro-batches by ``micro_batch_tokens`` does not change the loss.
        seed: Random seed of the order of rows.
        n_steps: Optimiser steps; 0 for ``config.epochs`` passes.
        on_step: Called with the progress in [0, 1].

    Returns:
        ``steps``, ``loss`` (mean over training, nats per token) and ``gradient_tokens``, the number of tokens trained
        on.

    Raises:
        ValueError: If there are no rows.
    """
    if not rows:
        raise ValueError("no rows to fine-tune on: the rule kept none of the sampled episodes")
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    data = Dataset.from_dict(
        {"input_ids": [list(row.input_ids) for row in rows], "labels": [list(row.labels) for row in rows]}
    )
    width = max(len(row.input_ids) for row in rows)

    def make(scratch: str) -> Any:
        arguments = shared_arguments(scratch, model, len(rows), width, config, seed, n_steps)
        return SFTTrainer(
            model=model,
            args=SFTConfig(max_length=None, **arguments),
            train_dataset=data,
            processing_class=tokenizer,
            callbacks=[progress_callback(on_step)],
        )

    with learned_positions_alone(model):
        return run_trainer(make, sum(sum(label != IGNORED for label in row.labels) for row in rows))


@contextmanager
def learned_positions_alone(model: Any) -> Iterator[None]:
    """Lets TRL compute logits only for tokens that are trained on, also on a CPU.

    TRL does so only on GPUs. On other devices it computes logits at every position, so that shapes stay the same and
    compiled code need not be recompiled. Nothing is compiled here, and the head is a third of a real model's work.
    """
    from trl.trainer import utils

    on_gpus_alone = utils._use_triton
    if model.get_output_embeddings().weight.shape[0] >= LARGE_HEAD:
        utils._use_triton = lambda device: True
    try:
        yield
    finally:
        utils._use_triton = on_gpus_alone


def run_trainer(make: Callable[[str], Any], tokens_per_pass: int) -> dict[str, float]:
    """Builds a TRL trainer with a temporary folder and trains to the end.

    Args:
        make: Function that builds the trainer, given the temporary folder.
        tokens_per_pass: Number of tokens that one pass over the rows trains on.

    Returns:
        ``steps``, ``loss`` and ``gradient_tokens``.
    """
    from transformers import PrinterCallback

    for name in ("trl", "transformers"):  # their warnings on token ids and columns do not apply to this use
        logging.getLogger(name).setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as scratch:
        trainer = make(scratch)
        trainer.remove_callback(PrinterCallback)
        outcome = trainer.train()
    trainer.model.eval()
    return {
        "steps": float(outcome.global_step),
        "loss": float(outcome.training_loss),
        # The epoch is a fraction if training stopped within an epoch.
        "gradient_tokens": float(tokens_per_pass * (trainer.state.epoch or 0.0)),
    }


def progress_callback(on_step: Callable[[float], None] | None) -> Any:
    """A trainer callback that reports progress, and stops training before a step with a non-finite gradient."""
    from transformers import TrainerCallback

    class Progress(TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            gradients = (p.grad for p in model.parameters() if p.grad is not None)
            if not all(bool(gradient.isfinite().all()) for gradient in gradients):
                raise RunStoppedError(
                    f"fine-tuning step {state.global_step + 1}: the gradient is not finite, and the step was not "
                    "taken. Take a smaller learning rate (offline.optim.lr), or start from another model"
                )

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if on_step is not None:
                on_step(state.global_step / state.max_steps)

    return Progress()


def shared_arguments(
    scratch: str,
    model: Any,
    n_rows: int,
    width: int,
    config: OfflineConfig,
    seed: int,
    n_steps: int,
) -> dict[str, Any]:
    """Arguments that TRL's SFT and DPO trainers share; ``width`` is the number of tokens of the longest row."""
    optim, batch_size = config.optim, min(config.batch_size, n_rows)
    # The micro-batch must divide the batch, or gradient accumulation would give another batch size than configured.
    room = max(1, optim.micro_batch_tokens // width)
    micro_batch = max(size for size in range(1, batch_size + 1) if batch_size % size == 0 and size <= room)
    return {
        "output_dir": scratch,
        "num_train_epochs": config.epochs,
        "max_steps": n_steps or -1,
        "per_device_train_batch_size": micro_batch,
        "gradient_accumulation_steps": batch_size // micro_batch,
        "learning_rate": optim.lr,
        "lr_scheduler_type": "constant_with_warmup" if optim.schedule == "constant" else optim.schedule,
        "warmup_steps": optim.warmup_steps,
        "adam_beta1": optim.betas[0],
        "adam_beta2": optim.betas[1],
        "weight_decay": optim.weight_decay,
        "max_grad_norm": optim.max_grad_norm,
        "gradient_checkpointing": optim.gradient_checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "bf16": optim.mixed_precision == "bf16" or model.dtype is torch.bfloat16,
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "seed": seed % 2**31,  # derived seeds have 64 bits, but NumPy's generator takes only 32
        # Without this the trainer would move the model to an available GPU even if the run is to stay on the CPU.
        "use_cpu": model.device.type == "cpu",
        "dataloader_pin_memory": False,
    }


def clone_weights(model: Any) -> dict[str, Tensor]:
    """Copies the weights, so that every round can start from the same base."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
