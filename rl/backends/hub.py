"""The Hugging Face hub: data sets from there, for task sets that know them (:mod:`envs.published`); policies to it."""

import os
from functools import cache
from pathlib import Path
from typing import Any

from envs.published import use_hub_reader

REACH_S = 5.0
"""How long the hub has for its first answer."""


class HubError(RuntimeError):
    """A policy could not be published; it is still where it was."""


@cache
def no_answer() -> str:
    """Why the hub cannot be reached, empty if it can; asked once a process, before anything else of the hub.

    Its client asks for every file up to six times, with growing pauses, which takes a minute to say that there is no
    network. After one question without an answer it is told to look into its local cache alone.
    """
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        get_session().head(constants.ENDPOINT, timeout=REACH_S)
    except Exception as error:  # of whichever HTTP client the hub's library has
        # The client has read the variable when it was imported; libraries that come later, and jobs, read it then.
        os.environ["HF_HUB_OFFLINE"] = "1"
        constants.HF_HUB_OFFLINE = True
        return f"{constants.ENDPOINT} does not answer: {str(error) or type(error).__name__}"
    return ""


def read_split(repo: str, config: str | None, split: str) -> list[dict[str, Any]]:
    """Rows of a split, from the hub or its local cache."""
    no_answer()
    import datasets  # seconds of imports, paid by those who use the hub

    return [dict(row) for row in datasets.load_dataset(repo, config, split=split)]


def read_splits(path: str, config: str | None) -> dict[str, list[dict[str, Any]]]:
    """Rows by split, of a folder that ``datasets`` saved or of a repository; "" is the name of rows without splits."""
    if not Path(path).is_dir():
        no_answer()
    import datasets

    found: Any = datasets.load_from_disk(path) if Path(path).is_dir() else datasets.load_dataset(path, config)
    parts = found if isinstance(found, dict) else {"": found}
    return {str(name): [dict(row) for row in part] for name, part in parts.items()}


def register() -> None:
    """Lets ``env.options.path=hub``, and folders and ids of data sets, be read through this module."""
    use_hub_reader(read_split, read_splits)


def refuse_without_token(repo: str) -> None:
    """Raises HubError, with what to do, if nothing here may write to the hub: better before a run than after it."""
    from huggingface_hub import get_token

    if get_token() is None:
        raise HubError(
            f"hub.repo={repo}: there is no token for the Hugging Face hub. Run `hf auth login` or set HF_TOKEN, to one "
            "that may write; or leave hub.repo away and publish later with `python -m experiments.push`"
        )


def publish(policy: Path, repo: str, card: str, private: bool) -> str:
    """Uploads a policy's folder with its card; returns its address.

    Args:
        policy: Model and tokenizer in transformers' format.
        repo: ``<owner>/<name>``; made if it is not there.
        card: Text of its ``README.md``, which stays beside the policy too.
        private: Whether a new repository is private.

    Raises:
        HubError: If there is no token, or the hub does not take it; in one sentence.
    """
    refuse_without_token(repo)
    from huggingface_hub import HfApi

    (policy / "README.md").write_text(card, encoding="utf-8")
    try:
        api = HfApi()
        address = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=policy, commit_message="Policy and card")
    except Exception as error:  # no network, no right to write, a name that the hub refuses: nothing here is lost
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise HubError(f"{repo}: the hub did not take the policy: {said}") from error
    return str(address)
