"""The engine: a device, dtypes and the models that are loaded. An object that is passed, never a global."""

import platform
from collections.abc import Callable
from importlib import resources
from itertools import count
from pathlib import Path
from threading import RLock
from typing import Any, TypeVar

import torch

import gesso
from gesso.arguments import check_callable, check_path, check_text, check_type, check_whole
from gesso.checkpoints.hashing import sha256_of
from gesso.diffusion.denoiser import Prediction
from gesso.errors import GessoError, as_path
from gesso.events import Event, EventStream
from gesso.families.base import Family
from gesso.families.control_network import load_control_network
from gesso.families.ip_adapter import load_image_encoder, load_ip_adapter
from gesso.families.loading import load_parts
from gesso.families.parts import ModelParts
from gesso.request.environment import Environment
from gesso.runtime.adapter_cache import AdapterCache
from gesso.runtime.compiled import has_kernels
from gesso.runtime.control import LoadedControl
from gesso.runtime.ip_adapter import LoadedImageEncoder, LoadedIPAdapter
from gesso.runtime.lru_cache import LRUCache
from gesso.runtime.mapped import keep_freed_memory, return_memory_promptly
from gesso.runtime.model import LoadedModel as LoadedModel
from gesso.runtime.model import LoadedWeightFile, stamp
from gesso.runtime.packing import can_pack
from gesso.runtime.plan import MemoryPlan, Workload, make_plan, parse_size
from gesso.runtime.precision import (
    Precision,
    choose_device,
    choose_precision,
    describe_device,
    memory_free,
    memory_used,
)
from gesso.runtime.reports import load_with_events, nbytes_of
from gesso.runtime.residency import Component
from gesso.runtime.skips import int8_weights, skips_of
from gesso.runtime.speed import bfloat16_gain
from gesso.runtime.upscaling import OffloadedUpscaler, load_upscaler

# Built-in models: name -> file in gesso/data.
EMBEDDED = {"gesso-mini": "gesso-mini.safetensors"}
DEFAULT_MODEL = "gesso-mini"
MAX_CONTROLS = 4  # control networks that stay loaded
WIDE = 640  # channels of a UNet from which bfloat16 can pay
GAIN = 1.3  # of speed, for which a picture may differ by the rounding of bfloat16
SKIPS_FILE = "int8.json"
T = TypeVar("T")


