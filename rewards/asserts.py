"""Turns Python assertions into declared cases: a call, its arguments and the value that it must return.

A declared case is plain data that the grader compares itself, without a second process for a judge, which doubles the
throughput. Assertions of any other form than those below stay code and are run by the judge.

Forms: ``assert f(ARGS) == VALUE``, with the call on either side, with or without a message; and
``assert abs(f(ARGS) - NUMBER) < NUMBER``, also with ``<=``. ARGS and VALUE are literals, or made from literals by
``+``, ``-``, ``*``, ``/``, ``**`` (small), ``float("inf")``, ``set()`` and similar constructors.
"""

import ast
import builtins
import sys
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from rewards.parsing import parse

MAX_POWER = 512
MAX_REPEAT = 100_000


@dataclass(frozen=True, slots=True)
class Case:
    """One call of a function and the value that it must return.

    Args:
        name: Name of the function; ``Solution.f`` is a method that is called on a new instance of the class.
        args: Positional arguments, plain data.
        expected: The value that the call must return, plain data.
        kwargs: Keyword arguments, plain data.
        tolerance: If not ``None``, numbers in the result may differ by less than this.
        at_most: Whether a difference of exactly ``tolerance`` is allowed too.
    """

    name: str
    args: tuple[Any, ...]
    expected: Any
    kwargs: tuple[tuple[str, Any], ...] = ()
    tolerance: float | None = None
    at_most: bool = False

    def call_text(self) -> str:
        """The call as Python would write it."""
        parts = [repr(arg) for arg in self.args] + [f"{name}={value!r}" for name, value in self.kwargs]
        return f"{self.name.replace('.', '().')}({', '.join(parts)})"


class _NotDeclarableError(ValueError):
    pass


def declare(statement: ast.stmt, aliases: dict[str, str] | None = None) -> Case | None:
    """The case that an assertion states, or ``None`` if the statement has none of the known forms.

    Args:
        statement: A parsed statement.
        aliases: Own names of functions by the name that the tests use instead, such as ``candidate``.
    """
    if not isinstance(statement, ast.Assert) or not isinstance(statement.test, ast.Compare):
        return None
    compare = statement.test
    if len(compare.ops) != 1:
        return None
    left, operator, right = compare.left, compare.ops[0], compare.comparators[0]
    try:
        if isinstance(operator, ast.Eq):
            # The call of the program may stand on the right: ``assert 3 == f(1)``, ``assert set([1]) == f(1)``.
            if not isinstance(left, ast.Call) or _is_constructor(left):
                left, right = right, left
            return _case(left, _value(right), None, aliases or {})
        if isinstance(operator, ast.Lt | ast.LtE) and isinstance(left, ast.Call) and _name(left.func) == "abs":
            return replace(_close(left, _value(right), aliases or {}), at_most=isinstance(operator, ast.LtE))
    except (_NotDeclarableError, ArithmeticError, ValueError, TypeError):
        return None
    return None


def declare_all(code: str, aliases: dict[str, str] | None = None) -> tuple[Case, ...] | None:
    """The cases of a piece of test code; ``None`` if it has none, or any statement cannot be declared as a case.

    ``pass``, ``assert True`` and bare constants test nothing and are skipped.

    Args:
        code: Test code that consists of assertions.
        aliases: See :func:`declare`.
    """
    try:
        statements = parse(code).body
    except (SyntaxError, ValueError):
        return None
    return cases_of(statements, aliases or {})


def cases_of(statements: list[ast.stmt], aliases: dict[str, str]) -> tuple[Case, ...] | None:
    """Like :func:`declare_all`, for parsed statements, such as the body of ``def check(candidate)``."""
    cases = [declare(statement, aliases) for statement in statements if not _states_nothing(statement)]
    # All or nothing: if a judge ran only the statements left over, it would miss what the others set up.
    return None if None in cases or not cases else tuple(case for case in cases if case is not None)


def check_body(code: str, function: str = "check") -> list[ast.stmt] | None:
    """Statements of ``def check(candidate)``; ``None`` if the code holds more than that, imports and constants."""
    try:
        statements = parse(code).body
    except (SyntaxError, ValueError):
        return None
    found = [node for node in statements if isinstance(node, ast.FunctionDef) and node.name == function]
    # Imports and constants beside the function, such as HumanEval's METADATA, do not affect the program.
    for node in (node for node in statements if node not in found):
        constant = isinstance(node, ast.Assign) and not any(isinstance(part, ast.Call) for part in ast.walk(node))
        if not constant and not isinstance(node, ast.Import | ast.ImportFrom):
            return None
    return found[0].body if len(found) == 1 else None


