"""Pictures drawn now and then during a training, always from the same noise: as the user will draw with the result."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from PIL import Image

from gesso.errors import GessoError, one_line
from gesso.families.parts import ModelParts
from gesso.pipelines.hint_pictures import hint_digest
from gesso.pipelines.text_to_image import TextToImage
from gesso.request.finder import Kind as FileKind
from gesso.request.finder import NamedFiles
from gesso.request.parts import ControlUse
from gesso.request.request import TextToImageRequest
from gesso.runtime.engine import Engine
from gesso.runtime.model import LoadedModel
from gesso.runtime.precision import Precision

SAMPLES, NOTE = "samples", "note.txt"  # in the folder of a training; in that
SEED = 1000  # of the first prompt; the others count up


class Sampler:
    """Draws one picture a prompt with the networks as they are, into FOLDER/<step>-<place>.png.

    files      writes what prompts name or are steered by, as it is now, and returns the file by its kind: embedding,
               control; None: there is nothing
    fields     of the request beside prompt, seed and steps
    hint       of each prompt, for a ControlNet
    Where prompts cannot be drawn, FOLDER/note.txt says why.
    """

    def __init__(
        self,
        parts: ModelParts,
        folder: Path,
        prompts: tuple[str, ...],
        steps: int,
        *,
        files: Callable[[], Mapping[FileKind, Path]] | None = None,
        fields: Mapping[str, Any] = MappingProxyType({}),
        hints: Sequence[Image.Image] = (),
    ) -> None:
        unet = next(parts.unet.parameters())
        text, vae = next(parts.text.parameters()), next(parts.vae.parameters())
        self.folder, self.prompts, self.steps = folder, prompts, steps
        self.fields, self.hints = fields, hints
        engine = Engine(unet.device, unet.dtype)
        precision = Precision(unet=unet.dtype, text=text.dtype, vae=vae.dtype)
        self._engine, self._files = engine, files
        self._model = LoadedModel(name="in training", parts=parts, device=unet.device, precision=precision)

    def __call__(self, step: int) -> dict[str, float]:
        """Draw the pictures of a step. -> how many"""
        drawn, note = 0, ""
        files = self._files() if self._files is not None and self.prompts else {}
        finder = NamedFiles({kind: {path.stem: path} for kind, path in files.items()})
        draw = TextToImage(self._engine, self._model, finder=finder)
        for place, prompt in enumerate(self.prompts):
            fields, hints = dict(self.fields), self.hints[place : place + 1]
            if hints and "control" in files:
                fields["controls"] = (ControlUse(model=files["control"].stem, image=hint_digest(hints[0])),)
            try:
                request = TextToImageRequest(prompt=prompt, seed=SEED + place, num_steps=self.steps, **fields)
                (picture,) = draw(request, hints=hints)
            except GessoError as error:  # a prompt of words that the model does not know ends no training
                note = one_line(f"no sample of {prompt!r}: {error.message}")
                continue
            self.folder.mkdir(parents=True, exist_ok=True)
            picture.image.save(self.folder / f"{step:06d}-{place}.png")
            drawn += 1
        if note != read_note(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / NOTE).write_text(note, encoding="utf-8")
        return {"samples_drawn": float(drawn)} if drawn else {}


def read_note(folder: Path) -> str:
    """Why some samples are not there; "" where all are."""
    path = folder / NOTE
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
