"""A request becomes pictures: text, pictures that go in, noise, sampler, decoder, pixels.

One way for every job: text to image, image to image, inpainting, editing and enlarging differ in where the sampler
starts (`steps`), in what the network is shown beside the text (`inputs`) and in what stands around it (`networks`).

The picture of a row is the same alone or in a batch, bit by bit, because by default the networks see one picture at a
time (its guided and its unguided half together); see `Engine.rows_per_call`.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gesso.adapters.attaching import Attachment
from gesso.diffusion.conventions import CFGPP_SCALE, EnsdNoise
from gesso.diffusion.denoiser import Denoiser
from gesso.diffusion.diffusers_steps import DiffusersScheduler
from gesso.diffusion.guidance import GuidedNetwork
from gesso.diffusion.noise import NOISE_SOURCES, NoiseSource
from gesso.diffusion.samplers import SAMPLERS, sample
from gesso.diffusion.schedule import SCHEDULES
from gesso.diffusion.tiles import TiledDenoiser, tiles_of
from gesso.diffusion.torchsde_tree import TreeNoise
from gesso.families.base import Family
from gesso.pictures.infotext import infotext
from gesso.pictures.picture_file import DEFAULT_QUALITY, encode_picture, pixels_sha256
from gesso.pictures.reading import mask_digest, notices_of, picture_digest
from gesso.pipelines.adapters import Adapters, Wanted, find_adapters, read_adapters
from gesso.pipelines.clock import Clock
from gesso.pipelines.framing import with_size
from gesso.pipelines.inputs import SourcePictures, Start, encode_mean, prepare
from gesso.pipelines.networks import (
    ChangingText,
    Denoising,
    Differential,
    EditNetwork,
    HandOver,
    IndependentNoise,
    MaskedInput,
    MaskedPrediction,
    TextNetwork,
)
from gesso.pipelines.prompts import EncodedPrompt, Told, encode_prompts, num_guiding
from gesso.pipelines.second_pass import (
    UpscalerFile,
    enlarged_latents,
    enlarged_picture,
    is_interpolation,
    second_request,
    works_on_latents,
)
from gesso.pipelines.steering import Controls, find_controls
from gesso.pipelines.steps import (
    A1111_OWN_SPACING,
    DIFFUSERS_IN_SIGMA,
    DIFFUSERS_SCHEDULERS,
    Steps,
    default_spacing,
    plan_steps,
)
from gesso.request.checks import RequestError
from gesso.request.finder import Finder, embedded_files
from gesso.request.names import with_canonical_names
from gesso.request.presets import PRESET_DEFAULTS, PRESETS
from gesso.request.recipe import ExtraFile, Recipe, WeightFile
from gesso.request.request import MAX_NOISE_LEVEL, OWN_SCHEDULE, Defaults, ResolvedRequest, TextToImageRequest
from gesso.runtime.conditioning import Conditioning
from gesso.runtime.engine import Engine, LoadedModel
from gesso.runtime.finite import Rescued, rescued, stop_when_all_lost
from gesso.runtime.plan import MemoryPlan, Workload
from gesso.runtime.seamless import seamless
from gesso.runtime.shelf import AdapterShelf
from gesso.runtime.upscaling import TILE, Upscaler
from gesso.text.emphasis import NEEDS_EMPTY


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run is. `step` of `num_steps` sampling steps are done for the pictures first .. first + count - 1."""

    first: int
    count: int
    num_images: int
    step: int
    num_steps: int
    latents: Tensor | None = None  # [count, C, h, w], the clean latents that the network last predicted


OnProgress = Callable[[Progress], None]

