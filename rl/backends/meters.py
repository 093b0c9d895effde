"""What a study of self-made rewards logs beside accuracy: what becomes of variety and length while the reward rises."""

from typing import Any

import torch
from torch import Tensor


@torch.no_grad()
def answer_meters(model: Any, prompts_BP: Tensor, answers_BA: Tensor, k: int) -> dict[str, float]:
    """Meters of K sampled answers to each question; how right the reward is tells :mod:`rl.analysis.gate`.

    Args:
        model: What sampled the answers at temperature 1.
        prompts_BP: Token ids without padding; the K copies of a question next to each other.
        answers_BA: Token ids; id 0 is padding.
        k: Answers to a question.

    Returns:
        ``entropy`` in nats per token of an answer, ``distinct_answers`` of K, the mean over questions, and ``length``
        in tokens.
    """
    there_BA, ids = answers_BA != 0, torch.cat([prompts_BP, answers_BA], 1)
    kept = answers_BA.shape[1] + 1  # the logits in front of each answer's token, and one too many
    logprobs = model(input_ids=ids, use_cache=False, logits_to_keep=kept).logits[:, :-1].log_softmax(-1)
    entropy_BA = -(logprobs.exp() * logprobs).sum(-1)
    distinct = [len(one.unique(dim=0)) for one in answers_BA.view(-1, k, answers_BA.shape[1])]
    return {
        "entropy": float(entropy_BA[there_BA].mean()),
        "distinct_answers": sum(distinct) / len(distinct),
        "length": float(there_BA.sum(1).float().mean()),
    }
