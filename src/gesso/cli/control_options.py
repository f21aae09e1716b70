"""Options that name networks which steer, and the pictures that they go by."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from gesso.errors import GessoError
from gesso.request.checks import nearest
from gesso.studio.files import encoder_name
from gesso.studio.sources import ControlFile

ControlOption = Annotated[
    list[str] | None,
    typer.Option(
        "--control",
        metavar="MODEL,image=FILE,...",
        help="A network that steers, and its picture, such as canny.safetensors,image=photo.png,preprocess=canny; "
        "weight=, start=, end= (shares of the steps), mode=balanced, prompt or control; what the "
        "preprocessor takes, such as low=50; encoder=FILE for an IP-Adapter, kind=NAME for a ControlNet Union. "
        "Again for several.",
    ),
]
HintOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--hint", metavar="FILE", help="A picture that control networks of a picture's settings went by; again."
    ),
]
_NUMBERS = ("weight", "start", "end")
_TEXTS = ("mode", "preprocessor", "encoder", "kind")
_ALIASES = {"preprocess": "preprocessor", "strength": "weight"}
_EXAMPLE = "such as canny.safetensors,image=edges.png,weight=0.8"


def parse_controls(texts: Sequence[str]) -> list[ControlFile]:
    """ "canny.safetensors,image=photo.png,weight=0.8,end=0.7,preprocess=canny", each. Raises GessoError."""
    return [_parse(text) for text in texts]


def _parse(text: str) -> ControlFile:
    name, *settings = (part.strip() for part in text.split(","))
    if name.startswith("model="):
        name = name.removeprefix("model=")
    image: Path | None = None
    found: dict[str, Any] = {}
    parameters: list[tuple[str, float]] = []
    for setting in settings:
        key, sign, value = setting.partition("=")
        key = _ALIASES.get(key.strip(), key.strip())
        if sign and key in parameter_names():
            parameters.append((key, _number(text, key, value)))
            continue
        known = ("image", *_NUMBERS, *_TEXTS, *_ALIASES, *parameter_names())
        if not sign or key not in known:
            raise GessoError(f"--control {text[:80]}: {setting[:40]!r} is no setting{nearest(key, known)}, {_EXAMPLE}")
        if key in found or (key == "image" and image is not None):
            raise GessoError(f"--control {text[:80]}: {key} is said twice")
        if key == "image":
            image = Path(value)
        else:
            found[key] = _number(text, key, value) if key in _NUMBERS else value
    if not name or image is None:
        raise GessoError(f"--control {text[:80]}: {'the picture' if name else 'the network'} is missing, {_EXAMPLE}")
    if parameters:
        found["parameters"] = tuple(parameters)
    encoder = Path(found["encoder"]) if Path(found.get("encoder") or "?").exists() else None
    if encoder is not None:
        found["encoder"] = encoder_name(encoder)
    file = Path(name) if Path(name).exists() else None
    return ControlFile(file.stem if file is not None else name, file, image, found, encoder)


def parameter_names() -> frozenset[str]:
    """What can be set of any preprocessor; which takes what, it says itself."""
    from gesso.hints.registry import PREPROCESSORS

    return frozenset(name for row in PREPROCESSORS.values() for name in row.parameters)


def _number(text: str, key: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise GessoError(f"--control {text[:80]}: {key} is {value[:20]!r}, expected a number") from None
