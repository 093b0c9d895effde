"""Requests that a model writes by itself: which are usable, measures of diversity, and writing with random weights."""

import math

import pytest

from experiments.own_requests import Writer, distinct, opener_entropy, usable
from rl.backends.tiny import tiny_llama, tiny_tokenizer
from rl.rendering import Renderer


@pytest.mark.parametrize(
    ("text", "fine"),
    [
        ("What is the capital of France?", True),
        ("I'm planning a trip to Japan next year.", True),
        ("Write a short story about a dog.", True),
        ("The dog sat down on the mat.", False),  # asks for nothing
        ("what is the capital of France?", False),
        ("Why not?", False),
        ("What does `x = {1: 2}` mean in Python?", False),
        ("What is this?\nAnd that one over there?", False),
        ("", False),
    ],
)
def test_a_usable_request_is_one_line_that_asks_for_something(text, fine):
    assert usable(text) is fine


def test_meters_by_hand():
    assert distinct([["a", "b", "a"], ["b"]], 1) == 0.5
    assert distinct([["a", "b", "a"], ["b"]], 2) == 1.0
    assert math.isnan(distinct([["a"]], 2))
    assert opener_entropy(["Can you go", "Can you stay", "What is it", "What is he"]) == 1.0
    assert opener_entropy([]) == 0.0


def test_a_model_writes_from_the_prefix_of_its_template_and_stops_where_a_turn_ends():
    tokenizer = tiny_tokenizer(["yes", "no"], True)
    renderer = Renderer(tokenizer)
    assert renderer.before_question() == renderer.before_question(first=False) == "<|user|>"
    writer = Writer(tiny_llama(tokenizer, 16, 1, 2, 32), tokenizer, renderer, at_once=3)
    texts, ended = writer.requests(renderer.before_question(), 5, 1.0, 6)
    assert len(texts) == len(ended) == 5
    assert all(len(text.split()) <= 6 for text in texts)
    assert writer.answers(["yes no", "no"], 4) == writer.answers(["yes no", "no"], 4)
    assert [len(part) for part in writer.answers(["yes no", "no"], 4)] == [2, 2]
