"""What one call of a pipeline has to do, found out before anything is computed."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from gesso.notices import Notice
from gesso.pipelines.adapters import Wanted
from gesso.pipelines.inputs import SourcePictures
from gesso.pipelines.parsed import ParsedTexts
from gesso.pipelines.prompts import EncodedPrompt
from gesso.pipelines.second_pass import UpscalerFile
from gesso.pipelines.steering import Controls
from gesso.pipelines.steps import Steps
from gesso.request.recipe import ExtraFile
from gesso.request.request import ResolvedRequest
from gesso.runtime.shelf import AdapterShelf


@dataclass(eq=False, kw_only=True)
class Pass:
    """One way from noise to latents.

    request     that of the pass: a second one has a size, steps and prompts of its own
    texts       prompt and negative prompt as their syntax reads them
    steps       noise levels and timesteps
    wanted      LoRA and embeddings
    base_steps  of the pass before; 0: this is the first
    prompts     for the model and for its refiner, once they are encoded
    """

    request: ResolvedRequest
    texts: ParsedTexts
    steps: Steps
    wanted: Wanted
    base_steps: int = 0
    prompts: list[EncodedPrompt] = field(default_factory=list)

    @property
    def prompt_steps(self) -> int:
        """Steps over which prompts change: the whole schedule, but in A1111's second pass those that it takes."""
        taken = self.base_steps > 0 and self.request.conventions.prompt_timing == "a1111"
        return self.request.num_steps if taken else self.steps.num_planned

    @property
    def notices(self) -> tuple[Notice, ...]:
        """What the user should know of its texts, once they are encoded, and of its steps."""
        return (*(self.prompts[0].notices if self.prompts else ()), *self.steps.notices)


@dataclass(frozen=True, eq=False, kw_only=True)
class Job:
    """All that pictures of one request have in common.

    number    of the call, by which events are told apart
    pictures  those that go in
    controls  networks that steer, in every pass
    second    the second pass, and what enlarges between the two
    notices   about the files of the pictures that go in
    """

    number: int
    first: Pass
    pictures: SourcePictures
    controls: Controls
    second: Pass | None = None
    upscaler: str | UpscalerFile | None = None
    notices: tuple[Notice, ...] = ()

    @property
    def request(self) -> ResolvedRequest:
        return self.first.request

    @property
    def passes(self) -> Sequence[Pass]:
        """In their order."""
        return (self.first,) if self.second is None else (self.first, self.second)

    @property
    def num_steps(self) -> int:
        """Steps of all passes."""
        return sum(each.steps.num_steps for each in self.passes)

    def files(self, shelf: AdapterShelf) -> tuple[ExtraFile, ...]:
        """The files besides the models' that the passes take, each once."""
        files = [file for each in self.passes for file in each.wanted.files(shelf)]
        files += self.controls.files(shelf)
        if isinstance(self.upscaler, UpscalerFile):
            sha256 = shelf.hashes(self.upscaler.path).sha256
            files.append(ExtraFile(kind="upscaler", name=self.upscaler.name, sha256=sha256))
        return tuple(dict.fromkeys(files))
