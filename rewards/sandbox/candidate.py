"""Runs inside the sandbox, in the process of the program: loads it, calls it, sends back plain data.

Nothing here is trusted by anybody: the program shares this memory and may change all of it. It never sees a test or an
expected value, only the arguments of the calls that it must answer.
"""

import io
import os
import socket
import sys
import types
from collections.abc import Callable
from typing import Any, NoReturn

from rewards.sandbox.codec import NotPlainError, decode, encode
from rewards.sandbox.wire import receive_frame, send_frame

SOURCE_NAME = "solution.py"
MAX_REQUEST_BYTES = 64 * 2**20
MAX_FRAMES = 12
_Limit = Callable[[int], int]


class CappedOutput:
    """A text stream that writes at most so many bytes to a descriptor and drops the rest without an error."""

    encoding, errors, newlines = "utf-8", "replace", None

    def __init__(self, descriptor: int, max_bytes: int) -> None:
        self._descriptor, self._left, self._parts, self._size = descriptor, max_bytes, [], 0
        self.buffer = _Bytes(self)

    def write(self, text: str) -> int:
        """Keeps text for the next flush."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        self.write_bytes(text.encode("utf-8", "replace"))
        return len(text)

    def write_bytes(self, data: bytes) -> None:
        """Keeps bytes for the next flush."""
        if self._size < self._left:
            self._parts.append(data)
            self._size += len(data)
            if self._size > 8192:
                self.flush()

    def flush(self) -> None:
        """Writes what was kept, up to the cap."""
        data = b"".join(self._parts)[: self._left]
        self._parts, self._size = [], 0
        self._left -= len(data)
        while data:
            data = data[os.write(self._descriptor, data) :]

    def writelines(self, lines: Any) -> None:
        """Writes each line."""
        for line in lines:
            self.write(line)

    def isatty(self) -> bool:
        """Never a terminal."""
        return False

    def writable(self) -> bool:
        """Always."""
        return True

    def readable(self) -> bool:
        """Never."""
        return False

    def fileno(self) -> int:
        """The descriptor beneath."""
        return self._descriptor


class _Bytes:
    """``sys.stdout.buffer``."""

    def __init__(self, text: CappedOutput) -> None:
        self._text = text

    def write(self, data: bytes) -> int:
        self._text.write_bytes(bytes(data))
        return len(data)

    def flush(self) -> None:
        self._text.flush()


class Candidate:
    """The program, its namespace, and the objects of its own classes that a judge holds references to."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._namespace: dict[str, Any] = {}
        self._objects: list[Any] = []

    def serve(self) -> NoReturn:
        """Answers frames until one is marked ``last`` or the peer is gone."""
        try:
            while True:
                request = receive_frame(self._channel, MAX_REQUEST_BYTES)
                reply = self.answer(request)
                sys.stdout.flush()
                sys.stderr.flush()
                send_frame(self._channel, reply)
                if request.get("last"):
                    break
        finally:
            os._exit(0)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The reply to one request; what the program raises is a reply too."""
        return _guarded(getattr(self, "_" + request["kind"]), request)

    def _load(self, request: dict[str, Any]) -> dict[str, Any]:
        module = types.ModuleType(request["name"])
        self._namespace = module.__dict__
        sys.modules[request["name"]] = module
        try:
            exec(compile(request["source"], SOURCE_NAME, "exec"), self._namespace)
        except SystemExit as error:
            if request["name"] != "__main__" or error.code not in (None, 0):
                raise
        return {"loaded": True}

    def _calls(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"results": [_guarded(self._call, call) for call in request["calls"]]}

    def _call(self, call: dict[str, Any]) -> dict[str, Any]:
        args = [decode(node, self._resolve) for node in call["args"]]
        kwargs = {name: decode(node, self._resolve) for name, node in call["kwargs"].items()}
        function = self._resolve(call["ref"]) if "ref" in call else self._named(call["name"])
        if "method" in call:
            function = getattr(function, call["method"])
        keep = call.get("refs", False)
        value = function(*args, **kwargs)
        if isinstance(value, types.CoroutineType):
            value.close()
            raise TypeError("the function is async: a test calls it and needs its value")
        reply = {"value": self._encode(value, keep)}
        if keep:  # a judge compares what became of the arguments
            reply["args"] = [self._encode(arg, keep) for arg in args]
        return reply

    def _named(self, name: str) -> Any:
        if name not in self._namespace:
            raise NameError(f"name {name!r} is not defined")
        return self._namespace[name]

    def _names(self, request: dict[str, Any]) -> dict[str, Any]:
        """What the program made of the names that a test uses: a callable, a value, or nothing."""
        kinds = {}
        for name in request["names"]:
            value = self._namespace.get(name, self)
            if value is self:
                kinds[name] = {"kind": "missing"}
            elif callable(value):
                kinds[name] = {"kind": "callable"}
            else:
                kinds[name] = {"kind": "value", "value": self._encode(value, True)}
        return {"names": kinds}

    def _attribute(self, request: dict[str, Any]) -> dict[str, Any]:
        target, name = self._resolve(request["ref"]), request["attribute"]
        if "value" in request:
            setattr(target, name, decode(request["value"], self._resolve))
            return {"value": None}
        value = getattr(target, name)
        return {"callable": True} if callable(value) else {"value": self._encode(value, True)}

    def _encode(self, value: Any, keep: bool) -> Any:
        return encode(value, self._refer if keep else None)

    def _refer(self, value: Any) -> Any:
        for index, known in enumerate(self._objects):
            if known is value:
                return {"ref": [index, type(value).__name__]}
        self._objects.append(value)
        return {"ref": [len(self._objects) - 1, type(value).__name__]}

    def _resolve(self, body: list[Any]) -> Any:
        return self._objects[body[0]]


def _guarded(function: Callable[[dict[str, Any]], dict[str, Any]], request: dict[str, Any]) -> dict[str, Any]:
    """The reply of a handler, or what it raised: SystemExit and KeyboardInterrupt included."""
    try:
        return function(request)
    except NotPlainError as error:
        return {"unusable": str(error)}
    except BaseException as error:
        return {"raised": describe(error)}


def describe(error: BaseException) -> dict[str, Any]:
    """Type, message and the program's own frames, innermost last, of an exception."""
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
        "bases": [kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins"][:6],
        "message": str(message)[:2000],
        "frames": frames[:2] + frames[2:][-(MAX_FRAMES - 2) :],
    }


def run(channel: socket.socket, output_bytes: int, stdin: bool) -> NoReturn:
    """The life of a candidate's process: descriptor 1 is its output, the channel its only way out.

    Args:
        channel: To the supervisor, or to a judge.
        output_bytes: Of output that is kept.
        stdin: Whether descriptor 0 holds anything.
    """
    sys.stdout = CappedOutput(1, output_bytes)
    sys.stderr = CappedOutput(1, output_bytes)
    if stdin:
        sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)), "utf-8", "replace")
    Candidate(channel).serve()
