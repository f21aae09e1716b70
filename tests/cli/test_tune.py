"""`gesso train lora`: from a folder to a file to a picture, as a user types it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from gesso.cli import tune
from gesso.cli.main import run
from gesso.runtime.engine import find_model
from gesso.tuning.settings import TuningSettings
from tiny_models import save_tiny_mini
from tuning.made import save_folder, save_picture

QUICK = ("--rank", "2", "--train-steps", "4", "--batch-size", "2", "--precision", "float32", "--report-every", "9")


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_tiny_mini(tmp_path / "model.safetensors")
    save_folder(tmp_path / "photos", count=4)
    return tmp_path


def said(capsys, *words, code=0):
    assert run(["train", "lora", *map(str, words)]) == code
    return capsys.readouterr()


@pytest.mark.slow
def test_from_a_folder_to_a_file_to_a_picture(place, capsys):
    words = ("photos", "-m", "model.safetensors", "-o", "my.safetensors", "--cache", "latents", *QUICK)
    explained = said(capsys, *words, "--explain").out
    assert "pictures    4 (folder), 4 with captions" in explained and "time        4 steps of 2" in explained
    assert sorted(path.name for path in place.iterdir()) == ["model.safetensors", "photos"]
    facts = json.loads(said(capsys, *words, "--explain", "--json").out)
    assert facts["pictures"] == 4 and facts["steps"] == 4

    judged = ("--judge-samples", "2", "--copy-samples", "3", "--class-pictures", "0")
    told = said(capsys, *words, "--sample", "a red cat", "--sample-steps", "2", "--trigger", "kitty", *judged)
    assert told.out.startswith("my.safetensors rank=2 step=4 bytes=")
    assert "best: step 4 has the score" in told.err and " of 3 pictures of step 4" in told.err
    assert "step 4: loss at fixed noise" in told.err and "my.training/report.html" in told.err
    names = sorted(path.name for path in (place / "my.training").iterdir())
    assert names == [
        *("copies", "copies.json", "data.json", "good.pt", "judged", "last.pt", "log.jsonl", "measures.jsonl"),
        *("report.html", "run.json", "samples", "settings.toml", "steps"),
    ]
    assert [path.name for path in sorted((place / "my.training" / "samples").iterdir())] == [
        "000000-0.png",
        "000004-0.png",
    ]
    assert "data:image/png" in (place / "my.training" / "report.html").read_text()

    assert run(["lora", "info", "my.safetensors", "-m", "model.safetensors"]) == 0
    info = capsys.readouterr().out
    assert "trigger     kitty" in info and "pictures    4" in info and "steps       4" in info
    drawn = ["generate", "a red cat", "-m", "model.safetensors", "--seed", "1", "--steps", "2", "-q"]
    assert run([*drawn, "-o", "plain.png"]) == 0
    assert run([*drawn, "-o", "with.png", "--lora", "my.safetensors:5"]) == 0
    assert (place / "plain.png").read_bytes() != (place / "with.png").read_bytes()

    before = (place / "my.safetensors").read_bytes()
    assert "already exists" in said(capsys, *words, code=2).err
    again = said(
        capsys, "--settings", "my.toml", "--overwrite", "--cache", "latents", "--folder", "other", "--json", "-q"
    )
    assert json.loads(again.out)["rank"] == 2 and again.err == ""
    assert (place / "my.safetensors").read_bytes() == before


def test_the_verdict_of_a_training(place, capsys):
    words = ("photos", "-m", "model.safetensors", "-o", "my.safetensors", "--cache", "latents", *QUICK)
    said(capsys, *words, "--report-every", "2", "--judge-samples", "2", "--copy-samples", "0", "--sample-steps", "2")
    assert run(["train", "verdict", "my.training"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["step", "score", "likeness"] and len(lines) >= 4
    assert sum(line.startswith("*") for line in lines) == 1 and any(line.startswith("best: ") for line in lines)
    assert run(["train", "verdict", "my.safetensors", "--json"]) == 0  # the file leads to its folder
    facts = json.loads(capsys.readouterr().out)
    assert facts["kept"] == [2, 4] and [one["step"] for one in facts["steps"]] == [2, 4] and facts["best"] in (2, 4)
    assert len(facts["steps"][0]["likeness"]) == 3 and facts["copy_check"] is None
    shutil.rmtree("photos")  # all that is needed is in the folder, beside the model
    assert run(["train", "verdict", "my.training", "--step", "2", "-o", "two.safetensors", "-q"]) == 0
    capsys.readouterr()
    assert run(["lora", "info", "two.safetensors", "-m", "model.safetensors"]) == 0
    assert "steps       2" in capsys.readouterr().out
    for wrong, message in (
        (["nowhere"], "nowhere: no training is there"),
        (["my.training", "--step", "2"], "--step goes with --output"),
        (
            ["my.training", "--step", "3", "-o", "x.safetensors"],
            "no weights of step 3 are kept. There are those of 2, 4",
        ),
        (["my.training", "-o", "two.safetensors"], "already exists"),
    ):
        assert run(["train", "verdict", *wrong]) == 2
        assert message in capsys.readouterr().err
    save_tiny_mini(place / "model.safetensors", seed=5)
    assert run(["train", "verdict", "my.training", "-o", "three.safetensors"]) == 2
    assert "is not the model that the training in my.training was begun with" in capsys.readouterr().err


def test_tensorboard_reads_the_log(place, capsys):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    words = ("photos", "-m", "model.safetensors", "-o", "my.safetensors", "--cache", "latents", *QUICK)
    said(capsys, *words, "--tensorboard", "--no-samples")
    board = EventAccumulator(str(place / "my.training" / "tensorboard"))
    board.Reload()
    tags = board.Tags()["scalars"]
    assert "seen" in tags and "seen by timestep/62" in tags
    assert [event.step for event in board.Scalars("seen")] == [0, 4]


def test_reserved_pictures_are_told(place, capsys):
    mark = '<rdf:Description plus:DataMining="http://ns.useplus.org/ldf/vocab/DMI-PROHIBITED"/>'
    Image.new("RGB", (96, 96), "teal").save(place / "photos" / "theirs.jpg", xmp=mark.encode())
    words = ("photos", "-m", "model.safetensors", "--explain")
    out = said(capsys, *words).out
    assert "pictures    4 (folder)" in out
    assert "theirs.jpg (IPTC DMI-PROHIBITED): reserved by the owner, left out; --include-reserved takes them" in out
    out = said(capsys, *words, "--include-reserved").out
    assert "pictures    5 (folder)" in out and "reserved by the owner, trained on all the same" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "FOLDER is missing: the folder of your pictures"),
        (("photos",), "--output is missing: the file to write, such as my.safetensors"),
        (("photos", "-o", "my.ckpt"), "expected a file name ending in .safetensors"),
        (("photos", "-o", "nowhere/my.safetensors"), "the folder nowhere does not exist"),
        (("comic", "-o", "my.safetensors"), "For the style: gesso train style comic OUT"),
        (("nowhere", "-o", "my.safetensors", "-m", "model.safetensors"), "nowhere: no such folder"),
        (("photos", "-o", "my.safetensors", "--rank", "0"), "--rank 0: expected 1 to 1024"),
        (("photos", "-o", "my.safetensors", "--train-steps", "0"), "--train-steps 0: expected 1"),
        (("photos", "-o", "my.safetensors", "--fit", "16gb"), "--fit '16gb': expected one of auto, cpu"),
        (("photos", "-o", "my.safetensors", "--settings", "my.toml"), "my.toml: cannot be read"),
        (
            ("photos", "-o", "my.safetensors", "-m", "model.safetensors", "--held-out", "4"),
            "--held-out 4: of 4 pictures",
        ),
    ],
)
def test_what_is_refused_before_the_work(words, message, place, capsys):
    assert message in said(capsys, *words, code=2).err
    assert not (place / "my.training").exists()


def test_every_setting_has_an_option_or_a_reason():
    options = {row.field for row in tune.SETTINGS} | {"data", "model", "output"}
    without = {"kind", "min_bucket", "max_bucket", "bucket_step", "weight_decay", "clip", "conv_alpha"}  # for the file
    assert {*TuningSettings.__dataclass_fields__} - options == without
    assert not options - {*TuningSettings.__dataclass_fields__}


def test_notes_for_a_person(place, capsys):
    save_picture(place / "photos" / "small\x1b.png", 9, (20, 20))
    (place / "photos" / "torn.png").write_bytes(b"x")
    out = said(capsys, "photos", "-m", "model.safetensors", "--explain").out
    assert "note        small\\x1b.png (20x20): smaller than their bucket, and enlarged" in out
    assert "note        1 pictures have no caption; give --caption" in out
    assert "note        torn.png is left out: not a readable picture" in out


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.slow
def test_ctrl_c_saves_a_state_and_says_how_to_go_on(number, code, place, capsys):
    words = ["photos", "-m", "model.safetensors", "-o", "my.safetensors", "--cache", "latents", *QUICK]
    words[words.index("--train-steps") + 1] = "100000"
    paths = os.pathsep.join(path for path in sys.path if path)
    with subprocess.Popen(
        [sys.executable, "-m", "gesso", "train", "lora", *words],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as running:
        log = place / "my.training" / "log.jsonl"
        end = time.monotonic() + 120
        while time.monotonic() < end and not (log.exists() and log.stat().st_size > 500):
            time.sleep(0.05)
        running.send_signal(number)
        assert running.stderr is not None
        errors = running.stderr.read()
        assert running.wait(60) == code
    assert "stopping after this step and saving a state" in errors
    assert "state saved in my.training; the same command goes on" in errors and "Traceback" not in errors
    assert not (place / "my.safetensors").exists()
    from gesso.training.loop import load_state

    step = load_state(Path("my.training/last.pt"))["step"]
    assert step >= 10
    words[words.index("--train-steps") + 1] = str(step + 2)
    said(capsys, *words)
    assert (place / "my.safetensors").exists()


@pytest.mark.slow
def test_dreambooth_draws_its_class_and_needs_to_know_it(place, capsys):
    words = ["photos", "-m", "model.safetensors", "-o", "mine.safetensors", "--cache", "latents", *QUICK[2:]]
    assert run(["train", "dreambooth", *words]) == 2
    assert "--trigger is missing: DreamBooth needs it" in capsys.readouterr().err
    save_tiny_mini(place / "unknown.safetensors", objects={})
    unknown = [*words, "-m", "unknown.safetensors", "--trigger", "red cat"]
    assert run(["train", "dreambooth", *unknown]) == 2
    assert "--class-prompt or --reg is missing" in capsys.readouterr().err
    alone = ["photos", "-o", "word.safetensors", "--cache", "latents", "--trigger", "zorp", "--explain"]
    assert run(["train", "dreambooth", *alone]) == 0
    drawn = "64 pictures of things that the model knows are drawn into word.training/class"
    assert drawn in capsys.readouterr().err
    shutil.copy(find_model("gesso-mini"), "copy.safetensors")
    assert run(["train", "dreambooth", *alone, "-m", "copy.safetensors"]) == 0  # the same model by its path
    assert drawn in capsys.readouterr().err
    given = [*words, "--trigger", "red cat", "--class-prompt", "a cat", "--class-pictures", "2", "--no-samples"]
    assert run(["train", "dreambooth", *given, "--explain"]) == 0
    assert "2 pictures of 'a cat' are drawn into mine.training/class" in capsys.readouterr().err
    assert not (place / "mine.training").exists()
    assert run(["train", "dreambooth", *given]) == 0
    assert capsys.readouterr().out.startswith("mine.safetensors networks=unet step=4 bytes=")
    assert len(list((place / "mine.training" / "class").glob("*.png"))) == 2
    assert run(["generate", "a red cat", "-m", "mine.safetensors", "--steps", "2", "-q", "-o", "cat.png"]) == 0
    assert run(["train", "lora", "--settings", "mine.toml", "-o", "other.safetensors"]) == 2
    assert "mine.toml: settings of another training. Use gesso train full" in capsys.readouterr().err


def test_an_embedding_takes_the_name_of_its_file(place, capsys):
    words = ["photos", "-m", "model.safetensors", "--cache", "latents", *QUICK[2:], "--no-samples", "--vectors", "2"]
    assert run(["train", "embedding", *words, "-o", "teapot.safetensors"]) == 0
    assert capsys.readouterr().out.startswith("teapot.safetensors vectors=2 step=4 bytes=")
    drawn = ["generate", "a teapot", "-m", "model.safetensors", "--steps", "2", "--seed", "1"]
    assert run([*drawn, "-o", "with.png", "--embedding", "teapot.safetensors"]) == 0
    assert "teapot" not in capsys.readouterr().err
    assert run([*drawn, "-o", "without.png", "--force"]) == 0
    assert "unknown words ignored" in capsys.readouterr().err
    assert (place / "with.png").read_bytes() != (place / "without.png").read_bytes()
    assert run(["train", "embedding", *words, "-o", "teapot2.safetensors", "--rank", "4"]) == 2
