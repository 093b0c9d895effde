"""The client of served vLLM replicas, with fake replicas that fail, restart or hold other weights."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from envs import Split
from rl.backends import engine_vllm_http
from rl.backends.distributed import Distributed
from rl.config import EngineConfig
from rl.rollout import complete
from rl.types import Request, RunStoppedError
from rl.workbench import Workbench
from tests.helpers import modchain_config


class Replica:
    """A fake replica that answers every prompt with its own number, and can fail or lose its weights on request."""

    def __init__(self, number, end_id):
        self.number, self.loaded, self.failures, self.log = number, "", 0, []
        replica = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                self.answer({"data": [{"id": "model"}]})

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if self.path == "/v1/completions" and replica.failures:
                    replica.failures -= 1
                    self.send_error(500)
                    return
                replica.log.append(self.path)
                if self.path == "/collective_rpc" and body["method"] == "load_from_folder":
                    replica.loaded = body["args"][0]
                ids = [replica.number, end_id]
                choice = {"token_ids": ids, "logprobs": {"token_logprobs": [-1.0] * 2}, "finish_reason": "stop"}
                self.answer({"choices": [choice], "results": [replica.loaded]})

            def answer(self, value):
                data = json.dumps(value).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A function that builds a workbench on ``n`` fake replicas."""
    monkeypatch.setattr(engine_vllm_http.time, "sleep", lambda _: None)
    replicas = []

    def build(n, retries=2):
        plain = Workbench.build(modchain_config(), Distributed(cpu=True))
        replicas.extend(Replica(20 + i, plain.renderer.end_id) for i in range(n))
        cfg = modchain_config()
        cfg.engine = EngineConfig(
            name="vllm_http", urls=[r.url for r in replicas], weights_dir=str(tmp_path), retries=retries, timeout_s=10
        )
        return Workbench.build(cfg, Distributed(cpu=True)), replicas

    yield build
    for replica in replicas:
        replica.server.shutdown()
        replica.server.server_close()


def requests(n=6):
    return [Request(i, (1, 13, 2), 3, 1.0, i) for i in range(n)]


def test_replicas_get_the_weights_before_the_first_sample(served, tmp_path):
    """Replicas may still hold the weights of another run, so they get the run's own before the first sample."""
    bench, replicas = served(2)
    assert all(replica.log[0] == "/collective_rpc" and replica.loaded for replica in replicas)
    answers = complete(bench.engine, requests())
    assert {c.action_ids[0] for c in answers} == {20, 21}  # both were asked
    assert {c.policy_version for c in answers} == {0}
    assert not list(tmp_path.iterdir())


def test_one_failure_of_the_only_replica_is_tried_again(served):
    bench, (replica,) = served(1)
    replica.failures = 1
    assert [c.action_ids[0] for c in complete(bench.engine, requests())] == [20] * 6


def test_failures_without_end_are_reported(served):
    bench, (replica,) = served(1)
    replica.failures = 10_000
    with pytest.raises(RunStoppedError, match=r"in 3 attempts; 1 of 1 replica is down.*500"):
        complete(bench.engine, requests())
    replica.failures = 0
    bench.publish(1)
    assert len(complete(bench.engine, requests())) == 6


def test_a_restarted_replica_gets_no_requests_until_it_has_the_weights(served):
    """Without new weights a restarted replica would sample, unnoticed, from the model that it was started with."""
    bench, (replica,) = served(1)
    replica.failures, replica.loaded = 1, ""
    with pytest.raises(RunStoppedError, match="1 of 1 replica is down"):
        complete(bench.engine, requests(1))
    bench.publish(1)
    assert len(complete(bench.engine, requests(1))) == 1


def test_a_request_that_is_wrong_is_not_tried_elsewhere(served, monkeypatch):
    bench, (replica,) = served(1)

    def refuse(handler):
        handler.send_error(400)

    monkeypatch.setattr(replica.server.RequestHandlerClass, "do_POST", refuse)
    with pytest.raises(RunStoppedError, match="400"):
        complete(bench.engine, requests(1))
    assert bench.tasks(Split.TRAIN)
