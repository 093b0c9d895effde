"""The trainable policy, its value function and its references, as transformers models that score sampled tokens."""

import json
from collections.abc import Sequence
from copy import deepcopy
from datetime import date
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils import cached_file
from transformers.utils import logging as transformers_logging

from rl.backends import hub
from rl.backends.distributed import Distributed
from rl.backends.lora import add_lora, bare_model, has_lora
from rl.backends.products import use_onednn
from rl.backends.trunk import Head, Trunk, trunk_of
from rl.backends.weights import decoder_layers, trained_tensors
from rl.config import ModelConfig
from rl.rendering import Renderer, load_template
from rl.types import RolloutBatch, SampledStats

transformers_logging.disable_progress_bar()  # a bar for every loaded or saved model would clutter the run's own output

BLOCK_ENTRIES = {"cpu": 2**22, "cuda": 2**26}
"""Number of logits that are processed in one block, by kind of device. On a CPU, a block of 16 MiB of float32 stays in
the cache. On a GPU, blocks have 256 MiB, so that there are few of them: each costs a dozen kernel launches."""


class ModelNotFoundError(FileNotFoundError):
    """There is no readable model at the path in the config."""


def load_policy(config: ModelConfig) -> tuple[Any, Any]:
    """Loads a model and its tokenizer; the model is in evaluation mode, without dropout, with adapters if configured.

    Raises:
        FileNotFoundError: If the path is neither a folder with a model nor available from the hub.
        ValueError: If the tokenizer or the attention implementation needs something that is not installed.
    """
    config.refuse_missing()
    unreachable = "" if Path(config.path).is_dir() else hub.no_answer()
    try:
        tokenizer = load_tokenizer(config)
    except ImportError as error:
        raise ValueError(f"model.path={config.path}: {str(error).strip().splitlines()[0]}") from error
    except OSError as error:
        raise _unreadable(config, unreachable, error) from None
    try:
        model = AutoModelForCausalLM.from_pretrained(
            config.path,
            revision=config.revision,
            dtype=getattr(torch, config.dtype),
            attn_implementation=config.attention,
            generation_config=usable_generation_config(config.path, config.revision),
        )
    except (OSError, SafetensorError) as error:
        raise _unreadable(config, unreachable, error) from None
    except (ImportError, ValueError) as error:  # an attention kernel that is not installed, or an unknown name
        if config.attention is None:
            raise
        raise ValueError(
            f"model.attention={config.attention}: {str(error).splitlines()[0]} Remove it for transformers' default"
        ) from error
    switch_noise_off(model)
    use_onednn(model)
    if config.lora.rank:
        model = add_lora(model, config.lora)
    return model, tokenizer


def _unreadable(config: ModelConfig, unreachable: str, error: Exception) -> ModelNotFoundError:
    """The error for a model whose files cannot be read, with advice what to give instead."""
    said = f"it is not in the local cache, and {unreachable}" if unreachable else str(error).splitlines()[0]
    if Path(config.path).is_dir():
        return ModelNotFoundError(
            f"model.path={config.path}: the model in this folder cannot be read: {said}; copy it again, or give another"
        )
    return ModelNotFoundError(
        f"model.path={config.path}: no model folder, and not available from the hub: {said}; give the folder of a "
        "model, or its id on the hub where there is a network"
    )


def load_tokenizer(config: ModelConfig) -> Any:
    """Loads a model's tokenizer, with the chat template that the config chooses."""
    template = load_template(config.chat_template) if config.chat_template is not None else None
    try:
        tokenizer = AutoTokenizer.from_pretrained(config.path, revision=config.revision)
    except ValueError as error:  # transformers' message is long and does not name the model
        raise ModelNotFoundError(
            f"{config.path} has no tokenizer that can be read, such as tokenizer.json beside tokenizer_config.json "
            f"({str(error).splitlines()[0].rstrip(': ')})"
        ) from error
    if template is not None:
        tokenizer.chat_template = template
    return tokenizer


