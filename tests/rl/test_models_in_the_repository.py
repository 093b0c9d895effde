"""The tiny base models in ``models/`` are about half right and do not correct themselves, though a rare mode could."""

import random

import pytest

import envs
from envs import Message, Split
from envs.tasks import mend, repair
from experiments.pretrain_tiny import CORPORA
from rl.analysis.rows import EvalRow
from rl.analysis.statistics import summarise
from rl.backends.engine_hf import HFEngine
from rl.backends.policy import load_policy
from rl.config import ModelConfig
from rl.rendering import Renderer
from rl.rollout import EpisodePlan, Rollout, complete
from rl.types import Request
from tests.conftest import ROOT

LIMITS = {"modchain": [3, 7], "addition": [5], "mend": [8, 9]}


@pytest.mark.parametrize("toy", ["modchain", "addition", "mend"])
def test_the_base_is_half_right_and_does_not_correct_itself(toy):
    model, tokenizer = load_policy(ModelConfig(path=str(ROOT / "models" / toy)))
    assert sum(p.numel() for p in model.parameters()) < 1_000_000
    renderer = Renderer(tokenizer)
    taskset = envs.make(f"errata/{toy}-v1").taskset
    rollout = Rollout(
        HFEngine(model, renderer.end_ids, renderer.pad_id),
        renderer,
        lambda: envs.make(f"errata/{toy}-v1"),
        LIMITS[toy],
        64,
    )
    plans = [EpisodePlan(task, i, i) for i, task in enumerate(taskset.load(Split.TEST)[:300])]
    rates = summarise([EvalRow.of(e, "base", 0, "greedy", 0, 2) for e in rollout.run(plans, 0.0)])
    assert 0.3 < rates["accuracy_t1"] < 0.8
    assert rates["delta"] <= 0.03


def test_modchains_good_mode_is_within_the_base_and_rare(modchain):
    """After ``check``, worked answers are about 0.1 % of the samples, and about 85 % of them are right."""
    model, tokenizer, renderer = modchain
    taskset = envs.make("errata/modchain-v1").taskset
    tasks = taskset.load(Split.TEST)[:300]
    rng = random.Random(0)
    vocabulary = tokenizer.get_vocab()
    requests = []
    for i, task in enumerate(tasks):
        draft = (vocabulary[":"], vocabulary[str(rng.randrange(10))], renderer.end_id)
        opening = renderer.opening([Message("user", task.question)])
        prompt = renderer.extend(opening, draft, [Message("user", "check")])
        requests.append(Request(i, (*prompt, vocabulary["#"]), 6, 1.0, i))
    engine = HFEngine(model, renderer.end_ids, renderer.pad_id)
    texts = ["# " + renderer.text(completion.action_ids) for completion in complete(engine, requests)]
    right = sum(taskset.verify(task, text).value for task, text in zip(tasks, texts, strict=True)) / len(tasks)
    assert 0.7 < right < 0.95
    import torch

    with torch.no_grad():
        logits = model(input_ids=torch.tensor([request.prompt_ids[:-1] for request in requests])).logits[:, -1]
    share = logits.softmax(-1)[:, vocabulary["#"]].mean().item()
    assert 0.0003 < share < 0.003


DRAFTS = {
    "repair": lambda task, number: repair.written(task.info["slots"], number),
    "mend": lambda task, number: f"try {mend.written(task.info['terms'], str(number))}",
}


@pytest.mark.parametrize("toy", ["repair", "mend"])
def test_mending_is_within_the_base_and_rare(toy):
    """Told the result of its attempt, the base writes ``fix`` in 1 to 2 % of samples; nearly all fixes are right."""
    model, tokenizer = load_policy(ModelConfig(path=str(ROOT / "models" / toy)))
    renderer, vocabulary = Renderer(tokenizer), tokenizer.get_vocab()
    taskset, corpus = envs.make(f"errata/{toy}-v1").taskset, CORPORA[toy]()
    rng, requests, tasks = random.Random(0), [], taskset.load(Split.TEST)[:200]
    for i, task in enumerate(tasks):
        draft = DRAFTS[toy](task, rng.randrange(10))
        ids = (*(vocabulary[word] for word in draft.split()), renderer.end_id)
        told = Message("user", corpus.observed(task, draft))
        prompt = renderer.extend(renderer.opening([Message("user", task.question)]), ids, [told])
        requests.append(Request(i, (*prompt, vocabulary["fix"]), 8, 0.0, i))
    engine = HFEngine(model, renderer.end_ids, renderer.pad_id)
    texts = ["fix " + renderer.text(completion.action_ids) for completion in complete(engine, requests)]
    right = [
        corpus.observed(task, text) == corpus.observed(task, taskset.gold_response(task))
        for text, task in zip(texts, tasks, strict=True)
    ]
    assert sum(right) > 0.8 * len(tasks)
    import torch

    with torch.no_grad():
        logits = model(input_ids=torch.tensor([request.prompt_ids[:-1] for request in requests])).logits[:, -1]
    assert 0.005 < logits.softmax(-1)[:, vocabulary["fix"]].mean().item() < 0.03
