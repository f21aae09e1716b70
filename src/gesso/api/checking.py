"""Checks a request whole before it is accepted: fields, model, the files that it names, how much work it is.

What a worker would refuse minutes later is refused at once, by the same checks: `gesso.request` needs no torch, and
what it has to know of a family stands in `families.json`.
"""

import json
import math
import secrets
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from threading import Lock
from types import SimpleNamespace
from typing import Any

from gesso.api.family_table import FILE
from gesso.api.problems import HttpError
from gesso.api.schemas import FrontBody
from gesso.diffusion.sampler_table import SAMPLERS
from gesso.diffusion.schedule_table import SCHEDULES
from gesso.errors import GessoError, one_line, short
from gesso.frontends.front_end import FrontEnd
from gesso.library import Library
from gesso.library.builtin import BUILTIN_MODELS, builtin_adapters
from gesso.library.entry import BUILTIN, IN_FOLDER, LibraryEntry
from gesso.library.finder import LIBRARY_KINDS, LibraryFinder
from gesso.request.checks import MAX_NOISE_LEVEL, RequestError, nearest_name, unknown_data
from gesso.request.fields import NOISE_NAMES
from gesso.request.finder import Kind
from gesso.request.hires import A1111_NAMES, LATENT_UPSCALERS, upscaler_name
from gesso.request.migrations import SCHEMA, VERSION
from gesso.request.names import with_canonical_names
from gesso.request.presets import PRESETS
from gesso.request.request import DRAWN_SEED_BITS, ResolvedRequest, TextToImageRequest, with_values
from gesso.request.resolving import Defaults, resolve
from gesso.serving.settings import ServeSettings
from gesso.studio.front_ends import MIDJOURNEY, open_front_end
from gesso.text.dialects import find_dialect
from gesso.text.prompt import PromptError

