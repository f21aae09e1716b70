"""From names and files to a ready pipeline.

studio = Studio(EngineOptions(dtype="bfloat16", memory="6GiB"))
pipeline = studio.open(ModelChoice(model="my-checkpoint", vae="kl-f8-anime"))  # or studio.open("my-checkpoint")
for picture in pipeline(TextToImageRequest(prompt="a cat")):
    picture.show()
"""

import logging
import os
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, cast, get_args

from gesso.arguments import (
    check_callable,
    check_flag,
    check_path,
    check_text,
    check_type,
    check_whole,
    known_fields,
    refused,
)
from gesso.errors import GessoError, as_path
from gesso.request.checks import check_known
from gesso.request.finder import check_files
from gesso.studio.events import Loading, OnEvent, ignore
from gesso.studio.files import Files, recipe_files
from gesso.studio.home import model_of_recipe, open_library, resolve_model, speeds_file

if TYPE_CHECKING:
    from gesso.library import Library
    from gesso.library.finder import LibraryFinder
    from gesso.pipelines.text_to_image import TextToImage
    from gesso.request.finder import Finder
    from gesso.request.recipe import Recipe
    from gesso.runtime.engine import Engine
    from gesso.studio.preview import Preview

log = logging.getLogger(__name__)

DEFAULT_MODEL = "gesso-mini"
_MODEL = "the name or the path of a model"


