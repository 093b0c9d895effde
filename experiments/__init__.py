"""Entry points: configs in, run folders out."""

import sys
from types import TracebackType


def _quietly(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted while the program was loading; nothing was begun", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


# Ctrl-C in the first seconds hits an import, before any program can catch it. A library keeps its host's hook.
if any(one.startswith("experiments.") for one in sys.orig_argv[1:3]):
    sys.excepthook = _quietly
