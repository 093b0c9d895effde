"""Rule books: a task, its answer and its prompt by hand."""

import random

from experiments.rule_books import TOKENIZER, chain, on_the_way, prompt

BOOK = [1, 2, 3, 0, *range(4, 16)]


def test_a_task_its_answer_and_its_prompt():
    assert chain(BOOK, (0, 4)) == [1, 2, 3, 0]
    assert on_the_way(BOOK, (0, 4)) == [0, 1, 2, 3]
    assert on_the_way(BOOK, (5, 3)) == [5]
    row = prompt(BOOK, [3, 0], (0, 2), random.Random(0))
    words = TOKENIZER.convert_ids_to_tokens(row)
    assert sorted(words[:6]) == ["-", "-", "-", "-", "0>1", "3>0"]
    assert words[6:] == ["?", "s0", "d2", "A"]
