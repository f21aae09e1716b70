"""What commands share that draw many pictures into one folder and can go on after a stop."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gesso.cli.adapter_options import Given, make_finder, parse_embeddings, parse_loras
from gesso.cli.control_options import files_of_controls, parse_controls, read_controls
from gesso.cli.progress import Bar
from gesso.cli.prompt_options import read_front_end
from gesso.cli.session import Pictures
from gesso.errors import GessoError
from gesso.request.axes import parse_axis
from gesso.request.request import TextToImageRequest

if TYPE_CHECKING:
    from PIL.Image import Image

    from gesso.frontends.front_end import FrontEnd
    from gesso.library.finder import LibraryFinder
    from gesso.pipelines.text_to_image import TextToImage
    from gesso.studio.run_folder import RunFolder


def with_settings(base: TextToImageRequest, settings: list[str]) -> TextToImageRequest:
    """The request with every NAME=VALUE of --set. Raises GessoError for more than one value."""
    for setting in settings:
        axis = parse_axis(setting)
        if len(axis.values) != 1 or axis.changes[0] is None or axis.label == "prompt":
            raise GessoError(f"--set {setting[:60]}: expected one value of a field")
        base = axis.changes[0](base)
    return base


@dataclass(frozen=True)
class Beside:
    """What stands beside the prompt in every picture of a run, from the options that `gesso generate` has for it.

    fields    of every request
    hints     the pictures that control networks go by
    finder    of the files that requests name
    front     what is done to a prompt before it is a request
    said      the options, as the run remembers them
    """

    fields: dict[str, Any]
    hints: "list[Image]"
    finder: "LibraryFinder"
    front: "FrontEnd"
    said: dict[str, Any]

    @classmethod
    def of(
        cls,
        *,
        control: list[str] | None,
        lora: list[str] | None,
        embedding: list[Path] | None,
        style: list[str] | None,
        styles: Path | None,
        wildcards: Path | None,
        dynamic_prompts: bool,
    ) -> "Beside":
        """Raises GessoError."""
        controls = parse_controls(control or [])
        uses, hints = read_controls(controls)
        loras, files = parse_loras(lora or [])
        given: Given = {
            "lora": files,
            "embedding": parse_embeddings(embedding or []),
            **files_of_controls(controls),
        }
        said = {
            "control": control or [],
            "lora": lora or [],
            "embedding": [str(path) for path in embedding or []],
            "style": style or [],
            "styles": str(styles) if styles is not None else None,
            "wildcards": str(wildcards) if wildcards is not None else None,
            "dynamic_prompts": dynamic_prompts,
        }
        front = read_front_end(None, style, styles, wildcards, dynamic_prompts)
        return cls({"controls": uses, "loras": loras}, hints, make_finder(given), front, said)


@dataclass
class Drawing:
    """Draws the pictures of a run that are not there yet.

    pictures  what a call of the pipeline takes besides the request
    """

    folder: "RunFolder"
    bar: Bar
    count: int
    pictures: Pictures
    beside: Beside
    finished: int = 0
    drawn: int = 0

    def picture(self, pipeline: "TextToImage", request: TextToImageRequest, name: str) -> "Image":
        """The picture of that file name, drawn now or before. The request has a seed and asks for one picture."""
        self.finished += 1
        (written,) = self.beside.front.requests(request, pipeline.model.family)
        request, hints = written.request, self.beside.hints
        if not self.folder.is_new:
            found = self.folder.done(name, pipeline.expected(request, **self.pictures, hints=hints))
            if found is not None:
                return found
        self.drawn += 1
        said = f"picture {self.finished} of {self.count}"
        (picture,) = pipeline(
            request,
            lambda state: self.bar.step(said, state.step, state.num_steps),
            **self.pictures,
            hints=hints,
        )
        picture = picture.noted(written.notices)
        for notice in dict.fromkeys(picture.notices):
            self.bar.note(f"note: {name}: {notice}")
        self.folder.save(name, picture.to_png())
        return picture.image

    def summary(self) -> str:
        """How much of the run was there already."""
        return f"{self.count} pictures, {self.finished - self.drawn} of them were there; seed {self.folder.seed}"
