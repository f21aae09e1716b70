"""The cache of latents: what it gives is what the VAE gives, and nothing old is ever given."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from gesso.errors import GessoError
from gesso.tuning.buckets import BucketRules
from gesso.tuning.dataset import Defaults
from gesso.tuning.latents import LatentCache, encode_all
from gesso.tuning.reading import read_dataset
from gesso.tuning.survey import framed, read_example, survey
from tiny_sd import tiny_parts
from tuning.made import save_picture

RULES = BucketRules(resolution=(64, 64), low=32, high=128, step=16)


@pytest.fixture
def vae():
    return copy.deepcopy(tiny_parts().vae)


def look(folder, **defaults):
    return survey(read_dataset(folder, Defaults(**defaults)), RULES).found


def test_latents_are_those_of_the_framed_picture(vae, tmp_path):
    save_picture(tmp_path / "in" / "a.png", 1, (100, 70))
    (one,) = look(tmp_path / "in")
    for flip in (False, True):
        pixels = np.asarray(framed(read_example(one.example)[0], one.framing, flip=flip))
        expected = vae.encode(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1)
        for _ in range(2):  # made, and read from the disk
            found = LatentCache(vae, tmp_path / "cache")(one, flip)
            assert torch.allclose(found.mean, expected.mean[0], atol=1e-5)
            assert torch.allclose(found.std, expected.std[0], atol=1e-5)
            assert found.mask is None


def test_everything_that_changes_latents_makes_new_ones(vae, tmp_path):
    save_picture(tmp_path / "in" / "a.png", 1, (100, 70))
    folder = tmp_path / "cache"

    def count(vae=vae, flip=False, **changes):
        cache = LatentCache(vae, folder)
        one = replace(look(tmp_path / "in")[0], **changes)
        cache(one, flip)
        return cache.encoded

    assert [count(), count()] == [1, 0]
    assert [count(flip=True), count(flip=True)] == [1, 0]
    framing = look(tmp_path / "in")[0].framing
    assert count(framing=replace(framing, left=framing.left + 1)) == 1
    other = copy.deepcopy(vae)
    with torch.no_grad():
        next(other.parameters()).flatten()[0] += 0.1
    assert [count(other), count(other)] == [1, 0]
    assert count(copy.deepcopy(vae).double()) == 1
    (tmp_path / "in" / "a.txt").write_text("a caption changes nothing")
    assert count() == 0
    save_picture(tmp_path / "in" / "a.png", 2, (100, 70))
    assert count() == 1


def test_a_damaged_file_is_made_again(vae, tmp_path):
    save_picture(tmp_path / "in" / "a.png", 1)
    (one,) = look(tmp_path / "in")
    first = LatentCache(vae, tmp_path / "cache")(one, False)
    (path,) = (tmp_path / "cache").rglob("*.safetensors")
    for damage in (b"", path.read_bytes()[:-10], b"x" * 500):
        path.write_bytes(damage)
        cache = LatentCache(vae, tmp_path / "cache")
        assert torch.equal(cache(one, False).mean, first.mean) and cache.encoded == 1
    assert [one.name for one in (tmp_path / "cache").rglob("*") if one.is_file()] == [path.name]


def test_the_cache_stays_within_its_limit(vae, tmp_path):
    for seed in range(6):
        save_picture(tmp_path / "old" / f"{seed}.png", seed)
        save_picture(tmp_path / "new" / f"{seed}.png", 10 + seed)
    folder = tmp_path / "cache"
    encode_all(LatentCache(vae, folder), look(tmp_path / "old"))
    size = next(folder.rglob("*.safetensors")).stat().st_size
    cache = LatentCache(vae, folder, limit=3 * size)
    found = look(tmp_path / "new")
    encode_all(cache, found)
    assert len(list(folder.rglob("*.safetensors"))) == 6  # this run's stay, whatever the limit
    assert LatentCache(vae, folder)(found[0], False) and cache.encoded == 6


def test_masks_become_shares_of_places(vae, tmp_path):
    save_picture(tmp_path / "in" / "a.png", 1, (64, 64))
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 28, 64))
    mask.save(tmp_path / "in" / "a-masklabel.png")
    (one,) = look(tmp_path / "in")
    expected = torch.tensor([1, 1, 1, 0.5, 0, 0, 0, 0]).expand(1, 8, 8)
    for _ in range(2):
        assert torch.allclose(LatentCache(vae, tmp_path / "cache")(one, False).mask, expected)
    assert torch.allclose(LatentCache(vae, None)(one, True).mask, expected.flip(-1))


def test_both_sides_of_pictures_that_are_flipped(vae, tmp_path):
    save_picture(tmp_path / "in" / "a.png", 1)
    save_picture(tmp_path / "in" / "reg" / "b.png", 2)
    seen = []
    encoded = encode_all(
        LatentCache(vae, None), look(tmp_path / "in", flip=True), on_picture=lambda done, of: seen.append((done, of))
    )
    assert encoded.keys() == {(0, False), (0, True), (1, False), (1, True)}
    assert seen[-1] == (4, 4)


def test_a_picture_that_changed_and_a_folder_that_cannot_be_written(vae, tmp_path):
    save_picture(tmp_path / "in" / "a.png", 1)
    (one,) = look(tmp_path / "in")
    (tmp_path / "file").touch()
    with pytest.raises(GessoError, match="latents cannot be kept"):
        LatentCache(vae, tmp_path / "file")(one, False)
    save_picture(tmp_path / "in" / "a.png", 1, (64, 32))
    with pytest.raises(GessoError, match=r"changed since it was looked at\. Start again"):
        LatentCache(vae, None)(one, False)
