"""Runs programs on a server with the HTTP interface of SandboxFusion, ``POST /run_code``.

Jobs and outcomes are the same as those of :class:`rewards.sandbox.Sandbox`, so that either can be used for grading. A
whole program is sent as it is. For calls, a driver is sent with the program, which contains the code of the local
candidate and prints the replies. Expected values are never sent. The server alone is responsible for isolating
programs: run it on a machine that does nothing else. Tests that are arbitrary code are refused, since the interface has
no second process for a judge.
"""

import http.client
import inspect
import json
import secrets
import time
import urllib.request
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from rewards.sandbox import candidate, codec, wire
from rewards.sandbox.confinement import Mode
from rewards.sandbox.jobs import Conversation, Ending, Job, Limits, Outcome, SandboxError, Script
from rewards.wording import counted

_GRACE_S = 60.0
_BACKOFF_S = 0.2
_MAX_ANSWER_BYTES = 64 * 2**20
_FAILURES = (OSError, ValueError, RecursionError, http.client.HTTPException)
"""Exceptions of a failed request: no connection, time-out, no valid HTTP or JSON, or an unexpected result."""
# Driver that runs on the server and loads the program. The project is not installed there, so the source of its modules
# is sent along. Replies are written to standard output among the program's own output, in lines that begin with a
# random mark, new for each request. A program can find the mark in its own process, but a forged reply must still equal
# the expected value, which the program does not know.
_DRIVER = """
import json, os, sys, types
given = json.loads(sys.stdin.readline())
for name in ("rewards", "rewards.sandbox"):
    sys.modules[name] = types.ModuleType(name)
for name, source in given["modules"].items():
    sys.modules[name] = types.ModuleType(name)
    exec(compile(source, name, "exec"), sys.modules[name].__dict__)
program, out = sys.modules["rewards.sandbox.candidate"].Candidate(), os.dup(1)
for request in given["requests"]:
    for reply in program.answer(request):
        sys.stdout.flush()
        data = ("\\n" + given["mark"] + json.dumps(reply) + "\\n").encode()
        while data:
            data = data[os.write(out, data):]
sys.stdout.flush()
os._exit(0)
"""