class Engine:
    """Device, dtypes, loaded models. A process may have several engines, and threads may share one.

    device_lock    held during each network call; calls of several threads alternate

    device         auto, cpu, cuda, cuda:N, mps
    dtype          auto, float32, bfloat16, float16, int8; see `choose_precision`. auto on the CPU: bfloat16 for models
                   with WIDE channels or more, if it is at least GAIN times as fast as float32 here; float32 for others,
                   since for one picture of a small model it is as fast
                   int8: of the UNet on a CPU, but for layers that do not bear it, see `gesso.runtime.skips`
    speeds         file that keeps what was measured for that; None: measured once in each process. Beside it lies
                   SKIPS_FILE, with what was measured for int8
    rows_per_call  batch size: pictures that are computed together. 1 makes every picture the same alone or in a run,
                   bit by bit. More is faster, but matrix products and convolutions choose the order of their sums by
                   the batch size: at the CPU sizes of gesso-mini, 20 steps, 2 to 6 together were 1.5 to 1.8 times as
                   fast and moved 0.005 % of the colour values by one level of 255, none by more.
    max_models     how many models stay loaded; the least recently used is dropped first
    memory         memory limit in bytes, or a text such as "6GiB" (of the device's memory on a GPU, of the process on
                   the CPU), which `plan` keeps by offloading and tiling; "auto": what is free now; None: no limit, and
                   everything is in memory when `load` returns
    hash_file      SHA-256 of a weight file, for recipes; a library that has hashed its files can say it at once
    on_event       is called with every event, like a subscriber of `events` from the beginning
    events         stream of the engine's events, see `gesso.events`
    Raises GessoError for a device that is not there and for a dtype that it cannot use.
    """

    def __init__(
        self,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        *,
        rows_per_call: int = 1,
        max_models: int = 1,
        memory: int | str | None = None,
        speeds: Path | None = None,
        hash_file: Callable[[Path], str] = sha256_of,
        on_event: Callable[[Event], object] | None = None,
    ) -> None:
        check_whole("rows_per_call", rows_per_call)
        check_whole("max_models", max_models)
        if not isinstance(memory, str):
            check_whole("memory", memory, optional=True, also=" (bytes), or a size such as '6GiB'")
        check_callable("hash_file", hash_file, "a function of a path")
        check_callable("on_event", on_event, "a function of an Event", optional=True)
        self.device = choose_device(device)
        self.precision = choose_precision(dtype, self.device)  # of what belongs to no model
        self._chooses_dtype = str(dtype) == "auto" and self.device.type == "cpu"
        self._speeds = speeds
        self.rows_per_call = rows_per_call
        if isinstance(memory, str):
            memory = memory_free(self.device) if memory == "auto" else parse_size(memory)
        self.memory = memory
        if memory is not None:
            return_memory_promptly()
        elif self.device.type == "cpu":
            keep_freed_memory()
        self.hash_file = hash_file
        self.events = EventStream()
        if on_event is not None:
            self.events.subscribe(on_event)
        self.adapter_cache = AdapterCache(events=self.events)
        self.device_lock = RLock()
        self._models = LRUCache[LoadedModel](max_models, room_first=True)
        self._controls = LRUCache[tuple[ModelParts, LoadedControl]](MAX_CONTROLS)
        self._others = LRUCache[Any](MAX_CONTROLS)
        self._jobs = count(1)

    @property
    def max_models(self) -> int:
        """How many models stay loaded; can be changed at any time."""
        return self._models.max_items

    @max_models.setter
    def max_models(self, count: int) -> None:
        self._models.max_items = count

    def load(
        self,
        model: str | Path = DEFAULT_MODEL,
        *,
        family: str | Family | None = None,
        prediction: Prediction | None = None,
        vae: str | Path | None = None,
        unet: str | Path | None = None,
    ) -> LoadedModel:
        """A model by its name ("gesso-mini") or from a file or a diffusers folder, from memory where it is loaded.

        family, prediction, vae, unet: override what is detected from the file; see `load_parts`.
        Raises GessoError if there is none, or gesso cannot use the file.
        """
        check_path("model", model, "the name or the path of a model")
        if not isinstance(family, Family):
            check_text("family", family, "the name of a family, such as sd15, or None", optional=True)
        check_text("prediction", prediction, "eps, v, x0 or None", optional=True)
        for name, other in {"vae": vae, "unet": unet}.items():
            check_path(name, other, "the path of a model, or None", optional=True)
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
            key, lambda: load_with_events(self.events, "model", name, load, nbytes, lambda loaded: loaded.family.name)
        )

    def _load(self, path: Path, name: str, parts: ModelParts) -> LoadedModel:
        weights = tuple(LoadedWeightFile(_short_name(file, path), file, stamp(file)) for file in parts.files)
        precision = self.precision_of(parts.family)
        packs = self.device.type == "cpu" and precision.unet == torch.bfloat16 and can_pack()
        model = LoadedModel(
            name=name,
            parts=parts,
            device=self.device,
            precision=precision,
            weights=weights,
            packed=frozenset({"unet", "vae"} & parts.networks.keys()) if packs else frozenset(),
            hash_file=self.hash_file,
            device_lock=self.device_lock,
        )
        if precision.int8:
            kept = self._speeds.with_name(SKIPS_FILE) if self._speeds is not None else None
            skips = skips_of(model, kept)
            model.residency.components["unet"].int8 = int8_weights(model, skips)
            model.shared.int8 = str(skips)
        if self.memory is None:  # otherwise a plan says what is in memory, and when
            with model.using(*parts.networks):
                pass
        return model

    def load_control(self, path: Path, model: LoadedModel) -> LoadedControl:
        """A ControlNet or T2I-Adapter for this model, from a file or a folder; from memory if it is loaded.

        Raises GessoError if it is neither, or made for models of another architecture.
        """
        path = as_path(path, "path")
        check_type("model", model, LoadedModel, "a loaded model")

        def load() -> tuple[ModelParts, LoadedControl]:  # the model's parts are held so that their id stays their own
            parts = load_control_network(path, model.family, model.parts.unet)
            component = Component("control", parts.network, self.device, path)
            return model.parts, LoadedControl(path.name, parts, component)

        key = (str(path.resolve()), *stamp(find_model(path)), id(model.parts))
        return self._controls.get(
            key,
            lambda: load_with_events(
                self.events, "control", path.name, load, lambda loaded: nbytes_of(loaded[1].network)
            ),
        )[1]

    def load_ip_adapter(self, path: Path, model: LoadedModel) -> LoadedIPAdapter:
        """An IP-Adapter for this model; from memory if it is loaded. Raises GessoError as `load_control`."""
        path = as_path(path, "path")
        check_type("model", model, LoadedModel, "a loaded model")

        def load() -> LoadedIPAdapter:
            network, file = load_ip_adapter(path, model.family)
            return LoadedIPAdapter(network, Component("IP-Adapter", network, self.device, file), file)

        return self._cached("image_prompt", path, load, lambda prompt: nbytes_of(prompt.network), model.family.name)

    def load_image_encoder(self, path: Path) -> LoadedImageEncoder:
        """CLIP's image encoder, for IP-Adapters; from memory if it is loaded. Raises ModelFileError if it is none."""
        path = as_path(path, "path")

        def load() -> LoadedImageEncoder:
            network, file = load_image_encoder(path)
            return LoadedImageEncoder(network, Component("image encoder", network, self.device, file), file)

        return self._cached("image_encoder", path, load, lambda encoder: nbytes_of(encoder.network))

    def load_upscaler(self, path: Path) -> OffloadedUpscaler:
        """An upscaler network for second passes; from memory if it is loaded. Raises ModelFileError."""
        path = as_path(path, "path")

        def load() -> OffloadedUpscaler:
            upscaler = load_upscaler(path, dtype=None)
            return OffloadedUpscaler(upscaler, Component("upscaler network", upscaler.network, self.device, path))

        return self._cached("upscaler", path, load, lambda offloaded: nbytes_of(offloaded.upscaler.network))

    def _cached(self, kind: str, path: Path, load: Callable[[], T], nbytes: Callable[[T], int], *key: str) -> T:
        """A value from the cache, loaded if it is not there.  key: tells apart what one file is loaded for"""
        value: T = self._others.get(
            (kind, path, *key, *stamp(find_model(path))),
            lambda: load_with_events(self.events, kind, path.name, load, nbytes),
        )
        return value

    def precision_of(self, family: Family) -> Precision:
        """The dtypes of a model's networks. On the CPU, auto may measure for a fraction of a second."""
        if self._chooses_dtype and max(family.unet.channels) >= WIDE and bfloat16_gain(self._speeds) >= GAIN:
            return choose_precision("bfloat16", self.device)
        return self.precision

    def next_job(self) -> int:
        """A number for a call of a pipeline, 1, 2, 3, ... for this engine; events carry it."""
        return next(self._jobs)

    def plan(self, model: LoadedModel, work: Workload) -> MemoryPlan:
        """How a request of this size runs within the memory limit, and what it needs. `model.with_plan` follows it.

        Costs a second or two the first time, when torch imports what counting needs, and some 80 MiB. Raises GessoError
        if the limit cannot be kept, and names the least that is possible.
        """
        with self.device_lock:
            # Before the process is measured: it remembers the counts.
            make_plan(model.footprint, work, budget=None, base=0)
            base = memory_used(self.device) - model.residency.onloaded_nbytes(work.components)
            return make_plan(model.footprint, work, budget=self.memory, base=max(base, 0))

    def environment(self, model: LoadedModel) -> Environment:
        """What can change the last bits of a model's picture besides the request: versions, device, dtype."""
        kernels = ["gesso-kernels"] if model.packed and has_kernels() else []
        int8 = [model.shared.int8] if model.shared.int8 else []
        return Environment(
            gesso=gesso.__version__,
            torch=str(torch.__version__),
            python=platform.python_version(),
            device=" ".join([describe_device(self.device), *kernels, *int8]),
            dtype=model.precision.name,
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
                f"{name}: {path.name} is missing from this installation. Reinstall gesso, or set `model` to a file",
                code="missing",
            )
        return path
    if "\0" in name or not name:
        raise GessoError(
            "`model`: empty, or contains a NUL character; give a name, a file or a folder",
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
            f"{name}: no model, file or folder of that name. Known names: {', '.join(EMBEDDED)}; "
            "otherwise give a .safetensors file or a diffusers folder",
            code="unknown_name",
            field="model",
        )
    return path


def _short_name(file: str | Path, root: Path) -> str:
    """The file's name without the path to the model: "unet/x.safetensors" in a folder, "x.safetensors" alone."""
    file = Path(file)
    return file.relative_to(root).as_posix() if root.is_dir() and file.is_relative_to(root) else file.name
