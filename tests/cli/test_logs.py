"""What gesso logs, on the terminal."""

import logging

import pytest

from gesso.cli.main import run
from gesso.errors import GessoError
from gesso.terminal.logs import logged_to_stderr

log = logging.getLogger("gesso.tests.of.logs")


def records():
    log.debug("a detail")
    log.info("read %r", "a\x1b[31m\nb")
    log.warning("something %s", "odd\n\x1b[31m")
    try:
        raise ValueError("deep down")
    except ValueError:
        log.exception("it failed")


@pytest.mark.parametrize("value", ["", "warning"])
def test_warnings_are_one_harmless_line_each(monkeypatch, capsys, value):
    monkeypatch.setenv("GESSO_LOG", value)
    with logged_to_stderr():
        records()
    records()  # and nothing stays behind
    assert capsys.readouterr().err == "warning: something odd \\x1b[31m\nerror: it failed\n"
    assert [type(one).__name__ for one in logging.getLogger("gesso").handlers] == ["NullHandler"]
    assert logging.getLogger("gesso").level == logging.NOTSET


def test_more_is_shown_with_its_module_and_tracebacks(monkeypatch, capsys):
    monkeypatch.setenv("GESSO_LOG", "Info")
    with logged_to_stderr():
        records()
    err = capsys.readouterr().err
    assert err.startswith(
        "info: gesso.tests.of.logs: read 'a\\x1b[31m\\nb'\nwarning: gesso.tests.of.logs: something odd"
    )
    assert err.rstrip().endswith("ValueError: deep down")
    assert "a detail" not in err


def test_a_level_that_does_not_exist_is_an_error(monkeypatch, capsys):
    monkeypatch.setenv("GESSO_LOG", "loud")
    with pytest.raises(GessoError, match=r"^GESSO_LOG=loud: expected debug, info, warning, error$"), logged_to_stderr():
        pass
    assert run(["--version"]) == 2
    assert capsys.readouterr().err == "error: GESSO_LOG=loud: expected debug, info, warning, error\n"
