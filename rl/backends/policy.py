"""The trainable policy: a transformers model, its tokenizer, and log-probs of what was sampled."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from rl.config import ModelConfig
from rl.types import RolloutBatch

transformers_logging.disable_progress_bar()  # a bar per loaded or saved model would drown ours


class ModelNotFoundError(FileNotFoundError):
    """No model where the config says."""


@dataclass(frozen=True, slots=True)
class SampledStats:
    """What the policy thinks of the sampled tokens.

    Args:
        logprobs: ``[B, T]`` at the sampling temperature, 0 off the response.
        entropy: ``[B, T]`` in nats, without gradient, 0 off the response.
        distribution: ``[N, V]`` log-probs of the whole vocabulary at the N response tokens, in row-major order of
            the response mask.
    """

    logprobs: Tensor
    entropy: Tensor
    distribution: Tensor


def load_policy(config: ModelConfig) -> tuple[Any, Any]:
    """A model in evaluation mode, without dropout, and its tokenizer.

    Raises:
        ModelNotFoundError: If the path is neither a folder with a model nor to be had from the hub.
    """
    path = Path(config.path)
    if (config.path.startswith((".", "/")) or path.parts[0] == "models") and not (path / "config.json").exists():
        raise ModelNotFoundError(
            f"model.path={config.path}: no model there. models/smollm2_135m is prepared by "
            "`python -m experiments.prepare_smollm2`, the tiny bases by `python -m experiments.pretrain_tiny toy=...`"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(config.path, revision=config.revision)
        model = AutoModelForCausalLM.from_pretrained(
            config.path, revision=config.revision, dtype=getattr(torch, config.dtype)
        )
    except OSError as error:
        raise ModelNotFoundError(
            f"model.path={config.path}: no model folder, and not to be had from the hub: {str(error).splitlines()[0]}"
        ) from error
    if config.chat_template is not None:
        tokenizer.chat_template = Path(config.chat_template).read_text(encoding="utf-8")
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # log-probs must be those of the engine
    return model, tokenizer


def context_length(model: Any, config: ModelConfig) -> int:
    """Longest sequence that the model can hold."""
    limit = model.config.max_position_embeddings
    return min(config.context_length, limit) if config.context_length else limit


def sampled_stats(model: Any, batch: RolloutBatch, temperature: float) -> SampledStats:
    """Log-probs of the response tokens; the language-model head is applied to their positions only.

    Args:
        model: A causal language model, possibly wrapped for distributed training.
        batch: Rows; entry t of the result is about token t, predicted from the tokens before it.
        temperature: Logits are divided by it, as when sampling.
    """
    predicts_BT = batch.response_mask.roll(-1, 1)  # position t predicts token t + 1; position 0 is never a response
    logits_BTV = model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask.long(),
        logits_to_keep=_columns(predicts_BT),
        use_cache=False,
    ).logits
    logits_NV = logits_BTV[predicts_BT[:, _columns(predicts_BT)]]
    log_dist_NV = torch.log_softmax(logits_NV.float() / temperature, dim=-1)
    sampled_N = log_dist_NV.gather(1, batch.input_ids[batch.response_mask][:, None]).squeeze(1)
    with torch.no_grad():
        entropy_N = -(log_dist_NV.exp() * log_dist_NV).sum(-1)
    zeros = torch.zeros(batch.input_ids.shape, dtype=torch.float32, device=log_dist_NV.device)
    return SampledStats(
        logprobs=zeros.masked_scatter(batch.response_mask, sampled_N),
        entropy=zeros.masked_scatter(batch.response_mask, entropy_N),
        distribution=log_dist_NV,
    )


def _columns(predicts_BT: Tensor) -> Tensor:
    """Indices of the columns at which at least one row predicts a response token."""
    return predicts_BT.any(0).nonzero().squeeze(1)
