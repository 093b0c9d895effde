"""Entry points: programs that read a config and write a run folder."""

import sys
from types import TracebackType


def _quietly(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        begun = False  # whether a function of the program itself was running, so that more than imports was done
        while trace is not None:
            frame, trace = trace.tb_frame, trace.tb_next
            begun |= frame.f_globals.get("__name__") == "__main__" and frame.f_code.co_name != "<module>"
        said = "interrupted" if begun else "interrupted while the program was loading; nothing was begun"
        print(said, file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


# In its first seconds a program imports modules and cannot catch Ctrl-C yet; the hook replaces the traceback. The hook
# is set only for programs of this package, so that importing the package as a library leaves the caller's hook alone.
if any(one.startswith("experiments.") for one in sys.orig_argv[1:3]):
    sys.excepthook = _quietly
