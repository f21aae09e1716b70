"""The recipe of a picture: all that is needed to make it again, as strict JSON of our own.

It travels inside the picture (see `picture_file`). Paths stay at home: a weight file is named by its last part and
known by its SHA-256.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from gesso.errors import GessoError
from gesso.registry import missing_distributions
from gesso.request.checks import RequestError, parse_json_object
from gesso.request.environment import Environment
from gesso.request.request import ResolvedRequest

SCHEMA = "gesso.recipe"
VERSION = 3  # 1 knew text to image alone, 2 no files besides the models'

MAX_FILES = 64
MAX_NOTICES = 64
MAX_TEXT = 4096


@dataclass(frozen=True, kw_only=True)
class WeightFile:
    """A file that the weights came from."""

    name: str  # last part of the path, with the folder of its component where there is one
    sha256: str  # 64 hexadecimal digits, lower case


@dataclass(frozen=True, kw_only=True)
class ExtraFile:
    """A file besides the models': a LoRA, a learned word, a control network, an upscaler."""

    kind: str
    name: str  # by which the request or its prompt names it
    sha256: str
    autov3: str = ""  # twelve digits of the hash of its data alone, by which A1111 knows a LoRA; "" where it has none


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one picture was made. `request.num_images` is 1."""

    request: ResolvedRequest
    model: str  # "gesso-mini", or the name of the file or folder
    family: str
    files: tuple[WeightFile, ...]
    environment: Environment
    prediction: str = ""  # what the network was taken to predict: eps, v, x0; "" in version 1
    refiner: str = ""  # name of the model that finished the picture; "" where none did
    refiner_files: tuple[WeightFile, ...] = ()
    extras: tuple[ExtraFile, ...] = ()
    notices: tuple[str, ...] = ()
    pixels_sha256: str = ""  # of height, width and the RGB bytes; tells whether the picture was edited afterwards

    @property
    def model_hash(self) -> str:
        """A1111's model hash: the first ten digits of the SHA-256 of the first weight file; "" without files."""
        return self.files[0].sha256[:10] if self.files else ""

    @property
    def refiner_hash(self) -> str:
        """The same of the refiner."""
        return self.refiner_files[0].sha256[:10] if self.refiner_files else ""

    def to_json(self) -> str:
        """One line of JSON; `from_json` gives an equal recipe."""
        values = asdict(self) | {"request": self.request.to_dict()}
        if not self.environment.plugins:
            del values["environment"]["plugins"]  # so that every gesso reads a recipe that takes none
        return json.dumps({"schema": SCHEMA, "version": VERSION} | values, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "Recipe":
        """What `to_json` wrote. Raises RequestError for unknown, missing or ill-typed fields."""
        found = parse_json_object(text, "recipe")
        version = found.get("version")
        if found.get("schema") != SCHEMA or version not in (1, 2, VERSION) or isinstance(version, bool):
            raise RequestError(
                "recipe",
                f"recipe of schema {_short(found.get('schema'))}, version {_short(version)}; "
                f"expected {SCHEMA!r}, version 1 to {VERSION}. A newer gesso may be able to read it",
            )
        values = {key: value for key, value in found.items() if key not in ("schema", "version")}
        if version == 1:
            values = {"prediction": "", "refiner": "", "refiner_files": []} | values
        if version in (1, 2):
            values = {"extras": []} | values
        _check_keys("recipe", values, cls)
        request = ResolvedRequest.from_dict(_object("request", values["request"]))
        if request.num_images != 1:
            raise RequestError("recipe", f"recipe: for {request.num_images} pictures, expected one")
        return cls(
            request=request,
            model=_text("model", values["model"]),
            family=_text("family", values["family"]),
            files=tuple(_weight_file(file) for file in _list("files", values["files"], MAX_FILES)),
            environment=_environment(_object("environment", values["environment"])),
            prediction=_text("prediction", values["prediction"]),
            refiner=_text("refiner", values["refiner"]),
            refiner_files=tuple(_weight_file(file) for file in _list("files", values["refiner_files"], MAX_FILES)),
            extras=tuple(_extra_file(file) for file in _list("extras", values["extras"], MAX_FILES)),
            notices=tuple(_text("notices", notice) for notice in _list("notices", values["notices"], MAX_NOTICES)),
            pixels_sha256=_digest("pixels_sha256", values["pixels_sha256"]),
        )


def check_plugins(recipe: Recipe, where: object = "recipe") -> None:
    """Raises GessoError unless the packages whose plug-ins a recipe takes are installed, in any version.

    where: what the recipe was read from
    """
    if missing := missing_distributions(recipe.environment.plugins):
        verb = "is" if len(missing) == 1 else "are"
        raise GessoError(
            f"{where}: drawn with plug-ins of {', '.join(map(_short, missing))}, which {verb} not installed. "
            "Install with pip what you trust of it, and try again"
        )


def changes(before: Recipe, after: Recipe) -> list[str]:
    """What is not the same in two recipes, one line each, the likeliest cause of a different picture first."""
    lines = []
    old, new = ({f.name: f.sha256 for f in (*one.files, *one.refiner_files)} for one in (before, after))
    if sorted(old.values()) != sorted(new.values()):  # another name for the same bytes is no change
        names = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
        lines += [f"weights {name}: {_hash(old.get(name))} -> {_hash(new.get(name))}" for name in names]
    was, present = ({(f.kind, f.name): f.sha256 for f in one.extras} for one in (before, after))
    for kind, name in sorted(was.keys() | present.keys()):
        if was.get((kind, name)) != present.get((kind, name)):
            lines.append(f"{kind} {name}: {_hash(was.get((kind, name)))} -> {_hash(present.get((kind, name)))}")
    if before.family != after.family:
        lines.append(f"family: {_short(before.family)} -> {after.family}")
    if before.prediction and before.prediction != after.prediction:
        lines.append(f"prediction: {_short(before.prediction)} -> {after.prediction}")
    for name, value in before.request.to_dict().items():
        if value != (now := after.request.to_dict()[name]):
            lines.append(f"{name}: {_short(value)} -> {_short(now)}")
    for name, value in asdict(before.environment).items():
        if value != (now := getattr(after.environment, name)):
            lines.append(f"{name}: {_words(value)} -> {_words(now)}")
    return lines


def _weight_file(found: object) -> WeightFile:
    values = _object("files", found)
    _check_keys("files", values, WeightFile)
    return WeightFile(name=_text("files", values["name"]), sha256=_digest("files", values["sha256"], empty=False))


def _extra_file(found: object) -> ExtraFile:
    values = _object("extras", found)
    _check_keys("extras", values, ExtraFile)
    kind, name = _text("extras", values["kind"]), _text("extras", values["name"])
    autov3 = _text("extras", values["autov3"])
    return ExtraFile(kind=kind, name=name, sha256=_digest("extras", values["sha256"], empty=False), autov3=autov3)


def _environment(values: Mapping[str, Any]) -> Environment:
    values = {"plugins": []} | dict(values)
    _check_keys("environment", values, Environment)
    text = {name: _text(name, values[name]) for name in ("gesso", "torch", "python", "device", "dtype")}
    return Environment(
        gesso=text["gesso"],
        torch=text["torch"],
        python=text["python"],
        device=text["device"],
        dtype=text["dtype"],
        threads=_count("threads", values["threads"]),
        rows_per_call=_count("rows_per_call", values["rows_per_call"]),
        plugins=tuple(_text("plugins", one) for one in _list("plugins", values["plugins"], MAX_FILES)),
    )


def _check_keys(what: str, values: Mapping[str, Any], cls: type[Any]) -> None:
    names = {field.name for field in fields(cls)}
    if values.keys() != names:
        unknown, missing = sorted(values.keys() - names), sorted(names - values.keys())
        raise RequestError("recipe", f"recipe: {what} has unknown fields {_short(unknown)}, lacks {_short(missing)}")


def _object(what: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise RequestError("recipe", f"recipe: {what} is a {type(value).__name__}, expected an object")
    return value


def _list(what: str, value: object, most: int) -> list[Any]:
    if not isinstance(value, list) or len(value) > most:
        raise RequestError("recipe", f"recipe: {what} must be a list of at most {most}")
    return value


def _text(what: str, value: object) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise RequestError("recipe", f"recipe: {what} must be text of at most {MAX_TEXT} characters")
    return value


def _count(what: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 2**16:
        raise RequestError("recipe", f"recipe: {what} is {_short(value)}, expected a count")
    return value


def _digest(what: str, value: object, *, empty: bool = True) -> str:
    text = _text(what, value)
    if not (empty and text == "") and not (len(text) == 64 and set(text) <= set("0123456789abcdef")):
        raise RequestError("recipe", f"recipe: {what} is {_short(text)}, expected the 64 digits of a SHA-256")
    return text


def _words(value: object) -> str:
    return (", ".join(value) or "none") if isinstance(value, tuple) else str(value)


def _hash(digest: str | None) -> str:
    return digest[:10] if digest else "none"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 64 else f"{text[:60]}..."
