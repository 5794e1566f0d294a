"""Mistakes that can be planted in a source file: each replaces one expression or statement by another.

A mistake is named by file, function, kind and text, not by line, so that its name survives changes elsewhere.
Messages, annotations, docstrings, decorators and asserts are left alone: no test of a fact can see them.
"""

import ast
import copy
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

__all__ = ["Mutant", "mutants_of"]

BINARY: dict[type[ast.operator], type[ast.operator]] = {
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult},
    **{ast.FloorDiv: ast.Mult, ast.Pow: ast.Mult, ast.Mod: ast.Mult, ast.BitAnd: ast.BitOr, ast.LShift: ast.RShift},
}
COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq},
    **{ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is},
}
TWINS = [
    *[("mean", "sum"), ("amax", "amin"), ("max", "min"), ("maximum", "minimum"), ("floor", "ceil"), ("ge", "gt")],
    *[("le", "lt"), ("argmax", "argmin"), ("square", "abs"), ("logical_or", "logical_and"), ("add_", "sub_")],
    *[("any", "all"), ("zeros_like", "ones_like"), ("zeros", "ones"), ("where", "where"), ("float32", "float16")],
]
NAMES = {**dict(TWINS), **{right: left for left, right in TWINS}, "mode": "sample", "float64": "float32"}
DROPPED = {
    *("detach", "clone", "abs", "clamp", "clamp_", "round", "round_", "sqrt", "exp", "sorted", "reversed"),
    *("flatten", "softmax", "square", "permute", "transpose", "eval", "byte", "contiguous", "requires_grad_"),
}
INERT = {"device", "strict", "noqa", "what", "persistent"}
"""Keywords that change nothing on a CPU, or only what is shown."""
ASKING = ("range", "isinstance", "issubclass", "getattr", "hasattr")
SILENT = {"extra_repr", "__repr__", "__str__"}


@dataclass(frozen=True)
class Mutant:
    """One mistake: the bytes from `start` to `end` of a file, `before`, are replaced by `after`."""

    file: str
    where: str
    kind: str
    before: str
    after: str
    number: int
    line: int
    start: int
    end: int

    @property
    def name(self) -> str:
        place = f" #{self.number}" if self.number else ""
        return f"{self.file} {self.where or '(module)'}: {self.kind}: {self.before} -> {self.after}{place}"

    def planted(self, source: bytes) -> bytes:
        """Return the file's text with the mistake."""
        return source[: self.start] + self.after.encode() + source[self.end :]


def mutants_of(file: str, source: bytes) -> list[Mutant]:
    """Return all mistakes that can be planted in a file, those that do not compile left out."""
    finder, seen = _Finder(file, source), Counter[tuple[str, ...]]()
    finder.visit(ast.parse(source))
    made = []
    for mutant in finder.found:
        key = (mutant.where, mutant.kind, mutant.before, mutant.after)
        numbered = Mutant(**{**vars(mutant), "number": seen[key]})
        seen[key] += 1
        try:
            compile(numbered.planted(source), file, "exec")
        except (SyntaxError, ValueError):
            continue
        made.append(numbered)
    return made


class _Finder(ast.NodeVisitor):
    def __init__(self, file: str, source: bytes) -> None:
        self.file, self.source = file, source
        self.path: list[str] = []
        self.starts = [0]
        for line in source.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))
        self.found: list[Mutant] = []

    def visit(self, node: ast.AST) -> None:
        match node:
            case ast.FunctionDef() | ast.ClassDef():
                self._inside(node)
            case ast.AnnAssign(value=value):
                if value is not None:
                    self.visit(value)
            case ast.Raise() | ast.JoinedStr() | ast.Import() | ast.ImportFrom() | ast.Assert():
                pass
            case ast.Assign(targets=[ast.Name(id="__all__")]):
                pass
            case ast.BinOp(op=ast.BitOr()):  # a union of types
                pass
            case _:
                if isinstance(node, ast.If | ast.IfExp) and not isinstance(node.test, ast.Compare | ast.UnaryOp):
                    self._note(node.test, "condition", f"(not {_text(node.test)})")
                for kind, after in _changes(node):
                    self._note(node, kind, after)
                self.generic_visit(node)

    def _inside(self, node: ast.FunctionDef | ast.ClassDef) -> None:
        if node.name in SILENT:
            return
        self.path.append(node.name)
        if isinstance(node, ast.FunctionDef):
            for value in [*node.args.defaults, *filter(None, node.args.kw_defaults)]:
                self.visit(value)
            for last in node.body[-1:]:
                if isinstance(last, ast.Return) and last.value is not None:
                    for name in (one.arg for one in node.args.args if _alike(one.annotation, node.returns)):
                        self._note(last.value, "return early", name)
        for number, one in enumerate(node.body):
            if number or not isinstance(one, ast.Expr):
                self.visit(one)
        self.path.pop()

    def _note(self, node: ast.AST, kind: str, after: str) -> None:
        if after == _plain(node):
            return
        assert isinstance(node, ast.expr | ast.stmt)
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        start = self.starts[node.lineno - 1] + node.col_offset
        end = self.starts[node.end_lineno - 1] + node.end_col_offset
        before = " ".join(self.source[start:end].decode().split())
        where = ".".join(self.path)
        self.found.append(Mutant(self.file, where, kind, before, after, 0, node.lineno, start, end))


