"""The index, registered folders, importing, verifying and removing."""

import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import tiny_sd
from gesso.checkpoints import detect
from gesso.checkpoints.errors import ModelFileError
from gesso.checkpoints.hashing import hash_file
from gesso.checkpoints.safetensors_file import open_safetensors, tensor_data_sha256
from gesso.errors import GessoError
from gesso.library import Library, LibraryEntry
from gesso.library import library as library_module
from gesso.library.builtin import BUILTIN_MODELS, builtin_entries
from gesso.library.checking import verify
from gesso.library.entry import KIND_FOLDERS, KINDS
from gesso.library.examine import UNKNOWN, examine, kind_of
from gesso.library.importing import QUARANTINE, check_name, import_model, remove
from gesso.runtime.engine import EMBEDDED
from library import shelf


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return shelf.library_at(tmp_path)


def by_name(library: Library) -> dict[str, LibraryEntry]:
    return {entry.name: entry for entry in library.entries()}


def no_leftovers(library: Library) -> bool:
    return not list((library.root / QUARANTINE).iterdir()) if (library.root / QUARANTINE).exists() else True


# ---- what is carried, hashes, kinds ----------------------------------------------------------------------------------


def test_the_carried_models_are_those_of_the_engine():
    assert BUILTIN_MODELS == EMBEDDED
    (entry,) = builtin_entries()
    found = detect.describe(entry.path)
    assert (entry.num_tensors, entry.num_params, entry.nbytes) == (found.num_tensors, found.num_params, found.nbytes)
    assert (entry.family, entry.layout, entry.what) == (found.family, found.layout, found.kind.what)
    assert entry.dtypes == ("float16",)


def test_an_empty_library_makes_nothing(library: Library):
    assert [entry.name for entry in library.entries()] == list(BUILTIN_MODELS)
    assert library.folders() == []
    assert not library.exists


def test_hashes_are_those_of_their_definitions(tmp_path: Path):
    """AutoV1 reads 64 KiB from 1 MiB on; AutoV3 what follows the header."""
    path = tmp_path / "big.safetensors"
    torch.manual_seed(0)
    shelf.save_file({"x": torch.randn(400_000)}, path)
    data = path.read_bytes()
    found = hash_file(path)
    assert found.sha256 == hashlib.sha256(data).hexdigest()
    assert found.autov1 == hashlib.sha256(data[0x100000 : 0x100000 + 0x10000]).hexdigest()[:8]
    assert found.autov3 == tensor_data_sha256(open_safetensors(path))[:12]
    other = tmp_path / "other.bin"
    other.write_bytes(b"no header here")
    assert hash_file(other).autov3 is None
    with pytest.raises(ModelFileError, match="is a folder"):
        hash_file(tmp_path)


def test_every_kind_of_file_has_a_kind_here():
    """A new row in `detect` that this room cannot place would show up as "other"."""
    assert detect._UNKNOWN.what == UNKNOWN
    for _, kind in detect._KINDS:
        assert kind_of(kind.what, kind.layout, kind.family, None) in set(KINDS) - {"other"} or kind.what in (
            "FLUX",
            "Stable Diffusion 3",
        )
    assert kind_of("a TAESD (tiny autoencoder)", "other", None, None) == "taesd"
    assert kind_of("a VAE alone", "other", None, "checkpoint") == "vae"
    assert kind_of(UNKNOWN, "other", None, "upscaler") == "upscaler"
    assert kind_of("a T2I-Adapter", "other", None, "upscaler") == "upscaler"  # both have "body."


