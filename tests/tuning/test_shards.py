"""Parquet tables and tars of WebDataset become pictures with captions; hostile ones are refused and write nothing."""

import io
import json
import pickle
import tarfile
import tempfile
from pathlib import Path

import pytest
from PIL import Image

from gesso.errors import GessoError
from gesso.tuning import shards
from gesso.tuning.dataset import DataSet, Defaults
from gesso.tuning.marks import marks_of
from gesso.tuning.reading import read_dataset
from tuning.made import save_picture


def picture(seed: int, end: str = ".png") -> bytes:
    with tempfile.TemporaryDirectory() as place:
        return save_picture(Path(place) / f"x{end}", seed).read_bytes()


def read(path: Path, cache: Path) -> tuple[DataSet, list[tuple[str, str, bool]]]:
    found = read_dataset(path, Defaults(caption="a thing", unpacked=cache))
    return found, [(one.path.name, one.caption, one.mask is not None) for one in found.examples]


def pack(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz" if path.suffix in (".gz", ".tgz") else "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("name", ["shard.tar", "shard.tar.gz"])
def test_webdataset(name, tmp_path):
    path = pack(
        tmp_path / "set" / name,
        {
            "a/000.jpg": picture(1, ".jpg"),
            "a/000.txt": b"a red\ncat",
            "a/000.mask.png": picture(2),
            "001.png": picture(3),
            "001.json": json.dumps({"caption": "a dog", "url": "x"}).encode(),
            "001.cls": b"3",
            "002.pkl": pickle.dumps({"caption": "x"}),
            "003.webp": picture(4, ".webp"),
            "004.txt": b"words without a picture",
            "005.jpg": b"no picture",
        },
    )
    for where in (path, path.parent):
        found, rows = read(where, tmp_path / "cache")
        assert rows == [
            ("000001.jpg", "a red cat", True),
            ("000002.png", "a dog", False),
            ("000003.webp", "a thing", False),
        ]
        assert found.layout == "WebDataset"
        told = " / ".join(found.notes)
        assert "1 members are pickles or arrays" in told and "picture 4 is of no known format" in told
    assert len(list((tmp_path / "cache").iterdir())) == 1  # once, however often it is read
    with Image.open(found.examples[0].path) as image:
        assert image.size == (96, 96)


def test_a_reservation_beside_a_shard_is_that_of_its_pictures(tmp_path):
    path, rules = pack(tmp_path / "set" / "data" / "shard.tar", {"a.png": picture(1)}), tmp_path / "set" / "tdmrep.json"
    for location, reserved in (("*", "TDM reservation in tdmrep.json"), ("/other*", "")):
        rules.write_text(json.dumps([{"location": location, "tdm-reservation": 1}]))
        found, rows = read(path.parent.parent, tmp_path / "cache")
        assert len(rows) == 1 and marks_of(found.examples[0].path).reserved == reserved


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ({"name": "../out.png"}, "leads out of the tar"),
        ({"name": "/etc/out.png"}, "leads out of the tar"),
        ({"name": "a\\b.png"}, "leads out of the tar"),
        ({"name": "x.png", "type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, "is a link"),
        ({"name": "x.png", "type": tarfile.LNKTYPE, "linkname": "../../x"}, "is a link"),
        ({"name": "x.png", "type": tarfile.CHRTYPE}, "no plain file"),
        ({"name": "x.png", "type": tarfile.FIFOTYPE}, "no plain file"),
    ],
)
def test_hostile_members_are_refused(info, message, tmp_path):
    path = tmp_path / "shard.tar"
    with tarfile.open(path, "w") as tar:
        good = tarfile.TarInfo("000.png")
        good.size = len(data := picture(1))
        tar.addfile(good, io.BytesIO(data))
        member = tarfile.TarInfo()
        for key, value in info.items():
            setattr(member, key, value)
        tar.addfile(member)
    with pytest.raises(GessoError, match=message):
        read(path, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())
    assert not (tmp_path.parent / "out.png").exists()


def test_a_torn_tar_and_a_bomb_are_refused(tmp_path, monkeypatch):
    path = pack(tmp_path / "shard.tar", {"000.png": picture(1), "001.png": picture(2)})
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(GessoError, match="not a readable tar"):
        read(path, tmp_path / "cache")
    monkeypatch.setattr(shards, "MAX_WORDS", 100)
    bomb = pack(tmp_path / "b.tar.gz", {"0.txt": b" " * 10**6, "0.png": picture(1)})
    found, rows = read(bomb, tmp_path / "cache")
    assert rows == [("000001.png", "a thing", False)] and "0.txt has 1000000 bytes" in found.notes[0]
    monkeypatch.setattr(shards, "MAX_SAMPLES", 1)
    with pytest.raises(GessoError, match="more than 1 pictures"):
        read(pack(tmp_path / "c.tar", {"0.png": picture(1), "1.png": picture(2)}), tmp_path / "cache")


def test_no_room_for_the_pictures(tmp_path, monkeypatch):
    path = pack(tmp_path / "shard.tar", {"000.png": picture(1)})
    monkeypatch.setattr(shards, "SPARE_DISK", 2**62)
    with pytest.raises(GessoError, match=r"no room for the pictures of shard\.tar") as error:
        read(path, tmp_path / "cache")
    assert error.value.code == "disk_full" and not list((tmp_path / "cache").iterdir())


def test_shards_that_nobody_used_for_long_are_removed(tmp_path, monkeypatch):
    read(pack(tmp_path / "a.tar", {"0.png": picture(1)}), tmp_path / "cache")
    monkeypatch.setattr(shards, "KEEP_SECONDS", -1.0)
    read(pack(tmp_path / "b.tar", {"0.png": picture(2)}), tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 1


# ---- Parquet ---------------------------------------------------------------------------------------------------------


def table(path: Path, columns: dict[str, list[object]]) -> Path:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


def test_parquet_of_the_hub(tmp_path):
    """As `datasets` writes images: a struct of bytes and path; in data/, in several shards."""
    for number in range(2):
        rows = [{"bytes": picture(10 * number + i, ".jpg"), "path": f"{i}.jpg"} for i in range(2)]
        name = f"train-0000{number}-of-00002.parquet"
        table(tmp_path / "data" / name, {"image": rows, "text": [f"a cat {number}", None]})
    found, rows = read(tmp_path, tmp_path / "cache")
    assert [caption for _, caption, _ in rows] == ["a cat 0", "a thing", "a cat 1", "a thing"]
    assert found.layout == "Parquet, 2 shards" and all(name.endswith(".jpg") for name, *_ in rows)


def test_parquet_of_bytes_and_of_paths(tmp_path):
    plain = table(tmp_path / "a.parquet", {"jpg": [picture(1), b"", picture(2)], "caption": ["x", "y", "z"]})
    found, rows = read(plain, tmp_path / "cache")
    assert [row[1] for row in rows] == ["x", "z"] and "picture 2 is of no known format" in found.notes[0]
    save_picture(tmp_path / "p" / "one.png", 3)
    named = table(tmp_path / "p" / "b.parquet", {"file_name": ["one.png", "gone.png"], "text": ["1", "2"]})
    assert [row[1] for row in read(named, tmp_path / "cache")[1]] == ["1"]
    for name in ("../secret.png", "/etc/passwd", "https://example.com/a.png"):
        bad = table(tmp_path / "p" / "c.parquet", {"file_name": [name]})
        with pytest.raises(GessoError, match=r"not in its folder\. gesso downloads nothing"):
            read(bad, tmp_path / "cache")


def test_parquet_that_is_none(tmp_path, monkeypatch):
    (tmp_path / "x.parquet").write_bytes(b"PAR1 nothing")
    pytest.importorskip("pyarrow")
    with pytest.raises(GessoError, match="not a readable Parquet file"):
        read(tmp_path / "x.parquet", tmp_path / "cache")
    with pytest.raises(GessoError, match=r"no column of pictures among label"):
        read(table(tmp_path / "y.parquet", {"label": [1]}), tmp_path / "cache")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(GessoError, match=r"needs pyarrow.*gesso\[parquet\]") as error:
        read(tmp_path / "x.parquet", tmp_path / "cache")
    assert error.value.code == "missing_extra"
