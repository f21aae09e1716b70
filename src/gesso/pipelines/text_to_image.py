"""The pipeline: a request becomes pictures, through text encoder, source pictures, noise, sampler, VAE and upscaler.

One pipeline for text to image, image to image, inpainting, InstructPix2Pix and upscaling: these differ in where the
sampler starts (`steps`), in the inputs of the network (`inputs`) and in the wrappers around it (`networks`).

Each picture is a run of its own: a generator that yields its network calls, which a `Batcher` makes. By default the
batcher makes them separately, so that a picture is the same alone or among others, bit by bit; see
`Engine.rows_per_call`.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import PurePath
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from gesso.arguments import check_type, refused
from gesso.diffusion.calls import CallGenerator
from gesso.errors import GessoError, short
from gesso.events import PictureDone, PlanChosen, RecomputedInFloat32, StepDone
from gesso.notices import Notice
from gesso.pictures.given import GivenPicture, as_hint, as_mask, as_picture, with_article
from gesso.pictures.picture_file import pixels_sha256
from gesso.pictures.reading import mask_digest, notices_of, picture_digest
from gesso.pipelines.adapters import Adapters, find_adapters, read_adapters
from gesso.pipelines.controls import Controls, find_controls
from gesso.pipelines.defaults import defaults_for
from gesso.pipelines.denoising import denoising, noise_source, variation_source
from gesso.pipelines.framing import with_size
from gesso.pipelines.given_tensors import NOTHING_GIVEN, GivenEmbeddings, GivenTensors, PromptEmbeddings
from gesso.pipelines.inputs import SourcePictures, encode_mean, prepare
from gesso.pipelines.job import Job, Pass
from gesso.pipelines.parsed import ParsedTexts
from gesso.pipelines.picture import OnProgress, Picture, Progress, to_images
from gesso.pipelines.plugins import plugins_of
from gesso.pipelines.prompts import EncodedPrompt, encode_prompts
from gesso.pipelines.second_pass import (
    UpscalerFile,
    enlarged_latents,
    enlarged_picture,
    is_interpolation,
    second_request,
    works_on_latents,
)
from gesso.pipelines.steps import plan_steps
from gesso.pipelines.unusual_guidance import as_diffusers_guides, guidance_notices
from gesso.pipelines.upscaling import UPSCALERS
from gesso.request.checks import RequestError, nearest, unknown_data
from gesso.request.finder import Finder, embedded_files
from gesso.request.hires import LATENT_UPSCALERS
from gesso.request.names import with_canonical_names
from gesso.request.recipe import ExtraFile, Recipe, WeightFile
from gesso.request.request import ResolvedRequest, TextToImageRequest, with_values
from gesso.request.resolving import resolve
from gesso.runtime.batcher import Batcher, Run, picture_call
from gesso.runtime.cancel import CancelToken, as_token
from gesso.runtime.engine import Engine
from gesso.runtime.finite import Finite, finite_calls
from gesso.runtime.model import LoadedModel
from gesso.runtime.plan import MemoryPlan, Workload
from gesso.runtime.seamless import seamless
from gesso.runtime.upscaling import TILE, Upscaler

log = logging.getLogger(__name__)

MAX_SHOWN = 6  # names of files in a message

Requests = TextToImageRequest | str | Sequence[TextToImageRequest | str]  # what a call draws
ReportStep = Callable[[int, Tensor | None], None]  # (steps done, the clean latents last predicted)


class TextToImage:
    """Draws pictures with one model and, optionally, a refiner, on one engine. Has no state between calls.

    Any number of threads may call one at once: their pictures are the same as alone, bit by bit.
    finder: finds the files that a request names besides the model (LoRA, embeddings, ControlNets, upscalers); None:
            only those that come with gesso
    """

    def __init__(
        self,
        engine: Engine,
        model: LoadedModel,
        *,
        refiner: LoadedModel | None = None,
        finder: Finder | None = None,
    ) -> None:
        _check_loaded("model", model)
        _check_loaded("refiner", refiner)
        self.engine, self.model, self.refiner = engine, model, refiner
        check_type("engine", engine, Engine, "an Engine")
        if finder is not None and not (hasattr(finder, "find") and hasattr(finder, "names")):
            raise refused("finder", finder, "what finds files, such as gesso.NamedFiles or gesso.LibraryFinder")
        self.finder = finder if finder is not None else embedded_files()
        self._resolved: tuple[TextToImageRequest, ResolvedRequest] | None = None  # the last one

    def resolve(
        self,
        request: TextToImageRequest | str,
        *,
        image: GivenPicture | None = None,
        mask: GivenPicture | None = None,
    ) -> ResolvedRequest:
        """The request with this model's defaults for everything left open. Raises RequestError.

        image and mask are the source picture and mask of the request. Their hashes are filled in if it names none; if
        it names others, RequestError is raised.
        """
        asked, last = request, self._resolved
        if image is None and mask is None and last is not None and last[0] is asked:  # as when it is drawn afterwards
            return last[1]
        image = None if image is None else as_picture(image, "image")
        mask = None if mask is None else as_mask(mask, "mask")
        request = with_canonical_names(_request(request))
        request = _with_digest(request, "source", picture_digest(image) if image is not None else None)
        request = _with_digest(request, "mask", mask_digest(mask) if mask is not None else None)
        request = with_size(request, self.model.family, image)
        resolved = resolve(request, defaults_for(request, self.model.family, has_refiner=self.refiner is not None))
        if not isinstance(request, ResolvedRequest):  # that of a recipe says what was done
            resolved = as_diffusers_guides(resolved, self.model.family)
        is_decided = request.seed == resolved.seed and request.variation.seed == resolved.variation.seed
        if is_decided and image is None and mask is None and isinstance(asked, TextToImageRequest):
            self._resolved = asked, resolved
        return resolved

    def __call__(
        self,
        request: Requests,
        on_progress: OnProgress | None = None,
        *,
        seed: int | Sequence[int] | None = None,
        image: GivenPicture | None = None,
        mask: GivenPicture | None = None,
        hints: Sequence[GivenPicture] = (),
        latents: Tensor | None = None,
        prompt_embeddings: GivenEmbeddings | None = None,
        negative_prompt_embeddings: GivenEmbeddings | None = None,
        cancel: CancelToken | None = None,
    ) -> Iterator[Picture]:
        """Draws the pictures of a request; yields each as soon as it is finished.

        request  or a prompt alone; or a list of these, whose pictures come one after the other, the same as alone
        seed     in place of that of the request; for a list one for all or one for each; for one request a list of
                 seeds draws it with each
        image    source picture for image to image
        mask     grey, white is redrawn
        hints    control images of the request's controls, in any order
        latents  [n, C, h, w] noise of unit variance, in place of that of the seed: a row for each of the n pictures
        prompt_embeddings, negative_prompt_embeddings
                 encoded prompts in place of empty ones: from `encode`, or the tensor [1, L, D] of another tool
        cancel   stops the work from any thread, within a part of a step
        Pictures are PIL images, paths, numpy arrays [H, W, 3] or torch tensors [3, H, W]; see `gesso.pictures.given`.
        A picture that is drawn from tensors says so in its recipe, which alone cannot draw it again.
        The request is checked at once, the work is done as the iterator is read. Raises RequestError (a GessoError) for
        a request that the model does not support, NotFiniteError (a GessoError) if a network produces NaN or infinity,
        CancelledError (a GessoError) if it is cancelled.
        """
        _check_callable(on_progress)
        cancel, given = as_token(cancel), GivenTensors.of(latents, prompt_embeddings, negative_prompt_embeddings)
        requests = _requests(request, seed)
        jobs, first, total = list[Job](), 0, sum(each.num_images for each in requests)
        if latents is not None and given.latents is not None and len(given.latents) != total:
            raise RequestError("latents", f"`latents` has {len(given.latents)} rows, expected {total}, one a picture")
        for each in requests:
            jobs.append(self._job(each, image, mask, hints, given.rows(first, each.num_images)))
            first += each.num_images
        return self._pictures(jobs, on_progress, cancel)

    def runs(
        self,
        request: TextToImageRequest | str,
        on_progress: OnProgress | None = None,
        *,
        image: GivenPicture | None = None,
        mask: GivenPicture | None = None,
        hints: Sequence[GivenPicture] = (),
        cancel: CancelToken | None = None,
    ) -> list[Run[Picture]]:
        """The pictures of a request as runs, for a `Batcher` that draws them together with those of other requests.

        Arguments as for a call. A run uses no device memory until its first step. Raises RequestError.
        """
        _check_callable(on_progress)
        cancel = as_token(cancel)
        job = self._job(request, image, mask, hints)
        return [Run(self._picture(job, row, on_progress), cancel) for row in range(job.request.num_images)]

    def pixels(
        self,
        request: TextToImageRequest | str,
        *,
        image: GivenPicture | None = None,
        mask: GivenPicture | None = None,
        hints: Sequence[GivenPicture] = (),
    ) -> Tensor:
        """The output of the networks before rounding to 256 levels and pasting back: for measurements.

        -> float32 [num_images, 3, H, W] in about [-1, 1]. Raises like a call.
        """
        return self._values(self._job(request, image, mask, hints), decodes=True)

    def latents(
        self,
        request: TextToImageRequest | str,
        *,
        image: GivenPicture | None = None,
        mask: GivenPicture | None = None,
        hints: Sequence[GivenPicture] = (),
        latents: Tensor | None = None,
        prompt_embeddings: GivenEmbeddings | None = None,
        negative_prompt_embeddings: GivenEmbeddings | None = None,
    ) -> Tensor:
        """The clean latents that the pictures of a request are decoded from.

        -> float32 [num_images, C, h, w], scaled as the UNet has them. Arguments as for a call; raises like one.
        """
        given = GivenTensors.of(latents, prompt_embeddings, negative_prompt_embeddings)
        return self._values(self._job(request, image, mask, hints, given), decodes=False)

    def _values(self, job: Job, *, decodes: bool) -> Tensor:
        """What the last pass of each picture of a job ends with: pixels, or latents where nothing is decoded."""
        rows = []
        for row in range(job.request.num_images):
            with self._limited():
                (drawn,) = Batcher().complete([Run(self._draw(job, row, lambda step, x0: None, decodes=decodes))])
            rows.append(drawn[-1].value)
        return torch.cat(rows).float()

    def encode(self, request: TextToImageRequest | str, *, negative: bool = False) -> PromptEmbeddings:
        """The encoded prompt of a request, or its negative prompt, with its LoRA and embeddings, for a call.

        Raises like a call, and RequestError for a prompt that changes over the steps or that is joined by AND.
        """
        job = self._job(request, None, None, ())
        field = "negative_prompt" if negative else "prompt"
        (encoded, *_) = self._prompts(job.first, [self.model])
        texts = {len(conditioning.cond.context) for _, conditioning in encoded.moments}
        if len(encoded.moments) > 1 or texts != {1}:
            raise RequestError(field, f"{field} changes over the steps or is joined by AND, so it has no one encoding")
        conditioning = encoded.uncond if negative else encoded.cond
        if conditioning is None:
            raise RequestError(field, "without guidance there is no negative prompt; set guidance_scale above 1")
        return PromptEmbeddings(conditioning.context, conditioning.added)

    def plans(
        self,
        request: TextToImageRequest | str,
        *,
        image: GivenPicture | None = None,
        mask: GivenPicture | None = None,
        hints: Sequence[GivenPicture] = (),
    ) -> dict[str, MemoryPlan]:
        """The memory plan of a request for each model, by name.

        Pictures as for a call. Raises GessoError if the engine's memory limit cannot be kept.
        """
        job = self._job(request, image, mask, hints)
        with self._limited():
            self._offload()
            return {model.name: self._plan(model, job) for model in self._models()}

    def expected(
        self,
        request: TextToImageRequest | str,
        *,
        image: GivenPicture | None = None,
        mask: GivenPicture | None = None,
        hints: Sequence[GivenPicture] = (),
    ) -> Recipe:
        """The recipe that the first picture of a request would have, without drawing it: to check an existing picture.

        The recipe has no hash of pixels. Raises like a call.
        """
        job = self._job(request, image, mask, hints)
        return self._recipe(job.request.picture(0), job.files(), (), None)

    # ---- what there is to do -----------------------------------------------------------------------------------------

    def _job(
        self,
        request: TextToImageRequest | str,
        image: GivenPicture | None,
        mask: GivenPicture | None,
        hints: Sequence[GivenPicture],
        given: GivenTensors = NOTHING_GIVEN,
    ) -> Job:
        request = _request(request)
        image = None if image is None else as_picture(image, "image")
        mask = None if mask is None else as_mask(mask, "mask")
        control_images = [as_hint(hint, "hints") for hint in _several(hints)]
        resolved = self.resolve(request, image=image, mask=mask)
        given.check(resolved, self.model.family, has_refiner=self.refiner is not None)
        for group, picture in (("source", image), ("mask", mask)):
            if (digest := getattr(resolved, group).image) is not None and picture is None:
                raise RequestError(
                    f"{group}.image",
                    f"the request needs the {_WORDS[group]} {digest[:10]}..., but none was given",
                )
        pictures = SourcePictures.of(resolved, self.model.family, image, mask)
        controls = find_controls(
            resolved,
            control_images,
            mask,
            engine=self.engine,
            model=self.model,
            finder=self.finder,
            part=pictures.crop.part if pictures.crop is not None else None,
        )
        first = self._pass(resolved)
        again = second_request(resolved, lambda asked: defaults_for(asked, self.model.family))
        return Job(
            number=self.engine.next_job(),
            first=first,
            pictures=pictures,
            controls=controls,
            second=None if again is None else self._pass(again, first),
            upscaler=None if again is None else self._upscaler(resolved),
            notices=(
                *notices_of(image, *control_images),
                *guidance_notices(request, resolved, self.model.family),
                *_whole_calls(resolved, controls),
                *given.notices,
            ),
            given=given,
        )

    def _pass(self, request: ResolvedRequest, before: Pass | None = None) -> Pass:
        texts = ParsedTexts.of(request, None if before is None else before.texts)
        return Pass(
            request=request,
            texts=texts,
            steps=plan_steps(request, self.model.family, again=before is not None),
            adapters=find_adapters(request, texts, self.finder, self.model.tokenizer),
            base_steps=0 if before is None else before.steps.num_planned,
        )

    def _upscaler(self, request: ResolvedRequest) -> str | UpscalerFile:
        """The hires upscaler: a name, or a network. Raises GessoError if its file is missing."""
        assert request.hires is not None and request.hires.upscaler is not None
        name = request.hires.upscaler
        if works_on_latents(name) or is_interpolation(name):
            return name
        try:
            path = self.finder.find("upscaler", name)
        except GessoError as error:
            if error.code != "unknown_name":
                raise
            files = self.finder.names("upscaler")
            known = [*UPSCALERS, *LATENT_UPSCALERS, *files]
            shown = ", ".join([*known[: -len(files) or None], *sorted(files)[:MAX_SHOWN]])
            raise GessoError(
                f"no upscaler named {short(name)}{nearest(name, known)}. "
                f"Known: {shown}{', ...' if len(files) > MAX_SHOWN else ''}",
                code="unknown_name",
                field="hires.upscaler",
                data={**unknown_data(name, known), "kind": "upscaler"},
            ) from None
        return UpscalerFile(name, path, self.engine.load_upscaler(path))

    # ---- the runs ----------------------------------------------------------------------------------------------------

    def _pictures(
        self, jobs: Sequence[Job], on_progress: OnProgress | None, cancel: CancelToken | None
    ) -> Iterator[Picture]:
        rows = [(job, row) for job in jobs for row in range(job.request.num_images)]
        at_once, count = self.engine.rows_per_call, len(rows)
        for start in range(0, count, at_once):
            runs = [
                Run(self._picture(job, row, _counted(on_progress, start + number, count)), cancel)
                for number, (job, row) in enumerate(rows[start : start + at_once])
            ]
            with self._limited():
                pictures = Batcher(at_once).complete(runs)
            yield from pictures

    @contextmanager
    def _limited(self) -> Iterator[None]:
        """With a memory limit, a picture has the device for itself, since its plan counts on all the memory left."""
        with self.engine.device_lock if self.engine.memory is not None else nullcontext():
            yield

    def _picture(self, job: Job, row: int, on_progress: OnProgress | None) -> CallGenerator[Picture]:
        """Draws and finishes one picture of a job, with its recipe, events and log line."""
        request, events = job.request, self.engine.events
        index, begin = request.first_index + row, time.monotonic()
        last = begin

        def report(step: int, latents: Tensor | None) -> None:
            nonlocal last
            now = time.monotonic()
            if step:
                events.publish(
                    StepDone(job=job.number, index=index, step=step, num_steps=job.num_steps, seconds=now - last)
                )
            last = now
            if on_progress is not None:
                on_progress(
                    Progress(
                        index=row, num_images=request.num_images, step=step, num_steps=job.num_steps, latents=latents
                    )
                )

        report(0, None)
        parts = yield from self._draw(job, row, report)
        (drawn,) = to_images(parts[-1].value, request.conventions.levels)
        image = job.pictures.finish(drawn, request)
        lines = dict.fromkeys(line for each in job.passes for line in each.notices)
        notices = (
            *self.model.parts.notices,
            *job.notices,
            *job.pictures.notices,
            *lines,
            *(line for part in parts for line in part.notices(0)),
        )
        recipe = self._recipe(request.picture(row), (*job.files(), *job.given.files(row)), notices, image)
        for part in parts:
            for notice in part.notices(0):
                events.publish(RecomputedInFloat32(job=job.number, index=index, network=part.part, notice=notice))
        done = PictureDone(
            job=job.number,
            index=index,
            seed=request.seed,
            width=image.width,
            height=image.height,
            seconds=time.monotonic() - begin,
            notices=notices,
        )
        log.info(
            "drew picture %d of job %d with %s: %dx%d, %d steps of %s, %.2f s",
            *(done.index, done.job, self.model.name, done.width, done.height, job.num_steps, request.sampler),
            done.seconds,
        )
        events.publish(done)
        return Picture(image=image, recipe=recipe)

    @torch.inference_mode()
    def _draw(self, job: Job, row: int, report: ReportStep, *, decodes: bool = True) -> CallGenerator[list[Finite]]:
        """Draws one picture of a job: the output of each of its stages, the pixels [1, 3, H, W] last.

        decodes: else it ends with the clean latents [1, C, h, w].

        NaN and infinity are recomputed in float32, see `runtime.finite`.
        """
        models = self._executing(job)
        model = models[0]
        try:
            if job.second is None:
                latents, _ = yield from self._denoised(job, job.first, row, report, models)
                return [latents, *((yield from _decoded(model, latents.value)) if decodes else ())]
            latents, draws = yield from self._denoised(job, job.first, row, report, models[:1])
            enlarged = yield from self._enlarged(job, job.second, model, latents.value)
            done = job.first.steps.num_steps
            again, _ = yield from self._denoised(
                job,
                job.second,
                row,
                lambda step, x0: report(done + step, x0),
                models[:1],
                latents=enlarged[-1].value,
                draws=draws if job.request.noise == "philox" else None,  # the other sources start again, as in A1111
            )
            return [latents, *enlarged, again, *((yield from _decoded(model, again.value)) if decodes else ())]
        finally:
            if self.engine.memory is not None:
                with self.engine.device_lock:
                    for control in job.controls.components.values():
                        control.offload()

    def _executing(self, job: Job) -> list[LoadedModel]:
        """The models as this job runs them: with control networks, seamless tiling and, with a memory limit, a plan."""
        self._offload()
        tiling, controls = job.request.tiling, job.controls.components
        models = [model.with_tiling(tiling) for model in self._models()]
        models[0] = models[0].with_controls(controls)
        if self.engine.memory is None:
            return models
        planned = []
        for model in models:
            plan = self._plan(model, job)
            log.info("memory plan for %s, job %d: %s", model.name, job.number, "; ".join(plan.measures))
            self.engine.events.publish(
                PlanChosen(job=job.number, model=model.name, peak=plan.peak, budget=self.engine.memory, stay=plan.stay)
            )
            planned.append(model.with_plan(plan))
        return planned

    def _denoised(
        self,
        job: Job,
        each: Pass,
        row: int,
        report: ReportStep,
        models: Sequence[LoadedModel],
        *,
        latents: Tensor | None = None,
        draws: Sequence[int] | None = None,
    ) -> CallGenerator[tuple[Finite, Sequence[int]]]:
        """Runs one pass for one picture: its latents, and how many draws of noise it made.

        models: the model, and the refiner if there is one; latents: to start from in place of the source picture;
        draws: those that the pass before made
        """
        request, index, draws_made = each.request, job.request.first_index + row, list[int]()
        prompts = self._prompts(each, models, job.given)
        pictures = job.pictures if each is job.first else SourcePictures()
        given = job.given.latents if each is job.first else None
        own = None if given is None else given[row : row + 1]

        def compute(*models: LoadedModel) -> CallGenerator[Tensor]:
            noise = noise_source(request, range(index, index + 1), each.steps, draws)
            variation = variation_source(request, range(index, index + 1))
            start = prepare(models[0], request, each.steps, pictures, noise, 1, variation, latents, job.controls, own)
            pairs = [item for pair in zip(models, prompts, strict=False) for item in pair]
            drawn = yield from denoising(request, each.steps, start, noise, report, *pairs)  # type: ignore[arg-type]
            draws_made[:] = noise.draws
            return drawn

        return (yield from finite_calls("unet", compute, *models)), draws_made

    def _enlarged(self, job: Job, second: Pass, model: LoadedModel, latents: Tensor) -> CallGenerator[list[Finite]]:
        """Upscales the output of the first pass to latents of the second pass's size."""
        assert job.upscaler is not None
        request, family, upscaler = second.request, model.family, job.upscaler
        if isinstance(upscaler, str) and works_on_latents(upscaler):
            rows, columns = (side // family.size_multiple for side in (request.height, request.width))
            with seamless(request.tiling):
                return [Finite(enlarged_latents(latents, rows, columns, upscaler))]
        parts = yield from _decoded(model, latents)
        tile = TILE if model.plan is None else model.plan.network_tile
        with self._ready(upscaler, model) as ready, seamless(request.tiling):
            images = [
                enlarged_picture(drawn, request.width, request.height, ready, tile)
                for drawn in to_images(parts[-1].value, request.conventions.levels)
            ]
        return [*parts, Finite(torch.cat([encode_mean(model, image) for image in images]))]

    @contextmanager
    def _ready(self, upscaler: str | UpscalerFile, model: LoadedModel) -> Iterator[Upscaler | str]:
        """The upscaler is ready within the block; with model offload, the model is offloaded."""
        if isinstance(upscaler, str):
            yield upscaler
            return
        with self.engine.device_lock:
            if model.plan is not None and model.plan.stay != "resident":
                model.offload()
            with upscaler.loaded.ready(self.model.precision.unet) as network:
                yield network

    def _prompts(
        self, each: Pass, models: Sequence[LoadedModel], given: GivenTensors = NOTHING_GIVEN
    ) -> Sequence[EncodedPrompt]:
        """The encoded prompts of a pass for the model and the refiner, encoded once per job."""
        while len(each.prompts) < len(models):
            model = models[len(each.prompts)]
            each.prompts.append(
                encode_prompts(
                    model,
                    each.request,
                    each.texts,
                    num_steps=each.prompt_steps,
                    base_steps=each.base_steps,
                    adapters=self._adapters(model, each),
                    given=given,
                )
            )
            self._offload()
        return each.prompts

    def _adapters(self, model: LoadedModel, each: Pass) -> Adapters:
        return read_adapters(
            each.adapters, model, self.engine.adapter_cache, merged=each.request.conventions.lora_mode == "merged"
        )

    # ---- memory ------------------------------------------------------------------------------------------------------

    def _models(self) -> list[LoadedModel]:
        return [self.model] if self.refiner is None else [self.model, self.refiner]

    def _plan(self, model: LoadedModel, job: Job) -> MemoryPlan:
        request, hires, enlarging = job.request, job.request.hires, None
        is_first = model.parts is self.model.parts
        width, height = request.width, request.height
        if job.second is not None:
            width, height = job.second.request.width, job.second.request.height
            if isinstance(job.upscaler, UpscalerFile) and is_first:
                enlarging = job.upscaler.work((request.width, request.height), (width, height))
        work = Workload(
            width=width,
            height=height,
            rows=min(self.engine.rows_per_call, request.num_images),
            guided=request.guidance_scale != 1 and not model.family.takes_guidance_scale,
            encodes=request.source.image is not None or hires is not None or model.family.concat == "inpaint",
            seamless=request.tiling,
            tile=request.tiles.size,
            prompts=job.first.texts.num_guiding,
            adapters=self._adapters(model, job.first).nbytes(model),
            controls=job.controls.configs if is_first else (),
            components=tuple(job.controls.components.values()) if is_first else (),
            image_prompts=job.controls.image_prompt_work if is_first else (),
            enlarging=enlarging,
        )
        return self.engine.plan(model, work)

    def _offload(self) -> None:
        """With a memory limit, model and refiner are never in memory together: each plan counts on all of it."""
        if self.refiner is not None and self.engine.memory is not None:
            for model in self._models():
                model.offload()

    def _recipe(
        self,
        request: ResolvedRequest,
        extras: tuple[ExtraFile, ...],
        notices: tuple[Notice, ...],
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
            environment=replace(
                self.engine.environment(self.model),
                plugins=plugins_of(request, *(model.family.name for model in self._models())),
            ),
            notices=notices,
            pixels_sha256=pixels_sha256(image) if image is not None else "",
        )


def _decoded(model: LoadedModel, latents: Tensor) -> CallGenerator[list[Finite]]:
    """Decodes latents to pixels, upscaled if the model has an upscaler of its own."""

    def calling(part: str, x: Tensor) -> Callable[[LoadedModel], CallGenerator[Tensor]]:
        def compute(model: LoadedModel) -> CallGenerator[Tensor]:
            return (yield picture_call(model, part, x))

        return compute

    parts = [(yield from finite_calls("vae", calling("decode", latents), model))]
    if model.has_upscaler:
        parts.append((yield from finite_calls("upscaler", calling("upscale", parts[0].value), model)))
    return parts


def _check_callable(on_progress: object) -> None:
    """Raises RequestError for anything but a function: the negative prompt, say, which stands second elsewhere."""
    if on_progress is not None and not callable(on_progress):
        raise RequestError(
            "on_progress",
            f"`on_progress` is {short(on_progress)}, expected a function of a Progress. Everything about the picture, "
            "such as negative_prompt, belongs to a TextToImageRequest",
        )


def _check_loaded(argument: str, model: object) -> None:
    """Raises RequestError for the name of a model in place of a model."""
    if isinstance(model, str | PurePath):
        name = short(str(model))
        raise RequestError(argument, f"`{argument}` is {name}, expected a loaded model, such as engine.load({name})")
    if not isinstance(model, LoadedModel) and not (model is None and argument == "refiner"):
        raise refused(argument, model, "a loaded model, such as engine.load('gesso-mini')")


def _request(request: object) -> TextToImageRequest:
    """A request, or the request of a prompt alone. Raises RequestError for anything else."""
    if isinstance(request, TextToImageRequest):
        return request
    if isinstance(request, str):
        return TextToImageRequest(prompt=request)
    raise RequestError(
        "request", f"`request` is {with_article(type(request).__name__)}, expected a TextToImageRequest or a prompt"
    )


def _requests(request: object, seed: Any) -> list[TextToImageRequest]:
    """The requests of a call, one after the other. Raises RequestError."""
    several = isinstance(request, list | tuple)
    requests = [_request(each) for each in request] if isinstance(request, list | tuple) else [_request(request)]
    if not requests:
        raise RequestError("request", "`request` is an empty list; give at least one prompt")
    if seed is None:
        return requests
    seeds = list(seed) if isinstance(seed, list | tuple | range) else [seed] * len(requests)
    if not several and seeds:
        requests = requests * len(seeds)
    if len(seeds) != len(requests):
        raise RequestError(
            "seed", f"`seed` has {len(seeds)} values for {len(requests)} prompts; give one for all, or one for each"
        )
    return [replace(each, seed=one) for each, one in zip(requests, seeds, strict=True)]


def _counted(on_progress: OnProgress | None, index: int, count: int) -> OnProgress | None:
    """The progress of a picture among all those of a call."""
    if on_progress is None:
        return None
    return lambda state: on_progress(replace(state, index=index, num_images=count))


def _several(hints: object) -> Sequence[object]:
    """Hints in a sequence; a single one is taken as one."""
    return hints if isinstance(hints, list | tuple) else [hints]


def _with_digest(request: TextToImageRequest, group: str, digest: str | None) -> TextToImageRequest:
    """The request with the hash of the given picture in its group, source or mask."""
    value = getattr(request, group)
    if digest is None or value.image == digest:
        return request
    if value.image is not None:
        raise RequestError(
            f"{group}.image",
            f"the request needs the {_WORDS[group]} {value.image[:10]}..., but {digest[:10]}... was given",
        )
    return with_values(request, {f"{group}.image": digest})


_WORDS = {"source": "image", "mask": "mask"}


def _whole_calls(resolved: ResolvedRequest, controls: Controls) -> tuple[Notice, ...]:
    """What to tell where `deep_cache` changes nothing."""
    if resolved.deep_cache is None or not controls.parts:
        return ()
    text = "`deep_cache` has no effect on calls with a ControlNet or a T2I-Adapter, which change the deep features"
    return (Notice(text, code="deep_cache_left_out", field="deep_cache"),)
