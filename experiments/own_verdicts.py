"""Answers of an instruction-tuned model to additions, and its verdicts on its own answers."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rl.analysis.calibration import auroc, ece


@dataclass
class Chat:
    """An instruction-tuned causal language model with its tokenizer and chat template.

    Args:
        model: Causal language model.
        tokenizer: Tokenizer of the model; it is set to padding on the left.
        at_once: Batch size.
    """

    model: Any
    tokenizer: Any
    at_once: int = 64

    def __post_init__(self) -> None:
        # Padding on the left, so that the answer of every row begins after its last position.
        self.tokenizer.padding_side = "left"
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token

    def batches(self, questions: Sequence[str]) -> Iterator[Any]:
        """Yields padded batches of the questions, each rendered as a user's turn."""
        texts = [
            self.tokenizer.apply_chat_template(
                [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False
            )
            for question in questions
        ]
        for i in range(0, len(texts), self.at_once):
            some = texts[i : i + self.at_once]
            yield self.tokenizer(some, return_tensors="pt", padding=True, add_special_tokens=False)

    @torch.no_grad()
    def answers(self, questions: Sequence[str], n_new: int = 12) -> list[str]:
        """Samples an answer to each question at temperature 1."""
        texts, options = list[str](), {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
        for batch in self.batches(questions):
            ids = self.model.generate(
                **batch, **options, max_new_tokens=n_new, pad_token_id=self.tokenizer.pad_token_id
            )
            texts += self.tokenizer.batch_decode(ids[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        return texts

    @torch.no_grad()
    def odds(self, questions: Sequence[str], word: str = "Yes", against: str = "No") -> np.ndarray:
        """Log odds ``[N]`` of one word against another as the first token of the answer."""
        this, other = (self.tokenizer.encode(one, add_special_tokens=False)[0] for one in (word, against))
        logits = torch.cat(
            [self.model(**batch, logits_to_keep=1).logits[:, -1].float() for batch in self.batches(questions)]
        )
        return (logits[:, this] - logits[:, other]).numpy()


def draw(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Samples additions: largest number of digits, 1 to 3 (``[n]``), pairs of numbers ``[n, 2]``, and questions."""
    level = rng.integers(1, 4, n)
    pairs = rng.integers(1, 10 ** level[:, None], (n, 2))
    return level, pairs, [f"What is {a} + {b}? Answer with the number only." for a, b in pairs]


def last_numbers(texts: Sequence[str]) -> np.ndarray:
    """The last number of each text, ``[N]``; -1 if there is none."""
    return np.array([int(found[-1]) if (found := re.findall(r"[0-9]{1,9}", text)) else -1 for text in texts])


def check(question: str, answer: str) -> str:
    """The question to a model whether an answer is right."""
    return f"{question} Proposed answer: {answer.strip()}. Is the proposed answer correct? Answer Yes or No."


@dataclass
class OwnVerdicts:
    """K sampled answers to each of N additions, with the model's verdicts on them.

    Args:
        questions: ``[N * K]`` questions; the K copies of a question are adjacent.
        texts: ``[N * K]`` answers as text.
        gold: ``[N]`` true sums.
        level: ``[N]`` largest number of digits of the range from which both numbers were sampled, 1 to 3.
        answers: ``[N, K]`` last number of each answer; -1 if there is none.
        right: ``[N, K]`` whether this number is the sum.
        odds: ``[N, K]`` log odds of Yes against No when the model is asked whether the answer is correct; ``-inf`` for
            an answer without a number.
    """

    questions: list[str]
    texts: list[str]
    gold: np.ndarray
    level: np.ndarray
    answers: np.ndarray
    right: np.ndarray
    odds: np.ndarray


def additions(chat: Chat, n: int, k: int, seed: int) -> OwnVerdicts:
    """Samples k answers at temperature 1 to each of n additions, and computes the model's verdict on each answer."""
    torch.manual_seed(seed)
    level, pairs, asked = draw(np.random.default_rng(seed), n)
    questions = [question for question in asked for _ in range(k)]
    texts = chat.answers(questions)
    numbers, gold = last_numbers(texts), pairs.sum(1)
    odds = chat.odds([check(question, text) for question, text in zip(questions, texts, strict=True)])
    odds, answers = np.where(numbers >= 0, odds, -np.inf).reshape(n, k), numbers.reshape(n, k)
    return OwnVerdicts(questions, texts, gold, level, answers, answers == gold[:, None], odds)


def beliefs(chat: Chat, n: int, seed: int, samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Measures which answers a model accepts: its own, an equally wrong one, and its own next to a rival.

    The rival is a second sampled answer of the model; if that is the same or no number, the first answer changed by one
    to three. The model compares the two answers in both orders.

    Returns:
        Columns of a study's row. ``bias`` has a value for each wrong answer of the model with an equally wrong,
        non-negative counterpart: how much more the model accepts its own.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    _, pairs, questions = draw(rng, n)
    own, other = (last_numbers(chat.answers(questions)) for _ in range(2))
    gold, off = pairs.sum(1), rng.choice([-3, -2, -1, 1, 2, 3], n)
    rival = np.where((other < 0) | (other == own), np.abs(own + off), other)
    # The mirror of a wrong answer lies equally far from the sum on the other side: it is equally wrong, but the model
    # did not give it.
    known, right, mirror = own >= 0, own == gold, 2 * gold - own
    comparable = known & ~right & (mirror >= 0)

    def verdict(numbers: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-chat.odds([check(q, str(x)) for q, x in zip(questions, numbers, strict=True)])))

    def first(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        asked = [f"{q} A: {x}. B: {y}. Which of the two is correct? Answer A or B."
                 for q, x, y in zip(questions, a, b, strict=True)]  # fmt: skip
        return 1 / (1 + np.exp(-chat.odds(asked, "A", "B")))

    of_own, of_mirror, of_rival = verdict(own), verdict(np.maximum(mirror, 0)), verdict(rival)
    own_first, rival_first = first(own, rival), first(rival, own)
    # With a single order, a preference for the first place looks like one for the answer; the mean over both orders
    # removes this bias.
    scores = {"single": of_own, "one_order": own_first, "side": (own_first + 1 - rival_first) / 2}
    scores["normalised"] = of_own / (of_own + of_rival)
    for i, question in enumerate(questions):
        about = {"gold": int(gold[i]), "right": bool(right[i]), "p_yes": float(of_own[i]), "beside": int(rival[i])}
        samples.append({"step": 0, "prompt": question, "answer": str(own[i]), **about,
                        "side_by_side": float(scores["side"][i])})  # fmt: skip
    row = {
        "n": n,
        "accuracy": float(right.mean()),
        "malformed": float((~known).mean()),
        "accepts_own_wrong": float(of_own[known & ~right].mean()) if (known & ~right).any() else float("nan"),
        "accepts_mirror": float(of_mirror[comparable].mean()) if comparable.any() else float("nan"),
        "place_bias": abs(float((own_first + rival_first).mean()) / 2 - 0.5),
    }
    row |= {f"{kind}_{name}": meter(score[known], right[known]) for name, score in scores.items()
            for kind, meter in (("auroc", auroc), ("ece", ece))}  # fmt: skip
    return row | ({"bias": (of_own - of_mirror)[comparable].tolist()} if comparable.any() else {})
