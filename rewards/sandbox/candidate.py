"""Runs in the sandbox, in the process of the program: loads the program, calls it and sends back plain data.

Nothing that this process sends is trusted, since the program shares its memory and may change all of it. The process
never receives a test or an expected value, only the arguments of the calls that it must answer.
"""

import atexit
import builtins
import gc
import io
import linecache
import operator
import os
import socket
import sys
import time
import traceback
import types
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain, islice
from typing import Any, NoReturn

from rewards.sandbox.codec import MAX_ITEMS, NotPlainError, decode, encode, is_iterator, iterated
from rewards.sandbox.wire import Frames, frame

SOURCE_NAME = "solution.py"
MAX_REQUEST_BYTES = 64 * 2**20
MAX_FRAMES = 12
# A shorter iterator is sent to the judge as data; the judge requests the items of a longer one one at a time.
_EAGER_ITEMS = 1000
# Quick replies are collected for this long and sent together, since a system call each would cost more than most tests.
_TOGETHER_S = 0.02


class _Capped(io.FileIO):
    """A descriptor that accepts ``left`` more bytes and drops all further output without an error."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self.left = 0

    def write(self, data: Any) -> int:
        # Dropped data counts as written, so that too much output is no error of the program and fills no memory.
        kept = memoryview(data).cast("B")[: self.left]
        self.left -= len(kept)
        while kept:
            kept = kept[super().write(kept) or 0 :]
        return len(data)


def open_streams() -> list[_Capped]:
    """Opens standard streams over descriptors 0, 1 and 2, and returns the capped sinks of output and error."""
    sinks = []
    # Names, modes and error handlers are those of a fresh interpreter, since programs read some of them.
    raw = io.FileIO(0, "r", closefd=False)
    raw.name = "<stdin>"  # type: ignore[misc]
    sys.stdin = sys.__stdin__ = io.TextIOWrapper(io.BufferedReader(raw), "utf-8", newline="\n")  # type: ignore[misc]
    sys.stdin.mode = "r"  # type: ignore[misc]
    for descriptor, name, errors in ((1, "stdout", "strict"), (2, "stderr", "backslashreplace")):
        sink = _Capped(descriptor)
        sinks.append(sink)
        sink.name = f"<{name}>"  # type: ignore[misc]
        text = io.TextIOWrapper(io.BufferedWriter(sink), "utf-8", errors, "\n", line_buffering=descriptor == 2)
        text.mode = "w"  # type: ignore[misc]
        setattr(sys, name, text)
        setattr(sys, f"__{name}__", text)
    return sinks


def _flush() -> None:
    for name in ("stdout", "stderr", "__stdout__", "__stderr__"):
        try:
            getattr(sys, name).flush()
        except Exception:  # the program may have replaced, removed or closed the stream
            continue


class Candidate:
    """The program, its namespace, and the objects of its own classes that a judge holds references to."""

    def __init__(self) -> None:
        self._namespace: dict[str, Any] = {}
        self._objects: list[Any] = []
        self._indices: dict[int, int] = {}
        self._hooks: dict[str, Callable[[Any], Any]] = {
            "ref": lambda body: self._objects[body[0]],
            "ListNode": self._linked_list,
            "TreeNode": self._tree,
            "ndarray": lambda body: sys.modules["numpy"].array(decode(body[1]), dtype=body[0]),
        }

    def serve(self, channel: socket.socket) -> NoReturn:
        """Answers requests that arrive over the channel until the peer is gone."""
        frames = Frames(channel)
        try:
            while True:
                request = frames.receive(MAX_REQUEST_BYTES)
                # Replies are sent together, unless the request is eager: then the peer needs to know which reply was
                # the last one and what was printed until then.
                together = request["kind"] == "calls" and not request.get("eager")
                waiting, since = b"", time.monotonic()
                for reply in self.answer(request):
                    waiting += frame(reply)
                    if not together:
                        _flush()
                    if not together or time.monotonic() - since > _TOGETHER_S:
                        channel.sendall(waiting)
                        waiting, since = b"", time.monotonic()
                channel.sendall(waiting)
        finally:
            os._exit(0)

    def answer(self, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The replies to one request: one for each call, otherwise one. An exception of the program is a reply too."""
        if request["kind"] == "calls":
            for call in request["calls"]:
                yield _guarded(self._call, call)
        else:
            yield _guarded(getattr(self, "_" + request["kind"]), request)

    def _load(self, request: dict[str, Any]) -> dict[str, Any]:
        self._namespace = _module("solution", request["source"])
        if request.get("prelude"):
            exec(compile(request["prelude"], "prelude.py", "exec"), self._namespace)
        exec(compile(request["source"], SOURCE_NAME, "exec"), self._namespace)
        return {"loaded": True}

    def _call(self, call: dict[str, Any]) -> dict[str, Any]:
        args = [decode(node, self._hooks) for node in call["args"]]
        kwargs = {name: decode(node, self._hooks) for name, node in call["kwargs"].items()}
        function = self._hooks["ref"](call["ref"]) if "ref" in call else self._named(call["name"])
        if "method" in call:
            function = getattr(function, call["method"])
        keep = call.get("refs", False)
        value = function(*args, **kwargs)
        # A coroutine is not a value. It is closed, because a coroutine that is never awaited warns on standard error.
        if isinstance(value, types.CoroutineType):
            value.close()
            raise TypeError("the function is async: a test calls it and needs its value")
        reply = {"value": self._encode(value, keep)}
        if keep:  # for the judge, whose tests may check how the call changed its arguments
            reply["args"] = [self._encode(arg, keep) for arg in args]
        return reply

    def _named(self, name: str) -> Any:
        """The function of a name; ``Solution.method`` is a method of a new instance of the class."""
        owner, _, name = name.rpartition(".")
        if owner:
            return getattr(self._named(owner)(), name)
        if name not in self._namespace:
            raise NameError(f"name {name!r} is not defined")
        return self._namespace[name]

    def _names(self, request: dict[str, Any]) -> dict[str, Any]:
        """The program's values of the names that a test uses; names that the program does not define are left out."""
        found = {}
        for name in request["names"]:
            # ``self`` marks a missing name, because None may be the value of a name.
            value = self._namespace.get(name, self)
            if isinstance(value, type) and issubclass(value, Exception):
                found[name] = {"exception": _mro(value)}
            elif value is not self:
                found[name] = {"value": self._encode(value, True)}
        return {"names": found}

    def _attribute(self, request: dict[str, Any]) -> dict[str, Any]:
        target, name = self._hooks["ref"](request["ref"]), request["attribute"]
        if "value" in request:
            setattr(target, name, decode(request["value"], self._hooks))
            return {"value": None}
        value = getattr(target, name)
        return {"callable": True} if callable(value) else {"value": self._encode(value, True)}

    def _operate(self, request: dict[str, Any]) -> dict[str, Any]:
        """Applies an operator or a protocol of the language to objects of the program's own classes."""
        name, args = request["operator"], [decode(node, self._hooks) for node in request["args"]]
        if name == "next":
            # The end of an iterator is sent as data, because the judge never raises a StopIteration of the program
            # again: that would silently end a loop of the tests.
            items = list(islice(args[0], 1))
            return {"value": self._encode(items[0], True)} if items else {"end": True}
        if name == "iter" and is_iterator(args[0]):
            return {"value": self._known(args[0])}
        if name == "exit":
            error = getattr(builtins, args[1], Exception)(args[2]) if args[1] else None
            return {"value": bool(args[0].__exit__(error and type(error), error, None))}
        function = _OPERATIONS.get(name) or getattr(operator, name)
        return {"value": self._encode(function(*args), True)}

    def _encode(self, value: Any, keep: bool) -> Any:
        return encode(value, self._refer if keep else self._structure)

    def _structure(self, value: Any) -> Any:
        """The node of an object of a known class; for any other object, only the name of its class is sent."""
        kind = type(value).__name__
        if kind == "ListNode":
            values, node = [], value
            while node is not None and len(values) <= MAX_ITEMS:
                values.append(node.val)
                node = node.next
        elif kind == "TreeNode":
            values, level = [], [value]
            for node in level:  # the list grows during the loop
                values.append(node and node.val)
                level += [node.left, node.right] if node and len(level) <= MAX_ITEMS else []
            while values and values[-1] is None:
                values.pop()
        elif type(value).__module__ == "numpy" and hasattr(value, "tolist"):
            plain = encode(value.tolist())
            return {"ndarray": [value.dtype.str, plain]} if getattr(value, "shape", ()) else plain
        elif is_iterator(value):
            return iterated(value, self._structure)
        else:
            return {"opaque": kind[:100]}
        if len(values) > MAX_ITEMS:
            raise NotPlainError(f"more than {MAX_ITEMS} nodes, or a cycle")
        return {kind: [encode(item) for item in values]}

    def _linked_list(self, values: list[Any]) -> Any:
        node = None
        for value in reversed(values):
            made = self._namespace["ListNode"](decode(value))
            made.next, node = node, made
        return node

    def _tree(self, values: list[Any]) -> Any:
        nodes = [None if value is None else self._namespace["TreeNode"](decode(value)) for value in values]
        # In LeetCode's notation, level by level, a missing node has no entries for children.
        parents = [node for node in nodes if node is not None]
        for index, node in enumerate(nodes[1:]):
            setattr(parents[index // 2], "right" if index % 2 else "left", node)
        return nodes[0] if nodes else None

    def _refer(self, value: Any) -> Any:
        if is_iterator(value):  # sent as data if it ends soon; otherwise the judge requests one item at a time
            value = iter(value)
            items = list(islice(value, _EAGER_ITEMS))
            if len(items) < _EAGER_ITEMS:
                return {"iter": [self._encode(item, True) for item in items]}
            value = chain(items, value)
        elif type(value).__module__ == "numpy" and hasattr(value, "tolist"):
            return self._structure(value)
        return self._known(value)

    def _known(self, value: Any) -> Any:
        # The list keeps each object alive, so that no other object can get the same id.
        if id(value) not in self._indices:
            self._indices[id(value)] = len(self._objects)
            self._objects.append(value)
        return {"ref": [self._indices[id(value)], type(value).__name__]}


_OPERATIONS: dict[str, Callable[..., Any]] = {
    "len": len, "iter": iter, "str": str, "repr": repr, "bool": bool, "hash": hash, "int": int, "float": float,
    "round": round, "divmod": divmod, "reversed": reversed, "isinstance": isinstance, "issubclass": issubclass,
    "format": format, "enter": lambda value: value.__enter__(),
}  # fmt: skip


def _module(name: str, source: str) -> dict[str, Any]:
    """The namespace of a new module, prepared as if the module were read from a file."""
    module = types.ModuleType(name)
    module.__file__ = SOURCE_NAME
    # Dataclasses and pickle look up their module in sys.modules.
    sys.modules[name] = module
    linecache.cache[SOURCE_NAME] = (lambda: source,)  # so that tracebacks show source lines
    return module.__dict__


def _guarded(function: Callable[[dict[str, Any]], dict[str, Any]], request: dict[str, Any]) -> dict[str, Any]:
    """The reply of a handler, or a reply that describes what it raised, including SystemExit and KeyboardInterrupt."""
    try:
        return function(request)
    except NotPlainError as error:
        return {"unusable": str(error)}
    except BaseException as error:
        return {"raised": describe(error)}


def describe(error: BaseException) -> dict[str, Any]:
    """Type, message and frames of an exception; only the program's own frames, innermost last."""
    frames = []
    step = error.__traceback__
    while step is not None:
        if step.tb_frame.f_code.co_filename == SOURCE_NAME:
            frames.append([step.tb_lineno, step.tb_frame.f_code.co_name])
        step = step.tb_next
    if isinstance(error, SyntaxError) and error.filename == SOURCE_NAME:
        frames.append([error.lineno or 0, "<module>"])
    try:
        message = error.msg if isinstance(error, SyntaxError) else str(error)
    except BaseException:
        message = "<the message could not be formatted>"
    return {
        "type": type(error).__name__[:100],
        "mro": _mro(type(error)),
        "message": str(message)[:2000],
        # After a deep recursion, only the first two and the last frames are sent, MAX_FRAMES in total.
        "frames": frames[:2] + frames[2:][-(MAX_FRAMES - 2) :],
    }


def _mro(kind: type) -> list[str]:
    return [base.__name__[:100] for base in kind.__mro__][:12]


def run_script(source: str) -> NoReturn:
    """Runs a whole program as ``python solution.py`` would, and exits like Python, but without its final clean-up."""
    sys.argv, sys.orig_argv = [SOURCE_NAME], ["python", SOURCE_NAME]
    # Programs open /dev/stdin, which does not exist in the sandbox; it is redirected to descriptor 0.
    builtins.open = io.open = _open  # type: ignore[assignment]
    os.open = _open_descriptor  # type: ignore[assignment]
    # Run the program, and turn its end into the exit status and standard error that Python would produce.
    namespace, status = _module("__main__", source), 0
    namespace["__builtins__"] = builtins
    try:
        exec(compile(source, SOURCE_NAME, "exec"), namespace)
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
        if status and not isinstance(error.code, int):
            print(error.code, file=sys.stderr)
    except BaseException as error:
        status = 1
        trace = error.__traceback__
        # The frames of this module are left out of the traceback.
        while trace is not None and trace.tb_frame.f_code.co_filename != SOURCE_NAME:
            trace = trace.tb_next
        if sys.excepthook is sys.__excepthook__:
            traceback.print_exception(error.with_traceback(trace))
        else:
            sys.excepthook(type(error), error, trace)
        del error, trace
    # The steps of the interpreter's own exit, in the same order: join threads, run exit functions, flush. Python exits
    # with status 120 if standard output cannot be flushed.
    with suppress(BaseException):
        if "threading" in sys.modules:
            sys.modules["threading"]._shutdown()
        atexit._run_exitfuncs()
    try:
        if not getattr(sys.stdout, "closed", False):
            sys.stdout.flush()
    except BaseException:
        status = 120
    namespace.clear()  # drops the last references to files that were left open, which flushes and closes them
    gc.collect()
    _flush()
    os._exit(status & 0xFF)


_DEVICES = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}
_DEVICES |= {f"{folder}/{number}": number for folder in ("/dev/fd", "/proc/self/fd") for number in range(3)}
_real_open, _real_open_descriptor = open, os.open


def _open(file: Any, *args: Any, **kwargs: Any) -> Any:
    """``open`` that also knows the names of the standard streams, such as ``/dev/stdin``, which have no file here."""
    known = _DEVICES.get(os.fspath(file)) if isinstance(file, str | os.PathLike) else None
    return _real_open(file if known is None else os.dup(known), *args, **kwargs)


def _open_descriptor(path: Any, *args: Any, **kwargs: Any) -> int:
    known = _DEVICES.get(path) if isinstance(path, str) else None
    return _real_open_descriptor(path, *args, **kwargs) if known is None else os.dup(known)
