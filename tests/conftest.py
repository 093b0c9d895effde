"""Shared fixtures, and a guard under which a test fails if it connects to anything but its own machine."""

import gc
import os
import socket
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
os.environ.pop("COLUMNS", None)  # programs under test would cut their output to the width of the user's terminal
torch.set_num_threads(1)
# fsync costs time and protects only against a power cut; what a killed process wrote is kept without it.
os.fsync = lambda _: None


def pytest_collection_modifyitems(items):
    """Runs the longest tests first, so that parallel test processes finish at about the same time."""

    def seconds(item):
        mark = item.get_closest_marker("slow")
        return mark.args[0] if mark and mark.args else 0

    items.sort(key=seconds, reverse=True)


def pytest_collection_finish():
    """Excludes tests and libraries from later garbage collections, which would traverse them every time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    connect = socket.socket.connect

    def guarded(self, address):
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "localhost", "::1"):
            raise OSError(f"a test tried to reach {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(scope="session")
def modchain():
    """The embedded base model, its tokenizer and renderer; do not train the model, which all tests share."""
    from rl.backends.policy import load_policy
    from rl.config import ModelConfig
    from rl.rendering import Renderer

    model, tokenizer = load_policy(ModelConfig(path=str(ROOT / "models" / "modchain")))
    return model.eval(), tokenizer, Renderer(tokenizer)
