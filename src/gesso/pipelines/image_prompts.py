"""Pictures that prompt: IP-Adapters of a request, the tokens of their pictures, and when they speak."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from torch import Tensor

from gesso.adapters.ip_adapter import PictureAttachment, PicturePrompt, PictureUse
from gesso.checkpoints.errors import ModelFileError
from gesso.pictures.reading import flat
from gesso.request.checks import RequestError
from gesso.request.finder import Finder
from gesso.request.parts import ControlUse
from gesso.request.recipe import ExtraFile
from gesso.runtime.engine import Engine, LoadedModel
from gesso.runtime.image_prompt import LoadedImageEncoder, LoadedImagePrompt
from gesso.runtime.residency import settled
from gesso.runtime.shelf import AdapterShelf


@dataclass(frozen=True, eq=False)
class PictureGuide:
    """One IP-Adapter with its picture."""

    use: ControlUse
    adapter: LoadedImagePrompt
    encoder: LoadedImageEncoder
    encoder_name: str
    image: Image.Image
    engine: Engine
    model: LoadedModel

    def tokens(self) -> tuple[Tensor, Tensor]:
        """Of the picture and of none."""
        return self.adapter.tokens(self.encoder, flat(self.image), self.engine.precision.of("text"))

    def files(self, shelf: AdapterShelf) -> list[ExtraFile]:
        """For the recipe."""
        return [
            ExtraFile(kind=kind, name=name, sha256=shelf.hashes(file).sha256)
            for kind, name, file in (
                ("control", self.use.model, self.adapter.file),
                ("image_encoder", self.encoder_name, self.encoder.file),
            )
        ]


class PictureVoices:
    """The IP-Adapters of one request, and how loud each is at the step that is computed.

    Their pictures are read here and now. Where memory is limited the model rests meanwhile, so this is no moment at
    which its UNet is in use.
    """

    def __init__(self, guides: Sequence[PictureGuide]) -> None:
        self.guides = tuple(guides)
        self._attachment = self._attach() if any(guide.use.weight for guide in guides) else None

    def at(self, on: Sequence[bool], negative: Tensor | None) -> tuple[PictureUse, ...]:
        """For one call. on: which of them speak; negative: bool [B], the rows that guidance leads away from."""
        strengths = [guide.use.weight * speaks for guide, speaks in zip(self.guides, on, strict=True)]
        if self._attachment is None or not any(strengths):
            return ()
        return (self._attachment.use(strengths, negative),)

    def _attach(self) -> PictureAttachment:
        engine, model = self.guides[0].engine, self.guides[0].model
        with engine.turn:
            if engine.memory is not None:
                model.residency.rest_all()
            prompts = [PicturePrompt(guide.adapter.network, *guide.tokens()) for guide in self.guides]
            attachment = PictureAttachment(model.parts.unet, prompts)
            for number, guide in enumerate(self.guides):
                with settled(guide.adapter.component, engine.precision.of("text")):
                    attachment.prepare(number)
        return attachment


def find_guide(
    use: ControlUse, path: Path, image: Image.Image, *, engine: Engine, model: LoadedModel, finder: Finder
) -> PictureGuide:
    """An IP-Adapter, and the encoder that goes with it. Raises RequestError and GessoError."""
    if use.preprocessor is not None or use.mode != "balanced":
        what = f"preprocessor {use.preprocessor}" if use.preprocessor is not None else f"mode {use.mode}"
        raise RequestError("controls", f"{use.model}: an IP-Adapter looks at the picture itself; leave {what} out")
    adapter = engine.load_image_prompt(path, model)
    name, encoder = _encoder(use, adapter, engine, finder)
    return PictureGuide(use, adapter, encoder, name, image, engine, model)


def _encoder(
    use: ControlUse, adapter: LoadedImagePrompt, engine: Engine, finder: Finder
) -> tuple[str, LoadedImageEncoder]:
    """The one that the request names, else the first that fits."""
    wanted = adapter.network.config
    width = f"{wanted.encoder_dim} wide ({'projected' if wanted.kind == 'base' else 'states'})"
    if use.encoder is not None:
        encoder = engine.load_image_encoder(finder.find("image_encoder", use.encoder))
        if not adapter.fits(encoder.network):
            raise RequestError("controls", f"{use.model}: needs an image encoder {width}, {use.encoder} is another")
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
        f"{use.model}: needs CLIP's image encoder, {width}: ViT-H for SD 1.5, ViT-H or ViT-bigG for SDXL. None is "
        "known; give its file with encoder=FILE",
    )
