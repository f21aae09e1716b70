"""Interrupts, full disks and killed runs: an exit code, one line, and nothing half done."""

import os
import random
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from PIL import Image

from gesso.checkpoints.errors import ModelFileError
from gesso.cli.main import _flushed, run
from gesso.errors import MAX_LINE, GessoError, message_line, short, shorten
from gesso.library.importing import import_model
from gesso.library.index import Index
from gesso.pictures import picture_file
from gesso.studio.studio import Studio
from library import shelf
from tiny_models import save_tiny_mini

posix = pytest.mark.skipif(os.name != "posix", reason="signals and devices of POSIX")


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GESSO_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def gesso(*words: str) -> list[str]:
    return [sys.executable, "-m", "gesso", *words]


# ---- interrupts ------------------------------------------------------------------------------------------------------


def tree(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file() or path.is_symlink()}


def interrupt(command: list[str], after: float) -> tuple[int, str]:
    with subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as running:
        time.sleep(after)
        running.send_signal(signal.SIGINT)
        assert running.stderr is not None
        errors = running.stderr.read()
        return running.wait(60), errors


@pytest.fixture
def commands(tmp_path: Path) -> dict[str, list[str]]:
    model = save_tiny_mini(tmp_path / "m.safetensors")
    torch.save({"w": torch.zeros(300, 300)}, tmp_path / "e.pt")
    loras = [str(shelf.lora(tmp_path / f"{name}.safetensors")) for name in "ab"]
    return {
        "convert": gesso("models", "convert", str(model), "out.safetensors", "--to", "native"),
        "import": gesso("models", "import", str(model), "--name", "x"),
        "import a pickle": gesso("models", "import", "e.pt", "--name", "x", "--kind", "embedding"),
        "merge": gesso("lora", "merge", *loras, "-o", "out.safetensors"),
        "train": gesso("train", "atlas", "out.png"),
    }


def check_interrupt(command: list[str], folder: Path, after: float) -> bool:
    """Whether it was stopped; else it was done before."""
    before = tree(folder)
    code, errors = interrupt(command, after)
    if code == 0 or (code == 2 and "Traceback" not in errors):  # it was done, or had no font to draw with
        for path in tree(folder) - before:
            path.unlink()
        return False
    # Before, Python itself starts; on a busy machine that takes longer, and the signal ends it without a word.
    if after > 0.3 and (code, errors) != (-signal.SIGINT, ""):
        assert (code, errors) == (130, "interrupted\n")
    assert tree(folder) == before
    return True


@posix
@pytest.mark.parametrize("name", ["import", "merge"])
@pytest.mark.sampled(2)
def test_an_interrupt_leaves_nothing(commands, tmp_path, name):
    check_interrupt(commands[name], tmp_path, 0.8)


@posix
@pytest.mark.slow
@pytest.mark.parametrize("name", ["convert", "import", "import a pickle", "merge", "train"])
def test_an_interrupt_at_any_moment_leaves_nothing(commands, tmp_path, name):
    rng = random.Random(name)
    start = time.monotonic()
    subprocess.run(commands[name], capture_output=True, check=False)
    whole = time.monotonic() - start
    for path in tree(tmp_path / "home") | set(tmp_path.glob("out*")):
        path.unlink()
    assert sum(check_interrupt(commands[name], tmp_path, rng.uniform(0, whole)) for _ in range(20))


# ---- full disks ------------------------------------------------------------------------------------------------------


TOLD = "error: standard output: No space left on device\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("words", [("--version",), ("prompt", "--help"), ("models", "list"), ("samplers", "--json")])
@pytest.mark.sampled(2)
def test_a_full_standard_output_is_told_on_one_line(words):
    with open("/dev/full", "w") as full:
        done = subprocess.run(gesso(*words), stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, TOLD)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize(
    "words",
    [
        "",
        "--help",
        "samplers",
        "config --json",
        pytest.param("doctor --json", marks=pytest.mark.slow),  # it measures the machine
        "models list --json",
        "models info tiny.safetensors",
        "prompt cat -m tiny.safetensors --json",
        "presets",
        "preprocess --list",
        "upscale --list --json",
        "upscale photo.png --json -o new.png",
        "metadata show drawn.png --json",
        "metadata show drawn.png --raw",
        "lora info comic",
        "generate cat --steps 1 -m tiny.safetensors -o a.png",
        "generate cat --steps 1 -m tiny.safetensors -o b.png --json",
        "grid cat --steps 1 -m tiny.safetensors --x steps=1,2 -o grid --json",
        "generate cat --steps nonsense --json",
        "--show-completion bash",
    ],
)
@pytest.mark.sampled(4)
def test_every_command_says_that_standard_output_is_full(words: str, tmp_path, monkeypatch, capsys):
    model = save_tiny_mini(tmp_path / "tiny.safetensors")
    Image.new("RGB", (16, 16), "red").save("photo.png")
    if "drawn.png" in words:
        (picture,) = Studio().open(model)("a cat")
        picture.save("drawn.png")
    with open("/dev/full", "w") as full, monkeypatch.context() as patch:
        patch.setattr(sys, "__stdout__", full)
        patch.setattr(sys, "stdout", full)
        code = run(words.split())
        patch.setattr(os, "dup2", lambda *numbers: None)  # it would take over the test's own standard output
        assert _flushed(code) == 1
        with suppress(OSError):
            full.close()
    assert [line for line in capsys.readouterr().err.splitlines(keepends=True) if "error" in line] == [TOLD]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_standard_error_stops_no_work(tmp_path):
    model = save_tiny_mini(tmp_path / "tiny.safetensors")
    words = ("generate", "a zxqw cat", "--steps", "1", "-m", str(model), "-o", str(tmp_path / "a.png"))
    with open("/dev/full", "w") as full:
        done = subprocess.run(gesso(*words), stdout=subprocess.PIPE, stderr=full, text=True, check=False)
    assert (done.returncode, (tmp_path / "a.png").is_file()) == (0, True)
    assert str(tmp_path / "a.png") in done.stdout


