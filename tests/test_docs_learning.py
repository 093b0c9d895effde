"""The teaching pages run as printed: the commands of the first steps at smoke size, and the explanations' examples."""

import importlib
import re
import shlex

import pytest

from experiments import play
from experiments.configs import config
from notebooks.run import run_cell
from tests.conftest import ROOT
from tests.rl.templates import Row, tokenizer_for
from tests.test_docs import PAGES, blocks

SMOKE = ["env.options.n_train=64", "env.options.n_validation=8", "evaluation.n_tasks=6", "threads=1"]
TRAINED = [*SMOKE, "training.episodes=192", "training.tasks_per_step=8"]
COMPARED = ["executor=here", "seeds=[0]", "evaluation.max_attempts=0", "evaluation.fixed_first=0", "tuned=none"]
SMALLER = {"evaluate": SMOKE, "train": TRAINED, "compare": [*TRAINED, *COMPARED]}


def test_the_first_steps_run_as_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").symlink_to(ROOT / "models")
    monkeypatch.setattr("experiments.report.write_report", lambda *_: None)  # the report has its own tests
    answers = iter(["def a_ b_ c0 d_", "def a_ b_ c0 d_"])
    monkeypatch.setattr(play.console, "input", lambda _: next(answers, None) or (_ for _ in ()).throw(EOFError))
    lines = [line for block in blocks(ROOT / "docs" / "get_started.md", "bash") for line in block.splitlines()]
    run, folder = [], None
    for words in (shlex.split(line.replace("<folder>", str(folder)), comments=True) for line in lines):
        if words[:2] != ["python", "-m"]:
            assert words[0] in ("make", "source")
            continue
        program = words[2].removeprefix("experiments.")
        overrides = [one.replace("<folder>", str(folder)) for one in words[3:]]
        module = importlib.import_module(words[2])
        found = module.main.run(config(program, *overrides, *SMALLER.get(program, ())))
        folder = found if program == "train" else folder
        run.append(program)
    assert run == ["play", "evaluate", "train", "watch", "evaluate", "compare"]
    printed = capsys.readouterr().out
    assert "1 episode, reward" in printed
    assert (tmp_path / "runs" / "train" / folder.name / "policy" / "config.json").exists()
    assert {path.parts[-2] for path in (tmp_path / "runs" / "compare").glob("*/arms/*/seed_0")} == {
        "base",
        "star",
        "score",
    }


@pytest.mark.parametrize("page", ["credit_over_turns.md", "kl.md"])
def test_the_examples_of_an_explanation_print_what_it_says(page):
    text, scope = (ROOT / "docs" / page).read_text(), {}
    pairs = re.findall(r"^```python\n(.*?)^```$(?:\s+^```text\n(.*?)^```$)?", text, re.DOTALL | re.MULTILINE)
    assert sum(bool(said) for _, said in pairs) >= 1
    for code, said in pairs:
        printed, _ = run_cell(code, scope, page)
        assert printed == said


def test_the_shortest_template_works_for_a_tokenizer_with_chatml_tokens():
    from envs import Message
    from rl.rendering import Renderer

    (template,) = blocks(ROOT / "docs" / "own_model.md", "jinja")
    tokenizer = tokenizer_for(Row("ours", template))
    renderer = Renderer(tokenizer, [tokenizer.convert_tokens_to_ids("<|im_end|>")])
    asked = renderer.opening([Message("system", "Be brief."), Message("user", "1 + 1?")])
    answer = (*tokenizer.encode("2", add_special_tokens=False), renderer.end_id)
    second = renderer.extend(asked, answer, [Message("user", "Sure?")])
    assert second[: len(asked) + len(answer)] == (*asked, *answer)
    assert tokenizer.decode(second).endswith("2<|im_end|>\n<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n")


def test_every_page_with_code_is_named_by_a_test():
    tests = "\n".join(path.read_text() for path in sorted((ROOT / "tests").rglob("*.py")))
    for page in PAGES:
        if blocks(page, "python"):
            assert f'"{page.name}"' in tests, f"{page.name} prints code that no test runs"


def test_the_site_has_every_page_in_its_navigation():
    listed = re.findall(r"([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text().split("nav:")[1], re.MULTILINE)
    assert len(set(listed)) == len(listed)
    notebooks = {f"notebooks/{path.stem}.md" for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert set(listed) == {path.name for path in (ROOT / "docs").glob("*.md")} | notebooks | {"index.md"}
