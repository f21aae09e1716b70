"""What is seen of pictures before a training: sizes, masks, oddities, duplicates."""

import numpy as np
import pytest
from PIL import Image

from gesso.errors import GessoError
from gesso.tuning.buckets import BucketRules
from gesso.tuning.conditions import sizes_of
from gesso.tuning.dataset import Defaults
from gesso.tuning.reading import read_dataset
from gesso.tuning.survey import bucket_counts, framed, read_example, survey
from tuning.made import save_picture

RULES = BucketRules(resolution=(64, 64), low=32, high=128, step=16)


def looked(folder, **options):
    return survey(read_dataset(folder, Defaults()), RULES, **options)


def test_odd_pictures_are_read_and_named(tmp_path):
    picture = Image.open(save_picture(tmp_path / "plain.png", 1, (80, 80)))
    picture.convert("CMYK").save(tmp_path / "printed.jpg")
    Image.fromarray((np.arange(6400).reshape(80, 80) * 10).astype(np.uint16)).save(tmp_path / "deep.png")
    picture.save(tmp_path / "moving.gif", save_all=True, append_images=[picture.rotate(90)])
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    save_picture(tmp_path / "x.png", 5, (120, 60))
    Image.open(tmp_path / "x.png").convert("RGB").save(tmp_path / "turned.jpg", exif=exif)
    (tmp_path / "x.png").unlink()
    (tmp_path / "torn.png").write_bytes((tmp_path / "plain.png").read_bytes()[:200])
    (tmp_path / "text.jpg").write_text("no picture")
    found = looked(tmp_path)
    names = {one.example.path.name: one for one in found.found}
    assert names.keys() == {"plain.png", "printed.jpg", "deep.png", "moving.gif", "turned.jpg"}
    assert names["turned.jpg"].size == (60, 120) and names["turned.jpg"].framing.bucket == (48, 80)
    assert [[path.name for path in group] for group in (found.cmyk, found.deep, found.animated)] == [
        ["printed.jpg"],
        ["deep.png"],
        ["moving.gif"],
    ]
    assert {path.name for path, _ in found.unreadable} == {"torn.png", "text.jpg"}
    for one in found.found:
        assert read_example(one.example)[0].mode == "RGB"


def test_a_picture_that_claims_too_much_is_left_out(tmp_path):
    save_picture(tmp_path / "a.png", 1)
    Image.new("1", (17_000, 8)).save(tmp_path / "wide.png")
    ((path, reason),) = looked(tmp_path).unreadable
    assert path.name == "wide.png" and "expected at most" in reason


def test_where_nothing_can_be_read(tmp_path):
    (tmp_path / "a.png").write_text("x")
    with pytest.raises(GessoError, match=r"No picture of the data set can be read"):
        looked(tmp_path)


def test_twins_and_pictures_that_look_the_same(tmp_path):
    one = Image.open(save_picture(tmp_path / "a.png", 1, (200, 200)))
    (tmp_path / "copy.png").write_bytes((tmp_path / "a.png").read_bytes())
    one.resize((150, 150), Image.Resampling.LANCZOS).save(tmp_path / "again.jpg", quality=70)
    for seed in range(2, 8):
        save_picture(tmp_path / f"{seed}.png", seed, (200, 200))
    for name, colour in (("flat", "red"), ("flat2", "blue")):
        picture = Image.new("RGB", (100, 100), colour)
        picture.paste("white", (40, 40, 60, 60))
        picture.save(tmp_path / f"{name}.png")
    found = looked(tmp_path)
    assert [[path.name for path in group] for group in found.twins] == [["a.png", "copy.png"]]
    assert [sorted(path.name for path in group) for group in found.alike] == [["a.png", "again.jpg", "copy.png"]]


def test_masks_from_a_file_and_from_transparency(tmp_path):
    picture = Image.open(save_picture(tmp_path / "a.png", 1, (64, 64)))
    mask = Image.new("L", (128, 128))
    mask.paste(255, (0, 0, 64, 128))
    mask.save(tmp_path / "a-masklabel.png")
    clear = picture.convert("RGBA")
    clear.putalpha(mask.resize((64, 64)))
    clear.save(tmp_path / "b.png")
    save_picture(tmp_path / "c.png", 2, (64, 64))
    save_picture(tmp_path / "d.png", 2, (64, 32))
    mask.save(tmp_path / "d-masklabel.png")
    found = looked(tmp_path)
    assert [(one.example.path.name, one.has_mask) for one in found.found] == [
        ("a.png", True),
        ("b.png", True),
        ("c.png", False),
    ]
    assert "Make them the same size" in found.unreadable[0][1]
    for one in found.found[:2]:
        levels = np.asarray(read_example(one.example)[1])
        assert levels[:, :30].min() == 255 and levels[:, 34:].max() == 0
    image, _ = read_example(found.found[1].example)
    assert np.asarray(image)[:, 34:].min() == 255  # what is transparent is white
    assert not any(one.has_mask for one in looked(tmp_path, masks=False).found)


def test_framed_pictures_and_what_sdxl_is_told_of_them(tmp_path):
    """A wide picture with one white column: where it lands, mirrored or not, and the crop that is told."""
    levels = np.zeros((64, 160, 3), np.uint8)
    levels[:, 52] = 255
    Image.fromarray(levels).save(tmp_path / "a.png")
    rules = BucketRules(resolution=(64, 64), enabled=False, low=64, high=64, step=64)
    (one,) = survey(read_dataset(tmp_path, Defaults()), rules).found
    assert (one.framing.scaled, one.framing.left, one.framing.top) == ((160, 64), 48, 0)
    image, _ = read_example(one.example)
    plain, mirrored = (np.asarray(framed(image, one.framing, flip=flip)) for flip in (False, True))
    assert plain.shape == (64, 64, 3) and plain[0, 4, 0] == 255 and mirrored[0, 59, 0] == 255
    told = sizes_of(one, flip=False)
    assert (told.original, told.crop, told.target) == ((64, 160), (0, 48), (64, 64))


def test_counts_and_scale(tmp_path):
    """A model whose VAE makes a quarter of the picture: buckets are told in finished pixels."""
    save_picture(tmp_path / "3_cat" / "a.png", 1, (64, 64))
    save_picture(tmp_path / "3_cat" / "b.png", 2, (20, 20))
    found = looked(tmp_path, scale=4)
    assert [one.framing.bucket for one in found.found] == [(16, 16), (16, 16)]
    assert bucket_counts(found.found) == {(64, 64): 6}
    assert [one.example.path.name for one in found.enlarged] == ["b.png"]


def test_the_fingerprint_follows_pictures_and_captions(tmp_path):
    save_picture(tmp_path / "a.png", 1)
    prints = [looked(tmp_path).fingerprint]
    (tmp_path / "a.txt").write_text("a cat")
    prints.append(looked(tmp_path).fingerprint)
    save_picture(tmp_path / "a.png", 2)
    prints.append(looked(tmp_path).fingerprint)
    prints.append(looked(tmp_path, masks=False).fingerprint)
    assert len(set(prints[:3])) == 3 and prints[3] == prints[2]
