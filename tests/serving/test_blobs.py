"""Bytes of pictures: stored once, whole or not at all, and gone when no row names them."""

import errno
import hashlib
import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from gesso import files
from gesso.errors import GessoError
from gesso.serving.blobs import BlobStore


def code_of(error: pytest.ExceptionInfo[GessoError]) -> str:
    return error.value.code


def nothing(digests: Iterable[str]) -> set[str]:
    return set()


def everything(digests: Iterable[str]) -> set[str]:
    return set(digests)


def files_in(root: Path) -> list[str]:
    return sorted(path.name for path in root.rglob("*") if path.is_file())


def age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_bytes_come_back_under_their_hash(tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "new" / "blobs")
    digest = store.put(b"picture")
    assert digest == hashlib.sha256(b"picture").hexdigest()
    assert store.put(b"picture") == digest and store.read(digest) == b"picture"
    assert store.path(digest).relative_to(store.root).as_posix() == f"{digest[:2]}/{digest}"
    assert files_in(store.root) == [digest]
    assert store.put(b"") == hashlib.sha256(b"").hexdigest()


@pytest.mark.parametrize("digest", ["", "a" * 63, "A" * 64, "../" * 21 + "a", "a" * 65, "a" * 63 + "\n", "é" * 64])
def test_what_is_no_hash_never_becomes_a_path(tmp_path: Path, digest: str) -> None:
    store = BlobStore(tmp_path)
    for call in (store.path, store.read):
        with pytest.raises(GessoError) as error:
            call(digest)
        assert code_of(error) == "missing"


def test_bytes_that_changed_on_the_disk_are_not_given_out(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    digest = store.put(b"picture")
    store.path(digest).write_bytes(b"pictuRe")
    with pytest.raises(GessoError) as error:
        store.read(digest)
    assert code_of(error) == "damaged"
    for broken in (b"pictuRe", b"pic", b""):
        store.path(digest).write_bytes(broken)
        assert store.put(b"picture") == digest and store.read(digest) == b"picture"  # written again


@pytest.mark.parametrize(("number", "code"), [(errno.ENOSPC, "disk_full"), (errno.EIO, "unwritable")])
def test_what_cannot_be_written_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: str
) -> None:
    store = BlobStore(tmp_path)

    def fail(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(files.os, "fsync", fail)
        with pytest.raises(GessoError) as error:
            store.put(b"picture")
    assert code_of(error) == code and files_in(tmp_path) == []
    assert store.read(store.put(b"picture")) == b"picture"


def test_a_write_that_fails_takes_nothing_away_from_who_relies_on_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = BlobStore(tmp_path), BlobStore(tmp_path)
    first.path(first.put(b"picture")).unlink()  # leaves its folder, which waits for the disk as well
    real_sync, real_link = os.fsync, os.link

    def later(descriptor: int) -> None:
        """The other one stores the same while this one waits for a disk that fails."""
        patched.setattr(files.os, "fsync", real_sync)
        second.put(b"picture")
        raise OSError(errno.EIO, "")

    with monkeypatch.context() as patched:
        patched.setattr(files.os, "fsync", later)
        with pytest.raises(GessoError):
            first.put(b"picture")
    path = second.path(hashlib.sha256(b"picture").hexdigest())
    assert path.read_bytes() == b"picture" and files_in(tmp_path) == [path.name]
    path.unlink()

    def sooner(hidden: Path, path: Path) -> None:
        """The other one has stored the same just before this one gives its file the name."""
        patched.setattr(os, "link", real_link)
        second.put(b"picture")
        inodes.append(path.stat().st_ino)
        real_link(hidden, path)

    inodes: list[int] = []
    with monkeypatch.context() as patched:
        patched.setattr(os, "link", sooner)
        first.put(b"picture")
    assert files_in(tmp_path) == [path.name] and inodes == [path.stat().st_ino], "what is there is not replaced"


def test_bytes_that_somebody_else_has_just_written_are_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may not have come to its fsync yet."""
    synced: list[int] = []
    real = os.fsync
    first, second = BlobStore(tmp_path), BlobStore(tmp_path)
    first.put(b"picture")
    monkeypatch.setattr(files.os, "fsync", lambda handle: (synced.append(os.fstat(handle).st_ino), real(handle)))
    digest = second.put(b"picture")
    path = second.path(digest)
    assert synced == [path.stat().st_ino, path.parent.stat().st_ino]
    second.put(b"picture")
    assert len(synced) == 2, "it is known to be there"
    path.unlink()
    first.put(b"picture")
    second.put(b"picture")
    assert len(synced) > 4, "it is another file"


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(GessoError) as error:
        BlobStore(tmp_path / "file" / "blobs")
    assert code_of(error) == "unwritable"


def test_a_sweep_takes_what_no_row_names_after_a_while(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    old, new, named = (store.put(text) for text in (b"old", b"new", b"named"))
    half = store.path(old).with_name(f".{'a' * 64}.0123.part")
    half.write_bytes(b"half")
    (tmp_path / "other.txt").touch()
    for path in (store.path(old), store.path(named), half):
        age(path, 100)
    assert store.sweep(everything, grace_seconds=60) == 1  # the half-written one alone
    assert store.sweep(lambda digests: {named} & set(digests), grace_seconds=60) == 1
    assert files_in(tmp_path) == sorted([new, named, "other.txt"])


def test_a_sweep_spares_what_is_stored_meanwhile(tmp_path: Path) -> None:
    """The same bytes are stored again between the look at the rows and the deletion."""
    store = BlobStore(tmp_path)
    digest = store.put(b"picture")
    age(store.path(digest), 100)

    def stored_meanwhile(digests: Iterable[str]) -> set[str]:
        store.put(b"picture")
        return set()

    assert store.sweep(stored_meanwhile, grace_seconds=60) == 0
    assert store.read(digest) == b"picture"


def test_a_sweep_that_was_killed_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = BlobStore(tmp_path)
    digest = store.put(b"picture")
    aside = store.path(digest).with_name(f".{digest}.swept.part")
    os.rename(store.path(digest), aside)
    store.sweep(everything)
    assert files_in(tmp_path) == [aside.name]  # perhaps another process has it in hand
    monkeypatch.setattr("gesso.serving.blobs._SWEEP_SECONDS", -1.0)
    store.sweep(everything)
    assert store.read(digest) == b"picture"


@pytest.mark.slow
def test_storing_and_sweeping_at_once_loses_nothing(tmp_path: Path) -> None:
    store, stop = BlobStore(tmp_path), threading.Event()

    def sweep() -> None:
        while not stop.is_set():
            store.sweep(nothing, grace_seconds=0.5)

    sweeper = threading.Thread(target=sweep)
    sweeper.start()
    for number in range(300):
        data = bytes([number % 5])
        digest = store.put(data)
        age(store.path(digest), 0.45)  # about to be swept
        store.put(data)
        for _ in range(3):
            time.sleep(0.0005)
            try:
                assert store.read(digest) == data
            except GessoError:  # moved aside for a moment, and moved back
                time.sleep(0.01)
                assert store.read(digest) == data
    stop.set()
    sweeper.join()


def test_a_blob_of_an_earlier_version_is_found(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    digest = store.put(b"old")
    deeper = tmp_path / digest[:2] / digest[2:4] / digest
    deeper.parent.mkdir()
    store.path(digest).rename(deeper)
    assert store.read(digest) == b"old"
    assert not deeper.exists() and store.path(digest).parent == tmp_path / digest[:2]
