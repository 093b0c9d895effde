"""Shared fixtures. Tests need no network: opening a socket to anything but this machine fails."""

import gc
import os
import socket
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
os.environ.pop("COLUMNS", None)  # of the terminal that the tests are started in: what they read would be cut to it
torch.set_num_threads(1)
os.fsync = lambda _: None  # it guards against a power cut, which no test survives; a kill loses nothing without it


def pytest_collection_modifyitems(items):
    """The longest tests are run first, so that several processes come to their ends together."""

    def seconds(item):
        mark = item.get_closest_marker("slow")
        return mark.args[0] if mark and mark.args else 0

    items.sort(key=seconds, reverse=True)


def pytest_collection_finish():
    """Keeps thousands of tests and the libraries out of every later collection of garbage, which would walk them."""
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
    """The embedded base model, its tokenizer and renderer; do not train it."""
    from rl.backends.policy import load_policy
    from rl.config import ModelConfig
    from rl.rendering import Renderer

    model, tokenizer = load_policy(ModelConfig(path=str(ROOT / "models" / "modchain")))
    return model.eval(), tokenizer, Renderer(tokenizer)
