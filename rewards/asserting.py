"""Finds tests that cannot fail: code that never asserts, and test functions that nothing calls.

Tests are run as plain Python, without pytest or unittest. So ``def test_f(): ...`` alone passes for every program, and
so do ``f(1) == 2`` without ``assert``, an assertion whose failure is caught, and ``assert (f(1) == 2, "message")``.
"""

import ast
import builtins
from collections.abc import Collection, Sequence

from rewards.parsing import parse

_ENDS = ("exit", "_exit", "quit", "abort", "raises", "warns", "fail")
"""Functions, beside those whose name begins with ``assert``, that can make a test fail."""
_PREPARES = (
    ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign,
    ast.AugAssign,
)  # fmt: skip
_LOADS = ("loadTestsFromTestCase", "loadTestsFromModule", "loadTestsFromName", "loadTestsFromNames", "makeSuite")
"""Functions of unittest after which a runner calls test functions; whether its result is asserted counts elsewhere."""
_CATCHES = ("AssertionError", "Exception", "BaseException")


def untested(code: str, names: Collection[str] = ()) -> str:
    """Why test code would pass whatever a program returns; empty if some assertion of it is executed.

    The answer is read from the code, which is not run: every branch and loop counts as executed unless its condition is
    a constant, and a function counts as called wherever executed code names it.

    Args:
        code: Test code with its set-up, valid Python.
        names: Names that the program must define, which count as its own even if a builtin has the same name.
    """
    tree = parse(code)
    found = _Executed(tree, names)
    found.visit(tree)
    if found.fault:
        return found.fault
    for name, defined in found.functions.items():
        is_test = name.startswith("test") or name == "check"
        if is_test and name not in found.entered and any(map(_asserts_in, defined)):
            return (
                f"{name} is never called, so it tests nothing: tests run as plain Python, without pytest or unittest; "
                "write its assertions at the top level, or call it there"
            )
    return "" if found.asserts else "they never assert anything; write assert ..."


def pieces(tests: Sequence[str]) -> list[str]:
    """Joins pieces of test code that only prepare something to the next piece that tests something.

    Args:
        tests: Pieces of code in order; imports, definitions and assignments prepare, every other statement tests.
    """
    joined: list[str] = []
    prepared: list[str] = []
    for text in tests:
        prepared.append(text)
        if not _only_prepares(text):
            joined.append("\n".join(prepared))
            prepared = []
    if prepared and joined:
        joined[-1] = "\n".join([joined[-1], *prepared])
    return joined or list(tests)


def _only_prepares(text: str) -> bool:
    try:
        statements = parse(text).body
    except SyntaxError:
        return False
    return all(isinstance(one, _PREPARES) for one in statements)


