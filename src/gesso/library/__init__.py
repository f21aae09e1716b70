"""The user's library of models: found by name, hash, file or folder, wherever they are."""

from gesso.library.entry import LibraryEntry, ModelFile
from gesso.library.library import Library
from gesso.library.resolving import find_by_hashes, resolve

__all__ = ["Library", "LibraryEntry", "ModelFile", "find_by_hashes", "resolve"]
