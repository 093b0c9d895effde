"""Runs in the sandbox, in a separate process: arbitrary test code, which calls the candidate through proxies.

The tests are in the judge's process only, never in the candidate's. A proxy sends plain arguments over a socket pair
and gets plain data back; objects of the candidate's own classes stay in its process and are handled by reference. A
reply cannot choose what the judge does: the judge binds only the names that it requested.

If a test compares an object of the program with a plain value (``==``, ``<``, ``in``, ``-``), a lying class could
answer yes to everything. Therefore the object's own operator is used only if the tests created the object from a class
that they name (``Money(5) == 5``), or computed it from such objects; and its yes to ``==`` counts only if it answers no
to other values of the same kind. An object that a function or a method returned is unequal to every plain value and has
no order; if a test fails after such a comparison, its verdict says so.
"""

import builtins
import importlib
import os
import random
import socket
import sys
from decimal import Decimal
from fractions import Fraction
from typing import Any, NoReturn

from rewards.sandbox.candidate import MAX_REQUEST_BYTES, describe
from rewards.sandbox.codec import NotPlainError, Opaque, decode, encode, is_iterator, iterated
from rewards.sandbox.wire import Frames, send_frame

_ENDS_LOOPS = (StopIteration, StopAsyncIteration)
_UNUSABLE = (NotPlainError, RecursionError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError)
"""Exceptions that decoding a forged reply may raise."""


_OF_PLAIN_VALUES = frozenset(
    name
    for kind in (str, set, float)
    for name in dir(kind)
    if name.startswith(("is", "starts", "ends", "union", "inter", "diff", "symm"))
)
"""Methods of plain values that decide a test or return its argument; the program's objects must not imitate these."""
_DECOYS = 4
"""Other values that an object must distinguish from the right one; by guessing it succeeds once in 5 times."""


class CandidateError(Exception):
    """Raised if the candidate is gone, sent something that is not plain data, or raised an unknown exception."""


class TestsError(Exception):
    """Raised if the tests require something that no proxy can do, whatever the program is."""


