"""Files that are there whole or not at all: with disks that are really full, folders that really refuse, kill -9."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from gesso.files import atomic_file, give_name, hidden_name, sync_folder

# A process that fills a file of two parts and says when it has written the first.
WRITER = """
import sys
from pathlib import Path
from gesso.files import atomic_file
with atomic_file(Path(sys.argv[1]), overwrite=True) as file:
    file.write(b"new" * 1000)
    file.flush()
    print("half", flush=True)
    sys.stdin.read()
    file.write(b"more")
"""
# What a file system does to `atomic_file`, from a mount of its own.
ON_A_MOUNT = """
import sys
from pathlib import Path
from gesso.files import atomic_file
folder = Path(sys.argv[1])
try:
    with atomic_file(folder / "x.bin") as file:
        file.write(b"n" * int(sys.argv[2]))
except OSError as error:
    print(error.strerror)
print(sorted(path.name for path in folder.iterdir()), (folder / "x.bin").read_bytes())
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_has_its_name_only_when_it_is_whole(tmp_path: Path):
    path = tmp_path / "x.bin"
    with atomic_file(path) as file:
        file.write(b"one")
        file.flush()
        assert not path.exists()
        assert len(names(tmp_path)) == 1
    assert path.read_bytes() == b"one"
    with atomic_file(path) as file:
        file.write(b"two")
        file.flush()
        assert path.read_bytes() == b"one"
    assert path.read_bytes() == b"two"
    assert names(tmp_path) == ["x.bin"]


@pytest.mark.parametrize("stop", [ValueError("wrong"), KeyboardInterrupt(), OSError(5, "Input/output error")])
def test_an_error_in_the_block_leaves_what_was_there(tmp_path: Path, stop: BaseException):
    path = tmp_path / "x.bin"
    path.write_bytes(b"mine")

    def write() -> None:
        with atomic_file(path) as file:
            file.write(b"new")
            raise stop

    with pytest.raises(type(stop)):
        write()
    assert path.read_bytes() == b"mine"
    assert names(tmp_path) == ["x.bin"]


def test_a_taken_name_stays_where_that_was_asked_for(tmp_path: Path):
    path = tmp_path / "x.bin"
    path.write_bytes(b"mine")
    with pytest.raises(FileExistsError), atomic_file(path, overwrite=False) as file:
        file.write(b"new")
    assert path.read_bytes() == b"mine"
    assert names(tmp_path) == ["x.bin"]


def test_a_name_that_is_taken_while_the_file_is_written_stays_too(tmp_path: Path):
    path = tmp_path / "x.bin"

    def write() -> None:
        with atomic_file(path, overwrite=False) as file:
            file.write(b"new")
            path.write_bytes(b"quicker")

    with pytest.raises(FileExistsError):
        write()
    assert path.read_bytes() == b"quicker"
    assert names(tmp_path) == ["x.bin"]


def no_links(*args: object, **kwargs: object) -> None:
    raise OSError(95, "Operation not supported")


def test_a_file_system_without_links_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "link", no_links)
    path = tmp_path / "x.bin"
    for content in (b"one", b"two"):
        try:
            with atomic_file(path, overwrite=False) as file:
                file.write(content)
        except FileExistsError:
            assert content == b"two"
    assert path.read_bytes() == b"one"
    assert names(tmp_path) == ["x.bin"]


def test_a_reserved_name_is_given_back_where_the_file_cannot_have_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "link", no_links)
    monkeypatch.setattr(os, "replace", stop)
    with pytest.raises(KeyboardInterrupt), atomic_file(tmp_path / "x.bin", overwrite=False) as file:
        file.write(b"new")
    assert names(tmp_path) == []


def test_file_and_folder_reach_the_disk_in_that_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The file before it has its name, the folder after."""
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(number: int) -> None:
        steps.append("folder" if os.path.isdir(f"/proc/self/fd/{number}") else "file")
        fsync(number)

    def replaced(*args: Path) -> None:
        steps.append("name")
        replace(*args)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    with atomic_file(tmp_path / "x.bin") as file:
        file.write(b"one")
    if os.path.isdir("/proc/self/fd"):
        assert steps == ["file", "name", "folder"]


def test_a_folder_that_cannot_be_synchronised_is_no_error(tmp_path: Path):
    sync_folder(tmp_path / "nowhere")
    sync_folder(tmp_path)


@pytest.mark.parametrize("name", ["x" * 255, "ü" * 127, "x.png"])
def test_hidden_names_are_names_that_file_systems_take(tmp_path: Path, name: str):
    with atomic_file(tmp_path / name) as file:
        file.write(b"one")
        assert names(tmp_path)[0].startswith(".")
    assert names(tmp_path) == [name]
    assert hidden_name(tmp_path / name) != hidden_name(tmp_path / name)


def test_missing_folders_and_folders_in_the_way_are_errors(tmp_path: Path):
    with pytest.raises(FileNotFoundError), atomic_file(tmp_path / "nowhere" / "x.bin"):
        pass
    (tmp_path / "x.bin").mkdir()
    with pytest.raises(OSError, match="directory"), atomic_file(tmp_path / "x.bin") as file:
        file.write(b"new")
    assert names(tmp_path) == ["x.bin"]


def test_a_finished_file_may_keep_its_name_besides(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"a")
    give_name(tmp_path / "a", tmp_path / "b")
    with pytest.raises(FileExistsError):
        give_name(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"a"


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("before", [None, b"old"])
def test_a_killed_writer_leaves_the_old_file_or_none(tmp_path: Path, before: bytes | None):
    path = tmp_path / "x.bin"
    if before is not None:
        path.write_bytes(before)
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"half\n"
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert (path.read_bytes() if path.exists() else None) == before
    left = [name for name in names(tmp_path) if name != "x.bin"]
    assert len(left) == 1  # hidden, and in nobody's way
    assert left[0].startswith(".x.bin.")
    assert left[0].endswith(".part")
    with atomic_file(path) as file:
        file.write(b"again")
    assert path.read_bytes() == b"again"


@pytest.fixture(scope="module")
def on_a_mount() -> Callable[[str, Path, str], str]:
    """Runs `ON_A_MOUNT` in a folder that is a file system of its own, with these options."""
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-rm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mounts of one's own here")

    def run(options: str, folder: Path, count: str) -> str:
        script = textwrap.dedent(
            f"""
            set -e
            mount -t tmpfs -o size=64k tmpfs {folder}
            printf mine > {folder}/x.bin
            {f"mount -o remount,{options} {folder}" if options else ":"}
            exec {sys.executable} -c '{ON_A_MOUNT}' {folder} {count}
            """
        )
        done = subprocess.run([unshare, "-rm", "sh", "-c", script], capture_output=True, text=True, check=False)
        if "mount" in done.stderr:
            pytest.skip(f"no mounts of one's own here ({done.stderr.strip()})")
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, on_a_mount: Callable[[str, Path, str], str]):
    said = on_a_mount("", tmp_path, "200000")
    assert said.splitlines() == ["No space left on device", "['x.bin'] b'mine'"]
    assert on_a_mount("", tmp_path, "3").splitlines() == ["['x.bin'] b'nnn'"]  # and where there is room, it is written


def test_a_read_only_folder_leaves_what_was_there(tmp_path: Path, on_a_mount: Callable[[str, Path, str], str]):
    said = on_a_mount("ro", tmp_path, "3")
    assert said.splitlines() == ["Read-only file system", "['x.bin'] b'mine'"]
