"""The trainable policy and its value function: transformers models, and what they think of what was sampled."""

import json
from collections.abc import Sequence
from copy import deepcopy
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils import cached_file
from transformers.utils import logging as transformers_logging

from rl.backends.head import sampled_logprobs
from rl.backends.lora import add_lora, bare_model
from rl.backends.trunk import Rows, head_logits, predicting_hidden, trunk_of
from rl.config import ModelConfig
from rl.rendering import Renderer, load_template
from rl.types import RolloutBatch, SampledStats

transformers_logging.disable_progress_bar()  # a bar per loaded or saved model would drown ours


class ModelNotFoundError(FileNotFoundError):
    """No model where the config says."""


def load_policy(config: ModelConfig) -> tuple[Any, Any]:
    """A model in evaluation mode, without dropout and with adapters if asked for, and its tokenizer.

    Raises:
        FileNotFoundError: If the path is neither a folder with a model nor to be had from the hub.
    """
    config.refuse_missing()
    try:
        tokenizer = AutoTokenizer.from_pretrained(config.path, revision=config.revision)
        model = AutoModelForCausalLM.from_pretrained(
            config.path,
            revision=config.revision,
            dtype=getattr(torch, config.dtype),
            attn_implementation=config.attention,
            generation_config=usable_generation_config(config.path, config.revision),
        )
    except OSError as error:
        raise ModelNotFoundError(
            f"model.path={config.path}: no model folder, and not to be had from the hub: {str(error).splitlines()[0]}"
        ) from error
    if config.chat_template is not None:
        tokenizer.chat_template = load_template(config.chat_template)
    switch_noise_off(model)
    if config.lora.rank:
        model = add_lora(model, config.lora)
    return model, tokenizer


def usable_generation_config(path: str, revision: str | None = None) -> GenerationConfig | None:
    """A model's generation config as transformers would save it again, which refuses some that were published.

    Sampling parameters beside greedy decoding are taken to mean sampling; of what is wrong otherwise only the special
    tokens are kept. Nothing else in it reaches a run, which says itself how it samples.

    Args:
        path: A folder or hub id.
        revision: Of a hub id.

    Returns:
        ``None`` if there is no such file: transformers then has its own default.
    """
    lenient = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    file = cached_file(path, "generation_config.json", revision=revision, **lenient)
    if file is None:
        return None
    try:
        stored = json.loads(Path(file).read_text(encoding="utf-8"))
    except ValueError:
        stored = {}
    special = {
        name: value for name, value in stored.items() if name in ("bos_token_id", "eos_token_id", "pad_token_id")
    }
    for values in (stored, stored | {"do_sample": True}, special):
        try:
            config = GenerationConfig(**values)
            config.validate(strict=True)
            return config
        except (ValueError, TypeError):
            continue
    return GenerationConfig()


def switch_noise_off(model: Any) -> None:
    """Sets every rate of dropout and router jitter to 0, in modules and in configs.

    The policy is trained in train mode, where importance ratios compare its log-probs with those that the engine
    sampled at in evaluation mode: with any noise left they would differ before the first update. Dropout is not always
    a module; most attention layers keep a rate and read it, or their config's, in the forward pass.
    """
    holders = [vars(module) for module in model.modules()]
    holders += [vars(config) for config in {id(c): c for c in (model.config, model.config.get_text_config())}.values()]
    for values in holders:
        for name, value in values.items():
            if isinstance(value, float) and ("drop" in name or "jitter" in name):
                values[name] = 0.0
    for module in model.modules():
        if isinstance(module, torch.nn.modules.dropout._DropoutNd):
            module.p = 0.0