FRESH = 5.0  # seconds for which a look at the library is good
PICTURE_UPSCALERS = ("nearest", "bicubic", "lanczos")
ADAPTER_KINDS: Mapping[str, Kind] = {kind: own for own, kinds in LIBRARY_KINDS.items() for kind in kinds}
MAX_HEADER = 2**24  # bytes of the header of a safetensors file


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What requests are checked against: limits and defaults of a model.

    size        of a picture, in pixels a side, where none is asked for
    multiple    sides are multiples of it
    downscale   of the autoencoder; scale: of the model's own upscaler
    activations bytes of float32 per latent of one row: "unet", "decode"; empty: not known
    """

    size: int
    multiple: int
    scale: int
    downscale: int
    num_steps: int
    guidance_scale: float
    sampler: str
    schedule: str
    clip_skip: int
    max_clip_skip: int
    kind: str
    max_noise_level: int | None
    takes_guidance_scale: bool
    is_refiner: bool
    activations: Mapping[str, int]


@cache
def table() -> Mapping[str, Any]:
    """`families.json`."""
    return dict(json.loads(FILE.read_text(encoding="utf-8")))


@cache
def family_facts() -> Mapping[str, Facts]:
    """By the family's name."""
    return {name: Facts(**values) for name, values in table()["families"].items()}


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A request that can be drawn.

    request   as it is kept: as it came
    resolved  the same with every field set, as the model has it
    work      megapixels times steps times pictures
    """

    entry: LibraryEntry
    facts: Facts
    request: TextToImageRequest
    resolved: ResolvedRequest
    work: float


class Checker:
    """Checks requests against the models and files of one library. Any thread may use it."""

    def __init__(self, library: Library, settings: ServeSettings) -> None:
        self.library, self.settings = library, settings
        self.finder = LibraryFinder(library, fresh=FRESH)
        self._lock = Lock()
        self._seen: tuple[float, tuple[LibraryEntry, ...]] | None = None

    def entries(self) -> tuple[LibraryEntry, ...]:
        """Everything in the library, as it was a few seconds ago at most, the built-in adapters too."""
        with self._lock:
            if self._seen is None or time.monotonic() - self._seen[0] > FRESH:
                self._seen = time.monotonic(), (*builtin_adapters(), *self.library.entries())
            return self._seen[1]

    def look_again(self) -> None:
        """Forget what was seen: something has been added."""
        with self._lock:
            self._seen = None
        self.finder = LibraryFinder(self.library, fresh=FRESH)

    def models(self) -> Iterator[LibraryEntry]:
        """Those that can be drawn with."""
        families = family_facts()
        for entry in self.entries():
            known = entry.family in families and not families[str(entry.family)].is_refiner
            if entry.kind == "checkpoint" and entry.problem is None and known:
                yield entry

    def adapters(self) -> Iterator[tuple[Kind, LibraryEntry]]:
        """The files that requests may name besides."""
        for entry in self.entries():
            if entry.problem is None and entry.kind in ADAPTER_KINDS:
                yield ADAPTER_KINDS[entry.kind], entry

    def model(self, name: str) -> LibraryEntry:
        """A model by its name in the library, never by a path or an address. Raises HttpError."""
        models = list(self.models())
        named = [entry for entry in models if entry.name == name]
        named = named or [entry for entry in models if entry.name.casefold() == name.casefold()]
        own = [entry for entry in named if entry.origin != IN_FOLDER]
        found = own or named
        if not found:
            known = sorted({entry.name for entry in models})
            raise HttpError(
                400,
                "unknown_name",
                f"no model is called {short(name)}{_near(name, known)}; GET /v1/models lists them",
                field="model",
                data=unknown_data(name, known[:100]),
            )
        if len(found) > 1:
            detail = f"{len(found)} models are called {short(name)}; rename one of them in the library"
            raise HttpError(400, "ambiguous_name", detail, field="model")
        return found[0]

    def check(
        self,
        model: str,
        values: Mapping[str, Any],
        front: FrontBody | None = None,
        *,
        seed: int | None = None,
        empty_prompt: bool = False,
    ) -> Checked:
        """A request as it can be accepted.

        values  the JSON of a request; fields that have a default may be missing
        front   how its prompt is read
        seed    in place of a random one, where one has to be drawn now
        empty_prompt  whether an empty prompt may be all that says what to draw
        Raises HttpError, whose field is of the request: width, loras[0].name.
        """
        entry, front = self.model(model), front or FrontBody()
        facts = facts_of(entry)
        drawn = secrets.randbits(DRAWN_SEED_BITS) if seed is None else seed
        try:
            request = TextToImageRequest.from_dict(_versioned(values))
            if front.flags and request.conventions.syntax is None:
                request = with_values(request, {"conventions.syntax": "a1111"})
            opened = self._front(front)
            plain = next(opened.requests(request, _family(facts))).request
            named = with_canonical_names(plain)
            resolved = resolve(named, defaults(named, facts), draw_seed=lambda: drawn)
            resolved = replace(resolved, num_images=opened.num_images(request), first_index=request.first_index)
            self._check_words(resolved, empty_prompt)
            self._check_files(resolved)
        except GessoError as error:
            refused = HttpError.of(error)
            refused.field = "prompt" if isinstance(error, PromptError) and error.field is None else error.field
            raise refused from None
        work = self._work(resolved)
        if resolved.variation.seed is not None and request.variation.seed is None:
            # The seed itself is drawn from the job's id; this one would be another each time that a job is drawn.
            request = replace(request, variation=replace(request.variation, seed=resolved.variation.seed))
        return Checked(entry=entry, facts=facts, request=request, resolved=resolved, work=work)

    def _front(self, front: FrontBody) -> FrontEnd:
        return open_front_end(
            MIDJOURNEY if front.flags else None,
            style=front.styles or None,
            wildcards=self.settings.wildcards if front.dynamic else None,
            dynamic=front.dynamic,
        )

    def _check_words(self, request: ResolvedRequest, empty_prompt: bool) -> None:
        """The prompts can be read, and the LoRA that they name are there. Raises GessoError."""
        dialect = find_dialect(request.conventions.syntax)
        prompts = [request.prompt]
        dialect.parse_negative(request.negative_prompt)
        if request.hires is not None:
            prompts += [text for text in (request.hires.prompt,) if text]
        shown = request.source.image is not None or request.controls
        if not (request.prompt.strip() or shown or empty_prompt):
            raise RequestError("prompt", "prompt is empty, and nothing else says what to draw")
        for prompt in prompts:
            for tag in dialect.parse(prompt).loras:
                self._find("lora", tag.name, "prompt")

    def _check_files(self, request: ResolvedRequest) -> None:
        """What a request names besides the model is there. Raises GessoError."""
        for number, use in enumerate(request.loras):
            self._find("lora", use.name, f"loras[{number}].name")
        for number, control in enumerate(request.controls):
            self._find("control", control.model, f"controls[{number}].model")
            if control.encoder is not None:
                self._find("image_encoder", control.encoder, f"controls[{number}].encoder")
        if request.hires is not None and request.hires.upscaler is not None:
            name = upscaler_name(request.hires.upscaler)
            if name not in LATENT_UPSCALERS and name not in PICTURE_UPSCALERS:
                self._find("upscaler", name, "hires.upscaler")

    def _find(self, kind: Kind, name: str, field: str) -> None:
        try:
            self.finder.find(kind, name)
        except GessoError as error:
            known = sorted({*self.finder.names(kind), *(A1111_NAMES if kind == "upscaler" else ())})
            if error.code != "unknown_name":
                raise RequestError(field, f"{field}: {short(name)} cannot be used now") from None
            text = f"{field}: nothing is called {short(name)}{_near(name, known)}; GET /v1/adapters lists what is here"
            raise RequestError(field, text, data=unknown_data(name, known[:100])) from None

    def _work(self, request: ResolvedRequest) -> float:
        """How much there is to do. Raises HttpError where it is more than a job may be."""
        if request.num_images > self.settings.max_images:
            raise HttpError(
                400,
                "too_large",
                f"num_images is {request.num_images}, expected at most {self.settings.max_images} in one job",
                field="num_images",
                data={"value": request.num_images, "high": self.settings.max_images},
            )
        work = amount(request)
        if work > self.settings.max_work:
            detail = f"{work:.0f} megapixels times steps times pictures, expected at most {self.settings.max_work:g}"
            raise HttpError(
                400, "too_large", detail, field="num_steps", data={"value": work, "high": self.settings.max_work}
            )
        return work


def amount(request: ResolvedRequest) -> float:
    """Megapixels times steps times pictures, of both passes."""
    steps = request.width * request.height * request.num_steps
    hires = request.hires
    if hires is not None and hires.width is not None and hires.height is not None:
        steps += (
            hires.width * hires.height * math.ceil((hires.num_steps or request.num_steps) * (hires.strength or 1.0))
        )
    return steps * request.num_images / 1e6


def defaults(request: TextToImageRequest, facts: Facts) -> Defaults:
    """What `resolve` asks of a model. Conventions of a preset that depend on the sampler are left to the worker."""
    preset = request.preset or "gesso"
    etas = dict(table()["etas"])
    if preset == "diffusers":
        etas["tcd"] = 0.0
    known = [name for name, row in SAMPLERS.items() if not (facts.takes_guidance_scale and row.asks_uncond)]
    return Defaults(
        width=facts.size,
        height=facts.size,
        num_steps=facts.num_steps,
        guidance_scale=facts.guidance_scale,
        sampler=request.sampler or facts.sampler,
        schedule=facts.schedule,
        clip_skip=facts.clip_skip,
        preset=preset,
        presets=PRESETS[preset],
        kind=facts.kind,
        max_noise_level=facts.max_noise_level if facts.max_noise_level is not None else MAX_NOISE_LEVEL,
        multiple=facts.multiple,
        max_clip_skip=facts.max_clip_skip,
        samplers=known,
        schedules=SCHEDULES.keys(),
        noises=NOISE_NAMES,
        etas=etas,
    )


def facts_of(entry: LibraryEntry) -> Facts:
    """The facts of a model: its family's, or those in its file for a model that gesso has trained."""
    facts = family_facts()[str(entry.family)]
    if entry.family == "gesso-mini" and not (entry.origin == BUILTIN and entry.name in BUILTIN_MODELS):
        return _own_facts(entry, facts)
    return facts


