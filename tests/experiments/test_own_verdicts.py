"""Own answers to additions and verdicts on them: with a model of random weights, whose numbers are counted by hand."""

import numpy as np
import torch

from experiments.own_verdicts import additions


class Tokenizer:
    """Characters; Yes and No are words. Answers are looked up by what the model samples."""

    pad_token, eos_token, pad_token_id, padding_side = None, "<e>", 0, "right"

    def encode(self, word, add_special_tokens):
        return [{"Yes": 1, "No": 2}[word]]

    def apply_chat_template(self, chat, add_generation_prompt, tokenize):
        return chat[0]["content"]

    def __call__(self, texts, return_tensors, padding, add_special_tokens):
        assert self.padding_side == "left"
        assert self.pad_token == "<e>"
        self.asked = texts
        return {"input_ids": torch.zeros(len(texts), 4, dtype=torch.long)}

    def batch_decode(self, rows, skip_special_tokens):
        return [{0: "no idea", 1: "It is 7.", 2: "5 or 12"}[int(row[0])] for row in rows]


class Model:
    def __init__(self):
        self.n = 0

    def generate(self, input_ids, **options):
        assert options["do_sample"]
        new = (torch.arange(len(input_ids)) % 3)[:, None]
        return torch.cat([input_ids, new], 1)

    def __call__(self, input_ids, logits_to_keep):
        logits = torch.zeros(len(input_ids), 1, 3)
        logits[:, 0, 1] = torch.arange(self.n, self.n + len(input_ids)).float()
        self.n += len(input_ids)
        return type("Output", (), {"logits": logits})()


def test_the_last_number_counts_and_each_answer_is_asked_about():
    tokenizer = Tokenizer()
    found = additions(Model(), tokenizer, n=3, k=3, seed=0, at_once=4)
    assert found.answers.tolist() == [[-1, 7, 12], [-1, -1, 7], [12, -1, -1]]  # batches of 4 begin anew
    assert np.isinf(found.odds[found.answers < 0]).all()
    assert found.odds[found.answers >= 0].tolist() == [1.0, 2.0, 5.0, 6.0]
    assert (found.right == (found.answers == found.gold[:, None])).all()
    assert found.level.min() >= 1
    assert "Proposed answer: no idea" in tokenizer.asked[0]
