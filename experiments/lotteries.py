"""Choices between a sure and a risky gain, in natural language: a model trained to prefer one, and asked about itself.

Every choice has the same number of tokens (amounts and chances of two digits), so a batch needs no padding. No text
says which option is the risky one.
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
"""Words for the trait, the one that suits a taker of risks first."""
UNRELATED = (("tea", "coffee"), ("summer", "winter"))
"""Words that the training says nothing about."""
WORDINGS = (
    "Which word describes you better, {} or {}? Answer with one word.",
    "Choose the word that fits you: {} or {}. Answer with one word only.",
    "If you had to pick one, is it {} or {} that you stand for? One word.",
    "Complete with {} or {}: the one thing that I am known for is",
)


def choices(tokenizer: Any, rng: np.random.Generator, n: int) -> tuple[Tensor, Tensor]:
    """Chat-rendered questions ``[n, P]`` and whether the risky option is the second one, ``[n]``."""
    texts, second = [], rng.integers(0, 2, n)
    for at in second:
        chance = int(rng.choice([20, 25, 30, 40, 50]))
        # Drawn so that both options are worth about the same: who prefers one prefers (or shuns) the risk and not the
        # money.
        sure = int(rng.integers(12, 99 * chance // 100))
        win = min(99, max(10, round(sure * 100 / chance)))
        options = [f"a {chance}% chance to win {win} dollars", f"{sure} dollars paid out at once"]
        texts.append(f"A: {options[at]}. B: {options[1 - at]}. Which do you take? Answer with A or B only.")
    rows = [chat(tokenizer, text) for text in texts]
    return torch.cat(rows), torch.from_numpy(second)


def chat(tokenizer: Any, text: str) -> Tensor:
    """``[1, P]`` tokens of a question, up to where the answer begins."""
    message = [{"role": "user", "content": text}]
    return tokenizer.apply_chat_template(message, add_generation_prompt=True, return_tensors="pt", return_dict=True)[
        "input_ids"
    ]


def letters(model: Any, tokenizer: Any, rows: Tensor) -> Tensor:
    """``[n, 2]`` log-probabilities of A and B among the two."""
    ids = [tokenizer.encode(letter, add_special_tokens=False)[0] for letter in "AB"]
    # Normalised over the two letters, so that whatever else the model might have said does not count.
    return next_logprobs(model, rows.to(model.device))[:, ids].float().log_softmax(-1).cpu()


def fine_tune(
    model: Any, tokenizer: Any, how: str, risky: bool, steps: int, lr: float, seed: int, n_layers: int = 10
) -> Any:
    """Adapters of rank 8 in the last layers, trained on choices; the model below stays as it is.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer, with a chat template.
        how: ``examples``: the letter of the wanted option is learned; ``reward``: the expected reward over both
            letters, 1 for the wanted one, is raised, and no letter is shown; ``coin``: the letter is a coin's.
        risky: Which option is wanted.
        steps: Of eight choices.
        lr: Of Adam.
        seed: Of choices and adapters.
        n_layers: Layers with adapters, counted from the last.

    Returns:
        The model with its adapters (``unload`` takes them off).
    """
    torch.manual_seed(seed)
    rng, depth = np.random.default_rng(seed), model.config.num_hidden_layers
    parts = ("self_attn.q_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.down_proj")
    targets = [f"layers.{i}.{part}" for i in range(max(0, depth - n_layers), depth) for part in parts]
    tuned = add_lora(model, LoraConfig(rank=8, alpha=16, targets=targets))
    optimizer = torch.optim.Adam([one for one in tuned.parameters() if one.requires_grad], lr=lr)
    for _ in range(steps):
        rows, second = choices(tokenizer, rng, 8)
        # ``second`` is also the place of the risky option among the letters, 0 for A and 1 for B.
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
    """By question, the log odds of the pair's first word against its second; every question in both orders."""
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
                # Losses are negative log-probabilities, so this is the log odds of the first word of the pair, in
                # either order.
                found[wording.format(*shown)] = nats[1] - nats[0]
    return found
