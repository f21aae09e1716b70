"""The file of drawings: there and back, and what does not belong."""

import json
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image, ImageDraw
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from gesso.errors import GessoError
from gesso.world.drawings import NOTE_KEY, Drawings, centred, load_drawings, save_drawings
from gesso.world.objects import Thing
from gesso.world.scene import LOOKS

OBJECTS = tuple(Thing(glyph, name, f"{name}s") for glyph, name in zip("🐈🐕🚗", ("cat", "dog", "car"), strict=True))
SIZE = 48


def drawn(shade: int, box: tuple[int, int, int, int]) -> np.ndarray:
    picture = Image.new("RGBA", (128, 128))
    ImageDraw.Draw(picture).ellipse(box, fill=(shade, 255 - shade, 60, 255))
    return centred(picture, SIZE)


@pytest.fixture
def drawings() -> Drawings:
    pixels = np.stack(
        [[drawn(40 * row + 9 * look, (10, 20, 90, 100)) for row in range(3)] for look in range(len(LOOKS))]
    )
    present = np.ones(pixels.shape[:2], dtype=bool)
    present[2, 1] = False
    return Drawings(pixels, present)


@pytest.fixture
def path(tmp_path, drawings):
    save_drawings(tmp_path / "drawings.gesso", drawings, OBJECTS)
    return tmp_path / "drawings.gesso"


def rewritten(path, change=lambda tensors: None, **note):
    """The file with other tensors and another note."""
    with safe_open(path, framework="numpy") as file:
        found = json.loads(file.metadata()[NOTE_KEY])
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {NOTE_KEY: json.dumps(found | note)})
    return path


def test_a_drawing_is_cropped_to_its_ink_and_put_in_the_middle():
    pixels = drawn(200, (30, 50, 70, 69))
    rows, columns = np.flatnonzero(pixels[..., 3].any(1)), np.flatnonzero(pixels[..., 3].any(0))
    assert (columns[0], columns[-1]) == (0, SIZE - 1)
    assert abs(rows[0] - (SIZE - 1 - rows[-1])) <= 1 and len(rows) < 0.6 * SIZE
    assert (pixels[..., :3] <= pixels[..., 3:]).all()


def test_nothing_drawn_is_refused():
    with pytest.raises(ValueError, match="nothing"):
        centred(Image.new("RGBA", (64, 64)), SIZE)


def test_there_and_back(path, drawings):
    loaded = load_drawings(path, OBJECTS)
    assert loaded.size == SIZE
    assert (loaded.present == drawings.present).all()
    assert (loaded.pixels[..., 3][drawings.present] == drawings.pixels[..., 3][drawings.present]).all()
    error = loaded.pixels[drawings.present].astype(float) - drawings.pixels[drawings.present]
    assert np.sqrt((error**2).mean()) < 6
    assert (loaded.pixels[2, 1] == loaded.pixels[0, 1]).all()  # the first look stands in


def test_drawings_are_scaled_down(path):
    half, whole = load_drawings(path, OBJECTS, 24), load_drawings(path, OBJECTS)
    assert half.pixels.shape == (len(LOOKS), 3, 24, 24, 4)
    means = whole.pixels.reshape(*whole.pixels.shape[:2], 24, 2, 24, 2, 4).mean((3, 5))
    assert np.abs(half.pixels - means).mean() < 4
    assert (half.pixels[..., :3] <= half.pixels[..., 3:]).all()


def test_larger_than_stored_is_refused(path):
    with pytest.raises(GessoError, match="asks for more"):
        load_drawings(path, OBJECTS, 64)
    with pytest.raises(ValueError, match="size 0"):
        load_drawings(path, OBJECTS, 0)


def test_wrong_shapes_are_not_saved(tmp_path, drawings):
    with pytest.raises(ValueError, match="expected"):
        save_drawings(tmp_path / "a", drawings, OBJECTS[:2])
    lacking = Drawings(drawings.pixels, drawings.present & False)
    with pytest.raises(ValueError, match="lacks"):
        save_drawings(tmp_path / "a", lacking, OBJECTS)


def test_another_table_is_refused(path):
    with pytest.raises(GessoError, match="hash"):
        load_drawings(path, OBJECTS[::-1])
    with pytest.raises(GessoError, match="expected 2 objects"):
        load_drawings(path, OBJECTS[:2])


def test_a_missing_file_says_how_to_make_it(tmp_path):
    with pytest.raises(GessoError, match="make_world") as caught:
        load_drawings(tmp_path / "none", OBJECTS)
    assert caught.value.code == "missing"


@pytest.mark.parametrize("cut", [0, 5, 100, -200, -1])
def test_a_cut_file_is_refused(path, cut):
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(GessoError):
        load_drawings(path, OBJECTS)


def test_flipped_bytes_are_refused_or_give_a_picture(path):
    data, generator = path.read_bytes(), np.random.default_rng(0)
    for _ in range(60):
        changed = bytearray(data)
        for place in generator.integers(0, len(data), 4):
            changed[place] ^= int(generator.integers(1, 256))
        path.write_bytes(changed)
        with suppress(GessoError):
            assert load_drawings(path, OBJECTS).pixels.shape == (len(LOOKS), 3, SIZE, SIZE, 4)


@pytest.mark.parametrize(
    "note", [{"size": 100_000}, {"size": True}, {"size": "48"}, {"size": 64}, {"version": 9}, {"hash": 3}]
)
def test_a_wrong_note_is_refused(path, note):
    with pytest.raises(GessoError):
        load_drawings(rewritten(path, **note), OBJECTS)


def test_other_safetensors_are_refused(tmp_path):
    save_file({"weight": np.zeros(3, dtype=np.float32)}, tmp_path / "model")
    with pytest.raises(GessoError, match="not a file of drawings"):
        load_drawings(tmp_path / "model", OBJECTS)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors.pop("3d"),
        lambda tensors: tensors.update(noto=tensors["noto"].astype(np.int16)),
        lambda tensors: tensors.update(noto=tensors["noto"][:-1].copy()),
        lambda tensors: tensors.update({"flat.ends": tensors["flat.ends"][::-1].copy()}),
        lambda tensors: tensors.update({"flat.ends": -tensors["flat.ends"]}),
        lambda tensors: tensors.update({"noto.ends": tensors["noto.ends"] * np.array([0, 1, 1])}),
    ],
)
def test_damaged_tensors_are_refused(path, change):
    with pytest.raises(GessoError):
        load_drawings(rewritten(path, change), OBJECTS)


@pytest.mark.parametrize("lossless", [False, True])
def test_a_picture_of_another_size_is_not_unpacked(path, tmp_path, lossless, monkeypatch):
    Image.new("RGBA", (4000, 4000), (255, 0, 0, 100)).save(tmp_path / "bomb", "WEBP", lossless=lossless)
    bomb = np.fromfile(tmp_path / "bomb", dtype=np.uint8)

    def change(tensors):
        tensors["noto"], tensors["noto.ends"] = np.concatenate([bomb] * 3), np.arange(1, 4) * len(bomb)

    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("it was opened"))
    with pytest.raises(GessoError, match="expected 48 x 48"):
        load_drawings(rewritten(path, change), OBJECTS)
