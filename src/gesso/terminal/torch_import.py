"""A quicker import of torch: its library is loaded beside other imports, and a quarter of its import, for shapes
without numbers, is put off until something asks for it."""

import ctypes
import importlib
import importlib.util
import os
import sys
from contextlib import suppress
from pathlib import Path
from threading import Thread
from types import ModuleType
from typing import Any

_NAME = "torch._meta_registrations"
# Modules in C that `gesso generate` needs before torch. The system loads one library at a time, so each of them would
# wait for torch's if it came after it.
_IN_C = (
    *("_struct", "zlib", "_bz2", "_lzma", "_opcode", "fcntl", "_posixsubprocess", "select", "math", "_datetime"),
    *("_uuid", "_heapq", "unicodedata", "_json", "_bisect", "_random", "_sha512", "_socket", "_decimal", "array"),
    *("binascii", "_hashlib", "_blake2", "_csv", "_contextvars", "_zoneinfo", "_pickle", "msgspec", "pydantic_core"),
)


class _PutOff(ModuleType):
    """Stands for torch's module; the first look at anything in it imports the real one."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what the import machinery looks at
            raise AttributeError(name)
        return getattr(_real(self), name)


def _real(placeholder: ModuleType) -> ModuleType:
    if sys.modules.get(_NAME) is placeholder:
        del sys.modules[_NAME]
    return importlib.import_module(_NAME)


def put_off_meta() -> None:
    """Before torch is imported. `runtime.footprint` asks for the rest of it, and so does torch's own code where it
    needs it; a command that compiles or counts in another way must not call this."""
    if "torch" not in sys.modules:
        sys.modules[_NAME] = _PutOff(_NAME)


def load_beside() -> None:
    """Begin to load torch's largest library on another core, while Python goes on importing.

    To load it takes 0.2 s of a processor and none of Python: the import of torch finds it there, or waits for the rest.
    Where it cannot be loaded like this, nothing happens, and the import says what is wrong.
    """
    if sys.platform != "linux" or "torch" in sys.modules:
        return
    with suppress(ImportError, ValueError):
        spec = importlib.util.find_spec("torch")
        for folder in (spec and spec.submodule_search_locations) or ():
            library = Path(folder) / "lib" / "libtorch_cpu.so"
            if library.exists():
                for name in _IN_C:
                    with suppress(ImportError):
                        importlib.import_module(name)
                Thread(target=_load, args=(library,), daemon=True).start()


def _load(library: Path) -> None:
    # Called as a function of the C library, since Python lets no other thread go on while it loads a library itself.
    with suppress(OSError, AttributeError):
        dlopen = ctypes.CDLL(None).dlopen
        dlopen.argtypes, dlopen.restype = [ctypes.c_char_p, ctypes.c_int], ctypes.c_void_p
        dlopen(os.fsencode(library), os.RTLD_NOW | os.RTLD_LOCAL)
