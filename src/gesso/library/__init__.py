"""The models that a user has: found by name, hash, file or folder, wherever they lie."""

from gesso.library.entry import Entry, ModelFile
from gesso.library.library import Library
from gesso.library.resolving import find_by_hashes, resolve

__all__ = ["Entry", "Library", "ModelFile", "find_by_hashes", "resolve"]