@known_fields()
@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Device, dtype and memory of the engine; see `gesso.runtime.engine.Engine`.

    device         auto, cpu, cuda, cuda:1, mps
    dtype          auto, float32, bfloat16, float16, int8
    threads        of the CPU, for the whole process; None: as many as help, see `usable_threads`
    rows_per_call  pictures that go through the networks together
    max_models     models that stay loaded
    memory         limit in all, such as "6GiB" or bytes; weights are offloaded to fit; "auto": what is free; None: none
    """

    device: str = "auto"
    dtype: str = "auto"
    threads: int | None = None
    rows_per_call: int = 1
    max_models: int = 1
    memory: int | str | None = None

    def __post_init__(self) -> None:
        """Raises ArgumentError for a value of the wrong type; what this machine has, the engine finds out."""
        check_type("device", self.device, (str,), "the name of a device, such as auto, cpu or cuda")
        check_type("dtype", self.dtype, (str,), "auto, float32, bfloat16, float16 or int8")
        check_whole("threads", self.threads, optional=True, also=", or None")
        check_whole("rows_per_call", self.rows_per_call)
        check_whole("max_models", self.max_models)
        if not isinstance(self.memory, str):
            check_whole("memory", self.memory, optional=True, also=", a size such as '6GiB', or None")

    @classmethod
    def of_recipe(
        cls, recipe: "Recipe", *, device: str | None = None, dtype: str | None = None, threads: int | None = None
    ) -> "EngineOptions":
        """Those that a recipe records, as far as this machine has them; None: the recipe's.

        A CPU takes float32 where the recipe says float16, which a replay's verdict then names.
        """
        import torch

        recorded = recipe.environment
        if device is None:
            is_cuda = recorded.device.partition(" ")[0] == "cuda" and torch.cuda.is_available()
            device = "cuda" if is_cuda else "cpu"
        if dtype is None:
            dtype = "float32" if device == "cpu" and recorded.dtype == "float16" else recorded.dtype
        return cls(device=device, dtype=dtype, threads=threads or min(recorded.threads, os.cpu_count() or 1))


@known_fields()
@dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """A model and what goes with it: names, files, folders, parts of hashes or hub names, see `resolve_model`.

    refiner     model that finishes the pictures
    vae, unet   from other files than the model's
    family      model family, if its file does not say
    prediction  prediction type (eps, v, x0), if detection is wrong
    """

    model: str | Path = DEFAULT_MODEL
    refiner: str | Path | None = None
    vae: str | Path | None = None
    unet: str | Path | None = None
    family: str | None = None
    prediction: str | None = None

    def __post_init__(self) -> None:
        """Raises ArgumentError for a value of the wrong type."""
        check_path("model", self.model, _MODEL)
        for name in ("refiner", "vae", "unet"):
            check_path(name, getattr(self, name), f"{_MODEL}, or None", optional=True)
        check_text("family", self.family, "the name of a family, such as sd15, or None", optional=True)
        check_text("prediction", self.prediction, "eps, v, x0 or None", optional=True)


@known_fields()
@dataclass(frozen=True, kw_only=True)
class RecipePlaces:
    """Where the files of a recipe are, for those that are not found by name and hash. None: look for it.

    vae, unet  the separate files that were used, which a recipe does not tell apart from the model's
    files      LoRA, embeddings, ControlNet models, image encoders, upscalers
    """

    model: str | Path | None = None
    refiner: str | Path | None = None
    vae: str | Path | None = None
    unet: str | Path | None = None
    files: Files | None = None

    def __post_init__(self) -> None:
        """Raises ArgumentError for a value of the wrong type."""
        for name in ("model", "refiner", "vae", "unet"):
            check_path(name, getattr(self, name), f"{_MODEL}, or None", optional=True)
        if self.files is not None:
            check_files("files", self.files)


class Studio:
    """A library and an engine. The engine, and torch with it, come with the first model that is opened.

    options  of the engine
    library  where models are found by name and hash; None: the user's
    offline  fetch nothing for a hub's name
    """

    def __init__(
        self, options: EngineOptions | None = None, *, library: "Library | None" = None, offline: bool = False
    ) -> None:
        from gesso.library import Library

        self.options = options if options is not None else EngineOptions()
        check_type("options", self.options, EngineOptions, "EngineOptions")
        if library is not None:
            check_type("library", library, Library, "a Library, such as gesso.Library('folder')")
        check_flag("offline", offline)
        self.library = library or open_library()
        self.offline = offline
        self._engine: Engine | None = None
        self._lock = Lock()

    @property
    def engine(self) -> "Engine":
        """The engine, which is made when it is first asked for. Sets the number of torch's CPU threads.

        Raises GessoError for a device that is not there, and for a dtype that it cannot use.
        """
        with self._lock:
            if self._engine is None:
                self._engine = _engine(self.options)
            return self._engine

    def resolve(self, name: str | Path, *, kinds: Collection[str] = ("checkpoint",)) -> str:
        """The name of a built-in model or the path of a model of these kinds. Raises GessoError, naming close names."""
        check_path("name", name, _MODEL)
        if isinstance(kinds, str) or not isinstance(kinds, Collection):
            raise refused("kinds", kinds, "a list of kinds, such as ('checkpoint',)")
        path = resolve_model(name, self.library, kinds=kinds, offline=self.offline)
        log.debug("%r is %r", str(name), path)
        return path

    def finder(self, files: Files | None = None) -> "LibraryFinder":
        """Finds LoRA, embeddings, ControlNet models and upscalers: in `files`, built in, or in the library."""
        from gesso.library.finder import LibraryFinder

        return LibraryFinder(self.library, files)

    def open(
        self,
        choice: ModelChoice | str | Path | None = None,
        *,
        finder: "Finder | None" = None,
        on_event: OnEvent = ignore,
    ) -> "TextToImage":
        """The pipeline of a model, and of a refiner if any; what is loaded already stays.

        choice  the model, and what goes with it; None: the default model
        finder  of the files that requests name; None: `self.finder()`
        Raises GessoError for what is not there, and ModelFileError for files that cannot be used.
        """
        from gesso.library.containers import useless_copies_removed

        if not isinstance(choice, ModelChoice):
            check_path("choice", choice, f"a ModelChoice, or {_MODEL}", optional=True)
            choice = ModelChoice() if choice is None else ModelChoice(model=choice)
        named = [name for name in (choice.model, choice.refiner, choice.vae, choice.unet) if name is not None]
        check_callable("on_event", on_event, "a function of an event")
        with useless_copies_removed(self.library.root, named):
            return self._open(choice, finder, on_event)

    def _open(self, choice: ModelChoice, finder: "Finder | None", on_event: OnEvent) -> "TextToImage":
        on_event(Loading(model=Path(choice.model).name))
        model = self.resolve(choice.model)
        refiner = None if choice.refiner is None else self.resolve(choice.refiner)
        vae = None if choice.vae is None else self.resolve(choice.vae, kinds=("vae", "taesd", "checkpoint"))
        unet = None if choice.unet is None else self.resolve(choice.unet, kinds=("unet", "checkpoint"))
        from gesso.diffusion.denoiser import Prediction
        from gesso.pipelines.text_to_image import TextToImage

        engine = self.engine
        if choice.prediction is not None:
            check_known("prediction", choice.prediction, get_args(Prediction))
        prediction = cast("Prediction | None", choice.prediction)
        if refiner is not None:  # both are needed at once
            engine.max_models = max(engine.max_models, 2)
        base = engine.load(model, vae=vae, unet=unet, family=choice.family, prediction=prediction)
        return TextToImage(
            engine,
            base,
            refiner=engine.load(refiner) if refiner is not None else None,
            finder=finder if finder is not None else self.finder(),
        )

    def open_recipe(
        self,
        recipe: "Recipe",
        places: "RecipePlaces | None" = None,
        *,
        near: Path = Path(),
        where: str | Path = "recipe",
        on_event: OnEvent = ignore,
    ) -> "TextToImage":
        """The pipeline that a recipe was drawn with: its models and files by their hashes, wherever they lie now.

        places  where files are that would not be found
        near    a folder to look into besides: that of the picture
        where   what the recipe was read from, for errors
        Raises GessoError (code recipe_model_missing, recipe_file_missing) for what is not on this machine.
        """
        from gesso.request.recipe import Recipe

        check_type("recipe", recipe, Recipe, "a Recipe, such as read_recipe gives")
        places = places if places is not None else RecipePlaces()
        check_type("places", places, RecipePlaces, "RecipePlaces")
        refiner = places.refiner
        if refiner is None and recipe.refiner:
            refiner = self._recorded("refiner", recipe.refiner, recipe.refiner_hash, near, where)
        model = places.model
        if model is None:
            model = self._recorded("model", recipe.model, recipe.model_hash, near, where)
        choice = ModelChoice(
            model=model,
            refiner=refiner,
            vae=places.vae,
            unet=places.unet,
        )
        finder = recipe_files(recipe, self.finder(places.files), where)
        pipeline = self.open(choice, finder=finder, on_event=on_event)
        family = pipeline.model.family
        if recipe.prediction and (family.name, family.prediction) != (recipe.family, recipe.prediction):
            with suppress(GessoError):  # drawn as something else than its file looks like, or another file now
                as_recorded = replace(choice, family=recipe.family, prediction=recipe.prediction)
                pipeline = self.open(as_recorded, finder=finder, on_event=on_event)
        return pipeline

    def _recorded(self, field: str, name: str, digest: str, near: Path, where: str | Path) -> str:
        """The model that a recipe names, wherever it is now. Raises GessoError where it is not here."""
        path = model_of_recipe(name, [digest], near, self.library)
        if path is None:
            raise GessoError(
                f"{where}: drawn with {name[:100]!r} (sha256 {digest}...), which was not found. Give it with `{field}`",
                code="recipe_model_missing",
                field=field,
                data={"name": name, "sha256": digest},
            )
        return path

    def preview(self, pipeline: "TextToImage", path: Path, taesd: str | None = None) -> "Preview":
        """What writes a PNG of the picture while it is drawn: for the events of `draw`, or as `on_progress`.

        taesd  name or file of a TAESD that decodes it; None: the model's own autoencoder, which is slower
        Raises GessoError where that is no TAESD, or the path is not that of a PNG.
        """
        from gesso.pipelines.text_to_image import TextToImage
        from gesso.studio.preview import Preview

        check_type("pipeline", pipeline, TextToImage, "a pipeline, such as studio.open() gives")
        path = as_path(path, "path")
        if taesd is None:
            return Preview(path, pipeline.model.decode)
        from gesso.families.taesd import load_taesd

        network, _ = load_taesd(self.resolve(taesd, kinds=("taesd",)), pipeline.engine.device)
        return Preview(path, network.decode)


def use_threads(threads: int | None = None) -> None:
    """Set the CPU threads of torch, for the whole process; None: as many as help here. Raises ValueError below 1."""
    import torch

    from gesso.runtime.precision import usable_threads

    check_whole("threads", threads, optional=True, also=", or None")
    torch.set_num_threads(threads or min(torch.get_num_threads(), usable_threads()))


def _engine(options: EngineOptions) -> "Engine":
    from gesso.runtime.engine import Engine

    use_threads(options.threads)
    return Engine(
        options.device,
        options.dtype,
        rows_per_call=options.rows_per_call,
        max_models=options.max_models,
        memory=options.memory,
        speeds=speeds_file(),
    )
