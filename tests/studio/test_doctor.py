"""`gesso doctor`: every check stands alone, whatever is broken."""

import json
import os
import re
import shlex
import shutil
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from gesso import extras
from gesso.cli.main import run
from gesso.errors import GessoError
from gesso.studio import doctor as room
from gesso.studio import machine
from gesso.studio.check import Check, guarded
from gesso.studio.doctor import EXTRAS, doctor, environment, machine_in_a_process

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GESSO_HOME", str(folder))
    return folder


def nothing() -> Iterator[Check]:
    yield from ()


def found(section: str, name: str) -> Check:
    (one,) = (one for one in doctor(nothing) if (one.section, one.name) == (section, name))
    return one


def told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *argv: str) -> tuple[int, str]:
    """Of the command, without the process that needs torch."""
    monkeypatch.setattr(room, "machine_in_a_process", nothing)
    code = run(["doctor", *argv])
    return code, capsys.readouterr().out


def test_a_check_that_raises_is_one_that_failed():
    def raises(error: Exception) -> Iterator[Check]:
        yield Check(section="machine", name="first", text="fine")
        raise error

    for error, text in ((RuntimeError("two\nlines"), "RuntimeError: two lines"), (GessoError("bad\x1b"), "bad\\x1b")):
        first, second = guarded("machine", "speed", lambda error=error: raises(error))
        assert (first.status, second.status, second.name, second.text) == ("ok", "failed", "speed", text)


def test_all_is_well(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, home: Path):
    code, out = told(capsys, monkeypatch)
    assert code == 0
    assert out.endswith("All is well: gesso works on this machine.\n")
    assert str(home / "models") in out
    code, out = told(capsys, monkeypatch, "--json")
    values = json.loads(out)
    assert (code, values["ok"], out.count("\n")) == (0, True, 1)
    assert {"section", "name", "status", "text", "advice", "data"} == values["checks"][0].keys()


def test_a_package_that_is_missing_or_broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    extra = EXTRAS[0]
    monkeypatch.setitem(sys.modules, extra.module, None)  # as if it were not installed
    one = found("packages", extra.name)
    assert (one.status, one.advice) == ("note", f"{shlex.quote(sys.executable)} -m pip install 'gesso[hints]'")
    with monkeypatch.context() as patch:
        patch.setattr(extras, "find_spec", lambda name: None)  # an environment of uv
        advice = found("packages", extra.name).advice
    assert advice == f"uv pip install --python {shlex.quote(sys.executable)} 'gesso[hints]'"
    assert "control images" in one.text
    monkeypatch.delitem(sys.modules, extra.module)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / f"{extra.module}.py").write_text("raise ImportError('libGL.so.1: no such file')")
    monkeypatch.syspath_prepend(str(tmp_path / "broken"))
    one = found("packages", extra.name)
    assert (one.status, "libGL" in one.text, "--force-reinstall" in one.advice) == ("note", True, True)


def test_the_libraries_are_those_that_gesso_needs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {re.split(r"[^\w-]", one)[0] for one in project["dependencies"]}
    assert names == {"torch", *room.CORE}  # torch has a check of its own
    assert {extra.name for extra in EXTRAS} == project["optional-dependencies"].keys() - {"docs", "dev", "peers"}


