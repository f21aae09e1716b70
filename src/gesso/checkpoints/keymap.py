"""Converts checkpoints by tables of tensor names: file tensors <-> native parameters.

A table is a list of rules. Read downwards it says where each tensor of a file goes; the same rows read from right to
left say what a file is made of. The engine works forward from the names of the parameters, so nothing in a file can
ask for a name that the model does not have. Each file tensor meets exactly one row and each parameter is filled
exactly once, or the load stops with the names.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from gesso.checkpoints.errors import ModelFileError, examples, shape_text
from gesso.errors import shorten

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Transform:
    """How the numbers of one file tensor become those of one parameter or several, and back, bit by bit."""

    load: Callable[[Tensor], tuple[Tensor, ...]]
    save: Callable[[tuple[Tensor, ...]], Tensor]


def _same(tensor: Tensor) -> tuple[Tensor]:
    return (tensor,)


def _first(tensors: tuple[Tensor, ...]) -> Tensor:
    return tensors[0]


def _flat(tensor: Tensor) -> tuple[Tensor]:
    return (tensor[:, :, 0, 0],) if tensor.ndim == 4 and tensor.shape[2:] == (1, 1) else (tensor,)


IDENTITY = Transform(_same, _first)
# A 1x1 convolution in the file, a linear layer here. Files with the linear shape are accepted too: repacks exist.
CONV1X1 = Transform(_flat, lambda tensors: tensors[0][:, :, None, None])
# The reverse: linear in the file, where repacks may hold a 1x1 convolution.
LINEAR = Transform(_flat, _first)
TRANSPOSE = Transform(lambda tensor: (tensor.t(),), lambda tensors: tensors[0].t())
# Three projections of one attention stacked in one tensor: q, k, v.
STACKED_QKV = Transform(lambda tensor: tuple(tensor.chunk(3)), torch.cat)


@dataclass(frozen=True)
class Rule:
    """One row: a name in the file, the name of the parameter, how the numbers change.

    Names are split at dots. A segment "{i}" stands for any one segment, and the same "{i}" stands for the same text on
    both sides. On the file side of a dropped row, a last segment "{rest*}" stands for one or more segments.

    native     a pattern, several where the file stacks tensors, or None: dropped on purpose
    load_only  another spelling that files may have; saving uses the row without the mark
    """

    file: str
    native: str | tuple[str, ...] | None
    transform: Transform = IDENTITY
    load_only: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError for a row that could not be read both ways."""
        placeholders = _placeholders(self.file)
        if self.native is None:
            return
        if any("*" in name for name in placeholders) or any(
            _placeholders(native) != placeholders for native in self.natives
        ):
            raise ValueError(f"{self.file} and {self.native} do not have the same placeholders")

    @property
    def natives(self) -> tuple[str, ...]:
        """The patterns of the parameters; none where the row drops the tensor."""
        return (self.native,) if isinstance(self.native, str) else self.native or ()


class TensorSource(Protocol):
    """Anything that gives tensors by name; an open file, or a dict."""

    def __getitem__(self, name: str, /) -> Tensor: ...


@dataclass(frozen=True)
class Renamed:
    """A source in which some names stand for the tensors of others."""

    source: TensorSource
    names: Mapping[str, str]

    def __getitem__(self, name: str, /) -> Tensor:
        return self.source[self.names.get(name, name)]


def nest(rules: Iterable[Rule], file: str, native: str) -> list[Rule]:
    """The same rules under a prefix on both sides; a prefix that is not empty ends in a dot."""
    return [
        Rule(
            file + rule.file,
            None if rule.native is None else tuple(native + name for name in rule.natives),
            rule.transform,
            rule.load_only,
        )
        for rule in rules
    ]


@dataclass(frozen=True)
class Row:
    """A rule with every placeholder filled in."""

    file: str
    natives: tuple[str, ...]
    transform: Transform
    load_only: bool


@dataclass
class _Node:
    children: dict[str, "_Node"] = field(default_factory=dict)
    rules: list[tuple[Rule, tuple[str, ...]]] = field(default_factory=list)  # with the names of their placeholders


class _Patterns:
    """Patterns as a tree of segments, so that a name is looked up in the time of its own length."""

    def __init__(self, patterns: Iterable[tuple[str, Rule]]) -> None:
        self._root = _Node()
        for pattern, rule in patterns:
            node, names = self._root, []
            for segment in pattern.split("."):
                if segment.startswith("{"):
                    names.append(segment)
                    segment = "{*}" if segment.endswith("*}") else "{}"
                node = node.children.setdefault(segment, _Node())
            node.rules.append((rule, tuple(names)))

    def match(self, name: str) -> list[tuple[Rule, dict[str, str]]]:
        """Every rule that the name meets, with what its placeholders stand for."""
        matches: list[tuple[Rule, tuple[str, ...], tuple[str, ...]]] = []
        states: list[tuple[_Node, tuple[str, ...]]] = [(self._root, ())]
        for segment in name.split("."):
            following = []
            for node, values in states:
                if rest := node.children.get("{*}"):
                    matches.extend((rule, names, (*values, "*")) for rule, names in rest.rules)
                if child := node.children.get(segment):
                    following.append((child, values))
                if child := node.children.get("{}"):
                    following.append((child, (*values, segment)))
            states = following
        matches.extend((rule, names, values) for node, values in states for rule, names in node.rules)
        return [(rule, dict(zip(names, values, strict=True))) for rule, names, values in matches]


@cache
def _placeholders(pattern: str) -> frozenset[str]:
    placeholders = [segment for segment in pattern.split(".") if segment.startswith("{") and segment.endswith("}")]
    if pattern.count("{") != len(placeholders) or "*" in pattern.rpartition(".")[0]:
        raise ValueError(f"{pattern}: a placeholder is a whole segment, one with a star the last")
    return frozenset(placeholders)


