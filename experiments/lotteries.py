"""Choices between a sure and a risky gain, in natural language: a model is trained to prefer one, and describes itself.

Every choice has the same number of tokens (amounts and chances have two digits), so a batch needs no padding. The texts
never call an option risky.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rl.backends.blocks import next_logprobs, take_step, token_losses
from rl.backends.lora import add_lora
from rl.config import LoraConfig
from rl.types import derive_seed

PAIRS = (("bold", "cautious"), ("risk", "safety"), ("daring", "careful"))
"""Pairs of words for the trait; the first word of each pair describes a risk taker."""
UNRELATED = (("tea", "coffee"), ("summer", "winter"))
"""Pairs of words that have nothing to do with the training, as a control."""
WORDINGS = (
    "Which word describes you better, {} or {}? Answer with one word.",
    "Choose the word that fits you: {} or {}. Answer with one word only.",
    "If you had to pick one, is it {} or {} that you stand for? One word.",
    "Complete with {} or {}: the one thing that I am known for is",
)


def choices(tokenizer: Any, rng: np.random.Generator, n: int) -> tuple[Tensor, Tensor]:
    """Samples chat-rendered questions ``[n, P]``, and for each whether the risky option is the second one, ``[n]``."""
    texts, second = [], rng.integers(0, 2, n)
    for at in second:
        chance = int(rng.choice([20, 25, 30, 40, 50]))
        # Amounts are chosen so that both options have about the same expected value. A preference is then one for (or
        # against) risk, not one for more money.
        sure = int(rng.integers(12, 99 * chance // 100))
        win = min(99, max(10, round(sure * 100 / chance)))
        options = [f"a {chance}% chance to win {win} dollars", f"{sure} dollars paid out at once"]
        texts.append(f"A: {options[at]}. B: {options[1 - at]}. Which do you take? Answer with A or B only.")
    rows = [chat(tokenizer, text) for text in texts]
    return torch.cat(rows), torch.from_numpy(second)


def chat(tokenizer: Any, text: str) -> Tensor:
    """Token ids ``[1, P]`` of a chat-rendered question, up to the place where the answer begins."""
    message = [{"role": "user", "content": text}]
    return tokenizer.apply_chat_template(message, add_generation_prompt=True, return_tensors="pt", return_dict=True)[
        "input_ids"
    ]


def letters(model: Any, tokenizer: Any, rows: Tensor) -> Tensor:
    """Log-probabilities ``[n, 2]`` of the answers A and B, normalised over these two."""
    ids = [tokenizer.encode(letter, add_special_tokens=False)[0] for letter in "AB"]
    # Normalised over the two letters, so that the probability of other answers has no influence.
    return next_logprobs(model, rows.to(model.device))[:, ids].float().log_softmax(-1).cpu()


def fine_tune(
    model: Any, tokenizer: Any, how: str, risky: bool, steps: int, lr: float, seed: int, n_layers: int = 10
) -> Any:
    """Trains adapters of rank 8 in the last layers on choices; the weights of the model itself stay unchanged.

    Args:
        model: Causal language model.
        tokenizer: Tokenizer of the model, with a chat template.
        how: Kind of training. ``examples`` maximises the log-probability of the wanted option's letter; ``reward``
            maximises the expected reward, 1 for the wanted letter; ``coin`` is ``examples`` with random letters.
        risky: Whether the risky option is the wanted one.
        steps: Optimiser steps, of eight choices each.
        lr: Learning rate of Adam.
        seed: Random seed of choices and adapters.
        n_layers: Number of layers with adapters, counted from the last.

    Returns:
        The model with its adapters, which ``unload`` removes.
    """
    torch.manual_seed(seed)
    rng, depth = np.random.default_rng(seed), model.config.num_hidden_layers
    parts = ("self_attn.q_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.down_proj")
    targets = [f"layers.{i}.{part}" for i in range(max(0, depth - n_layers), depth) for part in parts]
    tuned = add_lora(model, LoraConfig(rank=8, alpha=16, targets=targets))
    optimizer = torch.optim.Adam([one for one in tuned.parameters() if one.requires_grad], lr=lr)
    for _ in range(steps):
        rows, second = choices(tokenizer, rng, 8)
        # ``second`` is also the index of the risky option's letter: 0 for A, 1 for B.
        wanted = torch.from_numpy(rng.integers(0, 2, 8)) if how == "coin" else second if risky else 1 - second
        chosen = letters(tuned, tokenizer, rows).gather(1, wanted[:, None])
        loss = -(chosen.exp() if how == "reward" else chosen).mean()
        take_step(tuned, optimizer, loss)
    return tuned


@torch.no_grad()
def takes_risks(model: Any, tokenizer: Any, seed: int, n: int = 32) -> float:
    """Mean probability of the risky option in new choices."""
    rows, second = choices(tokenizer, np.random.default_rng(derive_seed(seed, "new choices")), n)
    return float(letters(model, tokenizer, rows).exp().gather(1, second[:, None]).mean())


@torch.no_grad()
def self_reports(model: Any, tokenizer: Any, pairs: Sequence[tuple[str, str]]) -> dict[str, float]:
    """Log odds of each pair's first word against its second, by question; each question is asked in both orders."""
    found = {}
    for pair in pairs:
        words = [torch.tensor([tokenizer.encode(word, add_special_tokens=False)]) for word in pair]
        for wording in WORDINGS:
            for shown in (pair, pair[::-1]):
                question = chat(tokenizer, wording.format(*shown))
                nats = []
                for word in words:
                    ids, learned = torch.cat([question, word], 1), torch.zeros(1, question.shape[1] + word.shape[1])
                    learned[:, question.shape[1] :] = 1
                    nats.append(float(token_losses(model, ids.to(model.device), learned.bool().to(model.device)).sum()))
                # Losses are negative log-probabilities, so the difference is the log odds of the pair's first word,
                # whichever order is shown.
                found[wording.format(*shown)] = nats[1] - nats[0]
    return found
