"""Uploads a run's policy and card to the hub: ``python -m experiments.push run=runs/train/<time> repo=me/mine``."""

import json
import shlex
from pathlib import Path
from typing import Any

from experiments.cli import UserError, console, entry_point
from experiments.schema import PushConfig
from rewards.wording import counted

_CARD = """---
{metadata}
---

# {arm}, trained on {env}

A policy from Errata: does a language model get better by training on what it generates itself?

| | |
|---|---|
| base | `{base}` |
| arm | {arm}, seed {seed} |
| environment | `{env_id}`, {attempts} |
| sampled episodes, optimiser steps | {episodes}, {updates} |
| versions | {versions} |

## What it does

On {tasks} of `{env_id}`, in percent; `t<k>` is attempt k:

{rates}

## How it was made

```bash
{command}
```

Commit `{commit}`. The whole config:

```yaml
{config}
```
"""
_REPORTED = ("accuracy", "delta", "wrong_to_right", "right_to_wrong")


def model_card(folder: Path) -> str:
    """Returns the model card of a finished run, with its base model, arm, config, rates and command.

    Raises:
        UserError: If the folder holds no finished run.
    """
    from huggingface_hub import EvalResult, ModelCardData
    from omegaconf import OmegaConf

    try:
        run, result = (json.loads((folder / f"{name}.json").read_text("utf-8")) for name in ("run", "result"))
        text = (folder / "config.yaml").read_text("utf-8")
    except OSError as error:
        raise UserError(f"run={folder}: no finished run there: {Path(error.filename).name} is missing") from error
    except ValueError as error:
        raise UserError(f"run={folder}: run.json and result.json are not those of a run ({error})") from error
    if not (isinstance(result, dict) and {"arm", "seed", "totals", "greedy", "sampled"} <= set(result)):
        raise UserError(f"run={folder}: its result.json is not that of a run; name a folder as runs/train/<time>")
    config: Any = OmegaConf.create(text)
    modes = {mode: result[mode] for mode in ("greedy", "sampled") if result[mode]}
    names = [name for name in next(iter(modes.values()), {}) if name.startswith(_REPORTED)]
    rows = [f"| {' | '.join(['rate', *modes])} |", "|" + "---|" * (1 + len(modes))]
    for name in names:
        cells = [f"{100 * values[name]:.1f}" if name in values else "" for values in modes.values()]
        rows.append(f"| {' | '.join([f'`{name}`', *cells])} |")
    base = str(config.model.path)
    # The card's base_model must be a hub id: a local folder would be a broken link.
    is_hub_id = not Path(base).exists() and base.count("/") == 1
    measured = [
        EvalResult("text-generation", config.env.id, config.env.name, name, values[name], metric_name=f"{mode} {name}")
        for mode, values in modes.items()
        for name in names
        if name.startswith("accuracy") and name in values
    ]
    metadata = ModelCardData(
        model_name=f"{result['arm']} on {config.env.name}",
        base_model=base if is_hub_id else None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["errata", "reinforcement-learning", "self-correction", config.env.name],
        eval_results=measured or None,
    )
    return _CARD.format(
        metadata=metadata.to_yaml(),
        arm=result["arm"],
        seed=result["seed"],
        env=config.env.name,
        env_id=config.env.id,
        attempts=counted(config.env.attempts, "attempt"),
        base=base,
        episodes=result["totals"].get("episodes", 0),
        updates=result["totals"].get("updates", 0),
        versions=", ".join(f"{name} {version}" for name, version in run["packages"].items()),
        tasks=counted(int(next((values["n"] for values in modes.values()), 0)), f"{config.evaluation.split} task"),
        rates="\n".join(rows),
        command=shlex.join(run["command"]),
        commit=run["commit"],
        config=text.rstrip(),
    )


def push(folder: Path, repo: str, private: bool) -> str:
    """Publishes the policy of a finished run on the hub; returns its address.

    Raises:
        UserError: If the run is not finished, it has no policy, or the upload fails (no token, refused by the hub). The
            local policy is kept.
    """
    from rl.backends.hub import HubError, publish

    card = model_card(folder)
    if not (folder / "policy" / "config.json").exists():
        raise UserError(f"run={folder}: there is no policy in it")
    try:
        return publish(folder / "policy", repo, card, private)
    except HubError as error:
        raise UserError(
            f"{error}. The run is complete in {folder}; try again with "
            f"python -m experiments.push run={folder} repo={repo}" + ("" if private else " private=false")
        ) from error


def refuse_early(repo: str | None) -> None:
    """Raises UserError before a run if its policy could not be published because there is no token."""
    from rl.backends.hub import HubError, refuse_without_token

    try:
        if repo is not None:
            refuse_without_token(repo)
    except HubError as error:
        raise UserError(str(error)) from error


@entry_point("push", runs=False)
def main(cfg: PushConfig) -> None:
    """Writes the model card and uploads it with the policy."""
    console.print(f"published as {push(Path(cfg.run), cfg.repo, cfg.private)}", highlight=False)


if __name__ == "__main__":
    main()
