"""The pool kills what does not answer, and goes on."""

import threading
import time

import pytest

from rewards.pool import WorkerPool


@pytest.fixture
def pool():
    pool = WorkerPool("tests.rewards.worker_for_tests", n_workers=2, max_calls=50)
    yield pool
    pool.close()


def test_answers(pool):
    assert pool.call({"echo": 1}, deadline_s=10).value == {"echo": 1}
    assert pool.counts == {"ok": 1, "timeout": 0, "crash": 0}


def test_a_hanging_request_is_killed_at_its_deadline(pool):
    started = time.monotonic()
    assert pool.call({"sleep": 60}, deadline_s=0.3).status == "timeout"
    assert time.monotonic() - started < 5
    assert pool.call({"echo": 2}, deadline_s=10).status == "ok"


def test_a_dying_worker_is_replaced(pool):
    assert pool.call({"exit": 3}, deadline_s=10).status == "crash"
    assert pool.call({"echo": 2}, deadline_s=10).status == "ok"


def test_memory_is_limited(pool):
    assert pool.call({"allocate": 4 * 2**30}, deadline_s=20).status == "crash"


def test_threads_share_the_workers(pool):
    replies = {}
    threads = [
        threading.Thread(target=lambda i=i: replies.update({i: pool.call({"echo": i}, 20).value})) for i in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert replies == {i: {"echo": i} for i in range(6)}


def test_a_worker_that_cannot_start_is_our_error():
    pool = WorkerPool("tests.rewards.no_such_module")
    with pytest.raises(RuntimeError, match="did not start"):
        pool.call({}, deadline_s=1)


def test_workers_are_recycled_and_closed():
    pool = WorkerPool("tests.rewards.worker_for_tests", max_calls=1)
    first = pool.call({"pid": True}, 10).value
    second = pool.call({"pid": True}, 10).value
    assert first != second
    pool.close()
    assert not pool._alive
