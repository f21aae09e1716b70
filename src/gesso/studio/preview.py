"""Live preview: a PNG file of the picture while it is drawn."""

import io
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from gesso.errors import GessoError
from gesso.pictures.picture_file import write_new
from gesso.pipelines.picture import Progress, to_images
from gesso.studio.events import Event, Sampling


class Preview:
    """Writes the current prediction of the clean picture to one PNG file, replacing the previous one.

    decode: latents [B, C, h, w], as the sampler has them -> pixels in [-1, 1]: the model's VAE, or a TAESD, which is
    a hundred times faster. Shows the first picture of those that are drawn together; draws no random numbers.
    every: write once in so many steps. Raises GessoError on construction where the file would not be a PNG.
    """

    def __init__(self, path: Path, decode: Callable[[Tensor], Tensor], *, every: int = 1) -> None:
        if path.suffix.lower() != ".png":
            raise GessoError(
                f"{path}: expected a name ending in .png, as previews are PNG files",
                code="unsupported",
                data={"path": str(path)},
            )
        self.path, self.decode, self.every = path, decode, every

    def on_event(self, event: Event) -> None:
        """For `gesso.studio.drawing.draw`. Raises GessoError where the file cannot be written."""
        if isinstance(event, Sampling):
            self(event.progress)

    def __call__(self, state: Progress) -> None:
        """For `TextToImage.__call__`. Raises GessoError where the file cannot be written."""
        if state.latents is None or state.step % self.every:
            return
        with torch.inference_mode():
            (image,) = to_images(self.decode(state.latents[:1]))
        buffer = io.BytesIO()
        image.save(buffer, format="PNG")
        write_new(self.path, buffer.getvalue(), overwrite=True, chosen_by="preview")
