"""Writes the docs page of models and chat templates from the tests' tables: ``python -m tests.rl.models_page``."""

from rl.rendering import Renderer, TemplateError
from tests.conftest import ROOT
from tests.rl import architectures, templates

PAGE = ROOT / "docs" / "models.md"
_HEAD = """# Models and chat templates

Any causal language model of transformers can be the policy; a folder or a hub id goes into `model.path`. When it is
loaded, a few short conversations go through the engine and through the trainer, and their log-probs must be those of
the model reading each conversation by itself (`rl/backends/model_check.py`). So a model is right, or it is refused by
name.

This page is written by `python -m tests.rl.models_page` from the tables that the tests run, with tiny random models
of each architecture: sampling two turns, one training step, saving and loading.

## Architectures on `engine=hf`

*Read once* says that a prompt that the episodes of a group share is read once in the update, and that a second turn
does not read the first one again. Layers with a sliding window or a recurrent state do not keep what that takes: such
models give the same results with more work.

| models | `model_type` | works | read once |
|---|---|---|---|
"""
_TEMPLATES = """
A refused architecture can be sampled with `engine=vllm` where vLLM knows it. Dropout and router noise are switched
off at load, in modules and configs alike.

## Chat templates

The next prompt is the last one, the answer *as sampled*, and the new question: nothing is rendered twice. A template
that would write the conversation otherwise is refused when a run starts, with what to do:

- `model.thoughts=keep`: earlier answers stay in the context as sampled, thoughts included, though the template would
  drop or rewrite them.
- `model.thoughts=drop`: every prompt is the template's rendering of the conversation without the thoughts of earlier
  answers, as thinking models were trained to read it. Such a prompt is no extension of the turn before, so every turn
  is trained on as a sequence of its own: prompts are shared within a turn and not between turns, where a normaliser
  counts episodes it counts these sequences, and a critic's values or a KL in the reward need `turn_gamma=0`. Credit
  is that of the whole episode (`tests/rl/test_thoughts.py`). A thought that was cut off is dropped with all of its
  answer. Template or tokenizer must know a mark at which thoughts end (`</think>`, `[/THINK]`, ...).
- `model.chat_template=trl:<name>`: one of TRL's training templates, `trl:qwen3` for example, or a Jinja file.
- `model.chat_template_kwargs={enable_thinking: false}`: arguments of the template.
- `model.template_date`: what a template reads as today's date; the same in all of a run, whenever it is resumed.

An answer ends with the template's end token or one of those that the model's `generation_config.json` lists, or at
one of `engine.stop_strings`, which is not part of its text. `algorithm.mask_cut_off=true` leaves answers that the
token limit cut off out of the loss.

| a template like that of | as it is | with `model.thoughts=keep` | with `drop` | a system prompt |
|---|---|---|---|---|
"""


def outcome(row: templates.Row, thoughts: str) -> tuple[str, str]:
    """Two cells of the table: whether a template works with this ``model.thoughts``, and with a system prompt."""
    tokenizer = templates.tokenizer_for(row)
    listed = tokenizer.convert_tokens_to_ids(list(row.listed))
    try:
        renderer = Renderer(tokenizer, listed, template_kwargs=row.kwargs, thoughts=thoughts)
    except TemplateError as error:
        words = str(error).partition(": {")[0].partition(". Appending")[0].removeprefix("the chat template ")
        return f"refused: {words}".replace("|", "\\|"), ""
    system = (renderer._system_fault or "yes").partition(". ")[0].removeprefix("the chat template ")
    return "yes", system.replace("|", "\\|").partition(": 66")[0]


def page() -> str:
    """The text of the page."""
    lines = [_HEAD]
    for row in architectures.ROWS:
        works = f"refused: {row.error}" if row.error else "yes"
        once = "" if row.error else ("yes" if row.lends else "no")
        lines.append(f"| {row.like} | `{row.kind}` | {works} | {once} |\n")
    lines.append(_TEMPLATES)
    for row in templates.ROWS:
        plain, system = outcome(row, "refuse")
        kept, kept_system = outcome(row, "keep") if plain != "yes" else ("", "")
        dropped, dropped_system = outcome(row, "drop")
        works = [one if one == "yes" else "" for one in (kept, dropped)]
        lines.append(
            f"| {row.like} | {plain} | {works[0]} | {works[1]} | {system or kept_system or dropped_system} |\n"
        )
    return "".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
