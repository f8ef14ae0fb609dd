"""Mutants of a source file: one small change each, made in its syntax tree."""

from __future__ import annotations

import ast
import copy
import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult, ast.Div: ast.Mult,
    ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.BitOr: ast.BitAnd, ast.BitAnd: ast.BitOr,
}  # fmt: skip
# The order of their arguments is of no importance.
SYMMETRIC = {
    "unify", "unite", "union", "gcd", "max", "min", "maximum", "minimum", "equal", "isclose", "isinstance", "getattr",
    "hasattr",
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """One change of one file.

    Attributes:
        nth: how many before it have the same key.
        source: hash of the function that it is in, or of what is in no function.
    """

    path: str
    function: str
    line: int
    kind: str
    before: str
    after: str
    index: int
    nth: int = 0
    source: str = ""

    @property
    def key(self) -> str:
        """The key of a mutant, which does not change when lines move."""
        return f"{self.path} {self.function} {self.kind}: {self.before} -> {self.after}"

    @property
    def identity(self) -> tuple[str, str]:
        """Identify a mutant among all others as long as its function stays as it is."""
        return f"{self.key} ({self.nth})", self.source


def mutants(path: str, source: str) -> list[Mutant]:
    """List all mutants of a file."""
    tree, found, before = ast.parse(source), list[Mutant](), Counter[str]()
    texts: dict[str, str] = defaultdict(str)
    for function, node in _nodes(tree, "", ""):
        texts[function] += ast.dump(node) if node is not tree else ""
    for index, (function, node, kind, new) in enumerate(_changes(tree)):
        sha = hashlib.sha256(texts[function].encode()).hexdigest()[:12]
        made = Mutant(path, function, node.lineno, kind, _told(node), "" if new is None else _told(new), index, 0, sha)
        found.append(replace(made, nth=before[made.key]))
        before[made.key] += 1
    return found


def _told(node: ast.AST) -> str:
    return ast.unparse(node.test if isinstance(node, (ast.If, ast.While)) else node)


def mutated(source: str, index: int) -> ast.Module:
    """Return the tree of the file with one change."""
    tree = ast.parse(source)
    _, node, _, new = next(change for at, change in enumerate(_changes(tree)) if at == index)
    module = _Replace(node, ast.copy_location(new if new is not None else ast.Pass(), node)).visit(tree)
    return ast.fix_missing_locations(module)


class _Replace(ast.NodeTransformer):
    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        return self.new if node is self.old else self.generic_visit(node)


Change = tuple[str, ast.AST, str, ast.AST | None]


def _changes(tree: ast.Module) -> Iterator[Change]:
    for function, node in _nodes(tree, "", ""):
        for kind, new in _of(node):
            yield function, node, kind, new


def _nodes(node: ast.AST, function: str, owner: str) -> Iterator[tuple[str, ast.AST]]:
    """Yield nodes that compute something, without annotations and texts, with their function."""
    if isinstance(node, ast.ClassDef):
        for child in node.body:
            yield from _nodes(child, function, f"{owner}{node.name}.")
        return
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        for outer in (*node.decorator_list, *node.args.defaults, *(d for d in node.args.kw_defaults if d)):
            yield from _nodes(outer, function, owner)
        for child in node.body:
            yield from _nodes(child, function or owner + node.name, owner)
        return
    if isinstance(node, (ast.JoinedStr, ast.Assert, ast.Import, ast.ImportFrom, ast.Raise)):
        return
    if isinstance(node, ast.keyword) and node.arg == "strict":  # of zip: an assertion
        return
    if isinstance(node, ast.AnnAssign):
        if node.value is not None:
            yield from _nodes(node.value, function, owner)
        return
    yield function, node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "ctx"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _nodes(child, function, owner)


def _of(node: ast.AST) -> Iterator[tuple[str, ast.AST | None]]:
    if isinstance(node, ast.Compare):
        for at, op in enumerate(node.ops):
            if type(op) in COMPARISONS:
                new = copy.copy(node)
                new.ops = [*node.ops[:at], COMPARISONS[type(op)](), *node.ops[at + 1 :]]
                yield "comparison", new
    elif isinstance(node, ast.BoolOp):
        other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield "and, or", ast.BoolOp(other, node.values)
        for at in range(len(node.values)):
            rest = [*node.values[:at], *node.values[at + 1 :]]
            yield "condition left out", rest[0] if len(rest) == 1 else ast.BoolOp(node.op, rest)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub)):
        yield "sign", node.operand
    elif isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
        yield "arithmetic", ast.BinOp(node.left, ARITHMETIC[type(node.op)](), node.right)
    elif isinstance(node, ast.Constant) and isinstance(node.value, (bool, int, float)):
        new_value = not node.value if isinstance(node.value, bool) else node.value + 1
        yield "constant", ast.Constant(new_value)
        if not isinstance(node.value, bool) and node.value > 0:
            yield "constant", ast.Constant(node.value - 1)
    elif isinstance(node, (ast.If, ast.While)):
        new_if = copy.copy(node)
        new_if.test = ast.UnaryOp(ast.Not(), node.test)
        yield "condition turned", new_if
    elif isinstance(node, ast.IfExp):
        yield "condition turned", ast.IfExp(node.test, node.orelse, node.body)
    elif _is_statement(node):
        yield "statement left out", None
    elif isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        plain = len(node.args) > 1 and not any(isinstance(a, ast.Starred) or _is_text(a) for a in node.args[:2])
        if plain and name not in SYMMETRIC and ast.dump(node.args[0]) != ast.dump(node.args[1]):
            yield "arguments swapped", ast.Call(node.func, [node.args[1], node.args[0], *node.args[2:]], node.keywords)


def _is_statement(node: ast.AST) -> bool:
    """Tell whether a node is a call for its effect, or an assignment that changes something.

    Without the assignment of a plain name, its use would be an error.
    """
    if isinstance(node, ast.Assign):
        return not isinstance(node.targets[0], ast.Name)
    called = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    return called or isinstance(node, (ast.AugAssign, ast.Continue))


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))
