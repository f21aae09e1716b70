"""Folders of other tools, used where they lie."""

import os
import socket
import sys
from pathlib import Path

import pytest

from gesso.errors import GessoError
from gesso.library import Library
from gesso.library.extra_paths import MAX_BYTES, read_extra_paths
from gesso.library.folders import candidates, find_layout, own_places, places
from gesso.library.resolving import resolve
from library import shelf


def listed(library: Library) -> dict[str, str]:
    return {entry.name: entry.kind for entry in library.entries() if entry.origin == "folder"}


def a1111(root: Path) -> Path:
    shelf.checkpoint(root / "models/Stable-diffusion/sub folder/dream.safetensors")
    shelf.embedding(root / "embeddings/hands.safetensors")
    shelf.lora(root / "models/Lora/style.safetensors")
    shelf.upscaler(root / "models/ESRGAN/x4.safetensors")
    (root / "models/Stable-diffusion/old.ckpt").write_bytes(b"PK\x03\x04 and so on")
    (root / "models/Stable-diffusion/Put checkpoints here.txt").write_text("", encoding="utf-8")
    return root


def test_a_folder_of_a1111(tmp_path: Path):
    library = shelf.library_at(tmp_path)
    root = a1111(tmp_path / "webui")
    before = shelf.tree(root)
    folder = library.add_folder(root / "models")  # the installation, or its folder "models"
    assert (folder.path, folder.layout) == (root, "a1111")
    found = {"dream": "checkpoint", "hands": "embedding", "style": "lora", "x4": "upscaler", "old": "checkpoint"}
    assert listed(library) == found
    assert next(entry for entry in library.entries() if entry.name == "old").layout == "pickle"
    assert shelf.tree(root) == before
    shelf.embedding(root / "embeddings/later.safetensors")
    assert listed(library) == {**found, "later": "embedding"}
    root.rename(tmp_path / "elsewhere")  # a disk that is not there today
    listing = library.listing()
    assert "not found" in listing.notes[0]
    assert {entry.problem for entry in listing.entries if entry.origin == "folder"} == {"missing"}
    (tmp_path / "elsewhere").rename(root)
    assert {entry.problem for entry in library.entries()} == {None}
    assert library.forget_folder(root) == 6
    assert listed(library) == {}
    assert library.folders() == []


def test_a_folder_of_comfyui_with_extra_paths(tmp_path: Path):
    pytest.importorskip("yaml")
    root = tmp_path / "comfy"
    shelf.checkpoint(root / "models/checkpoints/a.safetensors")
    shelf.lora(root / "models/loras/b.safetensors")
    a1111(tmp_path / "webui")
    shelf.embedding(tmp_path / "more/e.safetensors")
    text = """
    a111:
        base_path: ../webui/
        is_default: true
        checkpoints: models/Stable-diffusion
        loras: |
            models/Lora
            models/LyCORIS
        hypernetworks: models/hypernetworks
        something_else: models/x
    other:
        embeddings: ../more
    # nothing:
    empty:
    """
    (root / "extra_model_paths.yaml").write_text(text, encoding="utf-8")
    assert find_layout(root / "extra_model_paths.yaml") == (root, "comfyui")  # the list stands for its folder
    library = shelf.library_at(tmp_path)
    assert library.add_folder(root).layout == "comfyui"
    assert listed(library) == {
        "a": "checkpoint",
        "b": "lora",
        "dream": "checkpoint",
        "old": "checkpoint",
        "style": "lora",
        "e": "embedding",
    }
    first = places(root, "comfyui")[0]  # is_default comes first
    assert (first.kind, first.path) == ("checkpoint", tmp_path / "webui/models/Stable-diffusion")
    assert [extra.default for extra in read_extra_paths(root / "extra_model_paths.yaml")].count(True) == 4


BAD_YAML = {
    "a: [1, 2": "line [12]",
    "- a\n- b": "table of sections",
    "a: 3": "not a section",
    "a:\n  loras: [x]": "expected the name of a folder",
    "a:\n  base_path: 3": "base_path",
    "a: &x\n  loras: y\nb: *x": "anchor",
    "a: !!python/object/apply:os.system ['true']": "not valid YAML",
    "a: {b: {c: {d: {e: f}}}}": "too deep",
    "a:\n  loras: |\n" + "".join(f"    f{number}\n" for number in range(600)): "500 folders",
    "# " + "x" * MAX_BYTES: "larger than",
    "\xff\xfe\x80": "not valid YAML",
}


