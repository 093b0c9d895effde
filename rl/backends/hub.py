"""Data sets from the Hugging Face hub, for task sets that know their copy there (:mod:`envs.published`)."""

from typing import Any

from envs.published import use_hub_reader


def read_split(repo: str, config: str | None, split: str) -> list[dict[str, Any]]:
    """Rows of a split, from the hub or its local cache."""
    import datasets  # seconds of imports, paid by those who use the hub

    return [dict(row) for row in datasets.load_dataset(repo, config, split=split)]


def register() -> None:
    """Lets ``env.options.path=hub`` read through this module."""
    use_hub_reader(read_split)
