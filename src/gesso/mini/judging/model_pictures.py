"""Pictures of a model for an evaluation, many prompts at a time.

They take the way of every picture (`TextToImage`), but their runs share calls of the networks: hundreds of prompts are
drawn and only what they show matters, so a last bit that depends on the batch does no harm.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from gesso.mini.judging.composition import Generate
from gesso.mini.judging.control import DrawControlled
from gesso.pipelines.hint_pictures import hint_digest
from gesso.pipelines.text_to_image import TextToImage
from gesso.request.finder import NamedFiles
from gesso.request.parts import ControlUse, LoraUse
from gesso.request.request import ResolvedRequest, TextToImageRequest
from gesso.runtime.batcher import Batcher
from gesso.runtime.engine import Engine
from gesso.runtime.model import LoadedModel

JUDGED = "judged"  # by which a request names the file that is judged


class ModelPictures:
    """Draws prompts with everything else as in a request, whose own prompt and seed are replaced."""

    def __init__(
        self, engine: Engine, model: LoadedModel, request: TextToImageRequest, files: NamedFiles | None = None
    ) -> None:
        """files: what the request names. Raises RequestError for a request that the model cannot serve."""
        self._draw, self._request = TextToImage(engine, model, finder=files), request
        self.resolved: ResolvedRequest = self._draw.resolve(request)

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
        """One picture for each prompt and seed.  -> uint8 [B, H, W, 3]"""
        return self._drawn([self._of(prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)])

    def with_lora(self, path: Path, strength: float = 1.0) -> Generate:
        """The same with an adapter on the model. Raises ModelFileError, when it draws, for one that does not fit."""
        request = replace(self._request, loras=(LoraUse(name=JUDGED, weight=strength),))
        return ModelPictures(self._draw.engine, self._draw.model, request, NamedFiles({"lora": {JUDGED: path}}))

    def with_control(self, path: Path, weight: float = 1.0) -> DrawControlled:
        """A function that draws with a ControlNet that looks at a hint for each prompt.

        Raises ModelFileError, when it draws, for a file that does not fit.
        """
        finder = NamedFiles({"control": {JUDGED: path}})
        steered = ModelPictures(self._draw.engine, self._draw.model, self._request, finder)

        def draw(prompts: Sequence[str], seeds: Sequence[int], hints: np.ndarray) -> np.ndarray:
            images = [Image.fromarray(hint) for hint in hints]
            requests = [
                replace(
                    steered._of(prompt, seed),
                    controls=(ControlUse(model=JUDGED, image=hint_digest(image), weight=weight),),
                )
                for prompt, seed, image in zip(prompts, seeds, images, strict=True)
            ]
            return steered._drawn(requests, images)

        return draw

    def _of(self, prompt: str, seed: int) -> TextToImageRequest:
        return replace(self._request, prompt=prompt, seed=seed, num_images=1)

    def _drawn(self, requests: Sequence[TextToImageRequest], hints: Sequence[Image.Image] = ()) -> np.ndarray:
        runs = []
        for number, request in enumerate(requests):
            runs += self._draw.runs(request, hints=hints[number : number + 1])
        pictures = Batcher(len(runs)).complete(runs)
        return np.stack([np.asarray(picture.image) for picture in pictures])
