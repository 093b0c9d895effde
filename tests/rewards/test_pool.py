"""The pool kills workers that do not answer, replaces them and continues."""

import asyncio
import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from rewards.pool import WorkerPool, _Worker
from tests.conftest import ROOT


@pytest.fixture
def pool():
    pool = WorkerPool("tests.rewards.worker_for_tests", n_workers=2, max_calls=50)
    yield pool
    pool.close()


def test_answers(pool):
    assert pool.call({"echo": 1}, deadline_s=60).value == {"echo": 1}
    assert pool.counts == {"ok": 1, "timeout": 0, "crash": 0}


def test_a_hanging_request_is_killed_at_its_deadline(pool):
    assert pool.call({"spin": True}, deadline_s=0.3).status == "timeout"
    assert pool.call({"sleep": 10**6}, deadline_s=0.1).status == "timeout"  # sleeping uses no processor time
    assert pool.call({"echo": 2}, deadline_s=60).status == "ok"


def test_deadlines_count_processor_time(pool, monkeypatch):
    monkeypatch.setattr("rewards.pool._PATIENCE", 10**6)
    assert pool.call({"sleep": 0.6}, deadline_s=0.2).status == "ok"  # a busy machine delays a worker in the same way


def test_a_dying_worker_is_replaced(pool):
    assert pool.call({"exit": 3}, deadline_s=60).status == "crash"
    assert pool.call({"echo": 2}, deadline_s=60).status == "ok"


def test_an_exception_in_a_worker_is_a_crash_of_it(pool):
    assert pool.call({"raise": "no"}, deadline_s=60).status == "crash"
    assert pool.call({"echo": 2}, deadline_s=60).status == "ok"


@pytest.mark.parametrize("request_", [{"connect": True}, {"write": "/tmp/errata-pool-test"}])
def test_a_worker_has_no_network_and_writes_no_file(pool, request_):
    assert pool.call(request_, deadline_s=60).status == "crash"


def test_a_worker_dies_with_its_parents(tmp_path):
    code = (
        "import os\nfrom rewards.pool import WorkerPool\n"
        "pool = WorkerPool('tests.rewards.worker_for_tests')\n"
        "print(pool.call({'pid': True}, 60).value, flush=True)\n"
        "pool.submit({'sleep': 60}, 60)\nimport time; time.sleep(0.5)\nos.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    worker = int(done.stdout)
    for _ in range(100):
        if not os.path.exists(f"/proc/{worker}"):
            break
        time.sleep(0.1)
    else:
        raise AssertionError("the worker outlived the process that it worked for")


def test_a_dead_template_is_replaced(pool):
    first = pool.call({"pid": True}, 60).value
    pool._template._process.kill()
    pool._template._process.wait()
    assert pool.call({"exit": 1}, 60).status == "crash"  # ends the first worker in case it outlived its template
    assert pool.call({"pid": True}, 60).value != first


def test_a_full_queue_blocks_the_submitter_and_loses_nothing():
    pool = WorkerPool("tests.rewards.worker_for_tests", n_workers=1, max_waiting=2)
    futures = [pool.submit({"echo": i}, 60) for i in range(20)]
    assert [future.result().value["echo"] for future in futures] == list(range(20))
    pool.close()


def test_what_waits_when_a_pool_closes_fails_instead_of_hanging():
    pool = WorkerPool("tests.rewards.worker_for_tests", n_workers=1)
    pool.call({"echo": 1}, 60)
    futures = [pool.submit({"sleep": 60}, 60) for _ in range(3)]
    while not futures[0].running():
        time.sleep(0.01)
    pool.close()
    running, *waiting = futures
    assert running.result(timeout=120).status == "crash"
    for future in waiting:
        with pytest.raises(RuntimeError, match="closed"):
            future.result(timeout=120)
    with pytest.raises(RuntimeError, match="closed"):
        pool.submit({}, 1)


def test_a_request_that_was_given_up_does_not_keep_a_pool_from_closing():
    pool = WorkerPool("tests.rewards.worker_for_tests", n_workers=1)
    running = pool.submit({"sleep": 60}, 60)
    while not running.running():
        time.sleep(0.01)
    given_up, waiting = (pool.submit({"sleep": 60}, 60) for _ in range(2))
    assert given_up.cancel()
    pool.close()
    assert running.result(timeout=120).status == "crash"
    with pytest.raises(RuntimeError, match="closed"):
        waiting.result(timeout=120)


def test_a_worker_is_killed_once_whoever_asks(monkeypatch):
    """A worker's handle is closed once, although a closing pool and the thread that waits for the worker both kill it.

    A second close could hit another file that has since received the same descriptor.
    """
    ours, theirs = socket.socketpair()
    closed = []
    monkeypatch.setattr("rewards.pool.signal.pidfd_send_signal", lambda handle, number: time.sleep(0.05))
    with theirs:
        worker = _Worker(ours, 10**6, os.getpid())
        monkeypatch.setattr("rewards.pool.os.close", closed.append)
        threads = [threading.Thread(target=worker.kill) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert closed == [10**6]


def test_replies_can_be_awaited(pool):
    async def both():
        return await asyncio.gather(*(asyncio.wrap_future(pool.submit({"echo": i}, 60)) for i in range(2)))

    assert [reply.value["echo"] for reply in asyncio.run(both())] == [0, 1]


def test_memory_is_limited(pool):
    assert pool.call({"allocate": 4 * 2**30}, deadline_s=60).status == "crash"


def test_threads_share_the_workers(pool):
    replies = {}
    threads = [
        threading.Thread(target=lambda i=i: replies.update({i: pool.call({"echo": i}, 60).value})) for i in range(6)
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
    first = pool.call({"pid": True}, 60).value
    second = pool.call({"pid": True}, 60).value
    assert first != second
    pool.close()
    assert not pool._alive