@pytest.mark.parametrize("text", BAD_YAML, ids=[str(words) for words in BAD_YAML.values()])
def test_a_list_of_paths_that_is_none(tmp_path: Path, text: str):
    pytest.importorskip("yaml")
    path = tmp_path / "extra_model_paths.yaml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(GessoError, match=BAD_YAML[text]):
        read_extra_paths(path)


def test_a_bad_list_hides_nothing_else(tmp_path: Path):
    pytest.importorskip("yaml")
    library = shelf.library_at(tmp_path)
    shelf.embedding(tmp_path / "comfy/models/checkpoints/a.safetensors")
    library.add_folder(tmp_path / "comfy")
    assert listed(library) == {"a": "embedding"}  # the header knows better than the folder
    (tmp_path / "comfy/extra_model_paths.yaml").write_text("a: 3", encoding="utf-8")
    listing = library.listing()
    assert "not a section" in listing.notes[0]
    assert "a" in {entry.name for entry in listing.entries}
    with pytest.raises(GessoError, match="not a section"):
        library.add_folder(tmp_path / "comfy")


def test_odd_entries_are_skipped_with_a_notice(tmp_path: Path, monkeypatch):
    library = shelf.library_at(tmp_path)
    root = tmp_path / "odd"
    shelf.embedding(root / "good.safetensors")
    shelf.embedding(root / "folder.safetensors" / "inside.safetensors")
    long = f"{'x' * 243}.safetensors"
    shelf.embedding(root / "short.safetensors").rename(root / long)
    (root / "loop.safetensors").symlink_to("loop.safetensors")
    (root / "loop").symlink_to("loop")
    (root / "gone.safetensors").symlink_to(tmp_path / "nowhere")
    (root / "zero.ckpt").symlink_to("/dev/zero")
    (root / "mem.safetensors").symlink_to("/proc/self/mem")
    (root / "proc").symlink_to("/proc/self")
    (root / "all").symlink_to("/proc")
    os.mkfifo(root / "pipe.safetensors")
    os.mkfifo(root / "pipe.txt")
    (root / "model").mkdir()
    (root / "model" / "model_index.json").symlink_to("model_index.json")
    names = [b"caf\xe9.safetensors", b"folder\xff"]
    try:
        os.rename(shelf.embedding(root / "other.safetensors"), os.path.join(os.fsencode(root), names[0]))
        os.mkdir(os.path.join(os.fsencode(root), names[1]))
    except OSError:  # a file system that takes UTF-8 alone
        names = []
    monkeypatch.chdir(root)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.safetensors")
    library.add_folder(root)
    listing = library.listing()
    assert {entry.path.name for entry in listing.entries if entry.origin == "folder"} == {
        "good.safetensors",
        "inside.safetensors",
        long,
    }
    skipped = {"loop.safetensors", "gone.safetensors", "zero.ckpt", "mem.safetensors", "pipe.safetensors"}
    skipped |= {"socket.safetensors", "model"} | ({"proc", "all"} if sys.platform == "linux" else set())
    found = {Path(note.partition(": skipped: ")[0]).name for note in listing.notes}
    assert skipped <= found
    assert len(found) == len(listing.notes) == len(skipped) + len(names)
    assert all(note.isprintable() for note in listing.notes)
    assert resolve("good", library, kinds=("embedding",)) == root / "good.safetensors"


