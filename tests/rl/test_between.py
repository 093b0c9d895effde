"""Episodes in which the policy judges itself between attempts, from the rollout to rows, rates and gradients."""

from dataclasses import replace

import pytest
import torch

import envs
from rl.advantages import has_gradient
from rl.analysis.rates import named
from rl.analysis.rows import EvalRow
from rl.batching import conversations, to_rollout_batch
from rl.config import AlgorithmConfig, StageConfig
from rl.rollout import EpisodePlan, Rollout
from rl.types import Finish
from tests.engine_scripted import ScriptedEngine
from tests.helpers import build_trainer, credit, episode, log_step, modchain_config

OPTIONS = {"n_train": 4, "n_validation": 2, "n_test": 2}
STAGE = StageConfig(reward_weights=[1.0, 1.0], kl_coefs=[0.0, 0.0])
# Only words that the model in ``models/modchain`` knows: the first word of a quick answer, ``:``, means "right", that
# of a worked answer, ``#``, means "wrong".
TEXTS = {"verify": "check", "says_right": ":", "says_wrong": "#", "said": "{words}"}


@pytest.fixture
def play(modchain):
    """Plays a scripted episode for each list of texts on the same task, as one group."""
    _, tokenizer, renderer = modchain
    task = envs.make_taskset("errata/modchain-v1", OPTIONS).load("train")[0]

    def make():
        limit = {"max_new_tokens": 1}
        said = {"between": "verify", "between_options": limit, "prompts_text": TEXTS}
        return envs.make("errata/modchain-v1", options=OPTIONS, **said)

    def run(*scripts):
        said = {"RIGHT": f": {task.gold}", "WRONG": f": {(int(task.gold) + 1) % 10}"}
        words = [[said.get(text, text) for text in script] for script in scripts]
        spoken = [0] * len(words)

        def script(request):
            spoken[request.id] += 1
            return words[request.id][spoken[request.id] - 1]

        engine = ScriptedEngine(script, tokenizer.encode, renderer.end_id)
        rollout = Rollout(engine, renderer, make, (3, 7), 64)
        return rollout.run([EpisodePlan(task, 0, i) for i in range(len(words))], 1.0), tokenizer, task

    return run


def test_verdicts_have_a_conversation_a_limit_and_a_reward_of_their_own(play):
    (one,), tokenizer, task = play(["WRONG", "#", "RIGHT"])
    assert [(turn.role, turn.reward) for turn in one.turns] == [("solver", 0.0), ("verifier", 1.0), ("solver", 1.0)]
    first = one.turns[0].text
    assert [tokenizer.decode(turn.prompt_ids) for turn in one.turns[1:]] == [
        f"<|user|> {task.question} <|assistant|> {first} <|end|> <|user|> check <|assistant|>",
        f"<|user|> {task.question} <|assistant|> {first} <|end|> <|user|> # <|assistant|>",
    ]
    assert (one.turns[1].finish, len(one.turns[1].action_ids)) == (Finish.LENGTH, 1)
    assert [turn.text for turn in one.attempts] == [one.turns[0].text, one.turns[2].text]


def test_rows_hold_attempts_and_a_rate_says_how_often_the_verdict_was_right(play):
    episodes, _, _ = play(["WRONG", "#", "RIGHT"], ["WRONG", ":"], ["RIGHT", "#", "WRONG"], ["RIGHT", ":"])
    rows = [EvalRow.of(one, "arm", 0, "greedy", 0, 2) for one in episodes]
    assert [row.correct for row in rows] == [(False, True), (False,), (True, False), (True,)]
    assert [row.values["delta"] for row in rows] == [1.0, 0.0, -1.0, 0.0]
    assert [named("own_verdict").of(row) for row in rows] == [1.0, 0.0, 0.0, 1.0]
    assert EvalRow.from_json(rows[0].to_json()).said == rows[0].said == (("verifier", "#", 1.0),)
    assert named("own_verdict").of(replace(rows[0], said=())) is None


def test_a_verdict_is_compared_with_verdicts_alone(play):
    episodes, _, _ = play(["WRONG", "#", "RIGHT"], ["WRONG", ":"])
    batch = to_rollout_batch(episodes, 0, 2)
    assert [row.role for row in conversations(episodes)] == ["solver", "verifier"] * 2
    algorithm = AlgorithmConfig(name="x", stages={"main": STAGE})
    advantages, _ = credit(batch, algorithm, STAGE)
    sums = [[float(advantages[i][batch.turn_ids[i] == k].unique().sum()) for k in range(2)] for i in range(4)]
    # First attempts are equal; the true verdict beats the false one; a second attempt beats an episode without one.
    assert sums == [[0.0, 1.0], [1.0, 0.0], [0.0, 0.0], [-1.0, 0.0]]


def test_a_group_whose_verdicts_differ_has_a_gradient(play):
    same, _, _ = play(["WRONG", "#", "WRONG"], ["WRONG", "#", "WRONG"])
    differ, _, _ = play(["RIGHT", ":"], ["RIGHT", ":"])
    assert not has_gradient(same, STAGE)
    assert not has_gradient(differ, STAGE)
    untrue = replace(differ[0], turns=(differ[0].turns[0], replace(differ[0].turns[1], reward=0.0)))
    assert has_gradient([differ[0], untrue], STAGE)
    assert has_gradient([same[0], play(["WRONG", ":"])[0][0]], STAGE)  # only one of the two was revised
    assert not has_gradient([episode((0.0, 1.0))] * 2, STAGE)


def test_a_step_trains_attempts_and_verdicts_and_counts_attempts():
    cfg = modchain_config(episodes=32, tasks_per_step=8)
    cfg.env = replace(cfg.env, between="verify", between_options={"stops": False}, prompts_text=TEXTS)
    trainer, bench = build_trainer(cfg)
    before = {name: value.clone() for name, value in bench.model.state_dict().items()}
    metrics, episodes = log_step(trainer)
    assert {tuple(turn.role for turn in one.turns) for one in episodes} == {("solver", "verifier", "solver")}
    right = [[turn.correct for turn in one.attempts] for one in episodes]
    for k in range(2):
        assert metrics[f"rollout/accuracy_t{k + 1}"] == pytest.approx(sum(one[k] for one in right) / len(right))
    assert any(not torch.equal(value, before[name]) for name, value in bench.model.state_dict().items())


def test_offline_rules_refuse_it():
    from rl.config import SFTConfig
    from rl.offline import OfflineTrainer

    cfg = SFTConfig(name="x")
    cfg.env.between = "verify"
    with pytest.raises(ValueError, match=r"env\.between=verify is for online training"):
        OfflineTrainer(cfg, None, None, None, [], lambda _: None, lambda *_: None)
