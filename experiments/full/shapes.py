"""Architectures of the models that full sizes use, and small checkpoints with random weights for dry runs.

A dry run loads, renders, samples and trains as the real run does, but without its weights. So the small checkpoint has
the same transformers class, grouped attention heads and tied or untied embeddings as the real model, the model family's
chat template with its special tokens, and a tokenizer of single characters.
"""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from rl.backends.memory import Sizes
from rl.config import ModelConfig


def _shape(kind: str, width: int, feed_forward: int, layers: int, heads: int, keys: int, vocabulary: int, tied: bool):
    return {
        "model_type": kind,
        "hidden_size": width,
        "intermediate_size": feed_forward,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": keys,
        "head_dim": 128,
        "vocab_size": vocabulary,
        "tie_word_embeddings": tied,
    }


SHAPES: dict[str, dict[str, Any]] = {
    "Qwen/Qwen2.5-1.5B": _shape("qwen2", 1536, 8960, 28, 12, 2, 151936, True),
    "Qwen/Qwen2.5-1.5B-Instruct": _shape("qwen2", 1536, 8960, 28, 12, 2, 151936, True),
    "Qwen/Qwen2.5-3B-Instruct": _shape("qwen2", 2048, 11008, 36, 16, 2, 151936, True),
    "Qwen/Qwen2.5-7B": _shape("qwen2", 3584, 18944, 28, 28, 4, 152064, False),
    "Qwen/Qwen2.5-7B-Instruct": _shape("qwen2", 3584, 18944, 28, 28, 4, 152064, False),
    "Qwen/Qwen3-8B": _shape("qwen3", 4096, 12288, 36, 32, 8, 151936, False),
    "meta-llama/Meta-Llama-3-8B-Instruct": _shape("llama", 4096, 14336, 32, 32, 8, 128256, False),
}
"""Architectures from the published ``config.json`` of each model; the width of an attention head is 128 in all."""

_CHATML = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "{% for one in messages %}<|im_start|>{{ one['role'] }}\n{{ one['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_QWEN3 = (
    "{% for one in messages %}<|im_start|>{{ one['role'] }}\n"
    "{{ one['content'].split('</think>')[-1].lstrip('\n') }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
_LLAMA3 = (
    "<|begin_of_text|>{% for one in messages %}<|start_header_id|>{{ one['role'] }}<|end_header_id|>\n\n"
    "{{ one['content'] }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
_TEMPLATES = {
    "qwen2": (_CHATML, ("<|endoftext|>", "<|im_end|>", "<|im_start|>")),
    "qwen3": (_QWEN3, ("<|endoftext|>", "<|im_end|>", "<|im_start|>")),
    "llama": (_LLAMA3, ("<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>")),
}
"""Chat template of each model family, and its special tokens: the first one is padding, the second ends a turn."""


def shape_of(model: str) -> dict[str, Any]:
    """Architecture of a model.

    Raises:
        ValueError: If the model is neither a name in :data:`SHAPES` nor a folder with a config.
    """
    if model in SHAPES:
        return SHAPES[model]
    if (Path(model) / "config.json").exists():
        return AutoConfig.from_pretrained(model).to_dict()
    raise ValueError(f"settings.model={model}: use a folder with a model, or {', '.join(SHAPES)}")


def parameters_of(model: str) -> int:
    """Number of parameters of a model, from its architecture alone."""
    if model not in SHAPES and Path(model).is_dir():
        return Sizes.of(ModelConfig(path=model)).parameters
    shape = shape_of(model)
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(AutoConfig.for_model(**shape))
    return sum(one.numel() for one in empty.parameters())


def write_dry_model(model: str, folder: Path, seed: int = 0) -> Path:
    """Writes a checkpoint of a model's architecture with two layers of width 32 and random weights, unless it exists.

    Raises:
        ValueError: If there is no chat template for the model's family, or no such model.
    """
    if (folder / "config.json").exists():
        return folder
    shape = shape_of(model)
    if shape["model_type"] not in _TEMPLATES:
        kinds = f"a dry run can imitate {', '.join(_TEMPLATES)}, not {shape['model_type']}"
        raise ValueError(f"settings.model={model}: {kinds}; dry_run=false runs the model itself")
    template, special = _TEMPLATES[shape["model_type"]]
    tokenizer = character_tokenizer(template, special)
    ratio = max(1, shape["num_attention_heads"] // (shape.get("num_key_value_heads") or shape["num_attention_heads"]))
    small = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": max(1, 4 // ratio),
        "head_dim": 8,
        "vocab_size": len(tokenizer),
        "tie_word_embeddings": shape.get("tie_word_embeddings", True),
        "max_position_embeddings": 8192,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
    }
    torch.manual_seed(seed)
    AutoModelForCausalLM.from_config(AutoConfig.for_model(shape["model_type"], **small)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def character_tokenizer(template: str, special: tuple[str, ...]) -> PreTrainedTokenizerFast:
    """A tokenizer with one token per printable ASCII character, so that random text can contain digits and words."""
    characters = [*special, "\n", *map(chr, range(32, 127))]
    vocabulary = {one: i for i, one in enumerate(characters)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="?"))
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=special[0],
        eos_token=special[1],
        additional_special_tokens=list(special[2:]),
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = template
    return fast
