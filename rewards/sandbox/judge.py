"""Runs inside the sandbox, in a process of its own: arbitrary test code against proxies of the candidate.

The judge holds the tests; the candidate's process never does. A proxy sends plain arguments over a socket pair and gets
plain data back; objects of the candidate's own classes stay where they are and are handled by reference. Such a
reference is equal to nothing but itself, so a lying ``__eq__`` never runs here.
"""

import builtins
import importlib
import os
import socket
import sys
from typing import Any, NoReturn

from rewards.sandbox.candidate import MAX_REQUEST_BYTES, CappedOutput, describe
from rewards.sandbox.codec import NotPlainError, decode, encode
from rewards.sandbox.wire import BrokenFrameError, receive_frame, send_frame

_ENDS_LOOPS = (StopIteration, StopAsyncIteration)


class CandidateError(Exception):
    """The candidate cannot be judged any further: it is gone, or sent no plain data."""


class _Link:
    """The judge's end of the socket pair."""

    def __init__(self, channel: socket.socket, max_bytes: int) -> None:
        self._channel, self._max_bytes = channel, max_bytes

    def ask(self, **request: Any) -> dict[str, Any]:
        """One request and its reply; an exception of the candidate is raised again here, by its builtin name."""
        try:
            send_frame(self._channel, request)
            reply = receive_frame(self._channel, self._max_bytes)
        except OSError as error:
            raise CandidateError(f"the program ended before the tests did ({error})") from None
        if not isinstance(reply, dict):
            raise CandidateError("the program sent no plain data")
        if "unusable" in reply:
            raise CandidateError(f"the program's result is no plain data: {reply['unusable']}")
        if "raised" in reply:
            raise _exception(reply["raised"])
        return reply

    def call(self, target: dict[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Calls something in the candidate and copies changes of list, dict and set arguments back."""
        call = target | {
            "args": [encode(arg, _as_reference) for arg in args],
            "kwargs": {name: encode(value, _as_reference) for name, value in kwargs.items()},
            "refs": True,
        }
        reply = self.ask(kind="calls", calls=[call])["results"][0]
        if "raised" in reply:
            raise _exception(reply["raised"])
        if "unusable" in reply:
            raise CandidateError(f"the program's result is no plain data: {reply['unusable']}")
        try:
            for arg, node in zip(args, reply["args"], strict=True):
                _copy_back(arg, node, self)
            return decode(reply["value"], self.reference)
        except (NotPlainError, RecursionError, KeyError, TypeError, ValueError) as error:
            raise CandidateError(f"the program's result is no plain data: {error}") from None

    def reference(self, body: Any) -> "_Reference":
        """A proxy for an object of the candidate's own class."""
        index, name = body
        return _Reference(self, int(index), str(name))


class _Reference:
    """An object that lives in the candidate."""

    def __init__(self, link: _Link, index: int, type_name: str) -> None:
        self.__dict__.update(_link=link, _index=index, _type_name=type_name)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        reply = self._link.ask(kind="attribute", ref=[self._index], attribute=name)
        if reply.get("callable"):
            target = {"ref": [self._index], "method": name}
            return lambda *args, **kwargs: self._link.call(target, args, kwargs)
        return decode(reply["value"], self._link.reference)

    def __setattr__(self, name: str, value: Any) -> None:
        self._link.ask(kind="attribute", ref=[self._index], attribute=name, value=encode(value, _as_reference))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._link.call({"ref": [self._index]}, args, kwargs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Reference) and self._index == other._index

    def __hash__(self) -> int:
        return hash(self._index)

    def __repr__(self) -> str:
        return f"<{self._type_name} object>"


def _as_reference(value: Any) -> Any:
    if isinstance(value, _Reference):
        return {"ref": [value._index, value._type_name]}
    raise CandidateError(f"a test passes an object of type {type(value).__name__}, which cannot enter the sandbox")


def _copy_back(arg: Any, node: Any, link: _Link) -> None:
    if type(arg) not in (list, dict, set):
        return
    after = decode(node, link.reference)
    if type(after) is not type(arg) or after == arg:
        return
    arg.clear()
    arg.extend(after) if isinstance(arg, list) else arg.update(after)


def _exception(raised: dict[str, Any]) -> BaseException:
    """The nearest builtin exception, so that a test's ``except ValueError`` works; never one that ends the judge."""
    for name in raised.get("bases", []):
        kind = getattr(builtins, str(name), None)
        # StopIteration would end a loop of the tests (``all(map(candidate, inputs))``) early and quietly.
        if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, _ENDS_LOOPS):
            try:
                return kind(str(raised.get("message", "")))
            except TypeError:
                continue  # UnicodeDecodeError and the like take more than a message
    return CandidateError(f"the program raised {raised.get('type')}: {raised.get('message')}")


def _proxies(link: _Link, names: list[str]) -> dict[str, Any]:
    """What the tests may use of the program: proxies for what can be called, plain data for the rest."""
    namespace: dict[str, Any] = {}
    for name, found in link.ask(kind="names", names=names)["names"].items():
        if found["kind"] == "callable":
            target = {"name": name}
            namespace[name] = lambda *args, target=target, **kwargs: link.call(target, args, kwargs)
        elif found["kind"] == "value":
            namespace[name] = decode(found["value"], link.reference)
    return namespace


def _judge(link: _Link, request: dict[str, Any]) -> dict[str, Any]:
    loaded = link.ask(kind="load", source=request["source"], name="solution")
    assert loaded
    proxies = _proxies(link, request["names"])
    proxies |= {alias: proxies.get(name) for alias, name in request["aliases"].items()}
    modules = {name: importlib.import_module(name) for name in request["modules"]}
    namespace = {"__name__": "tests"} | proxies | modules
    exec(compile(request["setup"], "setup.py", "exec"), namespace)
    namespace.update(proxies)  # the set-up may hold an empty stub of the very function
    results = []
    for test in request["tests"]:
        try:
            exec(compile(test, "test.py", "exec"), namespace)
            results.append({"passed": True})
        except AssertionError as error:
            results.append({"passed": False, "raised": None, "message": str(error)[:200]})
        except Exception as error:
            results.append({"passed": False, "raised": describe(error)})
            if isinstance(error, CandidateError):
                break  # the stream may hold half a frame: nothing after this can be trusted
    return {"results": results}


def run(supervisor: socket.socket, candidate: socket.socket, max_bytes: int) -> NoReturn:
    """The life of a judge's process: one request, one verdict."""
    sys.stdout = sys.stderr = CappedOutput(1, 0)
    try:
        request = receive_frame(supervisor, MAX_REQUEST_BYTES)
        link = _Link(candidate, max_bytes)
        try:
            verdict = _judge(link, request)
        except (Exception, BrokenFrameError) as error:
            verdict = {"failed": describe(error)}
        send_frame(supervisor, verdict)
    finally:
        os._exit(0)
