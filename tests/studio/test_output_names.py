"""From --output to a free path."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gesso.errors import GessoError
from gesso.studio.output_names import clean, fill, plan
from made_recipes import make_recipe


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def names(output: str | None, count: int = 1, index: int = 0) -> list[str]:
    """The names of `count` pictures saved one after the other."""
    planned = plan(output, num_images=count, first_index=index)
    return [str(planned.save(b"x", make_recipe(first_index=index + i))) for i in range(count)]


def test_the_default_counts_on_and_overwrites_nothing():
    assert names(None) == ["outputs/gesso-5.png"]
    assert names(None) == ["outputs/gesso-5_2.png"]
    assert names(None) == ["outputs/gesso-5_3.png"]
    assert names(None, 2) == ["outputs/gesso-5-0.png", "outputs/gesso-5-1.png"]


def test_a_folder_is_made_and_filled():
    assert names("a/b/") == ["a/b/gesso-5.png"]
    assert names("a/b") == ["a/b/gesso-5_2.png"]
    assert names("new") == ["new/gesso-5.png"]


def test_a_folder_whose_name_looks_like_a_pattern_is_taken_literally():
    Path("{odd}.png").mkdir()
    assert names("{odd}.png") == ["{odd}.png/gesso-5.png"]


def test_one_name_for_one_picture_is_exact():
    assert names("x.png") == ["x.png"]
    with pytest.raises(GessoError, match="already exists"):
        plan("x.png", num_images=1)
    assert str(plan("x.png", num_images=1, overwrite=True).save(b"new", make_recipe())) == "x.png"
    assert Path("x.png").read_bytes() == b"new"


def test_a_name_taken_while_the_picture_was_drawn_is_not_overwritten():
    planned = plan("x.png", num_images=1)
    Path("x.png").write_bytes(b"mine")
    with pytest.raises(GessoError, match="already exists"):
        planned.save(b"new", make_recipe())
    assert Path("x.png").read_bytes() == b"mine"


def test_several_pictures_get_their_index():
    assert names("x.png", 2) == ["x-0.png", "x-1.png"]
    assert names("{index:03}.PNG", 2, index=9) == ["009.PNG", "010.PNG"]


def test_patterns_are_filled():
    recipe = make_recipe(prompt="A red car / ../x")
    assert fill("{seed}_{width}x{height}_{steps}_{guidance}_{sampler}", recipe) == "5_64x64_20_4_dpmpp_2m"
    assert fill("{prompt}-{model}-{model_hash}", recipe) == "A-red-car-x-gesso-mini-0123456789"
    assert fill("{{{seed:06}}}", recipe) == "{000005}"


@pytest.mark.parametrize("pattern", ["{sed}.png", "{seed.png", "}.png", "{}.png", "{seed.real}.png", "{seed!r}.png"])
def test_a_pattern_that_cannot_be_is_refused_before_the_work(pattern: str):
    with pytest.raises(GessoError, match=r"field|brace"):
        plan(pattern, num_images=1)


@pytest.mark.parametrize("output", ["x.gif", "", " ", "a\0b", "x.tiff"])
def test_other_endings_are_refused(output: str):
    with pytest.raises(GessoError):
        plan(output, num_images=1)


def test_a_place_that_takes_no_files_is_refused_before_the_work():
    Path("file").write_bytes(b"")
    with pytest.raises(GessoError, match="is a file"):
        plan("file/x.png", num_images=1)
    with pytest.raises(GessoError, match="cannot write into"):
        plan("/proc/x.png", num_images=1)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused():
    Path("closed").mkdir(mode=0o500)
    with pytest.raises(GessoError, match="Permission"):
        plan("closed/x.png", num_images=1)


def test_planning_leaves_nothing_behind():
    plan("deep/er/{prompt}.png", num_images=1)
    assert list(Path().iterdir()) == []


@given(st.text())
def test_no_prompt_leaves_its_folder_or_breaks_the_name(text: str):
    name = clean(text)
    assert name
    assert os.path.basename(name) == name
    assert not name.startswith((".", "-"))
    assert len(name.encode()) <= 80
    assert "\0" not in name


@given(st.text(min_size=100, max_size=300))
def test_long_patterns_give_names_that_a_file_system_takes(text: str):
    planned = plan("{prompt}{prompt}{prompt}{prompt}.png", num_images=1)
    path = next(planned.candidates(make_recipe(prompt=text.replace("\0", "").encode(errors="ignore").decode())))
    assert len(path.name.encode()) <= 255
    assert path.suffix == ".png"


KINDS = {None: "PNG", "x.JPG": "JPEG", "a/{seed}.jpeg": "JPEG", "x.webp": "WEBP", "x.avif": "AVIF"}


@pytest.mark.parametrize("output", KINDS)
def test_the_ending_says_the_format(output: str | None):
    assert plan(output, num_images=1).format == KINDS[output]
