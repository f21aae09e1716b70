"""IP-Adapters of a request: their image prompts, the tokens of these, and the steps at which they are active."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from torch import Tensor

from gesso.adapters.ip_adapter import ImagePromptTokens, IPAdapterAttachment, IPAdapterCall
from gesso.checkpoints.errors import ModelFileError
from gesso.checkpoints.hashing import hashes_of
from gesso.pictures.reading import flat
from gesso.request.checks import RequestError
from gesso.request.finder import Finder
from gesso.request.parts import ControlUse
from gesso.request.recipe import ExtraFile
from gesso.runtime.engine import Engine, LoadedModel
from gesso.runtime.ip_adapter import LoadedImageEncoder, LoadedIPAdapter
from gesso.runtime.residency import onloaded


@dataclass(frozen=True, eq=False)
class IPAdapterInput:
    """One IP-Adapter of a request, with its image prompt and image encoder."""

    use: ControlUse
    adapter: LoadedIPAdapter
    encoder: LoadedImageEncoder
    encoder_name: str
    image: Image.Image
    engine: Engine
    model: LoadedModel

    def tokens(self) -> tuple[Tensor, Tensor]:
        """Tokens of the image prompt, and of no picture."""
        return self.adapter.tokens(self.encoder, flat(self.image), self.model.precision.of("text"))

    def files(self) -> list[ExtraFile]:
        """The files of adapter and image encoder, for the recipe."""
        return [
            ExtraFile(kind=kind, name=name, sha256=hashes_of(file).sha256)
            for kind, name, file in (
                ("control", self.use.model, self.adapter.file),
                ("image_encoder", self.encoder_name, self.encoder.file),
            )
        ]


class IPAdapters:
    """The IP-Adapters of one request, and the weight of each at a step.

    Encodes the image prompts when it is made. With a memory limit the model is offloaded meanwhile, so its UNet must
    not be in use.
    """

    def __init__(self, inputs: Sequence[IPAdapterInput]) -> None:
        self.inputs = tuple(inputs)
        self._attachment = self._attach() if any(each.use.weight for each in inputs) else None

    def at(self, on: Sequence[bool], negative: Tensor | None) -> tuple[IPAdapterCall, ...]:
        """For one call.  on: which of them are active; negative: bool [B], rows of the negative prompt"""
        strengths = [each.use.weight * active for each, active in zip(self.inputs, on, strict=True)]
        if self._attachment is None or not any(strengths):
            return ()
        return (self._attachment.use(strengths, negative),)

    def _attach(self) -> IPAdapterAttachment:
        engine, model = self.inputs[0].engine, self.inputs[0].model
        with engine.device_lock:
            if engine.memory is not None:
                model.residency.offload_all()
            prompts = [ImagePromptTokens(each.adapter.network, *each.tokens()) for each in self.inputs]
            attachment = IPAdapterAttachment(model.parts.unet, prompts)
            for number, each in enumerate(self.inputs):
                with onloaded(each.adapter.component, model.precision.of("text")):
                    attachment.prepare(number)
        return attachment


def find_ip_adapter(
    use: ControlUse, path: Path, image: Image.Image, *, engine: Engine, model: LoadedModel, finder: Finder
) -> IPAdapterInput:
    """An IP-Adapter, and the image encoder that it needs. Raises RequestError and GessoError."""
    if use.preprocessor is not None or use.mode != "balanced":
        what = f"preprocessor {use.preprocessor}" if use.preprocessor is not None else f"mode {use.mode}"
        raise RequestError("controls", f"{use.model}: an IP-Adapter takes the picture itself; remove {what}")
    adapter = engine.load_ip_adapter(path, model)
    name, encoder = _encoder(use, adapter, engine, finder)
    return IPAdapterInput(use, adapter, encoder, name, image, engine, model)


def _encoder(
    use: ControlUse, adapter: LoadedIPAdapter, engine: Engine, finder: Finder
) -> tuple[str, LoadedImageEncoder]:
    """The image encoder that the request names, else the first that fits."""
    config = adapter.network.config
    width = f"of width {config.encoder_dim} ({'projection' if config.kind == 'base' else 'hidden states'})"
    if use.encoder is not None:
        encoder = engine.load_image_encoder(finder.find("image_encoder", use.encoder))
        if not adapter.fits(encoder.network):
            raise RequestError("controls", f"{use.model}: needs an image encoder {width}, which {use.encoder} is not")
        return use.encoder, encoder
    for name in sorted(finder.names("image_encoder")):
        try:
            encoder = engine.load_image_encoder(finder.find("image_encoder", name))
        except ModelFileError:
            continue
        if adapter.fits(encoder.network):
            return name, encoder
    raise RequestError(
        "controls",
        f"{use.model}: needs a CLIP image encoder {width}: ViT-H for SD 1.5, ViT-H or ViT-bigG for SDXL. None was "
        "found; give its file with encoder=FILE",
    )
