"""Names of a request's files among what was given, what gesso carries, and the library."""

from pathlib import Path

import pytest

from gesso.checkpoints.hashing import hash_file
from gesso.errors import GessoError
from gesso.library.finder import LibraryFinder
from gesso.request.embedded import embedded_extras
from gesso.request.finder import NamedFiles
from gesso.request.recipe import ExtraFile
from library import shelf


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder in the manner of A1111."""
    base = tmp_path / "webui"
    shelf.checkpoint(base / "models" / "Stable-diffusion" / "base.safetensors")
    shelf.lora(base / "models" / "Lora" / "styles" / "Ink Wash.safetensors", {"ss_output_name": "ink_v2"})
    shelf.lora(base / "models" / "Lora" / "pixel.safetensors")
    shelf.embedding(base / "embeddings" / "EasyNegative.safetensors")
    return base


@pytest.fixture
def finder(tmp_path: Path, folder: Path) -> LibraryFinder:
    library = shelf.library_at(tmp_path)
    library.add_folder(folder)
    return LibraryFinder(library)


def test_names_are_those_of_files_in_any_case(finder: LibraryFinder, folder: Path):
    path = folder / "models" / "Lora" / "styles" / "Ink Wash.safetensors"
    for name in ("Ink Wash", "ink wash", "INK WASH", "styles/Ink Wash", "ink_v2"):
        assert finder.find("lora", name) == path
    assert finder.find("embedding", "easynegative") == folder / "embeddings" / "EasyNegative.safetensors"
    assert {"Ink Wash", "pixel"} <= set(finder.names("lora"))
    assert "EasyNegative" in finder.names("embedding")
    assert set(finder.names("control")) == {"gesso-edges"}, "what gesso carries, and none of the other kinds"


def test_a_lora_of_the_user_comes_before_the_built_in_one_of_its_name(finder: LibraryFinder, folder: Path):
    builtin = finder.find("lora", "comic")
    assert builtin == embedded_extras("lora")["comic"]
    shelf.checkpoint(folder / "models" / "Stable-diffusion" / "woodcut.safetensors")
    own = shelf.lora(folder / "models" / "Lora" / "Comic.safetensors")
    again = LibraryFinder(finder.library)
    assert again.find("lora", "comic") == own
    assert again.find("lora", "woodcut") == embedded_extras("lora")["woodcut"], "a checkpoint of the name is no LoRA"
    own.unlink()
    assert again.find("lora", "comic") == builtin


def test_files_by_name_leave_the_built_in_ones(tmp_path: Path):
    files = NamedFiles({"lora": {"ink": tmp_path / "ink.safetensors", "comic": tmp_path / "mine.safetensors"}})
    assert set(files.names("lora")) == {"ink", "comic", "few-steps", "woodcut"}
    assert files.find("lora", "woodcut") == embedded_extras("lora")["woodcut"]
    assert files.find("lora", "comic") == tmp_path / "mine.safetensors"
    alone = NamedFiles({"lora": {"ink": tmp_path / "ink.safetensors"}}, builtin=False)
    with pytest.raises(GessoError, match="no LoRA named 'woodcut'"):
        alone.find("lora", "woodcut")


def test_what_is_given_comes_first(finder: LibraryFinder, tmp_path: Path):
    own = LibraryFinder(finder.library, {"lora": {"Pixel": tmp_path / "mine.safetensors"}})
    assert own.find("lora", "pixel") == tmp_path / "mine.safetensors"


@pytest.mark.parametrize(
    "name",
    ["nosuch", "../../../etc/passwd", "/etc/passwd", "./pixel.safetensors", "C:\\x", "..", "a\0b", "", "%2e%2e/x", "*"],
)
def test_an_unknown_name_is_an_error_and_no_path_is_opened(
    finder: LibraryFinder, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shelf.lora(tmp_path / "here" / "pixel.safetensors")
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(GessoError, match="no LoRA named"):
        finder.find("lora", name)


def test_a_close_name_is_named_and_one_of_another_kind_too(finder: LibraryFinder):
    with pytest.raises(GessoError, match=r"Did you mean 'pixel'\?"):
        finder.find("lora", "pixle")
    with pytest.raises(GessoError, match="is a checkpoint"):
        finder.find("lora", "base")


def test_what_comes_later_is_found(finder: LibraryFinder, folder: Path):
    """A long-lived program sees new files, under the names of old ones too, and reads the others no second time."""
    loras = folder / "models" / "Lora"
    finder.find("lora", "pixel")
    with pytest.raises(GessoError, match="no LoRA named 'late'"):
        finder.find("lora", "late")
    late = shelf.lora(loras / "late.safetensors", {"ss_output_name": "of_old"})
    assert finder.find("lora", "late") == finder.find("lora", "of_old") == late
    assert "late" in finder.names("lora")
    moved = late.rename(loras / "styles" / late.name)
    assert finder.find("lora", "late") == moved
    moved.unlink()
    with pytest.raises(GessoError, match="no LoRA named 'late'"):
        finder.find("lora", "late")


def test_a_look_is_good_for_its_time(finder: LibraryFinder, folder: Path):
    """Nobody asks for a learned word that is not known: names are looked at anew, but not for every picture."""
    always = LibraryFinder(finder.library, fresh=0)
    kept = LibraryFinder(finder.library, fresh=3600)
    assert "new" not in {*always.names("embedding"), *kept.names("embedding")}
    shelf.embedding(folder / "embeddings" / "new.safetensors")
    assert "new" in always.names("embedding")
    assert "new" not in kept.names("embedding")
    assert kept.find("embedding", "new") in (folder / "embeddings").iterdir()
    assert "new" in kept.names("embedding")


def test_a_recipe_finds_the_very_file_wherever_it_lies(finder: LibraryFinder, folder: Path):
    path = folder / "models" / "Lora" / "pixel.safetensors"
    extra = ExtraFile(kind="lora", name="pixel", sha256=hash_file(path).sha256)
    assert finder.of_recipe(extra) == path
    for entry in finder.library.entries():
        finder.library.hashed(entry)  # hashes are known from now on
    moved = path.rename(path.with_name("renamed.safetensors"))
    again = LibraryFinder(finder.library)
    assert again.of_recipe(extra) in (moved, None)  # a renamed file counts as a new one, which nobody hashed
    other = ExtraFile(kind="lora", name="Ink Wash", sha256="0" * 64)
    assert again.of_recipe(other) is not None  # of that name, though not that very one: the verdict tells
    assert again.of_recipe(ExtraFile(kind="lora", name="gone", sha256="0" * 64)) is None
    assert again.of_recipe(ExtraFile(kind="of a newer version", name="pixel", sha256="0" * 64)) is None