def usable_generation_config(path: str, revision: str | None = None) -> GenerationConfig | None:
    """A model's generation config, repaired where needed so that transformers agrees to save it.

    Transformers refuses to save some published configs. Sampling parameters together with greedy decoding are fixed by
    turning sampling on; of a config with other errors only the special tokens are kept. This changes no run, since only
    the special tokens of a generation config are used.

    Args:
        path: A folder or hub id.
        revision: Revision of a hub id.

    Returns:
        The config; ``None`` if there is no such file, so that transformers uses its default.
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

    The update runs in train mode and compares its log-probs with those of the engine, which samples in evaluation mode.
    With any noise, the two would differ before the first update. Dropout is not always a module: most attention layers
    read a rate of their own or of their config in the forward pass.
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
    """Ids of the model's end tokens: those of its generation config and the tokenizer's own."""
    listed = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ids = listed if isinstance(listed, list) else [listed]
    return tuple(sorted({token_id for token_id in (*ids, tokenizer.eos_token_id) if token_id is not None}))


def make_renderer(config: ModelConfig, model: Any, tokenizer: Any, stop_strings: Sequence[str] = ()) -> Renderer:
    """Builds the renderer of a policy, with the template settings of its config."""
    return Renderer(
        tokenizer,
        end_tokens(model, tokenizer),
        stop_strings,
        config.chat_template_kwargs,
        config.thoughts,
        date.fromisoformat(config.template_date),
    )


def context_length(model: Any, config: ModelConfig) -> int:
    """Length in tokens of the longest sequence that the model can process, limited by the config."""
    text = model.config.get_text_config()
    names = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
    limit = next((value for name in names if (value := getattr(text, name, None))), None)
    if limit is None and not config.context_length:
        raise ValueError(f"model.context_length=0: {type(model).__name__} declares no limit; set one")
    if limit is None:
        return config.context_length
    return min(config.context_length, limit) if config.context_length else limit


class Actor(nn.Module):
    """A causal language model that scores response tokens, optionally with a value head.

    Args:
        model: A transformers causal language model, with or without adapters.
        value_head: Whether to add a linear value head on the last hidden state, initialised to zero.
        detach_values: Whether the value head's gradient stops at the hidden state.
        fused_temperature: Temperature of TRL's fused language-model head; ``None`` uses the plain head.
        share_prompts: Whether to compute a prompt that several rows share only once. Must be false with sharded
            weights, because all processes must gather weights equally often.
        merge_rows: Whether to compute identical rows only once.
    """

    def __init__(
        self,
        model: Any,
        value_head: bool = False,
        detach_values: bool = False,
        fused_temperature: float | None = None,
        share_prompts: bool = True,
        merge_rows: bool = False,
    ) -> None:
        super().__init__()
        self.model, self._detach_values, self._fused_temperature = model, detach_values, fused_temperature
        self.merge_rows = merge_rows
        causal = bare_model(model)  # adapters live inside its layers and stay active
        self._trunk, self._head = Trunk(trunk_of(causal), share_prompts, merge_rows), Head(causal)
        self.value_head = _value_head(model) if value_head else None
        if fused_temperature is not None:
            from trl.trainer.utils import add_fused_lm_head

            add_fused_lm_head(causal, temperature=fused_temperature, outputs=("log_probs", "entropy"))

    def forward(
        self, batch: RolloutBatch, temperature: float, whole_distribution: bool = False, entropy_gradient: bool = False
    ) -> SampledStats:
        """Log-probs, entropy and values of the response tokens; entry t is about token t, given the tokens before it.

        Args:
            batch: Rows ``[B, T]`` on the model's device.
            temperature: Sampling temperature, by which logits are divided.
            whole_distribution: Whether to return the log-probs of the whole vocabulary too.
            entropy_gradient: Whether the entropy has a gradient.
        """
        zeros = torch.zeros(batch.input_ids.shape, dtype=torch.float32, device=batch.input_ids.device)
        distribution, mask = zeros.new_zeros(0), batch.response_mask
        # The N response tokens of all rows are scored as one list, and the results are scattered back at the end.
        if self._fused_temperature is not None:
            hidden_ND, logprobs_N, entropy_N = self._fused(batch, temperature)
        else:
            hidden_ND, targets_N = self._trunk.hidden(batch)
            logits_NV = self._head.logits(hidden_ND)
            logits_NV = logits_NV if temperature == 1.0 else logits_NV / temperature
            if whole_distribution or entropy_gradient:
                # Both options need ``[N, V]`` log-probs in the graph; SampledLogprobs below keeps only the logits.
                whole_NV = torch.log_softmax(logits_NV.float(), dim=-1)
                logprobs_N = whole_NV.gather(1, targets_N[:, None]).squeeze(1)
                with torch.set_grad_enabled(entropy_gradient and torch.is_grad_enabled()):
                    entropy_N = -(whole_NV.exp() * whole_NV).sum(-1)
                distribution = whole_NV if whole_distribution else distribution
            else:
                logprobs_N, entropy_N = SampledLogprobs.apply(logits_NV, targets_N)
        values = zeros
        if self.value_head is not None:
            # In float32, like the head: rounding to bfloat16 would be too coarse for a regression onto returns.
            read = hidden_ND.detach() if self._detach_values else hidden_ND
            values = zeros.masked_scatter(mask, self.value_head(read.float()).squeeze(-1).float())
        return SampledStats(
            logprobs=zeros.masked_scatter(mask, logprobs_N.float()),
            entropy=zeros.masked_scatter(mask, entropy_N.float()),
            values=values,
            distribution=distribution,
        )

    def _fused(self, batch: RolloutBatch, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
        """Hidden states ``[N, D]``, log-probs and entropy ``[N]`` from TRL's fused head, which never builds the logits.

        The fused head divides by a temperature that is fixed when it is built, reads whole rows without sharing
        prompts, and returns ``[B, T - 1]``, where entry t - 1 is about token t. A hook catches the hidden states that
        precede the same tokens.
        """
        if temperature != self._fused_temperature:
            raise ValueError(f"the fused head was built for temperature {self._fused_temperature}, not {temperature}")
        caught: list[Tensor] = []
        hook = self._trunk.module.register_forward_hook(lambda *args: caught.append(args[-1].last_hidden_state))
        try:
            output = bare_model(self.model)(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask.long(),
                labels=batch.input_ids.masked_fill(~batch.response_mask, -100),
                fused_lm_head=True,
            )
        finally:
            hook.remove()
        is_target = batch.response_mask[:, 1:]
        return caught[0][batch.response_mask.roll(-1, 1)], output.log_probs[is_target], output.entropy[is_target]


class Critic(nn.Module):
    """A separate value network: a copy of the base model's trunk, and a linear head that is initialised to zero.

    Args:
        model: The causal language model whose trunk is copied.
        share_prompts: As for :class:`Actor`.
        merge_rows: As for :class:`Actor`.
    """

    def __init__(self, model: Any, share_prompts: bool = True, merge_rows: bool = False) -> None:
        super().__init__()
        self.trunk = deepcopy(trunk_of(bare_model(model))).requires_grad_(True)
        self._reads = Trunk(self.trunk, share_prompts, merge_rows)
        self.value_head = _value_head(model)

    def forward(self, batch: RolloutBatch) -> Tensor:
        """Value of the state before each response token, ``[B, T]``; 0 outside the response."""
        hidden_ND, _ = self._reads.hidden(batch)
        zeros = torch.zeros(batch.input_ids.shape, dtype=torch.float32, device=batch.input_ids.device)
        return zeros.masked_scatter(batch.response_mask, self.value_head(hidden_ND.float()).squeeze(-1).float())


def _value_head(model: Any) -> nn.Linear:
    parameter = next(model.parameters())
    head = nn.Linear(model.config.get_text_config().hidden_size, 1, device=parameter.device, dtype=torch.float32)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


class SampledLogprobs(torch.autograd.Function):
    """``log softmax(logits)[target]`` and, without gradient, the entropy of every row; both ``[N]`` float32.

    With ``n = logsumexp(z)`` the log-prob is ``z[target] - n`` and the entropy ``n - sum(p * z)``, so that one number
    per row beside its logits is enough for the backward pass. ``log_softmax`` followed by ``gather`` would keep an
    ``[N, V]`` result and build two more. Here only the logits are kept, and rows are processed in blocks that stay in a
    CPU's cache.
    """

    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
        """Takes logits ``[N, V]`` of any precision and targets ``[N]``; sums over the vocabulary are in float32."""
        norms, entropies = [], []
        entries = BLOCK_ENTRIES.get(logits_NV.device.type, BLOCK_ENTRIES["cuda"])
        ctx.block = max(1, entries // max(1, logits_NV.shape[1]))
        for rows in logits_NV.split(ctx.block):
            block = rows.float()
            norm = block.logsumexp(-1)
            probabilities = (block - norm[:, None]).exp_()
            norms.append(norm)
            entropies.append(norm - probabilities.mul_(block).sum(-1))
        # An empty batch has no blocks, and torch.cat wants at least one tensor.
        empty = logits_NV.new_zeros(0, dtype=torch.float32)
        norm_N = torch.cat([empty, *norms])
        ctx.save_for_backward(logits_NV, targets_N, norm_N)
        entropy_N = torch.cat([empty, *entropies])
        ctx.mark_non_differentiable(entropy_N)
        return logits_NV.gather(1, targets_N[:, None]).squeeze(1).float() - norm_N, entropy_N

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """``d logprob / d logits = onehot(target) - softmax``."""
        logits_NV, targets_N, norm_N = ctx.saved_tensors
        gradient_N = gradients[0]
        out = torch.empty_like(logits_NV)
        # Computed block by block, so that only one block is in float32 at a time.
        parts = zip(*(x.split(ctx.block) for x in (out, logits_NV, norm_N, gradient_N)), strict=True)
        for into, block, norm, gradient in parts:
            into.copy_((block.float() - norm[:, None]).exp_().mul_(-gradient[:, None]))
        out.scatter_add_(1, targets_N[:, None], gradient_N[:, None].to(out.dtype))
        return out, None


class References:
    """The reference policies of the KL penalty: the base model, and the policy at the end of the previous stage.

    With adapters, the base needs no copy: it is the policy with its adapters switched off. Otherwise each needed
    reference is a frozen copy of the policy, made here and sharded like the policy.

    Args:
        actor: The trained policy, not yet wrapped for several processes; its current weights are the base.
        needed: References that the stages use: ``base``, ``previous`` or both.
        distributed: Processes and precision.

    Raises:
        ValueError: If adapters are used with the reference ``previous``, which would need a copy of the whole model.
    """

    def __init__(self, actor: Actor, needed: set[str], distributed: Distributed) -> None:
        self._model, self._lora = actor.model, has_lora(actor.model)
        # Switching the adapters off gives the base, but an earlier stage's adapters are not kept.
        if self._lora and "previous" in needed:
            raise ValueError("algorithm.stages: reference=previous needs full tuning; set model.lora.rank=0")
        self._frozen = {}
        for kind in sorted(needed) if not self._lora else ():
            frozen = Actor(deepcopy(actor.model), share_prompts=not distributed.shards, merge_rows=actor.merge_rows)
            frozen.eval().requires_grad_(False)
            self._frozen[kind] = distributed.prepare_model(frozen, decoder_layers(frozen))

    def enter_stage(self, actor: Any) -> None:
        """Copies the current policy's weights to the ``previous`` reference."""
        if frozen := self._frozen.get("previous"):
            own = dict(actor.named_parameters())
            with torch.no_grad():
                for name, parameter in frozen.named_parameters():
                    parameter.copy_(own[name])

    @torch.no_grad()
    def stats(self, kind: str, actor: Any, batch: RolloutBatch, temperature: float, **wanted: bool) -> SampledStats:
        """Log-probs and other statistics of sampled tokens under a reference.

        Args:
            kind: Name of the reference.
            actor: The wrapped policy, which with adapters is run with them switched off.
            batch: Rows on the device.
            temperature: Sampling temperature.
            **wanted: Options of :meth:`Actor.forward`.
        """
        if self._lora:
            with self._model.disable_adapter():
                return actor(batch, temperature, **wanted)
        return self._frozen[kind](batch, temperature, **wanted)

    def tensors(self) -> dict[str, Tensor]:
        """Tensors that a checkpoint must hold: the ``previous`` reference; the base is read from its folder again."""
        frozen = self._frozen.get("previous")
        return {} if frozen is None else trained_tensors("previous", frozen, frozen=True)
