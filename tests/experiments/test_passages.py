"""Passages: how an edit is cut into lines, and how many attributes it tells rightly, by hand."""

import numpy as np

from experiments.passages import (
    END,
    ID,
    KNOWN,
    NEW,
    SEPARATOR,
    TOKENIZER,
    VALUES,
    Edits,
    joined,
    lines_of,
    tell,
    told_rightly,
)

FACTS = np.random.default_rng(0).integers(0, VALUES, (KNOWN + NEW, 4))


def test_an_edit_is_cut_into_lines_whatever_it_says():
    say, ask = tell("say", 7, 0, 3), tell("ask", 7, 1, 2)
    assert TOKENIZER.decode(say) == "say e7 a0 v3"
    assert TOKENIZER.decode(ask) == "ask e7 a1 answer v2"
    assert TOKENIZER.decode(tell("back", 7, 1, 2)) == "back v2 a1 e7"
    assert lines_of(joined([say, ask])) == [say, ask]
    assert lines_of([*say, SEPARATOR, SEPARATOR, *ask]) == [say, ask]
    assert lines_of([END, *say]) == []
    assert lines_of([ID["say"]] * 12) == [[ID["say"]] * 8]


def test_what_is_told_rightly_counts_an_attribute_once_and_no_reversed_line():
    true = FACTS[KNOWN].tolist()
    lines = [tell("say", KNOWN, 0, true[0]), tell("ask", KNOWN, 0, true[0]), tell("back", KNOWN, 1, true[1])]
    lines += [tell("say", KNOWN, 2, (true[2] + 1) % VALUES), tell("say", KNOWN + 1, 3, true[3])]
    edits = Edits([KNOWN], [[]], [joined(lines)])
    assert told_rightly(edits, FACTS).tolist() == [1]
