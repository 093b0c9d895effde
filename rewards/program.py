"""Extracts the program from a response.

The rules, in this order:

1. Text before ``</think>`` is a draft. Text after a ``<think>`` that is never closed is a draft too, with one exception
   for models that forget the closing mark: it counts if no program stands before ``<think>`` and the response ends with
   a closed block that defines all required names, or, if none are required, reads standard input.
2. A block is fenced by three or more backticks or tildes, also inside a list or quotation. A block that is not closed
   was cut off and does not count. Only blocks tagged as Python or without a language count; tagged ones are preferred.
3. If names are required, the program is the last of the blocks that define most of them. A stub (a function of nothing
   but ``pass`` or a docstring) defines nothing, and a block that is introduced as a mistake is not chosen if another
   one will do.
4. Otherwise the program is the last block that reads standard input, or else the last block that does anything, so
   that a block of sample output is not taken for it.
5. Earlier blocks that define names which the program lacks, such as helpers and imports, are put in front of it.
"""

import ast
import builtins
import re
import sys
import textwrap
import warnings
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property

from rewards.answers import REASONING, final_part
from rewards.parsing import parse

_FENCE = re.compile(r"(?P<prefix>[ \t>]*(?:(?:[-*+]|\d+[.)])[ \t]+)?)(?P<fence>`{3,}|~{3,})(?P<info>[^`\n]*)")
_PYTHON = re.compile(r"i?py(?:thon)?[\d.]*", re.IGNORECASE)
_LANGUAGES = re.compile(
    r"text|txt|plaintext|output|console|shell|sh|bash|zsh|cmd|powershell|json|yaml|toml|xml|html|css|"
    r"sql|diff|markdown|md|pycon|c|cpp|csharp|java|javascript|js|typescript|ts|go|rust|ruby|php|"
    r"swift|kotlin|scala|r|julia|latex"
)
# Depth of nested fences (in markdown, in docstrings), and number of checks whether a fence is inside a string. Without
# the bounds, a response full of fences would take quadratic time.
_MAX_NESTED, _MAX_CHECKS = 3, 50
# "A common mistake is:" in front of a block, unless the same sentence speaks of a correction: "I fixed the bug:".
_MISTAKE = re.compile(
    r"\b(mistake|wrong|incorrect|bug|buggy|pitfall|avoid|broken|does(?: not|n't) work|fails?|not to do|bad|don't|"
    r"do not|original)\b",
    re.IGNORECASE,
)
_MENDED = re.compile(
    r"\b(correct|corrected|fix|fixed|fixes|right|solution|without|instead|improved|revised|updated)\b", re.IGNORECASE
)
_READS_INPUT = re.compile(r"\binput\s*\(|\bstdin\b|\bopen\s*\(\s*0\b|\bfileinput\b|/dev/stdin|\bos\.read\s*\(\s*0\b")
_MAX_PARSED = 100_000


