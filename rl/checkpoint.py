"""Saving a policy so that every other tool can load it, whole or not at all."""

import os
import shutil
from pathlib import Path
from typing import Any


def save_policy(folder: Path, model: Any, tokenizer: Any) -> Path:
    """Writes model and tokenizer with ``save_pretrained`` to a temporary name, then renames; returns the folder."""
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.replace(folder)
    return folder