class RemoteSandbox:
    """A thread-safe client of a server that runs programs.

    Args:
        url: Address of the server, without the path ``/run_code``.
        n_workers: Number of requests at a time; 0 means 8.
        retries: How often a failed request is repeated.

    Raises:
        SandboxError: If no server that runs programs answers at ``url``.
    """

    mode: Mode | str = "remote"
    judges = False

    def __init__(self, url: str, n_workers: int = 0, retries: int = 3) -> None:
        if not url.startswith(("http://", "https://")):
            raise SandboxError(f"env.options.sandbox.url={url!r}: give the address of the server, as http://...")
        self._url, self._retries = url.rstrip("/") + "/run_code", retries
        self._threads = ThreadPoolExecutor(n_workers or 8, thread_name_prefix="sandbox")
        self.layers: list[str] = [f"those of {url}"]
        self.settings: tuple[object, ...] = (url,)
        self.missing: list[str] = []
        self.counts = dict.fromkeys(Ending, 0)
        self._modules = {module.__name__: inspect.getsource(module) for module in (codec, wire, candidate)}
        if not self._works():
            raise SandboxError(f"env.options.sandbox.url={url}: no server there ran a first test program")

    def submit(self, job: Job, limits: Limits) -> "Future[Outcome]":
        """Queues a program."""
        return self._threads.submit(self._run, job, limits)

    def run(self, job: Job, limits: Limits) -> Outcome:
        """Runs one program and waits for it."""
        return self.submit(job, limits).result()

    def close(self) -> None:
        """Cancels waiting jobs and returns at once."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _run(self, job: Job, limits: Limits) -> Outcome:
        try:
            outcome = self._script(job, limits) if isinstance(job, Script) else self._converse(job, limits)
        except SandboxError as error:
            outcome = Outcome(Ending.BROKEN, detail=str(error))
        self.counts[outcome.ending] += 1
        return outcome

    def _script(self, job: Script, limits: Limits) -> Outcome:
        _, wall_s = limits.in_all(1)
        result = self._post(job.source, job.stdin.decode("utf-8", "replace"), wall_s)
        output, errors = (_encoded(result[name])[: limits.output_bytes + 1] for name in ("stdout", "stderr"))
        ending = Ending.TIMEOUT if result["timed_out"] else Ending.FINISHED if result["exit"] >= 0 else Ending.DIED
        return Outcome(ending, (), output, errors, 0, result["exit"], result["seconds"])

    def _converse(self, job: Job, limits: Limits) -> Outcome:
        if not isinstance(job, Conversation):
            raise SandboxError("tests that are code need env.options.sandbox.backend=local")
        # The policy may see the output of public calls, so these have a separate run.
        load, *calls = job.requests
        parts = [calls[: job.output_after - 1], calls[job.output_after - 1 :]] if job.output_after > 1 else [calls]
        replies: list[Any] = []
        output, seconds, ending = b"", 0.0, Ending.FINISHED
        for number, part in enumerate(part for part in parts if part or not calls):
            expected = 1 + sum(len(request["calls"]) for request in part)
            mark = secrets.token_hex(16)
            given = {"modules": self._modules, "requests": [load, *part], "mark": mark}
            _, wall_s = limits.in_all(expected - 1)
            result = self._post(_DRIVER, json.dumps(given) + "\n", wall_s)
            said, found = _parted(result["stdout"], mark)
            # Only the output of the run with the public calls is kept, since the policy may see it.
            output = said[: limits.output_bytes] if number == 0 and job.output_after > 1 else output
            # The program is loaded again for the hidden calls; the reply to that second loading is left out.
            replies += found[:expected] if number == 0 else found[1:expected]
            seconds += result["seconds"]
            if len(found) < expected:
                ending = Ending.TIMEOUT if result["timed_out"] else Ending.DIED
                break
        return Outcome(ending, tuple(replies), output, b"", 0, 0, seconds)

    def _post(self, code: str, stdin: str, wall_s: float) -> dict[str, Any]:
        """Runs code on the server, and repeats the request if the server fails.

        Raises:
            SandboxError: If all requests fail, and the server cannot run a test program either.
        """
        request = {"code": code, "language": "python", "stdin": stdin, "run_timeout": wall_s, "compile_timeout": wall_s}
        said = ""
        for attempt in range(self._retries + 1):
            time.sleep(_BACKOFF_S * (2**attempt - 1))
            try:
                body = json.dumps(request).encode()
                post = urllib.request.Request(self._url, body, {"Content-Type": "application/json"})
                with urllib.request.urlopen(post, timeout=wall_s + _GRACE_S) as response:
                    return _result(json.loads(response.read(_MAX_ANSWER_BYTES)))
            except _FAILURES as error:
                said = str(error) or type(error).__name__
        if code != _PROBE and self._works():  # the server works otherwise, so this program caused the failure
            return {"stdout": "", "stderr": said, "exit": -1, "seconds": 0.0, "timed_out": False}
        raise SandboxError(f"the server failed {counted(self._retries + 1, 'time')}: {said}")

    def _works(self) -> bool:
        try:
            return self._post(_PROBE, "", 10.0)["stdout"].strip() == "works"
        except SandboxError:
            return False


_PROBE = "print('works')"


def _result(answer: Any) -> dict[str, Any]:
    """The result in a server's answer; raises ``ValueError`` if the server could not run the program, or is wrong."""
    run = answer.get("run_result") if isinstance(answer, dict) else None
    if not isinstance(run, dict) or answer.get("status") not in ("Success", "Failed"):
        said = (answer.get("message") or answer.get("status")) if isinstance(answer, dict) else ""
        raise ValueError(str(said or "the server sent no result"))
    stdout, stderr, seconds = (
        run.get(name) or empty for name, empty in (("stdout", ""), ("stderr", ""), ("execution_time", 0))
    )
    if not isinstance(stdout, str) or not isinstance(stderr, str) or not isinstance(seconds, int | float):
        raise ValueError("the server sent a result with other fields than SandboxFusion's")
    status = run.get("return_code")
    return {
        "stdout": stdout, "stderr": stderr, "exit": status if isinstance(status, int) else -1, "seconds": seconds,
        "timed_out": run.get("status") == "TimeLimitExceeded",
    }  # fmt: skip


def _encoded(text: str) -> bytes:
    """Text as UTF-8; a lone surrogate, which JSON can contain but UTF-8 cannot, becomes ``?``."""
    return text.encode("utf-8", "replace")


def _parted(stdout: str, mark: str) -> tuple[bytes, list[Any]]:
    """The program's own output, and the replies that the driver wrote among it."""
    printed, replies = [], []
    for line in stdout.split("\n"):
        if line.startswith(mark):
            try:
                replies.append(json.loads(line[len(mark) :]))
            except (ValueError, RecursionError):
                replies.append(None)
        else:
            printed.append(line)
    return _encoded("\n".join(printed).strip("\n")), replies
