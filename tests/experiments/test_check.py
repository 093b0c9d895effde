"""What ``experiments.check`` reports about an environment and a model before a run."""

import json

import pytest
from hydra import compose, initialize_config_dir

from experiments import check
from experiments.cli import CONFIGS, UserError, register_schemas, typed
from experiments.keys import open_free_mappings
from experiments.schema import CheckConfig
from rewards import Score
from rewards.wording import counted
from tests.conftest import ROOT

TOY = ["threads=1", "env.prompts=toy-v1", "env.options.verify=regex", "env.max_new_tokens=[3]", "model=path"]
TOY += [f"model.path={ROOT / 'models' / 'modchain'}", "samples=6", "env.options.verify_options.pattern=': (.)$'"]
TOY += ["env.options.verify_options.stated=': {}'"]


def checked(capsys, *overrides):
    """Runs ``experiments.check``; returns what it prints, and whether it reports something that must be changed."""
    register_schemas()
    with initialize_config_dir(CONFIGS, version_base=None):
        cfg = typed(compose("check", open_free_mappings(overrides, CheckConfig)))
    try:
        check.main.run(cfg)
        wrong = False
    except UserError as error:
        wrong = "must" in str(error)
    return " ".join(capsys.readouterr().out.split()), wrong


def chains(n):
    """Rows with ``n`` questions in the words of the embedded model, and their answers."""
    steps = [(i // 9 % 10, i % 9 + 1, i // 90 + 1) for i in range(n)]
    return [{"question": f"{a} +{b} +{c} _ _ _", "answer": (a + b + c) % 10} for a, b, c in steps]


def write(folder, rows, name="my.jsonl"):
    path = folder / name
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return f"env.options.path={path}"


def test_a_file_and_a_model_that_fit_are_described(tmp_path, capsys):
    path = write(tmp_path, chains(100))
    said, wrong = checked(capsys, "env=rows", path, *TOY)
    assert not wrong, said
    assert "errata/rows-v1: 7" in said
    assert "The environment keeps the contract (played on train)." in said
    assert "100 of 100 golds that were graded earn 1." in said
    assert "question 8 8 63 (context) 0 of 100" in said
    # Two attempts of at most 3 tokens, and three tokens between them: <|user|> check <|assistant|>.
    assert "question and all attempts 17 17 64 (context) 0 of 100" in said
    assert "<|user|>|" in said
    assert "|_|_|_|<|assistant|>|:|" in said
    assert "What 6 sampled episodes get" in said
    assert "could: with" in said
    assert "test tasks a rate near 50 %" in said


@pytest.mark.parametrize(
    ("change", "rows", "message"),
    [
        (["env.max_new_tokens=[2]"], chains(60), "60 golds are longer than env.max_new_tokens=2"),
        (["env.prompts_text={retry: look again}"], chains(60), "the model has no token for"),
        ([], [*chains(60), {"question": "1 " * 70, "answer": 1}], "1 question leaves no room in the model's context"),
        (["env.prompts=math-v1"], chains(60), "the prompts ask for \\boxed, which verify does not read"),
    ],
    ids=["limit", "words", "context", "form"],
)
def test_what_would_go_wrong_is_said_with_its_remedy(tmp_path, capsys, change, rows, message):
    said, wrong = checked(capsys, "env=rows", write(tmp_path, rows), *TOY, *change)
    assert wrong
    assert f"must: {message}" in said or message in said.partition("What to change")[2], said


def reads_the_last_word(task, response):
    return Score.of(response.split()[-1] == task.gold)  # raises on an empty response


def test_an_own_verifier_that_raises_on_an_empty_response_is_reported_with_everything_else(tmp_path, capsys):
    own = [f"env.options.verify={__name__}:reads_the_last_word", *(one for one in TOY if "verify" not in one)]
    said, wrong = checked(capsys, "env=rows", write(tmp_path, chains(60)), *own)
    assert wrong
    assert "question and all attempts" in said
    assert "What 6 sampled episodes get" in said
    assert "must: step raises after '' in my.jsonl/1: IndexError" in said


def test_attempts_have_room_beside_what_is_said_between_them(tmp_path, capsys):
    path = write(tmp_path, chains(60))
    said, _ = checked(capsys, "env=rows", path, *TOY, "env.attempts=4", "env.max_new_tokens=[13]")
    assert "question and all attempts 69 69 64 (context) 60 of 60" in said
    assert "env.max_new_tokens=[11] leaves room for 4 attempts" in said


def test_rows_that_are_shown_as_examples_are_counted_and_the_shares_are_named(tmp_path, capsys):
    said, _ = checked(capsys, "env=rows", write(tmp_path, chains(120)), "env.options.few_shot=3")
    assert "3 more training rows are shown as examples" in said
    assert "a larger share of the rows for it, env.options.validation=... env.options.test=..." in said


@pytest.mark.parametrize("n", [1, 60])
def test_of_a_few_rows_it_asks_for_more_and_contradicts_itself_nowhere(tmp_path, capsys, n):
    said, wrong = checked(capsys, "env=rows", write(tmp_path, chains(n)))
    assert f"could: write more rows: {counted(n, 'row')} cannot fill a split of 100 tasks" in said
    assert "larger share" not in said
    assert wrong == (n == 1)
    assert ("must: there are neither validation nor test tasks, so nothing can be measured" in said) == wrong
    assert "evaluation.split=validation" not in said
    assert "45 train, 5 validation, 10 test" in said or n == 1


def test_without_a_model_the_data_are_looked_at_all_the_same(tmp_path, capsys):
    said, wrong = checked(capsys, "env=rows", write(tmp_path, chains(100)))
    assert not wrong
    assert "100 of 100 golds that were graded earn 1." in said
    assert "could: name a model, so that lengths, tokens and samples can be checked: model.path=models/rows" in said
