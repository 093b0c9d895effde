"""Sampling with vLLM inside this process: one engine per rank, stepped by the rollout.

The weights are the trainer's, handed over after every update; prefix caching makes a second attempt's prompt cost what
is new in it. What is used of vLLM beyond its documented interface (stepping the engine, loading weights into a running
model) is in this file alone and has contract tests (``make test-vllm``).
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
"""Key-value cache on a CPU, unless ``VLLM_CPU_KVCACHE_SPACE`` says otherwise."""


class VLLMEngine:
    """Samples with ``vllm.LLM``.

    Args:
        config: The run.
        model: The policy; its architecture is the engine's, its weights are loaded at once.
        end_ids: A turn ends with the first of these tokens.
        context_length: Longest sequence.
        distributed: This process's rank and device.

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
        # On a CPU vLLM keeps a packed copy of the output head, which new weights of a tied embedding do not reach.
        self._unties = on_cpu and bool(getattr(causal.config.get_text_config(), "tie_word_embeddings", False))
        if self._unties:
            self._padding.config.tie_word_embeddings = False
        with tempfile.TemporaryDirectory() as folder:  # vLLM wants a folder; the weights come from load_weights
            self._padding.config.architectures = [type(causal).__name__]
            self._padding.config.save_pretrained(folder)
            self._llm = vllm.LLM(model=folder, **_arguments(config, model, context_length, on_cpu, distributed))
        self._engine = self._llm.llm_engine
        self._waiting: set[int] = set()
        self.policy_version = 0
        self.load_weights(full_weights(model), 0)

    @property
    def pending(self) -> int:
        """Requests without an answer."""
        return len(self._waiting)

    def submit(self, requests: Sequence[Request]) -> None:
        """Queues requests; they join the running batch at the next step."""
        for request in requests:
            params = self._sampling(
                max_tokens=request.max_new_tokens,
                temperature=request.temperature,
                seed=request.seed,
                logprobs=0,  # of the sampled token and no other
                stop_token_ids=self._end_ids,
                ignore_eos=True,  # the end tokens above stop, and nothing else
                detokenize=False,
            )
            self._waiting.add(request.id)
            self._engine.add_request(str(request.id), self._prompt(prompt_token_ids=list(request.prompt_ids)), params)

    def step(self) -> list[Completion]:
        """Decodes one token for every running request; returns those that are finished."""
        if not self._waiting:
            return []
        completions = []
        for finished in (output for output in self._engine.step() if output.finished):
            request_id, answer = int(finished.request_id), finished.outputs[0]
            self._waiting.discard(request_id)
            ids = tuple(answer.token_ids)
            # vLLM returns a table of log-probs for every token, the sampled one in it.
            logprobs = tuple(entry[token].logprob for entry, token in zip(answer.logprobs, ids, strict=True))
            finish = Finish.STOP if answer.finish_reason == "stop" else Finish.LENGTH
            completions.append(Completion(request_id, ids, logprobs, finish, self.policy_version))
        return completions

    def load_weights(self, named: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Loads weights into the running engine, whatever its parallel layout, and forgets cached prefixes.

        Raises:
            RuntimeError: If requests are still being decoded: their tokens would come from two policies.
        """
        try:
            if n := len(self._waiting):
                raise RuntimeError(
                    f"{counted(n, 'request is', 'requests are')} being decoded: weights can only change between them"
                )
            self.wake()  # asleep, the engine has no place to load them into
            runner = self._engine.model_executor.driver_worker.worker.model_runner
            runner.reload_weights(weights_iterator=self._converted(named))
        finally:  # the other processes would wait for this one's part of what is left
            deque(named, maxlen=0)
        self._llm.reset_prefix_cache()  # its keys and values are those of the old weights
        self.policy_version = version

    def _converted(self, named: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in named:
            yield name, self._padding(name, tensor.detach())
            if self._unties and name.endswith("embed_tokens.weight"):
                yield "lm_head.weight", tensor.detach()

    def sleep(self) -> None:
        """Frees the cache, and the weights or their place on the GPU, until ``wake``."""
        if self._sleep_level and not self._llm.llm_engine.is_sleeping():
            self._llm.sleep(level=self._sleep_level)

    def wake(self) -> None:
        """Ends ``sleep``; after level 2 the weights must be loaded again before the next sample."""
        if self._sleep_level and self._llm.llm_engine.is_sleeping():
            self._llm.wake_up()

    def close(self) -> None:
        """Ends the engine."""
        self._waiting.clear()
        self._engine.engine_core.shutdown()


def trainer_dtype(config: RunConfig) -> str:
    """The precision of the trainer's forward passes, which the engine should have too."""
    online = isinstance(config, TrainConfig) and config.algorithm.optim.mixed_precision == "bf16"
    return "bfloat16" if online else config.model.dtype


def _prepare_environment(on_cpu: bool) -> None:
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the engine's core in this process, so that we can step it
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
        "load_format": "dummy",  # random weights, until load_weights brings the policy's
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
    if distributed.n_processes > 1:  # the launcher has started the processes; vLLM is not to start its own
        arguments["distributed_executor_backend"] = "external_launcher"
    return arguments | engine.options
