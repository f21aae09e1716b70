"""A quicker import of torch: a quarter of it, for shapes without numbers, is put off until something asks for it."""

import importlib
import sys
from types import ModuleType
from typing import Any

_NAME = "torch._meta_registrations"


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