@pytest.mark.parametrize(
    ("tensors", "metadata", "family"),
    [
        ({"lora_unet_x_attn2_to_k.lora_down.weight": (4, 768)}, {}, "sd15"),
        ({"lora_unet_x_attn2_to_v.lora_down.weight": (4, 1024)}, {}, "sd21"),
        ({"unet.x.attn2.to_k.lora_A.weight": (4, 2048)}, {"ss_base_model_version": "sd_v1"}, "sdxl"),
        ({"lora_te2_x.lora_down.weight": (4, 1280)}, {}, "sdxl"),
        ({"lora_unet_x_ff.lora_down.weight": (4, 320)}, {"ss_base_model_version": "sdxl_base_v1-0"}, "sdxl"),
        ({"lora_unet_x_ff.lora_down.weight": (4, 320)}, {"ss_base_model_version": "flux1"}, None),
        ({"lora_unet_x_ff.lora_down.weight": (4, 320)}, {}, None),
        ({"emb_params": (3, 1024)}, {}, "sd21"),
        ({"clip_g": (1, 1280), "clip_l": (1, 768)}, {}, "sdxl"),
    ],
)
def test_what_an_adapter_is_made_for(tmp_path: Path, tensors: dict[str, Any], metadata: dict[str, str], family: str):
    path = tmp_path / "x.safetensors"
    shelf.save_file({name: torch.zeros(shape) for name, shape in tensors.items()}, path, metadata)
    assert examine(path, None).family == family


# ---- import ----------------------------------------------------------------------------------------------------------


def test_a_copy_is_a_file_of_the_library(library: Library, tmp_path: Path):
    source = shelf.checkpoint(tmp_path / "my model.safetensors")
    steps: list[str] = []
    done = import_model(library, source, on_progress=lambda what, now, total: steps.append(what))
    entry = by_name(library)["my model"]
    assert done.new and done.entry == entry
    assert entry.path == library.root / "checkpoints" / "my model.safetensors"
    assert entry.path.read_bytes() == source.read_bytes()
    assert (entry.kind, entry.family, entry.origin, entry.source) == (
        "checkpoint",
        "gesso-mini",
        "library",
        str(source),
    )
    assert entry.files[0].sha256 == hashlib.sha256(source.read_bytes()).hexdigest()
    assert entry.added is not None and entry.added.endswith("Z")
    assert list(dict.fromkeys(steps)) == ["copying", "checking", "hashing"]
    assert no_leftovers(library)
    twin = source.with_name("twin.safetensors")  # as a page uploads the same file once more
    twin.write_bytes(source.read_bytes())
    for other, name in ((source, "another name"), (twin, "my model")):
        again = import_model(library, other, name=name)
        assert (again.new, again.entry.name) == (False, "my model")
    twin.unlink()
    assert len(by_name(library)) == 2


def test_links_and_files_in_place_stay_where_they_are(library: Library, tmp_path: Path):
    one, two = shelf.checkpoint(tmp_path / "one.safetensors"), shelf.checkpoint(tmp_path / "two.safetensors", seed=1)
    linked = import_model(library, one, way="link", name="first").entry
    placed = import_model(library, two, way="in-place").entry
    assert linked.path.is_symlink() and linked.path.name == "first.safetensors"
    assert placed.path == two
    assert {entry.name: entry.origin for entry in library.entries()} == {
        "gesso-mini": "carried",
        "first": "linked",
        "two": "in place",
    }
    library.add_folder(tmp_path, "plain")
    assert by_name(library)["two"].origin == "in place"  # a registration of its own lasts
    library.forget_folder(tmp_path)
    for entry in (linked, placed):
        remove(library, entry)
    assert one.exists() and two.exists()
    assert list(by_name(library)) == ["gesso-mini"]
    two.unlink()


