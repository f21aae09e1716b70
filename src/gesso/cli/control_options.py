"""Options for ControlNet, T2I-Adapter and IP-Adapter with their control images (hints)."""

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
        help="ControlNet, T2I-Adapter or IP-Adapter by name or file, with its control image, such as "
        "canny,image=photo.png,preprocess=canny. Optional: weight=; start= and end=, as fractions of the "
        "steps; mode=balanced, prompt or control; parameters of the preprocessor, such as low=50; encoder=FILE for an "
        "IP-Adapter; kind=NAME for a ControlNet Union (repeatable).",
    ),
]
HintOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--hint", metavar="FILE", help="Control image for a ControlNet named in the --from picture (repeatable)."
    ),
]
_NUMBERS = ("weight", "start", "end")
_TEXTS = ("mode", "preprocessor", "encoder", "kind")
_ALIASES = {"preprocess": "preprocessor", "strength": "weight"}
_EXAMPLE = "Example: --control canny.safetensors,image=edges.png,weight=0.8"


def parse_controls(texts: Sequence[str]) -> list[ControlFile]:
    """ "canny.safetensors,image=photo.png,weight=0.8,end=0.7,preprocess=canny", each. Raises GessoError."""
    return [_parse(text) for text in texts]


def _parse(text: str) -> ControlFile:
    name, *settings = (part.strip() for part in text.split(","))
    if name.startswith("model="):
        name = name.removeprefix("model=")
    image: Path | None = None
    settings_by_key: dict[str, Any] = {}
    parameters: list[tuple[str, float]] = []
    pairs = [(setting, *_pair(setting)) for setting in settings]
    of_preprocessor = parameter_names(next((value for _, key, _, value in pairs if key == "preprocessor"), None))
    for setting, key, sign, value in pairs:
        if sign and key in of_preprocessor:
            parameters.append((key, _number(text, key, value)))
            continue
        known = ("image", *_NUMBERS, *_TEXTS, *_ALIASES, *of_preprocessor)
        if not sign or key not in known:
            raise GessoError(
                f"--control {text[:80]}: unknown setting {setting[:40]!r}{nearest(key, known)}. {_EXAMPLE}",
                code="usage",
            )
        if key in settings_by_key or (key == "image" and image is not None):
            raise GessoError(f"--control {text[:80]}: {key} is given twice", code="usage")
        if key == "image":
            image = Path(value)
        else:
            settings_by_key[key] = _number(text, key, value) if key in _NUMBERS else value
    if not name or image is None:
        raise GessoError(
            f"--control {text[:80]}: no {'control image' if name else 'model'} is given. {_EXAMPLE}", code="usage"
        )
    if parameters:
        settings_by_key["parameters"] = tuple(parameters)
    encoder = Path(settings_by_key["encoder"]) if Path(settings_by_key.get("encoder") or "?").exists() else None
    if encoder is not None:
        settings_by_key["encoder"] = encoder_name(encoder)
    file = Path(name) if Path(name).exists() else None
    return ControlFile(file.stem if file is not None else name, file, image, settings_by_key, encoder)


def _pair(setting: str) -> tuple[str, str, str]:
    key, sign, value = setting.partition("=")
    return _ALIASES.get(key.strip(), key.strip()), sign, value


def parameter_names(preprocessor: str | None = None) -> frozenset[str]:
    """The parameters of all built-in preprocessors, and of this one; each checks which ones it takes."""
    from gesso.hints.registry import PREPROCESSORS

    rows = list(PREPROCESSORS.builtin.values())
    if preprocessor is not None and (key := PREPROCESSORS.find(preprocessor)) is not None:
        rows.append(PREPROCESSORS[key])
    return frozenset(name for row in rows for name in row.parameters)


def _number(text: str, key: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise GessoError(
            f"--control {text[:80]}: {key} is {value[:20]!r}, expected a number", code="invalid_value"
        ) from None
