"""Sampling from served replicas of vLLM: token ids over ``/v1/completions``, any number of servers, retries.

The replicas are plain ``vllm serve`` processes that load ``rl.backends.vllm_worker`` as worker extension; the command
is in docs/engines.md. Weights are transferred through a folder that trainer and replicas share: they are written once,
and every replica reads them and confirms before sampling starts or continues. If a replica fails, its requests are sent
to other replicas. The answers stay the same, because a request's seed determines its sample. Until new weights are
sent, a failed replica is used again only if no other is left and it still holds the newest weights, which a restarted
one does not.
"""

import json
import shutil
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from rewards.wording import counted
from rl.backends.distributed import Distributed
from rl.config import RunConfig
from rl.types import Completion, Finish, Request, RunStoppedError

PER_REPLICA = 256
"""Maximum number of requests that are sent to one replica at the same time; the replica batches them itself."""
POLL_S = 0.05
"""Longest time in seconds to wait for an answer before the rollout continues with other episodes."""


class ReplicaError(RuntimeError):
    """A replica did not answer, or answered with an error."""


class VLLMHttpEngine:
    """Samples from ``vllm serve`` replicas.

    Args:
        config: The run.
        end_ids: A turn ends at the first of these tokens.
        distributed: Rank of this process. Every rank sends its own requests; only the main process sends weights.

    Raises:
        ReplicaError: If a replica cannot be reached at the start.
    """

    streams = True

    def __init__(self, config: RunConfig, end_ids: Collection[int], distributed: Distributed) -> None:
        engine = config.engine
        self._urls, self._distributed = [url.rstrip("/") for url in engine.urls], distributed
        self._end_ids, self._stop_strings = sorted(end_ids), list(engine.stop_strings)
        self._retries, self._timeout_s = engine.retries, engine.timeout_s
        self._folder = Path(engine.weights_dir or ".").resolve()
        self._down: set[str] = set()
        self._run, self._loaded = uuid.uuid4().hex[:8], ""
        self._lock = threading.Lock()
        self._next = distributed.rank  # ranks start with different replicas, to spread the load
        self._threads = ThreadPoolExecutor(PER_REPLICA * len(self._urls))
        self._futures: set[Future[Completion]] = set()
        self.policy_version = 0
        self._models = {url: self._call(url, "/v1/models", None)["data"][0]["id"] for url in self._urls}

    @property
    def pending(self) -> int:
        """Number of requests without an answer."""
        return len(self._futures)

    def submit(self, requests: Sequence[Request]) -> None:
        """Sends requests to the replicas in turn."""
        self._futures |= {self._threads.submit(self._complete, request) for request in requests}

    def step(self) -> list[Completion]:
        """Waits up to :data:`POLL_S` for answers; may return none, so that other episodes' next turns can be sent.

        Raises:
            RunStoppedError: If a request failed in all its attempts, or a replica refused it as invalid.
        """
        if not self._futures:
            return []
        done, self._futures = wait(self._futures, timeout=POLL_S, return_when=FIRST_COMPLETED)
        try:
            return [future.result() for future in done]
        except RunStoppedError:
            for future in self._futures:  # the remaining requests would fail in the same way
                future.cancel()
            self._futures = set()
            raise

    def _complete(self, request: Request) -> Completion:
        errors = []
        for attempt in range(self._retries + 1):
            if url := self._replica():
                try:
                    return self._ask(url, request)
                except ReplicaError as error:
                    errors.append(str(error))
                    with self._lock:
                        self._down.add(url)
            time.sleep(min(0.1 * 2**attempt, 5.0))
        last, of = errors[-1] if errors else "none is up", f"of {counted(len(self._urls), 'replica')}"
        down = counted(len(self._down), f"{of} is", f"{of} are")
        raise RunStoppedError(
            f"engine=vllm_http: request {request.id} failed on every replica that was tried, in "
            f"{counted(self._retries + 1, 'attempt')}; {down} down. Last error: {last}. Restart the replicas and "
            "continue with resume=auto"
        )

    def _replica(self) -> str | None:
        with self._lock:
            self._next += 1
            turn = self._next
            up = [url for url in self._urls if url not in self._down]
        # If no replica is left, those that answer and hold the newest weights are used again. A restarted replica has
        # the weights that it was started with, so its samples would come from another policy.
        if not up:
            up = [url for url in self._urls if self._holds_the_weights(url)]
            with self._lock:
                self._down -= set(up)
        return up[turn % len(up)] if up else None

    def _holds_the_weights(self, url: str) -> bool:
        try:
            answer = self._call(url, "/collective_rpc", {"method": "loaded_from"})
        except ReplicaError:
            return False
        return set(answer["results"]) == {self._loaded}

    def _ask(self, url: str, request: Request) -> Completion:
        body = {
            "model": self._models[url],
            "prompt": list(request.prompt_ids),
            "max_tokens": request.max_new_tokens,
            "temperature": request.temperature,
            "seed": request.seed,
            "logprobs": 0,
            "stop_token_ids": self._end_ids,
            "stop": self._stop_strings,
            "ignore_eos": True,
            "return_token_ids": True,
            "skip_special_tokens": False,
        }
        choice = self._call(url, "/v1/completions", body)["choices"][0]
        ids, logprobs = tuple(choice["token_ids"]), tuple(choice["logprobs"]["token_logprobs"])
        if len(ids) != len(logprobs):
            raise ReplicaError(f"{url}: {len(ids)} token ids but {len(logprobs)} log-probs")
        finish = Finish.STOP if choice["finish_reason"] == "stop" else Finish.LENGTH
        return Completion(request.id, ids, logprobs, finish, self.policy_version)

    def _call(self, url: str, path: str, body: dict[str, Any] | None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        call = urllib.request.Request(url + path, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(call, timeout=self._timeout_s) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            message = f"{url}{path}: {error.code} {error.read()[:300].decode(errors='replace')}"
            if 400 <= error.code < 500:  # the request itself is invalid, so other replicas would refuse it too
                raise RunStoppedError(f"engine=vllm_http: {message}") from error
            raise ReplicaError(message) from error
        except (OSError, EOFError) as error:
            reason = getattr(error, "reason", error)
            raise ReplicaError(f"engine.urls: {url}{path} does not answer: {reason}") from error
        try:
            return json.loads(text) if text else None
        except ValueError as error:
            raise ReplicaError(f"{url}{path}: no JSON in the answer") from error

    def load_weights(self, named: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Writes the weights to the shared folder and waits until every replica has them.

        Replicas that were down are tried again, so that a restarted replica gets the new weights before any request.

        Raises:
            RuntimeError: If requests are still being decoded.
            RunStoppedError: If no replica takes the weights.
        """
        folder = self._folder / f"run_{self._run}_version_{version}"  # a name per run, since runs may share the folder

        def write() -> None:
            try:
                if n := len(self._futures):
                    raise RuntimeError(
                        f"{counted(n, 'request is', 'requests are')} being decoded: weights can only change between "
                        "them"
                    )
                if self._distributed.is_main:
                    self._write(named, folder)
            finally:  # gathering sharded weights is a collective, so every process must iterate to the end
                deque(named, maxlen=0)

        def load() -> dict[str, str]:
            return dict(filter(None, self._threads.map(lambda url: self._load(url, folder), self._urls)))

        self._distributed.together(write)
        errors = self._distributed.on_main(load)
        self._down = set(errors)
        if len(errors) == len(self._urls):
            raise RunStoppedError(f"engine=vllm_http: no replica took the weights: {'; '.join(errors.values())}")
        self.policy_version, self._loaded = version, self._distributed.broadcast(str(folder))
        if self._distributed.is_main:
            shutil.rmtree(folder, ignore_errors=True)

    def _load(self, url: str, folder: Path) -> tuple[str, str] | None:
        try:
            self._call(url, "/collective_rpc", {"method": "load_from_folder", "args": [str(folder)]})
            self._call(url, "/reset_prefix_cache", {})
        except ReplicaError as error:
            return url, str(error)
        return None

    def _write(self, named: Iterable[tuple[str, Tensor]], folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        shard: dict[str, Tensor] = {}
        n_bytes, n_shards = 0, 0
        for name, tensor in named:
            shard[name] = tensor.detach().to("cpu", copy=True).contiguous()
            n_bytes += tensor.numel() * tensor.element_size()
            if n_bytes >= 2**30:  # write a file per GiB, so that the host never holds a second copy of the model
                save_file(shard, folder / f"{n_shards:05d}.safetensors")
                shard, n_bytes, n_shards = {}, 0, n_shards + 1
        save_file(shard, folder / f"{n_shards:05d}.safetensors")

    def sleep(self) -> None:
        """Does nothing: the replicas are on other devices, so there is no memory to free."""

    def wake(self) -> None:
        """Does nothing, since there is nothing to restore."""

    def close(self) -> None:
        """Drops all pending requests; the replicas keep running."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._futures.clear()
