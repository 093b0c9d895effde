"""Checks at loading time that engine and trainer compute the same log-probs as the model's own forward pass.

Sampling pads prompts on the left, decodes with a key-value cache, drops rows from the cache and reuses it in the next
turn. The update pads on the right, computes shared prompts once and runs in train mode. All of this is exact for plain
softmax attention, but not for every architecture: recurrent layers may read padding, windows count columns, and a
decoding step may round a state that a pass over the whole sequence does not round. Therefore a few short conversations
go through the engine and the actor, and their log-probs must equal those of the model reading each conversation alone.
If they differ, reuse of the cache is switched off; if they still differ, the model is refused.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from envs import Message
from rl.backends.engine_hf import HFEngine
from rl.backends.lora import bare_model
from rl.backends.policy import Actor
from rl.backends.trunk import keeps_everything, trunk_of
from rl.rendering import Renderer
from rl.rollout import complete
from rl.types import Request, RolloutBatch

TOLERANCES = {torch.float32: 3e-4, torch.bfloat16: 0.2}
"""Largest allowed difference of log-probs in nats, as root mean square over an answer. bfloat16 needs a large tolerance
because its rounding may also change which experts a router chooses."""
_QUESTIONS = ("1 2", "1 2 3 4 5 6 7 8 9", "5")


class ModelError(ValueError):
    """Engine or trainer would not compute what the model computes."""


def check_model(model: Any, renderer: Renderer, samples: bool) -> None:
    """Compares engine and actor with the model's own forward pass.

    Sets ``lends_cache`` of the trunk to False if results may be right only without reusing the cache.

    Args:
        model: A causal language model in evaluation mode, adapters included.
        renderer: Renderer of the prompts.
        samples: Whether the transformers engine samples from this model.

    Raises:
        ModelError: If results still differ; the message says what differs, by how much, and what to do.
    """
    name, trunk = type(bare_model(model)).__name__, trunk_of(bare_model(model))

    def fault_of(gap: Callable[[Any, Renderer], float]) -> str | None:
        fault = _attempt(gap, model, renderer)
        if fault and keeps_everything(trunk):
            trunk.lends_cache = False
            fault = _attempt(gap, model, renderer)
        return fault

    if samples and (fault := fault_of(_engine_gap)):
        raise ModelError(f"{name} cannot be sampled from by engine=hf: {fault}. Use engine=vllm")
    if fault := fault_of(_actor_gap):
        raise ModelError(f"{name} cannot be trained: {fault}. Take another model, or model.attention=eager")


def _attempt(measure: Callable[[Any, Renderer], float], model: Any, renderer: Renderer) -> str | None:
    """Measures a gap; returns a description of the fault if it is too large or the model fails, else ``None``."""
    tolerance = TOLERANCES.get(model.dtype, 3e-4)
    try:
        gap = measure(model, renderer)
    except (RuntimeError, ValueError, TypeError, AttributeError, KeyError, IndexError, NotImplementedError) as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    if gap <= tolerance:
        return None
    return f"log-probs differ from the model's own forward pass by {gap:.3g} nats (at most {tolerance:g} by rounding)"


def _plain(model: Any, ids: tuple[int, ...]) -> Tensor:
    """Log-prob of every token given the tokens before it, ``[T]``, 0 for the first; read as one row without padding."""
    row = torch.tensor([ids], device=model.device)
    with torch.no_grad():
        logprobs = bare_model(model)(input_ids=row).logits[0, :-1].float().log_softmax(-1)
    gathered = logprobs.gather(1, row[0, 1:, None]).squeeze(1).cpu()
    return torch.cat([torch.zeros(1), gathered])


def _engine_gap(model: Any, renderer: Renderer) -> float:
    """Largest difference between the engine's log-probs and the model's, over two turns of five conversations.

    The prompts have two lengths, so that padding is tested; limits of 3 to 11 tokens make rows end one after another,
    so that rows are dropped; and the second turn reuses the first turn's keys and values.
    """
    engine = HFEngine(model, renderer.end_ids, renderer.pad_id)
    prompts = [renderer.opening([Message("user", _QUESTIONS[i % 2])]) for i in range(5)]
    requests = [Request(i, prompt, 3 + 2 * i, 1.0, 7919 * i) for i, prompt in enumerate(prompts)]
    first = complete(engine, requests)
    then = [
        renderer.extend(request.prompt_ids, answer.action_ids, [Message("user", _QUESTIONS[i % 3])])
        for i, (request, answer) in enumerate(zip(requests, first, strict=True))
    ]
    requests = [Request(i, prompt, 10, 1.0, 104729 * i + 1) for i, prompt in enumerate(then)]
    gaps = []
    for request, start, one, two in zip(requests, prompts, first, complete(engine, requests), strict=True):
        expected = _plain(model, request.prompt_ids + two.action_ids)
        for answer, begin in ((one, len(start)), (two, len(request.prompt_ids))):
            own = expected[begin : begin + len(answer.action_ids)]
            gaps.append((own - torch.tensor(answer.logprobs)).square().mean().sqrt())
    return _largest(gaps)


def _actor_gap(model: Any, renderer: Renderer) -> float:
    """Largest difference between the trainer's log-probs in train mode and the model's, on rows that share prompts."""
    prompts = [renderer.opening([Message("user", question)]) for question in _QUESTIONS]
    # Three rows share one prompt and two rows another, so that the trunk finds sharing worthwhile and shares prompts.
    rows = [(prompts[i // 3], prompts[0][: 3 + 2 * i]) for i in range(5)]
    n, width = len(rows), max(len(prompt) + len(answer) for prompt, answer in rows)
    input_ids = torch.full((n, width), renderer.pad_id)
    response_mask, attention_mask = torch.zeros(2, n, width, dtype=torch.bool)
    for i, (prompt, answer) in enumerate(rows):
        end = len(prompt) + len(answer)
        input_ids[i, :end] = torch.tensor(prompt + answer)
        attention_mask[i, :end], response_mask[i, len(prompt) : end] = True, True
    zeros, ones = torch.zeros(n, width), torch.ones(n, 1, dtype=torch.bool)
    turn_ids, groups = response_mask.long() - 1, torch.arange(n)
    batch = RolloutBatch(
        input_ids, attention_mask, response_mask, turn_ids, zeros, zeros[:, :1], groups * 0 + 1, groups, ones
    )
    actor = Actor(model)
    training = model.training
    actor.train()  # as in the update, so that noise that switch_noise_off has missed is found
    try:
        with torch.no_grad():
            logprobs = actor(batch.to(model.device), 1.0).logprobs.cpu()
    finally:
        model.train(training)
    gaps = []
    for i, (prompt, answer) in enumerate(rows):
        expected = _plain(model, prompt + answer)[len(prompt) :]
        gaps.append((expected - logprobs[i, len(prompt) : len(prompt) + len(answer)]).square().mean().sqrt())
    return _largest(gaps)


def _largest(gaps: list[Tensor]) -> float:
    worst = torch.stack(gaps)
    return float("inf") if worst.isnan().any() else float(worst.max())
