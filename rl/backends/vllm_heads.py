"""Attention heads that vLLM's CPU kernels do not know, padded with zeros to a size that they do.

The embedded toys have heads of 16; the kernels begin at 32. Padding is exact for rotary models: query and key entries
keep their rotation frequencies at other places, the added entries are zero, and the query is scaled so that the softmax
sees the same scores. On GPUs nothing is padded.
"""

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

CPU_HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)


@dataclass(frozen=True, slots=True)
class HeadPadding:
    """How the weights of a model are changed for the engine; called with each of them.

    Args:
        config: The engine's model config.
        size: Head size of the model.
        padded: Head size of the engine.
    """

    config: Any
    size: int
    padded: int

    @classmethod
    def of(cls, config: Any, on_cpu: bool) -> "HeadPadding":
        """For a model's config.

        Raises:
            ValueError: If the heads have a size that can neither be run nor padded exactly.
        """
        config = deepcopy(config)
        text = config.get_text_config()
        size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        if not on_cpu or size in CPU_HEAD_SIZES:
            return cls(config, size, size)
        # Doubled until it fits: the rotation frequencies of a head are among those of one twice as large.
        padded = 2 * size
        while padded < CPU_HEAD_SIZES[0]:
            padded *= 2
        if padded not in CPU_HEAD_SIZES or text.model_type != "llama":
            raise ValueError(
                f"engine=vllm: attention heads of {size} entries ({text.model_type}) cannot run on a CPU, which knows "
                f"{', '.join(map(str, CPU_HEAD_SIZES))}: use engine=hf"
            )
        text.head_dim = padded
        return cls(config, size, padded)

    def __call__(self, name: str, tensor: Tensor) -> Tensor:
        """A weight as the engine wants it."""
        if self.size == self.padded:
            return tensor
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            # RoPE turns entries i and i + size/2 by base^(-2i/size), which is the frequency of 2i in a head twice as
            # large: entry i of either half goes to place i * ratio of the half twice as large.
            ratio = self.padded // self.size
            places = torch.arange(self.size // 2) * ratio
            places = torch.cat([places, places + self.padded // 2])
            scale = ratio**0.5 if "q_proj" in name else 1.0  # softmax divides by the root of the head's size
            return self._spread(tensor, places) * scale
        if name.endswith("v_proj.weight"):
            return self._spread(tensor, torch.arange(self.size))
        if name.endswith("o_proj.weight"):
            return self._spread(tensor.T, torch.arange(self.size)).T.contiguous()
        return tensor

    def _spread(self, tensor: Tensor, places: Tensor) -> Tensor:
        """``[heads * size, D]`` to ``[heads * padded, D]``, zero where nothing goes."""
        heads = tensor.unflatten(0, (-1, self.size))
        out = tensor.new_zeros(len(heads), self.padded, tensor.shape[1])
        out[:, places.to(tensor.device)] = heads
        return out.flatten(0, 1)
