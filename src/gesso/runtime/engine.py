"""The engine: a device, number formats and the models that are loaded. Passed to whoever needs it, never a global."""

import platform
from collections.abc import Callable
from importlib import resources
from itertools import count
from pathlib import Path
from threading import RLock
from typing import Any, TypeVar

import torch

import gesso
from gesso.checkpoints.safetensors_file import sha256_of
from gesso.diffusion.denoiser import Prediction
from gesso.errors import GessoError
from gesso.events import Event, EventStream
from gesso.families.control_network import load_control_network
from gesso.families.image_prompt import load_image_encoder, load_image_prompt
from gesso.families.loading import load_parts
from gesso.families.parts import Parts
from gesso.request.environment import Environment
from gesso.runtime.control import LoadedControl
from gesso.runtime.image_prompt import LoadedImageEncoder, LoadedImagePrompt
from gesso.runtime.kept import Kept
from gesso.runtime.mapped import return_memory_promptly
from gesso.runtime.model import LoadedModel as LoadedModel
from gesso.runtime.model import WeightFile, stamp
from gesso.runtime.plan import MemoryPlan, Workload, make_plan, parse_size
from gesso.runtime.precision import choose_device, choose_precision, describe_device, memory_free, memory_used
from gesso.runtime.reports import nbytes_of, reported
from gesso.runtime.residency import Component
from gesso.runtime.shelf import AdapterShelf
from gesso.runtime.upscaling import RestingUpscaler, load_upscaler

# Models that the package carries: name -> file in gesso/data.
EMBEDDED = {"gesso-mini": "gesso-mini.safetensors"}
DEFAULT_MODEL = "gesso-mini"
MAX_CONTROLS = 4  # control networks that stay loaded
T = TypeVar("T")


