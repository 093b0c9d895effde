"""The tiny bases are what the README says they are."""

import random

import pytest

import envs
from envs import Message, Split
from envs.tasks.repair import Repair, parsed, run, written
from rl.analysis.rows import EvalRow
from rl.analysis.statistics import summarise
from rl.backends.engine_hf import HFEngine
from rl.backends.policy import load_policy
from rl.config import ModelConfig
from rl.rendering import Renderer
from rl.rollout import EpisodePlan, Rollout, complete
from rl.types import Request
from tests.conftest import ROOT

LIMITS = {"modchain": [3, 7], "addition": [5]}
PROMPTS = {"modchain": "toy-v1", "addition": "restate-v1"}


@pytest.mark.parametrize("toy", ["modchain", "addition"])
def test_the_base_is_half_right_and_does_not_correct_itself(toy):
    model, tokenizer = load_policy(ModelConfig(path=str(ROOT / "models" / toy)))
    assert sum(p.numel() for p in model.parameters()) < 1_000_000
    renderer = Renderer(tokenizer)
    taskset = envs.make(f"errata/{toy}-v1").taskset
    rollout = Rollout(
        HFEngine(model, renderer.end_ids, renderer.pad_id),
        renderer,
        lambda: envs.SelfCorrectEnv(taskset, prompts=PROMPTS[toy]),
        LIMITS[toy],
        64,
    )
    plans = [EpisodePlan(task, i, i) for i, task in enumerate(taskset.load(Split.TEST)[:300])]
    rates = summarise([EvalRow.of(e, "base", 0, "greedy", 0, 2) for e in rollout.run(plans, 0.0)])
    assert 0.3 < rates["accuracy_t1"] < 0.8
    assert rates["delta"] <= 0.03


def test_modchains_good_mode_is_within_the_base_and_rare(modchain):
    """Worked answers after ``check``: about 0.1 % of samples, about 85 % right."""
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


def test_repairs_good_mode_is_within_the_base_and_rare():
    """``fix`` after what a program returned: 1 to 2 % of samples; a mended program is nearly always right."""
    model, tokenizer = load_policy(ModelConfig(path=str(ROOT / "models" / "repair")))
    renderer, vocabulary = Renderer(tokenizer), tokenizer.get_vocab()
    rng, requests, tasks = random.Random(0), [], Repair().load(Split.TEST)[:200]
    for i, task in enumerate(tasks):
        draft = written(task.info["slots"], rng.randrange(10))
        ids = (*(vocabulary[word] for word in draft.split()), renderer.end_id)
        told = Message("user", f"got {run(draft, 0)} want {task.info['want']}")
        prompt = renderer.extend(renderer.opening([Message("user", task.question)]), ids, [told])
        requests.append(Request(i, (*prompt, vocabulary["fix"]), 8, 0.0, i))
    engine = HFEngine(model, renderer.end_ids, renderer.pad_id)
    texts = ["fix " + renderer.text(completion.action_ids) for completion in complete(engine, requests)]
    right = [
        parsed(text) is not None and run(text, 0) == task.info["want"] for text, task in zip(texts, tasks, strict=True)
    ]
    assert sum(right) > 0.8 * len(tasks)
    import torch

    with torch.no_grad():
        logits = model(input_ids=torch.tensor([request.prompt_ids[:-1] for request in requests])).logits[:, -1]
    assert 0.005 < logits.softmax(-1)[:, vocabulary["fix"]].mean().item() < 0.03
