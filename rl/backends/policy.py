"""The trainable policy and its value function: transformers models, and what they think of what was sampled."""

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

transformers_logging.disable_progress_bar()  # a bar per loaded or saved model would drown ours

BLOCK_ENTRIES = {"cpu": 2**22, "cuda": 2**26}
"""Logits worked on at once, by kind of device: 16 MiB of float32 stay in a CPU's cache; 256 MiB are few blocks, each of
which a host starts on a GPU with a dozen small calls."""


class ModelNotFoundError(FileNotFoundError):
    """No model where the config says."""


def load_policy(config: ModelConfig) -> tuple[Any, Any]:
    """A model in evaluation mode, without dropout and with adapters if asked for, and its tokenizer.

    Raises:
        FileNotFoundError: If the path is neither a folder with a model nor to be had from the hub.
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
    except (ImportError, ValueError) as error:  # a kernel that is not here, a name that transformers does not know
        if config.attention is None:
            raise
        raise ValueError(
            f"model.attention={config.attention}: {str(error).splitlines()[0]} Leave it away for transformers' choice"
        ) from error
    switch_noise_off(model)
    use_onednn(model)
    if config.lora.rank:
        model = add_lora(model, config.lora)
    return model, tokenizer


def _unreadable(config: ModelConfig, unreachable: str, error: Exception) -> ModelNotFoundError:
    """What is wrong with a model's files, and what to give instead."""
    said = f"it is not in the local cache, and {unreachable}" if unreachable else str(error).splitlines()[0]
    if Path(config.path).is_dir():
        return ModelNotFoundError(
            f"model.path={config.path}: the model in this folder cannot be read: {said}; copy it anew, or give another"
        )
    return ModelNotFoundError(
        f"model.path={config.path}: no model folder, and not to be had from the hub: {said}; give the folder of a "
        "model, or its id on the hub where there is a network"
    )


