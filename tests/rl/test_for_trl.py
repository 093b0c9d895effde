"""Our environments in TRL's real GRPOTrainer: one training step of the modchain model, paid by our verifier."""

import copy
import inspect as introspection

import pytest

import envs
from rewards import Score, Verdict
from rl.backends.for_trl import episode_reward, to_trl, to_trl_tools

OPTIONS = {"n_train": 8, "n_validation": 4, "n_test": 4}


@pytest.fixture(scope="module")
def env():
    return envs.make("errata/modchain-v1", options=OPTIONS, attempts=2)


@pytest.mark.filterwarnings("ignore:You are using 'rollout_func'")
def test_a_step_of_grpo_learns_what_our_verifier_pays(env, modchain, tmp_path):
    import torch
    from trl import GRPOConfig, GRPOTrainer

    model, tokenizer, renderer = copy.deepcopy(modchain[0]), *modchain[1:]
    parts, seen = to_trl(env, [3, 7]), {}
    play, asked = parts["rollout_func"], {row["task_id"]: row["prompt"] for row in parts["train_dataset"]}
    assert set(asked) == {task.id for task in env.tasks}

    def watched(prompts, trainer):
        seen.update(play(prompts, trainer), prompts=prompts)
        return {name: value for name, value in seen.items() if name != "prompts"}

    arguments = GRPOConfig(
        output_dir=str(tmp_path),
        per_device_train_batch_size=8,
        num_generations=4,
        max_steps=1,
        learning_rate=1e-3,
        logging_steps=1,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        bf16=False,  # bf16 log-probs would be too imprecise to compare
        disable_tqdm=True,
    )
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer = GRPOTrainer(model, args=arguments, processing_class=tokenizer, **parts | {"rollout_func": watched})
    trainer.train()
    assert len(seen["prompt_ids"]) == 8
    by_question = {task.question: task for task in env.tasks}
    for i, prompt in enumerate(seen["prompts"]):
        task = by_question[prompt[-1]["content"]]
        ids, mask, logprobs = (seen[name][i] for name in ("completion_ids", "env_mask", "logprobs"))
        assert len(ids) == len(mask) == len(logprobs)
        # The policy's tokens, split into attempts by the environment's tokens, are paid as our verifier pays them.
        attempts, said = [[]], []
        for token, own, logprob in zip(ids, mask, logprobs, strict=True):
            if not own and attempts[-1]:
                attempts.append([])
            (attempts[-1] if own else said).append(token)
            assert own or logprob == 0.0
        paid = [env.taskset.verify(task, renderer.text(one)).value for one in attempts]
        assert seen["episode_reward"][i] == sum(paid)
        assert len(attempts) == 2
        assert "check" in tokenizer.decode(said)
    logged = next(row for row in trainer.state.log_history if "reward" in row)
    assert logged["reward"] == pytest.approx(sum(seen["episode_reward"]) / 8)
    # The reported log-probs are those of the model itself for the sampled tokens.
    prompt, ids = seen["prompt_ids"][0], seen["completion_ids"][0]
    with torch.no_grad():
        known = modchain[0](torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    for place, (token, own) in enumerate(zip(ids, seen["env_mask"][0], strict=True)):
        if own:
            assert seen["logprobs"][0][place] == pytest.approx(float(known[place, token]), abs=1e-3)
    groups = [seen["episode_reward"][:4], seen["episode_reward"][4:]]
    moved = any(not torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert moved == any(len(set(one)) > 1 for one in groups)


def test_a_verifier_that_fails_is_no_reward_of_0(env, monkeypatch):
    assert episode_reward(episode_reward=[1.0, None], completions=[], prompts=[]) == [1.0, None]
    hand_in, task = to_trl_tools(env)(), env.tasks[0]
    hand_in.reset(task_id=task.id)
    with monkeypatch.context() as patch:
        patch.setattr(type(env.taskset), "verify", lambda self, task, text: Score(0.0, Verdict.ERROR, reason="down"))
        hand_in.submit(answer=f": {task.gold}")
    assert hand_in.get_reward() is None
    hand_in.reset(task_id=task.id)
    assert hand_in.get_reward() == 0.0


def test_attempts_as_a_tool_are_paid_the_same(env):
    from transformers.utils import get_json_schema

    factory = to_trl_tools(env)
    for task in env.tasks[:3]:
        hand_in = factory()
        hand_in.reset(task_id=task.id, prompt="whatever else stands in the row")
        wrong = f": {(int(task.gold) + 1) % 10}"
        assert hand_in.submit(answer=wrong) == "check"
        assert hand_in.submit(answer=f": {task.gold}") == hand_in.submit(answer="more") == "No attempt is left."
        assert hand_in.get_reward() == sum(env.taskset.verify(task, text).value for text in (wrong, f": {task.gold}"))
    schema = get_json_schema(hand_in.submit)["function"]
    assert (schema["name"], list(schema["parameters"]["properties"])) == ("submit", ["answer"])
    tools = [name for name, _ in introspection.getmembers(type(hand_in), introspection.isfunction) if name[0] != "_"]
    assert set(tools) == {"reset", "get_reward", "submit"}, "TRL offers every other public method as a tool"


def test_environments_that_do_not_fit_are_refused():
    asking = envs.make("errata/modchain-v1", options=OPTIONS, between="verify",
                       prompts_text={"verify": "check", "says_right": ":"})  # fmt: skip
    with pytest.raises(ValueError, match=r"env\.between"):
        to_trl(asking, [3])
    with pytest.raises(TypeError, match="draws its own tasks"):
        to_trl(object(), [3])
