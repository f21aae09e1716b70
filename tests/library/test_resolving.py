"""From what people type to a model."""

from pathlib import Path

import pytest
import torch

from gesso.checkpoints.hashing import sha256_of
from gesso.errors import GessoError
from gesso.library import Library, find_by_hashes, resolve
from gesso.library.builtin import builtin_entries
from gesso.library.importing import import_model
from library import shelf
from tiny_sd import save_tiny_folder


@pytest.fixture(scope="module")
def shelves(tmp_path_factory: pytest.TempPathFactory) -> tuple[Library, Path]:
    """A library with "one", and a folder with "Two", "sub/two", "three", another "one", twins and an adapter."""
    folder = tmp_path_factory.mktemp("shelves")
    library = shelf.library_at(folder)
    import_model(library, shelf.checkpoint(folder / "one.safetensors"))
    root = folder / "webui"
    shelf.checkpoint(root / "models/Stable-diffusion/Two.safetensors", seed=1)
    shelf.checkpoint(root / "models/Stable-diffusion/sub/two.safetensors", seed=2)
    shelf.checkpoint(root / "models/Stable-diffusion/three.safetensors", seed=3)
    for name in ("one", "a/twin", "b/twin"):
        shelf.checkpoint(root / f"models/Stable-diffusion/{name}.safetensors", seed=4)
    shelf.lora(root / "models/Lora/style.safetensors")
    library.add_folder(root)
    library.entries()
    return library, root / "models/Stable-diffusion"


