"""The recipe of a picture: everything needed to redraw it, as strict JSON.

It is stored in the picture (see `picture_file`). It holds no paths: a weight file is named by the last part of its path
and identified by its SHA-256.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta

from gesso.errors import GessoError, short
from gesso.notices import RECORDED, Notice
from gesso.registry import SWITCH, missing_distributions, plugins_are_off
from gesso.request.checks import HEX_64, RequestError, parse_json_object
from gesso.request.environment import Environment, Text
from gesso.request.request import ResolvedRequest, flat
from gesso.request.typed import convert, types_of

SCHEMA = "gesso.recipe"
VERSION = 4  # 1 knew text to image alone, 2 no files besides the models', 3 a flat request

TENSORS = ("latents", "prompt_embeddings", "negative_prompt_embeddings")  # kinds of extras that are no files
GIVEN = "given"  # name of an extra that is no file: a tensor that was passed in Python
MAX_FILES = 64
MAX_NOTICES = 64

if TYPE_CHECKING:
    _Notice = Notice
else:
    _Notice = Text  # what stands in the file; the recipe makes notices of it

Digest = Annotated[str, Meta(pattern=f"^{HEX_64}$", max_length=64)]


@dataclass(frozen=True, kw_only=True)
class WeightFile:
    """A file that the weights came from."""

    name: Text  # last part of the path, with the folder of its component where there is one
    sha256: Digest


@dataclass(frozen=True, kw_only=True)
class ExtraFile:
    """A file besides the model: a LoRA, an embedding, a ControlNet, an image encoder or an upscaler.

    Or a tensor that was passed in Python (latents, prompt_embeddings), whose name is "given".
    """

    kind: Text
    name: Text  # by which the request or its prompt names it
    sha256: Digest
    autov3: Text = ""  # twelve digits of the hash of its data alone, by which A1111 knows a LoRA; "" where it has none


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one picture was made. `request.num_images` is 1."""

    request: ResolvedRequest
    model: Text  # "gesso-mini", or the name of the file or folder
    family: Text
    files: Annotated[tuple[WeightFile, ...], Meta(max_length=MAX_FILES)]
    environment: Environment
    prediction: Text = ""  # what the network was taken to predict: eps, v, x0; "" in version 1
    refiner: Text = ""  # name of the model that finished the picture; "" where none did
    refiner_files: Annotated[tuple[WeightFile, ...], Meta(max_length=MAX_FILES)] = ()
    extras: Annotated[tuple[ExtraFile, ...], Meta(max_length=MAX_FILES)] = ()
    notices: Annotated[tuple[_Notice, ...], Meta(max_length=MAX_NOTICES)] = ()
    # Of height, width and the RGB bytes; tells whether the picture was edited afterwards. "" before it is drawn.
    pixels_sha256: Annotated[str, Meta(pattern=f"^({HEX_64})?$(?!\n)")] = ""

    def __post_init__(self) -> None:
        notices = (each if isinstance(each, Notice) else Notice(each, code=RECORDED) for each in self.notices)
        object.__setattr__(self, "notices", tuple(notices))

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
        values = {key: getattr(self, key) for key in types_of(Recipe)} | {"request": self.request.to_dict()}
        values["environment"] = asdict(self.environment)
        values["notices"] = [str(notice) for notice in self.notices]
        if not self.environment.plugins:
            del values["environment"]["plugins"]  # so that every gesso reads a recipe that takes none
        return msgspec.json.encode({"schema": SCHEMA, "version": VERSION} | values).decode()

    @classmethod
    def from_json(cls, text: str) -> "Recipe":
        """What `to_json` wrote, in this version or an earlier one.

        Raises RequestError for unknown, missing or ill-typed fields.
        """
        values = _migrated(parse_json_object(text, "recipe"))
        asked = values.get("request")
        if not isinstance(asked, dict):
            raise RequestError("recipe.request", f"recipe.request is {short(asked)}, expected an object")
        request = ResolvedRequest.from_dict(asked)
        if request.num_images != 1:
            raise RequestError("recipe", f"recipe: num_images is {request.num_images}, expected 1")
        recipe: Recipe = convert(cls, values | {"request": request}, "recipe", exact=True)
        return recipe


def check_tensors(recipe: Recipe, where: object = "recipe") -> None:
    """Raises GessoError for a recipe that was drawn from tensors, which it does not contain.

    where: what the recipe was read from
    """
    for extra in recipe.extras:
        if extra.name == GIVEN and extra.kind in TENSORS:
            raise GessoError(
                f"{where}: drawn with `{extra.kind}` given as a tensor (sha256 {extra.sha256[:10]}...), which a recipe "
                "does not contain. Draw it in Python with its request and the same tensor",
                code="tensor_missing",
                field=extra.kind,
                data={"sha256": extra.sha256},
            )


def _migrated(stored: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a recipe of any version, converted to the current one; its request is migrated separately.

    Raises RequestError for another schema, and a version that is not known.
    """
    version = stored.get("version")
    if stored.get("schema") != SCHEMA or type(version) is not int or not 1 <= version <= VERSION:
        raise RequestError(
            "recipe",
            f"recipe of schema {short(stored.get('schema'))}, version {short(version)}; "
            f"expected {SCHEMA!r}, version 1 to {VERSION}. If a newer gesso wrote it, update gesso",
        )
    values = {key: value for key, value in stored.items() if key not in ("schema", "version")}
    if version == 1:
        values = {"prediction": "", "refiner": "", "refiner_files": []} | values
    if version <= 2:
        values = {"extras": []} | values
    if isinstance(environment := values.get("environment"), dict):
        values["environment"] = {"plugins": []} | environment  # which a picture without plug-ins does not name
    return values


def check_plugins(recipe: Recipe, where: object = "recipe") -> None:
    """Raises GessoError unless the packages whose plug-ins a recipe uses are installed, in any version, and not
    switched off.

    where: what the recipe was read from
    """
    if missing := missing_distributions(recipe.environment.plugins):
        verb = "is" if len(missing) == 1 else "are"
        raise GessoError(
            f"{where}: drawn with plug-ins of {', '.join(map(short, missing))}, which {verb} not installed. "
            "Install what you trust with pip, and try again",
            code="plugin_missing",
        )
    if recipe.environment.plugins and plugins_are_off():
        raise GessoError(
            f"{where}: drawn with plug-ins of {', '.join(map(short, recipe.environment.plugins))}, and {SWITCH} "
            "switches plug-ins off. Remove it from the environment, and try again",
            code="plugin_missing",
        )


def changes(before: Recipe, after: Recipe) -> list[str]:
    """The differences between two recipes, one per line, the likeliest cause of a different picture first."""
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
        lines.append(f"family: {short(before.family)} -> {after.family}")
    if before.prediction and before.prediction != after.prediction:
        lines.append(f"prediction: {short(before.prediction)} -> {after.prediction}")
    values, now = flat(before.request), flat(after.request)  # what an earlier version did without is None, or a default
    for name, value in values.items():
        if value != now[name]:
            lines.append(f"{name}: {short(msgspec.to_builtins(value))} -> {short(msgspec.to_builtins(now[name]))}")
    for name, value in asdict(before.environment).items():
        if value != (now := getattr(after.environment, name)):
            lines.append(f"{name}: {_words(value)} -> {_words(now)}")
    return lines


def _words(value: object) -> str:
    return (", ".join(value) or "none") if isinstance(value, tuple) else str(value)


def _hash(digest: str | None) -> str:
    return digest[:10] if digest else "none"
