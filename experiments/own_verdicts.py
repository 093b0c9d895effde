"""What an instruction-tuned model answers to additions, and whether it accepts its own answers."""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass
class OwnVerdicts:
    """K sampled answers to each of N additions.

    Args:
        questions: ``[N * K]`` what was asked, an answer's K samples next to each other.
        texts: ``[N * K]`` what was answered.
        gold: ``[N]`` the sums.
        level: ``[N]`` digits of the larger range that a question was drawn from, 1 to 3.
        answers: ``[N, K]`` the last number of each answer; -1 for none.
        right: ``[N, K]`` whether it is the sum.
        odds: ``[N, K]`` log odds of Yes against No when the model is asked whether the answer is correct; ``-inf``
            where there is no number.
    """

    questions: list[str]
    texts: list[str]
    gold: np.ndarray
    level: np.ndarray
    answers: np.ndarray
    right: np.ndarray
    odds: np.ndarray


@torch.no_grad()
def additions(model: Any, tokenizer: Any, n: int, k: int, seed: int, at_once: int = 64) -> OwnVerdicts:
    """Samples k answers at temperature 1 to n additions of one to three digits, and one verdict on each.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer, with a chat template.
        n: Questions.
        k: Samples of each.
        seed: Of questions and samples.
        at_once: Rows of a batch.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    level = rng.integers(1, 4, n)
    pairs = rng.integers(1, 10 ** level[:, None], (n, 2))
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    yes, no = (tokenizer.encode(word, add_special_tokens=False)[0] for word in ("Yes", "No"))

    def batches(questions: list[str]) -> Any:
        chats = [[{"role": "user", "content": question}] for question in questions]
        texts = [tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False) for chat in chats]
        for i in range(0, len(texts), at_once):
            yield tokenizer(texts[i : i + at_once], return_tensors="pt", padding=True, add_special_tokens=False)

    questions = [f"What is {a} + {b}? Answer with the number only." for a, b in pairs for _ in range(k)]
    options = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": 12}
    texts: list[str] = []
    for batch in batches(questions):
        ids = model.generate(**batch, **options, pad_token_id=tokenizer.pad_token_id)
        texts += tokenizer.batch_decode(ids[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    numbers = np.array([int(found[-1]) if (found := re.findall(r"[0-9]{1,9}", text)) else -1 for text in texts])

    checks = [
        f"{question} Proposed answer: {text.strip()}. Is the proposed answer correct? Answer Yes or No."
        for question, text in zip(questions, texts, strict=True)
    ]
    logits = torch.cat([model(**batch, logits_to_keep=1).logits[:, -1].float() for batch in batches(checks)])
    odds = np.where(numbers >= 0, (logits[:, yes] - logits[:, no]).numpy(), -np.inf).reshape(n, k)
    answers, gold = numbers.reshape(n, k), pairs.sum(1)
    return OwnVerdicts(questions, texts, gold, level, answers, answers == gold[:, None], odds)