def test_any_folder_links_circles_and_duplicates(tmp_path: Path):
    library = shelf.library_at(tmp_path)
    root = tmp_path / "things"
    shelf.embedding(root / "deep/er/a.sft")
    (root / ".hidden").mkdir()
    shelf.embedding(root / ".hidden/no.safetensors")
    (root / "round").symlink_to(root, target_is_directory=True)
    (root / "again.safetensors").symlink_to(root / "deep/er/a.sft")
    assert library.add_folder(root).layout == "plain"
    assert len(listed(library)) == 1  # one file, however many ways lead to it
    os.mkfifo(root / "pipe.safetensors")
    assert len(listed(library)) == 1
    with pytest.raises(GessoError, match="no such folder"):
        library.add_folder(tmp_path / "nothing")
    with pytest.raises(GessoError, match="expected a folder"):
        library.add_folder(root / "deep/er/a.sft")
    with pytest.raises(GessoError, match="not a folder of A1111"):
        find_layout(root, "a1111")
    with pytest.raises(GessoError, match="not a folder of ComfyUI"):
        find_layout(root, "comfyui")
    with pytest.raises(ValueError, match="layout"):
        find_layout(root, "invoke")


def test_what_the_user_puts_into_the_library_is_found(tmp_path: Path):
    library = shelf.library_at(tmp_path)
    assert own_places(library.root) == []
    shelf.lora(library.root / "loras/mine.safetensors")
    shelf.lora(library.root / "dropped.safetensors")
    shelf.lora(library.root / "own folder/deep.safetensors")
    shelf.lora(library.root / "converted/copy.safetensors")  # gesso's own, of a PyTorch file elsewhere
    names = [[candidate.path.name for candidate in candidates(place)] for place in own_places(library.root)]
    assert names == [["mine.safetensors"], ["dropped.safetensors", "deep.safetensors"]]
    found = {entry.name: (entry.origin, entry.kind) for entry in library.entries()}
    assert found["mine"] == found["dropped"] == found["deep"] == ("library", "lora")
    assert "copy" not in found
    with pytest.raises(GessoError, match="already"):
        library.add_folder(library.root)


def test_a_folder_with_far_more_files_than_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It is registered without a look into the files, and says that every look goes through all of them."""
    library = shelf.library_at(tmp_path)
    root = tmp_path / "everything"
    for number in range(30):
        (root / f"holiday {number}").mkdir(parents=True)
        for picture in range(20):
            (root / f"holiday {number}" / f"{picture}.jpg").write_bytes(b"")
    shelf.lora(root / "holiday 7/style.safetensors")
    monkeypatch.setattr("gesso.library.library.MANY_FILES", 500)
    opened: list[str] = []
    monkeypatch.setattr(os, "open", lambda path, *rest, real=os.open: opened.append(str(path)) or real(path, *rest))
    library.add_folder(root)
    assert not [path for path in opened if path.startswith(str(root))]
    listing = library.listing()
    (note,) = listing.notes
    assert (note.code, note.data) == ("models_slow", {"path": str(root), "files": 631, "models": 1})
    assert "631 files, of which 1 are models" in note
    assert {path for path in opened if path.startswith(str(root))} == {str(root / "holiday 7/style.safetensors")}
    assert listed(library) == {"style": "lora"}


def test_too_many_files_are_told_before_the_folder_is_registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    library = shelf.library_at(tmp_path)
    for number in range(30):
        shelf.lora(tmp_path / f"many/{number}.safetensors")
    monkeypatch.setattr("gesso.library.folders.MAX_FILES", 20)
    with pytest.raises(GessoError, match="more than 20 files; register the model folders inside it") as caught:
        library.add_folder(tmp_path / "many")
    assert (caught.value.code, library.folders()) == ("too_large", [])


@pytest.mark.skipif(os.name != "posix", reason="folders of POSIX")
def test_a_whole_disk_or_a_home_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    library = shelf.library_at(tmp_path)
    home = tmp_path / "users" / "ada"
    shelf.lora(home / "models of mine/style.safetensors")
    monkeypatch.setattr(Path, "home", lambda: home)
    for folder, why in {"/": "is the root of a file system", "/proc": "is made up by the system"}.items():
        for layout in ("auto", "plain"):
            with pytest.raises(GessoError, match=f"{why}. Register the folders of models in it"):
                library.add_folder(folder, layout)
    for path, why in {home: "is your home folder", home.parent: "holds the home folders"}.items():
        with pytest.raises(GessoError, match=f"{why}, and every command would search it"):
            library.add_folder(path)
    assert library.folders() == []
    library.add_folder(home / "models of mine")
    library.add_folder(home, "plain")
    assert listed(library) == {"style": "lora"}