DEIS_SHORT_RUN = 15  # steps


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One result."""

    image: Image.Image
    recipe: Recipe

    @property
    def seed(self) -> int:
        """The seed of the run; with `index` it decides the noise."""
        return self.recipe.request.seed

    @property
    def index(self) -> int:
        """Which picture of the run this is."""
        return self.recipe.request.first_index

    @property
    def notices(self) -> tuple[str, ...]:
        """What the user should know: words ignored, text cut off."""
        return self.recipe.notices

    def noted(self, notices: tuple[str, ...]) -> "Picture":
        """The same with more that the user should know, such as what its prompt came from."""
        return replace(self, recipe=replace(self.recipe, notices=notices + self.recipe.notices)) if notices else self

    def encode(self, kind: str = "PNG", quality: int = DEFAULT_QUALITY) -> bytes:
        """The picture as a file of a format (PNG, JPEG, WEBP, AVIF) with infotext and recipe inside.

        quality: 1 to 100, of all but PNG. Raises GessoError where the texts are too long for the format.
        """
        request = self.recipe.request
        parameters = infotext(
            self.recipe,
            sampler_label=SAMPLERS[request.sampler].label,
            schedule_label="Own" if request.schedule == OWN_SCHEDULE else SCHEDULES[request.schedule].label,
        )
        return encode_picture(self.image, self.recipe, parameters, kind, quality)

    def to_png(self) -> bytes:
        """The picture as a PNG file with infotext and recipe inside."""
        return self.encode()


class TextToImage:
    """Pictures from one model on one engine, and a refiner that may finish them. Holds no state between calls.

    finder: where the files are that a request names besides the model (adapters, control networks, upscalers); where
            None, those alone that gesso carries
    """

    def __init__(
        self,
        engine: Engine,
        model: LoadedModel,
        *,
        refiner: LoadedModel | None = None,
        finder: Finder | None = None,
    ) -> None:
        self.engine, self.model, self.refiner = engine, model, refiner
        self.finder = finder or embedded_files()

    def resolve(
        self, request: TextToImageRequest, *, image: Image.Image | None = None, mask: Image.Image | None = None
    ) -> ResolvedRequest:
        """The request with this model's defaults in place of everything left open. Raises RequestError.

        image and mask are the pictures that the request speaks of. Where it names none, theirs are filled in; where it
        names others, it is refused.
        """
        request = with_canonical_names(request)
        request = _with_digest(request, "image", picture_digest(image) if image is not None else None)
        request = _with_digest(request, "mask", mask_digest(mask) if mask is not None else None)
        request = with_size(request, self.model.family, image)
        return request.resolve(defaults_for(request, self.model.family, has_refiner=self.refiner is not None))

    def __call__(
        self,
        request: TextToImageRequest,
        on_progress: OnProgress | None = None,
        *,
        image: Image.Image | None = None,
        mask: Image.Image | None = None,
        hints: Sequence[Image.Image] = (),
    ) -> Iterator[Picture]:
        """Pictures, each as soon as it is finished.

        image: the picture to start from; mask: grey, white is drawn again; hints: the pictures that the request's
        controls name, in any order. The request is checked at once, the work is done as the iterator is read. Raises
        RequestError (a GessoError) for a request that the model cannot serve, GessoError where a network gives numbers
        that are not finite.
        """
        job = self._job(request, image, mask, hints)
        return self._run(job, on_progress or (lambda progress: None))

    def pixels(
        self,
        request: TextToImageRequest,
        *,
        image: Image.Image | None = None,
        mask: Image.Image | None = None,
        hints: Sequence[Image.Image] = (),
    ) -> Tensor:
        """The pictures as the networks leave them, before 256 levels are made and anything is pasted: for measurements.

        -> float32 [num_images, 3, H, W] in about [-1, 1]. Raises as a call does.
        """
        job = self._job(request, image, mask, hints)
        rows = [self._draw(job, row, 1, lambda step, latents: None).pixels for row in range(job.request.num_images)]
        return torch.cat(rows).float()

    def _job(
        self,
        request: TextToImageRequest,
        image: Image.Image | None,
        mask: Image.Image | None,
        hints: Sequence[Image.Image],
    ) -> "_Job":
        resolved = self.resolve(request, image=image, mask=mask)
        for name, given in (("image", image), ("mask", mask)):
            if (digest := getattr(resolved, name)) is not None and given is None:
                raise RequestError(name, f"the request starts from the {name} {digest[:10]}..., which was not given")
        pictures = SourcePictures.of(resolved, self.model.family, image, mask)
        controls = find_controls(
            resolved,
            hints,
            mask,
            engine=self.engine,
            model=self.model,
            finder=self.finder,
            part=pictures.around.part if pictures.around is not None else None,
        )
        job = self._pass(resolved, pictures, controls)
        job.notices = notices_of(image, *hints)
        if (again := self._second(resolved)) is not None:
            job.second = self._pass(again, SourcePictures(), controls, base_steps=job.steps.num_planned)
            job.upscaler = self._upscaler(resolved)
        return job

    def _pass(
        self, request: ResolvedRequest, pictures: SourcePictures, controls: Controls, *, base_steps: int = 0
    ) -> "_Job":
        return _Job(
            request=request,
            pictures=pictures,
            steps=plan_steps(request, self.model.family, again=base_steps > 0),
            base_steps=base_steps,
            wanted=find_adapters(request, self.finder, self.model.tokenizer),
            controls=controls,
        )

    def _second(self, request: ResolvedRequest) -> ResolvedRequest | None:
        return second_request(request, lambda asked: defaults_for(asked, self.model.family))

    def _upscaler(self, request: ResolvedRequest) -> str | UpscalerFile:
        """How the first pass's picture is enlarged. Raises GessoError for a network that is not there."""
        assert request.hires is not None and request.hires.upscaler is not None
        name = request.hires.upscaler
        if works_on_latents(name) or is_interpolation(name):
            return name
        path = self.finder.find("upscaler", name)
        return UpscalerFile(name, path, self.engine.load_upscaler(path))

    def _run(self, job: "_Job", on_progress: OnProgress) -> Iterator[Picture]:
        request, pictures = job.request, job.pictures
        for start in range(0, request.num_images, self.engine.rows_per_call):
            count = min(self.engine.rows_per_call, request.num_images - start)

            def report(step: int, latents: Tensor | None, start: int = start, count: int = count) -> None:
                on_progress(
                    Progress(
                        first=start,
                        count=count,
                        num_images=request.num_images,
                        step=step,
                        num_steps=job.num_steps,
                        latents=latents,
                    )
                )

            report(0, None)
            found = self._draw(job, start, count, report)
            for row, drawn in enumerate(to_images(found.pixels, request.levels)):
                passes = [job] if job.second is None else [job, job.second]
                told = dict.fromkeys(
                    line for one in passes for line in (*self._prompts(one)[0].notices, *one.steps.notices)
                )
                notices = (*job.notices, *pictures.notices, *told, *found.notices[row])
                image = pictures.finish(drawn, request)
                extras = job.files(self.engine.shelf)
                yield Picture(image=image, recipe=self._recipe(request.picture(start + row), extras, notices, image))

    def _draw(self, job: "_Job", start: int, count: int, report: Callable[[int, Tensor | None], None]) -> "_Drawn":
        """The pictures from offset `start` on, as pixels [count, 3, H, W].

        Numbers that are not finite are computed once more in float32, see `runtime.finite`.
        """
        request, pictures = job.request, job.indices(start, count)
        with torch.inference_mode(), self._within_memory(job), seamless(request.tiling):
            found, spent = self._denoised(job, pictures, report, refine=job.second is None)
            if job.second is None:
                found += self._finished(found[-1].value)
            else:
                enlarged = self._enlarged(job, found[-1].value)
                done = job.steps.num_steps
                again, _ = self._denoised(
                    job.second,
                    pictures,
                    lambda step, latents: report(done + step, latents),
                    latents=enlarged[-1].value,
                    draws=spent if request.noise == "philox" else None,  # the others begin anew, as in A1111
                )
                found = [*found, *enlarged, *again, *self._finished(again[-1].value)]
        notices = tuple(tuple(line for part in found for line in part.notices(row)) for row in range(count))
        return _Drawn(found[-1].value, notices)

    def _denoised(
        self,
        job: "_Job",
        pictures: range,
        report: Callable[[int, Tensor | None], None],
        *,
        refine: bool = True,
        latents: Tensor | None = None,
        draws: Sequence[int] | None = None,
    ) -> tuple[list[Rescued], list[int]]:
        """One pass for the pictures of these indices: its latents, and how many draws of noise it took of each.

        latents: what it starts from in place of the pictures that go in; draws: those that another pass took
        """
        request, model, spent = job.request, self.model, list[int]()
        prompt, refined = self._prompts(job)

        def draw() -> Tensor:
            noise = noise_source(request, pictures, job.steps, draws)
            variation = variation_source(request, pictures)
            begin = prepare(
                model, request, job.steps, job.pictures, noise, len(pictures), variation, latents, job.controls
            )
            refiner = self.refiner if refine else None
            drawn = draw_latents(model, request, prompt, job.steps, begin, noise, report, refiner, refined)
            spent[:] = noise.draws
            return drawn

        return [rescued(model, "unet", draw, beside=self.refiner if refine else None)], spent

    def _finished(self, latents: Tensor) -> list[Rescued]:
        """Latents to pixels, enlarged where the model has an upscaler of its own."""
        model = self.model
        found = [rescued(model, "vae", lambda: model.decode(latents))]
        if model.has_upscaler:
            found.append(rescued(model, "upscaler", lambda: model.upscale(found[0].value)))
        return found

    def _enlarged(self, job: "_Job", latents: Tensor) -> list[Rescued]:
        """What the first pass drew as latents of the second's size."""
        assert job.second is not None and job.upscaler is not None
        second, family, upscaler = job.second.request, self.model.family, job.upscaler
        if isinstance(upscaler, str) and works_on_latents(upscaler):
            rows, columns = (side // family.size_multiple for side in (second.height, second.width))
            return [Rescued(enlarged_latents(latents, rows, columns, upscaler))]
        found = self._finished(latents)
        tile = TILE if self.model.plan is None else self.model.plan.network_tile
        with self._ready(upscaler) as way:
            images = [
                enlarged_picture(drawn, second.width, second.height, way, tile)
                for drawn in to_images(found[-1].value, second.levels)
            ]
        return [*found, Rescued(torch.cat([encode_mean(self.model, image) for image in images]))]

    @contextmanager
    def _ready(self, upscaler: str | UpscalerFile) -> Iterator[Upscaler | str]:
        """Within the block a way to enlarge may be used; the model rests where networks take turns."""
        if isinstance(upscaler, str):
            yield upscaler
            return
        if self.model.plan is not None and self.model.plan.stay != "resident":
            self.model.residency.rest_all()
        with upscaler.loaded.ready(self.engine.precision.unet) as network:
            yield network

    def plans(
        self,
        request: TextToImageRequest,
        *,
        image: Image.Image | None = None,
        mask: Image.Image | None = None,
        hints: Sequence[Image.Image] = (),
    ) -> dict[str, MemoryPlan]:
        """What the request takes of memory and how it runs within the engine's, by the names of the models.

        Pictures as a call takes them. Raises GessoError where the engine's memory cannot be kept.
        """
        job = self._job(request, image, mask, hints)
        self._rest()
        with self.engine.steered(self.model, job.controls.networks):
            return {model.name: self._plan(model, job) for model in self._models()}

    def expected(
        self,
        request: TextToImageRequest,
        *,
        image: Image.Image | None = None,
        mask: Image.Image | None = None,
        hints: Sequence[Image.Image] = (),
    ) -> Recipe:
        """The recipe that the first picture of a request would have, without its pixels and without drawing it.

        For whoever wants to know whether a picture that is there is the one that is wanted. Raises as a call does.
        """
        job = self._job(request, image, mask, hints)
        return self._recipe(job.request.picture(0), job.files(self.engine.shelf), (), None)

    def _models(self) -> list[LoadedModel]:
        return [self.model] if self.refiner is None else [self.model, self.refiner]

    def _plan(self, model: LoadedModel, job: "_Job") -> MemoryPlan:
        request, hires, enlarging = job.request, job.request.hires, None
        width, height = request.width, request.height
        if job.second is not None:
            width, height = job.second.request.width, job.second.request.height
            if isinstance(job.upscaler, UpscalerFile) and model is self.model:
                enlarging = job.upscaler.work((request.width, request.height), (width, height))
        work = Workload(
            width=width,
            height=height,
            rows=min(self.engine.rows_per_call, request.num_images),
            guided=request.guidance_scale != 1 and not model.family.is_told_guidance,
            encodes=request.image is not None or hires is not None or model.family.concat == "inpaint",
            seamless=request.tiling,
            tile=request.tile,
            prompts=num_guiding(request),
            adapters=self._adapters(model, request, job.wanted).nbytes(model),
            controls=job.controls.configs if model is self.model else (),
            pictures=job.controls.readings if model is self.model else (),
            enlarging=enlarging,
        )
        return self.engine.plan(model, work)

    @contextmanager
    def _within_memory(self, job: "_Job") -> Iterator[None]:
        """Control networks beside the model; plans are followed where the engine has a limit."""
        self._rest()
        with ExitStack() as stack:
            stack.enter_context(self.engine.steered(self.model, job.controls.networks))
            for model in self._models() if self.engine.memory is not None else []:
                stack.enter_context(model.under(self._plan(model, job)))
            yield

    def _rest(self) -> None:
        """Where memory is limited, a model and its refiner are never in it together: each plan counts on all of it."""
        if self.refiner is not None and self.engine.memory is not None:
            for model in self._models():
                model.residency.rest_all()

    def _prompts(self, job: "_Job") -> "tuple[EncodedPrompt, EncodedPrompt | None]":
        """The text for the model and for the refiner, encoded once a run."""
        if job.prompts is None:
            told = []
            for model in self._models():
                told.append(
                    encode_prompts(
                        model,
                        job.request,
                        num_steps=job.prompt_steps,
                        base_steps=job.base_steps,
                        adapters=self._adapters(model, job.request, job.wanted),
                    )
                )
                self._rest()
            job.prompts = told[0], told[1] if len(told) > 1 else None
        return job.prompts

    def _adapters(self, model: LoadedModel, request: ResolvedRequest, wanted: Wanted) -> Adapters:
        return read_adapters(wanted, model, self.engine.shelf, merged=request.lora_mode == "merged")

    def _recipe(
        self,
        request: ResolvedRequest,
        extras: tuple[ExtraFile, ...],
        notices: tuple[str, ...],
        image: Image.Image | None,
    ) -> Recipe:
        refiner = self.refiner
        return Recipe(
            request=request,
            model=self.model.name,
            family=self.model.family.name,
            files=tuple(WeightFile(name=name, sha256=digest) for name, digest in self.model.files),
            prediction=self.model.family.prediction,
            refiner=refiner.name if refiner is not None else "",
            refiner_files=tuple(WeightFile(name=name, sha256=digest) for name, digest in refiner.files)
            if refiner is not None
            else (),
            extras=extras,
            environment=self.engine.environment(),
            notices=notices,
            pixels_sha256=pixels_sha256(image) if image is not None else "",
        )


@dataclass(frozen=True, eq=False)
class _Drawn:
    """pixels [B, 3, H, W], and for each row what the user should know about it."""

    pixels: Tensor
    notices: tuple[tuple[str, ...], ...]


@dataclass(eq=False, kw_only=True)
class _Job:
    """One call: the request, the pictures that go in, the steps, and the text once it is encoded."""

    request: ResolvedRequest
    pictures: SourcePictures
    steps: Steps
    wanted: Wanted
    controls: Controls
    base_steps: int = 0  # of the pass before; 0: this is the first
    prompts: "tuple[EncodedPrompt, EncodedPrompt | None] | None" = None
    second: "_Job | None" = None
    upscaler: "str | UpscalerFile | None" = None
    notices: tuple[str, ...] = ()  # of the pictures that go in

    @property
    def num_steps(self) -> int:
        """Steps of all passes."""
        return self.steps.num_steps + (self.second.steps.num_steps if self.second is not None else 0)

    @property
    def prompt_steps(self) -> int:
        """Steps over which prompts change: the whole schedule, but in A1111's second pass those that it takes."""
        taken = self.base_steps > 0 and self.request.prompt_timing == "a1111"
        return self.request.num_steps if taken else self.steps.num_planned

    def files(self, shelf: AdapterShelf) -> tuple[ExtraFile, ...]:
        """The files besides the models' that the passes take, each once."""
        found = self.wanted.files(shelf) + (self.second.wanted.files(shelf) if self.second is not None else ())
        found += self.controls.files(shelf)
        if isinstance(self.upscaler, UpscalerFile):
            sha256 = shelf.hashes(self.upscaler.path).sha256
            found += (ExtraFile(kind="upscaler", name=self.upscaler.name, sha256=sha256),)
        return tuple(dict.fromkeys(found))

    def indices(self, start: int, count: int) -> range:
        """Which pictures those from offset `start` on are."""
        first = self.request.first_index + start
        return range(first, first + count)


def _with_digest(request: TextToImageRequest, name: str, digest: str | None) -> TextToImageRequest:
    """The request that names the picture which is given beside it."""
    named = getattr(request, name)
    if digest is None or named == digest:
        return request
    if named is not None:
        raise RequestError(
            name, f"the request starts from the {name} {named[:10]}..., given is {digest[:10]}.... Give that very one"
        )
    return replace(request, image=digest) if name == "image" else replace(request, mask=digest)


def defaults_for(request: TextToImageRequest, family: Family, *, has_refiner: bool = False) -> Defaults:
    """What a model and a preset fill into a request and what they accept.

    Where a preset's conventions depend on the sampler, they are those of the sampler that the request will have.
    """
    preset = request.preset or "gesso"
    sampler, schedule, conventions = request.sampler, family.defaults.schedule, dict(PRESETS[preset])
    if preset == "diffusers":
        if sampler is None and family.scheduler is not None:
            sampler = DiffusersScheduler(
                name=family.scheduler.name, skip_prk_steps=family.scheduler.skip_prk_steps
            ).sampler
        schedule = "karras" if family.scheduler is not None and family.scheduler.use_karras_sigmas else "uniform"
    sampler = sampler or family.defaults.sampler
    row = SAMPLERS.get(sampler)
    if preset == "a1111" and row is not None:
        schedule = row.schedule if request.sampler is not None else schedule
        conventions["discard_penultimate_sigma"] = row.discards_penultimate
        if sampler in A1111_OWN_SPACING and request.schedule is None:
            conventions |= {"timestep_spacing": "a1111", "initial_noise": "variance"}
    if preset == "diffusers":
        conventions |= _diffusers_spacing(request, sampler, family)
    if request.syntax in NEEDS_EMPTY:  # these tools have weights of their own, and go by the same names
        conventions["emphasis"] = request.syntax
    return Defaults(
        width=family.output_size,
        height=family.output_size,
        num_steps=family.defaults.num_steps,
        guidance_scale=family.defaults.guidance_scale,
        sampler=sampler,
        schedule=schedule,
        noise=PRESET_DEFAULTS[preset]["noise"],
        clip_skip=family.clip_skip,
        conventions={"preset": preset, **conventions},
        strength=PRESET_DEFAULTS[preset]["strength"],
        hires_upscaler=PRESET_DEFAULTS[preset]["hires_upscaler"],
        hires_strength=PRESET_DEFAULTS[preset]["hires_strength"],
        kind=family.concat,
        max_noise_level=family.max_level if family.max_level is not None else MAX_NOISE_LEVEL,
        has_refiner=has_refiner,
        multiple=family.size_multiple,
        max_clip_skip=family.text.num_layers,
        samplers=[name for name, row in SAMPLERS.items() if not (family.is_told_guidance and row.asks_uncond)],
        schedules=SCHEDULES.keys(),
        noises=NOISE_SOURCES.keys(),
        etas={name: _default_eta(name) for name, row in SAMPLERS.items() if "eta" in row.options},
    )


def _diffusers_spacing(request: TextToImageRequest, sampler: str, family: Family) -> dict[str, str]:
    """Timestep spacing and first noise as diffusers has them for a sampler; ours for one that it lacks."""
    if sampler not in DIFFUSERS_SCHEDULERS:
        return {"timestep_spacing": "schedule", "initial_noise": "variance"}
    spacing = request.timestep_spacing or default_spacing(sampler, family)
    scaled = sampler in DIFFUSERS_IN_SIGMA and spacing != "leading"
    return {"timestep_spacing": spacing, "initial_noise": "sigma" if scaled else "variance"}


def noise_source(
    request: ResolvedRequest, pictures: range, steps: Steps, draws: Sequence[int] | None = None
) -> NoiseSource:
    """The numbers of the pictures with these indices; variations are all of the run's first picture, index 0.

    draws: how many each of them has drawn already
    """
    kind = NOISE_SOURCES[request.noise]
    indices = [0] * len(pictures) if request.variation_strength else pictures
    source: NoiseSource = kind([request.seed] * len(pictures), indices, draws=draws)
    if request.ensd:
        source = EnsdNoise(source, request.ensd)
    if request.sde_noise == "torchsde":
        return TreeNoise(source, *steps.ends, lambda seed, shape: kind([seed]).draw(shape)[0])
    return IndependentNoise(source) if request.sde_noise == "independent" else source


def variation_source(request: ResolvedRequest, pictures: range) -> NoiseSource | None:
    """The numbers that are mixed into the first noise of the pictures with these indices."""
    if not request.variation_strength or request.variation_seed is None:
        return None
    return NOISE_SOURCES[request.noise]([request.variation_seed] * len(pictures), pictures)


def draw_latents(
    model: LoadedModel,
    request: ResolvedRequest,
    prompt: EncodedPrompt,
    steps: Steps,
    start: Start,
    noise: NoiseSource,
    report: Callable[[int, Tensor | None], None],
    refiner: LoadedModel | None = None,
    refined: EncodedPrompt | None = None,
) -> Tensor:
    """From where a run starts to clean latents [B, C, h, w] in float32, for the rows of the noise source.

    prompt, refined: of one row, which all share, or of B.
    For `runtime.finite.rescued`, which sees to numbers that are not finite.
    """
    if steps.num_steps == 0:
        assert start.latents is not None
        return start.latents
    clock = Clock(steps.num_planned, steps.first)
    sampler = SAMPLERS[request.sampler]
    denoise: Denoising = _denoiser(model, request, prompt, steps, start, clock)
    switch = steps.num_steps  # the step before which the sampler begins anew, with the refiner
    second = None

    def rest() -> None:
        if model.plan is not None:  # memory is limited: two UNets at once may be too much
            model.residency.rest_all()

    if refiner is not None and refined is not None and request.refiner_switch_at is not None:
        second = _denoiser(refiner, request, refined, steps, replace(start, steering=None), clock)
        if request.refiner_rule == "timesteps":
            switch = steps.switch_of(request.refiner_switch_at)
        else:
            calls = sampler.num_calls(steps.num_steps) or steps.num_steps
            denoise = HandOver(denoise, second, at=request.refiner_switch_at, num_calls=calls, on_switch=rest)

    attached: list[Attachment] = []

    def told(step: int, x0: Tensor) -> None:
        clock.step = min(steps.first + step, clock.num_steps - 1)
        for attachment in attached:
            attachment.update()
        stop_when_all_lost(x0)
        report(step, x0)

    x = start.x
    with torch.inference_mode(), ExitStack() as stack:
        if second is not None and model.plan is not None and refiner is not None:
            stack.callback(refiner.residency.rest_all)  # what follows is the model's own work
        attached += [
            stack.enter_context(told.adapters.on_unet(one, clock))
            for one, told in ((model, prompt), (refiner, refined))
            if one is not None and told is not None
        ]
        if switch > 0:
            x = sample(
                sampler,
                _masked(denoise, request, start, model.family, clock, steps),
                x,
                steps.sigmas,
                noise,
                on_step=lambda step, x, x0: told(step + 1, x0),
                stop=switch,
                **_options(request, steps),
            )
        if switch < steps.num_steps and second is not None:
            rest()
            x = sample(
                sampler,
                _masked(second, request, start, model.family, clock, steps),
                x,
                steps.sigmas[switch:],
                noise,
                on_step=lambda step, x, x0: told(switch + step + 1, x0),
                **_options(request, steps),
            )
        latents = x / steps.final_scale
        if start.mask is not None and start.latents is not None and _blends(request, model.family):
            latents = torch.where(start.mask > 0, latents, start.latents)
    return latents


def _denoiser(
    model: LoadedModel, request: ResolvedRequest, prompt: EncodedPrompt, steps: Steps, start: Start, clock: Clock
) -> Denoising:
    """One model with its text, guidance and what it sees beside the latents, for the whole or tile by tile."""
    if request.tile is None or request.tile_overlap is None:
        return _whole(model, request, prompt, steps, start, clock)
    multiple = model.family.size_multiple
    overlap = request.tile_overlap // multiple
    tiles = tiles_of(start.x.shape[-2], start.x.shape[-1], request.tile // multiple, overlap)
    parts = [(tile, _whole(model, request, prompt, steps, start.part(tile), clock)) for tile in tiles]
    return TiledDenoiser(parts, overlap) if len(parts) > 1 else parts[0][1]


def _whole(
    model: LoadedModel, request: ResolvedRequest, prompt: EncodedPrompt, steps: Steps, start: Start, clock: Clock
) -> Denoiser:
    scale = request.guidance_scale
    if request.timestep_spacing == "a1111" and SAMPLERS[request.sampler].asks_uncond:
        scale *= CFGPP_SCALE
    predict = model.predict
    if start.steering is not None:
        predict = partial(predict, steer=start.steering.over(clock, steps.first))
    made = {id(told): _guided(model, predict, request, told, start, scale) for _, told in prompt.moments}
    network: TextNetwork = made[id(prompt.moments[0][1])]
    if len(made) > 1:
        shift = -steps.first if request.prompt_timing == "a1111" else 1
        network = ChangingText(clock, [(last, made[id(told)]) for last, told in prompt.moments], shift)
    return Denoiser(
        network,
        steps.schedule,
        model.family.prediction,
        timestep_of=steps.timestep_of,
        consistency=request.sampler == "lcm",
    )


def _guided(
    model: LoadedModel,
    predict: Callable[[Tensor, Tensor, Conditioning], Tensor],
    request: ResolvedRequest,
    told: Told,
    start: Start,
    scale: float,
) -> TextNetwork:
    """The network with one text, guidance and what it sees beside the latents. predict: the model's, perhaps steered"""
    rows = len(start.x)
    # One text for all rows, or one for each; of prompts that guide together all rows of one, then those of the next.
    cond = told.cond.repeat(rows * len(told.weights) // len(told.cond.context))
    uncond = told.uncond.repeat(rows // len(told.uncond.context)) if told.uncond is not None else None
    apart = uncond is not None and uncond.context.shape[1] != cond.context.shape[1]
    if start.steering is not None:
        cond = cond.marked(negative=False)
        uncond = uncond.marked(negative=True) if uncond is not None else None
    if model.family.is_told_guidance:
        cond, scale = replace(cond, guidance=torch.full((rows,), scale, device=cond.context.device)), 1.0
    if start.concat is not None:
        every, level = start.concat.repeat(len(told.weights), 1, 1, 1), start.level
        cond = cond.with_picture(every, None if level is None else level.repeat(len(told.weights)))
        uncond = uncond.with_picture(start.concat, level) if uncond is not None else None
    if start.window is not None and model.family.unet.draft_size is not None:
        cond = replace(cond, window=start.window.repeat(len(told.weights), 1))
        uncond = replace(uncond, window=start.window) if uncond is not None else None
    if request.image_guidance_scale is not None and uncond is not None and start.concat is not None:
        return EditNetwork(
            network=predict,
            cond=cond,
            uncond=uncond,
            neither=uncond.with_picture(torch.zeros_like(start.concat)),
            scale=scale,
            image_scale=request.image_guidance_scale,
            weights=told.weights,
            apart=apart,
        )
    return GuidedNetwork(
        network=predict,
        cond=cond,
        uncond=uncond,
        scale=scale,
        cat=Conditioning.cat,
        rescale=request.guidance_rescale,
        weights=told.weights,
        apart=apart,
    )


def _blends(request: ResolvedRequest, family: Family) -> bool:
    """Whether what is not masked is put under the latents; diffusers leaves that to a model that knows the mask."""
    return not (request.mask_blend == "x" and family.concat == "inpaint")


def _masked(
    inner: Denoising, request: ResolvedRequest, start: Start, family: Family, clock: Clock, steps: Steps
) -> Denoising:
    if not _blends(request, family) or start.mask is None or start.latents is None:
        return inner
    if request.mask_blend == "differential":
        return Differential(inner, start.mask, start.latents, start.noise, clock, first=steps.first)
    if request.mask_blend == "x":
        return MaskedInput(inner, start.mask, start.latents, start.noise)
    return MaskedPrediction(inner, start.mask, start.latents)


def _options(request: ResolvedRequest, steps: Steps) -> dict[str, Any]:
    """What the sampler is told besides its steps; what diffusers sets for its schedulers is among it."""
    own = SAMPLERS[request.sampler].options
    options = {"eta": request.eta} if "eta" in own else {}
    schedule = {"schedule": steps.schedule} if "schedule" in own else {}
    # diffusers lets the order fall at the end of short runs, and a refiner's part is short even where the run is not.
    whole = {"lower_final": 0.0} if "lower_final" in own and steps.num_planned >= DEIS_SHORT_RUN else {}
    return schedule | whole | dict(steps.options) | options


def to_images(pixels: Tensor, levels: str = "round") -> list[Image.Image]:
    """float [B, 3, H, W] in [-1, 1] -> B pictures of 8 bits.

    Values outside are clamped. levels: round to the nearest of 256, as in diffusers, or truncate, as in A1111, which
    makes its pictures half a level darker on average.
    """
    exact = ((pixels.float() + 1) * 127.5).clamp(0, 255)
    whole = (exact.round() if levels == "round" else exact).to(torch.uint8)
    arrays: list[np.ndarray] = [row.permute(1, 2, 0).contiguous().cpu().numpy() for row in whole]
    return [Image.fromarray(array) for array in arrays]


def _default_eta(name: str) -> float:
    return float(inspect.signature(SAMPLERS[name].start).parameters["eta"].default)
