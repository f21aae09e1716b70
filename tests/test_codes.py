"""Every error and notice has a code of the table, and the table has no code that nothing uses."""

import ast
import copy
import json
import pickle
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import get_args

import pytest

from gesso import codes
from gesso.arguments import ArgumentError
from gesso.checkpoints.errors import ModelFileError
from gesso.checkpoints.errors import Reason as ModelFileReason
from gesso.errors import GessoError
from gesso.notices import RECORDED, Notice
from gesso.registry import PluginError
from gesso.request.checks import RequestError
from gesso.runtime.cancel import CancelledError
from gesso.runtime.finite import NotFiniteError
from gesso.studio.run_folder import OtherRunError
from gesso.terminal.words import in_options
from gesso.text.prompt import PromptError
from gesso.text.prompt import Reason as PromptReason

ROOT = Path(__file__).parents[1]
REASONS = {*get_args(ModelFileReason), *get_args(PromptReason)}
NOTES = {"Notice", "note"}  # what makes a notice, by the name that is called


@cache
def sources() -> dict[Path, ast.Module]:
    """Every file of the package, parsed; not while tests are collected, which each worker does."""
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted((ROOT / "src/gesso").rglob("*.py"))}


def calls() -> Iterator[tuple[str, str, ast.Call]]:
    """(where, the name that is called, the call) of all calls in the package."""
    for path, tree in sources().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
                name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
                yield f"{path.relative_to(ROOT)}:{node.lineno}", name, node


def code_of(call: ast.Call) -> ast.expr | None:
    if isinstance(call.func, ast.Name) and call.func.id == "HttpError" and len(call.args) > 1:  # status, code, detail
        return call.args[1]
    return next((each.value for each in call.keywords if each.arg == "code"), None)


def constants(value: ast.expr) -> list[str]:
    """The codes that an expression may be, as far as they stand in it."""
    return [each.value for each in ast.walk(value) if isinstance(each, ast.Constant) and isinstance(each.value, str)]


def test_codes_in_the_source_stand_in_the_table() -> None:
    for where, name, call in calls():
        if (value := code_of(call)) is not None and (name.endswith("Error") or name in NOTES):
            table = codes.NOTICES if name in NOTES else codes.ERRORS
            assert all(code in table for code in constants(value)), f"{where}: {ast.unparse(value)}"
        if name in ("ModelFileError", "PromptError") and call.args and isinstance(call.args[0], ast.Constant):
            assert call.args[0].value in codes.ERRORS, f"{where}: {ast.unparse(call)}"


def test_an_error_says_which_it_is() -> None:
    for where, name, call in calls():
        if name == "GessoError":
            value = code_of(call)
            assert value is not None, f"{where}: {ast.unparse(call)}"
            passed_on = isinstance(value, ast.Attribute) and value.attr == "code"
            assert passed_on or (constants(value) and "error" not in constants(value)), f"{where}: {ast.unparse(call)}"


def test_no_message_ends_with_a_full_stop() -> None:
    """The command line, a form and a log put it in a line of their own."""
    for where, name, call in calls():
        for value in call.args if name.endswith("Error") else ():
            parts = value.values if isinstance(value, ast.JoinedStr) else [value]
            end = parts[-1].value if parts and isinstance(parts[-1], ast.Constant) else ""
            assert not (isinstance(end, str) and end.endswith(".") and not end.endswith("...")), f"{where}: {end}"


def test_every_code_is_used() -> None:
    errors, notices = set(REASONS) | {GessoError.default_code}, {RECORDED}
    for _, name, call in calls():
        if (value := code_of(call)) is not None:
            (notices if name in NOTES else errors).update(constants(value))
    for tree in sources().values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                for line in node.body:
                    if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == "default_code":
                        errors.update(constants(line.value))
            if isinstance(node, ast.FunctionDef) and node.name in NOTES:
                defaults = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
                notices.update(
                    code for arg, value in defaults if arg.arg == "code" and value for code in constants(value)
                )
    assert errors == set(codes.ERRORS)
    assert notices == set(codes.NOTICES)


def test_the_page_is_fresh() -> None:
    """Make it again with: python -m gesso.codes >docs/errors.md"""
    assert (ROOT / "docs/errors.md").read_text(encoding="utf-8") == codes.page()


@pytest.mark.parametrize(
    ("error", "code", "field", "data"),
    [
        (GessoError("a"), "error", None, {}),
        (GessoError("a", code="missing", data={"path": "b"}), "missing", None, {"path": "b"}),
        (RequestError("width", "a"), "invalid_field", "width", {}),
        (PromptError("wildcard", "a"), "wildcard", None, {}),
        (ModelFileError("shape", Path("b"), "a"), "shape", None, {"path": "b"}),
        (NotFiniteError("a", "unet", None), "not_finite", None, {"part": "unet", "module": None}),
        (CancelledError(), "cancelled", None, {}),
        (
            PluginError("gesso.samplers", "b", "c 1", "a"),
            "plugin_unusable",
            None,
            {"group": "gesso.samplers", "name": "b", "distribution": "c 1"},
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_a_kind_of_error_has_its_code(error: GessoError, code: str, field: str | None, data: dict[str, object]) -> None:
    assert (error.code, error.field, error.data) == (code, field, data)


MADE = [
    GessoError("a", code="missing", field="image", data={"path": "b"}),
    ArgumentError("a", field="scale"),
    RequestError("loras[0].weight", "a"),
    PromptError("wildcard", "a"),
    ModelFileError("shape", Path("b"), "a"),
    NotFiniteError("a", "unet", "mid.attention"),
    CancelledError(),
    PluginError("gesso.samplers", "b", "c 1", "a"),
    OtherRunError("a", data={"path": "b"}),
]


def test_no_kind_of_error_is_left_out() -> None:
    named = {
        node.name
        for tree in sources().values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and any(ast.unparse(base) == "GessoError" for base in node.bases)
    }
    assert {type(error).__name__ for error in MADE} == named | {"GessoError"}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("error", MADE, ids=lambda error: type(error).__name__)
def test_an_error_passes_through_pickle_and_copy_whole(error: GessoError, protocol: int) -> None:
    """A process of a pool hands its error to the one that waits by pickle."""
    for other in (pickle.loads(pickle.dumps(error, protocol)), copy.copy(error), copy.deepcopy(error)):
        assert type(other) is type(error)
        assert (str(other), other.args, vars(other)) == (str(error), error.args, vars(error))
        assert (other.message, other.code, other.field, other.data) == (
            error.message,
            error.code,
            error.field,
            error.data,
        )


def test_a_notice_is_its_text() -> None:
    notice = Notice("the `mask` is stretched", code="mask_stretched", field="mask", data={"width": 3})
    assert notice == "the `mask` is stretched"
    assert json.loads(json.dumps([notice])) == ["the `mask` is stretched"]
    assert in_options(notice) == "the --mask is stretched"
    for each in (copy.deepcopy(notice), pickle.loads(pickle.dumps(notice)), notice.reworded("other")):
        assert (each.code, each.field, each.data) == ("mask_stretched", "mask", {"width": 3})
    assert notice.reworded("other") == "other"


def test_the_page_has_words_for_every_code_in_its_other_languages() -> None:
    text = (ROOT / "web/src/text/codes.ts").read_text(encoding="utf-8")
    languages = re.findall(r"^  (\w\w): \{\n(.*?)^  \},", text, re.MULTILINE | re.DOTALL)
    assert [name for name, _ in languages] == ["de"]
    for _, rows in languages:
        assert set(re.findall(r'^    (\w+):\s+"', rows, re.MULTILINE)) == set(codes.ERRORS)