def load_tokenizer(config: ModelConfig) -> Any:
    """A model's tokenizer, with the chat template that the config chooses."""
    template = load_template(config.chat_template) if config.chat_template is not None else None
    try:
        tokenizer = AutoTokenizer.from_pretrained(config.path, revision=config.revision)
    except ValueError as error:  # many lines, without the model's name, on which libraries may be missing
        raise ModelNotFoundError(
            f"{config.path} has no tokenizer that can be read, such as tokenizer.json beside tokenizer_config.json "
            f"({str(error).splitlines()[0].rstrip(': ')})"
        ) from error
    if template is not None:
        tokenizer.chat_template = template
    return tokenizer


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
        merge_rows: Read rows that are the same once.
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
        """Log-probs, entropy and values of the response tokens; entry t is about token t, predicted from those before.

        Args:
            batch: Rows ``[B, T]`` on the model's device.
            temperature: Logits are divided by it, as when sampling.
            whole_distribution: Also return the log-probs of the whole vocabulary.
            entropy_gradient: Let the entropy have a gradient.
        """
        zeros = torch.zeros(batch.input_ids.shape, dtype=torch.float32, device=batch.input_ids.device)
        distribution, mask = zeros.new_zeros(0), batch.response_mask
        # All N response tokens of the rows are scored as one list; at the end they are put back to their places.
        if self._fused_temperature is not None:
            hidden_ND, logprobs_N, entropy_N = self._fused(batch, temperature)
        else:
            hidden_ND, targets_N = self._trunk.hidden(batch)
            logits_NV = self._head.logits(hidden_ND)
            logits_NV = logits_NV if temperature == 1.0 else logits_NV / temperature
            if whole_distribution or entropy_gradient:
                # These need the whole ``[N, V]`` in the graph; otherwise only the logits are kept, see SampledLogprobs.
                whole_NV = torch.log_softmax(logits_NV.float(), dim=-1)
                logprobs_N = whole_NV.gather(1, targets_N[:, None]).squeeze(1)
                with torch.set_grad_enabled(entropy_gradient and torch.is_grad_enabled()):
                    entropy_N = -(whole_NV.exp() * whole_NV).sum(-1)
                distribution = whole_NV if whole_distribution else distribution
            else:
                logprobs_N, entropy_N = SampledLogprobs.apply(logits_NV, targets_N)
        values = zeros
        if self.value_head is not None:
            # In float32, as the head is: a regression onto returns is not to be rounded to bfloat16.
            read = hidden_ND.detach() if self._detach_values else hidden_ND
            values = zeros.masked_scatter(mask, self.value_head(read.float()).squeeze(-1).float())
        return SampledStats(
            logprobs=zeros.masked_scatter(mask, logprobs_N.float()),
            entropy=zeros.masked_scatter(mask, entropy_N.float()),
            values=values,
            distribution=distribution,
        )

    def _fused(self, batch: RolloutBatch, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
        """Hidden states ``[N, D]``, log-probs and entropy ``[N]`` of TRL's head, which never makes the logits.

        It divides by a temperature that is fixed when it is built, reads whole rows (no shared prompts), and returns
        ``[B, T - 1]``: entry t - 1 is about token t. The hidden states before the same tokens are caught on their way.
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
    """A value network of its own: the base's trunk, copied, and a linear head that is zero at first.

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
        """``[B, T]`` value of the state before each response token, 0 off the response."""
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

    With ``n = logsumexp(z)`` the log-prob is ``z[target] - n`` and the entropy ``n - sum(p * z)``: both need one number
    of a row beside its logits. ``log_softmax`` followed by ``gather`` keeps an ``[N, V]`` result for the backward pass
    and makes two more on the way there. Here the logits themselves are all that is kept, and rows are worked on in
    blocks that stay in a CPU's cache.
    """

    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``[N, V]`` of any precision and targets ``[N]``; the sums over the vocabulary are in float32."""
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
        # Written block by block into the result, so that float32 is needed of a block only.
        parts = zip(*(x.split(ctx.block) for x in (out, logits_NV, norm_N, gradient_N)), strict=True)
        for into, block, norm, gradient in parts:
            into.copy_((block.float() - norm[:, None]).exp_().mul_(-gradient[:, None]))
        out.scatter_add_(1, targets_N[:, None], gradient_N[:, None].to(out.dtype))
        return out, None


class References:
    """What the KL penalty holds the policy to: the base, and the policy as a stage before left it; both frozen.

    With adapters the base costs nothing: it is the policy with its adapters off. Otherwise each reference is a frozen
    copy, made when a stage first needs it and sharded as the policy is.

    Args:
        actor: The trained policy, not yet wrapped for several processes; its weights at this moment are the base.
        needed: Which references the stages use.
        distributed: Processes and precision.

    Raises:
        ValueError: If adapters are to be held to an earlier stage, which needs a copy of the whole model.
    """

    def __init__(self, actor: Actor, needed: set[str], distributed: Distributed) -> None:
        self._model, self._lora = actor.model, has_lora(actor.model)
        # Adapters can be switched off, which is the base, but there is only one set of them.
        if self._lora and "previous" in needed:
            raise ValueError("algorithm.stages: reference=previous needs full tuning; set model.lora.rank=0")
        self._frozen = {}
        for kind in sorted(needed) if not self._lora else ():
            frozen = Actor(deepcopy(actor.model), share_prompts=not distributed.shards, merge_rows=actor.merge_rows)
            frozen.eval().requires_grad_(False)
            self._frozen[kind] = distributed.prepare_model(frozen, decoder_layers(frozen))

    def enter_stage(self, actor: Any) -> None:
        """Makes the policy as it is now the ``previous`` reference."""
        if frozen := self._frozen.get("previous"):
            own = dict(actor.named_parameters())
            with torch.no_grad():
                for name, parameter in frozen.named_parameters():
                    parameter.copy_(own[name])

    @torch.no_grad()
    def stats(self, kind: str, actor: Any, batch: RolloutBatch, temperature: float, **wanted: bool) -> SampledStats:
        """What the reference thinks of sampled tokens.

        Args:
            kind: Which reference.
            actor: The wrapped policy, for the case that its adapters are switched off.
            batch: Rows on the device.
            temperature: As when sampling.
            **wanted: See :meth:`Actor.forward`.
        """
        if self._lora:
            with self._model.disable_adapter():
                return actor(batch, temperature, **wanted)
        return self._frozen[kind](batch, temperature, **wanted)

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint must hold: the base is read from the model's folder again."""
        frozen = self._frozen.get("previous")
        return {} if frozen is None else trained_tensors("previous", frozen, frozen=True)