def _own_facts(entry: LibraryEntry, family: Facts) -> Facts:
    try:
        with open(entry.path, "rb") as handle:
            length = int.from_bytes(handle.read(8), "little")
            if length > MAX_HEADER:
                return family
            config = json.loads(json.loads(handle.read(length))["__metadata__"]["gesso.config"])
        scale = config["upscaler"]["scale"] if config["upscaler"] else 1
        downscale = 2 ** (len(config["vae"]["channels"]) - 1) * config["vae"]["patch_size"]
        return replace(
            family,
            size=config["native_size"] * scale,
            multiple=downscale * scale,
            scale=scale,
            downscale=downscale,
            num_steps=config["defaults"]["num_steps"],
            guidance_scale=config["defaults"]["guidance_scale"],
            sampler=config["defaults"]["sampler"],
            schedule=config["defaults"]["schedule"],
            clip_skip=config["clip_skip"],
            max_clip_skip=config["text"]["num_layers"],
        )
    except (OSError, ValueError, KeyError, TypeError):  # the worker reads it strictly, and says what is wrong
        return family


def _family(facts: Facts) -> Any:
    """What flags in a prompt go by, as a family has it."""
    return SimpleNamespace(
        output_size=facts.size,
        size_multiple=facts.multiple,
        defaults=SimpleNamespace(num_steps=facts.num_steps, guidance_scale=facts.guidance_scale),
    )


def _versioned(values: Mapping[str, Any]) -> dict[str, Any]:
    """The request as of this version, where it says none."""
    return {"schema": SCHEMA, "version": VERSION} | dict(values)


def _near(name: str, known: Collection[str]) -> str:
    near = nearest_name(name, known)
    return f" (did you mean {one_line(near)!r}?)" if near is not None else ""
