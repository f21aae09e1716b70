"""One-line mutants of Python source: small faults of the kinds that people make, each of which a test should notice.

What is changed, by kind: comparisons and arithmetic turned round, `and` for `or`, a `not` left out, a number one off, a
flag turned, `min` for `max`, two arguments swapped, a keyword argument dropped, a call or a check left out, a function
left too early, a condition turned round. What is left alone, since no test of what the code does could see it: types,
decorators, assertions (for what cannot happen), words of errors and other f-strings, and arguments in NO_EFFECT.
"""

import ast
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

# Keyword arguments that change nothing that a test can see on the machine at hand: a check of what cannot happen, the
# encoding where it is UTF-8 anyway, where numbers lie in memory.
NO_EFFECT = frozenset({"strict", "encoding", "memory_format"})

_COMPARISONS = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}
_ARITHMETIC = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "*"),
    ast.Pow: ("**", "*"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
}
_NAMES = {"min": "max", "max": "min", "any": "all", "all": "any", "floor": "ceil", "ceil": "floor"}
_NAMES |= {"minimum": "maximum", "maximum": "minimum", "argmin": "argmax", "argmax": "argmin"}
# Functions whose arguments may stand in either order, or that no program calls the other way round.
_NOT_SWAPPED = frozenset(
    {*_NAMES, "equal", "hypot", "gcd", "isclose", "isinstance", "issubclass", "getattr", "hasattr"}
)


@dataclass(frozen=True, order=True)
class Mutant:
    """One change of one line.

    file          relative to the root of the checkout, with forward slashes
    line          counted from 1
    start, end    the bytes of the line that are replaced
    was, now      what stands there, and what stands there instead
    kind          one of those that the module's docstring lists
    """

    file: str
    line: int
    start: int
    end: int
    was: str
    now: str
    kind: str

    def applied(self, source: str) -> str:
        """The file's text with the change. Raises ValueError where `was` does not stand there."""
        lines = source.encode().split(b"\n")
        line = lines[self.line - 1]
        if line[self.start : self.end] != self.was.encode():
            raise ValueError(f"{self.file}:{self.line}: {self.was!r} does not stand at {self.start}")
        lines[self.line - 1] = line[: self.start] + self.now.encode() + line[self.end :]
        return b"\n".join(lines).decode()

    def lines(self, source: str) -> tuple[str, str]:
        """The line without its margin, before and after."""
        before, after = (text.split("\n")[self.line - 1].strip() for text in (source, self.applied(source)))
        return before, after

    def changes(self, source: str) -> bool:
        """Whether the file is another program then, and one that can be compiled."""
        try:
            return ast.dump(ast.parse(self.applied(source))) != ast.dump(ast.parse(source))
        except SyntaxError:  # such as a statement that shares its line with another
            return False


def mutants_of(file: str, source: str) -> list[Mutant]:
    """Candidates in the order of the file's lines; ask `changes` of each that is to be used."""
    return sorted(set(_Finder(file, source).found()))


def drawn(
    sources: Mapping[str, str],
    count: int,
    seed: int,
    *,
    room_of: Callable[[str], str],
    wanted: Callable[[Mutant], bool] = lambda mutant: True,
) -> list[Mutant]:
    """Mutants of these files, at most one a line, spread over rooms and over kinds.

    sources: the text of files by their names. The same for the same seed and sources; fewer than `count` where there
    are no more.
    """
    rng = random.Random(seed)
    waiting: dict[str, dict[str, list[Mutant]]] = defaultdict(lambda: defaultdict(list))
    for file, source in sorted(sources.items()):
        for mutant in mutants_of(file, source):
            waiting[room_of(file)][mutant.kind].append(mutant)
    for kinds in waiting.values():
        for mutants in kinds.values():
            rng.shuffle(mutants)
    order = {room: rng.sample(sorted(kinds), len(kinds)) for room, kinds in sorted(waiting.items())}
    chosen: dict[tuple[str, int], Mutant] = {}
    turn = 0
    while len(chosen) < count and any(order.values()):
        for room in rng.sample(sorted(order), len(order)):
            if not order[room] or len(chosen) == count:
                continue
            kind = order[room][turn % len(order[room])]
            mutants = waiting[room][kind]
            while mutants:
                mutant = mutants.pop()
                place = mutant.file, mutant.line
                if place not in chosen and mutant.changes(sources[mutant.file]) and wanted(mutant):
                    chosen[place] = mutant
                    break
            if not mutants:
                order[room].remove(kind)
        turn += 1
    return sorted(chosen.values())


