"""Sampling with vLLM inside this process: one engine per rank, stepped by the rollout.

The trainer's weights are loaded after every update. With prefix caching only the new part of a second attempt's prompt
is computed. All uses of vLLM beyond its documented interface (stepping the engine, loading weights into a running
model) are in this file and have contract tests (``make test-vllm``).
"""

import importlib
import os
import tempfile
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor

from rewards.wording import counted
from rl.backends.distributed import Distributed
from rl.backends.lora import bare_model
from rl.backends.vllm_heads import HeadPadding
from rl.backends.weights import full_weights
from rl.config import RunConfig, TrainConfig
from rl.types import Completion, Finish, Request

CPU_CACHE_GIB = "2"
"""Size of the key-value cache on a CPU, in GiB, unless ``VLLM_CPU_KVCACHE_SPACE`` is set."""


class VLLMEngine:
    """Samples with ``vllm.LLM``.

    Args:
        config: The run.
        model: The policy, which gives the engine's architecture and first weights.
        end_ids: A turn ends at the first of these tokens.
        context_length: Maximum length of a sequence in tokens.
        distributed: Rank and device of this process.

    Raises:
        ModuleNotFoundError: If vLLM is not installed.
        ValueError: If vLLM cannot run the model's attention heads on this device.
    """

    streams = True

    def __init__(
        self, config: RunConfig, model: Any, end_ids: Collection[int], context_length: int, distributed: Distributed
    ) -> None:
        on_cpu = distributed.device.type == "cpu"
        _prepare_environment(on_cpu)
        try:
            vllm = importlib.import_module("vllm")
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"engine=vllm: vLLM is not installed ({error}). On a GPU: pip install -e '.[vllm]'; on a CPU: see "
                "docs/engines.md"
            ) from error
        self._sampling, self._prompt = vllm.SamplingParams, vllm.TokensPrompt
        self._end_ids, self._sleep_level = sorted(end_ids), 0 if on_cpu else config.engine.sleep_level
        causal = bare_model(model)
        self._padding = HeadPadding.of(causal.config, on_cpu)
        # On a CPU vLLM keeps a packed copy of the output head, which is not updated with the weights of a tied
        # embedding. The engine's model is therefore untied.
        self._unties = on_cpu and bool(getattr(causal.config.get_text_config(), "tie_word_embeddings", False))
        if self._unties:
            self._padding.config.tie_word_embeddings = False
        with tempfile.TemporaryDirectory() as folder:  # vLLM reads the config from a folder; weights are loaded below
            self._padding.config.architectures = [type(causal).__name__]
            self._padding.config.save_pretrained(folder)
            self._llm = vllm.LLM(model=folder, **_arguments(config, model, context_length, on_cpu, distributed))
        self._engine = self._llm.llm_engine
        self._waiting: set[int] = set()
        self.policy_version = 0
        self.load_weights(full_weights(model), 0)

    @property
    def pending(self) -> int:
        """Number of requests without an answer."""
        return len(self._waiting)

    def submit(self, requests: Sequence[Request]) -> None:
        """Queues requests; they join the running batch at the next step."""
        for request in requests:
            params = self._sampling(
                max_tokens=request.max_new_tokens,
                temperature=request.temperature,
                seed=request.seed,
                logprobs=0,  # only that of the sampled token
                stop_token_ids=self._end_ids,
                ignore_eos=True,  # only the end tokens above end an answer
                detokenize=False,
            )
            self._waiting.add(request.id)
            self._engine.add_request(str(request.id), self._prompt(prompt_token_ids=list(request.prompt_ids)), params)

    def step(self) -> list[Completion]:
        """Decodes one token for every running request; returns the finished requests."""
        if not self._waiting:
            return []
        completions = []
        for finished in (output for output in self._engine.step() if output.finished):
            request_id, answer = int(finished.request_id), finished.outputs[0]
            self._waiting.discard(request_id)
            ids = tuple(answer.token_ids)
            # For every position vLLM returns a table of log-probs by token, which includes the sampled token.
            logprobs = tuple(entry[token].logprob for entry, token in zip(answer.logprobs, ids, strict=True))
            finish = Finish.STOP if answer.finish_reason == "stop" else Finish.LENGTH
            completions.append(Completion(request_id, ids, logprobs, finish, self.policy_version))
        return completions

    def load_weights(self, named: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Loads weights into the running engine, whatever its parallel layout, and clears the prefix cache.

        Raises:
            RuntimeError: If requests are still being decoded, since their tokens would come from two policies.
        """
        try:
            if n := len(self._waiting):
                raise RuntimeError(
                    f"{counted(n, 'request is', 'requests are')} being decoded: weights can only change between them"
                )
            self.wake()  # a sleeping engine has no memory to load weights into
            runner = self._engine.model_executor.driver_worker.worker.model_runner
            runner.reload_weights(weights_iterator=self._converted(named))
        finally:  # gathering sharded weights is a collective: iterate to the end, or the other processes would hang
            deque(named, maxlen=0)
        self._llm.reset_prefix_cache()  # cached keys and values were computed with the old weights
        self.policy_version = version

    def _converted(self, named: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in named:
            yield name, self._padding(name, tensor.detach())
            if self._unties and name.endswith("embed_tokens.weight"):
                yield "lm_head.weight", tensor.detach()

    def sleep(self) -> None:
        """Frees the GPU memory of cache and weights until ``wake``; level 1 keeps the weights on the host."""
        if self._sleep_level and not self._llm.llm_engine.is_sleeping():
            self._llm.sleep(level=self._sleep_level)

    def wake(self) -> None:
        """Ends ``sleep``; after level 2 the weights must be loaded again before sampling."""
        if self._sleep_level and self._llm.llm_engine.is_sleeping():
            self._llm.wake_up()

    def close(self) -> None:
        """Drops all pending requests and shuts the engine down."""
        self._waiting.clear()
        self._engine.engine_core.shutdown()


def trainer_dtype(config: RunConfig) -> str:
    """The precision of the trainer's forward passes, which is the engine's default."""
    online = isinstance(config, TrainConfig) and config.algorithm.optim.mixed_precision == "bf16"
    return "bfloat16" if online else config.model.dtype


def _prepare_environment(on_cpu: bool) -> None:
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the engine's core must be in this process to be stepped
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    if on_cpu:
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", CPU_CACHE_GIB)


def _arguments(
    config: RunConfig, model: Any, context_length: int, on_cpu: bool, distributed: Distributed
) -> dict[str, Any]:
    engine = config.engine
    arguments: dict[str, Any] = {
        "dtype": engine.dtype or trainer_dtype(config),
        "load_format": "dummy",  # random weights, until load_weights replaces them
        "skip_tokenizer_init": True,
        "max_model_len": context_length,
        "max_num_seqs": engine.max_batch_size,
        "enforce_eager": engine.enforce_eager or on_cpu,
        "enable_prefix_caching": engine.prefix_caching,
        "logprobs_mode": "processed_logprobs",  # at the sampling temperature, as the trainer computes them
        "disable_log_stats": True,
        "seed": config.seed,
    }
    if not on_cpu:
        arguments |= {
            "gpu_memory_utilization": engine.gpu_memory_utilization,
            "enable_sleep_mode": engine.sleep_level > 0,
        }
    if distributed.n_processes > 1:  # the launcher has already started all processes, so vLLM must not start its own
        arguments["distributed_executor_backend"] = "external_launcher"
    return arguments | engine.options
