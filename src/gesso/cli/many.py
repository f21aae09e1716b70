"""What commands share that draw many pictures into one folder and can go on after a stop."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gesso.cli.progress import Bar
from gesso.cli.session import Pictures
from gesso.errors import GessoError
from gesso.pipelines.axes import parse_axis
from gesso.pipelines.request import TextToImageRequest

if TYPE_CHECKING:
    from PIL.Image import Image

    from gesso.pipelines.run_folder import RunFolder
    from gesso.pipelines.text_to_image import TextToImage


def with_settings(base: TextToImageRequest, settings: list[str]) -> TextToImageRequest:
    """The request with every NAME=VALUE of --set. Raises GessoError for more than one value."""
    for setting in settings:
        axis = parse_axis(setting)
        if len(axis.values) != 1 or axis.changes[0] is None or axis.label == "prompt":
            raise GessoError(f"--set {setting[:60]}: expected one value of a field")
        base = axis.changes[0](base)
    return base


@dataclass
class Drawing:
    """Draws the pictures of a run that are not there yet.

    pictures  what a call of the pipeline takes besides the request
    hints     the pictures that control networks go by
    """

    folder: "RunFolder"
    bar: Bar
    count: int
    pictures: Pictures
    hints: "list[Image]"
    finished: int = 0
    drawn: int = 0

    def picture(self, pipeline: "TextToImage", request: TextToImageRequest, name: str) -> "Image":
        """The picture of that file name, drawn now or before. The request has a seed and asks for one picture."""
        self.finished += 1
        if not self.folder.is_new:
            found = self.folder.done(name, pipeline.expected(request, **self.pictures, hints=self.hints))
            if found is not None:
                return found
        self.drawn += 1
        said = f"picture {self.finished} of {self.count}"
        (picture,) = pipeline(
            request,
            lambda state: self.bar.step(said, state.step, state.num_steps),
            **self.pictures,
            hints=self.hints,
        )
        for notice in dict.fromkeys(picture.notices):
            self.bar.note(f"note: {name}: {notice}")
        self.folder.save(name, picture.to_png())
        return picture.image

    def summary(self) -> str:
        """How much of the run was there already."""
        return f"{self.count} pictures, {self.finished - self.drawn} of them were there; seed {self.folder.seed}"
