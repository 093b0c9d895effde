import pytest

from rewards.shaping import shape_rewards
from rewards.votes import majority_index


@pytest.mark.parametrize(
    ("rewards", "shaped"),
    [((0.0, 1.0), 11.0), ((1.0, 1.0), 1.0), ((0.0, 0.0), 0.0), ((1.0, 0.0), -10.0)],
)
def test_the_papers_four_transitions_with_alpha_10(rewards, shaped):
    # r2 + 10 (r2 - r1): wrong->right 1 + 10, right->right 1, wrong->wrong 0, right->wrong 0 - 10
    assert shape_rewards(rewards, [1.0, 1.0], 10.0) == [rewards[0], shaped]


def test_stage_one_pays_the_second_attempt_only():
    assert shape_rewards([1.0, 1.0], [0.0, 1.0], 0.0) == [0.0, 1.0]


def test_more_attempts_than_weights_is_an_error():
    with pytest.raises(ValueError, match="one per attempt"):
        shape_rewards([1.0, 1.0, 1.0], [1.0, 1.0], 0.0)


def test_majority():
    assert majority_index(["a", "b", "b", None]) == 1
    assert majority_index(["a", "b"]) == 0  # a tie goes to the first seen
    assert majority_index([None, None]) is None
    assert majority_index([None, "a", None]) == 1  # no answer does not vote
