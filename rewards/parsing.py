"""Python source as a tree, one thread at a time."""

import ast
from threading import Lock
from typing import Any

_LOCK = Lock()


def parse(code: str, mode: str = "exec") -> Any:
    """``ast.parse``, safe to call from many threads.

    CPython 3.11 counts the depth of the tree that it builds per interpreter, not per thread: two threads that build one
    at once can raise ``SystemError: AST constructor recursion depth mismatch``, about once in 25,000 programs under load.
    (CPython issue 106905, mended in later versions.)

    Raises:
        SyntaxError: If it is no Python; also ``ValueError``, ``MemoryError`` and ``RecursionError``, as ``ast.parse`` does.
    """
    with _LOCK:
        return ast.parse(code, mode=mode)
