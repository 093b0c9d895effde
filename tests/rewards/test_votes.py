from rewards.votes import majority_index


def test_majority():
    assert majority_index(["a", "b", "b", None]) == 1
    assert majority_index(["a", "b"]) == 0  # of tied answers, the first one wins
    assert majority_index([None, None]) is None
    assert majority_index([None, "a", None]) == 1  # a missing answer does not count as a vote