def free_names(code: str) -> tuple[list[str], list[str]]:
    """Names that the code reads but neither defines, imports, nor finds among the builtins.

    Returns:
        Names that the program must provide, and modules of the standard library (``math`` in ``math.isclose(...)``),
        which the tests must take from the library and not from the program.

    Raises:
        SyntaxError: If the code is not valid Python.
    """
    # Scopes are not distinguished: a name that is bound anywhere counts as defined by the tests. If the program must
    # define such a name, list it in ``CheckCode.names``.
    tree = parse(code)
    bound: set[str] = set()
    read: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            (read if isinstance(node.ctx, ast.Load) else bound).add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            bound.add(node.name)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.alias):
            bound.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.ExceptHandler) and node.name:
            bound.add(node.name)
    # Builtins are never free: the tests must use their own ``abs``, even if the program defines one.
    free = {name for name in read - bound if not hasattr(builtins, name)}
    # ``math.isclose(...)`` without an import: a free name that has an attribute read from it and is the name of a
    # standard module counts as that module.
    owners = {_name(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    modules = free & owners & sys.stdlib_module_names
    return sorted(free - modules), sorted(modules)


def top_level_names(code: str) -> set[str]:
    """Functions, classes and variables that code defines at its top level."""
    names: set[str] = set()
    for node in parse(code).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names


def names_read(code: str) -> set[str]:
    """Every name that code reads."""
    return {n.id for n in ast.walk(parse(code)) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}


def without_definitions(code: str, names: Collection[str]) -> str:
    """The code without the functions and classes of these names at its top level."""
    try:
        tree = parse(code)
    except SyntaxError:
        return code
    kept = [node for node in tree.body if getattr(node, "name", None) not in names]
    return code if len(kept) == len(tree.body) else ast.unparse(ast.Module(kept, []))


def _states_nothing(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Pass):
        return True
    value = statement.value if isinstance(statement, ast.Expr) else getattr(statement, "test", None)
    return isinstance(value, ast.Constant) and (isinstance(statement, ast.Expr) or value.value is True)


def _case(call: ast.expr, expected: Any, tolerance: float | None, aliases: dict[str, str]) -> Case:
    if not isinstance(call, ast.Call) or not (name := _called(call.func)) or name in _CONSTRUCTORS:
        raise _NotDeclarableError
    # ``assert len(f(1)) == 3`` compares the result of a builtin, not the value that the program returns.
    if hasattr(builtins, name) and name not in aliases:
        raise _NotDeclarableError
    # The arguments in ``f(**options)`` are known only when the code runs.
    if any(keyword.arg is None for keyword in call.keywords):
        raise _NotDeclarableError
    kwargs = tuple((str(keyword.arg), _value(keyword.value)) for keyword in call.keywords)
    return Case(aliases.get(name, name), tuple(_value(arg) for arg in call.args), expected, kwargs, tolerance)


def _called(function: ast.expr) -> str:
    """The name of a called function: ``f`` for ``f(...)``, ``Solution.f`` for ``Solution().f(...)``, else empty."""
    if isinstance(function, ast.Attribute) and isinstance(owner := function.value, ast.Call):
        return (
            f"{_name(owner.func)}.{function.attr}" if _name(owner.func) and not (owner.args or owner.keywords) else ""
        )
    return _name(function)


def _close(absolute: ast.Call, tolerance: Any, aliases: dict[str, str]) -> Case:
    if len(absolute.args) != 1 or not isinstance(difference := absolute.args[0], ast.BinOp):
        raise _NotDeclarableError
    if not isinstance(difference.op, ast.Sub) or not isinstance(tolerance, float | int):
        raise _NotDeclarableError
    left, right = difference.left, difference.right
    if not isinstance(left, ast.Call):
        left, right = right, left
    expected = _value(right)
    if not isinstance(expected, float | int):
        raise _NotDeclarableError
    return _case(left, expected, float(tolerance), aliases)


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else ""


_CONSTRUCTORS = ("float", "set", "frozenset", "tuple", "list", "dict")


def _is_constructor(node: ast.Call) -> bool:
    return _name(node.func) in _CONSTRUCTORS


def _value(node: ast.expr) -> Any:
    """The value of a constant expression; only the forms listed at the top of this module are evaluated."""
    if isinstance(node, ast.BinOp):
        return _arithmetic(node.op, _value(node.left), _value(node.right))
    if isinstance(node, ast.Call) and not node.keywords:
        arguments = [_value(arg) for arg in node.args]
        if _name(node.func) == "float" and len(arguments) == 1 and isinstance(arguments[0], str):
            return float(arguments[0])
        if _is_constructor(node) and _name(node.func) != "float" and len(arguments) <= 1:
            return {"set": set, "frozenset": frozenset, "tuple": tuple, "list": list, "dict": dict}[_name(node.func)](
                *arguments
            )
        raise _NotDeclarableError
    if isinstance(node, ast.List | ast.Tuple | ast.Set):
        kind = {ast.List: list, ast.Tuple: tuple, ast.Set: set}[type(node)]
        return kind([_value(item) for item in node.elts])
    if isinstance(node, ast.Dict) and None not in node.keys:
        return {_value(k): _value(v) for k, v in zip(node.keys, node.values, strict=True) if k is not None}
    return ast.literal_eval(node)


def _arithmetic(operator: ast.operator, left: Any, right: Any) -> Any:
    if isinstance(operator, ast.Add):
        return left + right
    if isinstance(operator, ast.Sub):
        return left - right
    # Bounded, since [0] * 10**9 in a data set would fill this process's memory.
    if isinstance(operator, ast.Mult) and max(_length(left), _length(right)) <= MAX_REPEAT:
        return left * right
    if isinstance(operator, ast.Pow) and abs(left) <= 1000 and abs(right) <= MAX_POWER:
        return left**right
    if isinstance(operator, ast.Div):
        return left / right
    raise _NotDeclarableError


def _length(value: Any) -> float:
    return len(value) if hasattr(value, "__len__") else abs(value)