def end_tokens(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """The tokens that the model's authors say it ends with: its generation config's list and the tokenizer's own."""
    listed = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ids = listed if isinstance(listed, list) else [listed]
    return tuple(sorted({token_id for token_id in (*ids, tokenizer.eos_token_id) if token_id is not None}))


def make_renderer(config: ModelConfig, model: Any, tokenizer: Any, stop_strings: Sequence[str] = ()) -> Renderer:
    """The renderer of a policy, with all that its config says about templates."""
    return Renderer(
        tokenizer,
        end_tokens(model, tokenizer),
        stop_strings,
        config.chat_template_kwargs,
        config.thoughts,
        date.fromisoformat(config.template_date),
    )


def context_length(model: Any, config: ModelConfig) -> int:
    """Longest sequence that the model can hold."""
    text = model.config.get_text_config()
    names = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
    limit = next((value for name in names if (value := getattr(text, name, None))), None)
    if limit is None and not config.context_length:
        raise ValueError(f"model.context_length=0: {type(model).__name__} has no limit of its own, so give one")
    if limit is None:
        return config.context_length
    return min(config.context_length, limit) if config.context_length else limit


class Actor(nn.Module):
    """A causal language model, read at the positions that predict response tokens, with a value head if wanted.

    Args:
        model: A transformers causal language model, with or without adapters.
        value_head: Add a linear head on the last hidden state, zero at first.
        detach_values: The value head's gradient stops at the hidden state.
        fused_temperature: Use TRL's fused language-model head, at this temperature; ``None`` for the plain one.
        share_prompts: Read a prompt that rows share once. Not with sharded weights, whose gathering all processes must
            do equally often.
    """

    def __init__(
        self,
        model: Any,
        value_head: bool = False,
        detach_values: bool = False,
        fused_temperature: float | None = None,
        share_prompts: bool = True,
    ) -> None:
        super().__init__()
        self.model, self._detach_values, self._fused_temperature = model, detach_values, fused_temperature
        self._share_prompts = share_prompts
        self.value_head = _value_head(model) if value_head else None
        if fused_temperature is not None:
            _add_fused_head(bare_model(model), fused_temperature)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        response_mask: Tensor,
        temperature: float,
        whole_distribution: bool = False,
        entropy_gradient: bool = False,
    ) -> SampledStats:
        """Log-probs, entropy and values of the response tokens.

        Args:
            input_ids: ``[B, T]``.
            attention_mask: ``[B, T]`` bool.
            response_mask: ``[B, T]`` bool; entry t of the result is about token t, predicted from the tokens before.
            temperature: Logits are divided by it, as when sampling.
            whole_distribution: Also return the log-probs of the whole vocabulary.
            entropy_gradient: Let the entropy have a gradient.
        """
        distribution, rows = torch.zeros(0, device=input_ids.device), Rows.of(input_ids, attention_mask, response_mask)
        if self._fused_temperature is not None:
            hidden_ND, logprobs_N, entropy_N = self._fused(input_ids, attention_mask, response_mask, temperature)
        else:
            causal = bare_model(self.model)
            hidden_ND = predicting_hidden(trunk_of(causal), rows, self._share_prompts)
            logits_NV = head_logits(causal, hidden_ND)
            logits_NV = logits_NV if temperature == 1.0 else logits_NV / temperature
            targets_N = input_ids.flatten()[rows.places]
            if whole_distribution or entropy_gradient:
                whole_NV = torch.log_softmax(logits_NV.float(), dim=-1)
                logprobs_N = whole_NV.gather(1, targets_N[:, None]).squeeze(1)
                with torch.set_grad_enabled(entropy_gradient and torch.is_grad_enabled()):
                    entropy_N = -(whole_NV.exp() * whole_NV).sum(-1)
                distribution = whole_NV if whole_distribution else distribution
            else:
                logprobs_N, entropy_N = sampled_logprobs(logits_NV, targets_N)
        zeros = torch.zeros(input_ids.shape, dtype=torch.float32, device=input_ids.device)
        values = zeros
        if self.value_head is not None:
            read = hidden_ND.detach() if self._detach_values else hidden_ND
            values = zeros.masked_scatter(response_mask, self.value_head(read.float()).squeeze(-1).float())
        return SampledStats(
            logprobs=zeros.masked_scatter(response_mask, logprobs_N.float()),
            entropy=zeros.masked_scatter(response_mask, entropy_N.float()),
            values=values,
            distribution=distribution,
        )

    def _fused(
        self, input_ids: Tensor, attention_mask: Tensor, response_mask: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        if temperature != self._fused_temperature:
            raise ValueError(f"the fused head was built for temperature {self._fused_temperature}, not {temperature}")
        causal = bare_model(self.model)
        caught: list[Tensor] = []
        hook = trunk_of(causal).register_forward_hook(lambda *args: caught.append(args[-1].last_hidden_state))
        try:
            output = causal(
                input_ids=input_ids,
                attention_mask=attention_mask.long(),
                labels=input_ids.masked_fill(~response_mask, -100),
                fused_lm_head=True,
            )
        finally:
            hook.remove()
        is_target = response_mask[:, 1:]
        return caught[0][response_mask.roll(-1, 1)], output.log_probs[is_target], output.entropy[is_target]


class Critic(nn.Module):
    """A value network of its own: the base's trunk, copied, and a linear head that is zero at first.

    Args:
        model: The causal language model whose trunk is copied.
        share_prompts: As for :class:`Actor`.
    """

    def __init__(self, model: Any, share_prompts: bool = True) -> None:
        super().__init__()
        self.trunk = deepcopy(trunk_of(bare_model(model))).requires_grad_(True)
        self.value_head = _value_head(model)
        self._share_prompts = share_prompts

    def forward(self, input_ids: Tensor, attention_mask: Tensor, response_mask: Tensor) -> Tensor:
        """``[B, T]`` value of the state before each response token, 0 off the response."""
        rows = Rows.of(input_ids, attention_mask, response_mask)
        hidden_ND = predicting_hidden(self.trunk, rows, self._share_prompts)
        zeros = torch.zeros(response_mask.shape, dtype=torch.float32, device=input_ids.device)
        return zeros.masked_scatter(response_mask, self.value_head(hidden_ND.float()).squeeze(-1).float())


def _value_head(model: Any) -> nn.Linear:
    parameter = next(model.parameters())
    head = nn.Linear(model.config.get_text_config().hidden_size, 1, device=parameter.device, dtype=torch.float32)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def _add_fused_head(model: Any, temperature: float) -> None:
    from trl.trainer.utils import add_fused_lm_head

    add_fused_lm_head(model, temperature=temperature, outputs=("log_probs", "entropy"))


def sampled_stats(actor: Any, batch: RolloutBatch, temperature: float, **wanted: bool) -> SampledStats:
    """:meth:`Actor.forward` on rows, whatever the actor is wrapped in."""
    return actor(batch.input_ids, batch.attention_mask, batch.response_mask, temperature, **wanted)
