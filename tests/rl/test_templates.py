"""Chat templates like those of current models: which of them work, and with which message the others are refused."""

from datetime import date

import pytest

from envs import Message
from rl.rendering import Renderer, TemplateError, load_template
from tests.rl.models_page import PAGE, page
from tests.rl.templates import ROWS, tokenizer_for


def renderer(row, **changes):
    tokenizer = tokenizer_for(row)
    return Renderer(tokenizer, tokenizer.convert_tokens_to_ids(list(row.listed)), template_kwargs=row.kwargs, **changes)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.like)
def test_a_template_works_or_is_refused_with_its_remedy(row):
    if row.error:
        with pytest.raises(TemplateError, match=f"(?s){row.error}") as refusal:
            renderer(row)
        assert "model." in str(refusal.value) or "generation_config" in str(refusal.value), "it says what to do"
        if not row.keeps:
            with pytest.raises(TemplateError):
                renderer(row, thoughts="keep")
            return
    made = renderer(row, thoughts="keep" if row.keeps else "refuse")
    tokenizer = made.tokenizer
    assert tokenizer.convert_ids_to_tokens(made.end_id) == row.end
    prompt = made.opening([Message("user", "1 + 1?")])
    thought = tokenizer.encode("a thought</think>2", add_special_tokens=False)
    second = made.extend(prompt, (*thought, made.end_id), [Message("user", "Sure?")])
    assert second[: len(prompt) + len(thought)] == (*prompt, *thought), "what was sampled stays as it was"
    # The tokens after the answer equal those that a conversation without thoughts has there.
    chat = [{"role": r, "content": t} for r, t in (("user", "1 + 1?"), ("assistant", "2"), ("user", "Sure?"))]
    blocks = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in chat]
    text = tokenizer.apply_chat_template(
        blocks if made._blocks else chat, tokenize=False, add_generation_prompt=True,
        strftime_now=date(2026, 1, 1).strftime, **row.kwargs,
    )  # fmt: skip
    whole = tuple(tokenizer.encode(text, add_special_tokens=False))
    added = second[len(prompt) + len(thought) + 1 :]
    assert len(added) > 5
    assert whole[-len(added) :] == added
    assert made.extend(prompt, tuple(thought), [Message("user", "Sure?")])[-len(added) :] == added  # a cut-off answer
    with_system = [Message("system", "Be brief."), Message("user", "1 + 1?")]
    if row.system:
        with pytest.raises(TemplateError, match=row.system):
            made.opening(with_system)
    else:
        made.opening(with_system)


def test_the_date_in_a_template_is_the_runs():
    row = next(row for row in ROWS if "date" in row.like)
    old, new = (renderer(row, today=day) for day in (date(2024, 7, 26), date(2026, 1, 1)))
    prompts = [r.tokenizer.decode(r.opening([Message("user", "x")])) for r in (old, new)]
    assert ["26 July 2024" in prompts[0], "01 January 2026" in prompts[1]] == [True, True]


def test_training_templates_come_by_name(tmp_path):
    assert load_template("trl:qwen3") != load_template("trl:qwen2_5")
    own = tmp_path / "own.jinja"
    own.write_text("x", encoding="utf-8")
    assert load_template(str(own)) == "x"
    with pytest.raises(TemplateError, match=r"model\.chat_template=trl:qwen: no such file\..*trl:<name>.*qwen3"):
        load_template("trl:qwen")


def test_the_page_of_models_says_what_these_tests_found():
    assert PAGE.read_text(encoding="utf-8") == page(), "write it again: python -m tests.rl.models_page"
