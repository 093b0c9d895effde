from rewards.votes import majority_index


def test_majority():
    assert majority_index(["a", "b", "b", None]) == 1
    assert majority_index(["a", "b"]) == 0  # a tie goes to the first seen
    assert majority_index([None, None]) is None
    assert majority_index([None, "a", None]) == 1  # no answer does not vote
