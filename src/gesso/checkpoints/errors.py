"""`ModelFileError`: what is wrong with a model file, from a closed list of reasons."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from gesso.errors import GessoError, shorten

Reason = Literal[
    "missing",  # no such file or folder, or a part of a folder
    "unreadable",  # not a regular file, or no permission
    "unwritable",
    "changed",  # while it was read
    "truncated",
    "not_safetensors",  # something else than weights, or in another container
    "header_length",
    "header_json",
    "offsets",
    "dtype",
    "overflow",
    "metadata",
    "config",  # a configuration that is not one of ours
    "unknown_key",
    "missing_key",
    "duplicate_key",
    "shape",
    "nonfinite",
    "architecture_mismatch",
    # PyTorch files: .ckpt, .pt, .pth, .bin
    "zip_damaged",  # no archive, or one whose parts contradict each other
    "zip_compressed",
    "zip_encrypted",
    "zip_name",  # a member that weights do not have
    "zip_overlap",  # members that share bytes, or bytes that belong to none
    "zip_checksum",
    "torchscript",
    "pickle_damaged",  # ends too early, or makes no sense
    "pickle_opcode",  # an operation that data does not need
    "pickle_global",  # names code outside the closed list
    "pickle_limit",  # more operations, memory, text or time than any model takes
    "pickle_content",  # data, but no tensors under names
    "tensor_bounds",  # a tensor outside its storage, or far more numbers than the file has
    "sandbox",  # the separate process failed, or could not be started
    # GGUF
    "gguf_version",
    "gguf_count",
    "gguf_string",
    "gguf_metadata",
    "gguf_alignment",
    "gguf_type",
    "gguf_shape",
    "gguf_offset",
    "missing_extra",  # an optional package that this needs
    # several files as one
    "shard_index",
    "shard_name",
]


class ModelFileError(GessoError):
    """A model file or folder that cannot be used; `reason` is for programs, and the error's code."""

    def __init__(self, reason: Reason, where: str | Path, message: str) -> None:
        super().__init__(f"{where}: {message}", code=reason, data={"path": str(where)})
        self.reason = reason
        self.detail = message  # without the place
        self.where = str(where)


def examples(names: Iterable[str], limit: int = 3) -> str:
    """The first few names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(shorten(name) for name in names[:limit]) + more


def shape_text(shape: Sequence[int]) -> str:
    """[320, 768]"""
    return str(list(shape))
