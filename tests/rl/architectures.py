"""Tiny models of current architectures, with random weights large enough that every mistake shows in the log-probs."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from rl.backends.policy import load_policy
from rl.config import ModelConfig
from tests.conftest import ROOT

_BASE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": None,
}
_HEAD = {"head_dim": 8}
_MOE = {
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
_DELTA = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
}
_WINDOW = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
_MAMBA2 = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1}


@dataclass(frozen=True)
class Row:
    """An architecture of transformers, the settings of a tiny model, and what is expected of it.

    ``lends`` says whether a prompt that episodes share and an episode's earlier turns are read only once; ``error`` is
    the message with which the architecture is refused, empty if it works.
    """

    kind: str
    like: str
    settings: dict[str, Any]
    lends: bool = True
    error: str = ""


ROWS = (
    Row("llama", "Llama 2 and 3, SmolLM2", {"attention_dropout": 0.1}),
    Row("mistral", "Mistral, sliding window", {"sliding_window": 8}, lends=False),
    Row("qwen2", "Qwen2.5", {"attention_dropout": 0.1}),
    Row("qwen3", "Qwen3", _HEAD),
    Row("qwen3_moe", "Qwen3 MoE", {**_HEAD, **_MOE}),
    Row("qwen3_next", "Qwen3-Next", {**_HEAD, **_MOE, **_DELTA, "shared_expert_intermediate_size": 32}, lends=False),
    Row("qwen3_5_text", "Qwen3.5", {**_HEAD, **_DELTA}, lends=False),
    Row("gemma2", "Gemma 2, soft-capped head", {**_HEAD, "sliding_window": 8, "query_pre_attn_scalar": 8}, lends=False),
    Row("gemma3_text", "Gemma 3 1B", {**_HEAD, **_WINDOW, "query_pre_attn_scalar": 8}, lends=False),
    Row("gemma3", "Gemma 3 4B and up: text and images", {}, lends=False),
    Row("phi3", "Phi-3 and 4", {"pad_token_id": 0, "resid_pdrop": 0.1}),
    Row("gpt2", "GPT-2", {"attn_pdrop": 0.1}),
    Row("gpt_neo", "GPT-Neo, local attention", {"attention_types": [[["global", "local"], 1]], "num_layers": 2,
        "num_heads": 4, "window_size": 8}, lends=False),
    Row("gpt_neox", "Pythia", {"hidden_dropout": 0.1}),
    Row("opt", "OPT, head behind a decoder inside", {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    Row("falcon", "Falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    Row("mpt", "MPT, ALiBi", {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 64}, lends=False),
    Row("olmo2", "OLMo 2", {}),
    Row("granite", "Granite 3, scaled head", {"logits_scaling": 8.0, "attention_multiplier": 0.3}),
    Row("granitemoehybrid", "Granite 4", {**_MOE, **_MAMBA2, "mamba_expand": 2, "shared_intermediate_size": 32,
        "layer_types": ["mamba", "attention"], "logits_scaling": 4.0}, lends=False),
    Row("cohere2", "Command R7B and A", {**_HEAD, **_WINDOW}, lends=False),
    Row("smollm3", "SmolLM3", {"pad_token_id": 0}),
    Row("glm4", "GLM-4", {**_HEAD, "pad_token_id": 0}),
    Row("deepseek_v3", "DeepSeek-V3, Kimi K2", {**_MOE, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8, "v_head_dim": 8, "num_key_value_heads": 4}),
    Row("gpt_oss", "gpt-oss", {**_HEAD, **_MOE, **_WINDOW}, lends=False),
    Row("llama4_text", "Llama 4", {**_HEAD, **_MOE, "intermediate_size_mlp": 48, "attention_chunk_size": 8,
        "layer_types": ["chunked_attention", "full_attention"], "no_rope_layers": [1, 0]}, lends=False),
    Row("lfm2", "LFM2", {"layer_types": ["conv", "full_attention"]}, lends=False),
    Row("jamba", "Jamba", {**_MOE, "attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 8,
        "mamba_dt_rank": 4, "use_mamba_kernels": False, "router_jitter_noise": 0.1}, lends=False),
    Row("mamba", "Mamba", {"state_size": 8, "time_step_rank": 4}, lends=False),
    Row("falcon_h1", "Falcon-H1", {**_MAMBA2, "mamba_d_ssm": 64, "head_dim": 8}, lends=False),
    Row("minimax", "MiniMax", {**_HEAD, **_MOE, "layer_types": ["linear_attention", "full_attention"], "block_size": 8},
        error="cannot be sampled from by engine=hf: ValueError: MiniMax uses cache of its own"),
    Row("rwkv", "RWKV-4", {"attention_hidden_size": 32, "context_length": 64},
        error="cannot be sampled from by engine=hf: log-probs differ"),
)  # fmt: skip


def save_tiny(row: Row, folder: Any) -> None:
    """Writes a model of the architecture with the tokenizer of ``models/modchain``."""
    _, tokenizer = load_policy(ModelConfig(path=str(ROOT / "models" / "modchain")))
    common = {**_BASE, "vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    if row.kind == "gemma3":
        text = {**common, **_HEAD, **_WINDOW, "query_pre_attn_scalar": 8}
        vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                  "image_size": 28, "patch_size": 14}  # fmt: skip
        config = AutoConfig.for_model("gemma3", text_config=text, vision_config=vision, image_token_index=19)
    else:
        config = AutoConfig.for_model(row.kind, **{**common, **row.settings})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.25)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
