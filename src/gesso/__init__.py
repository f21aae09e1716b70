"""gesso: words become pictures, natively in PyTorch.

This module names the public API and runs nothing: a name is imported when it is first used, so that `import gesso` and
`gesso --help` stay quick and touch neither torch nor a device.
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers and editors; at run time __getattr__ below does the same, later
    from gesso.errors import GessoError
    from gesso.pipelines.picture import Picture
    from gesso.pipelines.text_to_image import TextToImage
    from gesso.request.request import TextToImageRequest
    from gesso.runtime.engine import Engine

__version__ = "0.1.0"

logging.getLogger(__name__).addHandler(logging.NullHandler())  # what is logged is the application's to show

# Public name -> the module that defines it.
_PUBLIC = {
    "Engine": "gesso.runtime.engine",
    "GessoError": "gesso.errors",
    "Picture": "gesso.pipelines.picture",
    "TextToImage": "gesso.pipelines.text_to_image",
    "TextToImageRequest": "gesso.request.request",
}

__all__ = ["Engine", "GessoError", "Picture", "TextToImage", "TextToImageRequest", "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_PUBLIC[name]), name)
    globals()[name] = value  # the next use is a plain lookup
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