@dataclass(frozen=True)
class Block:
    """A closed fenced block of code.

    Args:
        language: Language tag of the block, in lower case; empty if it has none.
        text: Content of the block, without the indentation that all lines share.
        before: The line of text before the block.
    """

    language: str
    text: str
    before: str = ""

    @cached_property
    def tree(self) -> ast.Module | None:
        """The parsed text, or ``None`` if it is not valid Python or too long."""
        if len(self.text) > _MAX_PARSED:
            return None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # invalid escapes in the program's strings must not warn here
                return parse(self.text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None

    @cached_property
    def defined(self) -> set[str]:
        """Names that the block defines at its top level; stubs do not count."""
        if self.tree is None:
            return set(re.findall(r"^(?:async\s+def|def|class)\s+(\w+)", self.text, re.MULTILINE))
        return {name for node in _top_level(self.tree.body) for name in _bound_by(node)}

    @cached_property
    def lacks(self) -> set[str]:
        """Names that the block reads and that neither the block nor the builtins define."""
        nodes = list(ast.walk(self.tree)) if self.tree else []
        read = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
        bound = {node.id for node in nodes if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
        bound |= {node.arg for node in nodes if isinstance(node, ast.arg)}
        bound |= {node.name for node in nodes if isinstance(node, ast.ExceptHandler) and node.name}
        # Names bound by definitions and imports inside functions are not lacking either.
        return {name for name in read - bound - self.defined if not hasattr(builtins, name)} - {
            name for node in nodes for name in _bound_by(node)
        }

    @property
    def is_output(self) -> bool:
        """Whether the block does nothing, because it holds only numbers and words, as sample output does."""
        inert = (ast.Constant, ast.Name, ast.Tuple, ast.List, ast.UnaryOp)
        body = self.tree.body if self.tree else []
        return not any(not isinstance(node, ast.Expr) or not isinstance(node.value, inert) for node in body)

    @property
    def is_mistake(self) -> bool:
        """Whether the last sentence before the block, or a comment in its first line, introduces it as a mistake."""
        first = self.text.lstrip().partition("\n")[0]
        sentence = re.split(r"[.!?]\s+", self.before.strip())[-1]
        said = sentence + (first if first.startswith("#") else "")
        return bool(_MISTAKE.search(said)) and not _MENDED.search(said)


def code_blocks(text: str) -> list[Block]:
    """The closed fenced blocks of a text, of any language, in the order of their ends."""
    blocks: list[Block] = []
    open_blocks: list[tuple[re.Match[str], list[str], str]] = []  # opening fence, lines so far, line in front of it
    before, checks = "", _MAX_CHECKS
    lines = text.splitlines()
    fences = [_FENCE.match(line) if "```" in line or "~~~" in line else None for line in lines]
    last = max((i for i, fence in enumerate(fences) if fence), default=-1)
    for i, (line, fence) in enumerate(zip(lines, fences, strict=True)):
        # Outside a block, every fence opens a block. Inside a block, a fence of the same kind closes it, unless the
        # fence names a language and so opens a nested block (Python inside markdown), or a docstring is still open.
        opens = fence is not None and not open_blocks
        if fence and open_blocks:
            opening, inside, introduction = open_blocks[-1]
            same = fence["fence"][0] == opening["fence"][0] and len(fence["fence"]) >= len(opening["fence"])
            # In "``` This adds them." the text after the closing fence is prose and not a language.
            language = "" if fence["info"].startswith(" ") else _language(fence["info"])
            nests = same or _language(opening["info"]) in ("markdown", "md")
            opens = nests and bool(_LANGUAGES.fullmatch(language) or _PYTHON.fullmatch(language))
            checks -= 1
            if same and not opens and not (i < last and checks > 0 and _in_a_string("\n".join(inside))):
                open_blocks.pop()
                blocks.append(Block(_language(opening["info"]), _content(opening, inside), introduction))
                before = line[fence.end("fence") :]
        for _, inside, _ in open_blocks:
            inside.append(line)
        if fence and opens and len(open_blocks) < _MAX_NESTED:
            open_blocks.append((fence, [], before))
        elif line.strip() and not open_blocks and not fence:
            before = line
    return blocks


def _language(info: str) -> str:
    """The language in the text after a fence, such as ``py``, ``Python``, ``{.python}``, ``python:solution.py``."""
    return re.split(r"[\s:,{}=]", info.strip().strip("{}.").lower())[0].lstrip(".")


def _content(opening: re.Match[str], lines: list[str]) -> str:
    if ">" in opening["prefix"]:
        lines = [re.sub(r"^[ \t]*>[ \t]?", "", line) for line in lines]
    return textwrap.dedent("\n".join(lines)) + "\n"


def _in_a_string(text: str) -> bool:
    """Whether a text ends inside a triple-quoted string, so that a fence after it belongs to a docstring."""
    quotes = re.findall(r'"""|\'\'\'|#[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', text)
    opened = ""
    for quote in quotes:
        if opened:
            opened = "" if quote.endswith(opened) else opened
        elif quote in ('"""', "'''"):
            opened = quote
    return bool(opened)


def _top_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for node in body:
        yield node
        for part in ("body", "orelse", "finalbody", "handlers"):
            if isinstance(node, ast.If | ast.Try | ast.With) and hasattr(node, part):
                yield from _top_level(getattr(node, part))


def _bound_by(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        if not _is_stub(node):
            yield node.name
    elif isinstance(node, ast.Import | ast.ImportFrom):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] not in sys.stdlib_module_names:
            return  # "from solution import add" belongs to a block of tests and does not define ``add``
        yield from ((alias.asname or alias.name).partition(".")[0] for alias in node.names)
    elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        yield from (name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name))


def _is_stub(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> bool:
    """Whether a function does nothing, or a class has methods that all do nothing."""
    inert = [
        isinstance(part, ast.Pass)
        or (isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant))
        or (isinstance(part, ast.Raise) and "NotImplemented" in ast.dump(part))
        or (
            isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)
            and isinstance(node, ast.ClassDef)
            and _is_stub(part)
        )
        for part in node.body
    ]
    has_methods = any(isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef) for part in node.body)
    return all(inert) and (has_methods or not isinstance(node, ast.ClassDef))


def _python(blocks: list[Block]) -> list[Block]:
    return [b for b in blocks if _PYTHON.fullmatch(b.language)] + [b for b in blocks if not b.language]


def _without_draft(text: str, wanted: set[str]) -> list[Block]:
    """Blocks of a text without those in reasoning that is never closed (rule 1 at the top of this module)."""
    opened = min((text.find(opening) for opening, _ in REASONING if opening in text), default=len(text))
    blocks = [block for block in code_blocks(text[:opened]) if block.text.strip()]
    if opened == len(text) or _python(blocks) or not text.rstrip().endswith(("```", "~~~")):
        return blocks
    everything = [block for block in code_blocks(text) if block.text.strip()]
    last = everything[-1] if everything else None
    solves = last in _python(everything) and (
        wanted <= last.defined if wanted else bool(_READS_INPUT.search(last.text))
    )
    return everything if solves else blocks


def program_in(response: str, defines: Collection[str] = ()) -> str | None:
    """The program in a response, by the rules at the top of this module; ``None`` if there is none.

    Args:
        response: Text that the policy wrote.
        defines: Names of the functions and classes that the program must define.
    """
    wanted = set(defines)
    blocks = _without_draft(final_part(response), wanted)
    python = _python(blocks)
    if not python:
        return None

    # The block with the largest rank wins; among blocks of equal rank, the last one.
    def rank(block: Block) -> tuple[int, ...]:
        useful = len(wanted & block.defined) if wanted else bool(_READS_INPUT.search(block.text))
        readable = block.tree is not None
        does = readable and not block.is_output
        return bool(useful) and not block.is_mistake, useful, not block.is_mistake, bool(block.language), does, readable

    order = {id(block): i for i, block in enumerate(blocks)}
    chosen = max(python, key=lambda block: (*map(int, rank(block)), order[id(block)]))
    parts, lacking = [chosen], chosen.lacks | (wanted - chosen.defined)
    # Backwards, so that the latest version of a helper is used and helpers of helpers are found too.
    for block in reversed(blocks[: order[id(chosen)]]):
        if block in python and block.tree and not block.is_mistake and lacking & block.defined:
            parts.insert(0, block)
            lacking = (lacking - block.defined) | block.lacks
    return "\n".join(part.text for part in parts)