class _Link:
    """The judge's end of the socket pair; ``asked`` counts requests, since a test that fails without any is broken."""

    def __init__(self, channel: socket.socket, max_bytes: int) -> None:
        self._channel, self._frames, self._max_bytes = channel, Frames(channel), max_bytes
        self.asked, self.gone, self.refused = 0, False, False
        self.exceptions: dict[str, type[Exception]] = {}
        self._hooks = {
            "ref": self.reference,
            "ndarray": lambda body: sys.modules["numpy"].array(decode(body[1]), dtype=body[0]),
        }

    def ask(self, **request: Any) -> dict[str, Any]:
        """Sends one request and returns its reply; an exception of the candidate is raised here by its builtin name."""
        self.asked += 1
        try:
            send_frame(self._channel, request)
            reply = self._frames.receive(self._max_bytes)
        except OSError as error:
            self.gone = True
            raise CandidateError(f"the program ended before the tests did ({error})") from None
        if not isinstance(reply, dict):
            raise CandidateError("the program sent no plain data")
        if "unusable" in reply:
            raise CandidateError(f"the program's result is no plain data: {reply['unusable']}")
        if "raised" in reply:
            raise self._exception(reply["raised"])
        return reply

    def value(self, reply: dict[str, Any]) -> Any:
        """The decoded value in a reply."""
        try:
            return decode(reply["value"], self._hooks)
        except _UNUSABLE as error:
            raise CandidateError(f"the program's result is no plain data: {error}") from None

    def call(self, target: dict[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Calls a function of the candidate and copies changes of list, dict and set arguments back."""
        call = target | {
            "args": [_encoded(arg) for arg in args],
            "kwargs": {name: _encoded(value) for name, value in kwargs.items()},
            "refs": True,
        }
        reply = self.ask(kind="calls", calls=[call])
        try:
            for arg, node in zip(args, reply["args"], strict=True):
                _copy_back(arg, decode(node, self._hooks))
        except _UNUSABLE as error:
            raise CandidateError(f"the program's arguments are no plain data: {error}") from None
        return self.value(reply)

    def operate(self, operator: str, *args: Any) -> Any:
        """Applies an operator to objects of the candidate."""
        reply = self.ask(kind="operate", operator=operator, args=[_encoded(arg) for arg in args])
        if operator == "next" and reply.get("end") is True:
            raise StopIteration
        return self.value(reply)

    def reference(self, body: Any) -> "_Reference":
        """A proxy for an object of the candidate's own class."""
        index, name = body
        return _Reference(self, int(index), str(name))

    def bind(self, names: list[str]) -> tuple[dict[str, Any], bool]:
        """The program's names that the tests use, as proxies or values, and whether all of them are proxies."""
        found = self.ask(kind="names", names=names).get("names")
        namespace: dict[str, Any] = {}
        for name in names:
            entry = found.get(name) if isinstance(found, dict) else None
            if isinstance(entry, dict) and "exception" in entry:
                # A new class of that name, derived from the nearest builtin, so that both ``except MyError`` and
                # ``except ValueError`` work in the tests.
                kind = type(self._exception({"mro": entry["exception"], "message": ""}))
                namespace[name] = self.exceptions[name] = type(name, (kind,), {})
            elif isinstance(entry, dict):
                namespace[name] = value = self.value(entry)
                # By its upper-case name, since the program could claim anything about its kind.
                if isinstance(value, _Reference) and name[0].isupper():
                    value.__dict__["_is_class"] = True
        return namespace, all(isinstance(namespace.get(name), _Reference) for name in names)

    def _exception(self, raised: Any) -> Exception:
        """An exception of the nearest class that the tests can name, so that ``except ValueError`` works."""
        raised = raised if isinstance(raised, dict) else {}
        names = raised.get("mro")
        for name in names if isinstance(names, list) else []:
            kind = self.exceptions.get(str(name)) or getattr(builtins, str(name), None)
            # StopIteration would silently end a loop of the tests (``all(map(candidate, inputs))``).
            if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, _ENDS_LOOPS):
                try:
                    return kind(str(raised.get("message", "")))
                except TypeError:
                    continue  # some classes, such as UnicodeDecodeError, need more arguments than a message
        return CandidateError(f"the program raised {raised.get('type')}: {raised.get('message')}")


class _Reference:
    """A proxy for an object in the candidate's process, where attributes, calls and operators are carried out."""

    def __init__(self, link: _Link, index: int, type_name: str) -> None:
        self.__dict__.update(_link=link, _index=index, _type_name=type_name, _is_class=False, _made=False)

    def __getattr__(self, name: str) -> Any:
        # Python itself looks up many dunder names (copy, pickle, ABCs); operators are defined on this class instead.
        if name.startswith("__") and name not in ("__name__", "__doc__", "__dict__"):
            raise AttributeError(name)
        reply = self._link.ask(kind="attribute", ref=[self._index], attribute=name)
        if reply.get("callable"):
            # ``assert f(x).startswith("a")`` expects a string; an object with a ``startswith`` of its own is not one.
            if name in _OF_PLAIN_VALUES and not self._has_a_say():
                raise TypeError(f"an object of type {self._type_name} is no plain value")
            target = {"ref": [self._index], "method": name}
            return lambda *args, **kwargs: self._link.call(target, args, kwargs)
        return self._link.value(reply)

    def __setattr__(self, name: str, value: Any) -> None:
        self._link.ask(kind="attribute", ref=[self._index], attribute=name, value=_encoded(value))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._with_a_say(self._link.call({"ref": [self._index]}, args, kwargs), self._is_class)

    @staticmethod
    def _with_a_say(value: Any, made: bool) -> Any:
        if isinstance(value, _Reference) and made:
            value.__dict__["_made"] = True
        return value

    def __eq__(self, other: object) -> bool:
        if isinstance(other, _Reference):  # the program compares two objects of its own
            return self._index == other._index or self._link.operate("eq", self, other) is True
        if not self._has_a_say():
            return False
        asked = [other, *(_unlike(other) for _ in range(_DECOYS))]
        random.shuffle(asked)  # otherwise the object would know which value is the right one
        # The object must equal the right value and no decoy.
        return all((self._link.operate("eq", self, value) is True) == (value is other) for value in asked)

    def _has_a_say(self) -> bool:
        # Stored, so that the verdict of a test that fails can say why (``object_for_plain_value``).
        self._link.refused |= not self._made
        return self._made

    def __hash__(self) -> int:
        return int(self._link.operate("hash", self))

    def __instancecheck__(self, instance: object) -> bool:
        return self._link.operate("isinstance", instance, self) is True

    def __subclasscheck__(self, kind: type) -> bool:
        return self._link.operate("issubclass", kind, self) is True

    def __next__(self) -> Any:
        return self._link.operate("next", self)

    def __contains__(self, item: Any) -> bool:
        if isinstance(item, _Reference) or self._has_a_say():
            return self._link.operate("contains", self, item) is True
        # The object's own ``__contains__`` is not trusted, so its items are fetched and compared here.
        return any(item == each for each in self)

    def __iter__(self) -> Any:
        items = self._link.operate("iter", self)
        return items if isinstance(items, _Reference) else iter(items)

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> bool:
        return self._link.operate("exit", self, kind and kind.__name__, str(error)) is True


def _forward(operator: str, reflected: bool = False, binary: bool = False) -> Any:
    def method(self: _Reference, *args: Any) -> Any:
        if binary and not isinstance(args[0], _Reference) and not self._has_a_say():
            return NotImplemented
        value = self._link.operate(operator, *((*args, self) if reflected else (self, *args)))
        # ``Money(5) + 3`` is computed from objects that the tests created, and is trusted like them.
        made = binary and all(each._made for each in (self, *args) if isinstance(each, _Reference))
        return self._with_a_say(value, made)

    return method


for _name in (
    "add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and_", "or_", "xor", "lshift", "rshift",
    "divmod", "lt", "le", "gt", "ge",
):  # fmt: skip
    _dunder = _name.rstrip("_")
    setattr(_Reference, f"__{_dunder}__", _forward(_name, binary=True))
    if _name not in ("lt", "le", "gt", "ge"):
        setattr(_Reference, f"__r{_dunder}__", _forward(_name, reflected=True, binary=True))
for _name in (
    "neg", "pos", "abs", "invert", "getitem", "setitem", "delitem", "index", "len", "str", "repr", "bool", "int",
    "float", "round", "reversed", "format", "enter",
):  # fmt: skip
    setattr(_Reference, f"__{_name}__", _forward(_name))


def _unlike(value: Any) -> Any:
    """A different value of the same kind and size, which the class under test must distinguish from this one."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float | Fraction | Decimal):
        number: Any = value
        # Of similar size, so that a class cannot recognise a decoy by its magnitude.
        step = random.choice((-1, 1)) * random.randint(1, 9)
        return number + step * (1 + abs(number) // 8) if number - number == 0 else 0
    if isinstance(value, str):
        place = random.randrange(len(value) + 1)
        return value[:place] + random.choice("abcdefghijkmnpqrstuvwxyz23456789") + value[place + 1 :]
    if isinstance(value, list | tuple | set | frozenset) and value:
        items = list(value)
        place = random.randrange(len(items))
        return type(value)([*items[:place], _unlike(items[place]), *items[place + 1 :]])
    if isinstance(value, dict) and value:
        key = random.choice(list(value))
        return {**value, key: _unlike(value[key])}
    return random.randint(1, 9)


def _encoded(value: Any) -> Any:
    def refer(value: Any) -> Any:
        if isinstance(value, _Reference):
            return {"ref": [value._index, value._type_name]}
        if isinstance(value, Opaque):
            raise CandidateError(f"the program returned an object of type {value.type_name}")
        if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
            plain = encode(value.tolist())
            return {"ndarray": [value.dtype.str, plain]} if getattr(value, "shape", ()) else plain
        if is_iterator(value):
            return iterated(value, refer)
        raise TestsError(f"a test passes an object of type {type(value).__name__}, which cannot enter the sandbox")

    try:
        return encode(value, refer)
    except NotPlainError as error:  # the value that the tests pass may come from the program
        raise CandidateError(str(error)) from None


def _copy_back(arg: Any, after: Any) -> None:
    # A test may check how a function changed its argument (``sort_in_place(xs)``), but the function got a copy.
    if type(arg) not in (list, dict, set) or type(after) is not type(arg) or after == arg:
        return
    arg.clear()
    arg.extend(after) if isinstance(arg, list) else arg.update(after)


def _judge(link: _Link, supervisor: socket.socket, request: dict[str, Any]) -> None:
    """Sends one verdict for each test: whether it passed and, if not, whether the tests themselves are at fault."""
    try:
        link.ask(kind="load", source=request["source"], prelude=request["prelude"])
        namespace, all_proxies = link.bind(request["names"])
        namespace |= {alias: namespace[name] for alias, name in request["aliases"].items() if name in namespace}
        namespace["__name__"] = "tests"
    except Exception as error:
        send_frame(supervisor, {"passed": False, "raised": describe(error), "ended": True, "setup": True})
        return

    def run(code: str, name: str) -> dict[str, Any]:
        asked, link.refused = link.asked, False
        try:
            exec(compile(code, name, "exec"), namespace)
            return {"passed": True}
        except BaseException as error:
            # If all names of the program are proxies, a test that sent no request did not fail because of the program.
            ours = isinstance(error, TestsError) or (all_proxies and link.asked == asked)
            return {
                "passed": False,
                "raised": describe(error),
                "ours": ours,
                "ended": link.gone,
                "object": link.refused,
            }

    prepared = run(request["setup"], "setup.py")
    try:
        # Added after the program's names, so that ``math`` in a test is the library even if the program defines it.
        namespace |= {name: importlib.import_module(name) for name in request["modules"]}
    except ImportError as error:
        prepared = {"passed": False, "raised": describe(error), "ours": True}
    if not prepared["passed"]:
        send_frame(supervisor, prepared | {"ended": True, "setup": True})
        return
    for test in request["tests"]:
        verdict = run(test, "test.py")
        send_frame(supervisor, verdict)
        if verdict.get("ended"):  # the stream may hold part of a frame, so later replies would be misread
            break


def run(supervisor: socket.socket, candidate: socket.socket, max_bytes: int) -> NoReturn:
    """Runs a judge's process: it receives one request and sends a verdict for each of its tests."""
    sys.set_int_max_str_digits(0)  # no limit, since the codec writes and reads integers of any length
    try:
        _judge(_Link(candidate, max_bytes), supervisor, Frames(supervisor).receive(MAX_REQUEST_BYTES))
    finally:
        os._exit(0)