def _fill(pattern: str, values: Mapping[str, str]) -> str:
    return ".".join(values.get(segment, segment) for segment in pattern.split(".")) if values else pattern


def expand(rules: Sequence[Rule], params: Iterable[str]) -> list[Row]:
    """The rows that a model with these parameters has, in the order of the parameters.

    Raises ValueError where a table is wrong: a parameter that no row or more than one row for saving names, two rows
    that name the same file tensor.
    """
    return list(_expand(tuple(rules), tuple(params)))


@lru_cache(maxsize=32)  # a model of few sizes is opened, checked and saved by the same rows
def _expand(rules: tuple[Rule, ...], params: tuple[str, ...]) -> tuple[Row, ...]:
    known = set(params)
    patterns = _Patterns((rule.natives[0], rule) for rule in rules if rule.natives)
    rows: dict[str, Row] = {}
    saved: set[str] = set()
    for param in params:
        for rule, values in patterns.match(param):
            row = Row(
                file=_fill(rule.file, values),
                natives=tuple(_fill(native, values) for native in rule.natives),
                transform=rule.transform,
                load_only=rule.load_only,
            )
            if row.file in rows:
                raise ValueError(f"two rows name the file tensor {row.file}")
            if not row.load_only:
                if again := saved.intersection(row.natives):
                    raise ValueError(f"two rows save the parameter {sorted(again)[0]}")
                saved.update(row.natives)
            if not known.issuperset(row.natives):
                raise ValueError(f"{row.file} fills {row.natives}, of which the model has not all")
            rows[row.file] = row
    if left := [param for param in params if param not in saved]:
        raise ValueError(f"no row saves {examples(left)}")
    return tuple(rows.values())


def plan(
    rules: Sequence[Rule], files: Mapping[str, Shape], params: Mapping[str, Shape], *, where: str | Path
) -> list[Row]:
    """Which rows fill the parameters from this file; looks at names and shapes only.

    files: names and shapes of the file's tensors; params: those of the model's parameters. Raises ModelFileError
    unless each file tensor meets exactly one row, each parameter is filled exactly once and all shapes agree.
    """
    rows = [row for row in expand(rules, params) if row.file in files]
    _refuse_unknown(rules, files, {row.file for row in rows}, where)
    filled: dict[str, str] = {}
    for row in rows:
        for native in row.natives:
            if native in filled:
                message = (
                    f"{shorten(filled[native])} and {shorten(row.file)} are the same parameter; expected one of them"
                )
                raise ModelFileError("duplicate_key", where, message)
            filled[native] = row.file
    _refuse_missing(rules, params, filled, where)
    for row in rows:
        _check_shape(row, files[row.file], params, where)
    return rows


def _refuse_unknown(rules: Sequence[Rule], files: Iterable[str], taken: set[str], where: str | Path) -> None:
    unknown = unknown_to([rule for rule in rules if not rule.natives], (name for name in files if name not in taken))
    if unknown:
        message = f"{len(unknown)} tensors fit nothing in the model: {examples(unknown)}"
        raise ModelFileError("unknown_key", where, message)


def unknown_to(rules: Sequence[Rule], files: Iterable[str]) -> list[str]:
    """The names that no rule has on its file side."""
    patterns = _Patterns((rule.file, rule) for rule in rules)
    return [name for name in files if not patterns.match(name)]


def _refuse_missing(
    rules: Sequence[Rule], params: Mapping[str, Shape], filled: Mapping[str, str], where: str | Path
) -> None:
    missing = [param for param in params if param not in filled]
    if not missing:
        return
    names = {native: row.file for row in expand(rules, params) if not row.load_only for native in row.natives}
    file_names = list(dict.fromkeys(names[param] for param in missing))
    param = shorten(missing[0])
    message = f"{len(file_names)} tensors that the model needs are missing: {examples(file_names)} (for {param})"
    raise ModelFileError("missing_key", where, message)


def _check_shape(row: Row, file_shape: Shape, params: Mapping[str, Shape], where: str | Path) -> None:
    native_shapes = [params[native] for native in row.natives]
    if row.transform is IDENTITY and file_shape == native_shapes[0]:
        return
    try:  # on the meta device a tensor has a shape and no numbers
        loaded = [tuple(part.shape) for part in row.transform.load(torch.empty(file_shape, device="meta"))]
    except (RuntimeError, IndexError):  # a number of dimensions that the transform is not made for
        loaded = []
    if loaded != native_shapes:
        expected = row.transform.save(tuple(torch.empty(shape, device="meta") for shape in native_shapes)).shape
        raise ModelFileError(
            "shape",
            where,
            f"{shorten(row.file)} is {shape_text(file_shape)}, the model expects {shape_text(expected)}",
        )


def load(rows: Iterable[Row], source: TensorSource) -> dict[str, Tensor]:
    """Parameters by name, from rows that `plan` made. Views of the source wherever no number moves."""
    loaded: dict[str, Tensor] = {}
    for row in rows:
        loaded.update(zip(row.natives, row.transform.load(source[row.file]), strict=True))
    return loaded


def save(rules: Sequence[Rule], params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file, by their names there. The inverse of `plan` and `load`, bit by bit.

    Raises ValueError where a parameter has no row.
    """
    rows = (row for row in expand(rules, params) if not row.load_only)
    return {row.file: row.transform.save(tuple(params[native] for native in row.natives)) for row in rows}


def shapes_of(tensors: Mapping[str, Any]) -> dict[str, Shape]:
    """Names and shapes of tensors, or of a header's rows."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
