"""Estimates the memory of a run, part by part, from its config and its model's sizes, without loading the model.

The permanent parts (weights, moments, references) are exact. The memory of a pass is counted for a Llama-like decoder:
activations that autograd keeps of each layer, logits at the positions that are read, and keys and values of the rows
that are decoded together. ``python -m experiments.plan`` compares the sum with the memory of a few real steps.
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
"""Temporary memory in bytes of matrix products and of logits that are processed in blocks; measured on a CPU."""


@dataclass(frozen=True)
class Sizes:
    """The sizes of a model that determine its memory.

    Args:
        parameters: Number of parameters, counting tied ones once.
        adapters: Number of parameters of low-rank adapters; 0 for full tuning.
        hidden: Width of the hidden states.
        feed_forward: Total width of the feed-forward layers of all experts that process a token.
        layers: Number of layers.
        keys: Total width of the keys of all heads in a layer; values have the same width.
        vocabulary: Number of tokens in the vocabulary.
        bytes: Bytes per weight.
        packed: Number of parameters that are copied to a packed layout while a CPU decodes.
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
        """The sizes of the model that a config names, without reading its weights.

        Raises:
            FileNotFoundError: If there is no such model.
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
    """How many tokens and rows a model processes at once.

    Args:
        prompt: Tokens before the first answer.
        answers: Tokens of each attempt.
        between: Tokens of the messages between two attempts.
        rows: Number of episodes that are decoded together.
        update_rows: Number of rows in an optimiser step.
        group: Number of rows that share a prompt, which is then computed once.
    """

    prompt: float
    answers: Sequence[float]
    between: float
    rows: int
    update_rows: int
    group: int = 1

    @property
    def length(self) -> float:
        """Number of tokens of a whole episode."""
        return self.prompt + sum(self.answers) + self.between * (len(self.answers) - 1)


@dataclass(frozen=True)
class Memory:
    """Memory in bytes by part, for the two phases of a run.

    Args:
        sampling: Memory while episodes are decoded.
        update: Memory during an optimiser step.
    """

    sampling: dict[str, float]
    update: dict[str, float]

    @property
    def peak(self) -> float:
        """Memory in bytes of the larger phase."""
        return max(sum(self.sampling.values()), sum(self.update.values()))


def memory(
    config: Any, sizes: Sizes, load: Load, processes: int = 1, sharded: bool = False, on_cpu: bool = True
) -> Memory:
    """Estimates the memory that one device holds.

    Args:
        config: Config of a run; if it is neither :class:`rl.config.TrainConfig` nor :class:`rl.config.SFTConfig`, the
            run only samples.
        sizes: Sizes of the run's model.
        load: Tokens and rows that the model processes.
        processes: Number of devices that share an optimiser step.
        sharded: Whether each device holds only a shard of weights, gradients and moments (FSDP2).
        on_cpu: Whether the run is on a CPU, where the engine limits the memory of rows decoded together, and blocks of
            logits fit into the processor's cache.
    """
    part = 1 / processes if sharded else 1.0
    stays: dict[str, float] = {"weights": (sizes.parameters * sizes.bytes + 4 * sizes.adapters) * part}
    update: dict[str, float] = {}
    if isinstance(config, TrainConfig | SFTConfig):
        trained = 4 * sizes.adapters if sizes.adapters else sizes.parameters * sizes.bytes
        update["gradients"] = trained * part
        # An offline method makes a new optimiser every round and frees it afterwards.
        moments = {"optimiser": 2 * trained * part}
        if isinstance(config, TrainConfig):
            stays |= moments | _others(config, sizes, part)
            optim, passes = config.algorithm.optim, _update_online(config, sizes, load, on_cpu)
        else:
            update |= moments
            dpo = KEEP_RULES.fact(config.offline.rule, "preferences") and not sizes.adapters
            stays["reference"] = trained  # a copy of the base weights, from which every round starts
            update |= {"reference of DPO": sizes.parameters * sizes.bytes} if dpo else {}
            optim, passes = config.offline.optim, _update_offline(config, sizes, load, on_cpu)
        update |= passes | {"scratch": BLOCK if optim.mixed_precision == "no" else 2 * BLOCK}
        if optim.mixed_precision == "bf16" and sizes.bytes == 4:  # autocast caches a bfloat16 copy of the weights
            update["weights in bfloat16"] = 2 * sizes.parameters * part
    return Memory(stays | _sampling(config, sizes, load, on_cpu), stays | update)


def _others(config: TrainConfig, sizes: Sizes, part: float) -> dict[str, float]:
    """Memory of frozen references and of a separate critic, which is as large as the policy and has moments too."""
    stages, found = config.algorithm.resolved(config.env.attempts), {}
    whole = sizes.parameters * sizes.bytes * part
    references = {stage.reference for stage in stages if any(stage.kl_coefs)}
    if references and not sizes.adapters:  # with adapters the base is the policy without them
        found["reference"] = len(references) * whole
    if config.algorithm.critic.kind == "separate":
        found["critic"] = 4 * whole
    return found


def rows_at_once(max_batch_size: int, sizes: Sizes, length: float, on_cpu: bool) -> int:
    """Maximum number of rows of the given length that the engine decodes together."""
    # The same rule as in HFEngine.step, for rows of equal length.
    row = 2 * sizes.layers * sizes.keys * sizes.bytes * max(1.0, length)
    return min(max_batch_size, max(1, int(BATCH_BYTES / row))) if on_cpu else max_batch_size


def _room(sizes: Sizes, length: float) -> float:
    """Memory of a row's keys and values, with the spare columns behind them (see ``RoomyLayer``)."""
    return 2 * sizes.layers * sizes.keys * sizes.bytes * (1.25 * length + 16)