class Engine:
    """Device, dtypes, resident models. Any number of engines may live in one process, and threads may share one.

    turn           held by whoever uses the device, for a call of a network at least; calls of threads alternate

    device         auto, cpu, cuda, cuda:N, mps
    dtype          auto, float32, bfloat16, float16; see `choose_precision`
    rows_per_call  pictures that go through the networks together. 1 makes every picture the same alone or in a run, bit
                   by bit. More is quicker, but matrix products and convolutions choose the order of their sums by the
                   size of the batch: at the CPU sizes of gesso-mini, 20 steps, 2 to 6 together were 1.5 to 1.8 times
                   as quick and moved 0.005 % of the colour values by one level of 255, none by more.
    max_models     how many models stay loaded; the one used longest ago goes first
    memory         bytes, or a text such as "6GiB", that a request may take in all (of the device's memory on a GPU, of
                   the process on the CPU), kept by `plan`; "auto": what is free now; None: no limit, and everything is
                   ready when `load` returns
    hash_file      SHA-256 of a weight file, for recipes; a library that has hashed its files can say it at once
    on_event       is called with every event, as if it had subscribed to `events` before anything happens
    events         what the engine reports while it works, see `gesso.events`
    Raises GessoError for a device that is not there and for a dtype that it cannot use.
    """

    def __init__(
        self,
        device: str = "auto",
        dtype: str = "auto",
        *,
        rows_per_call: int = 1,
        max_models: int = 1,
        memory: int | str | None = None,
        hash_file: Callable[[Path], str] = sha256_of,
        on_event: Callable[[Event], object] | None = None,
    ) -> None:
        if rows_per_call < 1 or max_models < 1:
            raise ValueError(f"rows_per_call {rows_per_call}, max_models {max_models}: expected 1 or more")
        self.device = choose_device(device)
        self.precision = choose_precision(dtype, self.device)
        self.rows_per_call = rows_per_call
        if isinstance(memory, str):
            memory = memory_free(self.device) if memory == "auto" else parse_size(memory)
        self.memory = memory
        if memory is not None:
            return_memory_promptly()
        self.hash_file = hash_file
        self.events = EventStream()
        if on_event is not None:
            self.events.subscribe(on_event)
        self.shelf = AdapterShelf(events=self.events)
        self.turn = RLock()
        self._models = Kept[LoadedModel](max_models, room_first=True)
        self._controls = Kept[tuple[Parts, LoadedControl]](MAX_CONTROLS)
        self._others = Kept[Any](MAX_CONTROLS)
        self._jobs = count(1)

    @property
    def max_models(self) -> int:
        """How many models stay loaded; more may be asked for at any time."""
        return self._models.max_items

    @max_models.setter
    def max_models(self, count: int) -> None:
        self._models.max_items = count

    def load(
        self,
        model: str | Path = DEFAULT_MODEL,
        *,
        family: str | None = None,
        prediction: Prediction | None = None,
        vae: str | Path | None = None,
        unet: str | Path | None = None,
    ) -> LoadedModel:
        """A model by its name ("gesso-mini") or from a file or a diffusers folder, from memory where it is loaded.

        family, prediction, vae, unet: where the file does not tell, or something else is wanted; see `load_parts`.
        Raises GessoError where there is none, or the file is not a model that gesso can use.
        """
        path = find_model(model)
        vae, unet = (None if other is None else find_model(other) for other in (vae, unet))
        others = tuple(other and (str(other.resolve()), *stamp(other)) for other in (vae, unet))
        key = (str(path.resolve()), *stamp(path), family, prediction, *others)

        name = str(model) if str(model) in EMBEDDED else path.name or path.resolve().name

        def load() -> LoadedModel:
            parts = load_parts(path, dtype=None, check=False, family=family, prediction=prediction, vae=vae, unet=unet)
            return self._load(path, name, parts)

        def nbytes(loaded: LoadedModel) -> int:
            return nbytes_of(*loaded.parts.networks.values())

        return self._models.get(
            key, lambda: reported(self.events, "model", name, load, nbytes, lambda loaded: loaded.family.name)
        )

    def _load(self, path: Path, name: str, parts: Parts) -> LoadedModel:
        weights = tuple(WeightFile(_short_name(file, path), file, stamp(file)) for file in parts.files)
        model = LoadedModel(
            name=name,
            parts=parts,
            device=self.device,
            precision=self.precision,
            weights=weights,
            hash_file=self.hash_file,
            turn=self.turn,
        )
        if self.memory is None:  # otherwise a plan says what is in memory when
            with model.using(*parts.networks):
                pass
        return model

    def load_control(self, path: Path, model: LoadedModel) -> LoadedControl:
        """A network that steers this model, from a file or a folder; from memory where it is loaded.

        Raises GessoError where it is none, or one for models of another architecture.
        """

        def load() -> tuple[Parts, LoadedControl]:  # the model's parts are held so that their id stays their own
            parts = load_control_network(path, model.family, model.parts.unet)
            component = Component("control", parts.network, self.device, path)
            return model.parts, LoadedControl(path.name, parts, component)

        key = (str(path.resolve()), *stamp(find_model(path)), id(model.parts))
        return self._controls.get(
            key,
            lambda: reported(self.events, "control", path.name, load, lambda loaded: nbytes_of(loaded[1].network)),
        )[1]

    def load_image_prompt(self, path: Path, model: LoadedModel) -> LoadedImagePrompt:
        """An IP-Adapter for this model; from memory where it is loaded. Raises GessoError as `load_control`."""

        def load() -> LoadedImagePrompt:
            network, file = load_image_prompt(path, model.family)
            return LoadedImagePrompt(network, Component("image prompt", network, self.device, file), file)

        return self._kept("image_prompt", path, load, lambda prompt: nbytes_of(prompt.network), model.family.name)

    def load_image_encoder(self, path: Path) -> LoadedImageEncoder:
        """CLIP's image encoder; from memory where it is loaded. Raises ModelFileError where it is none."""

        def load() -> LoadedImageEncoder:
            network, file = load_image_encoder(path)
            return LoadedImageEncoder(network, Component("image encoder", network, self.device, file), file)

        return self._kept("image_encoder", path, load, lambda encoder: nbytes_of(encoder.network))

    def load_upscaler(self, path: Path) -> RestingUpscaler:
        """An upscaler network for second passes; from memory where it is loaded. Raises ModelFileError."""

        def load() -> RestingUpscaler:
            upscaler = load_upscaler(path, dtype=None)
            return RestingUpscaler(upscaler, Component("upscaler network", upscaler.network, self.device, path))

        return self._kept("upscaler", path, load, lambda resting: nbytes_of(resting.upscaler.network))

    def _kept(self, kind: str, path: Path, load: Callable[[], T], nbytes: Callable[[T], int], *key: str) -> T:
        """What was loaded before, or is loaded now. key: what else the same file may be loaded for"""
        kept: T = self._others.get(
            (kind, path, *key, *stamp(find_model(path))),
            lambda: reported(self.events, kind, path.name, load, nbytes),
        )
        return kept

    def next_job(self) -> int:
        """A number for a call of a pipeline: 1, 2, 3, ... for this engine, by which its events are told apart."""
        return next(self._jobs)

    def plan(self, model: LoadedModel, work: Workload) -> MemoryPlan:
        """How a request of this size runs within the engine's memory, and what it takes. Follow it by `model.under`.

        Costs a second or two the first time, when torch imports what counting needs, and some 80 MiB. Raises GessoError
        where the memory cannot be kept, saying the least that is possible.
        """
        with self.turn:
            # Before the process is measured: it remembers the counts.
            make_plan(model.footprint, work, budget=None, base=0)
            base = memory_used(self.device) - model.residency.settled_nbytes(work.components)
            return make_plan(model.footprint, work, budget=self.memory, base=max(base, 0))

    def environment(self) -> Environment:
        """What else can change the last bits of a picture."""
        return Environment(
            gesso=gesso.__version__,
            torch=str(torch.__version__),
            python=platform.python_version(),
            device=describe_device(self.device),
            dtype=self.precision.name,
            threads=torch.get_num_threads(),
            rows_per_call=self.rows_per_call,
        )


def find_model(model: str | Path) -> Path:
    """The file or folder of a model. Raises GessoError where nothing is there."""
    name = str(model)
    if name in EMBEDDED:
        path = Path(str(resources.files("gesso") / "data" / EMBEDDED[name]))
        if not path.is_file():
            raise GessoError(
                f"{name}: this installation lacks {path.name}. Install gesso again, or give `model` a file",
                code="missing",
            )
        return path
    if "\0" in name or not name:
        raise GessoError(
            "`model`: empty, or with a NUL character; give a name, a file or a folder",
            code="invalid_name",
            field="model",
        )
    path = Path(name)
    try:
        exists = path.exists()
    except OSError as error:  # a name that is too long, a folder that may not be read
        raise GessoError(f"{name[:200]}: cannot be read ({error.strerror})", code="unreadable") from error
    if not exists:
        raise GessoError(
            f"{name}: no such file or folder, and no model of that name. Known names: {', '.join(EMBEDDED)}; "
            "otherwise give a .safetensors file or a diffusers folder",
            code="unknown_name",
            field="model",
        )
    return path


def _short_name(file: str | Path, root: Path) -> str:
    """The file's name without the path to the model: "unet/x.safetensors" in a folder, "x.safetensors" alone."""
    file = Path(file)
    return file.relative_to(root).as_posix() if root.is_dir() and file.is_relative_to(root) else file.name
