"""Every layout is read as people have it, and what is not read is named."""

import csv
import json

import pytest

from gesso.errors import GessoError
from gesso.tuning.captions import CaptionRules
from gesso.tuning.dataset import Defaults
from gesso.tuning.reading import read_dataset
from tuning.made import save_picture


def read(path, **defaults):
    found = read_dataset(path, Defaults(**defaults))
    rows = [
        (one.path.name, one.caption, found.subsets[one.subset].repeats, found.subsets[one.subset].is_reg)
        for one in found.examples
    ]
    return found, rows


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def test_sidecars(tmp_path):
    for name in ("a.png", "b.jpg", "c.webp", "d.PNG", "e.png"):
        save_picture(tmp_path / name, 1)
    write(tmp_path / "a.txt", "\ufeffa dog, red\nsecond line")
    write(tmp_path / "b.caption", "\n  a cat  \n")
    write(tmp_path / "c.webp.txt", "a bird")
    write(tmp_path / "e.txt", "")
    save_picture(tmp_path / "a-masklabel.png", 2)
    save_picture(tmp_path / ".hidden.png", 2)
    write(tmp_path / "notes.md", "mine")
    found, rows = read(tmp_path, caption="a thing")
    assert rows == [
        ("a.png", "a dog, red", 1, False),
        ("b.jpg", "a cat", 1, False),
        ("c.webp", "a bird", 1, False),
        ("d.PNG", "a thing", 1, False),
        ("e.png", "", 1, False),
    ]
    assert [one.mask.name if one.mask else None for one in found.examples] == ["a-masklabel.png", *[None] * 4]
    assert found.layout == "folder" and found.notes == ()


def test_what_is_left_alone_is_named(tmp_path):
    save_picture(tmp_path / "a.png", 1)
    save_picture(tmp_path / "a.jpg", 2)
    save_picture(tmp_path / "more" / "b.png", 3)
    for name in ("shard.tar", "cache.npz", "state.pkl", "part.parquet"):
        (tmp_path / name).write_bytes(b"x")
    found, rows = read(tmp_path)
    assert [name for name, *_ in rows] == ["a.jpg", "a.png"]
    told = " / ".join(found.notes)
    assert "a.png and a.jpg share one caption file" in told
    assert "pictures in the folder more are not read" in told
    assert "shard.tar is not read: it stands beside pictures" in told
    assert "state.pkl is not read: pickles can run code" in told
    assert "part.parquet is not read: it stands beside pictures" in told


def test_a_folder_with_a_reg_folder(tmp_path):
    save_picture(tmp_path / "a.png", 1)
    save_picture(tmp_path / "reg" / "b.png", 2)
    _, rows = read(tmp_path, repeats=3, captions=CaptionRules(dropout=0.5))
    assert rows == [("a.png", "", 3, False), ("b.png", "", 1, True)]


@pytest.mark.parametrize("below", ["", "img"])
def test_kohyas_folders(below, tmp_path):
    save_picture(tmp_path / below / "10_sks dog" / "a.png", 1)
    save_picture(tmp_path / below / "10_sks dog" / "b.png", 1)
    write(tmp_path / below / "10_sks dog" / "b.txt", "sks dog, running")
    save_picture(tmp_path / below / "2_sks cat" / "c.png", 1)
    save_picture(tmp_path / "reg" / "1_dog" / "r.png", 1)
    found, rows = read(tmp_path)
    assert sorted(rows) == [
        ("a.png", "sks dog", 10, False),
        ("b.png", "sks dog, running", 10, False),
        ("c.png", "sks cat", 2, False),
        ("r.png", "dog", 1, True),
    ]
    assert found.layout == "kohya folders"


def test_a_reg_folder_elsewhere(tmp_path):
    save_picture(tmp_path / "own" / "a.png", 1)
    save_picture(tmp_path / "class" / "b.png", 2)
    _, rows = read(tmp_path / "own", reg=tmp_path / "class")
    assert [(name, is_reg) for name, _, _, is_reg in rows] == [("a.png", False), ("b.png", True)]
    with pytest.raises(GessoError, match=r"nowhere: no such folder\. Expected pictures of the class"):
        read(tmp_path / "own", reg=tmp_path / "nowhere")


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_imagefolder(kind, tmp_path):
    for name in ("a.png", "sub/b.png", "c.png"):
        save_picture(tmp_path / name, 1)
    rows = [
        {"file_name": "a.png", "text": 'a dog, "red"'},
        {"file_name": "sub/b.png", "text": ""},
        {"file_name": "gone.png", "text": "x"},
    ]
    table = tmp_path / f"metadata.{kind}"
    if kind == "jsonl":
        write(table, "\n".join(map(json.dumps, rows)))
    else:
        with table.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["file_name", "text"])
            writer.writeheader()
            writer.writerows(rows)
    found, read_rows = read(tmp_path, caption="a thing")
    assert read_rows == [("a.png", 'a dog, "red"', 1, False), ("b.png", "a thing", 1, False)]
    told = " / ".join(found.notes)
    assert "gone.png is not a picture that is there" in told
    assert f"1 pictures that metadata.{kind} does not list are not read" in told


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"file_name": "../secret.png", "text": "x"}', "leads out of the folder"),
        ('{"file_name": "/etc/passwd", "text": "x"}', "leads out of the folder"),
        ('{"text": "x"}', "row 1 has no file_name"),
        ("[1]", r"row 1 is \[1\], expected an object"),
        ("{", "row 1 is not JSON"),
        ("[" * 100_000, "row 1 is not JSON"),
        ('{"file_name": "a.png", "text": 3}', "row 1 has the text 3, expected words"),
    ],
)
def test_a_table_that_makes_no_sense_is_refused(line, message, tmp_path):
    save_picture(tmp_path / "a.png", 1)
    write(tmp_path / "metadata.jsonl", line)
    with pytest.raises(GessoError, match=message):
        read(tmp_path)


def test_what_is_no_data_set(tmp_path):
    with pytest.raises(GessoError, match="no such folder"):
        read(tmp_path / "nowhere")
    save_picture(tmp_path / "picture.png", 1)
    with pytest.raises(GessoError, match="not a folder"):
        read(tmp_path / "picture.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "x.zip").write_bytes(b"")
    with pytest.raises(GessoError, match=r"no pictures to train on \(x\.zip is not read: unpack it"):
        read(tmp_path / "empty")
    save_picture(tmp_path / "bad" / "a.png", 1)
    (tmp_path / "bad" / "a.txt").write_bytes(b"caf\xe9")
    with pytest.raises(GessoError, match=r"a\.txt: is not UTF-8 text .*Save it as UTF-8"):
        read(tmp_path / "bad")
    (tmp_path / "bad" / "a.txt").write_bytes(b"x" * 100_000)
    with pytest.raises(GessoError, match="expected at most 65536 of text"):
        read(tmp_path / "bad")