def kept_turns(max_batch_size: int, sizes: Sizes, load: Load, on_cpu: bool) -> float:
    """Memory of the keys and values of finished turns in the engine's store, while a batch is decoded.

    Before the next turn, the store holds the turns of *all* rows, however few are decoded together. Episodes of one
    turn are stored too, although they have no next turn. Stored turns take up to twice their own size: whenever half of
    a batch has ended, its whole cache is stored for these rows, and the other half continues in a copy. So a batch
    leaves caches of its full size, a half, a quarter and so on.
    """
    ahead = len(load.answers) > 1
    last = 0 if ahead else min(load.rows, rows_at_once(max_batch_size, sizes, load.length, on_cpu))
    rows = 2 * load.rows - last  # rows that the current batch still holds are counted with the batch
    length = max(1.0, load.length - (load.answers[-1] if ahead else 0.0))
    # The store's limit does not count spare columns.
    most = MAX_BYTES / (2 * sizes.layers * sizes.keys * sizes.bytes * length)
    return max(0.0, min(rows, most)) * _room(sizes, length)


def _sampling(config: Any, sizes: Sizes, load: Load, on_cpu: bool) -> dict[str, float]:
    """Memory of sampling: keys and values with spare columns, reading prompts, and sampling a token of every row."""
    engine = config.engine
    if engine.name != "hf":  # the memory of other engines is set in their own options
        return {}
    rows = min(load.rows, rows_at_once(engine.max_batch_size, sizes, load.length, on_cpu))
    cache = rows * _room(sizes, load.length) + kept_turns(engine.max_batch_size, sizes, load, on_cpu)
    # Log-probs of a row in float32, and twice in float64 for the cumulative sum.
    drawing = rows * sizes.vocabulary * (2 * sizes.bytes + 4 + 16)
    # Activations of one layer for the tokens that are read at once: the whole first prompt, or the new part of a later
    # prompt.
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
    """Memory that a forward pass over this many tokens keeps for the backward pass; ``logits`` is given in bytes."""
    width = 2 if optim.mixed_precision == "bf16" else sizes.bytes
    norms = 6 * sizes.hidden * max(width, 4)  # input and two products of each of the two norms, in float32
    layer = norms + (5 * sizes.hidden + 4 * sizes.keys + 4 * sizes.feed_forward) * width
    # With checkpointing every layer keeps only its input, and one layer at a time has all of its activations.
    kept = sizes.layers * sizes.hidden * width + layer if optim.gradient_checkpointing else sizes.layers * layer
    return {"activations": tokens * kept, "logits": logits}


def _update_online(config: TrainConfig, sizes: Sizes, load: Load, on_cpu: bool) -> dict[str, float]:
    """Memory of an online update: only positions that predict response tokens have logits, and prompts are shared."""
    algorithm, optim = config.algorithm, config.algorithm.optim
    size = max(1.0, load.update_rows / algorithm.minibatches)
    rows = max(1.0, min(size, optim.micro_batch_tokens // load.length))
    # With gradient checkpointing, prompts are not shared (see rl.backends.trunk.Trunk).
    shared = 1 if optim.gradient_checkpointing else min(load.group, rows)
    tokens = rows * (load.length - load.prompt) + rows / shared * load.prompt
    answers = rows * sum(load.answers)
    width = 2 if optim.mixed_precision == "bf16" else sizes.bytes
    whole = algorithm.kl == "full" and any(any(stage.kl_coefs) for stage in algorithm.resolved())
    entropy = any(term.loss == "entropy" for stage in algorithm.resolved() for term in stage.terms.values())
    # Number of copies of the logits in a pass: none with the fused head; two with SampledLogprobs, the logits and their
    # gradient. Log-probs of the whole vocabulary, or an entropy with a gradient, add float32 copies to the graph.
    copies = 0.0 if algorithm.fused_head else 7.0 if whole else 5.0 if entropy else 2.0
    entries = answers * sizes.vocabulary
    found = _passes(sizes, optim, tokens, copies * entries * max(width, 4 if copies > 2 else width))
    if copies == 2.0 and not on_cpu:  # a block in float32, its probabilities, and an intermediate copy
        found["block of logits"] = 3 * 4 * min(entries, BLOCK_ENTRIES["cuda"])
    return found


def _update_offline(config: SFTConfig, sizes: Sizes, load: Load, on_cpu: bool) -> dict[str, float]:
    """Memory of an offline update: TRL reads whole rows.

    Logits are computed only for tokens that are trained on, but at all positions for preference pairs, and for a small
    vocabulary on a CPU.
    """
    offline = config.offline
    rows = max(1.0, min(offline.batch_size, load.update_rows, offline.optim.micro_batch_tokens // load.length))
    pairs = bool(KEEP_RULES.fact(offline.rule, "preferences"))
    tokens = rows * load.length * (2 if pairs else 1)
    everywhere = pairs or (on_cpu and sizes.vocabulary < LARGE_HEAD)
    scored = tokens if everywhere else rows * sum(load.answers)
    width = 2 if offline.optim.mixed_precision == "bf16" else sizes.bytes
    # The loss converts the logits to float32.
    return _passes(sizes, offline.optim, tokens, scored * sizes.vocabulary * (width + 3 * 4))
