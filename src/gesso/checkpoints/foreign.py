"""Identifies a file by its first bytes, whatever its name."""

import codecs
from typing import Literal

START = 512  # bytes that are enough to identify a file

Container = Literal["zip", "stacked", "pickle", "gguf", "index", "other"]

_IMPORT = "convert it to safetensors first. Try: gesso models import FILE"
_CONTAINERS: tuple[tuple[bytes, Container, str], ...] = (
    (b"PK\x03\x04", "zip", f"a zip archive or a PyTorch file (.ckpt, .pt, .bin); {_IMPORT}"),
    (b"\x80\x02", "pickle", f"a Python pickle (.ckpt, .pt, .bin); {_IMPORT}"),
    (b"\x80\x03", "pickle", f"a Python pickle (.ckpt, .pt, .bin); {_IMPORT}"),
    (b"\x80\x04", "pickle", f"a Python pickle (.ckpt, .pt, .bin); {_IMPORT}"),
    (b"\x80\x05", "pickle", f"a Python pickle (.ckpt, .pt, .bin); {_IMPORT}"),
    (b"GGUF", "gguf", "a GGUF file, which cannot be used here"),
)
# What people hand in instead of weights.
_OTHERS: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a git-lfs pointer; the weights were never downloaded: run `git lfs pull`"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"Rar!", "a RAR archive; unpack it first"),
    (b"7z\xbc\xaf'\x1c", "a 7-Zip archive; unpack it first"),
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"BZh", "a bzip2 archive; unpack it first"),
    (b"\xfd7zXZ\0", "an xz archive; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive; unpack it first"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"GIF8", "a GIF picture"),
    (b"\x93NUMPY", "a NumPy file"),
    (b"\x89HDF", "an HDF5 file (Keras or TensorFlow)"),
    (b"ggml", "a GGML file, which GGUF has replaced"),
    (b"lmgg", "a GGML file, which GGUF has replaced"),
    (b"tjgg", "a GGML file, which GGUF has replaced"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
    (b"#!", "a script"),
    (b"%PDF", "a PDF document"),
    (b"-----BEGIN", "a key or a certificate"),
)
_PAGES = (b"<!doctype", b"<html", b"<?xml", b"<head", b"<script")


def _is_safetensors(start: bytes) -> bool:
    """A length below 16 MB and the header's brace. The length may spell any magic: 640 is that of a pickle."""
    return start[3:9] == b"\0\0\0\0\0{"


def container_of(start: bytes) -> Container:
    """The container format of weights: zip, pickle, GGUF, ...; "other" for safetensors and everything unknown."""
    if _is_safetensors(start):
        return "other"
    if start[:2] == b"\x80\x02" and b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19." in start[:32]:
        return "stacked"
    for magic, container, _ in _CONTAINERS:
        if start.startswith(magic):
            return container
    return "index" if start.lstrip(b" \t\r\n").startswith(b"{") else "other"


def looks_like(start: bytes) -> str | None:
    """In words, after "looks like": what this is instead of safetensors, where the first bytes say so."""
    if _is_safetensors(start):
        return None
    for magic, _, what in _CONTAINERS:
        if start.startswith(magic):
            return what
    for magic, what in _OTHERS:
        if start.startswith(magic):
            return what
    if start[257:262] == b"ustar":
        return "a tar archive (PyTorch wrote some before 2017); unpack it first"
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(_PAGES):
        return "a web page, perhaps a log-in or error page; download the file itself"
    if text.startswith(b"{"):
        return "JSON text, perhaps a server's error message or an index; give the weights themselves"
    if len(start) >= 64 and not start.strip(b"\0"):
        return "a file of zeros: a download that never finished; download it again"
    return "plain text; give the weights themselves" if _is_text(start) else None


def _is_text(start: bytes) -> bool:
    """UTF-8, perhaps cut inside its last character. What is shorter than the length of a header may be one cut off."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(start)
    except UnicodeDecodeError:
        return False
    return len(start) >= 8 and all(char.isprintable() or char in "\t\r\n\f\ufeff" for char in text)
