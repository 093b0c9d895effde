"""Pretrains the tiny base model of an embedded toy on its corpus; used by ``python -m experiments.pretrain_tiny``."""

import random
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from envs import Message
from experiments.base_schema import PretrainConfig
from experiments.tiny_corpus import FIRST, SECOND, Corpus, SteeredCorpus, encoder
from rl.backends.engine_hf import HFEngine
from rl.backends.tiny import tiny_llama, tiny_tokenizer
from rl.checkpoint import save_policy
from rl.rendering import Renderer
from rl.rollout import complete
from rl.types import Request, derive_seed
from rl.workbench import seed_everything


def pretrain(cfg: PretrainConfig, corpus: Corpus) -> Path:
    """Trains a tiny Llama on a toy's documents and saves it with its tokenizer; returns the folder.

    The loss of a batch is the mean over its tasks of CE(first attempts) + ``second_weight`` * CE(second attempts).
    """
    seed_everything(cfg.seed)
    rng = random.Random(cfg.seed)
    tokenizer = tiny_tokenizer(corpus.words, corpus.spaced)
    model = tiny_llama(tokenizer, cfg.hidden_size, cfg.n_layers, cfg.n_heads, cfg.context)
    renderer = Renderer(tokenizer)
    engine = HFEngine(model, renderer.end_ids, renderer.pad_id)
    encode = encoder(tokenizer, corpus)
    optimizer = torch.optim.AdamW(model.parameters(), lr=cfg.lr, betas=(0.9, 0.95), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / 50) * max(0.05, 1 - 0.95 * step / cfg.steps)
    )
    steered = corpus if isinstance(corpus, SteeredCorpus) else None
    probes = [encode(document) for document in steered.probes(random.Random(cfg.seed), 200)] if steered else []
    for step in range(cfg.steps):
        if steered is not None and step % 4 == 0:
            steered.steer(opening_probability(model, probes))
        tasks = corpus.tasks(rng, cfg.batch_size)
        own = step >= corpus.own_drafts_from * cfg.steps
        drafts = sample_drafts(engine, renderer, corpus, [t.question for t in tasks], cfg.seed, step) if own else None
        rows = [encode(document) for document in corpus.documents(rng, tasks, drafts)]
        loss = _loss(model, rows, renderer.pad_id, cfg)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == cfg.steps - 1:
            print(f"step {step + 1}/{cfg.steps}  loss {loss.item():.3f}", flush=True)
    return save_policy(Path(cfg.output), model, tokenizer)


def sample_drafts(
    engine: HFEngine, renderer: Renderer, corpus: Corpus, questions: list[str], seed: int, step: int
) -> list[str]:
    """Samples two first attempts per question from the model itself; the two attempts at a question are adjacent."""
    requests = []
    for i, question in enumerate(questions):
        prompt = renderer.opening([Message("user", question)])
        for member in range(2):
            draw = derive_seed(seed, "draft", step, i, member)
            requests.append(Request(2 * i + member, prompt, corpus.max_first_tokens, 1.0, draw))
    return [renderer.text(completion.action_ids) for completion in complete(engine, requests)]


@torch.no_grad()
def opening_probability(model: torch.nn.Module, probes: list[tuple[list[int], list[int]]]) -> float:
    """Mean probability of the first token of the probes' last attempts.

    Probes are rows of :func:`encoder`, all of the same length.
    """
    start = probes[0][1].index(SECOND)
    ids = torch.tensor([row[: start + 1] for row, _ in probes])
    chances = model(input_ids=ids[:, :-1]).logits[:, -1].softmax(-1)
    return chances.gather(1, ids[:, -1:]).mean().item()


def _loss(model: Any, rows: list[tuple[list[int], list[int]]], pad_id: int, cfg: PretrainConfig) -> Tensor:
    classes: dict[int, list[tuple[list[int], list[int]]]] = {}
    for row in rows:
        classes.setdefault(len(row[0]) // cfg.length_class if cfg.length_class else 0, []).append(row)
    total = torch.zeros(())
    for members in classes.values():
        width = max(len(ids) for ids, _ in members)
        ids = torch.tensor([ids + [pad_id] * (width - len(ids)) for ids, _ in members])
        marks = torch.tensor([marks + [0] * (width - len(marks)) for _, marks in members])[:, 1:]
        learned = marks > 0
        if cfg.dense:
            logits = model(input_ids=ids, attention_mask=(ids != pad_id).long()).logits[:, :-1][learned]
        else:  # Padding is on the right, where a causal model's earlier tokens do not see it, so no mask is needed.
            hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
            logits = model.lm_head(hidden[learned])
        nll = torch.nn.functional.cross_entropy(logits, ids[:, 1:][learned], reduction="none")
        total = total + (nll * torch.where(marks[learned] == FIRST, 1.0, cfg.second_weight)).sum()
    return total / cfg.batch_size