def test_a_folder_of_diffusers_is_one_model(library: Library, tmp_path: Path):
    tiny_sd.save_tiny_folder(tmp_path / "sd")
    (tmp_path / "sd" / "notes.exe").write_bytes(b"MZ")
    entry = import_model(library, tmp_path / "sd", name="small").entry
    assert (entry.kind, entry.layout, entry.family, len(entry.files)) == ("checkpoint", "diffusers", "sd15", 3)
    assert entry.path == library.root / "checkpoints" / "small"
    assert not (entry.path / "notes.exe").exists()  # weights, configurations and vocabularies alone
    assert {f: d for f, d in shelf.tree(tmp_path / "sd").items() if f != "notes.exe"} == shelf.tree(entry.path)
    assert by_name(library)["small"].files[0].sha256
    (entry.path / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    assert "no diffusion_pytorch_model.safetensors" in str(by_name(library)["small"].problem)
    with pytest.raises(GessoError, match="add-folder"):
        import_model(library, tmp_path)


def test_a_folder_of_diffusers_with_pytorch_files_and_shards(library: Library, tmp_path: Path):
    """As the releases of 2022 are, and the large ones of today."""
    tiny_sd.save_tiny_folder(tmp_path / "plain")
    folder = tmp_path / "sd"
    shutil.copytree(tmp_path / "plain", folder)
    text = folder / "text_encoder" / "model.safetensors"
    torch.save(load_file(text), folder / "text_encoder" / "pytorch_model.bin")
    text.unlink()
    unet = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(unet)
    names = sorted(tensors)
    shards = {f"shard-{n}.safetensors": names[n::2] for n in (0, 1)}
    for name, part in shards.items():
        shelf.save_file({key: tensors[key] for key in part}, unet.with_name(name))
    weight_map = {key: name for name, part in shards.items() for key in part}
    index = json.dumps({"metadata": {}, "weight_map": weight_map})
    (folder / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(index, encoding="utf-8")
    unet.unlink()
    entry = import_model(library, folder).entry
    assert [file.name for file in entry.files] == [
        "unet/shard-0.safetensors",
        "unet/shard-1.safetensors",
        "text_encoder/model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ]
    whole = load_file(tmp_path / "plain" / "text_encoder" / "model.safetensors")
    copy = load_file(entry.path / "text_encoder" / "model.safetensors")
    assert copy.keys() == whole.keys() and all(torch.equal(copy[name], whole[name]) for name in whole)
    assert not list(entry.path.rglob("*.bin"))
    assert {report.status for report in verify(library, entry)} == {"ok"}
    assert import_model(library, folder, way="in-place", name="other").entry.kind == "checkpoint"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2])
def test_weights_that_are_not_finite_stay_outside(library: Library, tmp_path: Path, dtype: torch.dtype):
    source = shelf.with_nan(tmp_path / "nan.safetensors", dtype)
    for way in ("copy", "link", "in-place"):
        with pytest.raises(ModelFileError, match="NaN or infinity: emb_params") as caught:
            import_model(library, source, way=way)
        assert caught.value.reason == "nonfinite"
        assert str(source) in caught.value.message
        assert list(by_name(library)) == ["gesso-mini"]
    assert no_leftovers(library)
    assert import_model(library, source, allow_nonfinite=True).new


def test_what_is_no_model_stays_outside(library: Library, tmp_path: Path):
    whole = shelf.checkpoint(tmp_path / "whole.safetensors").read_bytes()
    cut, page = tmp_path / "cut.safetensors", tmp_path / "page.safetensors"
    cut.write_bytes(whole[:-9])
    page.write_text("<!doctype html><p>log in", encoding="utf-8")
    for path, words in ((cut, "download it again"), (page, "web page"), (tmp_path / "none", "no such file")):
        with pytest.raises(ModelFileError, match=words):
            import_model(library, path)
    strange = shelf.upscaler(tmp_path / "strange.safetensors")
    with pytest.raises(GessoError, match=r"no model that gesso knows.*`kind`"):
        import_model(library, strange)
    assert import_model(library, strange, kind="upscaler").entry.path.parent.name == KIND_FOLDERS["upscaler"]
    pickled = tmp_path / "pickled.ckpt"
    torch.save({"state_dict": {"x": torch.zeros(2, 3, 4)}}, pickled)
    with pytest.raises(GessoError) as told:  # of the file that was named, not of its copy
        import_model(library, pickled)
    assert told.value.message.startswith(f"{pickled}: looks like") and told.value.data["path"] == str(pickled)
    assert no_leftovers(library)
    assert sorted(entry.name for entry in library.entries()) == ["gesso-mini", "strange"]
    assert no_leftovers(library)


@pytest.mark.parametrize("name", ["", "..", "a/b", "a\\b", ".hidden", "-x", "con", "LPT1.x", "a\nb", "‮gnp", "x" * 300])
def test_names_that_no_file_may_have(name: str):
    with pytest.raises(GessoError, match="`name`"):
        check_name(name)


def test_a_name_is_given_once(library: Library, tmp_path: Path):
    import_model(library, shelf.checkpoint(tmp_path / "a.safetensors"))
    with pytest.raises(GessoError, match="of this name already"):
        import_model(library, shelf.checkpoint(tmp_path / "b.safetensors", seed=1), name="A")
    with pytest.raises(GessoError, match="is the built-in model"):
        import_model(library, tmp_path / "b.safetensors", name="gesso-mini")


def test_an_import_that_is_killed_leaves_nothing(library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = shelf.checkpoint(tmp_path / "a.safetensors")

    def stop_at(stage: str) -> Callable[[str, int, int], None]:
        def stop(what: str, done: int, total: int) -> None:
            if what == stage:
                raise KeyboardInterrupt

        return stop

    for stage in ("copying", "checking", "hashing"):
        with pytest.raises(KeyboardInterrupt):
            import_model(library, source, on_progress=stop_at(stage))
        assert no_leftovers(library)
        assert list(by_name(library)) == ["gesso-mini"]
    # Between the file's name and its row in the index: the file goes again.
    monkeypatch.setattr(library.index, "put", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        import_model(library, source)
    monkeypatch.undo()
    assert no_leftovers(library)
    assert list(by_name(library)) == ["gesso-mini"]
    assert import_model(library, source).new


def test_a_pytorch_file_becomes_safetensors(library: Library, tmp_path: Path):
    torch.manual_seed(0)
    vectors = torch.randn(2, 768)
    torch.save({"state_dict": {"emb_params": vectors}, "epoch": 3}, tmp_path / "hands.pt")
    with pytest.raises(GessoError, match="as a copy"):
        import_model(library, tmp_path / "hands.pt", way="in-place")
    entry = import_model(library, tmp_path / "hands.pt").entry
    assert (entry.kind, entry.path.name) == ("embedding", "hands.safetensors")
    with open_safetensors(entry.path).reader() as reader:
        assert torch.equal(reader["emb_params"], vectors)
    assert not import_model(library, tmp_path / "hands.pt").new
    (tmp_path / "evil.pt").write_bytes(b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.")
    with pytest.raises(ModelFileError) as caught:
        import_model(library, tmp_path / "evil.pt")
    assert caught.value.reason.startswith("pickle")
    assert no_leftovers(library)


# ---- the index -------------------------------------------------------------------------------------------------------


def test_a_lost_index_is_built_again(library: Library, tmp_path: Path):
    import_model(library, shelf.checkpoint(tmp_path / "a.safetensors"))
    import_model(library, shelf.embedding(tmp_path / "e.safetensors"))
    before = {entry.name: (entry.kind, entry.path) for entry in library.entries()}
    library.index.path.unlink()
    assert {entry.name: (entry.kind, entry.path) for entry in library.entries()} == before


def test_a_damaged_index_says_what_to_do(library: Library, tmp_path: Path):
    library.root.mkdir()
    library.index.path.write_bytes(b"this is no database at all" * 100)
    with pytest.raises(GessoError, match="Move it away"):
        library.entries()
    library.index.path.unlink()
    library.add_folder(tmp_path)
    with sqlite3.connect(library.index.path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(GessoError, match="newer gesso"):
        library.entries()


def test_only_new_and_changed_files_are_looked_into(library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    looked: list[str] = []
    monkeypatch.setattr(library_module, "examine", lambda path, hint: looked.append(path.name) or examine(path, hint))
    shelf.embedding(tmp_path / "models" / "a.safetensors")
    shelf.embedding(tmp_path / "models" / "b.safetensors")
    library.add_folder(tmp_path / "models")
    library.entries()
    library.entries()
    assert sorted(looked) == ["a.safetensors", "b.safetensors"]
    old = library.hashed(by_name(library)["a"])
    assert by_name(library)["a"].files == old.files
    shelf.embedding(tmp_path / "models" / "a.safetensors", seed=1)
    os.utime(tmp_path / "models" / "a.safetensors", ns=(1, 1))
    assert by_name(library)["a"].files[0].sha256 is None  # what was remembered is of other bytes
    assert looked.count("a.safetensors") == 2
    (tmp_path / "models" / "b.safetensors").unlink()
    assert "b" not in by_name(library)


CONCURRENT = """
import sys
from pathlib import Path
from gesso.library.index import Folder, Index
index = Index(Path(sys.argv[1]))
for number in range(20):
    index.put_folder(Folder(Path(f"/nowhere/{sys.argv[2]}-{number}"), "plain", "2026-01-01T00:00:00Z"))
"""


def test_runs_side_by_side_wait_for_each_other(library: Library):
    command = [sys.executable, "-c", CONCURRENT, str(library.index.path)]
    runs = [subprocess.Popen([*command, str(number)]) for number in range(3)]
    assert [run.wait(120) for run in runs] == [0, 0, 0]
    assert len(library.folders()) == 60


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path):
    if os.name != "posix" or os.geteuid() == 0:
        (tmp_path / "file").write_bytes(b"")
        library = Library(tmp_path / "file")  # root may write everywhere, but not below a file
    else:
        (tmp_path / "closed").mkdir(mode=0o500)
        library = Library(tmp_path / "closed" / "library")
    with pytest.raises(GessoError):
        import_model(library, shelf.embedding(tmp_path / "a.safetensors"))


# ---- verify and remove -----------------------------------------------------------------------------------------------


def test_verify_finds_every_kind_of_change(library: Library, tmp_path: Path):
    paths = {name: import_model(library, shelf.embedding(tmp_path / f"{name}.safetensors", seed)).entry.path
             for seed, name in enumerate(("good", "flipped", "cut", "gone"))}  # fmt: skip

    def status() -> dict[str, str]:
        return {r.name: r.status for entry in library.index.models() for r in verify(library, entry)}

    assert set(status().values()) == {"ok"}
    before = paths["flipped"].stat()
    data = bytearray(paths["flipped"].read_bytes())
    data[-1] ^= 1
    paths["flipped"].write_bytes(data)
    os.utime(paths["flipped"], ns=(before.st_atime_ns, before.st_mtime_ns))  # as a failing disk does it
    paths["cut"].write_bytes(paths["cut"].read_bytes()[:-1])
    paths["gone"].unlink()
    expected = {"good": "ok", "flipped": "changed", "cut": "damaged", "gone": "missing"}
    assert status() == {f"{name}.safetensors": value for name, value in expected.items()}
    entry = by_name(library)["flipped"]
    assert [r.status for r in verify(library, entry, accept=True)] == ["recorded"]
    assert [r.status for r in verify(library, entry)] == ["ok"]
    assert [r.status for r in verify(library, builtin_entries()[0])] == ["ok"]


def test_remove_deletes_what_is_the_librarys_own(library: Library, tmp_path: Path):
    source = shelf.checkpoint(tmp_path / "a.safetensors")
    entry = import_model(library, source).entry
    remove(library, entry)
    assert not entry.path.exists() and source.exists()
    assert list(by_name(library)) == ["gesso-mini"]
    assert no_leftovers(library)
    library.add_folder(tmp_path)
    with pytest.raises(GessoError, match="does not change"):
        remove(library, by_name(library)["a"])
    with pytest.raises(GessoError, match="built into gesso"):
        remove(library, builtin_entries()[0])


def test_a_glance_looks_into_no_file_and_writes_nothing(library: Library, tmp_path: Path):
    place = library.root / "loras"
    place.mkdir(parents=True)
    (place / "new.safetensors").write_bytes(b"not looked into")
    before = sorted(tmp_path.rglob("*"))
    builtin = [(entry.name, entry.path, entry.kind) for entry in builtin_entries()]
    assert list(library.glance()) == [*builtin, ("new", place / "new.safetensors", "lora")]
    assert sorted(tmp_path.rglob("*")) == before


def test_a_glance_knows_what_the_listing_found(library: Library, tmp_path: Path):
    file = shelf.embedding(tmp_path / "elsewhere" / "word.safetensors")
    import_model(library, file, name="other", way="in-place")
    listed = {(entry.name, entry.path, entry.kind) for entry in library.entries()}
    assert set(library.glance()) == listed
