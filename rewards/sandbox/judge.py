"""Runs inside the sandbox, in a process of its own: arbitrary test code against proxies of the candidate.

The judge holds the tests; the candidate's process never does. A proxy sends plain arguments over a socket pair and gets
plain data back; objects of the candidate's own classes stay where they are and are handled by reference. Nothing in a
reply chooses what the judge does: it binds the names that it asked for and no others.

Who decides about an object and a plain value of the tests (``==``, ``<``, ``in``, ``-``)? A lying class would say yes
to all. So only an object is asked that the tests themselves made of a class that they name (``Money(5) == 5``), or
calculated from such, and its yes to ``==`` counts if it says no to values of the same kind. What a function or a method
returned is unequal to any plain value and has no order; a test that fails after such a comparison says so.
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
"""What reading a forged reply may raise."""


_OF_PLAIN_VALUES = frozenset(
    name
    for kind in (str, set, float)
    for name in dir(kind)
    if name.startswith(("is", "starts", "ends", "union", "inter", "diff", "symm"))
)
"""Methods of plain values that answer a test's question, or give its argument back: no object stands in for those."""
_DECOYS = 4
"""Other values that an object must tell from the one that is meant: whoever does not know it finds it once in 5."""


class CandidateError(Exception):
    """The candidate cannot be judged any further: it is gone, or sent no plain data."""


class TestsError(Exception):
    """The tests ask for what no proxy can do, whatever the program is."""