def _changes(node: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield the kind and the new text of every mistake that replaces this node."""
    match node:
        case ast.BinOp(op=ast.Div()) if _is_path(node):
            pass
        case ast.BinOp(op=op) if type(op) in BINARY:
            yield "arithmetic", _text(node, op=BINARY[type(op)]())
        case ast.Compare(ops=[op, *others]) if type(op) in COMPARISONS:
            yield "comparison", _text(node, ops=[COMPARISONS[type(op)](), *others])
        case ast.BoolOp(op=op):
            yield "and, or", _text(node, op=ast.Or() if isinstance(op, ast.And) else ast.And())
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield "not", _text(operand)
        case ast.UnaryOp(op=ast.USub(), operand=operand) if not isinstance(operand, ast.Constant):
            yield "sign", _text(operand)
        case ast.Constant(value=value):
            yield from (("constant", str(other)) for other in _constants(value))
        case ast.Subscript(slice=ast.Slice(lower=lower, upper=upper, step=step)):
            yield "slice", _text(node, slice=ast.Slice(upper, lower, step))
        case ast.Expr(value=ast.Call()) | ast.AugAssign():
            yield "statement", "pass"
        case ast.Assign(targets=[ast.Subscript()]):
            yield "statement", "pass"
        case ast.Attribute(attr=attr) if attr in NAMES and NAMES[attr] != attr:
            yield "twin", _text(node, attr=NAMES[attr])
        case ast.Call():
            yield from _calls(node)


def _calls(node: ast.Call) -> Iterator[tuple[str, str]]:
    args = node.args
    for place, (left, right) in enumerate(pairwise(args)):
        if type(left) is type(right) and not isinstance(left, ast.Starred) and _plain(node.func) not in ASKING:
            yield "arguments", _text(node, args=[*args[:place], right, left, *args[place + 2 :]])
    for keyword in node.keywords:
        if keyword.arg is not None and keyword.arg not in INERT:
            yield "keyword", _text(node, keywords=[one for one in node.keywords if one is not keyword])
    match node.func:
        case ast.Attribute(value=value, attr=attr) if attr in DROPPED or (attr == "float" and not args):
            yield "dropped", _text(value)
        case ast.Name(id=name) if name in DROPPED and len(args) == 1:
            yield "dropped", _text(args[0])
        case ast.Name(id=name) if name in ("min", "max", "any", "all", "sum"):
            twin = {"min": "max", "max": "min", "any": "all", "all": "any", "sum": "max"}[name]
            yield "twin", _text(node, func=ast.Name(twin))


def _constants(value: object) -> list[object]:
    """Return wrong values for one."""
    match value:
        case bool():
            return [not value]
        case int():
            return [{0: 1, 1: 2, 2: 1}.get(value, value + 1)]
        case float():
            return [1.0 if value == 0 else value * 2]
    return []


def _plain(node: ast.AST | None) -> str:
    return "" if node is None else ast.unparse(node)


def _alike(one: ast.expr | None, other: ast.expr | None) -> bool:
    """Whether both are annotations of tensors, or the same: otherwise the check of types alone would see a mistake."""
    left, right = _plain(one), _plain(other)
    return left == right != "" or ("Tensor" in left and "Tensor" in right and left[:5] == right[:5])


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _is_path(node: ast.BinOp) -> bool:
    text = _plain(node.left).lower()
    return _is_text(node.right) or "folder" in text or "path" in text


def _text(node: ast.AST, **changes: object) -> str:
    """Return a node's text with changed fields, in parentheses where it may need them."""
    changed = copy.copy(node)
    for name, value in changes.items():
        setattr(changed, name, value)
    text = ast.unparse(ast.fix_missing_locations(changed))
    return text if isinstance(changed, ast.Call | ast.Attribute | ast.Name | ast.Constant) else f"({text})"
