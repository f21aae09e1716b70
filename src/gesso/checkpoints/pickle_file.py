"""Converts PyTorch files (.ckpt, .pt, .pth, .bin) to safetensors without running their code.

This process opens the file and the place for the result and hands both to a child, which has given its rights away
(sandbox.py) before it reads a byte, and which knows a closed list of operations and names (pickle_reader.py). What the
child wrote passes the checks of safetensors_file.py like any untrusted file, and only then takes its name.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from io import BufferedReader, BufferedWriter
from pathlib import Path
from typing import IO, Any, get_args

from gesso.checkpoints.errors import ModelFileError, Reason
from gesso.checkpoints.hashing import sha256_of
from gesso.checkpoints.pickle_reader import PickleLimits
from gesso.checkpoints.regular_file import open_regular
from gesso.checkpoints.safetensors_file import (
    TensorInfo,
    new_weight_file,
    open_safetensors,
    parse_header,
)
from gesso.checkpoints.safetensors_layout import MAX_HEADER
from gesso.checkpoints.torch_file import MAX_EXPANSION
from gesso.errors import shorten

log = logging.getLogger(__name__)

SOURCE_KEY = "gesso.converted_from_sha256"  # metadata of a converted file
_REPORT = 2**20  # bytes of the child's report that are read


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What reading one file may take. The child ends when it takes more."""

    pickle: PickleLimits = field(default_factory=PickleLimits)
    memory: int = 2 * 2**30  # bytes of address space; 64 MB do for tensors that are contiguous
    cpu_seconds: int = 600
    wall_seconds: float = 3600


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """The result of a conversion."""

    source: Path
    target: Path
    source_sha256: str
    target_sha256: str
    names: tuple[str, ...]  # of the tensors, in the order of the new file
    dropped: tuple[str, ...]  # what was no tensor, in words; 200 at most
    confined: tuple[str, ...]  # what held the child: of sandbox.LIMITS and sandbox.SECCOMP


@dataclass(frozen=True, kw_only=True)
class PickleListing:
    """Tensors of a PyTorch file by name, without their data."""

    tensors: Mapping[str, TensorInfo]
    dropped: tuple[str, ...]
    confined: tuple[str, ...]


def convert_pickle(
    source: str | Path, target: str | Path, *, limits: Limits | None = None, metadata: Mapping[str, str] | None = None
) -> Conversion:
    """Writes the tensors of a PyTorch file as safetensors, whole or not at all.

    Equal files give equal bytes. metadata: strings for the new file, beside "format" and the SHA-256 of the source.
    Costs a pass over the file for its hash, one for the conversion and one for the hash of the result.
    Raises ModelFileError for everything that is not plain weights, and where the target cannot be written.
    """
    source, target, begin = Path(source), Path(target), time.monotonic()
    source_sha256 = sha256_of(source)
    strings = {"format": "pt", SOURCE_KEY: source_sha256, **(metadata or {})}
    with open_regular(source) as (handle, nbytes):
        before = _identity(handle)
        with new_weight_file(target) as out:
            report = _run(handle, nbytes, out, source, limits or Limits(), strings, header_only=False)
            if _identity(handle) != before or sha256_of(source) != source_sha256:
                raise ModelFileError("changed", source, "the file changed while it was read; try again")
            written = _check_result(Path(out.name), source)
    log.info(
        "converted %r to safetensors: %d tensors, %d bytes, %d objects left out, %s, %.1f s",
        str(source),
        len(written),
        nbytes,
        len(report.dropped),
        "confined" if report.confined else "not confined",
        time.monotonic() - begin,
    )
    return Conversion(
        source=source,
        target=target,
        source_sha256=source_sha256,
        target_sha256=sha256_of(target),
        names=tuple(written),
        dropped=report.dropped,
        confined=report.confined,
    )


