"""A model's own answers to additions and its verdicts on them, with stub models whose numbers are known."""

import numpy as np
import torch

from experiments.own_verdicts import Chat, additions, beliefs


class Tokenizer:
    """Stub tokenizer: Yes and A are token 1, No and B token 2; sampled tokens 0 to 2 stand for three whole answers."""

    pad_token, eos_token, pad_token_id, padding_side = None, "<e>", 0, "right"

    def encode(self, word, add_special_tokens):
        return [{"Yes": 1, "A": 1, "No": 2, "B": 2}[word]]

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
    found = additions(Chat(Model(), tokenizer, at_once=4), n=3, k=3, seed=0)
    # The stub model repeats no idea, 7, 12 and starts anew in each batch of 4 answers.
    assert found.answers.tolist() == [[-1, 7, 12], [-1, -1, 7], [12, -1, -1]]
    assert np.isinf(found.odds[found.answers < 0]).all()
    assert found.odds[found.answers >= 0].tolist() == [1.0, 2.0, 5.0, 6.0]
    assert (found.right == (found.answers == found.gold[:, None])).all()
    assert found.level.min() >= 1
    assert "Proposed answer: no idea" in tokenizer.asked[0]


class Believer(Tokenizer):
    """Stub tokenizer with which every own answer is 7, verdicts favour answers of 7, and A is slightly preferred."""

    def __call__(self, texts, return_tensors, padding, add_special_tokens):
        said = [text.partition("Answer with the number only.")[2] for text in texts]
        odds = [0.5 + 2 * (" A: 7." in one) - 2 * (" B: 7." in one) if "A or B" in one else 3.0 * ("r: 7." in one)
                for one in said]  # fmt: skip
        return {"input_ids": torch.tensor(odds)[:, None].repeat(1, 2)}


class Odds:
    def generate(self, input_ids, **options):
        return torch.cat([input_ids, torch.ones(len(input_ids), 1)], 1)

    def __call__(self, input_ids, logits_to_keep):
        logits = torch.zeros(len(input_ids), 1, 3)
        logits[:, 0, 1] = input_ids[:, 0]
        return type("Output", (), {"logits": logits})()


def test_a_model_that_believes_itself_is_found_out_in_both_orders():
    samples: list = []
    row = beliefs(Chat(Odds(), Believer()), 40, 1, samples)
    assert len(samples) == 40
    assert all("7" not in str(one["beside"]) or one["beside"] > 9 for one in samples)
    sigmoid = [1 / (1 + np.exp(-odds)) for odds in (3.0, 0.0, 2.5, -1.5)]
    assert row["bias"] == [row["bias"][0]] * len(row["bias"])
    assert np.isclose(row["bias"][0], sigmoid[0] - sigmoid[1])
    assert np.isclose(row["accepts_own_wrong"], sigmoid[0])
    assert np.isclose(row["place_bias"], abs((sigmoid[2] + sigmoid[3]) / 2 - 0.5))
    assert np.isclose(samples[0]["side_by_side"], (sigmoid[2] + 1 - sigmoid[3]) / 2)
    assert row["malformed"] == 0
