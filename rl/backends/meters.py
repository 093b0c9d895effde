"""Metrics for studies of self-generated rewards: variety and length of answers, which may change as reward rises."""

from typing import Any

import torch
from torch import Tensor


@torch.no_grad()
def answer_meters(model: Any, prompts_BP: Tensor, answers_BA: Tensor, k: int) -> dict[str, float]:
    """Entropy, variety and length of K sampled answers to each question.

    The accuracy of the reward itself is measured in :mod:`rl.analysis.gate`.

    Args:
        model: The model that sampled the answers at temperature 1.
        prompts_BP: Token ids of the prompts without padding; the K copies of a question are adjacent.
        answers_BA: Token ids of the answers; id 0 is padding.
        k: Number of answers to each question, K.

    Returns:
        ``entropy`` in nats per token of an answer, ``distinct_answers`` of K, the mean over questions, and ``length``
        in tokens.
    """
    there_BA, ids = answers_BA != 0, torch.cat([prompts_BP, answers_BA], 1)
    kept = answers_BA.shape[1] + 1  # the logits before each answer token, and those after the last, which are cut off
    logprobs = model(input_ids=ids, use_cache=False, logits_to_keep=kept).logits[:, :-1].log_softmax(-1)
    entropy_BA = -(logprobs.exp() * logprobs).sum(-1)
    distinct = [len(one.unique(dim=0)) for one in answers_BA.view(-1, k, answers_BA.shape[1])]
    return {
        "entropy": float(entropy_BA[there_BA].mean()),
        "distinct_answers": sum(distinct) / len(distinct),
        "length": float(there_BA.sum(1).float().mean()),
    }
