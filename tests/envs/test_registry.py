import pytest

import envs
from envs.prompts import PROMPTS, Prompts, get_prompts
from envs.registry import make_taskset
from envs.splits import draw_tasks, split_of


def test_unknown_environment_names_the_nearest():
    with pytest.raises(KeyError, match="did you mean 'errata/modchain-v1'"):
        envs.make("errata/modchan-v1")


def test_unknown_option_names_the_nearest():
    with pytest.raises(TypeError, match=r"env\.options\.n_trian.*did you mean 'n_train'"):
        make_taskset("errata/modchain-v1", {"n_trian": 3})


def test_unknown_reasoning_gym_data_set_names_the_nearest():
    with pytest.raises(ValueError, match="chain_sum"):
        envs.make("errata/reasoning_gym-v1", options={"dataset": "chain_sums"})


def test_refused_reasoning_gym_parameters_are_named():
    with pytest.raises(ValueError, match=r"env\.options\.params.*min_termz"):
        envs.make("errata/reasoning_gym-v1", options={"params": {"min_termz": 2}})


def test_registration_needs_a_free_versioned_id():
    with pytest.raises(ValueError, match="registered already"):
        envs.register("errata/modchain-v1", object)
    with pytest.raises(ValueError, match="version suffix"):
        envs.register("errata/unversioned", object)


def test_prompts_never_change_under_their_name():
    PROMPTS.register("toy-v1")(get_prompts("toy-v1"))  # registering the same texts again is allowed
    with pytest.raises(ValueError, match="registered already"):
        PROMPTS.register("toy-v1")(Prompts("{question}", "again", "right", "wrong"))
    with pytest.raises(KeyError, match=r"unknown.*toy-v1"):
        get_prompts("toy-v9")


def test_split_depends_on_content_only():
    assert split_of("What is  1 + 1?") == split_of("what is 1 + 1?")
    shares = [split_of(str(i)).value for i in range(4000)]
    assert abs(shares.count("test") / 4000 - 0.2) < 0.03
    assert abs(shares.count("validation") / 4000 - 0.1) < 0.02


def test_a_small_generator_says_so():
    with pytest.raises(ValueError, match="ask for fewer"):
        draw_tasks(lambda i: envs.Task(str(i), str(i % 7), "0"), envs.Split.TRAIN, 50, patience=10)


def test_neighbouring_seeds_share_few_tasks():
    tasks = [{t.question for t in make_taskset("errata/modchain-v1", {"seed": s}).load("train")} for s in (0, 1)]
    # There are only 4,840 two-step chains, so some recur by chance. If the seed were added to the index of a task,
    # neighbouring seeds would share nearly all tasks.
    assert len(tasks[0] & tasks[1]) / len(tasks[0]) < 0.4
