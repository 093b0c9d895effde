"""Data that the next generation of a model learns from, for each data policy."""

import numpy as np
import pytest

from rl.generations import DATA_POLICIES

REAL, OLD, NEW = np.arange(100)[:, None], np.arange(100, 200)[:, None], np.arange(200, 300)[:, None]
POOL = np.concatenate([REAL, OLD, NEW])


def chosen(policy, **options):
    return DATA_POLICIES.bind(policy, options)(REAL, POOL, NEW, np.random.default_rng(0))[:, 0].tolist()


def test_replace_and_accumulate_are_the_ends():
    assert chosen("replace") == NEW[:, 0].tolist()
    assert chosen("accumulate") == POOL[:, 0].tolist()


def test_a_subsample_costs_as_much_as_the_real_data_and_has_a_part_of_everything():
    rows = chosen("accumulate_subsample")
    assert len(set(rows)) == 100
    assert all(15 < sum(first <= row < first + 100 for row in rows) < 55 for first in (0, 100, 200))


@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_a_mix_has_its_share_of_real_items(share):
    rows = chosen("mix", share=share)
    assert len(set(rows)) == 100
    assert sum(row < 100 for row in rows) == round(100 * share)
    assert not any(100 <= row < 200 for row in rows)


def test_a_share_beyond_the_whole_is_refused():
    with pytest.raises(ValueError, match="share"):
        chosen("mix", share=1.5)
