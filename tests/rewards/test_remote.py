"""Programs run on a server: a stand-in with SandboxFusion's interface, which runs them in this project's sandbox."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from rewards.asserts import Case
from rewards.code import CheckCode, FunctionTests, ScriptTests, score_program
from rewards.sandbox import Ending, Limits, Sandbox, SandboxError, Script
from rewards.sandbox.remote import RemoteSandbox
from rewards.sandboxes import SandboxOptions, get_sandbox

TESTS = FunctionTests((Case("double", (2,), 4),), (Case("double", (21,), 42), Case("double", ("ab",), "abab")))


LIMITS = Limits(cpu_s=2.0)
ODD = {
    "nothing": (None, b""), "garbage": (None, b"\x00\xff garbage\r\n\r\n"), "half": (None, b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"),
    "page": (200, b"<html>busy</html>"), "no text": (200, b"\xff\xfe"), "list": (200, []), "null": (200, b"null"), "nested": (200, b"[" * 10**5),
    "no result": (200, {"status": "Success"}), "text for a result": (200, {"status": "Success", "run_result": "works"}),
    "numbers for text": (200, {"status": "Success", "run_result": {"stdout": 5, "return_code": 0}}),
    "text for a number": (200, {"status": "Success", "run_result": {"execution_time": "long", "stdout": ""}}),
    "moved": (302, {}), "not found": (404, {}), "too many": (429, {}), "not allowed": (401, {}),
}  # fmt: skip
"""Invalid answers of a server: HTTP status (``None`` for an answer that is not HTTP) and body."""


class StandIn:
    """A server that counts requests, fails on demand and records how many requests run at once."""

    def __init__(self, sandbox):
        self.sandbox, self.fail, self.seen, self.now, self.most = sandbox, [], 0, 0, 0
        self.lock = threading.Lock()
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, answer = stand_in.answer(self.path, request)
                if status is None:  # the answer is not HTTP
                    self.wfile.write(answer)
                    return
                body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, path, request):
        assert path == "/run_code"
        assert request["language"] == "python"
        with self.lock:
            self.seen, self.now = self.seen + 1, self.now + 1
            self.most = max(self.most, self.now)
            failure = self.fail.pop(0) if self.fail else None
        try:
            if failure == "http":
                return 503, {}
            if failure == "slow":
                time.sleep(2)
            if failure in ODD:
                return ODD[failure]
            if failure or "REFUSE" in request["code"] + request["stdin"]:
                return 200, {"status": "SandboxError", "message": "no disk", "run_result": None}
            time.sleep(0.02)
            limits = Limits(cpu_s=LIMITS.cpu_s, output_bytes=2**22)
            outcome = self.sandbox.run(Script(request["code"], request["stdin"].encode()), limits)
            result = {
                "status": "TimeLimitExceeded" if outcome.ending is Ending.TIMEOUT else "Finished" if outcome.exit == 0 else "Error",
                "execution_time": outcome.cpu_s, "return_code": outcome.exit if outcome.ending is Ending.FINISHED else None,
                "stdout": outcome.output.decode("utf-8", "surrogateescape"), "stderr": outcome.errors.decode("utf-8", "replace"),
            }  # fmt: skip
            return 200, {"status": "Success" if outcome.exit == 0 else "Failed", "message": "", "run_result": result}
        finally:
            with self.lock:
                self.now -= 1


@pytest.fixture(scope="module")
def server():
    with Sandbox(n_workers=2) as sandbox:
        server = StandIn(sandbox)
        yield server
        server.server.shutdown()
        server.server.server_close()


@pytest.fixture
def remote(server):
    remote = RemoteSandbox(server.url, n_workers=3, retries=2)
    yield remote
    remote.close()


@pytest.mark.parametrize(
    ("program", "verdict", "observed"),
    [
        ("def double(x):\n    print('seen', x)\n    return x + x\n", "correct", "seen 2"),
        ("def double(x):\n    return x * x\n", "wrong", "The shown test passes."),
        ("def double(x):\n    return 5\n", "wrong", "Got: 5"),
        ("def double(x):\n    raise ValueError('no')\n", "wrong", "ValueError: no"),
        ("def double(x:\n", "wrong", "SyntaxError"),
        ("import os\ndef double(x):\n    os._exit(0)\n", "wrong", "ended before it answered"),
        ("def double(x):\n    while True: pass\n", "timeout", "time limit"),
        ("import sys\ndef double(x):\n    print(sys._getframe(1).f_globals)\n    return 5\n", "wrong", "Got: 5"),
        (
            "class E:\n    def __eq__(self, o): return True\ndef double(x):\n    return E()\n",
            "wrong",
            "object of type E",
        ),
    ],
)
def test_functions(remote, program, verdict, observed):
    score = score_program(program, TESTS, LIMITS, sandbox=remote)
    assert score.verdict == verdict, score
    assert observed in score.observation
    assert "21" not in score.observation.replace("0x", "")


@pytest.mark.parametrize(
    ("program", "verdict"),
    [
        ("print(sum(map(int, input().split())))", "correct"),
        ("print(1)", "wrong"),
        ("1 / 0", "wrong"),
        ("while True: pass", "timeout"),
    ],
)
def test_whole_programs(remote, program, verdict):
    tests = ScriptTests((("1 2\n", "3\n"),), (("5 6\n", "11\n"),))
    assert score_program(program, tests, LIMITS, sandbox=remote).verdict == verdict


def test_a_server_that_fails_is_asked_again(remote, server):
    program = "def double(x):\n    return x + x\n"
    server.fail = ["http", "error"]
    assert score_program(program, TESTS, sandbox=remote).verdict == "correct"
    server.fail = ["http"] * 9
    score = score_program(program, TESTS, sandbox=remote)
    assert score.verdict == "error"
    assert score.reason.startswith("sandbox: the server failed 3 times")
    server.fail = []


@pytest.mark.parametrize("failure", ODD)
def test_whatever_a_server_sends_is_tried_again_and_then_an_error(remote, server, failure, monkeypatch):
    monkeypatch.setattr("rewards.sandbox.remote._BACKOFF_S", 0.0)
    program = "def double(x):\n    return x + x\n"
    server.fail = [failure] * 2
    assert score_program(program, TESTS, sandbox=remote).verdict == "correct"
    server.fail = [failure] * 6  # three tries of the program, and three of the probe that asks if the server works
    score = score_program(program, TESTS, sandbox=remote)
    server.fail = []
    assert score.verdict == "error"
    assert score.reason.startswith("sandbox: the server failed 3 times: ")


def test_a_server_that_is_too_slow_is_left(remote, server, monkeypatch):
    monkeypatch.setattr("rewards.sandbox.remote._GRACE_S", 0.1)
    monkeypatch.setattr("rewards.sandbox.remote._BACKOFF_S", 0.0)
    server.fail = ["slow"] * 3
    outcome = remote.run(Script("print(1)"), Limits(cpu_s=1.0, wall_s=0.1))
    server.fail = []
    assert outcome.ending in (Ending.BROKEN, Ending.DIED)
    assert "timed out" in (outcome.detail or outcome.errors.decode())


def test_a_server_that_is_gone_is_an_error():
    with Sandbox(n_workers=1) as sandbox:
        server = StandIn(sandbox)
        remote = RemoteSandbox(server.url, retries=1)
        server.server.shutdown()
        server.server.server_close()
        score = score_program("def double(x):\n    return x + x\n", TESTS, sandbox=remote)
        remote.close()
    assert score.verdict == "error"
    assert "refused" in score.reason


def test_half_a_character_in_an_output_harms_nobody(remote):
    program = "import sys\nsys.stdout.reconfigure(errors='surrogatepass')\nprint('\\ud800')\ndef double(x):\n    return x + x\n"
    assert score_program(program, TESTS, sandbox=remote).verdict == "correct"


def test_a_program_that_the_server_refuses_alone_is_wrong(remote):
    """A program that the server refuses counts as wrong if the server still runs others.

    With an error instead, a response could pass its own failure off as the server's.
    """
    assert score_program("REFUSE = 1\ndef double(x):\n    return 0\n", TESTS, sandbox=remote).verdict == "wrong"


def test_no_more_requests_at_once_than_workers(remote, server):
    server.most = 0
    futures = [remote.submit(Script("print(1)"), Limits()) for _ in range(12)]
    assert all(future.result().output == b"1\n" for future in futures)
    assert server.most <= 3


def test_it_is_chosen_by_name(server):
    options = SandboxOptions(backend="http", url=server.url)
    sandbox = get_sandbox(options)
    assert isinstance(sandbox, RemoteSandbox)
    assert get_sandbox(options) is sandbox
    with pytest.raises(SandboxError, match=r"sandbox\.url="):
        get_sandbox(SandboxOptions(backend="http"))
    with pytest.raises(SandboxError, match="no server there"):
        RemoteSandbox("http://127.0.0.1:9", retries=0)


def test_tests_that_are_code_are_refused(remote):
    tests = FunctionTests(code=CheckCode(("assert f(1) == 1",)))
    score = score_program("def f(x): return x", tests, sandbox=remote)
    assert score.verdict == "error"
    assert "backend=local" in score.reason