class _Executed(ast.NodeVisitor):
    """Visits the code that a module executes, and notes whether some of it can fail a test."""

    def __init__(self, tree: ast.AST, names: Collection[str]) -> None:
        self._names = names
        self.functions: dict[str, list[ast.FunctionDef | ast.AsyncFunctionDef]] = {}
        self.imported: set[str] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                self.functions.setdefault(node.name, []).append(node)
            elif isinstance(node, ast.alias):
                self.imported.add((node.asname or node.name).partition(".")[0])
        self.entered: set[str] = set()
        self.asserts, self.fault = False, ""
        self._visited: set[tuple[int, bool]] = set()
        self._guarded = self._caught = False

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        # The body is visited when executed code names the function.
        for part in (*node.decorator_list, node.args):
            self.visit(part)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self.visit_FunctionDef(node)

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load):
            self._enter(node.id)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.generic_visit(node)
        self._enter(node.attr)

    def visit_Call(self, node: ast.Call) -> None:
        name = getattr(node.func, "id", getattr(node.func, "attr", ""))
        can_fail = name.startswith("assert") or name in _ENDS
        if can_fail and isinstance(node.func, ast.Name) and name not in self.functions:
            # A name that is neither imported nor defined would be taken from the program under test.
            if name.startswith("assert") and not {name, "*"} & self.imported:
                self.fault = f"the tests call {name}, which they neither define nor import"
            can_fail = bool({name, "*"} & self.imported) or hasattr(builtins, name)
        self.asserts |= can_fail and name not in self.functions and not self._caught
        self.generic_visit(node)

    def visit_Assert(self, node: ast.Assert) -> None:
        shown = f"{ast.unparse(node)[:60]!r}"
        if isinstance(node.test, ast.Tuple) and node.test.elts:
            self.fault = f"{shown} is always true, as it asserts a tuple: leave out the brackets"
        elif node.msg is not None and _is_value(node.msg) and isinstance(node.test, ast.Call | ast.Name):
            self.fault = f"{shown} compares nothing: write == in place of the comma"
        # ``assert False`` after a call that must raise is a way to fail, too.
        states = _constant(node.test) is False or (_constant(node.test) is None and self._reads(node.test))
        self.asserts |= states and not self._caught
        self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> None:
        self.asserts |= not self._caught
        self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        # ``a < b`` may stand alone where it must raise, which is inside of ``with`` or ``try``.
        negated = isinstance(node.value, ast.UnaryOp) and isinstance(node.value.op, ast.Not)
        if (negated or isinstance(node.value, ast.Compare | ast.BoolOp)) and not self._guarded:
            self.fault = f"{ast.unparse(node)[:60]!r} tests nothing: write assert in front of it"
        self.generic_visit(node)

    def visit_If(self, node: ast.If) -> None:
        self.visit(node.test)
        known = _constant(node.test)
        for branch, when in ((node.body, True), (node.orelse, False)):
            if known is None or known is when:
                self._each(branch)

    def visit_While(self, node: ast.While) -> None:
        self.visit_If(ast.If(node.test, node.body, node.orelse))

    def visit_For(self, node: ast.For) -> None:
        self.visit(node.iter)
        self._each(node.orelse if _constant(node.iter) is False else [*node.body, *node.orelse])

    def visit_With(self, node: ast.With | ast.AsyncWith) -> None:
        for item in node.items:
            self.visit(item)
        caught = any(
            isinstance(call := item.context_expr, ast.Call)
            and getattr(call.func, "id", getattr(call.func, "attr", "")) == "suppress"
            and any(_caught_by(kind) for kind in call.args)
            for item in node.items
        )
        self._each(node.body, guarded=True, caught=caught)

    def visit_AsyncWith(self, node: ast.AsyncWith) -> None:
        self.visit_With(node)

    def visit_Try(self, node: ast.Try | ast.TryStar) -> None:
        caught = any(handler.type is None or _caught_by(handler.type) for handler in node.handlers)
        self._each(node.body, guarded=True, caught=caught)
        # What a handler does counts even if it catches everything: it may raise again.
        for handler in node.handlers:
            self._each(handler.body)
        self._each([*node.orelse, *node.finalbody])

    def visit_TryStar(self, node: ast.TryStar) -> None:
        self.visit_Try(node)

    def _each(self, nodes: list[ast.stmt], guarded: bool = False, caught: bool = False) -> None:
        before = self._guarded, self._caught
        self._guarded, self._caught = self._guarded or guarded, self._caught or caught
        for node in nodes:
            self.visit(node)
        self._guarded, self._caught = before

    def _reads(self, node: ast.expr) -> bool:
        """Whether an expression reads a name that is no builtin, so that its value may depend on the program."""
        names = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
        return any(name in self._names or not hasattr(builtins, name) for name in names)

    def _enter(self, name: str) -> None:
        if name in _LOADS:
            self.entered.update(one for one in self.functions if one.startswith("test"))
        for function in self.functions.get(name, ()):
            if (key := (id(function), self._caught)) not in self._visited:
                self._visited.add(key)
                self.entered.add(name)
                self._each(function.body)


def _constant(node: ast.expr) -> bool | None:
    """The truth of an expression that is the same in every run; ``None`` if it depends on what is run."""
    if isinstance(node, ast.Constant):
        return bool(node.value)
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        return bool(node.elts)
    if isinstance(node, ast.Dict):
        return bool(node.keys)
    if isinstance(node, ast.JoinedStr | ast.Lambda):
        return True
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        inner = _constant(node.operand)
        return None if inner is None else not inner
    if isinstance(node, ast.BoolOp):
        parts, decides = [_constant(part) for part in node.values], isinstance(node.op, ast.Or)
        return decides if decides in parts else None if None in parts else not decides
    # The judge's module is not the main module, so ``if __name__ == "__main__":`` is never executed.
    if isinstance(node, ast.Compare) and getattr(node.left, "id", "") == "__name__":
        return False if isinstance(node.ops[0], ast.Eq) else None
    return None


def _asserts_in(function: ast.AST) -> bool:
    return any(
        isinstance(node, ast.Assert) or getattr(getattr(node, "func", None), "attr", "").startswith("assert")
        for node in ast.walk(function)
    )


def _is_value(node: ast.expr) -> bool:
    """Whether an expression is a number, a list or another literal that is no text, so that no message is meant."""
    if isinstance(node, ast.UnaryOp):
        return _is_value(node.operand)
    is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
    return isinstance(node, ast.Constant | ast.Tuple | ast.List | ast.Set | ast.Dict) and not is_text


def _caught_by(kind: ast.expr) -> bool:
    """Whether a handler of these exceptions catches a failed assertion."""
    if isinstance(kind, ast.Tuple):
        return any(map(_caught_by, kind.elts))
    return getattr(kind, "id", getattr(kind, "attr", "")) in _CATCHES
