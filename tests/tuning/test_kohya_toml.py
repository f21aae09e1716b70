"""Data sets in the words of kohya's trainer: what is followed, and what is refused by name."""

import pytest

from gesso.errors import GessoError
from gesso.tuning.dataset import Defaults
from gesso.tuning.reading import read_dataset
from tuning.made import save_picture

WHOLE = """
[general]
shuffle_caption = true
keep_tokens = 1
caption_extension = ".caption"
enable_wildcard = false

[[datasets]]
resolution = [768, 512]
batch_size = 2
enable_bucket = true
min_bucket_reso = 320
bucket_no_upscale = true
validation_split = 0.1

  [[datasets.subsets]]
  image_dir = "dogs"
  class_tokens = "sks dog"
  num_repeats = 10
  flip_aug = true
  caption_dropout_rate = 0.1
  conditioning_data_dir = "masks"

  [[datasets.subsets]]
  image_dir = "other"
  is_reg = true
  shuffle_caption = false

[[datasets]]
resolution = 512
batch_size = 2

  [[datasets.subsets]]
  image_dir = "dogs"
  caption_prefix = "a photo,"
"""


@pytest.fixture
def folder(tmp_path):
    for name in ("dogs/a.png", "dogs/b.png", "other/c.png", "masks/a.png"):
        save_picture(tmp_path / name, 1)
    (tmp_path / "dogs" / "b.caption").write_text("running", encoding="utf-8")
    (tmp_path / "dogs" / "a.txt").write_text("not this one", encoding="utf-8")
    return tmp_path


def read(folder, text):
    (folder / "set.toml").write_text(text, encoding="utf-8")
    return read_dataset(folder / "set.toml", Defaults())


def test_every_key_does_what_it_says(folder):
    found = read(folder, WHOLE)
    dogs, other, again = found.subsets
    assert (dogs.repeats, dogs.flip, dogs.is_reg, dogs.captions.shuffle, dogs.captions.keep) == (
        10,
        True,
        False,
        True,
        1,
    )
    assert dogs.captions.dropout == 0.1 and not dogs.use_alpha
    assert (other.is_reg, other.captions.shuffle, other.repeats) == (True, False, 1)
    assert again.captions.prefix == "a photo," and again.captions.shuffle
    rules = dogs.buckets
    assert (rules.resolution, rules.enabled, rules.low, rules.high, rules.step, rules.upscale) == (
        (768, 512),
        True,
        320,
        1024,
        64,
        False,
    )
    assert (again.buckets.resolution, again.buckets.enabled) == ((512, 512), False)
    assert [(one.path.name, one.caption, one.mask and one.mask.parent.name) for one in found.examples[:2]] == [
        ("a.png", "sks dog", "masks"),
        ("b.png", "running", None),
    ]
    assert (found.batch_size, found.held_share) == (2, 0.1)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("num_repeats = 10", "num_repeat = 10", "unknown key num_repeat. Did you mean num_repeats?"),
        ("num_repeats = 10", "num_repeats = 0", "num_repeats = 0, expected a whole number from 1 to 10000"),
        ("num_repeats = 10", "num_repeats = true", "num_repeats = True, expected a whole number"),
        ("flip_aug = true", "color_aug = true", "color_aug = True, which gesso does not have: colours of cached"),
        ("flip_aug = true", "random_crop = true", "random_crop = True, which gesso does not have"),
        ("flip_aug = true", 'face_crop_aug_range = "1.0,2.0"', "face_crop_aug_range"),
        ("enable_wildcard = false", "enable_wildcard = true", "write one caption a file"),
        ("resolution = 512", 'resolution = "512"', "expected a whole number, or [width, height]"),
        ("min_bucket_reso = 320", "min_bucket_reso = 2000", "min_bucket_reso 2000 is above max_bucket_reso 1024"),
        ("resolution = 512\nbatch_size = 2", "resolution = 512\nbatch_size = 4", "batch_size is 2, 4 in different"),
        ('image_dir = "other"', 'image_dir = "nowhere"', "the folder nowhere does not exist"),
        ('image_dir = "other"', "", "has no image_dir"),
        ("[general]", "[genral]", "unknown key genral. Did you mean general?"),
        ("validation_split = 0.1", "validation_split = 2.0", "expected a number from 0 to 0.9"),
    ],
)
def test_what_is_refused_is_named(old, new, message, folder):
    assert old in WHOLE
    with pytest.raises(GessoError) as error:
        read(folder, WHOLE.replace(old, new))
    assert message in str(error.value)


def test_values_that_ask_for_nothing_are_fine(folder):
    neutral = 'color_aug = false\nrandom_crop = false\nsecondary_separator = ""\ncaption_dropout_every_n_epochs = 0\n'
    text = f'[[datasets]]\nresolution = 64\n[[datasets.subsets]]\nimage_dir = "dogs"\n{neutral}token_warmup_min = 1\n'
    assert len(read(folder, text).examples) == 2
    found = read(folder, text.replace("resolution = 64", "resolution = 64\nvalidation_seed = 3"))
    assert found.notes == (
        "validation_seed has no effect: which pictures are held out follows from the seed of the training",
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rank = 4", "has no [[datasets]]"),
        ("x = [", "is not TOML"),
        ("datasets = 3", "expected tables in double brackets"),
        ("[[datasets]]\nresolution = 64", "has no [[datasets.subsets]]"),
        ('[[datasets]]\nenable_bucket = true\n[[datasets.subsets]]\nimage_dir = "dogs"', "without a resolution"),
    ],
)
def test_what_is_no_data_set(text, message, folder):
    with pytest.raises(GessoError) as error:
        read(folder, text)
    assert message in str(error.value)
