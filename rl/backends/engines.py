"""Which engine a config asks for."""

from typing import Any

from rl.backends.distributed import Distributed
from rl.backends.engine_hf import HFEngine
from rl.backends.lora import merged_copy
from rl.backends.weights import full_weights
from rl.config import RunConfig
from rl.rendering import Renderer
from rl.types import Engine


def make_engine(
    config: RunConfig, model: Any, renderer: Renderer, context_length: int, distributed: Distributed
) -> Engine:
    """The engine of a run.

    Args:
        config: The run.
        model: The policy, whole and not wrapped yet.
        renderer: Knows what ends a turn.
        context_length: Longest sequence.
        distributed: Processes; each has an engine of its own.

    Raises:
        ModuleNotFoundError: If the engine's package is not installed.
    """
    engine = config.engine
    if engine.name == "vllm":
        from rl.backends.engine_vllm import VLLMEngine

        return VLLMEngine(config, model, renderer.end_ids, context_length, distributed)
    if engine.name == "vllm_http":
        from rl.backends.engine_vllm_http import VLLMHttpEngine

        served = VLLMHttpEngine(config, renderer.end_ids, distributed)
        served.load_weights(full_weights(model), 0)  # replicas may hold what another run left
        return served
    # Sharded weights cannot be sampled from one process at a time: the engine then has a whole copy of its own.
    own = merged_copy(model).requires_grad_(False) if distributed.shards else model
    return HFEngine(
        own,
        renderer.end_ids,
        renderer.pad_id,
        engine.max_batch_size,
        shares_weights=own is model,
        precision=distributed.autocast,
        stops=renderer.stops if renderer.stop_strings else None,
    )