CLOSED = "error: standard output: closed, so nothing could be printed\n"


def shell(line: str) -> list[str]:
    """A line of a shell, where $GESSO stands for the program."""
    return ["sh", "-c", line.replace("$GESSO", shlex.join(gesso()))]


@pytest.mark.skipif(os.name != "posix", reason="streams of a POSIX shell")
@pytest.mark.parametrize("words", ["--version", "--help", "samplers", "models list --json", "config", ""])
@pytest.mark.sampled(3)
def test_a_closed_standard_output_is_told_on_one_line(words: str):
    done = subprocess.run(shell(f"$GESSO {words} >&-"), stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, CLOSED)


@pytest.mark.skipif(os.name != "posix", reason="streams of a POSIX shell")
@pytest.mark.parametrize(
    ("closed", "code"),
    [
        pytest.param("<&-", 0, marks=pytest.mark.slow),
        ("2>&-", 0),
        pytest.param(">&-", 1, marks=pytest.mark.slow),
        ("<&- >&- 2>&-", 1),
    ],
)
@pytest.mark.sampled(2)
def test_work_is_done_whatever_streams_are_closed(closed: str, code: int, tmp_path: Path):
    """And no file gets the number of one of them, where a library might print."""
    model, picture = save_tiny_mini(tmp_path / "tiny.safetensors"), tmp_path / "a.png"
    line = f"$GESSO generate 'a zxqw cat' --steps 1 -m {model} -o {picture} {closed}"
    done = subprocess.run(shell(line), capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert (CLOSED in done.stderr) == (code == 1 and "2>" not in closed)
    Image.open(picture).load()


@posix
@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "PYTHONUNBUFFERED"])
def test_a_note_is_in_the_log_while_the_work_goes_on(unbuffered: str, tmp_path: Path):
    program = (
        "import pathlib; from gesso.terminal.progress import Bar; from gesso.terminal.streams import take_over\n"
        "take_over(); Bar(quiet=False).note('step 50')\n"
        "print(pathlib.Path('log').read_text())"
    )
    with (tmp_path / "log").open("w") as log:
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=tmp_path,
            env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            check=True,
        )
    assert done.stdout.split("\n")[0] == "step 50"


