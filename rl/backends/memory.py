"""What a run holds in memory, part by part, from its config and the sizes of its model: nothing is loaded.

The parts that stay (weights, moments, references) are exact. What a pass holds is counted for a decoder of the Llama
kind: what autograd keeps of a layer, logits at the positions that are read, keys and values of the rows that are
decoded together. ``python -m experiments.plan`` sets the sum beside what a few real steps held.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from rl.backends.engine_hf import BATCH_BYTES, MAX_BYTES
from rl.backends.policy import BLOCK_ENTRIES
from rl.backends.products import MIN_STEPS, MIN_WEIGHTS, prefers_onednn
from rl.backends.sft import LARGE_HEAD
from rl.backends.trunk import key_width
from rl.config import ModelConfig, OptimConfig, SFTConfig, TrainConfig
from rl.offline import KEEP_RULES

BLOCK = 128 * 2**20
"""Scratch of matrix products and of logits that are worked on in blocks; measured on a CPU."""


@dataclass(frozen=True)
class Sizes:
    """Of a model.

    Args:
        parameters: All of them, tied ones once.
        adapters: Of low-rank adapters; 0 for full tuning.
        hidden: Width.
        feed_forward: Width of the feed-forward layers, of all experts that a token goes through.
        layers: Depth.
        keys: Width of the keys of a layer, all heads together; values are as wide.
        vocabulary: Tokens.
        bytes: Of a weight.
        packed: Parameters of the layers that are laid out anew while a CPU decodes.
    """

    parameters: int
    adapters: int
    hidden: int
    feed_forward: int
    layers: int
    keys: int
    vocabulary: int
    bytes: int
    packed: int = 0

    @classmethod
    def of(cls, model: ModelConfig) -> "Sizes":
        """Of the model that a config names; its weights are not read.

        Raises:
            FileNotFoundError: If there is none.
        """
        model.refuse_missing()
        try:
            config = AutoConfig.from_pretrained(model.path, revision=model.revision)
        except OSError as error:
            raise FileNotFoundError(f"model.path={model.path}: {str(error).splitlines()[0]}") from None
        with torch.device("meta"):
            empty = AutoModelForCausalLM.from_config(config)
        text: Any = config.get_text_config()
        experts = getattr(text, "num_experts_per_tok", None) or 1
        wanted, rank, adapters, packed = model.lora.targets, model.lora.rank, 0, 0
        for name, module in empty.named_modules():
            last = name.rpartition(".")[2]
            if not isinstance(module, torch.nn.Linear):
                continue
            if rank and (last in wanted if wanted else last != "lm_head"):
                adapters += rank * (module.in_features + module.out_features)
            if type(module) is torch.nn.Linear and module.weight.numel() >= MIN_WEIGHTS:
                packed += module.weight.numel()
        return cls(
            parameters=sum(parameter.numel() for parameter in empty.parameters()),
            adapters=adapters,
            hidden=text.hidden_size,
            feed_forward=(getattr(text, "intermediate_size", None) or 4 * text.hidden_size) * experts,
            layers=text.num_hidden_layers,
            keys=key_width(text),
            vocabulary=text.vocab_size,
            bytes=torch.empty(0, dtype=getattr(torch, model.dtype)).element_size(),
            packed=packed if model.dtype == "float32" and prefers_onednn() else 0,
        )


@dataclass(frozen=True)
class Load:
    """What passes through a model at once, in tokens and rows.

    Args:
        prompt: Tokens before the first answer.
        answers: Tokens of each attempt.
        between: Tokens that are said between two attempts.
        rows: Episodes that are decoded together.
        update_rows: Rows of an optimiser step.
        group: Rows that share a prompt, which is then read once.
    """

    prompt: float
    answers: Sequence[float]
    between: float
    rows: int
    update_rows: int
    group: int = 1

    @property
    def length(self) -> float:
        """Tokens of a whole episode."""
        return self.prompt + sum(self.answers) + self.between * (len(self.answers) - 1)


@dataclass(frozen=True)
class Memory:
    """Bytes by part, in the two phases of a run.

    Args:
        sampling: While episodes are decoded.
        update: In an optimiser step.
    """

    sampling: dict[str, float]
    update: dict[str, float]

    @property
    def peak(self) -> float:
        """Bytes of the larger phase."""
        return max(sum(self.sampling.values()), sum(self.update.values()))


def memory(
    config: Any, sizes: Sizes, load: Load, processes: int = 1, sharded: bool = False, on_cpu: bool = True
) -> Memory:
    """What one device holds.

    Args:
        config: A run's; one that is neither :class:`rl.config.TrainConfig` nor :class:`rl.config.SFTConfig` only
            samples.
        sizes: Of its model.
        load: What passes through it.
        processes: Devices that share an optimiser step.
        sharded: Whether each holds a part of weights, gradients and moments (FSDP2) instead of all.
        on_cpu: Whether the engine keeps the rows of a batch to what a host can spare, and logits are worked on in
            blocks that stay in its cache.
    """
    part = 1 / processes if sharded else 1.0
    stays: dict[str, float] = {"weights": (sizes.parameters * sizes.bytes + 4 * sizes.adapters) * part}
    update: dict[str, float] = {}
    if isinstance(config, TrainConfig | SFTConfig):
        trained = 4 * sizes.adapters if sizes.adapters else sizes.parameters * sizes.bytes
        update["gradients"] = trained * part
        # An offline method makes a new optimiser every round, and lets it go.
        moments = {"optimiser": 2 * trained * part}
        if isinstance(config, TrainConfig):
            stays |= moments | _others(config, sizes, part)
            optim, passes = config.algorithm.optim, _update_online(config, sizes, load, on_cpu)
        else:
            update |= moments
            dpo = KEEP_RULES.fact(config.offline.rule, "preferences") and not sizes.adapters
            stays["reference"] = trained  # a copy on the host or beside it: every round starts from the base
            update |= {"reference of DPO": sizes.parameters * sizes.bytes} if dpo else {}
            optim, passes = config.offline.optim, _update_offline(config, sizes, load, on_cpu)
        update |= passes | {"scratch": BLOCK if optim.mixed_precision == "no" else 2 * BLOCK}
        if optim.mixed_precision == "bf16" and sizes.bytes == 4:  # autocast keeps the weights of a pass in bfloat16
            update["weights in bfloat16"] = 2 * sizes.parameters * part
    return Memory(stays | _sampling(config, sizes, load, on_cpu), stays | update)


def _others(config: TrainConfig, sizes: Sizes, part: float) -> dict[str, float]:
    """Frozen references and a critic of its own, which is as large as the policy and has moments too."""
    stages, found = config.algorithm.resolved(config.env.attempts), {}
    whole = sizes.parameters * sizes.bytes * part
    references = {stage.reference for stage in stages if any(stage.kl_coefs)}
    if references and not sizes.adapters:  # with adapters the base is the policy without them
        found["reference"] = len(references) * whole
    if config.algorithm.critic.kind == "separate":
        found["critic"] = 4 * whole
    return found


def rows_at_once(max_batch_size: int, sizes: Sizes, length: float, on_cpu: bool) -> int:
    """Rows of that many tokens that the engine decodes together at most."""
    # As in HFEngine.step, for rows of one length.
    row = 2 * sizes.layers * sizes.keys * sizes.bytes * max(1.0, length)
    return min(max_batch_size, max(1, int(BATCH_BYTES / row))) if on_cpu else max_batch_size


def _room(sizes: Sizes, length: float) -> float:
    """Keys and values of a row, with the columns that are held behind them (see ``RoomyLayer``)."""
    return 2 * sizes.layers * sizes.keys * sizes.bytes * (1.25 * length + 16)


def kept_turns(max_batch_size: int, sizes: Sizes, load: Load, on_cpu: bool) -> float:
    """Bytes of keys and values of turns that have ended and wait in the engine's store, while a batch is decoded.

    Before a next turn those of *all* rows wait, however few are decoded together; rows of one turn wait in vain. They
    take up to twice their own room: whenever half of a batch has ended, its cache is held whole for those rows, and the
    other half goes on in a copy, so that a batch leaves one, a half, a quarter of itself and so on.
    """
    ahead = len(load.answers) > 1
    last = 0 if ahead else min(load.rows, rows_at_once(max_batch_size, sizes, load.length, on_cpu))
    rows = 2 * load.rows - last  # what the batch itself still holds is counted with it
    length = max(1.0, load.length - (load.answers[-1] if ahead else 0.0))
    # The store counts what it holds without the room behind it.
    most = MAX_BYTES / (2 * sizes.layers * sizes.keys * sizes.bytes * length)
    return max(0.0, min(rows, most)) * _room(sizes, length)


def _sampling(config: Any, sizes: Sizes, load: Load, on_cpu: bool) -> dict[str, float]:
    """Keys and values with their room to grow, and what drawing a token of every row takes."""
    engine = config.engine
    if engine.name != "hf":  # an engine of its own: what it takes is its own setting
        return {}
    rows = min(load.rows, rows_at_once(engine.max_batch_size, sizes, load.length, on_cpu))
    cache = rows * _room(sizes, load.length) + kept_turns(engine.max_batch_size, sizes, load, on_cpu)
    # A row's log-probs in float32, and twice in float64 to sum them up.
    drawing = rows * sizes.vocabulary * (2 * sizes.bytes + 4 + 16)
    # One layer's work on what is read at once: all of a first turn, of a later one only what is new.
    new = load.between + 1 if len(load.answers) > 1 else load.prompt
    reading = rows * new * 3 * (sizes.feed_forward + sizes.hidden) * sizes.bytes
    packs = on_cpu and max(config.env.max_new_tokens) >= MIN_STEPS
    parts: dict[str, float] = {
        "key-value cache": cache,
        "reading prompts": reading,
        "logits": drawing,
        "scratch": BLOCK,
    }
    if packs and sizes.packed:
        parts["weights to decode with"] = sizes.packed * sizes.bytes
    return parts


def _passes(sizes: Sizes, optim: OptimConfig, tokens: float, logits: float) -> dict[str, float]:
    """Bytes that a forward pass over so many tokens keeps for the backward pass; ``logits`` in bytes already."""
    width = 2 if optim.mixed_precision == "bf16" else sizes.bytes
    norms = 6 * sizes.hidden * max(width, 4)  # their input and two products, in float32
    layer = norms + (5 * sizes.hidden + 4 * sizes.keys + 4 * sizes.feed_forward) * width
    # With checkpointing a layer keeps its input, and one layer at a time all that its backward pass needs.
    kept = sizes.layers * sizes.hidden * width + layer if optim.gradient_checkpointing else sizes.layers * layer
    return {"activations": tokens * kept, "logits": logits}


def _update_online(config: TrainConfig, sizes: Sizes, load: Load, on_cpu: bool) -> dict[str, float]:
    """Only positions that predict a response token have logits; a prompt that rows share is read once."""
    algorithm, optim = config.algorithm, config.algorithm.optim
    size = max(1.0, load.update_rows / algorithm.minibatches)
    rows = max(1.0, min(size, optim.micro_batch_tokens // load.length))
    # Layers that are computed again cannot lend their keys and values (see rl.backends.trunk.Trunk).
    shared = 1 if optim.gradient_checkpointing else min(load.group, rows)
    tokens = rows * (load.length - load.prompt) + rows / shared * load.prompt
    answers = rows * sum(load.answers)
    width = 2 if optim.mixed_precision == "bf16" else sizes.bytes
    whole = algorithm.kl == "full" and any(any(stage.kl_coefs) for stage in algorithm.resolved())
    entropy = any(term.loss == "entropy" for stage in algorithm.resolved() for term in stage.terms.values())
    # How often a pass holds the logits: the fused head never makes them, and SampledLogprobs keeps them and returns
    # their gradient. Log-probs of the whole vocabulary, or an entropy with a gradient, put float32 copies into the
    # graph.
    copies = 0.0 if algorithm.fused_head else 7.0 if whole else 5.0 if entropy else 2.0
    entries = answers * sizes.vocabulary
    found = _passes(sizes, optim, tokens, copies * entries * max(width, 4 if copies > 2 else width))
    if copies == 2.0 and not on_cpu:  # a block in float32, its probabilities, and a copy on the way to them
        found["block of logits"] = 3 * 4 * min(entries, BLOCK_ENTRIES["cuda"])
    return found


def _update_offline(config: SFTConfig, sizes: Sizes, load: Load, on_cpu: bool) -> dict[str, float]:
    """TRL reads whole rows; logits it has where a token is learned, for pairs or a small head on a CPU everywhere."""
    offline = config.offline
    rows = max(1.0, min(offline.batch_size, load.update_rows, offline.optim.micro_batch_tokens // load.length))
    pairs = bool(KEEP_RULES.fact(offline.rule, "preferences"))
    tokens = rows * load.length * (2 if pairs else 1)
    everywhere = pairs or (on_cpu and sizes.vocabulary < LARGE_HEAD)
    scored = tokens if everywhere else rows * sum(load.answers)
    width = 2 if offline.optim.mixed_precision == "bf16" else sizes.bytes
    # The loss makes float32 of them.
    return _passes(sizes, offline.optim, tokens, scored * sizes.vocabulary * (width + 3 * 4))
