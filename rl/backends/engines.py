"""Sampling engines by name: ``ENGINES`` holds the functions that build them."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from rewards.lookup import Lookup
from rl.backends.distributed import Distributed
from rl.backends.engine_hf import HFEngine
from rl.backends.lora import merged_copy
from rl.backends.weights import full_weights
from rl.config import RunConfig
from rl.rendering import Renderer
from rl.types import Engine

ENGINES: Lookup[Callable[[RunConfig, Any, Renderer, int, Distributed], Engine]] = Lookup("engine.name")
"""Functions that build the engine of a process, by ``engine.name``. They take the run's config, the policy (not yet
sharded or wrapped), the renderer, the maximum sequence length and the process. The fact ``decodes`` says that the
engine decodes with the policy's own forward pass, which is then checked when the model is loaded."""


@ENGINES.register("hf", decodes=True)
def hf(config: RunConfig, model: Any, renderer: Renderer, context_length: int, distributed: Distributed) -> Engine:
    """Samples with the trained model itself, in this process."""
    # A process cannot sample alone from sharded weights, so the engine then has its own complete copy of the model.
    own = merged_copy(model).requires_grad_(False) if distributed.shards else model
    return HFEngine(
        own,
        renderer.end_ids,
        renderer.pad_id,
        config.engine.max_batch_size,
        shares_weights=own is model,
        precision=distributed.autocast,
        stops=renderer.stops if renderer.stop_strings else None,
    )


@ENGINES.register("vllm")
def vllm(config: RunConfig, model: Any, renderer: Renderer, context_length: int, distributed: Distributed) -> Engine:
    """Samples with vLLM in this process; raises ModuleNotFoundError if vLLM is not installed."""
    if find_spec("vllm") is None:
        raise ModuleNotFoundError(
            "engine=vllm: vLLM is not installed here; `pip install -e '.[vllm]'` on a machine with a GPU, or engine=hf"
        )
    from rl.backends.engine_vllm import VLLMEngine

    return VLLMEngine(config, model, renderer.end_ids, context_length, distributed)


@ENGINES.register("vllm_http")
def vllm_http(
    config: RunConfig, model: Any, renderer: Renderer, context_length: int, distributed: Distributed
) -> Engine:
    """Samples with served replicas of vLLM."""
    from rl.backends.engine_vllm_http import VLLMHttpEngine

    served = VLLMHttpEngine(config, renderer.end_ids, distributed)
    served.load_weights(full_weights(model), 0)  # replicas may still hold the weights of another run
    return served
