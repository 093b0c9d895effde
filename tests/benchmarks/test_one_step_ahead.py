"""Each half of a training step that ``benchmarks.one_step_ahead`` measures can be repeated and then ended."""

from multiprocessing import Pipe
from threading import Thread

import pytest

from benchmarks.one_step_ahead import work

SMALL = [
    "experiment=none",
    "algorithm=rloo",
    "algorithm.group_size=2",
    "training.tasks_per_step=2",
    "env.options.n_train=16",
]


@pytest.mark.parametrize("part", ["sample", "update"])
def test_a_half_answers_with_its_seconds_until_it_is_told_to_end(part):
    ours, theirs = Pipe()
    half = Thread(target=work, args=(theirs, SMALL, part), daemon=True)
    half.start()
    assert ours.recv() == -1.0
    for _ in range(2):
        ours.send(1)
        assert ours.recv() > 0
    ours.send(0)
    half.join(60)
    assert not half.is_alive()
