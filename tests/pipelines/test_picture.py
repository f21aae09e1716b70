"""A picture saves and shows itself, with its recipe inside."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from gesso.errors import GessoError
from gesso.pictures.picture_file import read_recipe
from gesso.pipelines.picture import Picture
from made_recipes import make_recipe


@pytest.fixture
def picture() -> Picture:
    return Picture(image=Image.effect_noise((24, 16), 40).convert("RGB"), recipe=make_recipe())


@pytest.mark.parametrize("ending", [".png", ".jpg", ".jpeg", ".webp", ".avif", ".PNG"])
def test_the_ending_says_the_format_and_the_recipe_is_inside(picture: Picture, tmp_path: Path, ending: str):
    path = picture.save(tmp_path / f"a{ending}")
    with Image.open(path) as image:
        assert (image.format, image.size) == ("JPEG" if "j" in ending else ending[1:].upper(), (24, 16))
    assert read_recipe(path).request == picture.recipe.request


def test_a_picture_is_saved_over_another_only_where_that_is_wanted(picture: Picture, tmp_path: Path):
    path = tmp_path / "a.png"
    path.write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        picture.save(path, overwrite=False)
    assert path.read_bytes() == b"mine"
    picture.save(str(path))
    assert path.read_bytes() != b"mine"
    assert [other.name for other in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("name", ["a.gif", "a", "png"])
def test_another_ending_is_an_error_that_names_the_formats(picture: Picture, tmp_path: Path, name: str):
    with pytest.raises(GessoError, match=r"\.png, \.jpg") as caught:
        picture.save(tmp_path / name)
    assert (caught.value.code, list(tmp_path.iterdir())) == ("unsupported", [])


def test_a_notebook_shows_the_picture_as_a_png_that_carries_its_recipe(picture: Picture, tmp_path: Path):
    shown = picture._repr_png_()
    with Image.open(io.BytesIO(shown)) as image:
        assert image.convert("RGB").tobytes() == picture.image.tobytes()
    (tmp_path / "shown.png").write_bytes(shown)
    assert read_recipe(tmp_path / "shown.png").request.seed == picture.seed


def test_its_text_is_one_line(picture: Picture):
    request = replace(picture.recipe.request, prompt="a cat\non a mat" * 50)
    text = repr(replace(picture, recipe=replace(picture.recipe, request=request)))
    assert "\n" not in text
    assert "24x16" in text
    assert f"seed {picture.seed}" in text
    assert len(text) < 250