class _Finder:
    """Walks one file."""

    def __init__(self, file: str, source: str) -> None:
        self.file, self.source = file, source
        self.lines = source.encode().split(b"\n")

    def found(self) -> Iterator[Mutant]:
        """Every change."""
        yield from self._visit(ast.parse(self.source), in_function=False)

    def _visit(self, node: ast.AST, *, in_function: bool) -> Iterator[Mutant]:
        yield from self._changes(node, in_function=in_function)
        in_function = in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list", "type_params"):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST) and not _is_left_alone(child):
                    yield from self._visit(child, in_function=in_function)

    def _changes(self, node: ast.AST, *, in_function: bool) -> Iterator[Mutant]:
        match node:
            case ast.Compare(left=left, ops=[op], comparators=[right]):
                yield from self._between(left, right, *_COMPARISONS[type(op)], "comparison")
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC and not _is_text(left, right):
                if in_function or not isinstance(op, ast.BitOr):  # outside functions it joins types
                    yield from self._between(left, right, *_ARITHMETIC[type(op)], "arithmetic")
            case ast.AugAssign(target=target, op=op, value=value) if type(op) in _ARITHMETIC and not _is_text(value):
                was, now = _ARITHMETIC[type(op)]
                yield from self._between(target, value, was + "=", now + "=", "arithmetic")
            case ast.BoolOp(op=op, values=values):
                was, now = ("and", "or") if isinstance(op, ast.And) else ("or", "and")
                for left, right in pairwise(values):
                    yield from self._between(left, right, was, now, "and, or")
            case ast.UnaryOp(op=ast.Not(), operand=operand):  # a truth value, as before
                yield from self._replaced(node, f"bool({self._text(operand)})", "not")
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                yield from self._replaced(node, self._text(operand), "arithmetic")
            case ast.Constant(value=bool(value)):
                yield from self._replaced(node, str(not value), "flag")
            case ast.Constant(value=int(value)):
                yield from self._replaced(node, str(value + 1), "number")
                yield from self._replaced(node, str(value - 1) if value else "2", "number")
            case ast.Constant(value=float(value)):
                yield from self._replaced(node, repr(value * 1.25 if value else 0.25), "number")
            case ast.Name(id=name, ctx=ast.Load()) if name in _NAMES:
                yield from self._replaced(node, _NAMES[name], "min, max")
            case ast.Call(func=ast.Attribute(value=value, attr=name)) if name in _NAMES:
                yield from self._after(value, name, _NAMES[name], "min, max")
        match node:
            case ast.Call():
                yield from self._arguments(node)
            case ast.If(test=test) | ast.IfExp(test=test) if not isinstance(
                test, ast.Compare | ast.BoolOp | ast.UnaryOp
            ):
                yield from self._replaced(test, f"(not {self._text(test)})", "condition")
            case ast.Expr(value=ast.Call()) | ast.Delete() | ast.Raise(exc=ast.AST()) | ast.AugAssign():
                yield from self._replaced(node, "pass", "statement left out")
                if in_function and isinstance(node, ast.Expr):
                    yield from self._replaced(node, "return", "early return")
            case ast.Continue() | ast.Break():
                yield from self._replaced(node, "pass", "statement left out")
            case ast.Return(value=ast.expr() as value) if not (isinstance(value, ast.Constant) and value.value is None):
                yield from self._replaced(node, "return None", "early return")

    def _arguments(self, call: ast.Call) -> Iterator[Mutant]:
        """Two neighbours swapped, a keyword argument dropped."""
        for left, right in pairwise(call.args):
            unlike = {type(left), type(right)}.isdisjoint({ast.Starred, ast.GeneratorExp})
            if left.lineno == right.end_lineno and unlike and _name(call.func) not in _NOT_SWAPPED:
                first, second = self._text(left), self._text(right)
                between = self._slice(left.lineno, left.end_col_offset, right.col_offset)
                start, end = left.col_offset, right.end_col_offset
                yield from self._at(left.lineno, start, end, f"{second}{between}{first}", "swapped arguments")
        rest = [*call.args, *(keyword.value for keyword in call.keywords)]
        for keyword in call.keywords:
            earlier = [one for one in rest if (one.lineno, one.col_offset) < (keyword.lineno, keyword.col_offset)]
            before = max(earlier, key=lambda one: (one.end_lineno or 0, one.end_col_offset or 0), default=call.func)
            if keyword.arg is None or keyword.arg in NO_EFFECT or keyword.lineno != keyword.end_lineno:
                continue
            start, end = keyword.col_offset, keyword.end_col_offset or 0
            if earlier and before.end_lineno == keyword.lineno:  # with the comma before it
                start = before.end_col_offset or 0
                start += self._slice(keyword.lineno, start, keyword.col_offset).index(",")
            elif self.lines[keyword.lineno - 1][end : end + 1] == b",":
                end += 1
            yield from self._at(keyword.lineno, start, end, "", "dropped argument")

    def _between(self, left: ast.expr, right: ast.expr, was: str, now: str, kind: str) -> Iterator[Mutant]:
        """An operator between two operands of one line."""
        start = left.end_col_offset or 0
        segment = self._slice(right.lineno, start, right.col_offset)
        if left.end_lineno == right.lineno and segment.strip(" ()") == was:
            start += segment.index(was)
            yield from self._at(right.lineno, start, start + len(was), now, kind)

    def _after(self, value: ast.expr, was: str, now: str, kind: str) -> Iterator[Mutant]:
        """An attribute's name behind its owner."""
        line, start = value.end_lineno or 0, value.end_col_offset or 0
        if self._slice(line, start, start + 1 + len(was)) == f".{was}":
            yield from self._at(line, start + 1, start + 1 + len(was), now, kind)

    def _replaced(self, node: ast.AST, now: str, kind: str) -> Iterator[Mutant]:
        if node.lineno == node.end_lineno:  # type: ignore[attr-defined]
            yield from self._at(node.lineno, node.col_offset, node.end_col_offset, now, kind)  # type: ignore[attr-defined]

    def _at(self, line: int, start: int, end: int | None, now: str, kind: str) -> Iterator[Mutant]:
        assert end is not None
        if (was := self._slice(line, start, end)) != now:
            yield Mutant(self.file, line, start, end, was, now, kind)

    def _slice(self, line: int, start: int | None, end: int) -> str:
        return self.lines[line - 1][start:end].decode()

    def _text(self, node: ast.expr) -> str:
        """The source of what stands on one line."""
        return self._slice(node.lineno, node.col_offset, node.end_col_offset or 0)


def _name(node: ast.expr) -> str:
    """The last part of a function's name; "" where it has none."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _is_left_alone(node: ast.AST) -> bool:
    match node:
        case ast.Assert() | ast.JoinedStr() | ast.Import() | ast.ImportFrom():
            return True
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):
            return True
        case ast.Assign(targets=[ast.Name(id="__all__")]):
            return True
        case ast.keyword(arg=name) if name in NO_EFFECT:
            return True
        case ast.Call(func=ast.Name(id=name)) if name.endswith("Error"):  # words of errors
            return True
    return False


def _is_text(*nodes: ast.expr) -> bool:
    """Whether text is joined: other operators do not know it."""
    return any(
        isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str | bytes))
        for node in nodes
    )


@dataclass(frozen=True)
class Equivalent:
    """A change that no test can see, and why."""

    file: str
    was: str
    now: str
    why: str

    def is_of(self, mutant: Mutant, source: str) -> bool:
        """Whether it speaks of this mutant: of its file and line as they read, wherever the line stands."""
        return mutant.file == self.file and mutant.lines(source) == (self.was, self.now)