def test_a_pipe_that_nobody_reads_any_more_is_quiet():
    for words in (("samplers",), ("samplers", "--json"), ("models", "list")):
        with subprocess.Popen(gesso(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.close()
            assert process.stderr is not None
            assert (process.stderr.read(), process.wait()) == (b"", 1)


@pytest.mark.parametrize("way", ["copy", "link"])
def test_an_import_that_cannot_be_remembered_leaves_nothing(tmp_path, monkeypatch, way):
    def full(self, *args, **kwargs):
        raise GessoError("index.sqlite3: database or disk is full", code="unwritable")

    library = shelf.library_at(tmp_path)
    source = shelf.lora(tmp_path / "style.safetensors")
    for step in ("put", "remember"):
        with monkeypatch.context() as patch:
            patch.setattr(Index, step, full)
            with pytest.raises(GessoError, match="disk is full"):
                import_model(library, source, way=way)
        assert {path.name for path in tree(library.root)} <= {"index.sqlite3"}
        assert not library.index.models()
    assert import_model(library, source, way=way).new


def filling(monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    """A disk with room for so many pictures."""
    left, atomic_file = [room], picture_file.atomic_file

    def write(path, **kwargs):
        if path.suffix == ".png":
            left[0] -= 1
            if left[0] < 0:
                raise OSError(28, "No space left on device")
        return atomic_file(path, **kwargs)

    monkeypatch.setattr(picture_file, "atomic_file", write)


def test_pictures_on_a_full_disk_are_kept_and_told(tmp_path, monkeypatch, capsys):
    model = str(save_tiny_mini(tmp_path / "m.safetensors"))
    with monkeypatch.context() as patch:
        filling(patch, 2)
        words = ["generate", "a cat", "-n", "4", "--seed", "7", "--steps", "1", "-q", "-m", model, "-o", "p{index}.png"]
        assert run(words) == 2
        err = capsys.readouterr().err
        assert "The first 2 of 4 pictures are kept; --seed 7 draws the same ones again" in err
        assert sorted(path.name for path in tmp_path.glob("*.png")) == ["p0.png", "p1.png"]
    grid = ["grid", "a cat", "--x", "seed=1,2,3", "--set", "steps=1", "-m", model, "-o", "g"]
    with monkeypatch.context() as patch:
        filling(patch, 2)
        assert run(grid) == 2
        assert "the same command draws the rest" in capsys.readouterr().err
    assert run(grid) == 0
    assert "3 pictures: 1 new, 2 already done" in "".join(capsys.readouterr())


# ---- killed imports, useless copies ----------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["copy", "link"])
@pytest.mark.parametrize("listed", [False, True])
def test_an_import_that_was_killed_can_be_repeated(tmp_path, way, listed):
    library = shelf.library_at(tmp_path)
    source = shelf.lora(tmp_path / "style.safetensors")
    first = import_model(library, source, way=way)
    library.index.path.unlink()  # as if it had been killed before it was remembered
    if listed:
        library.entries()
    again = import_model(library, source, way=way)
    assert (again.entry.path, again.entry.source) == (first.entry.path, str(source))
    assert again.entry.files[0].sha256 == first.entry.files[0].sha256
    library.index.path.unlink()
    other = shelf.lora(tmp_path / "other" / "style.safetensors", {"z": "another"})
    with pytest.raises(GessoError, match="a model of this name already exists"):
        import_model(library, other, way=way)


def test_a_pickle_that_fits_no_model_leaves_no_copy(tmp_path, capsys):
    torch.save({"state_dict": {"a.weight": torch.zeros(3, 3)}}, tmp_path / "bad.ckpt")
    assert run(["generate", "a cat", "-m", "bad.ckpt", "-q"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: bad.ckpt: ")
    assert not list((tmp_path / "home").rglob("*.safetensors"))


# ---- what messages repeat --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["q" * 200_000, "a b " * 50_000, "\x1b[31mred\x07\n", "\udcff\udc80", "\u202eabc", ""])
def test_what_a_message_repeats_is_short_and_harmless(text, capsys):
    for shown in (short(text), shorten(text), short([text]), ModelFileError("missing", "x", shorten(text)).one_line):
        assert len(shown) <= 130
        assert shown.isprintable()
        shown.encode()
    line = message_line(f"no such thing: {text}")
    assert len(line) <= MAX_LINE
    assert line.isprintable()
    commands = (
        ["models", "info"],
        ["models", "add-folder"],
        ["generate", "a cat", "--sampler"],
        ["prompt", "a", "--set"],
    )
    for words in ([*command, text] for command in commands if text):
        code = run(words)
        err = capsys.readouterr().err
        assert code == 2
        assert len(err) <= MAX_LINE + 20
        assert err.count("\n") <= 1
        assert err.strip().isprintable()


@pytest.mark.parametrize("device", ["nope", "meta", "xpu", "cuda:x", "\udcff", "", "q" * 1000])
@pytest.mark.parametrize(
    "words",
    [
        ("generate", "a cat"),
        ("grid", "a cat", "--x", "seed=1", "-o", "g"),
        ("upscale", "x.png"),
        ("train", "export", "x.safetensors"),
        ("train", "default-model", "--folder", "f"),
        ("evaluate", "composition"),
    ],
)
@pytest.mark.sampled(3)
def test_a_device_that_is_none_is_told(device, words, tmp_path, capsys):
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    assert run([*words, "--device", device]) == 2
    err = capsys.readouterr().err
    assert "unknown device. Known: auto, cpu, cuda, cuda:N, mps" in err
    assert len(err) < 400
    assert err.count("\n") == 1


def test_short_takes_any_value():
    deep: list[object] = []
    for _ in range(5000):
        deep = [deep]
    assert short(deep) == "a list that is nested too deeply"
    assert short(10**5000) == "a number of thousands of digits"
    assert short("it's") == repr("it's")
    assert short("x" * 99) == repr("x" * 99)
    assert short("x" * 101).startswith("'xxx")
    assert len(short("x" * 101)) == 102
