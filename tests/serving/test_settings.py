"""Settings of the server: what is typed, then the environment, then the file, then what is built in."""

import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from gesso.cli.main import run
from gesso.errors import GessoError
from gesso.serving.settings import PREFIX, ServeSettings, read_settings, setting_rows, table


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import os

    for name in list(os.environ):
        if name.startswith(PREFIX):
            monkeypatch.delenv(name)
    monkeypatch.setenv("GESSO_HOME", str(tmp_path))


def test_what_is_typed_wins_over_the_environment_and_that_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "gesso.toml"
    file.write_text('steps = 9\n[serve]\nport = 1001\nmax-queue = 11\nrate = 12\nallowed_hosts = ["a.example"]\n')
    monkeypatch.setenv("GESSO_SERVE_PORT", "1002")
    monkeypatch.setenv("GESSO_SERVE_MAX_QUEUE", "21")
    monkeypatch.setenv("GESSO_SERVE_TRUSTED_PROXIES", "10.0.0.1; 10.0.0.2,10.0.0.3")
    monkeypatch.setenv("GESSO_SERVE_HOST", "")  # as if it were not there
    found = read_settings({"port": 1003, "keep": None}, file=file)
    values = found.values
    assert (values.port, values.max_queue, values.rate, values.keep) == (1003, 21, 12, None)
    assert values.allowed_hosts == ("a.example",)
    assert values.trusted_proxies == ("10.0.0.1", "10.0.0.2", "10.0.0.3")
    origins = found.origins
    assert (origins["port"], origins["max_queue"]) == ("--port", "GESSO_SERVE_MAX_QUEUE")
    assert (origins["rate"], origins["host"], origins["keep"]) == (str(file), "default", "default")


@pytest.mark.parametrize(
    ("flags", "field"),
    [
        ({"port": "x"}, "port"),
        ({"port": 65_536}, "port"),
        ({"keep": float("nan")}, "keep"),
        ({"keep": float("inf")}, "keep"),
        ({"webhooks": "maybe"}, "webhooks"),
        ({"log_format": "xml"}, "log_format"),
        ({"workers": -1}, "workers"),
        ({"allowed_hosts": 7}, "allowed_hosts"),
        ({"public_metrics": "perhaps"}, "public_metrics"),
    ],
    ids=str,
)
def test_values_are_checked(flags: dict[str, Any], field: str) -> None:
    with pytest.raises(GessoError, match=f"`{field}` is .*, expected") as caught:
        read_settings(flags)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[serve]\nprot = 1\n", "did you mean 'port'"),
        ("[serve]\nport = 'x'\n", "a whole number"),
        ("serve = 3\n", r"expected a table \[serve\]"),
        ("[serve\n", "not valid TOML"),
    ],
)
def test_files_are_checked(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "x.toml"
    file.write_text(text)
    with pytest.raises(GessoError, match=words) as caught:
        read_settings(file=file)
    assert str(file) in caught.value.message
    assert read_settings(file=tmp_path / "none.toml").values == ServeSettings()


def test_unknown_variables_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GESSO_SERVE_MAX_QUEU", "3")
    with pytest.raises(GessoError, match="did you mean 'max_queue'"):
        read_settings()
    monkeypatch.delenv("GESSO_SERVE_MAX_QUEU")
    monkeypatch.setenv("GESSO_SERVE_PORT", "many")
    with pytest.raises(GessoError, match=r"^GESSO_SERVE_PORT: `port` is 'many'"):
        read_settings()


def test_every_setting_is_an_option_with_words_and_a_default() -> None:
    assert [row.name for row in setting_rows()] == [one.name for one in fields(ServeSettings)]
    for row in setting_rows():
        assert row.about.help.endswith(".") and (row.default is not None or row.about.unset), row.name
        assert row.kind in (int, float, bool, str, Path, tuple), row.name


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        *((name, True) for name in ("127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost")),
        *((name, False) for name in ("0.0.0.0", "::", "192.168.1.5", "draw.example", "")),
    ],
)
def test_loopback_is_known(host: str, loopback: bool) -> None:
    assert ServeSettings(host=host).is_loopback is loopback


def test_passwords_of_databases_are_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    url = "postgresql://me:geheim@db.example/queue"
    assert run(["serve", "--show-settings", "--database", url]) == 0
    out = capsys.readouterr().out
    assert "geheim" not in out and "me:***@db.example" in out
    assert run(["serve", "--show-settings", "--json", "--database", url]) == 0
    assert "geheim" not in capsys.readouterr().out


def test_settings_and_their_origins_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gesso.toml").write_text("[serve]\nrate = 12\n")
    monkeypatch.setenv("GESSO_SERVE_MAX_QUEUE", "21")
    assert run(["serve", "--show-settings", "--port", "0"]) == 0
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()}
    assert rows["port"] == ["0", "--port"] and rows["max-queue"] == ["21", "GESSO_SERVE_MAX_QUEUE"]
    assert rows["rate"] == ["12", str(tmp_path / "gesso.toml")] and rows["host"] == ["127.0.0.1", "default"]
    assert rows["home"] == [str(tmp_path / "server"), "default"]
    assert run(["serve", "--show-settings", "--json"]) == 0
    found = {one["name"]: one for one in json.loads(capsys.readouterr().out)["settings"]}
    assert found["max-queue"] == {"name": "max-queue", "value": 21, "from": "GESSO_SERVE_MAX_QUEUE"}


def test_gesso_config_knows_the_settings_of_the_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "set", "serve.port", "8080"]) == 0
    assert run(["config", "get", "serve.port"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "8080"
    assert run(["serve", "--show-settings"]) == 0
    assert "port               8080" in capsys.readouterr().out


def test_without_the_extra_the_command_says_what_to_install(tmp_path: Path) -> None:
    """The command line lists the command's options all the same."""
    code = """
import sys
for name in ("fastapi", "pydantic_settings", "sqlalchemy", "uvicorn"):
    sys.modules[name] = None
from gesso.cli.main import run
codes = [run(["serve"]), run(["keys", "list"]), run(["serve", "--help"])]
print(codes)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "[2, 2, 0]", done.stderr
    assert done.stderr.count("pip install 'gesso[serve]'") == 2 and "--port" in done.stdout


def test_the_table_of_settings_is_fresh() -> None:
    page = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
    start, end = "a test keeps it fresh -->\n\n", "\n\n<!-- end of settings -->"
    saved = page.partition(start)[2].partition(end)[0]
    assert saved == table(), "make it anew: python -m gesso.serving.settings"