def test_folders(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    assert found("folders", "library").status == "ok"
    (home / "models").write_text("")
    one = found("folders", "library")
    assert (one.status, "is not a folder" in one.text) == ("failed", True)
    assert told(capsys, monkeypatch)[0] == 1
    (home / "models").unlink()
    monkeypatch.setenv("GESSO_HOME", str(tmp_path / "file" / "below"))
    (tmp_path / "file").write_text("")
    assert found("folders", "library").status == "failed"


def test_folders_that_were_added_and_are_gone(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = tmp_path / "their models"
    folder.mkdir()
    assert run(["models", "add-folder", str(folder), "--layout", "plain"]) == 0
    assert found("folders", "added folder").status == "ok"
    shutil.rmtree(folder)
    one = found("folders", "added folder")
    assert (one.status, one.advice) == ("note", f"gesso models remove '{folder}' unregisters it")
    capsys.readouterr()


def test_a_damaged_style_file(home: Path):
    (home / "styles.csv").mkdir()
    assert found("folders", "styles").status == "note"


@pytest.mark.parametrize("text", ["steps = ", "[genrate]\nsteps = 2", "steps = 'x'"])
def test_settings_that_are_wrong(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, home: Path, text: str
):
    (home / "gesso.toml").write_text(text)
    code, out = told(capsys, monkeypatch)
    assert code == 1
    assert "FAILED  config" in out
    assert str(home / "gesso.toml") in out


def test_the_environment(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GESSO_STEPS", "9")
    monkeypatch.setenv("GESSO_STPES", "9")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    code, out = told(capsys, monkeypatch)
    assert code == 0
    assert "hf_secret" not in out
    assert "GESSO_STEPS" in out
    assert "no variable or option of gesso has this name" in out
    assert [one.name for one in environment({}, {"HF_TOKEN": "x", "PATH": "/bin"})] == ["HF_TOKEN"]


# ---- torch, in another process ---------------------------------------------------------------------------------------

FIRST = 'print(\'{"section": "machine", "name": "CPU", "text": "fine"}\', flush=True)\n'


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("import os; os.kill(os.getpid(), 4)", "torch crashed (signal 4): no message"),
        ("raise SystemExit('libcudart.so.12: no such file')", "ended with code 1: libcudart.so.12: no such file"),
        ("import time; time.sleep(60)", "no answer after"),
    ],
)
def test_a_torch_that_crashes_fails_or_hangs(code: str, text: str):
    for begin in ("", FIRST):
        timeout = 2.0 if "sleep" in code else 60.0
        *before, last = machine_in_a_process([sys.executable, "-c", f"print('noise')\n{begin}{code}"], timeout)
        assert [one.name for one in before] == (["CPU"] if begin else [])
        assert (last.status, last.name, last.section) == ("failed", "torch", "machine" if begin else "versions")
        assert last.text.startswith(text)
        assert last.advice


def test_a_process_that_cannot_be_started():
    (one,) = machine_in_a_process([str(Path("absent"))])
    assert (one.status, "no process could be started" in one.text) == ("failed", True)


def test_a_torch_that_cannot_be_imported_ends_the_checks(monkeypatch: pytest.MonkeyPatch):
    def damaged(begin: float) -> Check:
        raise OSError("libtorch.so: cannot open shared object file")

    monkeypatch.setattr(machine, "_torch", damaged)
    (one,) = machine.checks()
    assert (one.status, one.name) == ("failed", "torch")


def test_the_machine_is_measured_and_draws():
    checks = {one.name: one for one in machine.checks()}
    assert not [one for one in checks.values() if one.status == "failed"]
    assert {"torch", "CPU", "device", "speed", "memory", "built-in model"} <= checks.keys()
    assert checks["speed"].data["relative"]["float32"] == 1
    json.dumps([one.to_dict() for one in checks.values()])


def test_a_model_that_cannot_draw_or_draws_one_colour_has_failed(monkeypatch: pytest.MonkeyPatch):
    def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError("no kernel image is available for execution on the device")

    def grey(*args: object, **kwargs: object) -> object:
        return lambda request: (SimpleNamespace(image=Image.new("RGB", (8, 8), "grey")),)

    for name, opened, text in (("cannot", broken, "no kernel image"), ("grey", grey, "one colour alone")):
        monkeypatch.setattr("gesso.studio.studio.Studio.open", opened)
        (one,) = guarded("drawing", name, machine._drawing)
        assert (one.section, one.status, text in one.text) == ("drawing", "failed", True)
