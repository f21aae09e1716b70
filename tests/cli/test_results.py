"""What every command prints: JSON, paths, progress; and --open."""

import json
import os
import pty
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from gesso.cli.app import command_named
from gesso.cli.commands import NAMES
from gesso.cli.main import run
from gesso.pipelines.picture import Progress
from gesso.studio.events import Loading, Sampling
from gesso.terminal import results
from gesso.terminal.progress import Bar, numbers
from gesso.terminal.settings import leaf_of, leaves
from tiny_models import save_tiny_mini


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_mini(tmp_path_factory.mktemp("model") / "tiny.safetensors"))


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GESSO_DEBUG", raising=False)
    Image.new("RGB", (16, 16), "red").save("photo.png")


def said(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = run(list(argv))
    out, err = capsys.readouterr()
    return code, out, err


def documents(out: str) -> list[Any]:
    return [json.loads(line) for line in out.splitlines()]


# ---- JSON ------------------------------------------------------------------------------------------------------------


def test_every_command_that_prints_results_has_json():
    # That of `train ray` is the training's, behind its name.
    without = {("train", "default-model"), ("train", "ray"), ("config", "path"), ("config", "set"), ("config", "unset")}
    for table in [*leaves(command_named, NAMES), ("config", "get"), ("doctor",)]:
        if table not in without:
            params = leaf_of(command_named, table).params
            assert "--json" in [name for param in params for name in param.opts], table


def test_pictures_and_their_notices_as_json(capsys: pytest.CaptureFixture[str], model: str):
    Path("lines.txt").write_text("a zxqw cat\n--prompt 'a cat' --sampler_index 3\n")
    at = ("-m", model, "-q", "--json")
    for argv in (
        ["generate", "a zxqw cat", "-n", "2", *at],
        ["batch", "lines.txt", *at],
        ["batch", "lines.txt", *at],
        ["grid", "a zxqw cat", "--x", "steps=1,2", *at],
    ):
        code, out, err = said(capsys, *argv)
        assert (code, err) == (0, "")
        found = documents(out)
        assert [one["absolute_path"] for one in found] == [str(Path(one["path"]).resolve()) for one in found]
        pictures = found[0].get("pictures", found)
        assert len(pictures) == 2
        (notice,) = pictures[0]["notice_details"]
        assert pictures[0]["notices"] == [notice["message"]] == ["unknown words ignored: 'zxqw'"]
        assert notice["code"] in ("words_ignored", "recorded")  # recorded: of a picture that was there already
        if argv[0] == "batch":
            assert pictures[1]["notice_details"][0]["code"] == "setting_ignored"
            assert pictures[0]["new"] is (notice["code"] == "words_ignored")


@pytest.mark.parametrize(
    ("argv", "keys"),
    [
        (["upscale", "photo.png", "--to", "32x48"], {"source", "model", "width", "height", "seconds", "notices"}),
        (["preprocess", "invert", "photo.png"], {"source", "preprocessor", "notices", "notice_details"}),
        (["metadata", "strip", "photo.png"], {"source"}),
    ],
)
def test_files_as_json(capsys: pytest.CaptureFixture[str], argv: list[str], keys: set[str]):
    code, out, _ = said(capsys, *argv, "--json")
    (found,) = documents(out)
    assert code == 0
    assert keys | {"path", "absolute_path"} <= found.keys()
    assert Path(found["absolute_path"]).is_file()
    if argv[0] == "upscale":
        assert found["notice_details"][0]["code"] == "stretched"


def test_a_list_of_preprocessors_as_json(capsys: pytest.CaptureFixture[str]):
    (found,) = documents(said(capsys, "preprocess", "--list", "--json")[1])
    assert {"canny", "openpose"} <= {one["name"] for one in found}


@pytest.mark.parametrize(
    ("argv", "code", "field", "exit_code"),
    [
        (["generate", "a cat", "--sampler", "eulr"], "invalid_field", "sampler", 2),
        (["generate", "a cat", "--bogus"], "usage", "bogus", 2),
        (["generate", "a cat", "--threads", "many"], "usage", "threads", 2),
        (["replay", "photo.png"], "no_settings", None, 2),
        (["upscale", "absent.png"], "missing", None, 2),
        (["preprocess", "cany", "photo.png"], "unknown_name", None, 2),
        (["models", "info", "absent"], "unknown_name", None, 2),
        (["batch", "absent.txt"], "missing", None, 2),
    ],
)
def test_errors_as_json(
    capsys: pytest.CaptureFixture[str], argv: list[str], code: str, field: str | None, exit_code: int
):
    found, out, err = said(capsys, *argv, "--json")
    assert found == exit_code
    (document,) = documents(out)
    assert document.keys() == {"error"}
    error = document["error"]
    assert error.keys() == {"code", "field", "message", "data"}
    assert err == f"error: {error['message']}\n"
    assert (error["code"], field in (None, error["field"])) == (code, True)
    found, out, again = said(capsys, *argv)
    assert (found, out, again) == (exit_code, "", err)


def test_a_bug_as_json(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    for error, code in ((RuntimeError("wires"), "internal"), (MemoryError(), "out_of_memory")):

        def fault(*args: object, error: BaseException = error, **kwargs: object) -> None:
            raise error

        monkeypatch.setattr("gesso.cli.generate.Studio.open", fault)
        found, out, _ = said(capsys, "generate", "a cat", "--json", "-q")
        assert (found, documents(out)[0]["error"]["code"]) == (1, code)


def test_a_prompt_with_the_word_json_is_a_prompt(capsys: pytest.CaptureFixture[str]):
    code, out, _ = said(capsys, "generate", "--sampler", "eulr", "--", "--json")
    assert (code, out) == (2, "")


def test_one_file_of_many_that_cannot_be_read(capsys: pytest.CaptureFixture[str], model: str):
    assert said(capsys, "generate", "a cat", "-m", model, "-q", "-o", "x.png")[0] == 0
    code, out, err = said(capsys, "metadata", "show", "absent.png", "x.png", "--json")
    first, second = documents(out)
    assert (code, first["error"]["code"], second["tool"]) == (2, "missing", "gesso")
    assert first["path"] == "absent.png"
    assert err.count("\n") == 1
    assert said(capsys, "metadata", "show", "photo.png", "x.png")[0] == 1  # a good picture, but without settings


# ---- paths and --open ------------------------------------------------------------------------------------------------


def test_absolute_paths(capsys: pytest.CaptureFixture[str], model: str, tmp_path: Path):
    at = ("-m", model, "-q", "--absolute-paths")
    for argv in (
        ["generate", "a cat", "--seed", "1", *at],
        ["grid", "a cat", "--x", "steps=1", *at],
        ["upscale", "photo.png", "--absolute-paths", "-q"],
        ["preprocess", "invert", "photo.png", "--absolute-paths"],
        ["metadata", "strip", "photo.png", "--absolute-paths"],
    ):
        code, out, _ = said(capsys, *argv)
        assert code == 0
        assert out.startswith(f"{tmp_path}{os.sep}"), argv
    found = documents(said(capsys, "generate", "a cat", "--seed", "1", *at, "--json")[1])[0]
    assert found["path"] == found["absolute_path"]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are shown; nothing is."""
    files: list[str] = []
    monkeypatch.setattr(results, "_has_screen", lambda: True)
    monkeypatch.setattr(results, "_launched", lambda path: files.append(os.path.abspath(path)) or True)
    return files


def test_open_shows_one_file_or_the_folder_of_several(
    capsys: pytest.CaptureFixture[str], model: str, tmp_path: Path, opened: list[str]
):
    at = ("-m", model, "-q", "--open")
    for argv, shown in (
        (["generate", "a cat", "--seed", "1", *at], "outputs/gesso-1.png"),
        (["generate", "a cat", "--seed", "1", "-n", "2", *at, "--json"], "outputs"),
        (["grid", "a cat", "--x", "steps=1", *at], "outputs/grid/grid.png"),
        (["grid", "a cat", "--z", "steps=1,2", *at], "outputs/grid_2"),
        (["upscale", "photo.png", "-q", "--open"], "photo-32x32.png"),
        (["preprocess", "invert", "photo.png", "--open"], "photo-invert.png"),
        (["replay", "outputs/gesso-1.png", *at, "-o", "again.png"], "again.png"),
    ):
        assert said(capsys, *argv)[0] == 0
        assert opened.pop() == str(tmp_path / shown)
    code, _, err = said(capsys, "replay", "outputs/gesso-1.png", *at)
    assert (code, "add --output" in err, opened) == (2, True, [])


def viewer(folder: Path, name: str, script: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program of this name, the only one on PATH; the file that it writes its arguments to."""
    folder.mkdir(exist_ok=True)
    told = folder / "told.txt"
    (folder / name).write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > "{told}"\n{script}\n')
    (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("DISPLAY", ":99")
    monkeypatch.setattr(results, "_has_screen", lambda: True)
    return told


@pytest.mark.skipif(sys.platform != "linux", reason="the commands of Linux")
@pytest.mark.parametrize(
    ("name", "script", "arguments"),
    [
        ("xdg-open", "exit 0", []),
        ("xdg-open", "echo noise; echo more >&2", []),
        ("xdg-open", "exec /bin/sleep 20", []),  # a viewer that stays
        ("gio", "exit 0", ["open"]),
    ],
)
def test_open_starts_the_viewer(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, script: str,
    arguments: list[str],
):  # fmt: skip
    """Also of a name that a shell would take apart; what the viewer prints is not among the results."""
    Image.new("RGB", (16, 16), "red").save("a $(b) 'c'.png")
    monkeypatch.setattr(results, "VIEWER_SECONDS", 0.5)
    told = viewer(tmp_path / "bin", name, script, monkeypatch)
    code = run(["upscale", "a $(b) 'c'.png", "--open", "--json", "-q"])
    out, err = capfd.readouterr()
    assert (code, err, len(out.splitlines())) == (0, "", 1)
    assert told.read_text().splitlines() == [*arguments, str(tmp_path / "a $(b) 'c'-32x32.png")]


@pytest.mark.skipif(sys.platform != "linux", reason="the commands of Linux")
@pytest.mark.parametrize("script", [None, "exit 3", "kill -9 $$"])
def test_open_without_a_viewer_is_a_note(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str | None
):
    """xdg-open ends with 3 where no program shows pictures."""
    viewer(tmp_path / "bin", "xdg-open", script or "", monkeypatch)
    if script is None:
        (tmp_path / "bin" / "xdg-open").unlink()
    code = run(["upscale", "photo.png", "--open"])
    out, err = capfd.readouterr()
    assert (code, out.startswith("photo-32x32.png")) == (0, True)
    assert err == "note: --open: nothing here shows pictures (no display, or no viewer); see photo-32x32.png\n"


def test_the_viewer_of_each_system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    viewer(tmp_path / "bin", "xdg-open", "", monkeypatch)
    viewer(tmp_path / "bin", "wslview", "", monkeypatch)
    path = {"PATH": str(tmp_path / "bin")}
    assert results._viewer(path, "darwin") == ("open",)
    assert results._viewer(path, "linux") == ("xdg-open",)
    assert results._viewer(path | {"WSL_DISTRO_NAME": "Ubuntu"}, "linux") == ("wslview",)
    assert results._viewer({"PATH": "/nowhere"}, "linux") is None


@pytest.mark.parametrize(
    ("platform", "environ", "screen"),
    [
        ("linux", {}, False),
        ("linux", {"DISPLAY": ":0"}, True),
        ("linux", {"WAYLAND_DISPLAY": "wayland-0"}, True),
        ("linux", {"WSL_DISTRO_NAME": "Ubuntu"}, True),
        ("darwin", {}, True),
        ("win32", {}, True),
    ],
)
def test_where_there_is_a_screen(platform: str, environ: dict[str, str], screen: bool):
    assert results._has_screen(environ, platform) is screen


# ---- progress --------------------------------------------------------------------------------------------------------


class Screen(Bar):
    """A bar that keeps what it would show."""

    def __init__(self) -> None:
        super().__init__(quiet=False)
        self.shown: list[tuple[str, int | None, int]] = []

    def _show(self, text: str, total: int | None, done: int, unit: str) -> None:
        self.shown.append((text, total, done))


def sampling(number: int, total: int, step: int, of: int) -> Sampling:
    state = Progress(index=0, num_images=1, step=step, num_steps=of, latents=None)
    return Sampling(number=number, total=total, progress=state)


def test_one_bar_counts_the_steps_of_all_pictures():
    bar = Screen()
    bar.show(Loading(model="x"))
    for number in (1, 2, 3):
        for step in range(3):
            bar.show(sampling(number, 3, step, 2))
    assert bar.shown[0] == ("loading x", None, 0)
    assert [(total, done) for _, total, done in bar.shown[1:]] == [
        *((6, 0), (6, 1), (6, 2)),
        *((6, 2), (6, 3), (6, 4)),
        *((6, 4), (6, 5), (6, 6)),
    ]
    assert bar.shown[-1][0] == "picture 3 of 3"


def test_pictures_that_take_turns_and_have_other_numbers_of_steps():
    bar = Screen()
    for event in (sampling(1, 3, 1, 4), sampling(2, 3, 1, 4), sampling(1, 3, 4, 4), sampling(3, 3, 0, 10)):
        bar.show(event)
    assert [(total, done) for _, total, done in bar.shown] == [(12, 1), (12, 2), (12, 5), (18, 5)]


def test_pictures_that_were_drawn_before_are_not_waited_for():
    bar = Screen()
    bar.show(sampling(8, 10, 1, 4))
    assert bar.shown[-1][1:] == (12, 1)
    bar.show(sampling(10, 10, 1, 4))
    assert bar.shown[-1][1:] == (8, 2)


def test_the_numbers_beside_the_bar():
    task = SimpleNamespace(
        fields={"unit": "steps"}, total=80, completed=12, elapsed=3723.4, time_remaining=17, finished=False, speed=3.912
    )
    assert numbers(task) == "12/80, 1:02:03, 0:17 left, 3.91 steps/s"
    task.fields["unit"], task.percentage, task.elapsed, task.time_remaining = "", 15.0, 7.9, None
    assert numbers(task) == "15%, 0:07"
    task.total, task.elapsed = None, None
    assert numbers(task) == ""


def test_a_pipe_gets_lines_alone(capsys: pytest.CaptureFixture[str], model: str):
    code, out, err = said(capsys, "generate", "a zxqw cat", "-n", "2", "--seed", "1", "-m", model)
    assert code == 0
    assert [line.split(" ")[0] for line in out.splitlines()] == ["outputs/gesso-1-0.png", "outputs/gesso-1-1.png"]
    assert [line.partition(" ")[0] for line in err.splitlines()] == ["note:", "2"]
    assert "\x1b" not in out + err


@pytest.mark.skipif(os.name != "posix", reason="a terminal of POSIX")
@pytest.mark.parametrize("quiet", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_terminal_gets_a_bar_and_quiet_none(model: str, quiet: bool):
    master, slave = pty.openpty()
    words = [sys.executable, "-m", "gesso", "generate", "a cat", "-n", "2", "-m", model, *(["-q"] if quiet else [])]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=slave) as running:
        os.close(slave)
        screen = b""
        with suppress(OSError):  # the other end is closed
            while part := os.read(master, 65536):
                screen += part
        assert running.stdout is not None
        lines = running.stdout.read().decode().splitlines()
    os.close(master)
    assert (running.returncode, len(lines)) == (0, 2)
    assert screen == b"" if quiet else b"picture 2 of 2" in screen


def test_the_bar_is_one_for_all_files_of_an_upscaling(monkeypatch: pytest.MonkeyPatch):
    seen: list[tuple[Any, ...]] = []
    monkeypatch.setattr(Bar, "part", lambda self, *words: seen.append(words))
    assert run(["upscale", "photo.png", "photo.png", "--overwrite", "-q"]) == 0
    assert [words[1:3] for words in seen if words[3] == 32] == [(1, 2), (2, 2)]


def test_metadata_shows_the_fields_that_are_set(capsys: pytest.CaptureFixture[str], model: str):
    options = ("--variation-seed", "3", "--variation-strength", "0.2", "--steps", "1")
    assert said(capsys, "generate", "a cat", "-m", model, "-q", *options, "-o", "x.png")[0] == 0
    code, out, _ = said(capsys, "metadata", "show", "x.png")
    shown = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert code == 0 and ": null" not in out and not {"source", "tiles", "loras", "hires"} & set(shown)
    assert json.loads(shown["variation"])["seed"] == 3 and "width" not in json.loads(shown["variation"])
    assert json.loads(shown["conventions"])["round_timesteps"] is False  # set, and not left open
