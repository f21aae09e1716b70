"""Pictures drawn now and then during a training, always from the same noise: as the user will draw with the result."""

from collections.abc import Callable
from pathlib import Path

from gesso.errors import GessoError, one_line
from gesso.families.parts import ModelParts
from gesso.pipelines.text_to_image import TextToImage
from gesso.request.finder import NamedFiles
from gesso.request.request import TextToImageRequest
from gesso.runtime.engine import Engine
from gesso.runtime.model import LoadedModel
from gesso.runtime.precision import Precision

SEED = 1000  # of the first prompt; the others count up


class Sampler:
    """Draws one picture a prompt with the networks as they are, into FOLDER/<step>-<place>.png.

    embedding  writes the embedding that prompts name, as it is now, and returns its file; None: they name none
    note       why there are no pictures, where the prompts cannot be drawn; "" so far
    """

    def __init__(
        self,
        parts: ModelParts,
        folder: Path,
        prompts: tuple[str, ...],
        steps: int,
        *,
        embedding: Callable[[], Path] | None = None,
    ) -> None:
        unet = next(parts.unet.parameters())
        text, vae = next(parts.text.parameters()), next(parts.vae.parameters())
        self.folder, self.prompts, self.steps, self.note = folder, prompts, steps, ""
        engine = Engine(unet.device, unet.dtype)
        precision = Precision(unet=unet.dtype, text=text.dtype, vae=vae.dtype)
        self._engine, self._embedding = engine, embedding
        self._model = LoadedModel(name="in training", parts=parts, device=unet.device, precision=precision)

    def __call__(self, step: int) -> dict[str, float]:
        """Draw the pictures of a step. -> how many"""
        drawn = 0
        path = self._embedding() if self._embedding is not None and self.prompts else None
        finder = NamedFiles({"embedding": {path.stem: path}} if path is not None else {})
        draw = TextToImage(self._engine, self._model, finder=finder)
        for place, prompt in enumerate(self.prompts):
            try:
                (picture,) = draw(TextToImageRequest(prompt=prompt, seed=SEED + place, num_steps=self.steps))
            except GessoError as error:  # a prompt of words that the model does not know ends no training
                self.note = one_line(f"no sample of {prompt!r}: {error.message}")
                continue
            self.folder.mkdir(parents=True, exist_ok=True)
            picture.image.save(self.folder / f"{step:06d}-{place}.png")
            drawn += 1
        return {"samples_drawn": float(drawn)} if drawn else {}
