"""Low-rank adapters through peft. The functions also accept models without adapters."""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

from torch import Tensor

from rl.config import LoraConfig

_PREFIX = "base_model.model."


def add_lora(model: Any, config: LoraConfig) -> Any:
    """Adds adapters to a model, so that only they are trained; their update starts at zero.

    Raises:
        ModuleNotFoundError: If peft is not installed.
        ValueError: If a target matches no layer.
    """
    try:
        import peft
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"model.lora.rank={config.rank} needs peft: pip install -e '.[lora]' ({error})"
        ) from error
    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=int(config.alpha) if config.alpha == int(config.alpha) else config.alpha,  # type: ignore[arg-type]
        target_modules=list(config.targets) or "all-linear",
        lora_dropout=0.0,
        task_type="CAUSAL_LM",
    )
    try:
        return peft.get_peft_model(model, settings)
    except ValueError as error:
        raise ValueError(f"model.lora.targets={config.targets}: {error}") from error


def has_lora(model: Any) -> bool:
    """Whether the model has adapters."""
    return hasattr(model, "peft_config")


def bare_model(model: Any) -> Any:
    """The causal language model without peft's wrapper; adapters are inside its layers and stay active."""
    return model.get_base_model() if has_lora(model) else model


def merged_parameters(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Yields the parameters under the base model's names, with adapters added; the model itself is not changed."""
    if not has_lora(model):
        yield from model.named_parameters()
        return
    layers = {name: module for name, module in model.named_modules() if hasattr(module, "get_delta_weight")}
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            continue
        layer = layers.get(name.removesuffix(".base_layer.weight"))
        if layer is not None and name.endswith(".base_layer.weight"):
            # Merge into a new tensor, one layer at a time: merging in place would change the trained weights.
            update = layer.get_delta_weight(layer.active_adapters[0]).to(parameter.dtype)
            yield base_name(name), parameter + update
        else:
            yield base_name(name), parameter


def merged_copy(model: Any) -> Any:
    """A copy of the model with the adapters merged into the weights."""
    copy = deepcopy(model)
    return copy.merge_and_unload() if has_lora(model) else copy


def base_name(name: str) -> str:
    """A parameter's name in the model without adapters."""
    return name.removeprefix(_PREFIX).replace(".base_layer.", ".")