def list_pickle(source: str | Path, *, limits: Limits | None = None) -> PickleListing:
    """Names, dtypes and shapes of the tensors; no number is read, nothing is written. Raises ModelFileError."""
    source = Path(source)
    with open_regular(source) as (handle, nbytes), tempfile.TemporaryFile() as out:
        report = _run(handle, nbytes, out, source, limits or Limits(), {}, header_only=True)
        out.seek(0)
        header = out.read(8 + MAX_HEADER)[8:]
    try:
        _, tensors = parse_header(source, header, None)
    except ModelFileError as error:
        raise ModelFileError("sandbox", source, f"the separate reader gave a broken answer ({error.reason})") from None
    return PickleListing(tensors=tensors, dropped=report.dropped, confined=report.confined)


def _identity(handle: BufferedReader) -> tuple[int, ...]:
    status = os.fstat(handle.fileno())
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _check_result(path: Path, source: Path) -> list[str]:
    """The child is not trusted: its file is checked like any file."""
    try:
        return list(open_safetensors(path).tensors)
    except ModelFileError as error:
        raise ModelFileError("sandbox", source, f"the separate reader wrote a broken file ({error.reason})") from None


# ---- the child -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Report:
    dropped: tuple[str, ...]
    confined: tuple[str, ...]


def _run(
    source: BufferedReader,
    nbytes: int,
    out: BufferedWriter | IO[bytes],
    where: Path,
    limits: Limits,
    metadata: Mapping[str, str],
    *,
    header_only: bool,
) -> _Report:
    task = {
        "nbytes": nbytes,
        "header_only": header_only,
        "metadata": dict(metadata),
        "pickle": asdict(limits.pickle),
        "memory": limits.memory,
        "cpu_seconds": limits.cpu_seconds,
        "file_nbytes": MAX_EXPANSION * nbytes + MAX_HEADER + _REPORT,
    }
    source.seek(0)
    with tempfile.TemporaryFile() as answer:  # a file: its length is limited like that of the result
        code = _spawn(json.dumps(task), source, out, answer, where, limits)
        answer.seek(0)
        text = answer.read(_REPORT)
    return _understood(text, code, where, limits)


def _spawn(task: str, source: IO[bytes], out: IO[bytes], answer: IO[bytes], where: Path, limits: Limits) -> int:
    root = str(Path(__file__).parents[2])  # at the end of the search path: the standard library comes first
    start = (
        "import sys; sys.path.append(sys.argv[1]); from gesso.checkpoints.torch_child import main; main(sys.argv[2])"
    )
    command = [sys.executable, "-I", "-S", "-B", "-X", "utf8", "-c", start, root, task]
    kept = ("SYSTEMROOT", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")  # without which some interpreters do not start
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    try:
        child = subprocess.Popen(
            command, stdin=source, stdout=out, stderr=answer, env=environment, start_new_session=True
        )
    except OSError as error:
        message = f"cannot start the separate process that reads PyTorch files: {error.strerror}"
        raise ModelFileError("sandbox", where, message) from None
    try:
        return child.wait(limits.wall_seconds)
    except subprocess.TimeoutExpired:
        raise ModelFileError("pickle_limit", where, f"takes more than {limits.wall_seconds:g} seconds") from None
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()


def _understood(text: bytes, code: int, where: Path, limits: Limits) -> _Report:
    """The child's report, checked like anything else that comes from outside."""
    try:
        report: Any = json.loads(text.rstrip().rpartition(b"\n")[2])
    except (ValueError, RecursionError):
        report = None
    if code == 0 and isinstance(report, dict):
        dropped: Any = report.get("dropped")
        confined: Any = report.get("confined")
        if _strings(dropped) and _strings(confined):
            return _Report(tuple(shorten(word) for word in dropped), tuple(shorten(word) for word in confined))
        reason: Any = report.get("reason")
        message: Any = report.get("message")
        if reason in get_args(Reason) and isinstance(message, str):
            raise ModelFileError(reason, where, message[:1000])
    if code < 0 and -code == getattr(signal, "SIGXCPU", None):
        raise ModelFileError("pickle_limit", where, f"takes more than {limits.cpu_seconds} seconds of CPU")
    how = f"was stopped by signal {-code}" if code < 0 else f"ended with code {code}"
    raise ModelFileError("sandbox", where, f"the separate process that reads PyTorch files {how}")


def _strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(word, str) for word in value)
