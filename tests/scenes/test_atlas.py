"""The file that stands in for the font: exact, bound to its table, and refused where it is not what it says."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from gesso.errors import GessoError
from gesso.scenes.glyphs import ATLAS_KEY, load_atlas, save_atlas
from gesso.scenes.vocabulary import things

OBJECTS = things()[:40]  # two rows of the sheet, the second not full


@pytest.fixture(scope="module")
def glyphs():
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, 4, (len(OBJECTS), 128, 128, 4), dtype=np.uint8)
    drawn[:, :64, :64] = 200
    return drawn


@pytest.fixture(scope="module")
def written(tmp_path_factory, glyphs):
    """Compressed once: that takes a third of a second."""
    path = tmp_path_factory.mktemp("atlas") / "atlas.png"
    save_atlas(path, glyphs, OBJECTS)
    assert list(path.parent.iterdir()) == [path]
    return path


@pytest.fixture
def atlas(tmp_path, written):
    return shutil.copy(written, tmp_path / "atlas.png")


def rewrite(path, *, note=None, size=None, mode="RGBA", key=ATLAS_KEY):
    """The same file with something changed."""
    with Image.open(path) as picture:
        old = picture.info[ATLAS_KEY]
        size = size or picture.size
    info = PngInfo()
    info.add_text(key, old if note is None else note)
    Image.new(mode, size).save(path, pnginfo=info)


def test_an_atlas_comes_back_to_the_bit(atlas, glyphs):
    """Colours under no alpha too: the values are premultiplied and nothing may touch them."""
    assert np.array_equal(load_atlas(atlas, OBJECTS), glyphs)


def test_another_table_is_told(atlas):
    for other in (OBJECTS[:-1], (*OBJECTS[1:], OBJECTS[0])):
        with pytest.raises(GessoError, match=r"an atlas of 40 objects, hash \w{12}, expected .*gesso train atlas"):
            load_atlas(atlas, other)


def test_what_is_no_atlas_is_told(tmp_path, atlas):
    with pytest.raises(GessoError, match=r"nowhere\.png: the atlas cannot be read .*gesso train atlas"):
        load_atlas(tmp_path / "nowhere.png", OBJECTS)
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(GessoError, match=r"text\.png: the atlas cannot be read"):
        load_atlas(tmp_path / "text.png", OBJECTS)
    rewrite(atlas, key="other")
    with pytest.raises(GessoError, match="a PNG, but not an atlas"):
        load_atlas(atlas, OBJECTS)


@pytest.mark.parametrize("note", ["", "[]", "{", "null", json.dumps({"objects": {"a": [1] * 50}}), "1" * 5000])
def test_a_note_that_is_none_is_told(atlas, note):
    rewrite(atlas, note=note)
    with pytest.raises(GessoError, match=r"atlas"):
        load_atlas(atlas, OBJECTS)


def test_a_picture_of_another_size_is_not_unpacked(atlas, monkeypatch):
    rewrite(atlas, size=(4096, 384))
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("unpacked"))
    with pytest.raises(GessoError, match="RGBA of 4096 x 384, expected RGBA of 4096 x 256"):
        load_atlas(atlas, OBJECTS)


def test_other_channels_are_told(atlas):
    rewrite(atlas, mode="RGB")
    with pytest.raises(GessoError, match="RGB of 4096 x 256"):
        load_atlas(atlas, OBJECTS)


@pytest.mark.parametrize("cut", [40, 2000, -2000])
def test_a_cut_off_file_is_told(atlas, cut):
    atlas.write_bytes(atlas.read_bytes()[:cut])
    with pytest.raises(GessoError, match="the atlas cannot be read"):
        load_atlas(atlas, OBJECTS)


def test_a_picture_bomb_is_told(atlas, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(GessoError, match="the atlas cannot be read"):
        load_atlas(atlas, OBJECTS)


def test_a_place_that_cannot_be_written_is_told(tmp_path, glyphs):
    with pytest.raises(GessoError, match="cannot be written"):
        save_atlas(tmp_path / "no" / "folder.png", glyphs, OBJECTS)