def test_names_in_their_order(shelves: tuple[Library, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    library, folder = shelves
    monkeypatch.chdir(tmp_path)
    assert resolve("gesso-mini", library) == "gesso-mini"
    for name in ("three", "three.safetensors", "THREE", "Stable-diffusion/three", str(folder / "three.safetensors")):
        assert resolve(name, library) == folder / "three.safetensors", name
    assert resolve("sub/two", library) == folder / "sub/two.safetensors"
    assert resolve("two", library) == folder / "sub/two.safetensors"  # case decides between the two
    assert resolve("Two", library) == folder / "Two.safetensors"
    shelf.checkpoint(tmp_path / "three", seed=9)
    assert resolve("three", library) == Path("three")  # a file that is there goes first
    (tmp_path / "Two").mkdir()
    assert resolve("Two", library) == folder / "Two.safetensors"  # an empty folder is no model
    assert resolve(Path("three")) == Path("three")


def test_a_folder_with_one_part_of_a_model_is_a_path(tmp_path: Path):
    """Such as the vae/ of a diffusers folder, for --vae."""
    part = save_tiny_folder(tmp_path / "model") / "vae"
    assert resolve(part, kinds=("vae",)) == part
    (part / "config.json").unlink()
    with pytest.raises(GessoError, match="is a folder without"):
        resolve(part, kinds=("vae",))


def test_hashes_are_names_too(shelves: tuple[Library, Path]):
    library, _ = shelves
    entry = next(entry for entry in library.entries() if entry.name == "one" and entry.origin == "library")
    file = entry.files[0]
    assert file.sha256 and file.autov3
    for digits in (file.sha256[:8], file.sha256[:10].upper(), file.sha256, file.autov3):
        assert resolve(digits, library) == entry.path
    with pytest.raises(GessoError, match="no model, file, folder or hash matches"):
        resolve(file.sha256[:7], library)
    with pytest.raises(GessoError, match="no model, file, folder or hash matches"):
        resolve("0" * 10, library)


def test_a_built_in_model_has_a_hash_too(tmp_path: Path):
    """As recipes and `models info` show it, though no library has hashed it."""
    digest = sha256_of(builtin_entries()[0].path)
    for text in (digest, digest[:10], digest[:8].upper()):
        assert resolve(text, shelf.library_at(tmp_path)) == "gesso-mini"
    with pytest.raises(GessoError, match="no model"):
        resolve("0" * 10, shelf.library_at(tmp_path))


def test_several_of_one_name_are_told_with_their_places(shelves: tuple[Library, Path]):
    library, folder = shelves
    with pytest.raises(GessoError, match="2 models have this name") as caught:
        resolve("TWO", library)
    assert str(folder / "Two.safetensors") in caught.value.message
    assert str(folder / "sub/two.safetensors") in caught.value.message
    with pytest.raises(GessoError, match="2 models"):
        resolve("twin", library)
    for entry in library.entries():
        if entry.name == "twin":
            library.hashed(entry)
    assert Path(resolve("twin", library)).name == "twin.safetensors"  # the same bytes twice: either will do
    assert Path(resolve("one", library)).is_relative_to(library.root)  # before those of a folder


def test_wrong_names_get_advice(shelves: tuple[Library, Path], tmp_path: Path):
    library, _ = shelves
    for name, words in {
        "thre": "Did you mean 'three'",
        "styl": "no model, file, folder or hash matches",
        "style": "is a lora",
        "missing.safetensors": "no such file or folder",
        str(tmp_path): "add-folder",
        "": "empty",
        "a\0b": "NUL",
        "x" * 5000: "cannot be read",
    }.items():
        with pytest.raises(GessoError, match=words):
            resolve(name, library)
    with pytest.raises(GessoError, match="no model, file, folder or hash matches"):
        resolve("three")
    assert Path(resolve("style", library, kinds=("lora",))).name == "style.safetensors"


def test_a_recipe_finds_its_model_by_its_bytes(tmp_path: Path):
    library = shelf.library_at(tmp_path)
    entry = import_model(library, shelf.checkpoint(tmp_path / "a.safetensors"), name="renamed").entry
    digest = str(entry.files[0].sha256)
    assert find_by_hashes([digest], library) == entry
    assert find_by_hashes([digest[:10]], library) == entry
    for wrong in ([], [digest[:7]], ["../a"], ["0" * 64], [digest, "0" * 64]):
        assert find_by_hashes(wrong, library) is None
    other = shelf.checkpoint(tmp_path / "folder/b.safetensors", seed=1)
    library.add_folder(other.parent)
    digest = str(library.hashed(next(e for e in library.entries() if e.name == "b")).files[0].sha256)
    library.index.forget_files([other])
    assert find_by_hashes([digest], library) is None  # nobody hashes a whole disk for it
    found = find_by_hashes([digest], library, name="b.safetensors")
    assert found is not None and found.path == other


def test_a_pytorch_file_is_used_through_its_copy(tmp_path: Path):
    library = shelf.library_at(tmp_path)
    (tmp_path / "folder").mkdir()
    torch.save({"emb_params": torch.ones(1, 8)}, tmp_path / "folder/old.ckpt")
    library.add_folder(tmp_path / "folder")
    path = Path(resolve("old", library))
    assert path.parent == library.root / "converted" and path.suffix == ".safetensors"
    stamp = path.stat().st_mtime_ns
    assert resolve(tmp_path / "folder/old.ckpt", library) == path
    assert path.stat().st_mtime_ns == stamp
    assert resolve(tmp_path / "folder/old.ckpt") == tmp_path / "folder/old.ckpt"  # nowhere to keep a copy


def test_a_model_whose_disk_is_gone(tmp_path: Path):
    library = shelf.library_at(tmp_path)
    source = shelf.checkpoint(tmp_path / "a.safetensors")
    import_model(library, source, way="in-place")
    source.unlink()
    with pytest.raises(GessoError, match="missing"):
        resolve("a", library)


@pytest.mark.parametrize("ending", [".safetensors", ".ckpt", ".sft", ""])
def test_an_ending_makes_no_two_names_alike(shelves: tuple[Library, Path], ending: str):
    library, _ = shelves
    for typed in ("sd15", "x", "realesrgan", "nowhere/sd15"):
        with pytest.raises(GessoError) as caught:
            resolve(typed + ending, library)
        assert "Did you mean" not in str(caught.value), typed
    with pytest.raises(GessoError, match=r"Did you mean .*'three"):
        resolve(f"threee{ending}", library)
    with pytest.raises(GessoError, match=r"Did you mean .*'gesso-mini'"):
        resolve(f"geso-mini{ending}", library)


def test_only_a_checkpoint_may_be_a_diffusers_folder(shelves: tuple[Library, Path]):
    for kinds, files in ((("checkpoint",), "a .safetensors file or a diffusers folder"), (("upscaler",), "a file")):
        with pytest.raises(GessoError, match=f"otherwise give {files}$"):
            resolve("4x-nothing.pth", shelves[0], kinds=kinds)


def test_what_cannot_be_read_or_has_no_kind_is_told_as_it_is(tmp_path: Path):
    library = shelf.library_at(tmp_path)
    root = tmp_path / "folder"
    root.mkdir()
    (root / "empty.ckpt").write_bytes(b"")
    (root / "void.safetensors").write_bytes(b"")
    (root / "torn.safetensors").write_bytes(b"\xff" * 20)
    shelf.embedding(root / "word.safetensors")
    library.add_folder(root)
    for name, words in (("empty", "empty"), ("void", "empty"), ("torn", "torn.safetensors: ")):
        with pytest.raises(GessoError, match=words) as caught:
            resolve(name, library)
        assert caught.value.code == "unreadable" and "is a other" not in caught.value.message
    with pytest.raises(GessoError, match=r"word: is an embedding .*, expected a checkpoint"):
        resolve("word", library)
