"""The work of one pipeline call: request, steps, prompts, adapters, control networks of each pass."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from gesso.checkpoints.hashing import hashes_of
from gesso.notices import Notice
from gesso.pipelines.adapters import RequestedAdapters
from gesso.pipelines.controls import Controls
from gesso.pipelines.given_tensors import NOTHING_GIVEN, GivenTensors
from gesso.pipelines.inputs import SourcePictures
from gesso.pipelines.parsed import ParsedTexts
from gesso.pipelines.prompts import EncodedPrompt
from gesso.pipelines.second_pass import UpscalerFile
from gesso.pipelines.steps import Steps
from gesso.request.recipe import ExtraFile
from gesso.request.request import ResolvedRequest


@dataclass(eq=False, kw_only=True)
class Pass:
    """One pass from noise to latents: the only one, or one of the two of hires fix.

    request     of this pass: a second pass has its own size, steps and prompts
    texts       parsed prompt and negative prompt
    steps       noise levels and timesteps
    adapters    files of LoRA and embeddings
    base_steps  steps of the pass before; 0: this is the first
    prompts     encoded prompts for the model and for its refiner, once they are encoded
    """

    request: ResolvedRequest
    texts: ParsedTexts
    steps: Steps
    adapters: RequestedAdapters
    base_steps: int = 0
    prompts: list[EncodedPrompt] = field(default_factory=list)

    @property
    def prompt_steps(self) -> int:
        """Steps over which prompts are scheduled: the whole schedule; in A1111's second pass, those that are run."""
        counts_own_steps = self.base_steps > 0 and self.request.conventions.prompt_timing == "a1111"
        return self.request.num_steps if counts_own_steps else self.steps.num_planned

    @property
    def notices(self) -> tuple[Notice, ...]:
        """Notices about its prompts, once they are encoded, and its steps."""
        return (*(self.prompts[0].notices if self.prompts else ()), *self.steps.notices)


@dataclass(frozen=True, eq=False, kw_only=True)
class Job:
    """What all pictures of one pipeline call share.

    number    of the call; events carry it
    pictures  source picture and mask
    controls  ControlNets, T2I-Adapters and IP-Adapters, in every pass
    second    the second pass; upscaler: of the picture between the two
    notices   about the files of source picture and hints
    given     tensors in place of the initial noise or of an encoded prompt
    """

    number: int
    first: Pass
    pictures: SourcePictures
    controls: Controls
    second: Pass | None = None
    upscaler: str | UpscalerFile | None = None
    notices: tuple[Notice, ...] = ()
    given: GivenTensors = NOTHING_GIVEN

    @property
    def request(self) -> ResolvedRequest:
        return self.first.request

    @property
    def passes(self) -> Sequence[Pass]:
        """The passes in order."""
        return (self.first,) if self.second is None else (self.first, self.second)

    @property
    def num_steps(self) -> int:
        """Steps of all passes."""
        return sum(each.steps.num_steps for each in self.passes)

    def files(self) -> tuple[ExtraFile, ...]:
        """The files besides the models' that the passes use, each once."""
        files = [file for each in self.passes for file in each.adapters.files()]
        files += self.controls.files()
        if isinstance(self.upscaler, UpscalerFile):
            sha256 = hashes_of(self.upscaler.path).sha256
            files.append(ExtraFile(kind="upscaler", name=self.upscaler.name, sha256=sha256))
        return tuple(dict.fromkeys(files))
