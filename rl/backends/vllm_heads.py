"""Pads attention heads with zeros to a size that vLLM's CPU kernels support.

The toy models have heads of 16 entries, but the smallest supported size is 32. Padding is exact for rotary models:
query and key entries are moved to positions with the same rotation frequency, added entries are zero, and the query is
scaled so that the softmax sees the same scores. On GPUs nothing is padded.
"""

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

CPU_HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)


@dataclass(frozen=True, slots=True)
class HeadPadding:
    """Function that converts the weights of a model, one at a time, to the engine's head size.

    Args:
        config: Model config for the engine.
        size: Head size of the model.
        padded: Head size in the engine.
    """

    config: Any
    size: int
    padded: int

    @classmethod
    def of(cls, config: Any, on_cpu: bool) -> "HeadPadding":
        """Chooses the padding for a model's config.

        Raises:
            ValueError: If the head size is not supported and cannot be padded exactly.
        """
        config = deepcopy(config)
        text = config.get_text_config()
        size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        if not on_cpu or size in CPU_HEAD_SIZES:
            return cls(config, size, size)
        # Double the size until it is supported: the rotation frequencies of a head are among those of a head twice as
        # large.
        padded = 2 * size
        while padded < CPU_HEAD_SIZES[0]:
            padded *= 2
        if padded not in CPU_HEAD_SIZES or text.model_type != "llama":
            raise ValueError(
                f"engine=vllm: attention heads of {size} entries ({text.model_type}) cannot run on a CPU, where vLLM "
                f"supports {', '.join(map(str, CPU_HEAD_SIZES))}: use engine=hf"
            )
        text.head_dim = padded
        return cls(config, size, padded)

    def __call__(self, name: str, tensor: Tensor) -> Tensor:
        """The weight of this name, padded for the engine."""
        if self.size == self.padded:
            return tensor
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            # RoPE rotates entries i and i + size/2 with frequency base^(-2i/size), which is the frequency of entry 2i
            # in a head twice as large. So entry i of each half moves to position i * ratio of the padded half.
            ratio = self.padded // self.size
            places = torch.arange(self.size // 2) * ratio
            places = torch.cat([places, places + self.padded // 2])
            scale = ratio**0.5 if "q_proj" in name else 1.0  # attention divides scores by the root of the head size
            return self._spread(tensor, places) * scale
        if name.endswith("v_proj.weight"):
            return self._spread(tensor, torch.arange(self.size))
        if name.endswith("o_proj.weight"):
            return self._spread(tensor.T, torch.arange(self.size)).T.contiguous()
        return tensor

    def _spread(self, tensor: Tensor, places: Tensor) -> Tensor:
        """Moves the entries of each head to ``places``: ``[heads * size, D]`` to ``[heads * padded, D]``, else zero."""
        heads = tensor.unflatten(0, (-1, self.size))
        out = tensor.new_zeros(len(heads), self.padded, tensor.shape[1])
        out[:, places.to(tensor.device)] = heads
        return out.flatten(0, 1)