class _Link:
    """The judge's end of the socket pair. ``asked`` counts replies: a test that fails without any fails by itself."""

    def __init__(self, channel: socket.socket, max_bytes: int) -> None:
        self._channel, self._frames, self._max_bytes = channel, Frames(channel), max_bytes
        self.asked, self.gone, self.refused = 0, False, False
        self.exceptions: dict[str, type[Exception]] = {}
        self._hooks = {
            "ref": self.reference,
            "ndarray": lambda body: sys.modules["numpy"].array(decode(body[1]), dtype=body[0]),
        }

    def ask(self, **request: Any) -> dict[str, Any]:
        """One request and its reply; an exception of the candidate is raised again here, by its builtin name."""
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
        """The value in a reply."""
        try:
            return decode(reply["value"], self._hooks)
        except _UNUSABLE as error:
            raise CandidateError(f"the program's result is no plain data: {error}") from None

    def call(self, target: dict[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Calls something in the candidate and copies changes of list, dict and set arguments back."""
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
        """An operator on objects of the candidate."""
        reply = self.ask(kind="operate", operator=operator, args=[_encoded(arg) for arg in args])
        if operator == "next" and reply.get("end") is True:
            raise StopIteration
        return self.value(reply)

    def reference(self, body: Any) -> "_Reference":
        """A proxy for an object of the candidate's own class."""
        index, name = body
        return _Reference(self, int(index), str(name))

    def bind(self, names: list[str]) -> tuple[dict[str, Any], bool]:
        """Proxies for the names that the tests use of the program, and whether each is one that asks it when used."""
        found = self.ask(kind="names", names=names).get("names")
        namespace: dict[str, Any] = {}
        for name in names:
            entry = found.get(name) if isinstance(found, dict) else None
            if isinstance(entry, dict) and "exception" in entry:
                # A class of that name below the nearest builtin: ``except MyError`` and ``except ValueError`` both work
                # in the tests.
                kind = type(self._exception({"mro": entry["exception"], "message": ""}))
                namespace[name] = self.exceptions[name] = type(name, (kind,), {})
            elif isinstance(entry, dict):
                namespace[name] = value = self.value(entry)
                if isinstance(value, _Reference) and name[0].isupper():  # what a name is, is the program's choice
                    value.__dict__["_is_class"] = True
        return namespace, all(isinstance(namespace.get(name), _Reference) for name in names)

    def _exception(self, raised: Any) -> Exception:
        """The nearest class that the tests can name, so that ``except ValueError`` works."""
        raised = raised if isinstance(raised, dict) else {}
        names = raised.get("mro")
        for name in names if isinstance(names, list) else []:
            kind = self.exceptions.get(str(name)) or getattr(builtins, str(name), None)
            # StopIteration would end a loop of the tests (``all(map(candidate, inputs))``) early and quietly.
            if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, _ENDS_LOOPS):
                try:
                    return kind(str(raised.get("message", "")))
                except TypeError:
                    continue  # UnicodeDecodeError and the like take more than a message
        return CandidateError(f"the program raised {raised.get('type')}: {raised.get('message')}")


class _Reference:
    """An object that lives in the candidate: attributes, calls, operators and protocols work on it there."""

    def __init__(self, link: _Link, index: int, type_name: str) -> None:
        self.__dict__.update(_link=link, _index=index, _type_name=type_name, _is_class=False, _made=False)

    def __getattr__(self, name: str) -> Any:
        # Python asks for many names with underscores by itself (copy, pickle, ABCs); the operators are methods of this
        # class.
        if name.startswith("__") and name not in ("__name__", "__doc__", "__dict__"):
            raise AttributeError(name)
        reply = self._link.ask(kind="attribute", ref=[self._index], attribute=name)
        if reply.get("callable"):
            # ``assert f(x).startswith("a")`` asks a string. An object that answers True to it is no string.
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
        if isinstance(other, _Reference):  # two objects of the program are compared by the program
            return self._index == other._index or self._link.operate("eq", self, other) is True
        if not self._has_a_say():
            return False
        asked = [other, *(_unlike(other) for _ in range(_DECOYS))]
        random.shuffle(asked)  # else it would know which one is meant
        # True for the value that is meant and for no other.
        return all((self._link.operate("eq", self, value) is True) == (value is other) for value in asked)

    def _has_a_say(self) -> bool:
        # Remembered, so that a test that fails after this can say why (``object_for_plain_value``).
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
        # No say: its items are fetched and compared here instead of believing its ``__contains__``.
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
        # ``Money(5) + 3`` is calculated from what the tests made, and so may be compared like it.
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
    """Another value of the same kind and size, which the class under test must tell from this one."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float | Fraction | Decimal):
        number: Any = value
        # Near by in size, so that a class cannot tell a decoy by its magnitude.
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
    except NotPlainError as error:  # what the tests pass on may have come from the program
        raise CandidateError(str(error)) from None


def _copy_back(arg: Any, after: Any) -> None:
    # A test may look at what a function did to its argument (``sort_in_place(xs)``), but the function had a copy.
    if type(arg) not in (list, dict, set) or type(after) is not type(arg) or after == arg:
        return
    arg.clear()
    arg.extend(after) if isinstance(arg, list) else arg.update(after)


def _judge(link: _Link, supervisor: socket.socket, request: dict[str, Any]) -> None:
    """Sends one verdict for each test: whether it passed, and if not, whether that is the tests' own fault."""
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
            # Where every name of the program is a proxy, a test that asked it nothing cannot have failed through it.
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
        # After the program's names, so that ``math`` in a test is the library's whatever the program calls so.
        namespace |= {name: importlib.import_module(name) for name in request["modules"]}
    except ImportError as error:
        prepared = {"passed": False, "raised": describe(error), "ours": True}
    if not prepared["passed"]:
        send_frame(supervisor, prepared | {"ended": True, "setup": True})
        return
    for test in request["tests"]:
        verdict = run(test, "test.py")
        send_frame(supervisor, verdict)
        if verdict.get("ended"):  # the stream may hold half a frame: nothing after this can be trusted
            break


def run(supervisor: socket.socket, candidate: socket.socket, max_bytes: int) -> NoReturn:
    """The life of a judge's process: one request, a verdict for each of its tests."""
    sys.set_int_max_str_digits(0)  # of the codec, which writes and reads numbers of any length
    try:
        _judge(_Link(candidate, max_bytes), supervisor, Frames(supervisor).receive(MAX_REQUEST_BYTES))
    finally:
        os._exit(0)
