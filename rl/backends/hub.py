"""The Hugging Face hub: loads data sets for task sets (:mod:`envs.published`) and publishes policies."""

import os
from functools import cache
from pathlib import Path
from typing import Any

from envs.published import use_hub_reader

REACH_S = 5.0
"""Time limit in seconds for the hub's first answer."""


class HubError(RuntimeError):
    """A policy could not be published; its local files are unchanged."""


@cache
def no_answer() -> str:
    """The reason why the hub cannot be reached; empty if it can. Must be called before any other use of the hub.

    The hub's client requests every file up to six times with growing pauses, so it takes a minute to report that there
    is no network. This function sends one request, once per process; if it fails, the client is switched to its local
    cache.
    """
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        get_session().head(constants.ENDPOINT, timeout=REACH_S)
    except Exception as error:  # the type of the error depends on the HTTP client that the hub's library uses
        # The variable is for libraries that are imported later and for subprocesses; the client itself has read it
        # when it was imported, so its constant is set too.
        os.environ["HF_HUB_OFFLINE"] = "1"
        constants.HF_HUB_OFFLINE = True
        return f"{constants.ENDPOINT} does not answer: {str(error) or type(error).__name__}"
    return ""


def read_split(repo: str, config: str | None, split: str) -> list[dict[str, Any]]:
    """Rows of a split of a data set, from the hub or its local cache."""
    no_answer()
    import datasets  # imported here, because it takes seconds

    return [dict(row) for row in datasets.load_dataset(repo, config, split=split)]


def read_splits(path: str, config: str | None) -> dict[str, list[dict[str, Any]]]:
    """Rows by split, of a folder that ``datasets`` saved or of a repository; rows without splits are under ``""``."""
    if not Path(path).is_dir():
        no_answer()
    import datasets

    found: Any = datasets.load_from_disk(path) if Path(path).is_dir() else datasets.load_dataset(path, config)
    parts = found if isinstance(found, dict) else {"": found}
    return {str(name): [dict(row) for row in part] for name, part in parts.items()}


def register() -> None:
    """Registers this module as reader of ``env.options.path=hub`` and of folders and ids of data sets."""
    use_hub_reader(read_split, read_splits)


def refuse_without_token(repo: str) -> None:
    """Raises HubError if there is no token for the hub; called before a run, so that it does not fail at its end."""
    from huggingface_hub import get_token

    if get_token() is None:
        raise HubError(
            f"hub.repo={repo}: there is no token for the Hugging Face hub. Run `hf auth login` or set HF_TOKEN, with a "
            "token that may write; or remove hub.repo and publish later with `python -m experiments.push`"
        )


def publish(policy: Path, repo: str, card: str, private: bool) -> str:
    """Uploads a policy's folder with a model card; returns the address of the repository.

    Args:
        policy: Folder with model and tokenizer in transformers' format.
        repo: Repository ``<owner>/<name>``; created if it does not exist.
        card: Text of the model card, which is also written to ``README.md`` in the folder.
        private: Whether a new repository is private.

    Raises:
        HubError: If there is no token, or the upload fails; the message is one sentence.
    """
    refuse_without_token(repo)
    from huggingface_hub import HfApi

    (policy / "README.md").write_text(card, encoding="utf-8")
    try:
        api = HfApi()
        address = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=policy, commit_message="Policy and card")
    except Exception as error:  # no network, no write permission, a name that the hub refuses: local files are kept
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise HubError(f"{repo}: the hub refused the policy: {said}") from error
    return str(address)
